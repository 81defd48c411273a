"""The long half of the kit (`make faults`): fuzzed files for every reader, kills at any moment, disks that fill up."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import LENGTHS, write_cooler
from small_runs import command_line

from kipoi_seq2exp.cli import main

pytestmark = pytest.mark.faults
FUZZ = Path(__file__).with_name("fuzz.py")
EXAMPLES = int(os.environ.get("SEQ2EXP_FAULTS_EXAMPLES", "300"))
SEED = int(os.environ.get("SEQ2EXP_FAULTS_SEED", "0"))
KILLS = 12
FINAL = ("predictions.tsv", "elements.bed", "element_mask.bw")
VCF = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t9001\trs1\tA\tC,G\t.\t.\t.\n"
SOURCES = ("fasta", "genes.tsv", "genes.bed", "genes.gtf", "regions", "bigWig", "bedGraph", "narrowPeak", "contacts")
WHAT = (*SOURCES, "weights", "checkpoint", "results", "mapping", "variants")


@pytest.fixture(scope="module")
def good(tiny, weights, results, tmp_path_factory):
    """A good file of each kind and the reader of `fuzz` that reads it."""
    import h5py
    import numpy as np
    import yaml

    from kipoi_seq2exp.prediction.store import read_predictions
    from kipoi_seq2exp.settings import to_mapping

    folder = tmp_path_factory.mktemp("good")
    ones = {chrom: np.ones((-(-length // 1_000),) * 2, dtype=int) for chrom, length in LENGTHS.items()}
    write_cooler(folder / "h.cool", ones, LENGTHS, 1_000)
    torch.save({"state_dict": {"a.weight": torch.rand(4, 4)}}, folder / "c.ckpt")
    (folder / "v.vcf").write_text(VCF)
    (folder / "m.yaml").write_text(yaml.safe_dump(to_mapping(tiny.inputs)))
    (folder / "d.bedGraph").write_text("".join(f"chr1\t{at}\t{at + 40}\t{at % 7}\n" for at in range(0, 4_000, 50)))
    with read_predictions(results) as found, h5py.File(folder / "r.h5", "w") as out:
        out["preds/expression"] = found.genes["expression"].to_numpy()[:, None]
        out["preds/element_mask"] = np.stack([found.mask(index) for index in range(len(found))])
        names = {"gene_id": "gene_id", "ranges/chr": "chrom", "ranges/strand": "strand"}
        for name, column in names.items():
            out.create_dataset(f"metadata/{name}", data=found.genes[column].to_numpy(object), dtype=h5py.string_dtype())
        out["metadata/ranges/start"], out["metadata/ranges/end"] = found.genes["start"], found.genes["end"]
    files = {
        "fasta": ("fasta", tiny.fasta),
        "genes.tsv": ("genes", tiny.genes),
        "genes.bed": ("genes", tiny.bed),
        "genes.gtf": ("genes", tiny.gtf),
        "regions": ("regions", tiny.blacklist),
        "bigWig": ("track", tiny.tracks["dnase"]),
        "bedGraph": ("track", folder / "d.bedGraph"),
        "narrowPeak": ("track", tiny.peaks),
        "contacts": ("contacts", folder / "h.cool"),
        "weights": ("weights", weights),
        "checkpoint": ("checkpoint", folder / "c.ckpt"),
        "results": ("results", folder / "r.h5"),
        "mapping": ("mapping", folder / "m.yaml"),
        "variants": ("variants", folder / "v.vcf"),
    }
    assert set(files) == set(WHAT)
    return files


@pytest.mark.parametrize("what", WHAT)
def test_fuzzed_files_are_read_or_refused(what, good, tmp_path, tally):
    reader, file = good[what]
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    command = [sys.executable, str(FUZZ), reader, str(copy), str(EXAMPLES), str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_800, check=False)
    cause = f"fuzzed bytes: {what}"
    if done.returncode:
        tally[cause, "broken"] += 1
        pytest.fail(f"the reader ended its process ({done.returncode}): {done.stderr[-2_000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    tally[cause, "kept"] += found.get("read", 0) + found.get("refused", 0)
    tally[cause, "broken"] += found.get("fault", 0)
    assert found["faults"] == []


def test_kills_at_any_moment_resume_to_the_same_bytes(tiny, weights, results_of_command, tmp_path, tally):
    out, moments = tmp_path / "out", random.Random(SEED)
    words = command_line(tiny, weights, out, "--save-beta")
    command = [sys.executable, "-m", "kipoi_seq2exp.cli", *words]
    started = time.monotonic()
    subprocess.run(
        [*command[:-1], "--save-beta", "--gene-ids", "GENE02", "--overwrite"], capture_output=True, check=True
    )
    whole = 2 * (time.monotonic() - started)
    for _ in range(KILLS):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(moments.uniform(0, whole))
        os.killpg(run.pid, moments.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]))
        run.wait(timeout=120)
        halves = [name for name in FINAL if (out / name).exists() and not same(out / name, results_of_command / name)]
        tally["kills at any moment", "broken" if halves else "kept"] += 1
        assert halves == []
    assert main([*words, "--overwrite"]) == 0
    assert all(same(out / name, results_of_command / name) for name in FINAL)
    assert [entry.name for entry in tmp_path.rglob(".*") if not entry.name.startswith(".z")] == []


@pytest.fixture(scope="module")
def results_of_command(tiny, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert main(command_line(tiny, weights, folder, "--save-beta")) == 0
    return folder


def same(one, other):
    """Whether two results are the same but for the folder that they name."""
    return one.read_bytes().replace(bytes(one.parent), b"") == other.read_bytes().replace(bytes(other.parent), b"")


@pytest.fixture
def small_disk(tmp_path):
    """Return what mounts a disk of some size; it needs root."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk{size}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("a small disk can be mounted by root alone")
        mounted.append(folder)
        return folder

    if os.geteuid():
        pytest.skip("a small disk can be mounted by root alone")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("size", ["4k", "40k", "160k", "240k", "320k", "400k", "480k"])
@pytest.mark.parametrize("command", ["predict", "elements", "contributions GENE02"])
def test_a_full_disk_is_a_sentence_and_leaves_no_half_result(
    size, command, tiny, weights, small_disk, tmp_path, capsys, tally, results_of_command
):
    disk = small_disk(size)
    status = main(command_line(tiny, weights, disk / "out", command=command))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    left = [path for name in FINAL for path in disk.rglob(name)] if status else []
    kept = status == 0 or (status == 1 and "the disk is full" in said and not left)
    tally["disks that fill up", "kept" if kept else "broken"] += 1
    assert kept, (status, said, left)
