"""What is known about a locus besides the prediction: gene models of a GTF, and named intervals of a BED."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.regions import merge
from kipoi_seq2exp.data.text import bed_records, gtf_records
from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.errors import InputError


@dataclass(frozen=True)
class GeneModel:
    """A gene as it is drawn: its span and the union of its exons, 0-based and half-open."""

    gene_id: str
    name: str
    kind: str
    chrom: str
    strand: str
    start: int
    end: int
    exons: tuple[tuple[int, int], ...]

    def is_gene(self, gene_id: str) -> bool:
        """Whether `gene_id` is this gene's id, with or without its version, or its name."""
        return gene_id in (self.gene_id, self.gene_id.split(".")[0], self.name)

    @property
    def coding(self) -> bool:
        """Whether it codes for a protein, or the GTF does not say; pictures show these beside the predicted gene."""
        return self.kind in ("", "protein_coding")


class _Windows:
    """The union of windows, searched for what overlaps it."""

    def __init__(self, loci: tuple[Locus, ...]) -> None:
        self._spans: dict[str, tuple[list[int], list[int]]] = {}
        for chrom in {locus.chrom for locus in loci}:
            spans = np.array([(locus.start, locus.end) for locus in loci if locus.chrom == chrom], dtype=np.int64)
            starts, ends = merge(spans[:, 0], spans[:, 1])
            self._spans[chrom] = (starts.tolist(), ends.tolist())

    def reach(self, chrom: str) -> bool:
        """Whether any window lies on a chromosome."""
        return chrom in self._spans

    def overlap(self, chrom: str, start: int, end: int) -> bool:
        """Whether any window holds a base of [start, end)."""
        if not self.reach(chrom):
            return False
        starts, ends = self._spans[chrom]
        last = bisect_left(starts, end) - 1
        return last >= 0 and ends[last] > start


def read_gene_models(path: Path, *loci: Locus) -> tuple[GeneModel, ...]:
    """Read the genes of a GTF (plain or .gz) that overlap any of the windows, sorted by chromosome and start.

    Raises
    ------
    InputError
        If the file is missing or damaged, a line is not a GTF record, or it names none of the windows' chromosomes.
    """
    windows = _Windows(loci)
    chroms: dict[str, None] = {}
    genes: dict[str, tuple[dict[str, str], str, str, int, int]] = {}
    exons: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for record in gtf_records(path, str(path)):
        chroms[record.chrom] = None
        if record.feature not in ("gene", "exon") or not windows.reach(record.chrom):
            continue
        inside = windows.overlap(record.chrom, record.start, record.end)
        if record.feature == "gene" and inside:
            named = record.attributes()
            genes[named.get("gene_id", "")] = (named, record.chrom, record.strand, record.start, record.end)
        elif record.feature == "exon":
            gene_id = record.attributes().get("gene_id", "")
            if inside or gene_id in genes:  # a gene that reaches into a window is drawn whole
                exons[gene_id].add((record.start, record.end))
    if not any(map(windows.reach, chroms)):
        raise InputError(
            f"{path} has no chromosome {loci[0].chrom!r} (it has {listing(chroms)}): gene models and predictions must "
            f"share one naming."
        )
    models = [
        GeneModel(
            gene_id,
            named.get("gene_name", gene_id),
            named.get("gene_type", named.get("gene_biotype", "")),
            chrom,
            strand,
            start,
            end,
            _joined(exons[gene_id]),
        )
        for gene_id, (named, chrom, strand, start, end) in genes.items()
    ]
    return tuple(sorted(models, key=lambda model: (model.chrom, model.start, model.end, model.gene_id)))


def _joined(exons: set[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join the exons of all transcripts: their union, sorted."""
    if not exons:
        return ()
    bounds = np.array(sorted(exons), dtype=np.int64)
    starts, ends = merge(bounds[:, 0], bounds[:, 1])
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))


def read_known_elements(path: Path, locus: Locus) -> pd.DataFrame:
    """Read the intervals of a BED that overlap a window.

    Returns
    -------
    DataFrame
        Columns start, end, name and kind: the 7th column where it is a word, else "known".

    Raises
    ------
    InputError
        If the file is missing or a line is not an interval.
    """
    rows = []
    for record in bed_records(path, str(path)):
        if record.chrom == locus.chrom and record.end > locus.start and record.start < locus.end:
            name, kind = (record.fields[at] if len(record.fields) > at else "" for at in (3, 6))
            rows.append((record.start, record.end, name, kind if kind[:1].isalpha() else "known"))
    return pd.DataFrame(rows, columns=["start", "end", "name", "kind"])
