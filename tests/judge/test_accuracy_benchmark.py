"""What the benchmark of accuracy gives the networks and the baselines, against the same by hand."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_bigwig

from kipoi_seq2exp.config import FeatureSpec, InputSpec, NetworkConfig, TrackKind, TrackSpec, Variant
from kipoi_seq2exp.data.tracks.signals import BigWigTrack
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.nn.tokens import TokenGrid

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import accuracy
import baselines
import less_input

WINDOW_BP, PROMOTER_BP, TOKEN_BP = 6_000, 200, 100
DNASE = 1


@pytest.fixture(scope="module")
def model() -> Seq2Exp:
    torch.manual_seed(0)
    tracks = [
        TrackSpec("h3k27ac"),
        TrackSpec("dnase"),
        TrackSpec("hic", kind=TrackKind.CONTACT),
    ]
    inputs = InputSpec(
        cell_type="K562", tracks=tuple(tracks), features=(), window_bp=WINDOW_BP, promoter_bp=PROMOTER_BP
    )
    config = NetworkConfig(
        window_bp=WINDOW_BP, promoter_bp=PROMOTER_BP, n_features=0, d_model=16, d_state=4, generator_layers=1,
        encoder_layers=2, token_bp=TOKEN_BP, contact_pool=2, contact_track=2,
    )  # fmt: skip
    return Seq2Exp(config, inputs).eval()


@pytest.fixture(scope="module")
def windows() -> list[Any]:
    """Five genes, the last two with DNA; DNase in two peaks a window."""
    random, found = np.random.default_rng(1), []
    for gene in range(5):
        signals = random.random((WINDOW_BP, 3)).astype(np.float32)
        signals[:, DNASE] = 0
        for start in random.integers(0, WINDOW_BP - 500, 2):
            signals[start : start + 320, DNASE] = 2.5
        bases = np.eye(4, dtype=np.uint8)[random.integers(0, 4, WINDOW_BP)]
        onehot = bases if gene >= 3 else np.zeros_like(bases)
        found.append(
            SimpleNamespace(
                onehot=onehot,
                signals=signals,
                features=np.zeros(0, np.float32),
                blacklist=np.zeros(WINDOW_BP, bool),
                gene_id=f"g{gene}",
            )
        )
    return found


class Windows(list[Any]):
    inputs = SimpleNamespace(window_bp=WINDOW_BP, track_names=("h3k27ac", "dnase", "hic"))


def predicted(
    models: list[Seq2Exp], windows: list[Any], beside: dict[str, list[Seq2Exp]] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    cell: Any = SimpleNamespace(windows=Windows(windows))
    return less_input.predict_conditions(
        models, cell, np.arange(5), np.array([len(w.onehot) and w.onehot.any() for w in windows], bool), beside
    )


def by_hand(model: Seq2Exp, window: Any, mask: np.ndarray[Any, Any] | None = None, **changes: Any) -> float:
    arrays = {name: getattr(window, name) for name in ("onehot", "signals", "features")} | changes
    with torch.inference_mode():
        given = None if mask is None else torch.from_numpy(mask.astype(np.float32))[None]
        return float(model(*(torch.from_numpy(a)[None] for a in arrays.values()), mask=given).expression[0])


def test_conditions_are_what_they_say(model: Seq2Exp, windows: list[Any]) -> None:
    found = predicted([model], windows)
    promoter = np.zeros(WINDOW_BP)
    promoter[model.promoter(WINDOW_BP)] = 1
    middle = np.abs(np.arange(WINDOW_BP) + 0.5 - WINDOW_BP / 2)
    for row, window in enumerate(windows):
        assert found["network"][row] == pytest.approx(by_hand(model, window), abs=1e-5)
        assert found["promoter alone"][row] == pytest.approx(by_hand(model, window, promoter), abs=1e-5)
        assert found["no mask"][row] == pytest.approx(by_hand(model, window, np.ones(WINDOW_BP)), abs=1e-5)
        peaks = np.repeat((window.signals[:, DNASE] > 0).reshape(-1, TOKEN_BP).mean(1) >= 0.5, TOKEN_BP)
        given = np.maximum(peaks, promoter)
        assert found[less_input.PEAKS][row] == pytest.approx(by_hand(model, window, given), abs=1e-5)
        near = window.signals.copy()
        near[middle > 1_250, :2] = 0
        near[1_700:1_800, :2] = near[4_200:4_300, :2] = 0  # tokens that the cut goes through
        bases = np.where(middle[:, None] > 1_250, 0, window.onehot).astype(np.uint8)
        by_cut = by_hand(model, window, signals=near, onehot=bases)
        assert found["window cut to 2.5 kb"][row] == pytest.approx(by_cut, abs=1e-5)
        without = window.signals.copy()
        without[:, DNASE] = 0
        assert found["dnase at zero"][row] == pytest.approx(by_hand(model, window, signals=without), abs=1e-5)
        unknown = by_hand(model, window, onehot=np.zeros_like(window.onehot))
        if window.onehot.any():
            assert found["DNA set to N"][row] == pytest.approx(unknown, abs=1e-5)
            assert abs(found["DNA shuffled"][row] - found["network"][row]) > 1e-6
        else:
            assert np.isnan(found["DNA set to N"][row])
            assert np.isnan(found["DNA shuffled"][row])


def test_networks_trained_otherwise_make_no_mask_or_are_given_the_peaks(model: Seq2Exp, windows: list[Any]) -> None:
    plain, peaks = (
        Seq2Exp(dataclasses.replace(model.config, variant=Variant(name)), model.inputs).eval()
        for name in ("plain", "peaks")
    )
    found = predicted([model], windows, {"no mask, trained": [plain], "both": [plain, peaks]})
    for row, window in enumerate(windows):
        given = (window.signals[:, DNASE] > 0).astype(np.float32)
        given[model.promoter(WINDOW_BP)] = 1
        alone, with_peaks = by_hand(plain, window), by_hand(peaks, window, given)
        assert found["no mask, trained"][row] == pytest.approx(alone, abs=1e-5)
        assert found["both"][row] == pytest.approx((alone + with_peaks) / 2, abs=1e-5)
        assert abs(with_peaks - by_hand(peaks, window, np.ones(WINDOW_BP))) > 1e-4


def test_tracks_taken_away_take_their_features_along() -> None:
    tracks = (TrackSpec("dnase"), TrackSpec("dnase_reference", stand_in="dnase"))
    names = ("STRAND", "OWN", "REFERENCE")
    read = ((), ("dnase",), ("dnase_reference",))
    features = [FeatureSpec(name, from_tracks=of) for name, of in zip(names, read, strict=True)]
    inputs = InputSpec("K562", tracks, tuple(features), window_bp=WINDOW_BP, promoter_bp=PROMOTER_BP)
    reads: Any = SimpleNamespace(inputs=inputs)
    grid = TokenGrid(WINDOW_BP, PROMOTER_BP, TOKEN_BP)
    batch = {"tracks": torch.rand(2, grid.length, 2), "features": torch.tensor([[1.0, 2.0, 3.0], [-1.0, 4.0, 5.0]])}
    zero = less_input.without_track("dnase_reference")(reads, grid, batch)
    assert not zero["tracks"][..., 1].any()
    assert torch.equal(zero["tracks"][..., 0], batch["tracks"][..., 0])
    assert zero["features"].tolist() == [[1.0, 2.0, 0.0], [-1.0, 4.0, 0.0]]
    alone = less_input.left_out("dnase_reference")(reads, grid, batch)
    assert torch.equal(alone["tracks"], batch["tracks"][..., [0, 0]])
    assert alone["features"].tolist() == [[1.0, 2.0, 2.0], [-1.0, 4.0, 4.0]]


def test_masks_of_equal_size(model: Seq2Exp, windows: list[Any]) -> None:
    grid, cell = model.grid(WINDOW_BP), Windows(windows)
    rows = [less_input.read_window(SimpleNamespace(windows=cell), row, grid, DNASE) for row in range(5)]  # type: ignore[arg-type]
    batch = less_input.collate(rows)
    own = torch.rand(5, grid.length, generator=torch.Generator().manual_seed(3))
    batch["own"] = own
    peaks, best, rotated = (
        make(grid, batch) for make in (less_input.in_peaks, less_input.best_tokens, less_input.rotated_peaks)
    )
    assert peaks.sum() > 0
    for mask in (best, rotated):
        assert mask.sum(1).tolist() == peaks.sum(1).tolist()
        assert not mask[:, grid.promoter].any()
    outside = torch.ones(grid.length, dtype=torch.bool)
    outside[grid.promoter] = False
    for row in range(5):
        kept, left = own[row][best[row] > 0], own[row][outside & (best[row] == 0)]
        assert kept.min() > left.max()
    assert not torch.equal(rotated, peaks)


def test_an_ensemble_is_the_mean_of_its_networks(model: Seq2Exp, windows: list[Any]) -> None:
    torch.manual_seed(9)
    other = Seq2Exp(model.config, model.inputs).eval()
    one, two, both = (predicted(models, windows) for models in ([model], [other], [model, other]))
    for name in one:
        np.testing.assert_allclose(both[name], (one[name] + two[name]) / 2, atol=1e-6)
    assert not np.allclose(one["network"], two["network"])


def test_features_of_the_baselines_are_means_of_the_track(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    values = np.repeat(random.random(300) * (random.random(300) < 0.5), 200).astype(np.float32)
    write_bigwig(tmp_path / "t.bw", {"chr1": values})
    track = BigWigTrack(tmp_path / "t.bw", TrackSpec("dnase"))
    genes = pd.DataFrame({"chrom": ["chr1"] * 3, "tss": [30_000, 31_111, 9_000], "strand": ["+", "-", "+"]})
    half = 20_000
    windows = SimpleNamespace(
        inputs=SimpleNamespace(window_bp=2 * half, tracks=[TrackSpec("dnase")]), tracks={"dnase": track}
    )
    cell: Any = SimpleNamespace(windows=windows, genes=genes)
    found = baselines.promoter_and_bins(cell)
    for row, (chrom, tss, strand) in enumerate(genes.itertuples(index=False)):
        window = track.values(chrom, tss - half, tss + half).astype(np.float64)
        flanks = [window[half - flank : half + flank].mean() for flank in baselines.FLANKS_BP]
        bins = window.reshape(-1, baselines.BIN_BP).mean(1)
        expected = np.log1p([*flanks, *(bins[::-1] if strand == "-" else bins)])
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-7)


def test_every_column_is_compared_with_the_chosen_ones_and_shown() -> None:
    random = np.random.default_rng(0)
    observed = random.random(40)
    names = ("network", "boosting, P and bins", "no mask, trained")
    table = pd.DataFrame({"gene_id": np.arange(40).astype(str), "chrom": "chr1", "tss": np.arange(40) * 500_000})
    table = table.assign(dna_known=0.0, observed=observed)
    for error, name in enumerate(names, 1):
        table[name] = observed + error * random.normal(size=40)
    against = {"minus_network": names[0], "minus_boosting": names[1], "minus_beside": names[2]}
    found = accuracy.judged(table, against)
    rows = found["all"]["rows"]
    for key, other in against.items():
        for name in names:
            wanted = rows[name]["mse"][0] - rows[other]["mse"][0]
            assert rows[name][key][0] == pytest.approx(wanted, abs=2e-4)
    lines = accuracy.tables_of(found, dict.fromkeys(against, "MSE minus that of another"))
    assert lines[2].count("MSE minus that of another") == 3
    assert {line.count("|") for line in lines[2:-1]} == {7}
