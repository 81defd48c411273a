"""The store of a run (rows complete or absent), and one reader for it and for Kipoi's outputs."""

from __future__ import annotations

import errno
import json
import pickle
import shutil

import h5py
import numcodecs
import numpy as np
import pandas as pd
import pytest
import warm
import zarr

from kipoi_seq2exp.config import InputSpec, TrackSpec
from kipoi_seq2exp.errors import InputError, OutputError
from kipoi_seq2exp.prediction.store import Layout, PredictionStore, Row, is_store, read_predictions
from kipoi_seq2exp.prediction.store_files import LOCK, lock_folder, unlock_folder
from kipoi_seq2exp.prediction.tracks import track_specs
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.view.locus import caption_of, unit_of

L = 100
GENES = pd.DataFrame(
    {
        "gene_id": ["A", "B", "C"],
        "chrom": ["chr1", "chr1", "chr2"],
        "start": [-20, 500, 70],
        "end": [80, 600, 170],
        "strand": ["+", "-", "+"],
        "observed": [1.5, np.nan, 0.25],
    }
)


def layout(**changes):
    fields = {"window_bp": L, "has_mask": True, "has_beta": True, "request": {"seed": 1}}
    return Layout(**{"genes": GENES, **fields, "provenance": {"inputs": {"promoter_bp": 10}}, **changes})


def row(value: float) -> Row:
    bases = np.full(L, value, dtype=np.float32)
    return Row(value, 0.9, bases, bases + 1, bases + 2)


def test_rows_come_back_as_they_were_written(tmp_path):
    store = PredictionStore.create(tmp_path / "p.zarr", layout())
    for index, value in ((2, 0.25), (0, 0.5)):
        store.write(index, row(value))
    assert store.done.tolist() == [True, False, True]
    with read_predictions(tmp_path / "p.zarr") as found:
        assert found.genes["gene_id"].tolist() == ["A", "C"]  # complete rows only
        assert found.genes["tss"].tolist() == [30, 120]
        assert found.genes["expression"].tolist() == [0.5, 0.25]
        assert found.genes["observed"].tolist() == [1.5, 0.25]
        assert found.genes["known_fraction"].tolist() == [0.9, 0.9]
        assert found.promoter == slice(45, 55)
        assert found.locus(1).chrom == "chr2"
        np.testing.assert_array_equal(found.mask(found.index("C")), np.full(L, 0.25, np.float32))
        alpha, beta = found.concentrations(0)
        assert (alpha[0], beta[0]) == (1.5, 2.5)


def test_the_description_of_an_array_is_read_once_for_all_genes(tmp_path, monkeypatch):
    store = PredictionStore.create(tmp_path / "p.zarr", layout())
    found, read = [], zarr.Group.__getitem__
    monkeypatch.setattr(zarr.Group, "__getitem__", lambda group, name: found.append(name) or read(group, name))
    for index in range(3):
        store.write(index, row(index / 4))
    assert sorted(found) == sorted(set(found))
    predictions = read_predictions(tmp_path / "p.zarr")
    found.clear()
    assert [float(predictions.mask(index).max()) for index in range(3)] == [0, 0.25, 0.5]
    assert found.count("preds/element_mask") == 1


def test_a_store_without_mask_and_labels(tmp_path):
    genes = GENES.drop(columns="observed")
    store = PredictionStore.create(tmp_path / "p.zarr", layout(genes=genes, has_mask=False, has_beta=False))
    store.write(0, Row(1.0, 1.0))
    with read_predictions(tmp_path / "p.zarr") as found:
        assert "observed" not in found.genes
        assert found.mask(0) is None
        assert found.concentrations(0) is None


def test_a_results_folder_is_read_by_its_store(tmp_path):
    PredictionStore.create(tmp_path / "predictions.zarr", layout()).write(0, row(0.5))
    with read_predictions(tmp_path) as found:
        assert len(found) == 1


def test_a_row_that_the_disk_refuses_stays_absent(tmp_path, monkeypatch):
    store = PredictionStore.create(tmp_path / "p.zarr", layout())
    store.write(0, row(0.5))
    put = zarr.DirectoryStore._tofile

    def full(self, content, file):
        if "beta_beta" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        put(content, file)

    monkeypatch.setattr(zarr.DirectoryStore, "_tofile", full)
    with pytest.raises(OutputError, match=r"p\.zarr: cannot be written \(the disk is full"):
        store.write(1, row(0.7))
    monkeypatch.undo()
    assert PredictionStore.reopen(tmp_path / "p.zarr").done.tolist() == [True, False, False]
    store.write(1, row(0.7))
    assert store.done.tolist() == [True, True, False]


def test_the_batch_size_is_remembered(tmp_path, monkeypatch):
    store = PredictionStore.create(tmp_path / "p.zarr", layout())
    assert store.batch_size is None
    store.remember_batch_size(4)
    assert PredictionStore.reopen(tmp_path / "p.zarr").batch_size == 4

    def full(self, content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.DirectoryStore, "_tofile", full)
    store.remember_batch_size(4)  # known already: nothing is written
    with pytest.raises(OutputError, match=r"p\.zarr: cannot be written \(the disk is full"):
        store.remember_batch_size(2)


def test_a_store_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(self, content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.DirectoryStore, "_tofile", full)
    with pytest.raises(OutputError, match="disk is full"):
        PredictionStore.create(tmp_path / "p.zarr", layout())
    assert list(tmp_path.iterdir()) == []


def test_is_store_knows_its_own(tmp_path):
    PredictionStore.create(tmp_path / "p.zarr", layout())
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    assert is_store(tmp_path / "p.zarr")
    assert not is_store(tmp_path / "other.zarr")
    assert not is_store(tmp_path / "absent.zarr")
    assert PredictionStore.reopen(tmp_path / "p.zarr").request == {"seed": 1}


# ---------------------------------------------------------------------------------------------------- Kipoi's outputs


def fill_kipoi(root, metadata=True, preds=True):
    """Fill an HDF5 or Zarr file the way Kipoi's writers do."""
    if preds:
        root.create_dataset("preds/expression", data=np.array([[0.5], [0.7], [0.9]], dtype=np.float32))
        root.create_dataset("preds/element_mask", data=np.tile(np.linspace(0, 1, L, dtype=np.float32), (3, 1)))
    if metadata:
        texts = {"gene_id": "gene_id", "ranges/chr": "chrom", "ranges/strand": "strand", "ranges/id": "gene_id"}
        for name, column in texts.items():
            values = GENES[column].to_numpy(dtype=object)
            kind = {"dtype": h5py.string_dtype()} if isinstance(root, h5py.File) else {"dtype": str}
            root.create_dataset(f"metadata/{name}", data=values, **kind)
        for name in ("start", "end"):
            root.create_dataset(f"metadata/ranges/{name}", data=GENES[name].to_numpy())


def make_h5(path, **parts):
    with h5py.File(path, "w") as root:
        fill_kipoi(root, **parts)
    return path


def test_kipoi_outputs_read_alike(tmp_path):
    make_h5(tmp_path / "out.h5")
    fill_kipoi(zarr.open_group(str(tmp_path / "out.zarr"), mode="w"))
    for name in ("out.h5", "out.zarr"):
        with read_predictions(tmp_path / name) as found:
            assert found.genes["gene_id"].tolist() == ["A", "B", "C"]
            assert found.genes["chrom"].tolist() == ["chr1", "chr1", "chr2"]
            assert found.genes["tss"].tolist() == [30, 550, 120]
            np.testing.assert_allclose(found.genes["expression"], [0.5, 0.7, 0.9], rtol=1e-6)
            np.testing.assert_allclose(found.mask(1), np.linspace(0, 1, L), rtol=1e-6)
            assert found.provenance == {}
            assert found.genes["known_fraction"].isna().all()
            assert found.promoter == slice(0, L)  # the published 2 kb would not fit


def test_units_and_label_of_kipois_output_come_from_what_made_it(tmp_path):
    """Not from a table of cell types: its last row had other units."""
    inputs = InputSpec("mine", (TrackSpec("dnase", unit="furlongs"),), (), label="log10(TPM + 1)", promoter_bp=10)
    with h5py.File(make_h5(tmp_path / "out.h5"), "a") as root:
        given = {"inputs": {"sources": {"dnase": "in/d.bw", "hic": "powerlaw"}}, "folder": str(tmp_path)}
        root.attrs["made_by"] = json.dumps({"weights": "weights/w.safetensors", "reads": to_mapping(inputs), **given})
    with read_predictions(tmp_path / "out.h5") as found:
        assert unit_of(found.provenance) == "log10(TPM + 1)"
        assert {name: spec.unit for name, spec in track_specs(found.provenance).items()} == {"dnase": "furlongs"}
        assert found.promoter == slice(L // 2 - 5, L // 2 + 5)
        assert found.provenance["sources"] == {"dnase": str(tmp_path / "in" / "d.bw"), "hic": "powerlaw"}
        assert caption_of(found.provenance) == "weights w, by kipoi predict"


def test_an_output_of_expression_alone(tmp_path):
    with h5py.File(tmp_path / "out.h5", "w") as root:
        root.create_dataset("preds", data=np.array([[0.5], [0.7], [0.9]]))
        fill_kipoi(root, preds=False)
    with read_predictions(tmp_path / "out.h5") as found:
        assert found.genes["expression"].tolist() == [0.5, 0.7, 0.9]
        assert not found.has_mask


def test_an_output_without_metadata_needs_the_gene_table(tmp_path):
    path = make_h5(tmp_path / "out.h5", metadata=False)
    with pytest.raises(InputError, match=r"does not say which genes it holds.*--keep_metadata"):
        read_predictions(path)
    table = GENES.assign(tss=[30, 550, 120])
    with read_predictions(path, table) as found:
        assert found.genes["start"].tolist() == [-20, 500, 70]
    with pytest.raises(InputError, match="predictions of 3 genes but names 2"):
        read_predictions(path, table.iloc[:2])


def test_an_unknown_gene_is_named_with_the_nearest(tmp_path):
    with (
        read_predictions(make_h5(tmp_path / "out.h5")) as found,
        pytest.raises(InputError, match=r"has no gene 'D' \(valid: A, B, C\)"),
    ):
        found.index("D")


def test_some_genes_in_the_order_asked_for(tmp_path):
    store = PredictionStore.create(tmp_path / "p.zarr", layout())
    for index in range(3):
        store.write(index, row(index / 4))
    with read_predictions(tmp_path / "p.zarr").select(["C", "A"]) as found:
        assert found.genes["gene_id"].tolist() == ["C", "A"]
        assert found.mask(0)[0] == 0.5
        assert found.index("A") == 1
        assert found.concentrations(1)[0][0] == 1.0
        with pytest.raises(InputError, match="no gene 'B'"):
            found.index("B")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gene_id": ["X", "Y", "Z"]}, r"the gene table: none of its 3 genes \(X, Y, Z\) is among the 3 of .*out.h5"),
        ({"tss": [80_030, 80_550, 80_120]}, r"3 of the 3 genes that it shares with .*out.h5 lie elsewhere"),
    ],
)
def test_a_table_of_other_genes_than_the_output_is_one_sentence(tmp_path, change, message):
    make_h5(tmp_path / "out.h5")
    table = GENES.assign(tss=(GENES["start"] + GENES["end"]) // 2)
    read_predictions(tmp_path / "out.h5", table).close()
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "out.h5", table.assign(**change))


@pytest.mark.parametrize("name", ["absent.h5", "absent.zarr", "absent"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: no such file"):
        read_predictions(tmp_path / name)


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = make_h5(tmp_path / "cut.h5")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"cut\.h5: cannot be read as HDF5"):
        read_predictions(path)
    (tmp_path / "text.zarr").write_text("no store")
    with pytest.raises(InputError, match=r"text\.zarr: cannot be read as a Zarr store"):
        read_predictions(tmp_path / "text.zarr")
    with pytest.raises(InputError, match="holds no predictions"):
        read_predictions(make_h5(tmp_path / "inputs.h5", preds=False))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_store_that_would_run_code_is_refused(tmp_path):
    PredictionStore.create(tmp_path / "p.zarr", layout()).write(0, row(0.5))
    root = zarr.open_group(str(tmp_path / "p.zarr"), "r+")
    del root["metadata/gene_id"]
    codec = numcodecs.Pickle()
    values = root.create_dataset("metadata/gene_id", shape=3, dtype=object, object_codec=codec, compressor=None)
    (tmp_path / "p.zarr" / values.path / "0").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(InputError, match="'metadata/gene_id' is stored with 'pickle', which may run code"):
        read_predictions(tmp_path / "p.zarr")
    with pytest.raises(InputError, match="may run code"):
        PredictionStore.reopen(tmp_path / "p.zarr")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "lost", ["preds/expression/2.0", "preds/element_mask/0.0", "metadata/ranges/start/0", "done/0"]
)
def test_a_lost_part_is_no_result(tmp_path, lost):
    store = PredictionStore.create(tmp_path / "p.zarr", layout())
    for index in (0, 2):
        store.write(index, row(0.5))
    (tmp_path / "p.zarr" / lost).unlink()
    with pytest.raises(InputError, match=f"a part of '{lost.rpartition('/')[0]}' is missing"):
        read_predictions(tmp_path / "p.zarr")


def test_a_run_goes_on_where_the_note_of_what_is_done_was_lost_or_damaged(tmp_path):
    store = PredictionStore.create(tmp_path / "p.zarr", layout())
    store.write(2, row(0.5))
    (tmp_path / "p.zarr" / "done" / "0").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"p\.zarr are damaged .*--overwrite"):
        assert store.done.any()
    (tmp_path / "p.zarr" / "done" / "0").unlink()
    again = PredictionStore.reopen(tmp_path / "p.zarr")
    assert not again.done.any()
    again.write(0, row(0.25))
    assert read_predictions(tmp_path / "p.zarr").genes["gene_id"].tolist() == ["A"]


@pytest.mark.parametrize("lost", ["preds/element_mask", "done", "stats/known_fraction", "metadata/ranges/chr"])
def test_a_lost_array_is_no_result(tmp_path, lost):
    made = layout(provenance={"mask": "soft"})
    PredictionStore.create(tmp_path / "p.zarr", made).write(0, row(0.5))
    shutil.rmtree(tmp_path / "p.zarr" / lost)
    with pytest.raises(InputError, match=rf"p\.zarr are damaged \('{lost}' is missing\).*--overwrite"):
        read_predictions(tmp_path / "p.zarr")


@pytest.mark.parametrize("name", ["preds/expression/0.0", "preds/element_mask/0.0", "metadata/gene_id/0", ".zattrs"])
@pytest.mark.parametrize("content", [b"", b"garbage", bytes(100)])
def test_a_damaged_part_is_one_sentence(tmp_path, name, content):
    PredictionStore.create(tmp_path / "p.zarr", layout()).write(0, row(0.5))
    (tmp_path / "p.zarr" / name).write_bytes(content)
    with pytest.raises(InputError, match=r"p\.zarr are damaged .*--overwrite"):
        read_predictions(tmp_path / "p.zarr").mask(0)


@pytest.mark.parametrize("code", [0xD800, 0x200000])
def test_what_is_no_character_is_damage(tmp_path, code):
    PredictionStore.create(tmp_path / "p.zarr", layout()).write(0, row(0.5))
    ids = np.array([ord("A"), code, ord("C")], dtype="<u4").view("<U1")
    zarr.open_group(str(tmp_path / "p.zarr"), mode="r+")["metadata/gene_id"][:] = ids
    with pytest.raises(InputError, match=r"p\.zarr are damaged .*(codec can't|invalid maximum character).*--overwrite"):
        read_predictions(tmp_path / "p.zarr")


def test_a_nan_is_no_expression(tmp_path):
    PredictionStore.create(tmp_path / "p.zarr", layout()).write(0, row(float("nan")))
    with pytest.raises(InputError, match="an expression is not a number"):
        read_predictions(tmp_path / "p.zarr")


def test_a_folder_is_locked_against_other_processes_alone(tmp_path):
    lock_folder(tmp_path)
    lock_folder(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from kipoi_seq2exp.prediction.store_files import lock_folder\n"
        "lock_folder(Path(sys.argv[1]))"
    )
    done = warm.run(["-c", code, tmp_path])
    assert done.returncode == 1
    assert "another run writes its results there" in done.stderr
    unlock_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert warm.run(["-c", code, tmp_path]).returncode == 0
    assert list(tmp_path.iterdir()) == [], "nor does a process that ends leave anything"
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / LOCK).symlink_to(tmp_path / "target")
    with pytest.raises(OutputError):
        lock_folder(tmp_path / "linked")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"dtype": 1, "filters": [1]}', "[" * 100_000])
def test_a_damaged_description_is_one_sentence(tmp_path, text):
    PredictionStore.create(tmp_path / "p.zarr", layout()).write(0, row(0.5))
    (tmp_path / "p.zarr" / "preds" / "expression" / ".zarray").write_text(text)
    with pytest.raises(InputError, match="are damaged"):
        read_predictions(tmp_path / "p.zarr")


def test_an_hdf5_file_that_reads_another_is_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["preds"] = [1.0]
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["preds"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "preds")
    with pytest.raises(InputError, match="'preds' is a link to data elsewhere"):
        read_predictions(tmp_path / "p.h5")
