"""An invented genome written to files that every command reads, and read back: windows equal those in memory.

genome.fa, h3k27ac.bw, dnase.bw, contacts.tsv (a profile for each gene), genes.tsv      what a model reads
elements.tsv, pairs.tsv                                                                 the truth
genome.yaml                                                                             the settings
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.tables import read_table, write_tsv
from kipoi_seq2exp.elements.bigwig import BigWigWriter
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.files import make_folder, whole_file, write_text
from kipoi_seq2exp.judge.invented import BIN_BP, STEP_BP, write_fasta
from kipoi_seq2exp.judge.recovery_genome import PARTS, GenomeSettings, KnownTruth, RecoveryGenome
from kipoi_seq2exp.settings import from_mapping, read_yaml, to_mapping

FASTA, CONTACTS, SETTINGS = "genome.fa", "contacts.tsv", "genome.yaml"
TABLES = {
    "genes": ("gene_id", "chrom", "tss", "part", "promoter", "truth", "expression"),
    "elements": ("name", "activity"),
    "pairs": ("gene_id", "name", "chrom", "start", "end", "distance_bp", "contact", "regulated", "effect"),
}
"""Tables of a genome, and the columns that the benchmark reads of each."""
SIGNALS = ("h3k27ac", "dnase")
_PIECE = 40_000  # steps of a track at once


@dataclass(frozen=True)
class GenomeFiles(KnownTruth):
    """An invented genome in files.

    Attributes
    ----------
    windows : WindowDataset
        Of `genes`, in their order.
    signals : dict of str to Path
        The file of each signal track.
    """

    windows: WindowDataset
    signals: dict[str, Path]

    @property
    def lengths(self) -> dict[str, int]:
        """Chromosomes and their lengths in bp."""
        return self.windows.genome.lengths

    def __getitem__(self, index: int) -> WindowInputs:
        """Return the window of a gene."""
        return self.windows[index]


def write_genome(genome: RecoveryGenome, folder: Path) -> tuple[Path, ...]:
    """Write a genome; return the files.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    make_folder(folder)
    write_fasta(folder / FASTA, genome.bases)
    for name in SIGNALS:
        write_track(genome, name, folder / f"{name}.bw")
    rows = [
        (gene_id, (first + offset) * BIN_BP, min((first + offset + 1) * BIN_BP, genome.lengths[chrom]), value)
        for gene_id, chrom in zip(genome.genes["gene_id"], genome.genes["chrom"], strict=True)
        for first, profile in [genome.contacts[gene_id]]
        for offset, value in enumerate(profile)
    ]
    write_tsv(pd.DataFrame(rows, columns=["gene_id", "start", "end", "contact"]), folder / CONTACTS)
    for name in TABLES:
        write_tsv(getattr(genome, name), folder / f"{name}.tsv")
    write_text(folder / SETTINGS, yaml.safe_dump(to_mapping(genome.settings), sort_keys=False))
    names = [FASTA, *(f"{name}.bw" for name in SIGNALS), CONTACTS, *(f"{name}.tsv" for name in TABLES), SETTINGS]
    return tuple(folder / name for name in names)


def write_track(genome: RecoveryGenome, name: str, path: Path) -> None:
    """Write a track as bigWig.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        writer = BigWigWriter(handle, genome.lengths)
        for chrom, steps in genome.tracks[name].items():
            for first in range(0, len(steps), _PIECE):
                start = first * STEP_BP
                values = np.repeat(steps[first : first + _PIECE], STEP_BP)[: genome.lengths[chrom] - start]
                writer.add(chrom, start, values)
        writer.close()


def read_genome(folder: Path) -> GenomeFiles:
    """Open the files that `write_genome` made.

    Raises
    ------
    InputError
        If a file is missing or cannot be used, or no gene is held out.
    """
    settings = from_mapping(GenomeSettings, read_yaml(folder / SETTINGS), str(folder / SETTINGS))
    files = {name: folder / f"{name}.tsv" for name in TABLES}
    tables = {name: read_table(file, str(file), TABLES[name]).typed() for name, file in files.items()}
    signals = {name: folder / f"{name}.bw" for name in SIGNALS}
    sources: dict[str, str | Path] = {**signals, "hic": folder / CONTACTS}
    for part in PARTS:
        if not (tables["genes"]["part"] == part).any():
            raise InputError(f"{files['genes']}: the column 'part' names no gene of the part '{part}'.")
    windows = WindowDataset(settings.inputs, files["genes"], folder / FASTA, sources)
    return GenomeFiles(settings, **tables, windows=windows, signals=signals)
