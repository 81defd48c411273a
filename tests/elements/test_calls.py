"""Calls: what a slow loop over the bases says, the promoter, thresholds, and where calls lie on the genome."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.elements.calls import COLUMNS, CallSettings, call_elements, join_elements, place_all, place_elements
from kipoi_seq2exp.errors import ConfigError, ShapeError

PROMOTER = slice(40, 60)
EVERY_BASE = CallSettings(0.5, min_length_bp=1, merge_gap_bp=0)


def slow_calls(mask, promoter, settings):
    """Return the calls of a threshold, base by base."""
    called = [i for i in range(len(mask)) if mask[i] >= settings.threshold and not promoter.start <= i < promoter.stop]
    runs: list[list[int]] = []
    for base in called:
        near = runs and base - runs[-1][1] <= settings.merge_gap_bp
        across = runs and runs[-1][1] <= promoter.start and base >= promoter.stop
        if near and not across:
            runs[-1][1] = base + 1
        else:
            runs.append([base, base + 1])
    return [(s, e, mask[s:e].mean(), mask[s:e].max()) for s, e in runs if e - s >= settings.min_length_bp]


@pytest.mark.parametrize("gap", [0, 1, 3, 30])
@pytest.mark.parametrize("least", [1, 2, 7])
@pytest.mark.parametrize("seed", range(4))
def test_calls_equal_the_slow_twin(gap, least, seed):
    random = np.random.default_rng(seed)
    mask = np.repeat(random.random(50), 2).astype(np.float32)
    mask[random.random(100) < 0.1] = 0
    mask[PROMOTER] = 1
    settings = CallSettings(0.6, min_length_bp=least, merge_gap_bp=gap)
    calls, slow = call_elements(mask, PROMOTER, settings), slow_calls(mask.astype(np.float64), PROMOTER, settings)
    assert list(zip(calls.start, calls.end, strict=True)) == [row[:2] for row in slow]
    np.testing.assert_allclose(calls.mean, [row[2] for row in slow])
    np.testing.assert_allclose(calls.max, [row[3] for row in slow])


@pytest.mark.parametrize("gap", [0, 1_000])
def test_the_promoter_is_never_called_nor_bridged(gap):
    calls = call_elements(np.ones(100), PROMOTER, CallSettings(0.5, min_length_bp=1, merge_gap_bp=gap))
    assert list(zip(calls.start, calls.end, strict=True)) == [(0, 40), (60, 100)]


def test_ends_of_the_window_are_called():
    mask = np.zeros(100)
    mask[[0, 99]] = 0.9
    calls = call_elements(mask, PROMOTER, EVERY_BASE)
    assert calls.end.tolist() == [1, 100]
    np.testing.assert_allclose(calls.mean, 0.9)


def test_nothing_reached_gives_no_calls():
    calls = call_elements(np.full(100, 0.2), PROMOTER, CallSettings(0.5))
    assert len(calls) == 0
    assert calls.mean.shape == (0,)


def test_top_fraction_keeps_that_many_bases_outside_the_promoter():
    mask = np.random.default_rng(0).random(10_000)
    promoter = slice(4_000, 6_000)
    calls = call_elements(mask, promoter, CallSettings(top_fraction=0.05, min_length_bp=1, merge_gap_bp=0))
    assert (calls.end - calls.start).sum() == 400
    assert calls.threshold == np.sort(np.delete(mask, np.r_[promoter]))[-400]


@pytest.mark.parametrize("seed", range(5))
def test_the_top_fraction_counts_what_is_called_after_gaps_were_joined_and_short_calls_dropped(seed):
    random = np.random.default_rng(seed)
    mask = np.repeat(random.random(2_000), 100).astype(np.float32) ** 3  # noise: every second gap would be joined
    calls = call_elements(mask, slice(99_000, 101_000), CallSettings(top_fraction=0.05))
    called = calls.bases(mask.size)
    assert 0.049 < called.sum() / (mask.size - 2_000) <= 0.05
    lower = np.unique(mask)[np.unique(mask).searchsorted(np.float32(calls.threshold)) - 1]
    more = call_elements(mask, slice(99_000, 101_000), CallSettings(float(lower)))
    assert more.bases(mask.size).sum() > 0.05 * (mask.size - 2_000)


def test_the_top_fraction_leaves_a_window_in_which_nothing_stands_out_alone():
    flat = (0.108 + 0.004 * np.random.default_rng(0).random(10_000)).astype(np.float32)
    promoter = slice(4_900, 5_100)
    assert len(call_elements(flat, promoter, CallSettings())) == 0
    flat[1_000:1_200] = 0.3
    calls = call_elements(flat, promoter, CallSettings())
    assert list(zip(calls.start, calls.end, strict=True)) == [(1_000, 1_200)]


def test_bases_that_share_the_highest_mask_are_called_together():
    mask = np.zeros(1_000)
    mask[:300] = 1
    calls = call_elements(mask, slice(450, 550), CallSettings(top_fraction=0.05))
    assert list(zip(calls.start, calls.end, strict=True)) == [(0, 300)]


def test_top_fraction_never_calls_a_base_of_mask_zero():
    mask = np.zeros(100)
    mask[10:13] = 0.1
    calls = call_elements(mask, PROMOTER, CallSettings(top_fraction=0.5, min_length_bp=1, merge_gap_bp=0))
    assert list(zip(calls.start, calls.end, strict=True)) == [(10, 13)]


def test_top_fraction_of_less_than_a_base_calls_none():
    assert len(call_elements(np.ones(100), PROMOTER, CallSettings(top_fraction=0.001, min_length_bp=1))) == 0


@pytest.mark.parametrize(("strand", "distances"), [("+", [-35, 15]), ("-", [35, -15])])
def test_elements_lie_on_the_genome_with_distances_along_the_gene(strand, distances):
    mask = np.zeros(100)
    mask[10:20], mask[60:70] = 0.5, 1.0
    calls = call_elements(mask, slice(49, 51), EVERY_BASE)
    table = place_elements(calls, Locus("G", "chr1", 950, 1_050, 1_000, strand))
    assert tuple(table.columns) == COLUMNS
    assert table["start"].tolist() == [960, 1_010]
    assert table["distance_to_tss"].tolist() == distances
    assert table["score"].tolist() == [500, 1_000]
    assert table["gene_id"].tolist() == ["G", "G"]


def test_joined_elements_are_sorted_and_may_be_none():
    calls = call_elements(np.ones(100), PROMOTER, EVERY_BASE)
    late, early = (
        place_elements(calls, Locus(gene, chrom, start, start + 100, start + 50, "+"))
        for gene, chrom, start in (("B", "chr2", 0), ("A", "chr1", 500))
    )
    joined = join_elements([late, early])
    assert joined["gene_id"].tolist() == ["A", "A", "B", "B"]
    assert joined.index.tolist() == [0, 1, 2, 3]
    assert tuple(join_elements([late.iloc[:0]]).columns) == COLUMNS


def test_elements_of_many_genes_make_the_table_of_each():
    masks = np.random.default_rng(0).random((3, 100))
    masks[1] = 0  # a gene without any
    loci = [Locus(f"G{i}", f"chr{i}", 500 * i, 500 * i + 100, 500 * i + 50, "-+-"[i]) for i in range(3)]
    found = [(call_elements(mask, PROMOTER, EVERY_BASE), locus) for mask, locus in zip(masks, loci, strict=True)]
    single = pd.concat([place_elements(*one) for one in found], ignore_index=True)
    pd.testing.assert_frame_equal(place_all(found), single)
    pd.testing.assert_frame_equal(place_all([]), single.iloc[:0])


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 0},
        {"threshold": 1.2},
        {"threshold": float("nan")},
        {"top_fraction": 1.0},
        {"top_fraction": 0.0},
        {"min_length_bp": 0},
        {"merge_gap_bp": -1},
    ],
)
def test_wrong_settings_are_named(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        CallSettings(**fields)


@pytest.mark.parametrize("mask", [np.full(100, np.nan), np.ones((2, 100))])
def test_a_mask_that_is_none_is_refused(mask):
    with pytest.raises(ShapeError, match="one finite number for each base"):
        call_elements(mask, PROMOTER, CallSettings())
