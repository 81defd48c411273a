"""Every config of the repository can be read, and says what its name promises."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kipoi_seq2exp.config import MaskMode, NetworkConfig, Variant
from kipoi_seq2exp.nn.authors import PUBLISHED_HARD, config_from_published
from kipoi_seq2exp.training.config import Start, read_training_config
from kipoi_seq2exp.training.data import LabelledWindows, open_cells
from kipoi_seq2exp.training.sections import AugmentConfig, Layout, Learns, OptimiserConfig, Scheme
from kipoi_seq2exp.zoo.models import load_model

FOLDER = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPER = [name for name in NAMES if name.startswith("paper_")]


def read(name, root="/data"):
    served = {"start": "K562"} if name == "human_head" else {}  # in place of a run's weights, which are not here
    return read_training_config(FOLDER / f"{name}.yaml", None if name == "example" else root, served)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_named_as_its_file(name):
    assert read(name).name == name


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_keep_the_published_settings(name):
    config = read(name)
    assert config.optimiser == OptimiserConfig()
    assert config.augment == AugmentConfig()
    assert config.start == Start.RANDOM.value
    assert (config.split.scheme, config.split.fold) == (Scheme.FOLD, "11")
    assert config.window_bp == config.network.window_bp == 200_000
    assert (config.network.d_model, config.network.encoder_layers, config.network.n_features) == (128, 4, 9)
    assert config.data[0].layout is Layout.PUBLISHED
    assert config.data[0].cell_type.lower() == name.split("_")[1]


@pytest.mark.parametrize("cell", ["k562", "gm12878"])
def test_the_paper_s_table_is_complete(cell):
    found = {name.removeprefix(f"paper_{cell}_"): read(name).network for name in PAPER if f"_{cell}_" in name}
    assert {name: network.variant for name, network in found.items()} == {
        "soft": Variant.SOFT,
        "hard": Variant.HARD,
        "caduceus": Variant.PLAIN,
        "caduceus_signals": Variant.PLAIN,
        "macs3": Variant.PEAKS,
        "top10": Variant.PEAKS,
    }
    assert found["soft"] == NetworkConfig()
    assert (found["caduceus"].n_tracks, found["caduceus_signals"].n_tracks) == (0, 3)
    assert read(f"paper_{cell}_top10").mask_from == f"runs/paper_{cell}_soft/best.safetensors"


def test_the_hard_config_is_the_published_hard_network():
    hard = read("paper_k562_hard").network
    assert not hard.straight_through
    assert hard.mask_mode is MaskMode.HARD
    assert hard == config_from_published(PUBLISHED_HARD)


def test_the_served_recipe_is_ours_and_holds_out_the_papers_fold():
    config = read("human")
    assert [data.cell_type for data in config.data] == ["K562", "GM12878"]
    network = config.network
    assert (network.token_bp, network.encoder_bp, network.contact_pool, network.strand_feature) == (100, 40_000, 4, 0)
    assert (config.members, network.reads_dna, config.augment.stand_in) == (2, False, 0.25)
    assert config.inputs.track_names[network.contact_track] == "hic"
    assert config.inputs.feature_names[0] == "STRAND"
    assert all(feature.from_tracks for feature in config.inputs.features[1:])
    stand_ins = {track.name: track.stand_in for track in config.inputs.tracks if track.stand_in}
    assert stand_ins == {"h3k27ac_reference": "h3k27ac", "dnase_reference": "dnase"}
    assert network.prior_weights[-2:] == (-20.0, -20.0), "a reference is no evidence of this cell type's elements"
    assert (config.split.scheme, config.split.column) == (Scheme.COLUMN, "split")


def test_the_second_stage_reads_the_same_genes_and_two_more_tracks():
    first, second = read("human"), read("human_head")
    assert second.optimiser.learns is Learns.HEAD
    assert second.network.spans_bp == (500, 2_000, 5_000, 20_000, 100_000)
    assert (second.split, second.members, second.seed) == (first.split, first.members, first.seed)
    assert [(data.genes, data.label) for data in second.data] == [(data.genes, data.label) for data in first.data]
    assert second.inputs.tracks[:3] == first.inputs.tracks[:3]
    assert second.inputs.features[:9] == first.inputs.features
    optional = {track.name: track.stand_in for track in second.inputs.tracks if track.stand_in}
    marks = {"h3k4me3": "h3k27ac", "h3k4me1": "h3k27ac"}
    assert optional == {"h3k27ac_reference": "h3k27ac", "dnase_reference": "dnase", **marks}
    served = load_model("K562", "cpu")
    evidence = {name: getattr(served.config, name) for name in ("prior_weights", "signal_betas")}  # as stage one has it
    assert dataclasses.replace(served.config, members=1) == dataclasses.replace(second.network, **evidence)
    assert [f.name for f in served.inputs.features] == [f.name for f in second.inputs.features]


@pytest.mark.parametrize(("name", "tracks"), [("human", 5), ("human_head", 7)])
def test_the_served_recipes_open_the_real_data(real_data, name, tracks):
    config = read(name, real_data)
    cells = open_cells(config)
    sizes = {part: len(LabelledWindows(cells, part, config)) for part in ("train", "validation", "test")}
    assert sizes == {"train": 2 * 15_714, "validation": 2 * 1_192, "test": 2 * 1_115}
    window = LabelledWindows(cells, "test", config)[0]
    assert window["tracks"].shape == (2_000, tracks)
    assert window["tracks"].min() >= 0
    for cell in cells:
        cell.windows.close()
