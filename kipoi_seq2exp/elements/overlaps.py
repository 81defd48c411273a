"""Known regions that elements overlap: promoters of other genes, and named intervals of BED files.

Contract: a table of elements in, columns of names out; one shared base is an overlap; strands do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from kipoi_seq2exp.data.genes import NAME_COLUMN, read_genes
from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.data.text import bed_records, checked_label, whole_number
from kipoi_seq2exp.errors import ConfigError, InputError

PROMOTERS_OF = "promoters_of"
PROMOTER_FLANK_BP = 500
"""A promoter is the TSS +- this many bp."""
UNNAMED = "yes"
"""What stands for an interval without a name."""


class NamedIntervals:
    """Named intervals, searched for those that overlap a stretch.

    Parameters
    ----------
    table : DataFrame
        chrom, start, end (0-based, half-open), name.
    where : str
        What they are; starts every message.
    """

    def __init__(self, table: pd.DataFrame, where: str) -> None:
        self.where = where
        self._chroms = {}
        for chrom, rows in table.groupby("chrom", sort=False):
            rows = rows.sort_values("start", kind="stable")
            starts, ends = rows["start"].to_numpy(np.int64), rows["end"].to_numpy(np.int64)
            self._chroms[str(chrom)] = (starts, ends, np.maximum.accumulate(ends), rows["name"].tolist())

    def check_chromosomes(self, chroms: set[str]) -> None:
        """Check that chromosomes are named alike; to have intervals on other chromosomes only is no mistake.

        Raises
        ------
        InputError
            If no chromosome is shared and the naming differs ('1' against 'chr1').
        """
        if not chroms or chroms & set(self._chroms):
            return
        for chrom in sorted(chroms):
            other = other_name(chrom, self._chroms)
            if other:
                raise InputError(
                    f"{self.where} names {chrom} '{other}' (it has {listing(self._chroms)}): use one naming."
                )

    def names(self, chrom: str, start: int, end: int) -> list[str]:
        """Return the names of the intervals that share a base with [start, end), by their start."""
        if chrom not in self._chroms:
            return []
        starts, ends, reach, names = self._chroms[chrom]
        first = int(np.searchsorted(reach, start, side="right"))  # every interval before it ends too early
        last = int(np.searchsorted(starts, end, side="left"))
        return [names[place] for place in range(first, last) if ends[place] > start]


def promoters_of(gtf: Path) -> NamedIntervals:
    """Return the promoters of the genes of a GTF (TSS +- `PROMOTER_FLANK_BP`), named "id symbol"."""
    genes = read_genes(gtf)
    symbols = genes[NAME_COLUMN] if NAME_COLUMN in genes else [""] * len(genes)
    names = [f"{gene_id} {symbol}" for gene_id, symbol in zip(genes["gene_id"], symbols, strict=True)]
    start = (genes["tss"] - PROMOTER_FLANK_BP).clip(lower=0)
    table = pd.DataFrame({"chrom": genes["chrom"], "start": start, "end": genes["tss"] + PROMOTER_FLANK_BP})
    return NamedIntervals(table.assign(name=names), str(gtf))


def read_named(source: str) -> NamedIntervals:
    """Read the intervals of "BED[::COLUMN]": COLUMN is the number of the column of names, from 1 (by default 4).

    Raises
    ------
    InputError, ConfigError
        If the file cannot be read, the column is not given by its number, or a line lacks it.
    """
    file, _, column = source.partition("::")
    number = whole_number(column, source, "the column of names") if column else 4
    if number < 4:
        raise ConfigError(f"{source}: names begin in column 4 of a BED.")
    rows = []
    for record in bed_records(Path(file), file):
        if column and len(record.fields) < number:
            raise InputError(f"{file}, line {record.line}: it has no column {number}.")
        name = record.fields[number - 1] if len(record.fields) >= number else ""
        if name in ("", "."):
            name = UNNAMED
        name = checked_label(name, f"{file}, line {record.line}", f"column {number}")
        rows.append((record.chrom, record.start, record.end, name))
    if not rows:
        raise InputError(f"{file} holds no intervals.")
    return NamedIntervals(pd.DataFrame(rows, columns=["chrom", "start", "end", "name"]), file)


def overlap_columns(
    elements: pd.DataFrame, others: NamedIntervals | None, named: Mapping[str, NamedIntervals]
) -> pd.DataFrame:
    """Find what each element overlaps.

    Parameters
    ----------
    elements : DataFrame
        chrom, start, end, gene_id and more.
    others : NamedIntervals or None
        Promoters, from `promoters_of`: those of the element's own gene are left out.
    named : mapping of str to NamedIntervals
        Further intervals, by the name of their column.

    Returns
    -------
    DataFrame
        A row per element: `PROMOTERS_OF` (symbols, or ids where there is none) if there are `others`, then a column for
        each entry of `named`; names joined by commas, each once, empty where there is no overlap.

    Raises
    ------
    InputError, ConfigError
        If chromosomes are named differently, or a column of that name exists already.
    """
    chroms = set(elements["chrom"])
    columns: dict[str, list[str]] = {}
    if others is not None:
        others.check_chromosomes(chroms)
        columns[PROMOTERS_OF] = [
            _joined(
                [_symbol(name) for name in others.names(row.chrom, row.start, row.end) if _other(name, row.gene_id)]
            )
            for row in elements.itertuples()
        ]
    for name, intervals in named.items():
        if name in elements or name in columns:
            raise ConfigError(f"--overlaps {name}: the elements have a column of this name; choose another.")
        intervals.check_chromosomes(chroms)
        columns[name] = [_joined(intervals.names(row.chrom, row.start, row.end)) for row in elements.itertuples()]
    return pd.DataFrame(columns, index=elements.index)


def _joined(names: list[str]) -> str:
    return ",".join(dict.fromkeys(names))


def _symbol(name: str) -> str:
    gene_id, symbol = name.split(" ", 1)
    return symbol or gene_id


def _other(name: str, gene_id: str) -> bool:
    found, symbol = name.split(" ", 1)
    return gene_id not in (found, symbol) and found.split(".")[0] != gene_id.split(".")[0]
