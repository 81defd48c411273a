"""Windows for training: order, shifts and strands follow from seed and position alone."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import write_bigwig
from training_runs import run_settings

from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.training.config import training_config
from kipoi_seq2exp.training.data import (
    Draw,
    LabelledWindows,
    StandIns,
    StreamSampler,
    collate,
    crop,
    feature_table,
    open_cells,
    reverse_complement,
    train_loader,
    warn_constant_tracks,
)


def opened(tiny, part="train", **changes):
    config = training_config(run_settings(tiny, **changes), "run")
    return LabelledWindows(open_cells(config), part, config), config


def test_parts_hold_the_genes_of_their_regions(tiny):
    ids = {part: [w["gene_id"] for w in opened(tiny, part)[0]] for part in ("train", "validation", "test")}
    assert ids == {
        "train": ["GENE01", "GENE02", "GENE03", "GENE05"],
        "validation": ["GENE04"],
        "test": ["GENE06", "GENE07"],
    }


def test_without_augmentation_a_window_is_the_dataset_s_own(tiny):
    windows, _ = opened(tiny)
    plain = tiny.dataset(inputs=dataclasses.replace(tiny.inputs, window_bp=800))[1]
    found = windows[1]
    for name in ("onehot", "signals", "features", "blacklist"):
        np.testing.assert_array_equal(found[name], getattr(plain, name))
    assert found["label"] == pytest.approx(float(tiny.dataset().genes["label"].iloc[1]))


def test_a_shift_moves_all_arrays_together_and_the_label_stays(tiny):
    windows, config = opened(tiny, augment={"max_shift_bp": 20})
    whole = windows.read(2)
    shifts = set()
    for position in range(200):
        found = windows[Draw(2, position)]
        assert len(found["onehot"]) == config.window_bp
        start = next(
            i for i in range(41) if np.array_equal(found["signals"], whole["signals"][i : i + config.window_bp])
        )
        np.testing.assert_array_equal(found["onehot"], whole["onehot"][start : start + config.window_bp])
        shifts.add(start)
        assert found["label"] == whole["label"]
    assert min(shifts) < 4
    assert max(shifts) > 36


def test_reverse_complement_twice_is_identity_and_swaps_bases(tiny):
    window = opened(tiny)[0][0]
    turned = reverse_complement(window)
    np.testing.assert_array_equal(turned["onehot"][0], window["onehot"][-1][[3, 2, 1, 0]])
    np.testing.assert_array_equal(turned["signals"][0], window["signals"][-1])
    for name, value in reverse_complement(turned).items():
        np.testing.assert_array_equal(value, window[name])


def test_reverse_complement_happens_as_often_as_asked(tiny):
    windows, _ = opened(tiny, augment={"reverse_complement": 0.25})
    plain = windows[1]["onehot"]
    turned = sum(not np.array_equal(windows[Draw(1, position)]["onehot"], plain) for position in range(400))
    assert 70 < turned < 130


def with_reference(tiny, **changes):
    """Settings of a run that reads a second DNase track, which the first may stand in for, and both at the TSS."""
    inputs = run_settings(tiny)["inputs"]
    tracks = [*inputs["tracks"], {"name": "reference", "stand_in": "dnase", "unit": "reads"}]
    features = [{"name": f"AT_{name}", "from_tracks": [name]} for name in ("dnase", "reference")]
    network = {"prior_weights": [2.0, 2.0, 1.0, -20.0], "signal_betas": [1.5, 0.2, 1.0, 1.0]}
    sources = {"h3k27ac": "h3k27ac.bw", "dnase": "dnase.bw", "hic": "powerlaw", "reference": "h3k27ac.bw"}
    return {
        "inputs": {**inputs, "tracks": tracks, "features": features},
        "network": {**run_settings(tiny)["network"], **network},
        "data__0__sources": sources,
        **changes,
    }


def test_stand_ins_replace_tracks_and_their_features_as_often_as_asked(tiny):
    windows, _ = opened(tiny, **with_reference(tiny, augment={"stand_in": 0.25}))
    replaced = 0
    for position in range(400):
        found = windows[Draw(1, position)]
        as_is = windows[1]
        same = np.array_equal(found["signals"][:, 3], as_is["signals"][:, 1])
        assert same or np.array_equal(found["signals"][:, 3], as_is["signals"][:, 3])
        np.testing.assert_array_equal(found["signals"][:, :3], as_is["signals"][:, :3])
        assert found["features"].tolist() == [as_is["features"][0], as_is["features"][0 if same else 1]]
        replaced += same
    assert 70 < replaced < 130
    assert not np.array_equal(windows[1]["signals"][:, 3], windows[1]["signals"][:, 1]), "as it is: not replaced"


def test_any_number_of_tracks_is_left_out_and_those_of_one_feature_together(tiny):
    spec = opened(tiny, **with_reference(tiny))[0].cells[0].windows.inputs
    own, other = spec.tracks[1], spec.tracks[3]
    names = ("a", "b", "c")
    tracks = (*spec.tracks[:3], *(dataclasses.replace(other, name=name, stand_in=own.name) for name in names))
    made = [dataclasses.replace(spec.features[0], name=name, from_tracks=(name,)) for name in (own.name, "a", "b", "c")]
    pairs = [
        dataclasses.replace(made[0], name=f"both {x}", from_tracks=(x, y)) for x, y in (("b", "c"), ("dnase",) * 2)
    ]
    stands = StandIns.of(dataclasses.replace(spec, tracks=tracks, features=(*made, *pairs)))
    rng = np.random.default_rng(0)
    drawn = Counter((tuple(tracks), tuple(features)) for tracks, features in (stands.draw(rng) for _ in range(400)))
    a, b_and_c, none_of_both = (0, 1, 2, 1, 4, 5), (0, 1, 2, 3, 1, 1), (0, 1, 2, 1, 1, 1)
    assert {tracks for tracks, _ in drawn} == {a, b_and_c, none_of_both}
    assert {features for tracks, features in drawn if tracks == a} == {(0, 0, 2, 3, 4, 5)}
    assert {features for tracks, features in drawn if tracks == b_and_c} == {(0, 1, 0, 0, 5, 5)}
    assert 160 < sum(number for (tracks, _), number in drawn.items() if tracks == none_of_both) < 240


def test_a_feature_without_a_counterpart_of_the_stand_in_is_named(tiny):
    changes = with_reference(tiny)
    changes["inputs"]["features"] = changes["inputs"]["features"][1:]
    with pytest.raises(ConfigError, match="'AT_reference' is computed from reference: list one that is computed alike"):
        opened(tiny, **changes, augment={"stand_in": 0.25})
    opened(tiny, **changes)  # never replaced, nothing to find


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_stream_is_the_same_for_any_number_of_processes_and_epochs(world):
    whole = list(StreamSampler(7, 40, seed=5))
    parts = []
    for epoch in range(2):
        samplers = [StreamSampler(7, 20, 5, rank, world) for rank in range(world)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
            assert len(sampler) == 20 // world
        parts += [draw for sampler in samplers for draw in sampler]
    assert sorted(parts, key=lambda draw: draw.position) == whole
    assert sorted(draw.row for draw in whole[:7]) == list(range(7))
    assert [draw.row for draw in whole[:7]] != [draw.row for draw in whole[7:14]]
    assert [draw.row for draw in StreamSampler(7, 40, seed=6)] != [draw.row for draw in whole]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_workers(tiny, workers):
    windows, config = opened(tiny, run__workers=workers)
    plain, settings = opened(tiny)
    for found, wanted in zip(train_loader(windows, config), train_loader(plain, settings), strict=True):
        assert found["gene_id"] == wanted["gene_id"]
        for name in ("onehot", "signals", "features", "blacklist", "label"):
            assert torch.equal(found[name], wanted[name])
        assert found["label"].shape == (2,)


def test_the_cache_changes_nothing(tiny):
    cached, _ = opened(tiny, run__cache=True)
    read, _ = opened(tiny, run__cache=False)
    for _ in range(2):
        for name, value in cached[Draw(1, 9)].items():
            np.testing.assert_array_equal(value, read[Draw(1, 9)][name])
    assert not read.cells[0].kept


def test_several_cell_types_train_together(tiny):
    one = run_settings(tiny)
    both = training_config({**one, "data": [one["data"][0], one["data"][0]], "augment": {}}, "run")
    windows = LabelledWindows(open_cells(both), "train", both)
    assert len(windows) == 8
    assert feature_table(windows).shape == (8, 9)
    np.testing.assert_array_equal(windows[0]["onehot"], windows[4]["onehot"])


def test_windows_that_leak_are_refused_unless_allowed(tiny, caplog):
    leak = {"scheme": "region", "validation": ["chr1:30000-60000"], "test": ["chr2:14000-16000"]}
    changes = {"inputs__window_bp": 14_000, "train_window_bp": None, "split": leak}
    with pytest.raises(InputError, match="overlap a window of another split"):
        opened(tiny, **changes)
    with caplog.at_level(logging.WARNING):
        opened(tiny, **{**changes, "split": {**leak, "allow_overlap": True}})
    assert "as split.allow_overlap permits" in caplog.text


def test_an_empty_split_is_refused(tiny):
    with pytest.raises(InputError, match=re.escape("the validation split holds no gene (train 5, validation 0")):
        opened(tiny, split__validation=[])
    assert len(opened(tiny, "validation", split__validation=[], run__keep="last")[0]) == 0


def test_a_constant_track_is_named(tiny, caplog):
    windows, config = opened(tiny)
    with caplog.at_level(logging.WARNING):
        assert warn_constant_tracks(windows, config.inputs) == ["hic"]  # the power law is flat within 5 kb
    assert "the track 'hic' has the same value over all 4 genes" in caplog.text


def test_peaks_in_a_bigwig_are_those_of_the_bed(tiny, tmp_path):
    rows = [line.split("\t")[:3] for line in tiny.peaks.read_text().splitlines() if line.strip()]
    values = {chrom: np.zeros(len(bases), dtype=np.float32) for chrom, bases in tiny.bases.items()}
    for chrom, start, end in rows:
        values[chrom][int(start) : int(end)] = 5
    write_bigwig(tmp_path / "peaks.bw", values)
    changes = {"network__variant": "peaks", "inputs__window_bp": 2_000, "train_window_bp": None}
    bed, bigwig = (opened(tiny, data__0__peaks=str(path), **changes)[0] for path in (tiny.peaks, tmp_path / "peaks.bw"))
    assert any(bed[row]["peaks"].any() for row in range(len(bed)))
    for row in range(len(bed)):
        np.testing.assert_array_equal(bed[row]["peaks"], bigwig[row]["peaks"])


def test_peaks_become_the_mask_of_the_window(tiny):
    windows, _ = opened(tiny, data__0__peaks=str(tiny.peaks), network__variant="peaks", train_window_bp=None)
    window = windows[2]
    assert window["peaks"].sum() == 0  # 600 to 900 bp from the TSS: beyond the window of 1,200 bp
    windows, _ = opened(
        tiny, data__0__peaks=str(tiny.peaks), network__variant="peaks", inputs__window_bp=2_000, train_window_bp=None
    )
    assert np.flatnonzero(windows[2]["peaks"]).tolist() == list(range(1_600, 1_900))
    assert crop(windows[2], 100, 50)["peaks"].shape == (50,)
    assert collate([windows[2]])["peaks"].dtype == torch.bool
