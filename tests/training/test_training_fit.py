"""A run from YAML to weights: repeatable, resumable after a kill, stopped cleanly when something is wrong."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
import yaml
from training_runs import EVERY, STEPS, run_settings, write_run

from kipoi_seq2exp import load_model
from kipoi_seq2exp.errors import ConfigError, InputError, OutputError, WeightsError
from kipoi_seq2exp.training.callbacks import WholeCheckpoints
from kipoi_seq2exp.training.config import read_training_config, training_config
from kipoi_seq2exp.training.data import LabelledWindows, open_cells
from kipoi_seq2exp.training.evaluate import evaluate
from kipoi_seq2exp.training.fit import _watched, fit, start_network
from kipoi_seq2exp.training.module import TrainingModule, build_network, open_teacher, ridge_regression
from kipoi_seq2exp.training.sections import RunConfig

TIMES = ("seconds",)

SCRIPT = """
import os, signal, sys
from kipoi_seq2exp.training.fit import fit
from kipoi_seq2exp.training.module import TrainingModule

config, out, kill_at, resume = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resume"
step = TrainingModule.training_step


def killed(self, batch, batch_idx):
    if self.global_step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)


TrainingModule.training_step = killed
if __name__ == "__main__":
    fit(config, out, resume=resume)
"""


def run_script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = folder / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return warm.run([script, *words], timeout=600, imports=["kipoi_seq2exp.training.fit"])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(handle)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(path, "cpu").state_dict())


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """One uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    fit(write_run(tiny, folder), folder / "runs")
    return folder / "runs" / "small"


def test_a_run_leaves_what_it_promises(tiny, finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("config.yaml", "checkpoints", "metrics.csv", "curves.png", "best.safetensors", "record.json"),
        *("test.predictions.tsv", "test.scores.json", "test.scatter.png"),
    }
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    table = rows(finished / "metrics.csv")
    assert [int(row["step"]) for row in table] == list(range(EVERY, STEPS + 1, EVERY))
    assert all(np.isfinite(float(row["train_loss"])) and float(row["validation_mse"]) > 0 for row in table)
    saved = read_training_config(finished / "config.yaml")
    assert saved == training_config(run_settings(tiny), "run")
    record = json.loads((finished / "record.json").read_text())
    assert record["genes"] == {"train": 4, "validation": 1, "test": 2}
    assert record["data"][0]["fasta"] == "tiny.fa"
    model = load_model(finished / "best.safetensors", "cpu")
    table = tiny.dataset().genes.iloc[[0, 1, 2, 4]]
    means = {feature.name: feature.mean for feature in model.inputs.features}
    assert means["UTR5GC"] == pytest.approx(table["UTR5GC"].mean(), abs=1e-5)
    assert means["UTR5LEN"] == pytest.approx(table["UTR5LEN_log10zscore"].mean(), abs=1e-5)
    assert means["PROMOTER_ACTIVITY"] is None
    assert [track.training is None for track in model.inputs.tracks] == [False, False, True]  # the contacts have none
    assert model.provenance.status == "trained"
    assert model.provenance.seed == 3
    assert model.provenance.scores["mse"] == pytest.approx(
        json.loads((finished / "test.scores.json").read_text())["mse"]["value"], abs=1e-4
    )


def test_the_weights_kept_are_those_of_the_lowest_validation_error(tiny, finished):
    table = rows(finished / "metrics.csv")
    best = min(float(row["validation_mse"]) for row in table)
    model = load_model(finished / "best.safetensors", "cpu")
    config = training_config(run_settings(tiny), "run")
    cells = open_cells(config)
    windows = LabelledWindows(cells, "validation", config)
    batch = {k: torch.as_tensor(np.ascontiguousarray(v))[None] for k, v in windows[0].items() if k != "gene_id"}
    error = float(TrainingModule(config, model).eval()(batch).expression.detach()) - float(batch["label"])
    assert error**2 == pytest.approx(best, rel=1e-4)
    cells[0].windows.close()


def test_the_same_seed_gives_the_same_run_and_another_another(tiny, finished, tmp_path):
    fit(write_run(tiny, tmp_path), tmp_path / "again")
    assert rows(tmp_path / "again" / "small" / "metrics.csv") == rows(finished / "metrics.csv")
    assert_same_weights(tmp_path / "again" / "small" / "best.safetensors", finished / "best.safetensors")
    fit(write_run(tiny, tmp_path), tmp_path / "other", overrides={"seed": 4})
    assert rows(tmp_path / "other" / "small" / "metrics.csv") != rows(finished / "metrics.csv")


def test_a_killed_run_resumes_to_the_bit(tiny, finished, tmp_path):
    config = str(write_run(tiny, tmp_path))
    killed = run_script(tmp_path, config, str(tmp_path / "runs"), "8", "start")
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "runs" / "small"
    assert len(rows(folder / "metrics.csv")) == 2
    resumed = run_script(tmp_path, config, str(tmp_path / "runs"), "-1", "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "Tip" not in resumed.stdout + resumed.stderr  # of Lightning, for other packages
    assert rows(folder / "metrics.csv") == rows(finished / "metrics.csv")
    assert_same_weights(folder / "best.safetensors", finished / "best.safetensors")


def test_a_log_holds_no_progress_bar(monkeypatch):
    assert not _watched(RunConfig(progress=True))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert _watched(RunConfig(progress=True))
    assert not _watched(RunConfig(progress=False))


def test_two_processes_give_the_run_of_one(tiny, finished, tmp_path):
    """Two CPU processes (gloo) average the gradients of the two halves of each batch."""
    config = str(write_run(tiny, tmp_path, run__devices=2))
    done = run_script(tmp_path, config, str(tmp_path / "runs"), "-1", "start")
    assert done.returncode == 0, done.stderr
    table, plain = rows(tmp_path / "runs" / "small" / "metrics.csv"), rows(finished / "metrics.csv")
    assert [row["step"] for row in table] == [row["step"] for row in plain]
    for found, wanted in zip(table, plain, strict=True):
        assert float(found["validation_mse"]) == pytest.approx(float(wanted["validation_mse"]), rel=0.05)
    assert (tmp_path / "runs" / "small" / "test.scores.json").is_file()


def test_accumulated_gradients_and_recomputed_activations_change_nothing(tiny, tmp_path):
    """The plain variant has no noise, so two halves of a batch must add up to the whole."""
    plain = {"network__variant": "plain", "optimiser__max_steps": 6}
    fit(write_run(tiny, tmp_path, **plain), tmp_path / "a")
    halves = {"optimiser__batch_size": 1, "optimiser__accumulate": 2, "run__checkpoint_activations": True}
    fit(write_run(tiny, tmp_path, **plain, **halves), tmp_path / "b")
    for a, b in zip(
        rows(tmp_path / "a" / "small" / "metrics.csv"), rows(tmp_path / "b" / "small" / "metrics.csv"), strict=True
    ):
        assert a["step"] == b["step"]
        assert float(a["validation_mse"]) == pytest.approx(float(b["validation_mse"]), rel=1e-4)
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-4)


@pytest.mark.parametrize("variant", ["soft", "hard", "peaks", "plain"])
def test_every_variant_trains(tiny, tmp_path, variant):
    changes = {"network__variant": variant, "train_window_bp": None, "inputs__window_bp": 800}
    if variant == "peaks":
        changes["data__0__peaks"] = str(tiny.peaks)
    result = fit(write_run(tiny, tmp_path, optimiser__max_steps=3, **changes), tmp_path / "runs")
    assert load_model(result.weights, "cpu").config.variant.value == variant
    assert np.isfinite(result.scores["mse"])


def test_half_precision_trains(tiny, tmp_path):
    result = fit(write_run(tiny, tmp_path, run__precision="bf16", optimiser__max_steps=3), tmp_path / "runs")
    assert {value.dtype for value in weights(result.weights).values()} == {torch.float32}


def test_ctrl_c_says_how_to_go_on(tiny, tmp_path, monkeypatch):
    step = TrainingModule.training_step

    def pressed(self, batch, batch_idx):
        if self.global_step == 5:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", pressed)
    with pytest.raises(KeyboardInterrupt, match="stopped; the last checkpoint is whole: go on with --resume"):
        fit(write_run(tiny, tmp_path), tmp_path / "runs")
    monkeypatch.undo()
    assert fit(write_run(tiny, tmp_path), tmp_path / "runs", resume=True).weights.is_file()


def test_the_mask_of_trained_weights_can_be_given(tiny, finished, tmp_path):
    changes = {"network__variant": "peaks", "mask_from": str(finished / "best.safetensors")}
    result = fit(write_run(tiny, tmp_path, optimiser__max_steps=3, **changes), tmp_path / "runs")
    config = read_training_config(result.folder / "config.yaml")
    cells = open_cells(config)
    module = TrainingModule(config, load_model(result.weights, "cpu"), open_teacher(config)).eval()
    window = LabelledWindows(cells, "test", config)[1]
    batch = {k: torch.as_tensor(np.ascontiguousarray(v))[None] for k, v in window.items() if k != "gene_id"}
    mask = module.given_mask(batch)
    promoter = slice(200, 600)
    outside = torch.cat([mask[0, :200], mask[0, 600:]])
    assert mask[0, promoter].eq(1).all()
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert outside.sum() <= 80  # the top tenth of 800 bases
    assert not any("teacher" in name for name, _ in module.named_parameters())
    cells[0].windows.close()


def test_early_stopping_ends_a_run_that_gets_no_better(tiny, tmp_path):
    still = {"optimiser__start_lr": 1e-12, "optimiser__peak_lr": 1e-12, "optimiser__end_lr": 1e-12}
    fit(write_run(tiny, tmp_path, run__patience=1, **still), tmp_path / "runs")
    assert len(rows(tmp_path / "runs" / "small" / "metrics.csv")) < STEPS // EVERY


def test_cross_validation_tests_every_gene_once_and_serves_all(tiny, tmp_path):
    table = tiny.dataset().genes
    table["region"] = ["a", "a", "b", "b", "c", "c", "c"]
    table.to_csv(tmp_path / "genes.tsv", sep="\t", index=False)
    changes = {"data__0__genes": str(tmp_path / "genes.tsv"), "optimiser__max_steps": 3, "run__keep": "last"}
    split = {"scheme": "cross-validation", "column": "region"}
    path = write_run(tiny, tmp_path, split=split, **changes)
    result = fit(path, tmp_path / "runs")
    predicted = (result.folder / "test.predictions.tsv").read_text().splitlines()
    assert predicted[0].split("\t") == ["gene_id", "observed", "predicted", "fold"]
    found = [(line.split("\t")[0], line.split("\t")[3]) for line in predicted[1:]]
    assert sorted(found) == sorted(zip(table["gene_id"], table["region"], strict=True))
    model = load_model(result.weights, "cpu")
    assert "cross-validation over 'region', weights from all genes" in model.provenance.trained_on
    assert model.provenance.trained_on.startswith("7 genes")
    for value in "abc":
        record = json.loads((result.folder / "folds" / value / "record.json").read_text())
        assert record["genes"]["train"] == int((table["region"] != value).sum())
    again = fit(path, tmp_path / "runs", resume=True)  # finished folds are not trained again
    assert again.scores == result.scores


def test_members_are_runs_of_their_seeds_and_are_served_together(tiny, finished, tmp_path, monkeypatch):
    path = write_run(tiny, tmp_path, members=2)
    result = fit(path, tmp_path / "runs")
    one, two = (result.folder / "members" / number / "best.safetensors" for number in "12")
    assert_same_weights(one, finished / "best.safetensors")  # seed 3, as the run without members
    ensemble = load_model(result.weights, "cpu")
    assert ensemble.config.members == 2
    for member, file in zip(ensemble.networks, (one, two), strict=True):
        assert all(torch.equal(value, weights(file)[name]) for name, value in member.state_dict().items())
    assert ensemble.provenance.source.endswith("2 members with the seeds from 3 on")
    assert ensemble.inputs.tracks[0].training is not None
    monkeypatch.setattr("kipoi_seq2exp.training.fit._train", None)  # finished members are not trained again
    assert fit(path, tmp_path / "runs", resume=True).scores == result.scores
    for wrong, message in (
        ({"members": 0}, "members must lie between 1 and 100"),
        ({"network__members": 2}, "set that"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(write_run(tiny, tmp_path, **wrong), tmp_path / "none")


def test_linear_start_predicts_the_regression_exactly(tiny):
    config = training_config(run_settings(tiny, start="linear", ridge=0.5, linear_on=["UTR5GC", "CDSLEN"]), "run")
    cells = open_cells(config)
    windows = LabelledWindows(cells, "train", config)
    network = start_network(config, windows).eval()
    chosen = [config.inputs.feature_names.index(name) for name in ("CDSLEN", "UTR5GC")]
    features = np.stack([windows[i]["features"] for i in range(4)])
    labels = np.array([windows[i]["label"] for i in range(4)])
    weights, bias = ridge_regression(features[:, chosen], labels, 0.5)
    for row in range(4):
        batch = {k: torch.as_tensor(np.ascontiguousarray(v))[None] for k, v in windows[row].items() if k != "gene_id"}
        found = float(TrainingModule(config, network).eval()(batch).expression.detach())
        assert found == pytest.approx(float(features[row, chosen] @ weights + bias), abs=2e-5)
    cells[0].windows.close()


def test_ridge_equals_least_squares_without_penalty():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)) * [1, 10, 100] + 5, rng.normal(size=30)
    weights, bias = ridge_regression(x, y, 0)
    expected = np.linalg.lstsq(np.c_[x, np.ones(30)], y, rcond=None)[0]
    np.testing.assert_allclose([*weights, bias], expected, rtol=1e-8)
    assert np.abs(ridge_regression(x, y, 1e6)[0] * x.std(0)).max() < 1e-3


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_run_that_exists_is_refused_and_left_alone(tiny, finished, tmp_path):
    before = (finished / "metrics.csv").read_bytes()
    with pytest.raises(OutputError, match="this run exists; carry on with --resume"):
        fit(write_run(tiny, tmp_path), finished.parent)
    assert (finished / "metrics.csv").read_bytes() == before


def test_bad_data_leaves_no_run_folder(tiny, tmp_path):
    with pytest.raises(ConfigError, match="no label column 'lable'"):
        fit(write_run(tiny, tmp_path, data__0__label={"column": "lable"}), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_no_number_stops_with_the_genes(tiny, tmp_path, monkeypatch):
    from kipoi_seq2exp.training import module

    honest = module.seq2exp_loss

    def spoiled(*arguments):
        losses = honest(*arguments)
        return type(losses)(losses.prediction, losses.kl, losses.total * float("nan"))

    monkeypatch.setattr(module, "seq2exp_loss", spoiled)
    with pytest.raises(InputError, match=r"the loss is nan at step 0, on the genes GENE0\d, GENE0\d: check their"):
        fit(write_run(tiny, tmp_path), tmp_path / "runs")


def test_a_checkpoint_of_other_settings_is_refused(tiny, finished, tmp_path):
    import shutil

    shutil.copytree(finished, tmp_path / "small")
    for changes, name in (
        ({"seed": 9}, "seed = 3"),
        ({"optimiser__peak_lr": 1e-2}, "optimiser.peak_lr = 0.001"),
        ({"network__token_bp": 16}, "network.token_bp = 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"was written with {name}, the config now says")):
            fit(write_run(tiny, tmp_path, **changes), tmp_path, resume=True)
    last = tmp_path / "small" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    other = build_network(training_config(run_settings(tiny, network__d_model=16), "run"))  # under the same settings
    checkpoint["state_dict"] = {f"network.{name}": value for name, value in other.state_dict().items()}
    torch.save(checkpoint, last)
    with pytest.raises(InputError, match=r"last\.ckpt: '.*' has shape .*, but its settings ask for .*: start a run"):
        fit(write_run(tiny, tmp_path), tmp_path, resume=True)
    last.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="is not a checkpoint of this package"):
        fit(write_run(tiny, tmp_path), tmp_path, resume=True)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, path)

    def full(checkpoint, handle):
        handle.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); the previous one is whole"):
        WholeCheckpoints().save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_evaluation_refuses_other_inputs_and_single_genes(tiny, finished):
    config = read_training_config(finished / "config.yaml")
    model = load_model(finished / "best.safetensors", "cpu")
    with pytest.raises(InputError, match="the validation split holds 1 gene:"):
        evaluate(model, config, "validation")
    model.inputs = read_training_config(finished / "config.yaml").inputs
    object.__setattr__(model.inputs, "tracks", model.inputs.tracks[:2])
    with pytest.raises(WeightsError, match="the weights read the tracks h3k27ac, dnase, the config names"):
        evaluate(model, config, "test")


def test_evaluation_writes_table_scores_and_picture(finished, tmp_path):
    config = read_training_config(finished / "config.yaml")
    result = evaluate(load_model(finished / "best.safetensors", "cpu"), config, "all")
    result.save(tmp_path / "out", "all")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "all.predictions.tsv",
        "all.scores.json",
        "all.scatter.png",
    }
    values = json.loads((tmp_path / "out" / "all.scores.json").read_text())
    assert values["genes"] == 7
    assert values["pearson"]["low"] <= values["pearson"]["value"] <= values["pearson"]["high"]
    assert (tmp_path / "out" / "all.scatter.png").read_bytes()[:4] == b"\x89PNG"
    assert yaml.safe_load((finished / "config.yaml").read_text())["name"] == "small"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_logs_are_written(tiny, tmp_path):
    fit(write_run(tiny, tmp_path, run__tensorboard=True, optimiser__max_steps=3), tmp_path / "runs")
    assert list((tmp_path / "runs" / "small" / "tensorboard").glob("events.out.tfevents.*"))
