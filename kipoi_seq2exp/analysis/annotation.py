"""What is known of a locus besides the prediction: gene models of a GTF, and named intervals of a BED."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kipoi_seq2exp.analysis.elements import Locus
from kipoi_seq2exp.data.regions import text_lines
from kipoi_seq2exp.errors import InputError


@dataclass(frozen=True)
class GeneModel:
    """A gene as it is drawn: its span and the union of its exons, 0-based and half-open."""

    gene_id: str
    name: str
    kind: str
    strand: str
    start: int
    end: int
    exons: tuple[tuple[int, int], ...]


def read_gene_models(path: Path, locus: Locus) -> tuple[GeneModel, ...]:
    """Read the genes of a GTF (plain or .gz) that overlap a window, sorted by start.

    Raises
    ------
    InputError
        If the file is missing or damaged, or a line is no GTF record.
    """
    genes: dict[str, tuple[dict[str, str], str, int, int]] = {}
    exons: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for number, line in text_lines(path, str(path)):
        if line.startswith("#") or not line.strip():
            continue
        fields = line.rstrip("\n").split("\t")
        if len(fields) < 9 or not (fields[3].isdigit() and fields[4].isdigit()):
            raise InputError(f"{path}, line {number}: is no GTF record (nine columns, numbers in the 4th and 5th).")
        start, end = int(fields[3]) - 1, int(fields[4])
        if fields[0] != locus.chrom or end <= locus.start or start >= locus.end or fields[2] not in ("gene", "exon"):
            continue
        named = _attributes(fields[8])
        if fields[2] == "gene":
            genes[named.get("gene_id", "")] = (named, fields[6], start, end)
        else:
            exons[named.get("gene_id", "")].add((start, end))
    models = [
        GeneModel(
            gene_id,
            named.get("gene_name", gene_id),
            named.get("gene_type", named.get("gene_biotype", "")),
            strand,
            start,
            end,
            tuple(sorted(exons[gene_id])),
        )
        for gene_id, (named, strand, start, end) in genes.items()
    ]
    return tuple(sorted(models, key=lambda model: (model.start, model.end, model.gene_id)))


def read_known_elements(path: Path, locus: Locus) -> pd.DataFrame:
    """Read the intervals of a BED that overlap a window.

    Returns
    -------
    DataFrame
        Columns start, end, name and kind: the 7th column where it is a word, else "known".

    Raises
    ------
    InputError
        If the file is missing or a line is no interval.
    """
    rows = []
    for number, line in text_lines(path, str(path)):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        fields = [field.strip() for field in fields]
        if len(fields) < 3 or not (fields[1].isdigit() and fields[2].isdigit()):
            raise InputError(f"{path}, line {number}: expected chrom, start, end, found {line.strip()[:60]!r}.")
        start, end = int(fields[1]), int(fields[2])
        if fields[0] == locus.chrom and end > locus.start and start < locus.end:
            kind = fields[6] if len(fields) > 6 and fields[6][:1].isalpha() else "known"
            rows.append((start, end, fields[3] if len(fields) > 3 else "", kind))
    return pd.DataFrame(rows, columns=["start", "end", "name", "kind"])


def _attributes(text: str) -> dict[str, str]:
    pairs = (item.strip().split(" ", 1) for item in text.split(";") if item.strip())
    return {pair[0]: pair[1].strip().strip('"') for pair in pairs if len(pair) == 2}
