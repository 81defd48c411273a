"""The repository's own group: its files agree with each other, and its weights still predict what was published."""

from __future__ import annotations

import ast
import dataclasses

import h5py
import numpy as np
import pytest
import yaml

from kipoi_seq2exp.training.publishing.use import use_lines
from kipoi_seq2exp.zoo import served
from kipoi_seq2exp.zoo.array_model import ArrayModel
from kipoi_seq2exp.zoo.group import group_inputs, member_inputs, read_about, render_group
from kipoi_seq2exp.zoo.models import load_model
from kipoi_seq2exp.zoo.registry import expected_path, group_dir, read_served, weights_path

ROWS = read_served() if (group_dir() / "models.tsv").is_file() else {}
WEIGHTS = sorted({row.weights for row in ROWS.values()})
LIMIT_BYTES = 20_000_000


@pytest.fixture(scope="module", params=WEIGHTS)
def weights(request):
    rows = [row for row in ROWS.values() if row.weights == request.param]
    return rows, load_model(group_dir() / request.param, "cpu", sha256=rows[0].weights_sha256)


def test_the_promised_models_are_served():
    assert {"K562", "GM12878", "K562-expression", "GM12878-expression"} <= set(ROWS)


def test_model_yaml_follows_from_the_table():
    assert (group_dir() / "model.yaml").read_text(encoding="utf-8") == served.render_model_yaml(group_dir())


def test_provisional_weights_say_so_everywhere(weights):
    rows, network = weights
    for row in rows:
        assert row.status == network.provenance.status
    card = (group_dir() / rows[0].weights).with_suffix(".md").read_text(encoding="utf-8")
    assert ("provisional" in card.lower()) == (rows[0].status == "provisional")
    if ROWS["K562"] in rows:
        text = (group_dir() / "model.yaml").read_text(encoding="utf-8")
        assert ("PROVISIONAL" in text) == (rows[0].status == "provisional")


def test_the_card_says_how_to_predict_with_the_weights(weights):
    rows, network = weights
    card = (group_dir() / rows[0].weights).with_suffix(".md")
    assert "\n".join(use_lines(card.stem, network.inputs)) in card.read_text(encoding="utf-8")


def test_weights_are_small_and_intact():
    for name, row in ROWS.items():
        path = weights_path(name)
        assert path == group_dir() / row.weights
        assert path.stat().st_size < LIMIT_BYTES


def test_the_weights_read_what_the_data_loader_gives(weights):
    rows, network = weights
    for row in rows:
        assert member_inputs(group_dir(), row.model) == network.inputs
    assert network.inputs is not None
    assert network.config.window_bp == network.inputs.window_bp


def test_the_files_that_kipoi_reads_follow_from_the_weights():
    made = render_group(read_about(group_dir()), group_inputs(group_dir()))
    assert {name: (group_dir() / name).read_text(encoding="utf-8") for name in made} == made


def test_a_track_with_a_stand_in_is_an_optional_argument():
    inputs = group_inputs(group_dir())
    track = dataclasses.replace(inputs.tracks[0], name="other", stand_in=inputs.tracks[0].name)
    about = read_about(group_dir())
    tracks = (*(track for track in inputs.tracks if not track.stand_in), track)
    made = render_group(about, dataclasses.replace(inputs, tracks=tracks, features=()))
    argument = yaml.safe_load(made["dataloader.yaml"])["args"]["other_file"]
    assert argument["optional"] is True
    assert "example" not in argument, "the example has no file of it: its stand-in is read"
    assert f"where it is left out, {track.stand_in} is read in its place" in argument["doc"]
    opened = next(part for part in ast.walk(ast.parse(made["dataloader.py"])) if isinstance(part, ast.FunctionDef)).args
    required = [argument.arg for argument in opened.args[: -len(opened.defaults)]]
    assert "other_file" in {argument.arg for argument in opened.args} - set(required)
    assert f"{track.stand_in}_file" in required


def test_every_expected_prediction_is_still_made(weights):
    """All outputs of all members, where `kipoi test` used to compare the first only."""
    rows, network = weights
    for row in rows:
        with h5py.File(expected_path(row.model)) as file:
            assert set(file["preds"]) == set(row.output_names)
            inputs = {name: values[:] for name, values in file["inputs"].items()}
            wanted = {name: values[:] for name, values in file["preds"].items()}
        example = served.example_inputs(row.model, group_dir(), served.EXPECTED_ROWS)
        for name, values in example.items():
            np.testing.assert_allclose(inputs[name], values, rtol=1e-6, atol=1e-6)
        found = ArrayModel(network, row.output_names).predict(inputs)
        for name, values in wanted.items():
            assert values.shape == found[name].shape
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1.5e-4)


def test_the_schemas_agree_with_the_model_and_the_table_of_inputs():
    folder = group_dir()
    model = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
    data = yaml.safe_load((folder / "dataloader.yaml").read_text(encoding="utf-8"))
    given, read = data["output_schema"]["inputs"], model["schema"]["inputs"]
    assert {name: field["shape"] for name, field in given.items()} == {name: f["shape"] for name, f in read.items()}
    spec = group_inputs(folder)
    window = spec.window_bp
    assert {name: field["shape"] for name, field in read.items()} == {
        "onehot": f"({window}, 4)",
        "signals": f"({window}, {len(spec.tracks)})",
        "features": f"({len(spec.features)},)",
        "blacklist": f"({window},)",
    }
    assert tuple(read["features"]["column_labels"]) == spec.feature_names
    assert {name: field["shape"] for name, field in model["schema"]["targets"].items()} == {
        "expression": "(1,)",
        "element_mask": f"({window},)",
    }
    for fields in (*given.values(), *read.values(), *data["args"].values(), *model["schema"]["targets"].values()):
        assert fields["doc"]
