"""Publishing: weights, card and table agree, and the data loader would feed the model what it was trained on."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal

import pandas as pd
import pytest
import torch
from training_runs import run_settings, write_run

from kipoi_seq2exp import load_model
from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.errors import ConfigError, InputError, OutputError, WeightsError
from kipoi_seq2exp.files import file_sha256, write_text
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.training.fit import fit
from kipoi_seq2exp.training.publishing import publish as publishing
from kipoi_seq2exp.training.publishing.publish import ServedAs, publish, publish_and_refresh
from kipoi_seq2exp.zoo.registry import read_served, weights_path


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A finished run whose inputs are a row of the table of cell types, window and promoter included."""
    folder = tmp_path_factory.mktemp("run")
    inputs = to_mapping(read_cells()["K562"])
    changes = {"train_window_bp": 2_400, "optimiser__max_steps": 3, "split__allow_overlap": True}
    about = {"about": 'Made by a test: "tiny" # 1.', "limits": ["Only for tests."]}
    return fit(write_run(tiny, folder, inputs=inputs, **changes, **about), folder / "runs").folder


@pytest.fixture
def group(tmp_path):
    (tmp_path / "weights").mkdir()
    return tmp_path


def test_publishing_writes_weights_card_and_rows_that_agree(run, group):
    published = publish(run, "K562", group)
    sha256 = file_sha256(published.weights)
    rows = read_served(group)
    assert list(rows) == ["K562", "K562-expression"]
    assert [row.outputs for row in rows.values()] == ["expression,element_mask", "expression"]
    for row in rows.values():
        assert (row.weights, row.weights_sha256, row.status) == ("weights/K562.safetensors", sha256, "trained")
        assert row.cell_type == "K562"
        assert row.trained_on.startswith("4 genes (tiny); held out: chr1:30000-60000, chr2:10000-30000. Made by a test")
        assert "3 steps of 2 windows of 2,400 bp" in row.training_procedure
    model = load_model(published.weights, "cpu", sha256=sha256)
    assert model.provenance.source_sha256 == file_sha256(run / "best.safetensors")
    card = published.card.read_text()
    for text in (
        sha256,
        "Only for tests.",
        "| mse |",
        "d_model: 8 (published: 128)",
        "Training saw 2,400 bp",
        "tiny.fa",
        "seq2exp predict weights/K562.safetensors",
        "--track dnase=FILE",
        "from ENCODE, signal p-value; from your reads, `macs3 callpeak",
        "UTR5LEN_log10zscore, CDSLEN_log10zscore",
    ):
        assert text in card
    assert "rovisional" not in card


def test_provisional_weights_say_so_everywhere(run, group):
    published = publish(run, "K562", group, status="provisional")
    assert "**Provisional weights" in published.card.read_text()
    assert {row.status for row in published.rows} == {"provisional"}
    assert load_model(published.weights, "cpu").provenance.status == "provisional"


def test_publishing_again_replaces_the_rows_and_keeps_the_others(run, group):
    publish(run, "GM12878", group)
    publish(run, "K562", group, status="provisional")
    before = read_served(group)
    publish(run, "K562", group)
    after = read_served(group)
    assert list(after) == list(before)
    assert after["GM12878"] == before["GM12878"]
    assert after["K562"].status == "trained"


def test_members_that_read_other_inputs_are_refused_or_dropped(run, group, tiny, tmp_path):
    publish(run, "GM12878", group)
    changes = {"inputs": to_mapping(dataclasses.replace(read_cells()["K562"], features=())), "name": "other"}
    changes |= {"train_window_bp": 2_400, "optimiser__max_steps": 3, "split__allow_overlap": True}
    other = fit(write_run(tiny, tmp_path, **changes), tmp_path / "runs").folder
    before = (group / "models.tsv").read_text()
    with pytest.raises(
        ConfigError, match=r"must read the same features, but 'K562' has none and 'GM12878' has UTR5LEN"
    ):
        publish(other, "K562", group)
    assert (group / "models.tsv").read_text() == before
    assert not (group / "weights" / "K562.safetensors").exists()
    publish(other, "K562", group, drop_others=True)
    assert list(read_served(group)) == ["K562", "K562-expression"]
    assert sorted(path.name for path in (group / "weights").iterdir()) == ["K562.md", "K562.safetensors"]


def test_what_cannot_be_published_is_named(run, group, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown status 'provisonal' .did you mean 'provisional'"):
        publish(run, "K562", group, status="provisonal")
    with pytest.raises(InputError, match=r"holds no best.safetensors: it is not a finished run"):
        publish(tmp_path, "K562", group)
    shutil.copytree(run, tmp_path / "damaged")
    for text, message in (("{", "record.json: cannot be read as JSON"), ("{}", "record.json is damaged: it does not")):
        (tmp_path / "damaged" / "record.json").write_text(text)
        with pytest.raises(InputError, match=message):
            publish(tmp_path / "damaged", "K562", group)
    monkeypatch.setattr(publishing, "LIMIT_BYTES", 1_000)
    with pytest.raises(WeightsError, match="served ones may take 0 MB"):
        publish(run, "K562", group)


def test_a_run_on_two_cell_types_is_tested_and_served_for_each(tiny, group, tmp_path):
    inputs = to_mapping(dataclasses.replace(read_cells()["K562"], cell_type="one"))
    (first,) = run_settings(tiny)["data"]
    data = [{**first, "cell_type": "one"}, {**first, "cell_type": "two", "label": {"column": "other"}}]
    genes = pd.read_csv(tiny.folder / "genes.tsv", sep="\t")
    genes["other"] = genes["label"][::-1].to_numpy()
    genes.to_csv(tmp_path / "genes.tsv", sep="\t", index=False)
    data = [{**one, "genes": str(tmp_path / "genes.tsv")} for one in data]
    changes = {"train_window_bp": 2_400, "optimiser__max_steps": 3, "split__allow_overlap": True, "data": data}
    folder = fit(write_run(tiny, tmp_path, inputs=inputs, **changes), tmp_path / "runs").folder
    scores = json.loads((folder / "record.json").read_text())["scores"]
    assert scores["one"]["mse"] != scores["two"]["mse"]
    assert (folder / "test.two.scores.json").is_file()
    models = {}
    for cell in ("one", "two"):
        served = publish(folder, cell.upper(), group, choice=ServedAs(cell_type=cell))
        models[cell] = load_model(served.weights, "cpu")
        assert models[cell].inputs.cell_type == served.rows[0].cell_type == cell
        assert models[cell].provenance.scores == scores[cell]
        assert f"| mse | {scores[cell]['mse']:.3f} |" in served.card.read_text()
    one, two = (model.state_dict() for model in models.values())
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ConfigError, match="did not learn from the cell type 'three'"):
        publish(folder, "X", group, choice=ServedAs(cell_type="three"))


@pytest.mark.parametrize("name", ["../EVIL", "/tmp/EVIL", ".hidden", "", "..", "x" * 300])
def test_a_name_that_is_a_path_changes_nothing(run, group, name):
    before = contents(group)
    with pytest.raises(ConfigError, match="a model's name must be"):
        publish(run, name, group)
    assert contents(group) == before


def test_a_failure_half_way_leaves_the_group_as_it_was(run, group, monkeypatch):
    publish(run, "K562", group, status="provisional")
    before = contents(group)

    def full(*_):
        raise OutputError("models.tsv: the disk is full.")

    monkeypatch.setattr(publishing, "write_served", full)
    with pytest.raises(OutputError, match="the disk is full"):
        publish(run, "K562", group)
    assert contents(group) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_in(monkeypatch, name, action):
    """Run an action in a forked process that is killed where it calls a function of `publish`."""
    with monkeypatch.context() as patched:
        patched.setattr(publishing, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            try:
                signal.alarm(60)  # never hang
                action()
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_weights_whose_publishing_was_killed_are_served_as_before(run, group, monkeypatch, caplog):
    publish(run, "K562", group, status="provisional")
    (row,) = (row for row in read_served(group).values() if row.model == "K562")
    before = contents(group)
    killed_in(monkeypatch, "write_served", lambda: publish(run, "K562", group))
    assert file_sha256(group / row.weights) != row.weights_sha256, "weights of one, table of the other"
    load_model(group / row.weights, "cpu", sha256=row.weights_sha256)
    assert "K562.safetensors was changed by a command that was killed: put back as it was before" in caplog.text
    assert contents(group) == before


def test_what_follows_from_weights_is_published_with_them_or_not_at_all(run, group, monkeypatch):
    write_text(group / "group.yaml", "{name: Lab, default: K562, authors: [{name: A}], licence: MIT}")
    publish(run, "K562", group, status="provisional")
    before = contents(group)
    killed_in(monkeypatch, "refresh", lambda: publish_and_refresh(run, "K562", group))
    assert read_served(group)["K562"].status == "trained"
    weights_path("K562", group)  # agree with the table, but not with what was made for the old ones
    assert contents(group) != before
    made = group / "model.yaml"
    monkeypatch.setattr(publishing, "refresh", lambda group: (write_text(made, "new"), (made,))[1])
    monkeypatch.setattr(publishing, "publish", lambda *_, **__: found.append(contents(group)))
    found = []
    assert publish_and_refresh(run, "K562", group)[1] == (made,)
    assert {path: data for path, data in found[0].items() if ".undo" not in str(path)} == before
