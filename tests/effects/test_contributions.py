"""Contributions against finite differences, completeness of integrated gradients, mutagenesis by hand, the command."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from conftest import write_bigwig
from small_runs import command_line, small_network, small_weights

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.config import MaskMode, Transform, Variant
from kipoi_seq2exp.effects.contributions import gradient_times_input, integrated_gradients, mutagenesis
from kipoi_seq2exp.effects.track_features import FeatureRules
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.prediction.run import predict_windows


@pytest.fixture(scope="module")
def window(tiny):
    return tiny.dataset()[2]


@pytest.fixture(scope="module")
def model(tiny):
    return small_network(tiny).eval()


def expression(model, window):
    return predict_windows(model, [window])[0].expression


def test_gradients_are_finite_differences(model, window):
    found = gradient_times_input(model, window)
    step = 0.05
    for track in range(3):
        values = window.signals.copy()
        values[1_950:2_050, track] *= 1 + step
        more = expression(model, dataclasses.replace(window, signals=values))
        values = window.signals.copy()
        values[1_950:2_050, track] *= 1 - step
        less = expression(model, dataclasses.replace(window, signals=values))
        slope = (more - less) / (2 * step)
        assert found.tracks[1_950:2_050, track].sum() == pytest.approx(slope, rel=0.05, abs=1e-4)
    assert np.abs(found.dna).max() > 0
    assert np.isnan(found.delta)


def test_integrated_gradients_add_up(model, window):
    calls = []
    found = integrated_gradients(model, window, 32, lambda: calls.append(1))
    empty = dataclasses.replace(window, onehot=window.onehot * 0, signals=window.signals * 0)
    total = expression(model, window) - expression(model, empty)
    assert found.sum - found.delta == pytest.approx(total, abs=1e-6)
    assert abs(found.delta) < 0.02 * abs(total)
    assert len(calls) == 32
    assert abs(integrated_gradients(model, window, 2).delta) > abs(found.delta)
    with pytest.raises(ConfigError, match="at least one step"):
        integrated_gradients(model, window, 0)


def by_hand(model, window, steps, mask):
    """Integrated gradients as a plain loop: the slow twin."""
    inputs = [torch.from_numpy(array)[None].float() for array in (window.onehot, window.signals)]
    features, given = torch.from_numpy(window.features)[None], {"blacklist": torch.from_numpy(window.blacklist)[None]}
    if mask is not None:
        given = {"mask": torch.from_numpy(mask)[None]}
    sums = [torch.zeros_like(values) for values in inputs]
    for step in range(steps):
        at = [((step + 0.5) / steps * values).requires_grad_() for values in inputs]
        gradients = torch.autograd.grad(model(*at, features, **given).expression.sum(), at)
        sums = [total + gradient / steps for total, gradient in zip(sums, gradients, strict=True)]
    return [(values * total)[0].double().numpy() for values, total in zip(inputs, sums, strict=True)]


TOKENS = {"token_bp": 16, "memory_bp": 4_000, "contact_pool": 2, "contact_track": 2}


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, False),
        ({"variant": Variant.HARD}, True),
        ({"variant": Variant.PLAIN}, False),
        ({"mask_mode": MaskMode.TOP}, True),
        (TOKENS, False),
        ({**TOKENS, "mask_mode": MaskMode.HARD}, True),
    ],
)
def test_contributions_equal_a_plain_loop_and_add_up(tiny, window, changes, held):
    """Where the mask is read with a threshold it is held, so that the parts add up there, too; with tokens as well."""
    model = small_network(tiny, **changes).eval()
    mask = predict_windows(model, [window])[0].mask if held else None
    dna, tracks = by_hand(model, window, 16, mask)
    found = integrated_gradients(model, window, 16)
    scale = max(np.abs(dna).max(), np.abs(tracks).max())
    np.testing.assert_allclose(found.dna, dna.sum(axis=1), atol=1e-5 * scale)
    np.testing.assert_allclose(found.tracks, tracks, atol=1e-5 * scale)
    assert found.prediction == pytest.approx(expression(model, window), abs=2e-6)
    assert abs(found.delta) < 0.05 * abs(found.prediction - found.baseline) + 1e-5
    assert np.abs(found.dna).max() > 0
    assert not model.encoder.checkpoint_layers


def test_features_computed_from_tracks_are_the_data_sets(tiny, model):
    dataset = tiny.dataset()
    rules = FeatureRules.of(dataset)
    assert [rules.names[feature.column] for feature in rules.computed] == ["PROMOTER_ACTIVITY"]
    for window in dataset:
        features, signals = (torch.from_numpy(values)[None] for values in (window.features, window.signals))
        np.testing.assert_allclose(rules.compute(features * 0, signals)[0, -1], window.features[-1], rtol=1e-5)


@pytest.mark.parametrize("transform", list(Transform))
def test_features_of_transformed_tracks_are_the_data_sets(tiny, transform):
    tracks = tuple(dataclasses.replace(track, transform=transform) for track in tiny.inputs.tracks)
    features = tuple(dataclasses.replace(feature, transform=transform) for feature in tiny.inputs.features[-1:])
    dataset = tiny.dataset(inputs=dataclasses.replace(tiny.inputs, tracks=tracks, features=features))
    window = dataset[3]
    given, signals = (torch.from_numpy(values)[None] for values in (window.features * 0, window.signals))
    np.testing.assert_allclose(FeatureRules.of(dataset).compute(given, signals)[0], window.features, rtol=1e-5)


def test_an_empty_promoter_has_no_slope_that_is_not_a_number(tiny, model):
    dataset = tiny.dataset()
    signals = dataset[2].signals.copy()
    signals[:, 1] = 0
    window = dataclasses.replace(dataset[2], signals=signals)
    found = gradient_times_input(model, window, FeatureRules.of(dataset))
    assert np.isfinite(found.tracks).all()


def test_the_parts_of_five_genes_add_up_to_prediction_minus_baseline(tiny, model):
    """DNA, tracks (through PROMOTER_ACTIVITY too) and features, against the baseline predicted by hand."""
    dataset = tiny.dataset()
    rules = FeatureRules.of(dataset)
    for row in range(5):
        window = dataset[row]
        found = integrated_gradients(model, window, 32, rules=rules)
        zeros = {"onehot": window.onehot * 0, "signals": window.signals * 0, "features": rules.baseline}
        empty = expression(model, dataclasses.replace(window, **zeros))
        total = expression(model, window) - empty
        assert found.sum == pytest.approx(total, abs=0.02 * abs(total) + 1e-4)
        assert found.baseline == pytest.approx(empty, abs=1e-5)
        assert np.abs(found.features[:-1]).max() > 0
        assert found.features[-1] == 0  # computed: its part is that of the tracks


def test_contributions_of_a_track_have_the_sign_of_what_more_of_it_does(tiny, tmp_path):
    """The whole prediction is explained: PROMOTER_ACTIVITY may turn the sign, as it does here."""
    model = small_network(tiny).eval()
    with torch.no_grad():  # the feature counts, against what the network makes of the track itself
        model.expression_head[0].weight[:, -1] = 0.2 * model.expression_head[2].weight.sum(0).sign()
        for layer in model.expression_head[::2]:
            layer.weight.abs_()
    dataset = tiny.dataset()
    rules, window = FeatureRules.of(dataset), dataset[2]
    changed = {}
    for factor in (0.98, 1.02):
        values = {chrom: array * np.float32(factor) for chrom, array in tiny.signals["dnase"].items()}
        write_bigwig(tmp_path / f"{factor}.bw", values)
        sources = {**tiny.sources, "dnase": tmp_path / f"{factor}.bw"}
        changed[factor] = expression(model, tiny.dataset(sources=sources)[2])
    slope = (changed[1.02] - changed[0.98]) / 0.04
    whole = gradient_times_input(model, window, rules).tracks[:, 1].sum()
    assert whole == pytest.approx(slope, rel=0.02)
    assert slope > 0.05
    apart = gradient_times_input(model, window).tracks[:, 1].sum()
    assert abs(apart - slope) > 0.5 * slope  # what was told before


def test_without_captum_one_sentence(tiny, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert main(command(tiny, small_weights(tiny, tmp_path), tmp_path / "o")) == 1
    said = capsys.readouterr().err.strip()
    assert said.endswith("need captum: pip install 'kipoi-seq2exp[interpret]' (in-silico mutagenesis does not).")
    assert not (tmp_path / "o").exists()


def test_unknown_bases_contribute_nothing(tiny, model):
    window = tiny.dataset()[0]  # reaches beyond the chromosome's start
    assert np.abs(gradient_times_input(model, window).dna[: -window.start]).max() == 0


@pytest.mark.parametrize("batch_size", [1, 4])
def test_mutagenesis_is_the_network_on_mutated_dna(model, window, batch_size):
    change = mutagenesis(model, window, slice(1_990, 1_994), batch_size)
    before = expression(model, window)
    for row in range(4):
        for letter in range(4):
            onehot = window.onehot.copy()
            onehot[1_990 + row] = np.eye(4, dtype=np.uint8)[letter]
            after = expression(model, dataclasses.replace(window, onehot=onehot))
            assert change[row, letter] == pytest.approx(after - before, abs=1e-7)
    assert (change == 0).sum(axis=1).min() >= 1
    assert np.abs(change).max() > 0


def test_unknown_bases_are_not_mutated(tiny, model):
    window = tiny.dataset()[1]  # chr1:9050 is an IUPAC code
    change = mutagenesis(model, window, slice(2_049, 2_052))
    assert np.isnan(change).all(axis=1).tolist() == [False, True, False]
    with pytest.raises(ConfigError, match="the region must lie in the gene's window"):
        mutagenesis(model, window, slice(3_999, 4_001))


def command(tiny, weights, output, *more):
    return command_line(tiny, weights, output, *more, command="contributions GENE01")


def test_the_command(tiny, model, tmp_path, capsys):
    weights, out = small_weights(tiny, tmp_path), tmp_path / "o"
    genes = "contributions GENE03 GENE01"
    more = ["--method", "gradient", "--plot", "svg", "--modisco", "500"]
    assert main(command_line(tiny, weights, out, *more, command=genes)) == 0
    assert "GENE01: " in capsys.readouterr().out
    dataset = tiny.dataset()
    window, rules = dataset[0], FeatureRules.of(dataset)
    with pyBigWig.open(str(out / "GENE01.dnase.bw")) as track:
        values = track.values("chr1", 0, window.end, numpy=True)
    found = gradient_times_input(model, window, rules)
    np.testing.assert_allclose(values, found.tracks[-window.start :, 1], rtol=1e-5, atol=1e-9)
    table = pd.read_csv(out / "contributions.tsv", sep="\t", comment="#").set_index("gene_id")
    assert table.index.tolist() == ["GENE03", "GENE01"]
    assert table.loc["GENE01", "dnase"] == pytest.approx(found.tracks[:, 1].sum(), rel=1e-4)
    assert table.loc["GENE01", "UTR5LEN"] == pytest.approx(found.features[0], rel=1e-4)
    assert "PROMOTER_ACTIVITY" not in table
    assert table["baseline"].isna().all()
    onehot, letters = (np.load(out / f"modisco_{name}.npz")["arr_0"] for name in ("onehot", "contributions"))
    assert onehot.shape == letters.shape == (2, 4, 500)
    np.testing.assert_array_equal(onehot[1], window.onehot[1_750:2_250].T)
    np.testing.assert_allclose((onehot * letters)[1].sum(0), found.dna[1_750:2_250], rtol=1e-5, atol=1e-9)
    picture = (out / "GENE03.contributions.svg").read_text()
    for text in ("dnase", "per base", "chr1 (Mb)", "contribution to", "gradient"):
        assert text in picture
    assert (out / "GENE01.contributions.svg").exists()


def test_weights_without_dna_owe_it_nothing_and_the_command_and_the_picture_say_so(tiny, tmp_path, capsys):
    weights, more = small_weights(tiny, tmp_path, reads_dna=False), ["--method", "gradient", "--plot", "svg"]
    assert main(command(tiny, weights, tmp_path / "o", *more)) == 0
    assert "these weights read no DNA: no base contributes to their predictions" in capsys.readouterr().out
    assert main(command(tiny, weights, tmp_path / "p", "--method", "gradient", "--modisco", "500")) == 1
    said = capsys.readouterr().err.strip()
    assert said == f"seq2exp: --modisco: {weights} reads no DNA, so that no base contributes to its predictions."
    assert not (tmp_path / "p").exists()
    picture = (tmp_path / "o" / "GENE01.contributions.svg").read_text()
    assert "nothing from: DNA" in picture
    assert "per base" not in picture  # no panel without anything in it


def test_the_command_adds_up_by_default(tiny, tmp_path, capsys):
    weights, out = small_weights(tiny, tmp_path), tmp_path / "o"
    assert main(command(tiny, weights, out, "--steps", "12")) == 0
    assert "is not explained (more --steps reduce it)" in capsys.readouterr().out
    row = pd.read_csv(out / "contributions.tsv", sep="\t", comment="#").iloc[0]
    parts = row.drop(["gene_id", "expression", "baseline"]).astype(float).sum()
    assert parts == pytest.approx(row["expression"] - row["baseline"], abs=1e-5)
    assert abs(row["not_explained"]) < 0.05 * abs(row["expression"] - row["baseline"])


def test_the_command_mutates(tiny, tmp_path, capsys):
    weights, out = small_weights(tiny, tmp_path), tmp_path / "o"
    assert main(command(tiny, weights, out, "--method", "mutagenesis", "--region", "chr1:691-694")) == 0
    assert "mutations of 4 bases change log10 expression by" in capsys.readouterr().out
    table = pd.read_csv(out / "GENE01.mutagenesis.tsv", sep="\t", comment="#")
    assert table["ref"].str.cat() == tiny.bases["chr1"][690:694].decode().upper()
    for row in table.itertuples():
        assert getattr(row, row.ref) == 0


def test_an_id_that_is_a_path_writes_inside_the_folder(tiny, tmp_path):
    genes, output = tmp_path / "genes.tsv", tmp_path / "in" / "here"
    genes.write_text(tiny.genes.read_text().replace("GENE01\t", "../../EVIL\t"))
    words = command_line(tiny, small_weights(tiny, tmp_path), output, command="contributions ../../EVIL")
    words[words.index(str(tiny.genes))] = str(genes)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*words, "--method", "mutagenesis", "--region", "chr1:691-692"]) == 0
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.parent for path in written} == {output}
    assert {path.suffix for path in written} == {".tsv", ".sqlite"}


def test_files_of_another_method_are_not_taken_for_this_ones(tiny, tmp_path, capsys):
    """The same folder for one method, another, and the first again: each leaves the files of its own."""
    weights, out = small_weights(tiny, tmp_path), tmp_path / "o"
    said = []
    for method in ("gradient", "integrated", "gradient", "gradient"):
        assert main(command(tiny, weights, out, "--method", method, "--steps", "2")) == 0
        said.append(((out / "GENE01.dnase.bw").read_bytes(), "resuming" in capsys.readouterr().out))
    (first, _), (second, _), (third, again), (_, kept) = said
    assert first == third != second
    assert not again
    assert kept


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "mutagenesis"], "needs --region"),
        (["--region", "chr1:691-694"], "or --plot, which shows its letters"),
        (["--method", "mutagenesis", "--region", "chr1"], "--region chr1 is not a region: write CHR:FIRST-LAST"),
        (["--method", "mutagenesis", "--region", "chr1:5000-5100"], "does not lie in the window of GENE01"),
        (["--method", "mutagenesis", "--region", "chr1:691-694", "--plot", "png"], "go with the methods"),
        (["--plot", "png", "--region", "chr1:100-1100", "--steps", "1"], "at most 400 letters can be read"),
        (["--modisco", "3"], "give an even number of bases"),
        (["--modisco", "4002"], "the window has 4,000 bases"),
        (["--gene-ids", "GENE02"], "named by the first arguments alone"),
    ],
)
def test_misuse_is_one_sentence(tiny, model, tmp_path, capsys, more, message):
    assert main(command(tiny, small_weights(tiny, tmp_path), tmp_path / "o", *more)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
    assert not (tmp_path / "o").exists()


def test_letters_need_logomaker(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "logomaker", None)
    assert main(command(tiny, small_weights(tiny, tmp_path), tmp_path / "o", "--plot", "png")) == 1
    assert "letters need logomaker: pip install" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
