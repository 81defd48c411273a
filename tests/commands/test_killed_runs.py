"""Commands that were killed go on at workers: each unit is computed once, and the files are those of a whole run."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import nullcontext

import pytest
import warm
from small_runs import command_line, small_weights

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.commands import contributions
from kipoi_seq2exp.effects import run
from kipoi_seq2exp.prediction.cluster import Cluster, parse_cluster
from kipoi_seq2exp.prediction.units import UnitStore

pytest.importorskip("distributed")

COMMANDS = {  # words, then what is compared
    "variants": ((), ("variants.tsv", "variants.vcf", "variants.json")),
    "elements": (
        ("--perturb", "--fdr", "0.9", "--shuffles", "2", "--block", "400", "--min-length", "20"),
        ("elements.tsv", "promoters.tsv", "elements.bed", "elements.narrowPeak", "element_mask.bw"),
    ),
    "contributions": (
        ("--steps", "2", "--modisco", "100"),
        ("contributions.tsv", "GENE03.dna.bw", "GENE07.dnase.bw", "modisco_onehot.npz", "modisco_contributions.npz"),
    ),
    "mutagenesis": (
        ("--method", "mutagenesis", "--region", "chr1:21000-21012"),
        ("GENE03.mutagenesis.tsv",),
    ),
}
KILLED = """
import sys, time
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.commands import contributions
from kipoi_seq2exp.effects import run
from kipoi_seq2exp.prediction.units import UnitStore
run.UNIT = contributions.STRETCH_BP = 2
write = UnitStore.write
def slow(self, *arguments):
    write(self, *arguments)
    time.sleep(0.5)
UnitStore.write = slow
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def workers():
    """Two processes, which every command of these tests gets."""
    with parse_cluster("local:2").open() as opened:
        yield opened


@pytest.fixture(scope="module")
def words(tiny, tmp_path_factory):
    """Return a function that makes the command line of each command."""
    folder = tmp_path_factory.mktemp("inputs")
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for pos in (*range(8_400, 8_430, 5), *range(21_000, 21_030, 5)):
        ref = tiny.bases["chr1"][pos : pos + 1].decode().upper()
        lines.append(f"chr1\t{pos + 1}\tv{pos}\t{ref}\t{'ACGT'[('ACGT'.index(ref) + 1) % 4]}\t.\t.\t.")
    (folder / "v.vcf").write_text("\n".join(lines) + "\n")
    weights = small_weights(tiny, folder)
    genes = " ".join(f"GENE0{number}" for number in range(1, 8))
    named = {
        "variants": f"variants {folder / 'v.vcf'}",
        "elements": "elements",
        "contributions": f"contributions {genes}",
        "mutagenesis": "contributions GENE03",
    }
    return lambda name, output: command_line(tiny, weights, output, *COMMANDS[name][0], command=named[name])


def done(folder):
    """Return how many units each store of a folder holds; 0 where it is not there yet, or busy."""
    try:
        (store,) = folder.glob("*.sqlite")
        with sqlite3.connect(store) as connection:
            return connection.execute("SELECT count(*) FROM done").fetchone()[0]
    except (ValueError, sqlite3.Error):
        return 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_run_goes_on_at_workers(words, workers, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(run, "UNIT", 2)
    monkeypatch.setattr(contributions, "STRETCH_BP", 2)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = warm.Process(["-c", KILLED, *words(name, killed)], start_new_session=True)
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None and not done(killed):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=300)
    assert main(words(name, whole)) == 0
    kept, total = done(killed), done(whole)
    assert 0 < kept < total
    write, written = UnitStore.write, []

    def noted(self, key, result):
        written.append(key)
        write(self, key, result)

    monkeypatch.setattr(UnitStore, "write", noted)
    monkeypatch.setattr(Cluster, "open", lambda cluster: nullcontext(workers))
    capsys.readouterr()
    assert main([*words(name, killed), "--cluster", "local:2"]) == 0
    assert "resuming: " in capsys.readouterr().out
    assert len(written) == len(set(written)) == total - kept
    for file in COMMANDS[name][1]:
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file
