"""What tracks look like over genes: noted at training, compared at prediction."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import GENES, LENGTHS, write_bigwig
from small_runs import command_line, small_network
from training_runs import run_settings

from kipoi_seq2exp import cli, load_model, save_model
from kipoi_seq2exp.config import RANGE_LEVELS, TrackRange
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.track_ranges import expected_medians, far_tracks, noted_ranges
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.settings import from_mapping, to_mapping
from kipoi_seq2exp.training.config import training_config
from kipoi_seq2exp.training.data import LabelledWindows, open_cells, with_track_ranges


@pytest.fixture(scope="module")
def noted(tiny):
    """Inputs of the tiny genome with the ranges of its tracks."""
    dataset = tiny.dataset()
    places = [(dataset, row) for row in range(len(GENES))]
    return replace(tiny.inputs, tracks=noted_ranges(tiny.inputs.tracks, places, tiny.inputs.window_bp))


@pytest.fixture(scope="module")
def louder(tiny, tmp_path_factory):
    """The DNase of the tiny genome in another unit: 100 times as high."""
    path = tmp_path_factory.mktemp("louder") / "dnase.bw"
    write_bigwig(path, {chrom: 100 * values for chrom, values in tiny.signals["dnase"].items()})
    return path


def test_ranges_are_quantiles_over_genes_of_what_the_windows_hold(tiny, noted):
    tracks = {spec.name: spec for spec in noted.tracks}
    assert tracks["hic"].training is None
    windows = [tiny.dataset()[row].signals[:, 1] for row in range(len(GENES))]
    covered = [np.mean(window > 0) for window in windows]
    height = [window[window > 0].mean() for window in windows]
    np.testing.assert_allclose(tracks["dnase"].training.covered, np.quantile(covered, RANGE_LEVELS), rtol=1e-5)
    np.testing.assert_allclose(tracks["dnase"].training.height, np.quantile(height, RANGE_LEVELS), rtol=1e-5)


def test_the_genes_of_the_training_look_like_themselves_and_old_weights_say_nothing(tiny, noted, louder):
    assert far_tracks(tiny.dataset(inputs=noted)) == []
    assert far_tracks(tiny.dataset(sources={**tiny.sources, "dnase": louder})) == []


def test_another_unit_is_told_with_both_numbers(tiny, noted, louder):
    (sentence,) = far_tracks(tiny.dataset(inputs=noted, sources={**tiny.sources, "dnase": louder}))
    level = noted.tracks[1].training.height[RANGE_LEVELS.index(0.5)]
    assert f"track 'dnase' ({louder}) looks unlike" in sentence
    assert f"{100 * level:.3g}; of the training genes: {level:.3g}" in sentence


def test_a_track_that_another_stands_in_for_is_not_compared(tiny, noted, louder):
    tracks = (noted.tracks[0], replace(noted.tracks[1], stand_in="h3k27ac"), noted.tracks[2])
    inputs = replace(noted, tracks=(replace(tracks[0], training=None), *tracks[1:]))
    assert far_tracks(tiny.dataset(inputs=inputs, sources={"h3k27ac": louder, "hic": "powerlaw"})) == []
    assert far_tracks(tiny.dataset(inputs=inputs, sources={**tiny.sources, "dnase": louder}))


def test_a_range_is_of_the_data_sets_that_have_a_file_of_their_own(tiny, louder):
    tracks = (tiny.inputs.tracks[0], replace(tiny.inputs.tracks[1], stand_in="h3k27ac"), tiny.inputs.tracks[2])
    inputs = replace(tiny.inputs, tracks=tracks)
    own = tiny.dataset(inputs=inputs, sources={**tiny.sources, "dnase": louder})
    without = tiny.dataset(inputs=inputs, sources={"h3k27ac": tiny.tracks["h3k27ac"], "hic": "powerlaw"})
    places = {cell: [(cell, row) for row in range(len(GENES))] for cell in (own, without)}
    noted = noted_ranges(tracks, [*places[without], *places[own]], inputs.window_bp)
    alone = noted_ranges(tracks, places[own], inputs.window_bp)
    assert noted[1].training == alone[1].training
    assert noted_ranges(tracks, places[without], inputs.window_bp)[1].training is None


def test_a_single_gene_of_the_training_is_never_far(tiny, noted):
    """The outermost gene lies outside the middle 98 %, as does one in fifty of all."""
    for gene in GENES:
        assert far_tracks(tiny.dataset(inputs=noted, gene_ids=[gene[0]])) == []


def test_bounds_of_a_median_are_those_of_chance():
    """Medians of 20 values lie outside before the factor for other laboratories about as often as said."""
    levels = np.array(RANGE_LEVELS)
    quantiles = 10 ** (2 * levels)  # of values 10 ** (2 u), u uniform
    widths = []
    for genes in (20, 64, 400):
        low, high = expected_medians(tuple(quantiles), genes)
        assert low < 10 < high
        widths.append(high / low)
    assert widths == sorted(widths, reverse=True)
    medians = np.median(10 ** (2 * np.random.default_rng(0).random((20_000, 20))), axis=1)
    low, high = expected_medians(tuple(quantiles), 20)
    assert np.mean((medians < low) | (medians > high)) < 5e-4
    assert expected_medians(tuple(quantiles), 1) == (quantiles[0] / 2, quantiles[-1] * 2)


@pytest.mark.parametrize("cell", ["K562", "GM12878"])
def test_real_tracks_of_two_cell_types_are_told_when_they_are_swapped(cell, real_data):
    """20 genes of the test chromosomes, and each alone, with the served weights; GM12878 has two marks less."""
    folder = real_data / "hg19"
    genes = pd.read_csv(folder / "genes.tsv", sep="\t").query("split == 'test'").iloc[::55].iloc[:20]
    signals = [name for name in ("h3k27ac", "dnase", "h3k4me3", "h3k4me1") if (folder / f"{cell}.{name}.bw").is_file()]
    sources = {name: str(folder / f"{cell}.{name}.bw") for name in signals} | {"hic": "powerlaw"}
    inputs = load_model(cell).inputs
    files = genes, folder / "hg19.parts.fa.gz"

    def far(sources, ids):
        with WindowDataset(inputs, *files, sources, None, "mean", list(ids)) as dataset:
            return far_tracks(dataset)

    assert far(sources, genes["gene_id"]) == []
    assert [far(sources, [gene_id]) for gene_id in genes["gene_id"]].count([]) >= 19
    swapped = {**sources, "h3k27ac": sources["dnase"], "dnase": sources["h3k27ac"]}
    assert any("track 'dnase'" in sentence for sentence in far(swapped, genes["gene_id"]))


def test_peaks_in_place_of_coverage_are_told(tiny, noted, tmp_path):
    peaks = {chrom: np.where(np.arange(length) % 500 < 20, 1, 0) for chrom, length in LENGTHS.items()}
    write_bigwig(tmp_path / "peaks.bw", {chrom: values.astype(np.float32) for chrom, values in peaks.items()})
    sentences = far_tracks(tiny.dataset(inputs=noted, sources={**tiny.sources, "h3k27ac": tmp_path / "peaks.bw"}))
    assert any("share of a window with any signal" in sentence and "4.00%" in sentence for sentence in sentences)


def test_training_notes_the_ranges_of_its_genes(tiny):
    config = training_config(run_settings(tiny, augment={"max_shift_bp": 20}), "run")
    windows = LabelledWindows(open_cells(config), "train", config)
    inputs = with_track_ranges(config.inputs, windows)
    dataset = tiny.dataset(inputs=config.inputs)
    rows = {str(gene_id): row for row, gene_id in enumerate(dataset.genes["gene_id"])}
    places = [(dataset, rows[windows[place]["gene_id"]]) for place in range(len(windows))]
    assert inputs.tracks == noted_ranges(config.inputs.tracks, places, config.inputs.window_bp)
    assert from_mapping(type(inputs), to_mapping(inputs), "inputs") == inputs


def test_a_range_of_the_wrong_length_or_order_is_refused():
    rising = tuple(np.linspace(0, 1, len(RANGE_LEVELS)))
    for wrong in (rising[:-1], rising[::-1], (float("nan"), *rising[1:])):
        with pytest.raises(ConfigError, match="must hold 7 rising quantiles"):
            TrackRange(rising, wrong)


def test_predict_warns_of_tracks_and_of_filled_features(tiny, noted, louder, tmp_path, caplog):
    network = small_network(tiny)
    features = tuple(replace(feature, mean=0.5) for feature in noted.features)
    network.inputs = replace(network.inputs, tracks=noted.tracks, features=features)
    save_model(network, tmp_path / "noted.safetensors")
    other = replace(tiny, tracks={**tiny.tracks, "dnase": louder}, genes=tiny.bed)
    with caplog.at_level(logging.WARNING):
        words = command_line(other, tmp_path / "noted.safetensors", tmp_path / "out", "--missing-features", "mean")
        assert cli.main(words) == 0
    assert "track 'dnase'" in caplog.text
    assert "8 of 9 gene features filled by means" in caplog.text
