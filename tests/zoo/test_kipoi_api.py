"""Kipoi from Python, each scenario in a process of its own: our model, its writers, and another model beside it."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest
from kipoi_door import example_arguments, make_group, make_home, python

from kipoi_seq2exp.zoo import served
from kipoi_seq2exp.zoo.array_model import ArrayModel
from kipoi_seq2exp.zoo.models import load_model

OTHER_MODEL = """
import numpy as np
from kipoi.model import BaseModel

class OtherModel(BaseModel):
    def predict_on_batch(self, x):
        return x.sum(axis=1)
"""
OTHER_DATALOADER = """
import numpy as np
from kipoi.data import Dataset
from kipoi.metadata import GenomicRanges

class OtherDataset(Dataset):
    def __init__(self, n=3, offset=0):
        self.n, self.offset = n, offset

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        ranges = GenomicRanges("chr1", i, i + 5, str(i), "+")
        return {"inputs": np.arange(5.0) + i + self.offset, "metadata": {"ranges": ranges}}
"""
OTHER_YAML = """
defined_as: model.OtherModel
args: {}
default_dataloader: .
info: {authors: [{name: t}], doc: another model}
schema:
  inputs: {shape: "(5,)", doc: five}
  targets: {shape: "(1,)", doc: sum}
"""
OTHER_DATALOADER_YAML = """
type: Dataset
defined_as: dataloader.OtherDataset
args:
  n: {doc: rows, type: int, example: 3}
  offset: {doc: added, type: int, optional: true}
info: {authors: [{name: t}], doc: another data loader}
output_schema:
  inputs:
    shape: (5,)
    doc: five
  metadata:
    ranges: {type: GenomicRanges, doc: where}
"""


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    group = make_group(tmp_path_factory.mktemp("zoo"))
    other = group.parent / "Other"
    other.mkdir()
    (other / "model.py").write_text(OTHER_MODEL)
    (other / "dataloader.py").write_text(OTHER_DATALOADER)
    (other / "model.yaml").write_text(OTHER_YAML)
    (other / "dataloader.yaml").write_text(OTHER_DATALOADER_YAML)
    return group


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def run(group, home, tmp_path):
    """Run code in a new process beside the group; `arguments` are the example's; what it calls `found` comes back."""

    def call(code, **changes):
        head = f"""
            import json, sys
            from pathlib import Path
            import numpy as np
            import kipoi
            arguments = json.loads({json.dumps(json.dumps(example_arguments(group, gene_ids=["GENE03"], **changes)))})
            folder = Path({str(tmp_path)!r})
            found = {{}}
        """
        tail = "\nPath(folder / 'found.json').write_text(json.dumps(found))\n"
        code = textwrap.dedent(head) + textwrap.dedent(code) + tail
        done = python(code, cwd=group.parent, home=home)
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "found.json").read_text())
        (tmp_path / "found.json").unlink()
        return {**found, "stderr": done.stderr, "stdout": done.stdout}

    return call


def arrays(group):
    inputs = served.example_inputs("K562", group)
    return {name: values[:1] for name, values in inputs.items()}


def test_batches_name_their_genes(run):
    found = run(
        """
        model = kipoi.get_model("Seq2Exp/K562", source="dir")
        named = model.pipeline.predict({**arguments}, keep_metadata=True)
        batch = next(model.default_dataloader(**arguments).batch_iter(batch_size=2))
        found["ids"] = named["metadata"]["gene_id"].tolist()
        split = model.default_dataloader(**{**arguments, "gene_ids": "GENE09,GENE03"})
        found["split"] = [split[i]["metadata"]["gene_id"] for i in range(len(split))]
        found["tss"] = batch["metadata"]["tss"].tolist()
        found["ranges"] = {name: values.tolist() for name, values in batch["metadata"]["ranges"].items()}
        found["schema"] = model.default_dataloader.get_output_schema().compatible_with_batch(batch)
        found["types"] = {name: str(values.dtype) for name, values in batch["inputs"].items()}
        start = batch["metadata"]["ranges"]["start"][0]
        (folder / "x.narrowPeak").write_text(f"chr1\\t{start + 7}\\t{start + 9}\\t.\\t0\\t.\\t2.5\\n")
        file = f"{folder}/x.narrowPeak"
        peaks = {**arguments, "h3k27ac_file": file, "dnase_file": f"{file}::presence"}
        signals = model.default_dataloader(**peaks)[0]["inputs"]["signals"]
        found["peaks"] = [np.flatnonzero(signals[:, 0]).tolist(), signals[7, :2].tolist()]
        """
    )
    assert found["peaks"][0] == [7, 8]
    np.testing.assert_allclose(found["peaks"][1], np.log1p([2.5, 1]), rtol=1e-6)
    assert found["ids"] == ["GENE03"]
    assert found["split"] == ["GENE09", "GENE03"]
    start = found["tss"][0] - 100_000
    ranges = {"chr": "chr1", "start": start, "end": start + 200_000, "id": "GENE03", "strand": "+"}
    assert found["ranges"] == {name: [value] for name, value in ranges.items()}
    assert found["schema"] is True
    assert found["types"] == {"onehot": "float32", "signals": "float32", "features": "float32", "blacklist": "bool"}
    assert found["stderr"].count("PROVISIONAL") == 1


def test_python_gives_the_networks_own_numbers(run, group, tmp_path):
    run(
        """
        model = kipoi.get_model("Seq2Exp/K562", source="dir")
        batch = next(model.default_dataloader(**arguments).batch_iter(batch_size=2))
        x = batch["inputs"]
        np.savez(
            folder / "arrays.npz",
            whole=model.pipeline.predict(arguments)["element_mask"],
            z=model.predict_activation_on_batch(x, "z"),
            **model.predict_on_batch(x),
            **{f"grad_{name}": values for name, values in model.input_grad(x, avg_func="sum").items()},
        )
        """
    )
    x, model = arrays(group), ArrayModel(load_model(group / "weights" / "K562.safetensors", "cpu"))
    truth = {**model.predict(x), "z": model.activation(x, "z"), "whole": model.predict(x)["element_mask"]}
    truth |= {f"grad_{name}": values for name, values in model.gradient(x).items()}
    with np.load(tmp_path / "arrays.npz") as found:
        assert set(found.files) == set(truth)
        for name, values in truth.items():
            assert found[name].shape == values.shape
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6)


def test_each_member_brings_its_cell_type_and_outputs(run):
    found = run(
        """
        for name in ("Seq2Exp", "Seq2Exp/GM12878", "Seq2Exp/K562-expression"):
            model = kipoi.get_model(name, source="dir")
            found[name] = [
                model.default_dataloader(**arguments).windows.inputs.cell_type,
                list(model.predict_on_batch(next(model.default_dataloader(**arguments).batch_iter())["inputs"])),
                list(model.schema.targets),
                model.default_dataloader.example_kwargs.get("model"),
            ]
        """
    )
    both = ["expression", "element_mask"]
    assert found["Seq2Exp"] == ["K562", both, both, None]
    assert found["Seq2Exp/GM12878"] == ["GM12878", both, both, None]
    assert found["Seq2Exp/K562-expression"] == ["K562", ["expression"], ["expression"], None]


def test_a_misspelled_argument_is_an_error_in_python_too(run):
    found = run(
        """
        model = kipoi.get_model("Seq2Exp/K562", source="dir")
        for call in ("predict", "predict_generator", "input_grad", "predict_to_file"):
            given = [{**arguments, "blacklst_file": "x"}]
            try:
                list(getattr(model.pipeline, call)(*[str(folder / "x.tsv")] * (call == "predict_to_file"), *given))
            except Exception as error:
                found[call] = [type(error).__name__, str(error)]
        """
    )
    for call in ("predict", "predict_generator", "input_grad", "predict_to_file"):
        assert found[call][0] == "ConfigError"
        assert "did you mean 'blacklist_file'" in found[call][1]


def test_workers_give_the_same_windows_and_their_errors_arrive(run):
    found = run(
        """
        import os, signal
        Data = kipoi.get_model("Seq2Exp/K562", source="dir").default_dataloader
        del arguments["gene_ids"]
        alone = [batch["inputs"]["signals"].sum() for batch in Data(**arguments).batch_iter(batch_size=1)]
        split = Data(**arguments).batch_iter(batch_size=1, num_workers=2)
        several = [batch["inputs"]["signals"].sum() for batch in split]
        found["same"] = bool(np.array_equal(alone, several))

        class Broken(Data):
            def __getitem__(self, index):
                if self.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("the data say no")

        for kill in (False, True):
            broken = Broken(**arguments)
            broken.kill = kill
            try:
                next(broken.batch_iter(batch_size=1, num_workers=1))
            except Exception as error:
                found[f"error {kill}"] = str(error)
        """
    )
    assert found["same"]
    assert "the data say no" in found["error False"]
    assert "worker" in found["error True"]


# ------------------------------------------------------------------------------------------- another model beside ours


@pytest.mark.parametrize("order", [("Seq2Exp/K562-expression", "Other"), ("Other", "Seq2Exp/K562-expression")])
def test_another_model_loads_in_the_same_process(run, order):
    found = run(
        f"""
        models = {{name: kipoi.get_model(name, source="dir") for name in {order!r}}}
        found["other"] = models["Other"].pipeline.predict({{"n": 3}}).tolist()
        found["ours"] = list(models["Seq2Exp/K562-expression"].pipeline.predict(arguments))
        found["again"] = type(kipoi.get_model({order[0]!r}, source="dir")).__name__
        """
    )
    assert found["other"] == [10.0, 15.0, 20.0]
    assert found["ours"] == ["expression"]
    assert found["again"] == {"Other": "OtherModel"}.get(order[0], "Seq2ExpModel")


def test_another_models_behaviour_stays(run):
    found = run(
        """
        import logging
        import kipoi.writers
        from kipoi.cli.main import cli_predict
        stock = {ending: kipoi.writers.get_writer(str(folder / f"kind.{ending}")) for ending in ("tsv", "parquet")}
        logging.getLogger("kipoi").addHandler(logging.StreamHandler(sys.stderr))

        def write(name):
            for ending in ("tsv", "parquet"):
                given = ["Other", "--source", "dir", "--dataloader_args", "n=3", "tpyo=1", "-m"]
                cli_predict("predict", [*given, "-o", str(folder / f"{name}.{ending}")])

        write("before")
        mine = kipoi.get_model("Seq2Exp/K562-expression", source="dir")
        write("after")
        for ending in ("tsv", "parquet"):
            found[ending] = (folder / f"before.{ending}").read_bytes() == (folder / f"after.{ending}").read_bytes()
            now = kipoi.writers.get_writer(str(folder / f"now.{ending}"))
            found[f"{ending} writer"] = type(now) is type(stock[ending])
        for ending in ("bed", "zarr", "h5"):
            given = ["Other", "--source", "dir", "--dataloader_args", "n=3", "-m", "-o", str(folder / f"out.{ending}")]
            cli_predict("predict", given)
        found["bed"] = (folder / "out.bed").read_text().splitlines()[:2]
        import zarr, h5py
        found["zarr"] = zarr.open_group(str(folder / "out.zarr"), mode="r")["preds"][:].tolist()
        with h5py.File(folder / "out.h5") as file:
            found["h5"] = [file["preds"][:].tolist(), file["preds"].chunks]
        found["unknown"] = kipoi.writers.get_writer("out.xyz") is None
        found["numpy"] = hasattr(np, "string_") == (np.__version__ < "2")
        """
    )
    assert found["tsv"]
    assert found["tsv writer"]
    assert found["parquet"]
    assert found["parquet writer"]
    assert found["stderr"].count("Some provided dataloader kwargs were not used") == 4  # as Kipoi does
    assert found["bed"] == ["#chr\tstart\tend\tname\tscore\tstrand\tpreds", "chr1\t0\t5\t0\t.\t+\t10.0"]
    assert found["zarr"] == [10.0, 15.0, 20.0]
    assert found["h5"] == [[10.0, 15.0, 20.0], [10_000]]
    assert found["unknown"]
    assert found["numpy"]


# ---------------------------------------------------------------------------------------------- the writers themselves

WRITE = """
import resource, signal
from kipoi_seq2exp.zoo import fixes
fixes.install()
Data = kipoi.get_dataloader_factory("Seq2Exp", "dir")
schema = Data.get_output_schema().metadata
random = np.random.default_rng(0)

def batch(rows, width=200_000):
    names = np.array([f"gene {i}" for i in range(rows)])
    where = np.arange(rows)
    ranges = {"chr": names, "start": where, "end": where + width, "id": names, "strand": names}
    preds = {"expression": random.random((rows, 1)), "element_mask": random.random((rows, width), np.float32)}
    return {"preds": preds, "metadata": {"ranges": ranges, "gene_id": names, "tss": where}}
"""


@pytest.mark.parametrize("ending", ["tsv", "bed", "h5", "parquet", "zarr"])
def test_a_writer_needs_little_memory_whatever_the_number_of_rows(run, ending):
    found = run(
        WRITE
        + f"""
writer = kipoi.writers.get_writer(str(folder / "out.{ending}"), schema)
writer.batch_write(batch(2))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
for _ in range(3):
    writer.batch_write(batch(8))
writer.close()
found["grown"] = peak() - before
found["files"] = [path.name for path in folder.iterdir()]
"""
    )
    assert found["files"] == [f"out.{ending}"]
    assert found["grown"] < 200e6


@pytest.mark.parametrize("ending", ["tsv", "bed", "h5", "parquet", "zarr"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(run, ending):
    most = 200 if ending == "bed" else 200_000  # a .bed is a short line a gene
    found = run(
        WRITE
        + f"""
writer = kipoi.writers.get_writer(str(folder / "out.{ending}"), schema)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, limit[1]))  # longer files fail, as on a full disk
try:
    for _ in range(4):
        writer.batch_write(batch(2))
    writer.close()
except Exception as error:
    found["error"] = [type(error).__name__, str(error)]
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
found["files"] = [path.name for path in folder.iterdir()]
"""
    )
    assert found["error"][0] == "OutputError"
    assert f"out.{ending}: cannot be written" in found["error"][1]
    assert found["files"] == []


def test_text_is_replaced_only_by_a_finished_file(run, tmp_path):
    (tmp_path / "out.tsv").write_text("old")
    found = run(
        WRITE
        + """
for close in (False, True):
    writer = kipoi.writers.get_writer(str(folder / "out.tsv"), schema)
    writer.batch_write(batch(2, width=3))
    if close:
        writer.close()
    found[str(close)] = (folder / "out.tsv").read_text().splitlines()
    del writer
found["files"] = [path.name for path in folder.iterdir()]
"""
    )
    assert found["False"] == ["old"]
    assert len(found["True"]) == 3
    assert found["files"] == ["out.tsv"]


def test_wrong_targets_are_named(run):
    found = run(
        WRITE
        + """
(folder / "folder.tsv").mkdir()
(folder / "old.zarr").mkdir()
(folder / "old.pq").write_text("old")
for name in ("out.xyz", "folder.tsv", "no/out.h5", "old.zarr", "old.pq"):
    try:
        kipoi.writers.get_writer(str(folder / name), schema)
    except Exception as error:
        found[name] = f"{type(error).__name__} {error}"
"""
    )
    assert "unknown ending '.xyz'" in found["out.xyz"]
    assert "is a folder" in found["folder.tsv"]
    assert "cannot be written" in found["no/out.h5"]
    assert "exists already" in found["old.zarr"]
    assert "exists already" in found["old.pq"]
    assert all(found[name].startswith("OutputError") for name in found if name not in ("stdout", "stderr"))


def test_arguments_of_the_wrong_type_and_endings_are_sentences_and_datasets_pickle(run):
    found = run(
        """
        import pickle
        Loader = kipoi.get_dataloader_factory("Seq2Exp", source="dir")
        def refusal(call):
            try:
                call()
            except ValueError as error:
                return f"{type(error).__name__}: {error}"
        wrong = {
            "number": {"genes_file": 5}, "list": {"dnase_file": ["a.bw"]}, "nothing": {"fasta_file": None},
            "empty": {"fasta_file": ""}, "truth": {"blacklist_file": True}, "model": {"model": 562},
            "id": {"gene_ids": [7157]}, "ids": {"gene_ids": 7157}, "missing": {"missing_features": 0},
        }
        for name, change in wrong.items():
            found[name] = refusal(lambda: Loader(**{**arguments, **change}))
        found["mapping"] = refusal(lambda: kipoi.pipeline.validate_kwargs(Loader, [1]))
        dataset = Loader(**arguments)
        schema = Loader.get_output_schema().metadata
        for name in ("out", "out.xls"):
            try:
                kipoi.writers.get_writer(str(folder / name), schema)
            except OSError as error:
                found[name] = str(error)
        copy = pickle.loads(pickle.dumps(dataset))
        found["same"] = bool((copy[0]["inputs"]["signals"] == dataset[0]["inputs"]["signals"]).all())
        """
    )
    for name, words in {
        "number": "genes_file must be the path of a file, found '5'.",
        "list": "dnase_file must be the path of a file, found \"['a.bw']\".",
        "nothing": "fasta_file must be the path of a file, found 'None'.",
        "empty": "fasta_file must be the path of a file, found ''.",
        "truth": "blacklist_file must be the path of a file, found 'True'.",
        "model": "model must be a text in quotes, found 562.",
        "id": "gene_ids[0] must be a text in quotes, found 7157.",
        "ids": "gene_ids must be a list of texts, found 7157.",
        "missing": "missing_features must be a text in quotes, found 0.",
        "mapping": "expected names and values, found [1].",
    }.items():
        assert found[name] == f"ConfigError: dataloader_args: {words}"
    assert "out: has no ending" in found["out"]
    assert "out.xls: unknown ending '.xls'" in found["out.xls"]
    assert found["same"]
