"""Every config of the repository can be read, and says what its name promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from kipoi_seq2exp.config import MaskMode, NetworkConfig, Variant
from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.nn.authors import PUBLISHED_HARD, config_from_published
from kipoi_seq2exp.training.config import Start, read_training_config
from kipoi_seq2exp.training.data import LabelledWindows, open_cells
from kipoi_seq2exp.training.sections import AugmentConfig, Layout, OptimiserConfig, Scheme

FOLDER = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPER = [name for name in NAMES if name.startswith("paper_")]


def read(name):
    return read_training_config(FOLDER / f"{name}.yaml", None if name == "example" else "/data")


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


@pytest.mark.parametrize(("name", "row"), [("k562", "K562-chr22"), ("gm12878", "GM12878-chr22")])
def test_served_models_read_what_the_data_loader_gives(name, row):
    config, inputs = read(name), read_cells()[row]
    assert config.inputs == inputs
    assert config.split.scheme is Scheme.CROSS_VALIDATION


@pytest.mark.parametrize("name", ["k562", "gm12878"])
def test_real_configs_open_the_real_data(name, real_data):
    config = read_training_config(
        FOLDER / f"{name}.yaml",
        real_data,
        {"split.scheme": "column", "split.test": ["22q13"], "train_window_bp": 2_000},
    )
    cells = open_cells(config)
    sizes = {part: len(LabelledWindows(cells, part, config)) for part in ("train", "validation", "test")}
    assert sizes == {"train": 61, "validation": 0, "test": 60}
    assert LabelledWindows(cells, "test", config)[0]["signals"].min() >= 0
    cells[0].windows.close()
