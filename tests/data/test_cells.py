"""The table of cell types: the package's own rows, a user's own file, and every mistake in one named."""

from __future__ import annotations

import pytest

from kipoi_seq2exp.config import TrackKind, Transform
from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.errors import ConfigError, InputError


@pytest.mark.parametrize("cell", ["K562", "GM12878"])
def test_published_rows(cell):
    inputs = read_cells()[cell]
    assert inputs.cell_type == cell
    assert [(t.name, t.kind, t.transform) for t in inputs.tracks] == [
        ("h3k27ac", TrackKind.BIGWIG, Transform.NONE),
        ("dnase", TrackKind.BIGWIG, Transform.NONE),
        ("hic", TrackKind.CONTACT, Transform.LOG10P1),
    ]
    assert inputs.feature_names == (
        *("UTR5LEN", "CDSLEN", "INTRONLEN", "UTR3LEN"),
        *("UTR5GC", "CDSGC", "UTR3GC", "ORFEXONDENSITY", "PROMOTER_ACTIVITY"),
    )
    assert inputs.features[-1].from_tracks == ("h3k27ac", "dnase")
    assert inputs.window_bp == 200_000
    assert all(row.unit and row.description for row in (*inputs.tracks, *inputs.features))


def test_a_new_cell_type_is_a_new_row(tmp_path):
    path = tmp_path / "cells.yaml"
    path.write_text(
        "cells:\n  HepG2:\n    cell_type: HepG2\n    tracks: [{name: atac, transform: log1p}]\n    features: []\n"
    )
    inputs = read_cells(path)["HepG2"]
    assert inputs.tracks[0].transform is Transform.LOG1P
    assert inputs.features == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: {A: {cell_type: A, tracks: [{name: x, kindd: bigwig}], features: []}}", "kindd.*did you mean 'kind'"),
        ("cells: {A: {cell_type: A, features: []}}", "A: the field 'tracks' is missing"),
        ("cells: {A: {cell_type: A, tracks: [{name: x, transform: log}], features: []}}", "unknown value 'log'"),
        ("cell: {}", "unknown section 'cell' .did you mean 'cells'"),
        ("cells: {}", "'cells' is missing or holds no cell types"),
        ("tracks: []", "'cells' is missing"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "cells.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_cells(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_cells(tmp_path / "cells.yaml")
