"""A tiny generated genome in real file formats, made once per test session from a seed; every test may read it.

`tiny` has the paths of the files and the arrays they were made from; tests that spoil a file copy it first.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from kipoi_seq2exp.config import InputSpec

# Read when torch is loaded. OpenMP's threads would spin while they wait, for the time that other tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

LENGTHS = {"chr1": 60_000, "chr2": 30_000}
WINDOW_BP = 4_000
GENES = (  # gene_id, chrom, TSS, strand; the windows of the 1st and the last but one reach beyond a chromosome
    ("GENE01", "chr1", 700, "+"),
    ("GENE02", "chr1", 9_000, "-"),
    ("GENE03", "chr1", 21_500, "+"),
    ("GENE04", "chr1", 33_210, "-"),
    ("GENE05", "chr2", 8_000, "+"),
    ("GENE06", "chr2", 29_500, "-"),
    ("GENE07", "chr2", 15_000, "+"),
)
FEATURES = ("UTR5LEN_log10zscore", "CDSLEN_log10zscore", "INTRONLEN_log10zscore", "UTR3LEN_log10zscore")
FRACTIONS = ("UTR5GC", "CDSGC", "UTR3GC")


def pytest_configure(config: pytest.Config) -> None:
    """Let processes fork once hictkpy is imported, as `contact_files` does (pytest resets the filters of each test)."""
    config.addinivalue_line("filterwarnings", "ignore:hictkpy. detected a call to fork:UserWarning")
    # A job that a script put in the background ignores Ctrl-C, and so would the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class TinyGenome:
    """Paths of the files and the arrays in them: `bases[chrom]` letters, `signals[track][chrom]` float32 per base."""

    folder: Path
    fasta: Path
    genes: Path
    bed: Path
    gtf: Path
    blacklist: Path
    peaks: Path
    tracks: dict[str, Path]
    bases: dict[str, bytes]
    signals: dict[str, dict[str, np.ndarray]]
    inputs: InputSpec

    @property
    def sources(self) -> dict[str, str | Path]:
        """Sources of a `WindowDataset` whose Hi-C is the power law."""
        return {**self.tracks, "hic": "powerlaw"}

    def dataset(self, **changes: Any) -> Any:
        """Return the `WindowDataset` of all genes; `changes` replace its arguments."""
        from kipoi_seq2exp.data import WindowDataset

        arguments = {"inputs": self.inputs, "genes": self.genes, "fasta": self.fasta, "sources": self.sources}
        return WindowDataset(**{**arguments, "blacklist": self.blacklist, **changes})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyGenome:
    from kipoi_seq2exp.data import read_cells

    folder = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(7)
    bases = {chrom: make_bases(random, length) for chrom, length in LENGTHS.items()}
    write_fasta(folder / "tiny.fa", bases)
    names = ("h3k27ac", "dnase")
    signals = {name: {chrom: make_signal(random, length) for chrom, length in LENGTHS.items()} for name in names}
    for name in names:
        write_bigwig(folder / f"{name}.bw", signals[name])
    write_genes(folder / "genes.tsv", random)
    (folder / "genes.bed").write_text("".join(bed_record(*gene) for gene in GENES))
    (folder / "genes.gtf").write_text("".join(["##description: tiny\n", *(gtf_records(*gene) for gene in GENES)]))
    (folder / "blacklist.bed").write_text(
        "chr1\t9500\t9700\tlow mappability\nchr1\t9600\t9900\thigh signal\nchr2\t0\t50\tx\n"
    )
    peaks = ((chrom, tss + 600, tss + 900) for _, chrom, tss, _ in GENES if tss + 900 < LENGTHS[chrom])
    (folder / "peaks.narrowPeak").write_text(
        "".join(f"{chrom}\t{start}\t{end}\tpeak\t100\t.\t5.0\t4.0\t3.0\t150\n" for chrom, start, end in peaks)
    )
    return TinyGenome(
        folder=folder,
        fasta=folder / "tiny.fa",
        genes=folder / "genes.tsv",
        bed=folder / "genes.bed",
        gtf=folder / "genes.gtf",
        blacklist=folder / "blacklist.bed",
        peaks=folder / "peaks.narrowPeak",
        tracks={name: folder / f"{name}.bw" for name in names},
        bases=bases,
        signals=signals,
        inputs=replace(read_cells()["K562"], window_bp=WINDOW_BP),
    )


@pytest.fixture(scope="module")
def weights(tiny: TinyGenome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of a small network for the tiny genome's windows."""
    from small_runs import small_weights

    return small_weights(tiny, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def run(tiny: TinyGenome, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run of the small network on every gene of the tiny genome, with the Beta of each base."""
    from small_runs import finished_run

    return finished_run(tiny, weights, tmp_path_factory.mktemp("run") / "results")


@pytest.fixture(scope="module")
def results(run: Any) -> Path:
    """The results folder of `run`."""
    folder: Path = run.store.path.parent
    return folder


@pytest.fixture(scope="module")
def predictions(run: Any) -> Iterator[Any]:
    """The predictions of `run`, open."""
    from kipoi_seq2exp.prediction.store import read_predictions

    with read_predictions(run.store.path) as found:
        yield found


@pytest.fixture(scope="session")
def tally() -> Iterator[Counter[tuple[str, str]]]:
    """Count the cases of tests/faults by cause and outcome, for the page that SEQ2EXP_FAULTS_PAGE names."""
    counts: Counter[tuple[str, str]] = Counter()
    yield counts
    if page := os.environ.get("SEQ2EXP_FAULTS_PAGE"):
        from tally import write_table

        write_table(counts, Path(page))


@pytest.fixture(params=["compiled", "tiles"])
def either_walk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a narrow network by its own walk, then tile by tile as a wide one."""
    from kipoi_seq2exp.nn.cpu import tiles

    if request.param == "tiles":
        monkeypatch.setattr(tiles.Packed, "of", lambda *_: None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, where `SEQ2EXP_DATA` names one."""
    folder = os.environ.get("SEQ2EXP_DATA")
    if not folder:
        pytest.skip("SEQ2EXP_DATA names no folder of real data")
    return Path(folder)


def make_bases(random: np.random.Generator, length: int) -> bytes:
    """Return random DNA with a run of N, a soft-masked run and a few IUPAC codes."""
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)[random.integers(0, 4, length)]
    bases[10_000:10_200] = ord("N")
    bases[7_000:8_000] += 32  # lower case
    bases[[20, 9_050, 15_000, 15_001]] = np.frombuffer(b"RyKn", dtype=np.uint8)
    return bases.tobytes()


def make_signal(random: np.random.Generator, length: int) -> np.ndarray:
    """Return values of 0.25 and more with a peak every 3 kb, and NaN (absent) between blocks."""
    position = np.arange(length)
    values = 8 * np.exp(-(((position % 3_000 - 1_500) / 200) ** 2)) + random.integers(1, 5, length) / 4
    values = np.round(values * 16).astype(np.float32) / 16
    values[(position // 500) % 3 == 2] = np.nan
    return values


def write_fasta(path: Path, bases: dict[str, bytes], width: int = 60) -> None:
    """Write a FASTA with lines of `width` bases."""
    with path.open("wb") as handle:
        for chrom, letters in bases.items():
            handle.write(f">{chrom} generated\n".encode())
            handle.writelines(letters[i : i + width] + b"\n" for i in range(0, len(letters), width))


def write_bigwig(path: Path, values: dict[str, np.ndarray], lengths: dict[str, int] | None = None) -> None:
    """Write a bigWig with one value per base; NaN is left out."""
    import pyBigWig

    with pyBigWig.open(str(path), "w") as handle:
        handle.addHeader(list((lengths or {chrom: len(array) for chrom, array in values.items()}).items()))
        for chrom, array in values.items():
            starts = np.flatnonzero(~np.isnan(array))
            handle.addEntries(
                [chrom] * len(starts), starts.tolist(), ends=(starts + 1).tolist(), values=array[starts].tolist()
            )


def write_cooler(path: Path, counts: dict[str, np.ndarray], lengths: dict[str, int], bin_bp: int) -> None:
    """Write a .cool of symmetric count matrices, one per chromosome, through hictkpy."""
    from kipoi_seq2exp.data.tracks.contact_files import import_hictkpy

    hictkpy = import_hictkpy()
    import pandas as pd

    writer = hictkpy.cooler.FileWriter(str(path), lengths, resolution=bin_bp)
    offset = 0
    for chrom, length in lengths.items():
        first, second = np.nonzero(np.triu(counts[chrom]))
        pixels = pd.DataFrame(
            {
                "bin1_id": first + offset,
                "bin2_id": second + offset,
                "count": counts[chrom][first, second].astype(np.int32),
            }
        )
        writer.add_pixels(pixels)
        offset += -(-length // bin_bp)
    writer.finalize()


def write_mcool(path: Path, cool: Path, bin_bp: int) -> None:
    """Write an .mcool of one resolution, that of a .cool."""
    import h5py

    with h5py.File(cool) as source, h5py.File(path, "w") as target:
        target.attrs["format"] = "HDF5::MCOOL"
        target.attrs["format-version"] = 2
        source.copy(source["/"], target.create_group("resolutions"), name=str(bin_bp))


def write_hic(path: Path, counts: dict[str, np.ndarray], lengths: dict[str, int], bin_bp: int) -> None:
    """Write a .hic of symmetric count matrices, one per chromosome, through hictkpy."""
    from kipoi_seq2exp.data.tracks.contact_files import import_hictkpy

    hictkpy = import_hictkpy()
    import pandas as pd

    writer = hictkpy.hic.FileWriter(str(path), lengths, resolution=bin_bp)
    offset = 0
    for chrom in lengths:
        first, second = np.nonzero(np.triu(counts[chrom]))
        values = counts[chrom][first, second].astype(float)
        writer.add_pixels(pd.DataFrame({"bin1_id": first + offset, "bin2_id": second + offset, "count": values}))
        offset += len(counts[chrom])
    writer.finalize()


def write_genes(path: Path, random: np.random.Generator) -> None:
    """Write the gene table, with all features but the promoter's activity, a label and a text column."""
    header = ["gene_id", "chrom", "tss", "strand", *FEATURES, *FRACTIONS, "ORFEXONDENSITY", "label", "gene_name"]
    rows = ["\t".join(header)]
    for name, chrom, tss, strand in GENES:
        numbers = [
            *random.normal(size=4),
            *random.uniform(0.3, 0.7, size=3),
            random.uniform(0, 9),
            random.uniform(0, 3),
        ]
        rows.append("\t".join([name, chrom, str(tss), strand, *(f"{number:.4f}" for number in numbers), name.lower()]))
    path.write_text("\n".join(rows) + "\n")


def bed_record(name: str, chrom: str, tss: int, strand: str) -> str:
    """Return the BED6 line of a gene."""
    start, end = (tss, tss + 500) if strand == "+" else (tss - 499, tss + 1)
    return f"{chrom}\t{start}\t{end}\t{name}\t0\t{strand}\n"


def gtf_records(name: str, chrom: str, tss: int, strand: str) -> str:
    """Return the gene and transcript records of a gene (GTF is 1-based and closed)."""
    first, last = (tss + 1, tss + 500) if strand == "+" else (tss - 498, tss + 1)
    fields = f'gene_id "{name}.3"; gene_type "protein_coding"; gene_name "{name.lower()}";'
    return "".join(
        f"{chrom}\ttest\t{kind}\t{first}\t{last}\t.\t{strand}\t.\t{fields}\n" for kind in ("gene", "transcript")
    )
