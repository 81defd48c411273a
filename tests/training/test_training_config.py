"""Settings of a run: the published defaults, what follows from what, and every mistake named."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from training_runs import run_settings, write_run

from kipoi_seq2exp.config import InputSpec, NetworkConfig
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.training import config as settings
from kipoi_seq2exp.training import sections
from kipoi_seq2exp.training.config import read_training_config, training_config
from kipoi_seq2exp.training.folder import prepare
from kipoi_seq2exp.training.module import learning_rate

PACKAGE = Path(settings.__file__).parents[1]


def test_the_defaults_are_the_published_settings():
    optimiser = sections.OptimiserConfig()
    assert (optimiser.max_steps, optimiser.warmup_steps, optimiser.batch_size) == (50_000, 5_000, 8)
    assert (optimiser.weight_decay, optimiser.betas, optimiser.clip) == (1e-6, (0.9, 0.95), 1.0)
    assert optimiser.kl_weight == 0.01
    assert [learning_rate(step, optimiser) for step in (0, 5_000, 50_000)] == [1e-5, 5e-4, 1e-4]
    assert learning_rate(27_500, optimiser) == pytest.approx((5e-4 + 1e-4) / 2)
    assert sections.SplitConfig().fold == "11"


def test_the_network_follows_from_the_inputs(tiny):
    config = training_config(run_settings(tiny), "run")
    network = config.network
    assert (network.window_bp, network.promoter_bp, network.n_tracks, network.n_features) == (1_200, 400, 3, 9)
    assert config.window_bp == 800


def test_inputs_may_be_a_row_of_the_table_with_changes(tiny):
    config = training_config(
        run_settings(tiny, inputs={"cell_type": "K562", "window_bp": 5_000}, train_window_bp=None), "run"
    )
    assert config.inputs.window_bp == 5_000
    assert config.inputs.track_names == ("h3k27ac", "dnase", "hic")


def test_paths_are_relative_to_the_data_root(tiny, tmp_path, monkeypatch):
    path = write_run(tiny, tmp_path, data_root="data")
    assert read_training_config(path).root == tmp_path / "data"
    assert read_training_config(path, "/elsewhere").root == Path("/elsewhere")
    path = write_run(tiny, tmp_path, data_root="${SOME_FOLDER}/x")
    with pytest.raises(ConfigError, match="needs the environment variable SOME_FOLDER"):
        read_training_config(path)
    monkeypatch.setenv("SOME_FOLDER", "/there")
    assert read_training_config(path).root == Path("/there/x")


def test_overrides_replace_fields_by_dotted_name(tiny, tmp_path):
    path = write_run(tiny, tmp_path)
    config = read_training_config(path, overrides={"seed": 22, "run.workers": 1, "augment.max_shift_bp": 0})
    assert (config.seed, config.run.workers, config.augment.max_shift_bp) == (22, 1, 0)
    assert read_training_config(path, overrides={"data.0.peaks": "mine.bed"}).data[0].peaks == "mine.bed"
    with pytest.raises(ConfigError, match="'name' is not a section"):
        read_training_config(path, overrides={"name.x": 1})
    for number in ("1", "-1", "first"):
        with pytest.raises(ConfigError, match=f"data.{number}.peaks: '{number}' names no entry: .* from 0 to 0"):
            read_training_config(path, overrides={f"data.{number}.peaks": "mine.bed"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser__peak_rl": 1}, "unknown field 'peak_rl' (did you mean 'peak_lr'?)"),
        ({"sed": 1}, "unknown field 'sed' (did you mean 'seed'?)"),
        ({"seed": "two"}, "seed must be a whole number, found 'two'"),
        ({"run__cache": 1}, "run: cache must be true or false, found 1"),
        ({"data__0__labl": {}}, "data[0]: unknown field 'labl' (did you mean 'label'?)"),
        ({"data__0__label": None}, "data[0]: the field 'label' is missing"),
        ({"data": []}, "data must list at least one data set"),
        *(({"name": name}, "name must be at most 120 letters") for name in ("a/b", "..", ".a", "x" * 200)),
        ({"network__d_modle": 8}, "unknown field 'd_modle' (did you mean 'd_model'?)"),
        ({"network__n_tracks": 5}, "network.n_tracks is 5, but inputs give 3: leave it out"),
        ({"inputs": {"cell_type": "K526"}}, "no cell type 'K526': the table of cell types has no such row"),
        ({"inputs": {}}, "inputs: expected a mapping with 'cell_type'"),
        ({"train_window_bp": 300}, "train_window_bp must be even and lie between promoter_bp (400)"),
        ({"network__variant": "hard"}, "train_window_bp cannot differ from window_bp in the hard variant"),
        (
            {"network__variant": "peaks"},
            "the variant 'peaks' needs 'peaks' (BED or bigWig) in each data set, or mask_from",
        ),
        ({"mask_from": "K562"}, "mask_from belongs to the variant 'peaks'"),
        ({"optimiser__max_steps": 10}, "must be a multiple of run.validate_every (3)"),
        ({"optimiser__batch_size": 3, "run__devices": 2}, "must be a multiple of the 2 processes"),
        ({"optimiser__clip": 0}, "clip must be above 0, found 0"),
        ({"optimiser__betas": [0.9, 1.0]}, "betas must lie in [0, 1)"),
        ({"optimiser__warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"split": {"scheme": "all"}}, "run.keep must be 'last' with the split 'all'"),
        ({"split": {"scheme": "column"}}, "the scheme 'column' needs the field 'column'"),
        ({"split": {"scheme": "all", "train": ["x"]}}, "'train' belongs to the schemes 'column' and 'region'"),
        ({"run__patience": 0}, "patience must be above 0"),
        ({"run__workers": -1}, "workers must not be negative"),
        ({"network__encoder_layers": 10**9}, "encoder_layers must be at most 256, found 1,000,000,000"),
        ({"optimiser__batch_size": 10**9}, "batch_size must be at most 100,000"),
        ({"optimiser__max_steps": 10**12}, "max_steps must be at most 100,000,000"),
        ({"optimiser__peak_lr": float("nan")}, "peak_lr must be a finite number, found nan"),
        ({"optimiser__clip": "inf"}, "clip must be a finite number, found inf"),
        ({"augment__max_shift_bp": 10**9}, "max_shift_bp must be at most 10,000,000"),
        ({"augment__drop_dna": float("nan")}, "drop_dna must be a finite number"),
        ({"run__workers": 10**9}, "workers must be at most 1,024"),
        ({"run__devices": 10**30}, "devices must be a whole number of at most 18 digits"),
        ({"seed": 10**5000}, "seed must be a whole number of at most 18 digits"),
        ({"ridge": 10**400}, "ridge must be a number of at most 18 digits"),
        ({"run__accelerator": "gpus"}, "unknown accelerator 'gpus' (did you mean 'gpu'?)"),
        ({"augment__reverse_complement": 2}, "reverse_complement a probability"),
        ({"seed": -1}, "seed and ridge must not be negative"),
        ({"linear_on": ["CDSLENGTH"]}, "linear_on: unknown feature 'CDSLENGTH' (did you mean 'CDSLEN'?)"),
        ({"data__0__layout": "published", "data__0__cell_type": ""}, "the published layout needs 'cell_type'"),
    ],
)
def test_mistakes_are_named(tiny, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        training_config(run_settings(tiny, **changes), "run.yaml")


def test_a_missing_section_and_a_missing_file_are_named(tiny, tmp_path):
    values = run_settings(tiny)
    del values["inputs"]
    with pytest.raises(ConfigError, match="'inputs' is missing"):
        training_config(values, "run.yaml")
    with pytest.raises(InputError, match="no such file"):
        read_training_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="network must be a mapping"):
        training_config(run_settings(tiny, network=[1]), "run.yaml")


def test_every_field_has_a_reader():
    """A field that nothing reads would be a promise not kept."""
    code = "\n".join(path.read_text() for path in (PACKAGE / "training").rglob("*.py"))
    for module in (settings, sections):
        for value in vars(module).values():
            if not dataclasses.is_dataclass(value) or value in (InputSpec, NetworkConfig):
                continue
            for field in dataclasses.fields(value):
                assert re.search(rf"\.{field.name}\b", code), f"{value.__name__}.{field.name} has no reader"


def test_an_accelerator_that_is_not_here_is_refused_before_anything_is_made(tiny, monkeypatch, tmp_path):
    config = training_config(run_settings(tiny), "run.yaml")
    gpu = dataclasses.replace(config, run=dataclasses.replace(config.run, accelerator="gpu"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"run\.accelerator is 'gpu' .*torch finds 0 here: set run\.accelerator to cpu"
    ):
        prepare(gpu, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
    prepare(config, tmp_path / "run", resume=False)
