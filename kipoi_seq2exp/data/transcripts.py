"""Transcripts of a GTF, one for each gene, and the features of genes that follow from it: lengths, G+C, exon density.

Contract: the numbers are those of Xpresso's tables (Agarwal and Shendure 2020), from which the published model has its
features: the coding sequence of a transcript is what the GTF calls CDS, without the stop codon, which belongs to the 3'
UTR; lengths are log10(bases + 0.1), as z-scores by that study's constants over human genes.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from kipoi_seq2exp.data.genes import NAME_COLUMN, TYPE_COLUMN
from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.text import gtf_records
from kipoi_seq2exp.errors import InputError, counted
from kipoi_seq2exp.settings import suggest

Blocks = list[tuple[int, int]]

PSEUDO_BP = 0.1
Z_SCORES: Mapping[str, tuple[float, float]] = {
    "UTR5LEN": (2.0787695317, 0.7920990963),
    "CDSLEN": (3.1077658291, 0.2955455413),
    "INTRONLEN": (4.0756015773, 1.0396176087),
    "UTR3LEN": (2.8099409261, 0.6203633721),
}
"""Mean and standard deviation of log10(bases + `PSEUDO_BP`) over the human genes of Xpresso, by feature."""
GC = ("UTR5GC", "CDSGC", "UTR3GC")
DENSITY = "ORFEXONDENSITY"
TRANSCRIPT, RULE = "transcript_id", "transcript_rule"
"""Columns for the transcript that a gene's features describe, and for the rule that chose it."""


class Choice(str, enum.Enum):
    """Which of a gene's coding transcripts its features describe."""

    LONGEST = "longest"  # the longest coding sequence, then the longest mRNA, then the first id
    MANE = "mane"  # the one tagged MANE_Select
    CANONICAL = "canonical"  # the one tagged Ensembl_canonical


_TAGS = {Choice.MANE: "MANE_Select", Choice.CANONICAL: "Ensembl_canonical"}


@dataclass
class Transcript:
    """A coding transcript: its exons and its coding sequence as blocks, 0-based and half-open, sorted.

    Attributes
    ----------
    gene : dict of str to str
        gene_id, chrom, strand, gene_name, gene_type.
    transcript_id : str
    tags : str
        The attributes of its record, where tags are looked up.
    exons, coding : list of (int, int)
    """

    gene: dict[str, str]
    transcript_id: str
    tags: str = ""
    exons: Blocks = field(default_factory=list)
    coding: Blocks = field(default_factory=list)

    @property
    def tss(self) -> int:
        """The first transcribed base, 0-based."""
        return self.exons[-1][1] - 1 if self.gene["strand"] == "-" else self.exons[0][0]

    @property
    def utrs(self) -> tuple[Blocks, Blocks]:
        """The exons before and behind the coding sequence, along the gene: 5' and 3' UTR."""
        before, behind = _cut(self.exons, 0, self.coding[0][0]), _cut(self.exons, self.coding[-1][1], self.exons[-1][1])
        return (behind, before) if self.gene["strand"] == "-" else (before, behind)

    def has_tag(self, choice: Choice) -> bool:
        """Whether the transcript has the tag of a choice; "longest" has no tag."""
        return f'tag "{_TAGS[choice]}"' in self.tags

    @property
    def rank(self) -> tuple[int, int]:
        """Length of the coding sequence, then of the mRNA, in bp."""
        return _length(self.coding), _length(self.exons)


def gene_features(
    gtf: Path, genome: Genome, choice: Choice = Choice.LONGEST, gene_type: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Make the gene table of a GTF, with the features that follow from a transcript of each gene.

    Parameters
    ----------
    gtf : Path
        With gene, transcript, exon and CDS records, as GENCODE and Ensembl have them.
    genome : Genome
    choice : Choice
        Which transcript; genes without the tag that it asks for take the longest, which `RULE` says.
    gene_type : str, optional
        Keep only the genes of this type, e.g. "protein_coding".

    Returns
    -------
    table : DataFrame
        A row per gene with a coding transcript, in the file's order: gene_id, gene_name, gene_type, chrom, tss (of the
        transcript, 0-based), strand, `TRANSCRIPT`, `RULE`, then the eight features under the columns that models read;
        NaN where a UTR has no bases to count.
    notes : list of str
        What was left out, and what is missing.

    Raises
    ------
    InputError
        If the GTF or the FASTA cannot be used together, or no gene is left.
    """
    transcripts = read_transcripts(gtf, gene_type)
    genes = {gene_id: found for gene_id, found in transcripts.items() if found[0].gene["chrom"] in genome.lengths}
    if not genes:
        chroms = sorted({found[0].gene["chrom"] for found in transcripts.values()})
        other = other_name(chroms[0], genome.lengths)
        hint = f"the FASTA names {chroms[0]} '{other}'" if other else f"the FASTA has {listing(genome.lengths)}"
        raise InputError(f"{gtf} shares no chromosome with the FASTA: it has {listing(chroms)}, {hint}.")
    rows = [feature_row(*_chosen(found, choice), genome, str(gtf)) for found in genes.values()]
    table = pd.DataFrame(rows)
    notes = []
    if len(genes) < len(transcripts):
        notes.append(f"{counted(len(transcripts) - len(genes), 'gene')} on chromosomes that the FASTA lacks: left out")
    if choice is not Choice.LONGEST and (others := int((table[RULE] == Choice.LONGEST.value).sum())):
        notes.append(f"{counted(others, 'gene')} without the tag {_TAGS[choice]}: the longest transcript is taken")
    for name in GC:
        if lacking := int(table[name].isna().sum()):
            notes.append(f"{counted(lacking, 'gene')} with unknown {name}: left empty")
    return table, notes


def read_transcripts(gtf: Path, gene_type: str | None = None) -> dict[str, list[Transcript]]:
    """Read the coding transcripts of a GTF, by gene id.

    Raises
    ------
    InputError
        If the file cannot be read, has no coding transcript, or none of the type asked for.
    """
    genes: dict[str, list[Transcript]] = {}
    for transcript in _all_transcripts(gtf).values():
        transcript.exons.sort()
        transcript.coding.sort()
        if transcript.exons and transcript.coding:
            genes.setdefault(transcript.gene["gene_id"], []).append(transcript)
    if not genes:
        raise InputError(f"{gtf} has no transcript with exon and CDS records, which features are made from.")
    if gene_type is not None:
        types = {found[0].gene[TYPE_COLUMN] for found in genes.values()}
        genes = {name: found for name, found in genes.items() if found[0].gene[TYPE_COLUMN] == gene_type}
        if not genes:
            raise InputError(f"{gtf} has no coding gene of type '{gene_type}'{suggest(gene_type, types)}.")
    return genes


def _all_transcripts(gtf: Path) -> dict[str, Transcript]:
    """Read every transcript by its id, its blocks in the file's order."""
    found: dict[str, Transcript] = {}
    for record in gtf_records(gtf, str(gtf)):
        if record.feature not in ("transcript", "exon", "CDS"):
            continue
        attributes = record.attributes()
        name = attributes.get("transcript_id", "")
        if not name or not attributes.get("gene_id"):
            raise InputError(f"{gtf}, line {record.line}: the {record.feature} names no transcript_id and gene_id.")
        if name not in found:
            gene = {"gene_id": attributes["gene_id"], "chrom": record.chrom, "strand": record.strand}
            gene[NAME_COLUMN] = attributes.get("gene_name", "")
            gene[TYPE_COLUMN] = attributes.get("gene_type", attributes.get("gene_biotype", ""))
            found[name] = Transcript(gene, name)
        if record.feature == "transcript":
            found[name].tags = record.text
        else:
            blocks = found[name].exons if record.feature == "exon" else found[name].coding
            blocks.append((record.start, record.end))
    return found


def _chosen(transcripts: Sequence[Transcript], choice: Choice) -> tuple[Transcript, Choice]:
    """Return the transcript of a gene, and the rule that chose it."""
    if choice is not Choice.LONGEST:
        tagged = [transcript for transcript in transcripts if transcript.has_tag(choice)]
        if tagged:
            return tagged[0], choice
    return min(transcripts, key=lambda one: (-one.rank[0], -one.rank[1], one.transcript_id)), Choice.LONGEST


def feature_row(transcript: Transcript, rule: Choice, genome: Genome, where: str) -> dict[str, str | int | float]:
    """Return the row of one gene; see `gene_features`."""
    gene, (five, three), coding = transcript.gene, transcript.utrs, transcript.coding
    start, end, chrom = transcript.exons[0][0], transcript.exons[-1][1], gene["chrom"]
    if end > genome.lengths[chrom]:
        raise InputError(
            f"{where}: the transcript {transcript.transcript_id} ends at {chrom}:{end:,}, but {chrom} is "
            f"{genome.lengths[chrom]:,} bp long in the FASTA: they are of different genome builds; use files of one."
        )
    lengths = {"UTR5LEN": five, "CDSLEN": coding, "INTRONLEN": _between(transcript.exons), "UTR3LEN": three}
    letters = genome.bases(chrom, start, end).upper()
    row: dict[str, str | int | float] = {"gene_id": gene["gene_id"]}
    row |= {name: gene[name] for name in (NAME_COLUMN, TYPE_COLUMN, "chrom")}
    row |= {"tss": transcript.tss, "strand": gene["strand"]}
    row |= {TRANSCRIPT: transcript.transcript_id, RULE: rule.value}
    row |= {f"{name}_log10zscore": length_score(name, _length(parts)) for name, parts in lengths.items()}
    row |= {name: _gc(parts, letters, start) for name, parts in zip(GC, (five, coding, three), strict=True)}
    row[DENSITY] = 1_000 * (len(coding) - 1) / _length(coding)
    return row


def length_score(name: str, length_bp: int) -> float:
    """Return the z-score of a length in bp, by the constants of a feature of `Z_SCORES`."""
    mean, deviation = Z_SCORES[name]
    return float((np.log10(length_bp + PSEUDO_BP) - mean) / deviation)


def _gc(blocks: Blocks, letters: bytes, start: int) -> float:
    """Return the share of G and C among the known bases of blocks; NaN without any. `letters` begin at `start`."""
    text = b"".join(letters[first - start : last - start] for first, last in blocks)
    strong, weak = (sum(text.count(letter) for letter in pair) for pair in ((b"G", b"C"), (b"A", b"T")))
    return strong / (strong + weak) if strong + weak else float("nan")


def _cut(blocks: Blocks, first: int, last: int) -> Blocks:
    return [(max(start, first), min(end, last)) for start, end in blocks if min(end, last) > max(start, first)]


def _between(blocks: Blocks) -> Blocks:
    return [(before[1], behind[0]) for before, behind in itertools.pairwise(blocks)]


def _length(blocks: Blocks) -> int:
    return sum(end - start for start, end in blocks)
