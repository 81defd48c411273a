"""The long half of the kit (`make faults`): fuzzed files for every reader, kills at any moment, disks that fill up."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from Bio import bgzf
from conftest import LENGTHS, write_cooler, write_hic, write_mcool
from small_runs import command_line
from training_runs import write_run

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.tracks.contacts import BIN_BP
from kipoi_seq2exp.effects.run import EffectStore
from kipoi_seq2exp.effects.variants import COLUMNS
from kipoi_seq2exp.files import file_sha256
from kipoi_seq2exp.prediction.store import STORE_NAME, read_predictions
from kipoi_seq2exp.prediction.store_files import unlock_folder
from kipoi_seq2exp.prediction.units import UnitStore
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.zoo.registry import group_dir

pytestmark = pytest.mark.faults
FUZZ = Path(__file__).with_name("fuzz.py")
EXAMPLES = int(os.environ.get("SEQ2EXP_FAULTS_EXAMPLES", "300"))
SEED = int(os.environ.get("SEQ2EXP_FAULTS_SEED", "0"))
KILLS = 12
FINAL = ("predictions.tsv", "elements.bed", "element_mask.bw")
VCF = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t9001\trs1\tA\tC,G\t.\t.\t.\n"
TSV = "gene_id\tstart\tend\tcontact\nG\t10000\t20000\t0.5\nG\t20000\t30000\t0.25\n"
PAIRS = (
    "chrom\tchromStart\tchromEnd\tstartTSS\tendTSS\tmeasuredGeneEnsemblId\tRegulated\tValidConnection\tCellType\n"
    "chr1\t100\t600\t9000\t9001\tGENE02\tTRUE\tTRUE\tK562\nchr1\t700\t900\t9000\t9001\tGENE02\tFALSE\tTRUE\tK562\n"
)
JOBS = 'cores: 2\nmemory: 4GB\nwalltime: "01:00:00"\njobs: 2\nqueue: short\n'
READS = {  # what is spoiled, and the reader of `fuzz` that reads it
    "FASTA": "fasta",
    "FASTA by bgzip": "fasta",
    "gene table": "genes",
    "genes as BED": "genes",
    "genes as GTF": "genes",
    "gene models": "annotation",
    "blacklist": "regions",
    "named intervals": "intervals",
    "CRISPRi pairs": "pairs",
    "VCF": "variants",
    "bigWig": "track",
    "bedGraph": "track",
    "narrowPeak": "track",
    ".cool": "contacts",
    ".mcool": "contacts",
    ".hic": "contacts",
    "table of contacts": "contacts",
    "published contacts": "contacts",
    "weights": "weights",
    "checkpoint": "checkpoint",
    "results as HDF5": "results",
    "results as Zarr": "results",
    "predictions of another model": "saved",
    "labels of outputs": "labels",
    "store of units": "units",
    "store of effects": "effects",
    "table of cell types": "mapping",
    "settings of a run": "training",
    "finished run": "trained",
    "settings of jobs": "jobs",
    "models.tsv": "served",
}


@pytest.fixture(scope="module")
def good(tiny, weights, results, results_of_command, tmp_path_factory):
    """A good file, or folder, of each kind of `READS`."""
    folder = tmp_path_factory.mktemp("good")
    files = {
        "FASTA": tiny.fasta,
        "gene table": tiny.genes,
        "genes as BED": tiny.bed,
        "genes as GTF": tiny.gtf,
        "gene models": tiny.gtf,
        "blacklist": tiny.blacklist,
        "named intervals": tiny.peaks,
        "bigWig": tiny.tracks["dnase"],
        "narrowPeak": tiny.peaks,
        "weights": weights,
        "results as Zarr": results / STORE_NAME,
        "predictions of another model": results_of_command / "predictions.tsv",
        "models.tsv": group_dir() / "models.tsv",
        **_texts(folder, tiny),
        **_arrays(folder, results),
        **_contacts(folder),
    }
    with bgzf.BgzfWriter(str(folder / "g.fa.gz"), "wb") as packed:
        packed.write(tiny.fasta.read_bytes())
    torch.save({"state_dict": {"a.weight": torch.rand(4, 4)}}, folder / "c.ckpt")
    files |= {"store of units": folder / "u.sqlite", "store of effects": folder / "e.sqlite"}
    with closing(UnitStore.open(folder / "u.sqlite", {"weights": "a"})) as store:
        store.write("unit", {"a": [1, 2]})
    with closing(EffectStore.open(folder / "e.sqlite", {"weights": "a"})) as store:
        store.write("0:unit", [{name: 1 for name in (*COLUMNS, "variant", "line")}])
    run = folder / "run"
    run.mkdir()
    shutil.copyfile(weights, run / "best.safetensors")
    shutil.copyfile(files["settings of a run"], run / "config.yaml")
    (run / "record.json").write_text(json.dumps({"weights_sha256": file_sha256(weights), "scores": {}}))
    return files | {"FASTA by bgzip": folder / "g.fa.gz", "checkpoint": folder / "c.ckpt", "finished run": run}


def _texts(folder, tiny):
    inputs = to_mapping(tiny.inputs)
    texts = {
        "VCF": ("v.vcf", VCF),
        "bedGraph": ("d.bedGraph", "".join(f"chr1\t{at}\t{at + 40}\t{at % 7}\n" for at in range(0, 4_000, 50))),
        "CRISPRi pairs": ("p.tsv", PAIRS),
        "table of contacts": ("t.tsv", TSV),
        "labels of outputs": ("labels.txt", "index\tidentifier\tdescription\n0\tA\tDNASE:K562\n1\tB\tCAGE:K562\n"),
        "table of cell types": ("cells.yaml", yaml.safe_dump({"K562": inputs})),
        "settings of jobs": ("jobs.yaml", JOBS),
    }
    for name, text in texts.values():
        (folder / name).write_text(text)
    return {what: folder / name for what, (name, _) in texts.items()} | {"settings of a run": write_run(tiny, folder)}


def _arrays(folder, results):
    with read_predictions(results) as found, h5py.File(folder / "r.h5", "w") as out:
        out["preds/expression"] = found.genes["expression"].to_numpy()[:, None]
        out["preds/element_mask"] = np.stack([found.mask(index) for index in range(len(found))])
        names = {"gene_id": "gene_id", "ranges/chr": "chrom", "ranges/strand": "strand"}
        for name, column in names.items():
            out.create_dataset(f"metadata/{name}", data=found.genes[column].to_numpy(object), dtype=h5py.string_dtype())
        out["metadata/ranges/start"], out["metadata/ranges/end"] = found.genes["start"], found.genes["end"]
    return {"results as HDF5": folder / "r.h5"}


def _contacts(folder):
    counts = {chrom: np.ones((-(-length // BIN_BP),) * 2, dtype=int) for chrom, length in LENGTHS.items()}
    write_cooler(folder / "h.cool", counts, LENGTHS, BIN_BP)
    write_mcool(folder / "h.mcool", folder / "h.cool", BIN_BP)
    write_hic(folder / "h.hic", counts, LENGTHS, BIN_BP)
    (folder / "HiC").mkdir()
    with h5py.File(folder / "HiC" / "hic_feat_chr1.h5", "w") as file:
        file["chr1_20000"] = np.linspace(0, 1, 4_000, dtype=np.float32)
    files = {f".{ending}": folder / f"h.{ending}" for ending in ("cool", "mcool", "hic")}
    return files | {"published contacts": folder / "HiC"}


@pytest.mark.parametrize("what", READS)
def test_fuzzed_files_are_read_or_refused(what, good, tmp_path, tally):
    source = good[what]
    copy = tmp_path / source.name
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
    command = [sys.executable, str(FUZZ), READS[what], str(copy), str(EXAMPLES), str(SEED)]
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
    elsewhere = command_line(tiny, weights, tmp_path / "timed", "--save-beta")
    subprocess.run([*command[:3], *elsewhere], capture_output=True, check=True)
    whole, statuses = time.monotonic() - started, []
    for _ in range(KILLS):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(moments.uniform(0, whole))
        os.killpg(run.pid, moments.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]))
        said = run.communicate(timeout=120)[1].decode()
        halves = [name for name in FINAL if (out / name).exists() and not same(out / name, results_of_command / name)]
        fault = run.returncode in (1, 70) or (
            "Traceback" in said and "KeyboardInterrupt" not in said
        )  # while it imports
        tally["kills at any moment", "broken" if halves or fault else "kept"] += 1
        statuses.append(run.returncode)
        assert halves == [], statuses
        assert not fault, said
    assert any(statuses), "every run was over before it was killed"
    assert main(words) == 0
    assert all(same(out / name, results_of_command / name) for name in FINAL)
    unlock_folder(out)  # or it stays locked until this process ends
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
        unlock_folder(folder / "out")
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
    kept = status == 0 or (status == 1 and "disk is full" in said and not left)
    tally["disks that fill up", "kept" if kept else "broken"] += 1
    assert kept, (status, said, left)
