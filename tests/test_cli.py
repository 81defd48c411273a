"""The command line: what it writes and says, exit statuses, misuse, interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import warm
from small_runs import command_line, genes_done

import kipoi_seq2exp
from kipoi_seq2exp.cli import INTERRUPTED, main
from kipoi_seq2exp.zoo.register import Registration

FINAL = ("predictions.tsv", "elements.bed", "element_mask.bw")


@pytest.fixture(scope="module")
def results(tiny, weights, tmp_path_factory):
    """Return a results folder that one command filled."""
    folder = tmp_path_factory.mktemp("cli") / "results"
    assert main(command_line(tiny, weights, folder, "--save-beta")) == 0
    return folder


# ------------------------------------------------------------------------------------------------------------ predict


def test_predict_says_provisional_first_and_writes_everything(tiny, weights, tmp_path, capsys):
    assert main(command_line(tiny, weights, tmp_path / "r", "--gene-ids", "GENE02", "GENE05", "GENE03")) == 0
    said, progress = capsys.readouterr()
    assert said.startswith("provisional weights: small.safetensors")
    assert "power law" in said
    assert "3 genes, " in said
    assert "Pearson" in said
    assert "3/3" in progress
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names - {".predictions.lock"} == {*FINAL, "provenance.json", "predictions.zarr"}  # locked by this process
    record = json.loads((tmp_path / "r" / "provenance.json").read_text())
    assert record["settings"]["gene_ids"] == "['GENE02', 'GENE05', 'GENE03']"
    assert record["device"] == "cpu"
    assert record["versions"]["numpy"] == np.__version__


def test_tracks_from_yaml_and_from_options(tiny, weights, tmp_path, results, capsys):
    for name, path in tiny.tracks.items():
        shutil.copy(path, tmp_path / f"{name}.bigwig")
    (tmp_path / "t.yaml").write_text("h3k27ac: h3k27ac.bigwig\ndnase: absent.bw\nhic: powerlaw\n")
    words = [word for word in command_line(tiny, weights, tmp_path / "r") if word != "--track" and "=" not in word]
    words += ["--tracks", str(tmp_path / "t.yaml"), "--track", f"dnase={tmp_path / 'dnase.bigwig'}"]
    assert main(words) == 0
    ours, theirs = ((folder / "predictions.tsv").read_text().splitlines() for folder in (tmp_path / "r", results))
    assert [line for line in ours if line[0] != "#"] == [line for line in theirs if line[0] != "#"]


def test_another_threshold_needs_no_new_prediction(tiny, weights, results, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "r"
    shutil.copytree(results, folder)
    monkeypatch.setattr("kipoi_seq2exp.prediction.run.predict_windows", None)
    assert main(command_line(tiny, weights, folder, "--save-beta", "--top-fraction", "0.01")) == 0
    assert "resuming: 7 of 7 genes are already in" in capsys.readouterr().out
    assert "the top 1.00% of each window" in (folder / "elements.bed").read_text()
    assert (folder / "predictions.tsv").read_text() != (results / "predictions.tsv").read_text()


INTERRUPTIBLE = """
import sys, time
from kipoi_seq2exp.prediction.store import PredictionStore
from kipoi_seq2exp.cli import main
write = PredictionStore.write
def slow_write(self, index, row):
    write(self, index, row)
    print("row", index, file=sys.stderr, flush=True)
    time.sleep(0.7)
PredictionStore.write = slow_write
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_keeps_complete_rows_and_a_rerun_gives_the_same_bytes(tiny, weights, results, tmp_path, capsys):
    folder = tmp_path / "r"
    words = command_line(tiny, weights, folder, "--save-beta")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = warm.Process(["-c", INTERRUPTIBLE, *words], env=environment)
    deadline = time.monotonic() + 300
    while genes_done(folder) < 2 and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, complaint = child.communicate(timeout=300)
    last = complaint.decode().splitlines()[-1]
    assert child.returncode == INTERRUPTED, complaint.decode()
    assert last.startswith("seq2exp: interrupted: ")
    assert "of 7 genes are complete in" in last
    assert "run the same command again to go on" in last
    assert not any((folder / name).exists() for name in FINAL)
    assert main(words) == 0
    assert f"resuming: {last.split()[2]} of 7" in capsys.readouterr().out
    for name in FINAL:
        assert (folder / name).read_bytes() == (results / name).read_bytes()


def test_other_settings_in_the_same_folder(tiny, weights, results, capsys):
    before = {name: (results / name).read_bytes() for name in FINAL}
    assert main(command_line(tiny, weights, results, "--mask-mode", "hard")) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "mask_mode was soft, now hard" in said
    assert {name: (results / name).read_bytes() for name in FINAL} == before


def test_overwrite(tiny, weights, results, tmp_path):
    shutil.copytree(results, tmp_path / "r")
    words = command_line(tiny, weights, tmp_path / "r", "--save-beta", "--mask-mode", "hard", "--overwrite")
    assert main(words) == 0
    assert (tmp_path / "r" / "element_mask.bw").read_bytes() != (results / "element_mask.bw").read_bytes()


# ------------------------------------------------------------------------------------------------------------- misuse


def one_sentence(capsys) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("seq2exp: ")
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--fasta", "absent.fa", "absent.fa: no such file"),
        ("--genes", "absent.tsv", "absent.tsv: no such file"),
        ("--blacklist", "absent.bed", "absent.bed: no such file"),
        ("--peaks", "absent.narrowPeak", "absent.narrowPeak: no such file"),
        ("--track", "dnas=x.bw", "unknown track 'dnas' (did you mean 'dnase'?)"),
        ("--track", "dnase", "--track dnase: expected NAME=FILE"),
        ("--track", "hic=other.cool", "--track hic is given twice (powerlaw and other.cool)"),
        ("--tracks", "absent.yaml", "absent.yaml: no such file"),
        ("--gene-ids", "GENE99", "has no gene 'GENE99'"),
        ("--label", "lable", "no label column 'lable' (did you mean 'label'?)"),
        ("--device", "gpu", "device 'gpu' cannot be used here"),
        ("--threshold", "0", "threshold must be above 0"),
        ("--cell-type", "HeLa", "no cell type 'HeLa'"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tiny, weights, tmp_path, capsys, option, value, message):
    assert main(command_line(tiny, weights, tmp_path / "r", option, value)) == 1
    assert message in one_sentence(capsys)
    assert not (tmp_path / "r").exists()


def test_bad_weights_are_one_sentence(tiny, tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(b"not weights")
    for name, message in (
        ("K526", "no model is called 'K526' (did you mean 'K562'?)"),
        (str(tmp_path / "absent.safetensors"), "no such weights file"),
        (str(tmp_path / "cut.safetensors"), "not a readable safetensors file"),
    ):
        assert main(command_line(tiny, name, tmp_path / "r")) == 1
        assert message in one_sentence(capsys)
    assert not (tmp_path / "r").exists()


def test_an_output_folder_that_cannot_be(tiny, weights, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(command_line(tiny, weights, tmp_path / "file")) == 1
    assert "is a file; give a folder" in one_sentence(capsys)


def test_a_disk_that_fills_up_while_predicting(tiny, weights, tmp_path, capsys, monkeypatch):
    import zarr

    put, written = zarr.DirectoryStore._tofile, []

    def full(self, content, file):
        written.append(file)
        if len(written) > 45:
            raise OSError(28, "No space left on device")
        put(content, file)

    monkeypatch.setattr(zarr.DirectoryStore, "_tofile", full)
    assert main(command_line(tiny, weights, tmp_path / "r")) == 1
    assert "the disk is full: free some space and run the command again" in capsys.readouterr().err.splitlines()[-1]
    assert not any((tmp_path / "r" / name).exists() for name in FINAL)
    monkeypatch.undo()
    assert main(command_line(tiny, weights, tmp_path / "r")) == 0
    assert "resuming: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "K562", "--fast", "x"], "required: --fasta"),
        (
            ["predict", "K562", "--genes", "g", "--fasta", "f", "-o", "r", "--blacklst", "b"],
            "did you mean '--blacklist'",
        ),
        (["predict", "K562", "--genes", "g", "--fasta", "f", "-o", "r", "--thres", "0.4"], "does not know --thres"),
        (["predict", "K562", "--genes", "g", "--fasta", "f", "-o", "r", "more"], "does not know more"),
        (["predikt"], "invalid choice: 'predikt'"),
        ([], "required: COMMAND"),
        (["predict", "K562", "--threshold", "0.5", "--top-fraction", "0.1"], "not allowed with"),
    ],
)
def test_misspelled_commands_and_options_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_fault_of_ours_is_told_from_a_mistake_of_the_users(monkeypatch, results, capsys, tmp_path):
    def fault(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("kipoi_seq2exp.elements.outputs.summarise", fault)
    assert main(["show", str(results)]) == 70
    assert "a fault of seq2exp" in one_sentence(capsys)


def test_version_and_help_are_quick_and_need_no_torch(capsys):
    code = "import sys; from kipoi_seq2exp.cli import build_parser; build_parser().format_help(); " + (
        "sys.exit(sorted({'torch', 'pandas', 'numpy', 'kipoi', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"seq2exp {kipoi_seq2exp.__version__}"


# ------------------------------------------------------------------------------------------------------ show and plot


def test_show_prints_a_row_per_gene_and_draws_the_highest(results, tmp_path, capsys):
    assert main(["show", str(results), "--plot", str(tmp_path / "p.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("provisional weights")
    assert lines[1].split() == ["gene", "name", "TSS", "predicted", "observed", "kept", "elements"]
    rows = [line.split() for line in lines[2:9]]
    assert [row[0] for row in rows] == [f"GENE0{n}" for n in range(1, 8)]
    assert [row[1] for row in rows] == [f"gene0{n}" for n in range(1, 8)]
    highest = max(rows, key=lambda row: float(row[4]))[0]
    assert lines[-1] == f"picture of {highest}: {tmp_path / 'p.png'}"
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_show_reads_a_kipoi_output_and_takes_labels_from_the_gene_table(tiny, results, tmp_path, capsys):
    from kipoi_seq2exp.prediction.store import read_predictions

    with read_predictions(results) as found, h5py.File(tmp_path / "out.h5", "w") as out:
        masks = np.stack([found.mask(index) for index in range(len(found))])
        out["preds/expression"], out["preds/element_mask"] = found.genes["expression"].to_numpy()[:, None], masks
        columns = {"gene_id": "gene_id", "ranges/chr": "chrom", "ranges/strand": "strand"}
        for name, column in columns.items():
            out.create_dataset(f"metadata/{name}", data=found.genes[column].to_numpy(object), dtype=h5py.string_dtype())
        out["metadata/ranges/start"], out["metadata/ranges/end"] = found.genes["start"], found.genes["end"]
    assert main(["show", str(tmp_path / "out.h5")]) == 0
    assert "observed" not in capsys.readouterr().out
    words = ["show", str(tmp_path / "out.h5"), "--genes", str(tiny.genes), "--label", "label", "--gene", "GENE03"]
    assert main([*words, "--plot", str(tmp_path / "p.svg"), "--track", f"dnase={tiny.tracks['dnase']}"]) == 0
    assert "observed" in capsys.readouterr().out
    drawn = (tmp_path / "p.svg").read_text()
    assert "dnase" in drawn
    assert "GENE03" in drawn


def test_plot_draws_one_gene(tiny, results, tmp_path, capsys):
    path = tmp_path / "locus.pdf"
    words = ["plot", "GENE02", "--from", str(results), "-o", str(path), "--gtf", str(tiny.gtf), "--elements"]
    assert main([*words, str(tiny.peaks)]) == 0
    assert path.read_bytes()[:4] == b"%PDF"
    assert main(["plot", "GENE99", "--from", str(results)]) == 1
    assert "has no gene 'GENE99'" in one_sentence(capsys)
    assert main(["plot", "GENE02", "--from", str(results), "--label", "x"]) == 1
    assert "give the gene table that holds it" in one_sentence(capsys)


# ---------------------------------------------------------------------------------------- commands of the other wings


def test_register_and_unregister_say_each_step(monkeypatch, tmp_path, capsys):
    calls = []

    def fake(name):
        def run(**options):
            calls.append((name, options))
            return Registration(tmp_path, (f"{name} one", f"{name} two"))

        return run

    monkeypatch.setattr("kipoi_seq2exp.zoo.register.register", fake("register"))
    monkeypatch.setattr("kipoi_seq2exp.zoo.register.unregister", fake("unregister"))
    assert main(["register", "--offline"]) == main(["unregister"]) == 0
    assert capsys.readouterr().out.splitlines() == ["register one", "register two", "unregister one", "unregister two"]
    assert main(["register", "--offline", "--from", str(tmp_path)]) == main(["unregister", "MyLab"]) == 0
    own = [("register", {"offline": True, "group": tmp_path}), ("unregister", {"name": "MyLab"})]
    assert calls == [("register", {"offline": True, "group": None}), ("unregister", {}), *own]


def test_convert_needs_a_checkpoint(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "a.ckpt"), "-o", str(tmp_path / "w.safetensors"), "--variant", "soft"]) == 1
    assert "a.ckpt" in one_sentence(capsys)
    (tmp_path / "s.json").write_text("[1]")
    words = ["convert", "a.ckpt", "-o", str(tmp_path / "w.safetensors"), "--settings", str(tmp_path / "s.json")]
    assert main(words) == 1
    assert "expected a JSON object" in one_sentence(capsys)
    assert not (tmp_path / "w.safetensors").exists()


def test_convert_reproduces_a_published_checkpoint(tmp_path, capsys):
    golden = os.environ.get("SEQ2EXP_GOLDEN")
    if not golden:
        pytest.skip("SEQ2EXP_GOLDEN names no folder of goldens")
    stem = f"{golden}/lightning_soft_d16_1layer"
    words = ["convert", f"{stem}.ckpt", "-o", str(tmp_path / "w.safetensors"), "--settings", f"{stem}.json"]
    assert main([*words, "--variant", "soft", "--cell-type", "K562"]) == 0
    assert "SHA-256" in capsys.readouterr().out
    assert kipoi_seq2exp.load_model(tmp_path / "w.safetensors", "cpu").inputs.cell_type == "K562"


def test_training_commands_refuse_what_is_no_run(tmp_path, capsys):
    pytest.importorskip("lightning")
    for words, message in (
        (["train", str(tmp_path / "absent.yaml")], "absent.yaml: no such file"),
        (["train", str(tmp_path / "absent.yaml"), "--set", "seed"], "--set seed: expected FIELD=VALUE"),
        (["publish", str(tmp_path), "--as", "K562"], "it is not a finished run"),
        (["evaluate", str(tmp_path)], "holds no best.safetensors"),
        (["evaluate", "K562"], "--config must say which data"),
    ):
        assert main(words) == 1
        assert message in one_sentence(capsys)
