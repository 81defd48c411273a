"""Kipoi's own command line on the group, in processes with a HOME of their own and no network."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import warm
import zarr
from kipoi_door import GENES, KIPOI, REPOSITORY, environment, example_arguments, kipoi, make_group, make_home

from kipoi_seq2exp import __version__
from kipoi_seq2exp.zoo import register, served
from kipoi_seq2exp.zoo.array_model import ArrayModel
from kipoi_seq2exp.zoo.models import load_model
from kipoi_seq2exp.zoo.registry import expected_path, read_served

MEMBERS = ["Seq2Exp", *(f"Seq2Exp/{cell}{kind}" for cell in ("K562", "GM12878") for kind in ("", "-expression"))]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return make_group(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def truth(group):
    """What the network says of the example's genes, without Kipoi."""
    table = pd.read_csv(group / "example" / "genes.tsv", sep="\t")
    assert list(table["gene_id"]) == list(GENES)
    inputs = served.example_inputs("K562", group)
    network = load_model(group / "weights" / "K562.safetensors", "cpu")
    return {**inputs, **ArrayModel(network).predict(inputs), "start": table["tss"].to_numpy() - 100_000}


def predict(group, home, *arguments, model="Seq2Exp/K562", **changes):
    values = json.dumps(example_arguments(group, **changes))
    given = ["--source", "dir", f"--dataloader_args={values}", *arguments]
    return kipoi("predict", model, *given, cwd=group.parent, home=home)


def refused(done, *words):
    """Check for one sentence on stderr, a non-zero exit and no traceback."""
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in message


# ----------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("model", [".", "./GM12878-expression"])
def test_kipoi_test_passes_without_a_warning(group, home, model):
    done = kipoi("test", model, "--batch_size", 1, cwd=group, home=home, cold=model == ".")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    assert "mismatch" not in done.stdout
    assert "All predictions match" in done.stdout
    assert "is compatible with model.schema" in done.stdout
    assert "PROVISIONAL" in done.stderr.splitlines()[0]
    assert done.stderr.count("PROVISIONAL") == 1


@pytest.mark.parametrize("output", ["expression", "element_mask"])
def test_kipoi_test_fails_on_any_wrong_output(group, home, tmp_path, output):
    wrong = tmp_path / "wrong.h5"
    shutil.copyfile(expected_path("K562", group), wrong)
    with h5py.File(wrong, "r+") as file:
        file[f"preds/{output}"][0, 0] += 0.01
    done = kipoi("test", "./K562", "-e", wrong, cwd=group, home=home)
    assert done.returncode == 1
    assert "don't match" in done.stdout


# --------------------------------------------------------------------------------------------------------- the formats


@pytest.fixture(scope="module")
def outputs(group, home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    names = [folder / f"out.{ending}" for ending in ("tsv", "bed", "h5", "parquet", "zarr")]
    done = predict(group, home, "-m", "-o", *names)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in names)
    (folder / "said").write_text(done.stdout + done.stderr)
    return folder


def test_tsv(outputs, truth):
    header, *lines = (outputs / "out.tsv").read_text().rstrip("\n").split("\n")
    names, rows = header.split("\t"), [line.split("\t") for line in lines]
    assert [row[names.index("metadata/gene_id")] for row in rows] == list(GENES)
    assert [int(row[names.index("metadata/ranges/start")]) for row in rows] == list(truth["start"])
    assert names[-200_001:] == [*(f"preds/element_mask/{i}" for i in range(200_000)), "preds/expression/0"]
    values = np.array([row[-200_001:] for row in rows], dtype=np.float64)
    np.testing.assert_allclose(values[:, :-1], truth["element_mask"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(values[:, -1:], truth["expression"], rtol=0, atol=1e-6)


def test_bed_is_a_line_a_gene(outputs, truth):
    lines = (outputs / "out.bed").read_text().splitlines()
    assert lines[0].startswith("#chr\tstart\tend\tname\tscore\tstrand\t")
    assert all(len(line) < 300 for line in lines)
    table = pd.read_csv(outputs / "out.bed", sep="\t")
    assert list(table["name"]) == list(GENES)
    assert list(table["start"]) == [truth["start"][0], 0]
    assert list(table["end"]) == list(truth["start"] + 200_000)
    mask = truth["element_mask"]
    assert [name for name in table if name.startswith("preds/element_mask")] == [
        "preds/element_mask/mean",
        "preds/element_mask/fraction_from_0.5",
    ]
    np.testing.assert_allclose(table["preds/element_mask/mean"], mask.mean(axis=1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(table["preds/element_mask/fraction_from_0.5"], (mask >= 0.5).mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(table[["preds/expression/0"]], truth["expression"], rtol=0, atol=1e-6)
    said = [line for line in (outputs / "said").read_text().splitlines() if "out.bed: one line per gene" in line]
    assert len(said) == 1
    assert "of the 200,000 values of preds/element_mask it holds the mean" in said[0]
    assert "(an .h5 or .zarr holds them all)" in said[0]


def test_arrays_say_what_made_them(outputs, group):
    with h5py.File(outputs / "out.h5") as file:
        made_by = json.loads(file.attrs["made_by"])
    assert made_by == json.loads(zarr.open_group(str(outputs / "out.zarr"), mode="r").attrs["made_by"])
    row = read_served(group)["K562"]
    assert (made_by["weights"], made_by["weights_sha256"]) == (row.weights, row.weights_sha256)
    assert made_by["package"] == f"kipoi-seq2exp {__version__}"
    assert made_by["inputs"]["fasta"] == str(group / "example" / "genome.fa")
    assert made_by["folder"] == str(group.parent)


def test_h5(outputs, truth):
    with h5py.File(outputs / "out.h5") as file:
        assert [gene.decode() for gene in file["metadata/gene_id"]] == list(GENES)
        assert list(file["metadata/ranges/start"]) == list(truth["start"])
        for name in ("expression", "element_mask"):
            np.testing.assert_allclose(file[f"preds/{name}"], truth[name], rtol=0, atol=1e-6)
        chunk = file["preds/element_mask"].chunks
        assert chunk[1] == 200_000
        assert chunk[0] <= 5


def test_parquet(outputs, truth):
    table = pd.read_parquet(outputs / "out.parquet")
    assert list(table["metadata/gene_id"]) == list(GENES)
    np.testing.assert_allclose(np.stack(table["preds/element_mask"]), truth["element_mask"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(table[["preds/expression/0"]], truth["expression"], rtol=0, atol=1e-6)


def test_zarr(outputs, truth):
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(str(outputs / "out.zarr"), mode="r")
    assert list(root["metadata/gene_id"][:]) == list(GENES)
    for name in ("expression", "element_mask"):
        np.testing.assert_allclose(root[f"preds/{name}"][:], truth[name], rtol=0, atol=1e-6)


def test_bed_needs_no_flag_and_a_tsv_of_expression_is_readable(group, home, tmp_path, truth):
    names = [tmp_path / "out.bed", tmp_path / "out.tsv"]
    done = predict(group, home, "-o", *names, model="Seq2Exp/K562-expression")
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(names[0], sep="\t")["name"]) == list(GENES)
    table = pd.read_csv(names[1], sep="\t")
    assert list(table.columns) == ["preds/expression/0"]
    np.testing.assert_allclose(table, truth["expression"], rtol=0, atol=1e-6)


def test_inputs_can_be_kept_and_layers_written(group, home, tmp_path, truth):
    names = [tmp_path / "out.h5", tmp_path / "out.parquet", tmp_path / "out.zarr"]
    done = predict(group, home, "-k", "-l", "z", "-o", *names)
    assert done.returncode == 0, done.stderr
    with h5py.File(names[0]) as file:
        np.testing.assert_array_equal(file["inputs/onehot"], truth["onehot"])
        np.testing.assert_allclose(file["inputs/signals"], truth["signals"], rtol=1e-6)
        assert file["preds"].shape == (2, 200_000)
    parquet = pd.read_parquet(names[1], columns=["inputs/onehot", "inputs/features/0"])
    np.testing.assert_array_equal(np.stack([np.stack(row) for row in parquet["inputs/onehot"]]), truth["onehot"])
    np.testing.assert_allclose(parquet["inputs/features/0"], truth["features"][:, 0], rtol=1e-6)


def test_preproc(group, home, tmp_path, truth):
    values = json.dumps(example_arguments(group))
    given = ["--source", "dir", f"--dataloader_args={values}", "-m", "-o", tmp_path / "in.h5", "--batch_size", 1]
    done = kipoi("preproc", "Seq2Exp", *given, cwd=group.parent, home=home)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]
    with h5py.File(tmp_path / "in.h5") as file:
        for name in ("onehot", "signals", "features", "blacklist"):
            np.testing.assert_allclose(file[f"inputs/{name}"], truth[name], rtol=1e-6)
    refused(kipoi("preproc", "Seq2Exp", *given, cwd=group.parent, home=home), "in.h5", "exists already")


# -------------------------------------------------------------------------------------------------- the other commands


def test_the_literal_command(group, home, tmp_path, monkeypatch, truth):
    monkeypatch.setattr(register, "group_dir", lambda: group)
    register.register(home)
    values = json.dumps(example_arguments(group))
    given = ["Seq2Exp/K562-expression", f"--dataloader_args={values}", "-o", tmp_path / "out.tsv"]
    done = kipoi("predict", *given, cwd=tmp_path, home=home, cold=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.tsv"), truth["expression"], rtol=0, atol=1e-6)
    listed = kipoi("ls", "all", cwd=tmp_path, home=home, cold=True)
    assert listed.stdout.split() == MEMBERS
    assert register.unregister(home).directory.exists() is False
    assert kipoi("predict", *given, cwd=tmp_path, home=home).returncode != 0


def test_info_ls_and_env_export(group, home, tmp_path):
    info = kipoi("info", "Seq2Exp/GM12878", "--source", "dir", cwd=group.parent, home=home)
    assert info.returncode == 0, info.stderr
    for text in ("PROVISIONAL", "log10(RPKM + 1)", "10.48550/arXiv.2502.13991", "hic_file", "powerlaw", "GM12878"):
        assert text in " ".join(info.stdout.split())
    listed = kipoi("ls", "all", "--source", "dir", cwd=group.parent, home=home)
    assert listed.stdout.split() == MEMBERS
    target = tmp_path / "env.yaml"
    done = kipoi("env", "export", "Seq2Exp/K562", "--source", "dir", "-o", target, cwd=group.parent, home=home)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout
    assert {"kipoi-seq2exp", "pytorch"} <= set(target.read_text().replace(">=", " ").replace("- ", " ").split())


def test_get_example_gives_files_that_predict(group, home, tmp_path):
    done = kipoi("get-example", "Seq2Exp/K562", "--source", "dir", "-o", tmp_path / "mine", cwd=group.parent, home=home)
    assert done.returncode == 0, done.stderr
    arguments = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(value).parent == tmp_path / "mine" for name, value in arguments.items() if name.endswith("_file"))
    # an editable install puts the repository's dataloader.py on the path, before the one of the test's group
    sources = {(folder / "example" / "genes.tsv").read_bytes() for folder in (group, REPOSITORY)}
    assert (tmp_path / "mine" / "genes.tsv").read_bytes() in sources
    given = f"--dataloader_args={json.dumps({**arguments, 'gene_ids': GENES[:1]})}"
    tsv = tmp_path / "out.tsv"
    done = kipoi("predict", "Seq2Exp/K562-expression", "--source", "dir", given, "-o", tsv, cwd=group.parent, home=home)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tsv)) == 1


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blacklist_fil": "x"}, ("unknown argument 'blacklist_fil'", "did you mean 'blacklist_file'")),
        ({"genes_file": "no/such.tsv"}, ("no/such.tsv",)),
    ],
)
def test_bad_arguments_are_one_sentence(group, home, tmp_path, change, words):
    refused(predict(group, home, "-o", tmp_path / "out.tsv", **change), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_is_not_there_is_one_sentence(group, home, tmp_path):
    given = json.dumps({**example_arguments(group), "model": "K526"})
    words = ("--source", "dir", f"--dataloader_args={given}", "-o", tmp_path / "out.tsv")
    refused(kipoi("predict", "Seq2Exp/K562", *words, cwd=group.parent, home=home), "K526", "did you mean 'K562'")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_argument_is_one_sentence(group, home, tmp_path):
    values = {name: value for name, value in example_arguments(group).items() if name != "hic_file"}
    given = ["--source", "dir", f"--dataloader_args={json.dumps(values)}", "-o", tmp_path / "out.tsv"]
    done = kipoi("predict", "Seq2Exp", *given, cwd=group.parent, home=home)
    refused(done, "'hic_file' is missing", "contacts with the TSS")


def test_damaged_weights_are_one_sentence(group, home, tmp_path):
    copy = tmp_path / "zoo" / "Seq2Exp"
    shutil.copytree(group, copy)
    weights = copy / "weights" / "K562.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(predict(copy, home, "-o", tmp_path / "out.tsv"), "K562.safetensors", "damaged")
    assert not (tmp_path / "out.tsv").exists()


def test_an_existing_file_is_kept(group, home, tmp_path):
    target = tmp_path / "out.h5"
    target.write_text("precious")
    refused(predict(group, home, "-o", target), target.name, "exists already")
    assert target.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_written_is_found_before_predicting(group, home):
    done = predict(group, home, "-o", "/proc/out.tsv")
    refused(done, "/proc/out.tsv", "cannot be written")
    assert "%|" not in done.stderr  # no progress bar: no window was predicted


def written_bytes(folder):
    """Return the bytes of everything in a folder, hidden ones included."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_interrupted_run_leaves_nothing(group, home, tmp_path):
    values = json.dumps(example_arguments(group))
    command = [KIPOI, "predict", "Seq2Exp/K562", "--source", "dir", f"--dataloader_args={values}"]
    command += ["--batch_size", "1", "-o", tmp_path / "out.h5", tmp_path / "out.tsv"]
    run = warm.Process(command, cwd=group.parent, env=environment(home))
    deadline = time.monotonic() + 300
    while written_bytes(tmp_path) < 100_000 and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)  # which does what Ctrl-C does
    _, said = run.communicate(timeout=300)
    assert run.returncode != 0
    assert list(tmp_path.iterdir()) == []
    assert said.decode().splitlines()[-1] == "error: interrupted before all genes were predicted: nothing was written."
