"""The table of served models and the check of weights."""

from __future__ import annotations

import dataclasses

import pytest

from kipoi_seq2exp.errors import ConfigError, InputError, WeightsError
from kipoi_seq2exp.files import file_sha256
from kipoi_seq2exp.zoo.registry import (
    COLUMNS,
    ServedModel,
    group_dir,
    read_served,
    served_model,
    weights_path,
    write_served,
)

ROW = ServedModel("K562", "K562", "expression,element_mask", "weights/a.bin", "0" * 64, "provisional", "a: b", "c")


@pytest.fixture
def group(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(b"weights")
    sha256 = file_sha256(tmp_path / "weights" / "a.bin")
    write_served([dataclasses.replace(ROW, weights_sha256=sha256), dataclasses.replace(ROW, model="B")], tmp_path)
    return tmp_path


def test_the_table_survives_a_round_trip(group):
    rows = read_served(group)
    write_served(rows.values(), group)
    assert read_served(group) == rows
    assert list(rows) == ["K562", "B"]
    assert rows["B"].output_names == ("expression", "element_mask")


@pytest.mark.parametrize("name", ["K562", "Seq2Exp/K562", "Seq2Exp"])
def test_names_of_the_default_model(group, name):
    assert served_model(name, group).model == "K562"
    assert weights_path(name, group) == group / "weights" / "a.bin"


def test_an_unknown_name_suggests_the_nearest(group):
    with pytest.raises(WeightsError, match="did you mean 'K562'"):
        served_model("K526", group)


def test_changed_weights_are_refused(group):
    (group / "weights" / "a.bin").write_bytes(b"weighty")
    with pytest.raises(WeightsError, match="damaged or were replaced"):
        weights_path("K562", group)
    (group / "weights" / "a.bin").unlink()
    with pytest.raises(WeightsError, match="no such weights file"):
        weights_path("K562", group)


@pytest.mark.parametrize("text", ["", "two\tcells", "a # comment", 'a "quote"', "a\nline"])
def test_a_text_that_would_break_the_table_is_refused(group, text):
    before = (group / "models.tsv").read_bytes()
    with pytest.raises(ConfigError, match="trained_on"):
        write_served([dataclasses.replace(ROW, trained_on=text)], group)
    assert (group / "models.tsv").read_bytes() == before


def test_other_columns_are_an_error_with_their_row(group):
    (group / "models.tsv").write_text("\t".join(COLUMNS) + "\nK562\tK562\n")
    with pytest.raises(InputError, match="row 2"):
        read_served(group)
    (group / "models.tsv").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_served(group)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_table_that_cannot_be_read_is_one_sentence(group, content):
    (group / "models.tsv").unlink()
    if content is not None:
        (group / "models.tsv").write_bytes(content)
    with pytest.raises(InputError, match=r"models\.tsv(: no such file| is damaged \('utf-8' codec)"):
        read_served(group)


def test_the_group_is_the_repository():
    assert (group_dir() / "dataloader.yaml").is_file()
