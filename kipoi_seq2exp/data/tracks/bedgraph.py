"""bedGraph and called peaks as signal tracks: intervals of a text file (also .gz), 0 elsewhere.

Where intervals overlap, the largest value holds: bedGraph forbids overlaps, but peak lists and tracks made from them
have them. The file is read whole at first use, so use bigWig for tracks with a value at most bases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.regions import ValueColumn, read_intervals
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks.track import SignalTrack, Values
from kipoi_seq2exp.errors import InputError


@dataclass(frozen=True)
class Steps:
    """Disjoint intervals of one chromosome with a value each, sorted: starts, ends int64 (n,), values float32 (n,)."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    values: Values

    def expand(self, start: int, end: int) -> Values:
        """Return one value per base of ``[start, end)``: float32 (L,), 0 between the intervals."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.starts, end, side="left"))
        edges = np.empty(2 * (last - first) + 2, dtype=np.int64)  # gap, interval, gap, interval, ... gap
        edges[0], edges[-1] = start, end
        edges[1:-1:2] = np.maximum(self.starts[first:last], start)
        edges[2:-1:2] = np.minimum(self.ends[first:last], end)
        levels = np.zeros(2 * (last - first) + 1, dtype=np.float32)
        levels[1::2] = self.values[first:last]
        return np.repeat(levels, np.diff(edges))


class BedGraphTrack(SignalTrack[dict[str, Steps]]):
    """Values of a bedGraph file; without chromosome lengths in it, its last interval is compared with the FASTA."""

    value: ValueColumn | None = ValueColumn(3)

    @cached_property
    def lengths(self) -> Mapping[str, int | None]:
        """Chromosomes of the file; the lengths are unknown (None)."""
        return dict.fromkeys(self.handle)

    def check_against(self, genome: Genome, chroms: Iterable[str]) -> None:
        """Check that the chromosomes are there and that no interval lies beyond their end."""
        chroms = list(chroms)
        super().check_against(genome, chroms)
        for chrom in chroms:
            last = int(self.handle[chrom].ends[-1])
            if last > genome.lengths[chrom]:
                raise InputError(
                    f"{self.where}: an interval ends at {chrom}:{last} but {chrom} is {genome.lengths[chrom]:,} bp "
                    f"long in the FASTA: they are of different genome builds; use files of one build."
                )

    def _open(self) -> dict[str, Steps]:
        table = read_intervals(self.path, self.where, self.value)
        if self.value is None:
            table = table.assign(value=1.0)
        groups = table.groupby("chrom", sort=False)
        return {
            str(chrom): flatten(rows["start"].to_numpy(), rows["end"].to_numpy(), rows["value"].to_numpy(np.float32))
            for chrom, rows in groups
        }

    def _has_negative(self) -> bool:
        return any(bool((steps.values < 0).any()) for steps in self.handle.values())

    def _read(self, chrom: str, start: int, end: int) -> Values:
        return self.handle[chrom].expand(start, end)


PEAK_COLUMNS = {"score": 5, "signalValue": 7, "pValue": 8, "qValue": 9}
"""Columns, from 1, that narrowPeak and broadPeak share."""

PRESENCE = "presence"
"""The name given instead of a column to read 1 in every peak."""


class PeakFileTrack(BedGraphTrack):
    """Called peaks: their value is a column of the file, 7 (signalValue) unless another is named, or 1 in each.

    Parameters
    ----------
    path : str or Path
        .narrowPeak, .broadPeak or .bed.
    spec : TrackSpec
    column : str
        A number from 1, a name of `PEAK_COLUMNS`, or `PRESENCE`; empty: signalValue.

    Raises
    ------
    InputError
        If the column is none of these; when the file is read, if it lacks the column.
    """

    def __init__(self, path: str | Path, spec: TrackSpec, column: str = "") -> None:
        super().__init__(path, spec)
        self.column = column or "signalValue"
        self.value = self._value_column()

    @property
    def description(self) -> str:
        """What is read of the file, for the record of a run."""
        what = "1 in every peak" if self.value is None else f"value of each peak: {self._column_text()}"
        return f"{self.path} ({what})"

    def _value_column(self) -> ValueColumn | None:
        if self.column == PRESENCE:
            return None
        number = PEAK_COLUMNS.get(self.column, int(self.column) if self.column.isdecimal() else 0)
        if number < 4:
            raise InputError(
                f"{self.where}: '{self.column}' is not a column of values: give a number from 4 on, "
                f"{', '.join(PEAK_COLUMNS)}, or '{PRESENCE}' (as in {self.path.name}::{PRESENCE})."
            )
        return ValueColumn(
            number - 1,
            f"no number in column {number}{'' if self.column.isdecimal() else f' ({self.column})'}: name the column of "
            f"the values, as in {self.path.name}::5, or read 1 in every peak by {self.path.name}::{PRESENCE}.",
        )

    def _column_text(self) -> str:
        if self.column.isdecimal():
            return f"column {self.column}"
        return f"{self.column}, column {PEAK_COLUMNS[self.column]}"


def flatten(starts: NDArray[np.int64], ends: NDArray[np.int64], values: Values) -> Steps:
    """Turn intervals in any order into disjoint sorted ones; where some overlap, the largest value holds.

    Parameters
    ----------
    starts, ends : ndarray of int64, (n,)
    values : ndarray of float32, (n,)
    """
    order = np.argsort(starts, kind="stable")
    starts, ends, values = starts[order], ends[order], values[order]
    if (starts[1:] >= ends[:-1]).all():
        return Steps(starts, ends, values)
    edges = np.unique(np.concatenate([starts, ends]))
    levels = np.full(len(edges) - 1, np.nan, dtype=np.float32)
    firsts, lasts = np.searchsorted(edges, starts), np.searchsorted(edges, ends)
    for i in np.argsort(values, kind="stable"):  # the largest is written last
        levels[firsts[i] : lasts[i]] = values[i]
    kept = ~np.isnan(levels)
    return Steps(edges[:-1][kept], edges[1:][kept], levels[kept])
