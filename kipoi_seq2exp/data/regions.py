"""Regions of a BED file (blacklist, peaks): read and checked by line, merged, turned into masks of windows.

`merge` does what `bioframe.merge` does (a test compares them) without importing a plotting library at every start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.data.text import bed_records, checked_label
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.errors import InputError, excerpt

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.data.sequence import Genome


class Regions:
    """Merged intervals of a BED file (BED3 and more, narrowPeak, broadPeak; also .gz), held in memory.

    Parameters
    ----------
    path : str or Path
    what : str
        What the file is for ("blacklist"), for messages.

    Raises
    ------
    InputError
        If the file is missing, empty or damaged, or a line is not an interval.
    """

    def __init__(self, path: str | Path, what: str = "regions") -> None:
        self.path = Path(path)
        self.where = f"{what} {self.path}"
        intervals = read_intervals(self.path, self.where)
        self._bounds: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {
            str(chrom): merge(rows["start"].to_numpy(np.int64), rows["end"].to_numpy(np.int64))
            for chrom, rows in intervals.groupby("chrom", sort=False)
        }

    @property
    def chroms(self) -> tuple[str, ...]:
        """Chromosomes that have a region."""
        return tuple(self._bounds)

    def mask(self, chrom: str, start: int, end: int) -> NDArray[np.bool_]:
        """Return which bases of ``[start, end)`` lie in a region: bool (L,)."""
        window = Window(chrom, start, end)
        mask = np.zeros(len(window), dtype=np.bool_)
        if chrom in self._bounds:
            starts, ends = self._bounds[chrom]
            first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left")
            for region_start, region_end in zip(starts[first:last], ends[first:last], strict=True):
                mask[max(region_start - start, 0) : region_end - start] = True
        return mask

    def check_against(self, genome: Genome) -> None:
        """Check that the regions name chromosomes as the FASTA does and end within them.

        Raises
        ------
        InputError
            If no chromosome is shared, or a region ends beyond its chromosome.
        """
        if not set(self._bounds) & set(genome.lengths):
            name = next(iter(self._bounds))
            other = other_name(name, genome.lengths)
            hint = f"'{name}' is '{other}' there" if other else f"that has {listing(genome.lengths)}"
            raise InputError(
                f"{self.where} shares no chromosome with the FASTA ({hint}): it has {listing(self._bounds)}; use one "
                "naming."
            )
        for chrom, (_, ends) in self._bounds.items():
            if chrom in genome.lengths and ends[-1] > genome.lengths[chrom]:
                raise InputError(
                    f"{self.where}: a region ends at {chrom}:{ends[-1]} but {chrom} is {genome.lengths[chrom]:,} bp "
                    f"long in the FASTA: they are of different genome builds; use files of one build."
                )


def merge(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the starts and ends of the union of intervals, sorted; touching intervals become one."""
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return starts[first], reach[last]


@dataclass(frozen=True)
class ValueColumn:
    """The column of an interval file that holds its values.

    Attributes
    ----------
    index : int
        Number of the column, from 0.
    absent : str
        Message for a line without a number there; by default that four columns are expected.
    """

    index: int
    absent: str = ""


def read_intervals(path: Path, where: str, value: ValueColumn | None = None, *, names: bool = False) -> pd.DataFrame:
    """Read the intervals of a BED-like text file, checking each line.

    Parameters
    ----------
    path : Path
    where : str
        What the file is, for messages.
    value : ValueColumn, optional
        Column of a number to read as `value`.
    names : bool
        Read the fourth column too, as `name`; empty where a line has none.

    Returns
    -------
    DataFrame
        Columns chrom, start, end (0-based, half-open) and, if asked for, value and name.

    Raises
    ------
    InputError
        If the file is missing, empty or damaged, or a line is not an interval; the line is named.
    """
    import pandas as pd

    columns: dict[str, list[Any]] = {"chrom": [], "start": [], "end": []}
    if value is not None:
        columns["value"] = []
    if names:
        columns["name"] = []
    needed = "chrom, start, end" if value is None or value.absent else "chrom, start, end, value"
    for record in bed_records(path, where, needed):
        here = f"{where}, line {record.line}"
        if value is not None:
            columns["value"].append(_value(record.fields, here, value))
        columns["chrom"].append(record.chrom)
        columns["start"].append(record.start)
        columns["end"].append(record.end)
        if names:
            name = record.fields[3] if len(record.fields) > 3 else ""
            columns["name"].append(name and checked_label(name, here, "name (column 4)"))
    if not columns["chrom"]:
        raise InputError(f"{where} holds no intervals.")
    return pd.DataFrame(columns)


def _value(fields: list[str], where: str, value: ValueColumn) -> float:
    try:
        return float(fields[value.index])
    except (IndexError, ValueError):
        found = excerpt(fields[value.index]) if len(fields) > value.index else ""
        raise InputError(
            f"{where}: {value.absent or f'the value (column {value.index + 1}) is {found!r}, not a number.'}"
        ) from None
