"""Hostile and unlucky files, as a table: what is wrong, how the file is made, and what a command must say of it.

Each fault is one file (or setting) in place of a good one of the tiny genome. `outcome` runs a command on it as a user
would, and looks at everything that is promised: one sentence, exit status 1, no result, nothing half-written.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_runs import command_line

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.errors import left_open

HTML = b"<!DOCTYPE html><html><body>404: not found</body></html>\n"
NOISE = bytes(range(256)) * 16
HUGE = "9" * 5_000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@dataclass(frozen=True)
class Fault:
    """A file that is wrong.

    Attributes
    ----------
    cause : str
        Group of the report.
    option : str
        Option of the commands that names the file: "--fasta", "--track dnase", "weights", ...
    name : str
        Of the file.
    made : bytes, str or callable
        What it holds, or what makes that from the good file's bytes; None: there is no such file.
    says : str
        Regular expression of the expected sentence; it is to name the file.
    """

    cause: str
    option: str
    name: str
    made: Any
    says: str

    def __str__(self) -> str:
        return f"{self.option} {self.name}: {self.says}"


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda good: good[: int(len(good) * share)]


def flipped(*places: int) -> Callable[[bytes], bytes]:
    def make(good: bytes) -> bytes:
        spoiled = bytearray(good)
        for place in places:
            spoiled[place] ^= 0xFF
        return bytes(spoiled)

    return make


def gzipped(good: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(good) + packer.flush()


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def make(good: bytes) -> bytes:
        assert old.encode() in good
        return good.replace(old.encode(), new.encode(), 1)

    return make


def header_length(number: int) -> Callable[[bytes], bytes]:
    return lambda good: struct.pack("<Q", number) + good[8:]


def archive(**members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/"), content)
    return target.getvalue()


def genes(column: int, value: str) -> Callable[[bytes], bytes]:
    """Replace a cell of the first gene."""

    def make(good: bytes) -> bytes:
        header, first, *rest = good.decode().splitlines()
        cells = first.split("\t")
        cells[column] = value
        return "\n".join([header, "\t".join(cells), *rest, ""]).encode()

    return make


ABSENT, FORMAT, CUT, DAMAGED, VALUES, NUMBERS, CODE = (
    "missing or empty files",
    "files of another kind",
    "files cut short",
    "damaged files",
    "values that cannot be",
    "numbers beyond bounds",
    "files that would run code or take all memory",
)

FAULTS = [
    # --- DNA
    Fault(ABSENT, "--fasta", "g.fa", None, "g.fa: no such file"),
    Fault(ABSENT, "--fasta", "g.fa", b"", "g.fa"),
    Fault(FORMAT, "--fasta", "g.fa", HTML, "g.fa"),
    Fault(FORMAT, "--fasta", "g.fa", NOISE, "g.fa"),
    Fault(FORMAT, "--fasta", "g.fa.gz", gzipped, "g.fa.gz"),
    Fault(CUT, "--fasta", "g.fa", cut(0.4), "chr2|GENE|g.fa"),
    Fault(VALUES, "--fasta", "g.fa", replaced(">chr1", ">1"), "chr1"),
    Fault(VALUES, "--fasta", "g.fa", replaced(">chr2", ">chr1"), "g.fa"),
    Fault(DAMAGED, "--fasta", "g.fa", flipped(9_200, 9_201, 9_202), "g.fa"),
    # --- genes
    Fault(ABSENT, "--genes", "g.tsv", None, "g.tsv: no such file"),
    Fault(ABSENT, "--genes", "g.tsv", b"", "g.tsv"),
    Fault(FORMAT, "--genes", "g.tsv", HTML, "g.tsv"),
    Fault(FORMAT, "--genes", "g.tsv", NOISE, "g.tsv"),
    Fault(FORMAT, "--genes", "g.bed", b"chr1\t5\n", "g.bed"),
    Fault(FORMAT, "--genes", "g.gtf", b"chr1\tx\tgene\t1\n", "g.gtf"),
    Fault(CUT, "--genes", "g.tsv", cut(0.1), "g.tsv"),
    Fault(VALUES, "--genes", "g.tsv", genes(0, ""), "g.tsv"),
    Fault(VALUES, "--genes", "g.tsv", genes(0, "GENE02"), "GENE02"),
    Fault(VALUES, "--genes", "g.tsv", genes(1, "chrZ"), "chrZ"),
    Fault(VALUES, "--genes", "g.tsv", genes(3, "?"), "strand"),
    Fault(VALUES, "--genes", "g.tsv", genes(4, "inf"), "UTR5LEN|GENE01"),
    Fault(VALUES, "--genes", "g.tsv", genes(4, "many"), "UTR5LEN|GENE01"),
    Fault(NUMBERS, "--genes", "g.tsv", genes(2, "-5"), "GENE01|tss|g.tsv"),
    Fault(NUMBERS, "--genes", "g.tsv", genes(2, "1.5"), "tss|g.tsv"),
    Fault(NUMBERS, "--genes", "g.tsv", genes(2, "7²"), "tss|g.tsv"),
    Fault(NUMBERS, "--genes", "g.tsv", genes(2, "60000"), "GENE01"),
    Fault(NUMBERS, "--genes", "g.tsv", genes(2, HUGE), "tss|g.tsv"),
    Fault(NUMBERS, "--genes", "g.tsv", genes(2, "99999999999999999999"), "tss|g.tsv"),
    Fault(NUMBERS, "--genes", "g.bed", f"chr1\t{HUGE}\t{HUGE}\tG\t0\t+\n".encode(), "g.bed"),
    Fault(NUMBERS, "--genes", "g.gtf", f'chr1\tx\tgene\t{HUGE}\t9\t.\t+\t.\tgene_id "G";\n'.encode(), "g.gtf"),
    # --- blacklist
    Fault(ABSENT, "--blacklist", "b.bed", None, "b.bed: no such file"),
    Fault(FORMAT, "--blacklist", "b.bed", HTML, "b.bed"),
    Fault(FORMAT, "--blacklist", "b.bed", NOISE, "b.bed"),
    Fault(FORMAT, "--blacklist", "b.bed.gz", b"\x1f\x8bno gzip", "b.bed.gz"),
    Fault(CUT, "--blacklist", "b.bed.gz", lambda good: gzipped(good)[:-9], "b.bed.gz"),
    Fault(VALUES, "--blacklist", "b.bed", b"chr1\t9\t5\n", "b.bed"),
    Fault(VALUES, "--blacklist", "b.bed", b"1\t5\t9\n", "b.bed"),
    Fault(NUMBERS, "--blacklist", "b.bed", b"chr1\t-5\t9\n", "b.bed"),
    Fault(NUMBERS, "--blacklist", "b.bed", f"chr1\t5\t{HUGE}\n".encode(), "b.bed"),
    Fault(NUMBERS, "--blacklist", "b.bed", "chr1\t5\t9²\n".encode(), "b.bed"),
    # --- tracks of values
    Fault(ABSENT, "--track dnase", "d.bw", None, "d.bw.*no such file"),
    Fault(ABSENT, "--track dnase", "d.bw", b"", "d.bw.*is empty"),
    Fault(FORMAT, "--track dnase", "d.bw", HTML, "d.bw.*a web page"),
    Fault(FORMAT, "--track dnase", "d.bw", NOISE, "d.bw.*is not a bigWig"),
    Fault(FORMAT, "--track dnase", "d.bw", gzipped, "d.bw.*compressed by gzip"),
    Fault(FORMAT, "--track dnase", "d.bw", b"\xeb\xf2\x89\x87" + NOISE, "d.bw.*bigBed"),
    Fault(CUT, "--track dnase", "d.bw", cut(0.5), "d.bw.*truncated"),
    Fault(CUT, "--track dnase", "d.bw", cut(0.0001), "d.bw"),
    *(Fault(DAMAGED, "--track dnase", "d.bw", flipped(at), "d.bw") for at in (7, 15, 31, 55, 77, 85)),
    Fault(DAMAGED, "--track dnase", "d.bw", flipped(*range(1_200, 40_000, 50)), "d.bw"),
    Fault(FORMAT, "--track dnase", "d.bedGraph", NOISE, "d.bedGraph"),
    Fault(FORMAT, "--track dnase", "d.bedGraph", HTML, "d.bedGraph"),
    Fault(VALUES, "--track dnase", "d.bedGraph", b"chr1\t0\t9\tmany\nchr2\t0\t9\t1\n", "d.bedGraph"),
    Fault(VALUES, "--track dnase", "d.bedGraph", b"chr1\t0\t9\t-1\nchr2\t0\t9\t1\n", "d.bedGraph"),
    Fault(VALUES, "--track dnase", "d.bedGraph", b"1\t0\t9\t1\n2\t0\t9\t1\n", "d.bedGraph"),
    Fault(NUMBERS, "--track dnase", "d.bedGraph", f"chr1\t0\t{HUGE}\t1\n".encode(), "d.bedGraph"),
    Fault(NUMBERS, "--track dnase", "d.bedGraph", b"chr1\t0\t9\t1e999\nchr2\t0\t9\t1\n", "d.bedGraph"),
    Fault(FORMAT, "--track dnase", "d.narrowPeak", b"chr1\t5\t9\n", "d.narrowPeak"),
    Fault(VALUES, "--track dnase", "d.narrowPeak", b"chr1\t9\t5\tx\t1\t.\t1\t1\t1\t1\n", "d.narrowPeak"),
    Fault(NUMBERS, "--track dnase", "d.narrowPeak", f"chr1\t5\t{HUGE}\tx\t1\t.\t1\t1\t1\t1\n".encode(), "narrowPeak"),
    # --- contacts
    Fault(ABSENT, "--track hic", "h.cool", None, "h.cool"),
    Fault(ABSENT, "--track hic", "h.cool", b"", "h.cool"),
    Fault(FORMAT, "--track hic", "h.cool", HTML, "h.cool"),
    Fault(FORMAT, "--track hic", "h.hic", NOISE, "h.hic"),
    Fault(FORMAT, "--track hic", "h.mcool", b"\x89HDF\r\n\x1a\n" + bytes(96), "h.mcool"),
    Fault(DAMAGED, "--track hic", "h.hic", b"HIC\0" + struct.pack("<iq", 8, 1 << 62) + bytes(64), "h.hic"),
    # --- settings
    Fault(ABSENT, "--tracks", "t.yaml", None, "t.yaml: no such file"),
    Fault(FORMAT, "--tracks", "t.yaml", NOISE, "t.yaml"),
    Fault(FORMAT, "--tracks", "t.yaml", b"[1, 2]\n", "t.yaml"),
    Fault(VALUES, "--tracks", "t.yaml", b"dnase: [1]\n", "t.yaml: dnase"),
    Fault(CODE, "--tracks", "t.yaml", b"dnase: !!python/object/apply:os.system [touch ran]\n", "t.yaml"),
    Fault(CODE, "--tracks", "t.yaml", BOMB.encode(), "t.yaml|track"),
    Fault(CODE, "--tracks", "t.yaml", b"[" * 3_000, "t.yaml|nested too deeply"),
    # --- weights
    Fault(ABSENT, "weights", "w.safetensors", None, "w.safetensors: no such weights file"),
    Fault(ABSENT, "weights", "w.safetensors", b"", "w.safetensors"),
    Fault(FORMAT, "weights", "w.safetensors", HTML, "w.safetensors"),
    Fault(CODE, "weights", "w.safetensors", b"\x80\x04cposix\nsystem\n(S'touch ran'\ntR.", "w.safetensors"),
    Fault(CODE, "weights", "w.safetensors", header_length(1 << 60), "w.safetensors"),
    Fault(CUT, "weights", "w.safetensors", cut(0.5), "w.safetensors"),
    Fault(CUT, "weights", "w.safetensors", lambda good: good[:-4], "w.safetensors"),
    Fault(DAMAGED, "weights", "w.safetensors", header_length(3), "w.safetensors"),
    Fault(DAMAGED, "weights", "w.safetensors", replaced('"d_model', '"d_modle'), "w.safetensors"),
    Fault(VALUES, "weights", "w.safetensors", replaced('\\"d_model\\": 16', '\\"d_model\\": -1'), "w.safetensors"),
    # --- checkpoints of others
    Fault(ABSENT, "checkpoint", "c.ckpt", b"", "c.ckpt"),
    Fault(FORMAT, "checkpoint", "c.ckpt", HTML, "c.ckpt"),
    Fault(CODE, "checkpoint", "c.ckpt", b"\x80\x04cposix\nsystem\n(S'touch ran'\ntR.", "c.ckpt"),
    Fault(
        CODE,
        "checkpoint",
        "c.ckpt",
        archive(a__data__pkl=b"cposix\nsystem\n(S'touch ran'\ntR.", a__version=b"3"),
        "c.ckpt",
    ),
    Fault(CODE, "checkpoint", "c.ckpt", archive(**{"a__data.pkl": b"cposix\nsystem\n(S'touch ran'\ntR."}), "c.ckpt"),
    Fault(CODE, "checkpoint", "c.ckpt", archive(**{"a__constants.pkl": b"\x80\x02).", "a__code__x.py": b""}), "c.ckpt"),
]
ABSENT_RESULTS = [
    Fault(ABSENT, "results", "r", None, "r.*(no such|holds no)"),
    Fault(FORMAT, "results", "r.h5", HTML, "r.h5"),
    Fault(FORMAT, "results", "r.tsv", b"a\tb\n1\t2\n", "r.tsv"),
    Fault(FORMAT, "results", "r.parquet", NOISE, "r.parquet"),
    Fault(DAMAGED, "results", "r.h5", b"\x89HDF\r\n\x1a\n" + bytes(96), "r.h5"),
]
FAULTS += ABSENT_RESULTS

COMMANDS = {
    "predict": "predict",
    "elements": "elements",
    "perturb": "perturb --tile chr1:9001-11000",
    "contributions": "contributions GENE02",
}
READS_RESULTS = ("show", "report -o out", "plot GENE02 --from", "elements -o out --from")


@dataclass(frozen=True)
class Outcome:
    """What a command did with a wrong file: its status, what it said last, and what is left in its folder."""

    status: int
    said: str
    left: tuple[str, ...]

    def wrong(self, fault: Fault) -> str | None:
        """What of the promises is broken, in a few words; None where all are kept."""
        if self.status == 70:
            return f"a fault of ours: {self.said}"
        if self.status != 1:
            return f"status {self.status}: {self.said}"
        if not self.said.startswith("seq2exp: ") or not self.said.endswith(".") or len(self.said) > 800:
            return f"no sentence: {self.said[:800]}"
        if left_open(self.said):
            return f"a bracket or a quote stays open: {self.said}"
        if not re.search(fault.says, self.said):
            return f"another sentence: {self.said}"
        return f"left behind: {', '.join(self.left)}" if self.left else None


def words_of(fault: Fault, command: str, tiny: Any, weights: Path, folder: Path) -> list[str]:
    """Write the wrong file into `folder` and return the command line that reads it; results go to `folder`/out."""
    path, option = folder / fault.name, fault.option
    good = {
        "--fasta": tiny.fasta,
        "--genes": tiny.genes,
        "--blacklist": tiny.blacklist,
        "--track dnase": tiny.tracks["dnase"],
        "weights": weights,
    }
    content = fault.made(good[option].read_bytes()) if callable(fault.made) else fault.made
    if content is not None:
        path.write_bytes(content)
    if option == "checkpoint":
        return ["convert", str(path), "-o", str(folder / "out"), "--variant", "soft", "--cell-type", "K562"]
    if option == "results":
        return [*command.split(), str(path)]
    name, *more = command.split(" --", 1)
    words = command_line(tiny, path if option == "weights" else weights, folder / "out", command=name)
    words += f"--{more[0]}".split() if more else []
    if option in ("--fasta", "--genes", "--blacklist"):
        words[words.index(option) + 1] = str(path)
    elif option == "--tracks":
        words += ["--tracks", str(path)]
    elif option.startswith("--track "):
        name = option.split()[1]
        words = [f"{name}={path}" if word.startswith(f"{name}=") else word for word in words]
    return words


def outcome(fault: Fault, command: str, tiny: Any, weights: Path, folder: Path) -> Outcome:
    """Run a command on a wrong file, in a folder that is empty before."""
    words = words_of(fault, command, tiny, weights, folder)
    before = {path.name for path in folder.iterdir()}
    said = io.StringIO()
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                status = main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
    left = {path.name for path in [*folder.iterdir(), *folder.glob("out/*")]} - before - {"out"}
    # an index is kept for the next run, and of a file that turns out to be damaged later what was predicted before
    ours = sorted(name for name in left if not name.endswith((".fai", ".gzi", "predictions.zarr")))
    lines = said.getvalue().strip().splitlines() or [""]
    result = Outcome(status, lines[-1], tuple(ours))
    shutil.rmtree(folder / "out", ignore_errors=True)
    return result
