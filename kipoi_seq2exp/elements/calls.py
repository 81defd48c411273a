"""From an element mask to elements: intervals of DNA that drive the gene, each with a score.

Contract: one mask, one number per base of the window, in; intervals in window coordinates out, sorted and disjoint.
The promoter is forced into the mask by the model: it is never called, and no call reaches across it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.errors import ConfigError, ShapeError

COLUMNS = (
    "chrom",
    "start",
    "end",
    "gene_id",
    "score",
    "strand",
    "mean_mask",
    "max_mask",
    "distance_to_tss",
    "length_bp",
)


@dataclass(frozen=True)
class CallSettings:
    """How a mask is cut into elements.

    Attributes
    ----------
    threshold : float
        A base is called when its mask reaches this probability; used when `top_fraction` is None.
    top_fraction : float or None
        Call this fraction of the bases outside the promoter instead, those with the highest mask; bases that tie with
        the last one are called too, bases with a mask of 0 never.
    min_length_bp : int
        Shorter calls are dropped, after merging.
    merge_gap_bp : int
        Calls that lie at most this far apart become one.
    """

    threshold: float = 0.5
    top_fraction: float | None = None
    min_length_bp: int = 50
    merge_gap_bp: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold must be above 0 and at most 1, found {self.threshold}.")
        if self.top_fraction is not None and not 0 < self.top_fraction < 1:
            raise ConfigError(f"top_fraction must lie between 0 and 1, found {self.top_fraction}.")
        if self.min_length_bp < 1 or self.merge_gap_bp < 0:
            raise ConfigError(
                f"min_length_bp must be at least 1 and merge_gap_bp at least 0, found {self.min_length_bp} and "
                f"{self.merge_gap_bp}."
            )


@dataclass(frozen=True)
class Calls:
    """Called intervals of one window, sorted by start.

    Attributes
    ----------
    start, end : ndarray of int64, (E,)
        Bases from the window's start, half-open.
    mean, max : ndarray of float64, (E,)
        Mask over the interval.
    threshold : float
        Smallest mask that was called.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    mean: NDArray[np.float64]
    max: NDArray[np.float64]
    threshold: float

    def __len__(self) -> int:
        return len(self.start)

    def bases(self, length: int) -> NDArray[np.bool_]:
        """Return which bases of a window of `length` bp are called: bool (L,)."""
        called = np.zeros(length, dtype=bool)
        for first, last in zip(self.start, self.end, strict=True):
            called[first:last] = True
        return called


def call_elements(mask: NDArray[np.floating], promoter: slice, settings: CallSettings) -> Calls:
    """Cut a mask into elements.

    Parameters
    ----------
    mask : ndarray, (L,)
        Probability of each base, 0 to 1.
    promoter : slice
        Bases that are never called.
    settings : CallSettings

    Raises
    ------
    ShapeError
        If the mask is not one finite number per base.
    """
    if mask.ndim != 1 or not np.isfinite(mask).all():
        raise ShapeError(f"the mask must hold one finite number for each base, found shape {mask.shape}.")
    values = mask.astype(np.float64)
    distal = np.ones(mask.size, dtype=bool)
    distal[promoter] = False
    cut = threshold_of(values[distal], settings)
    edges = np.diff(((values >= cut) & distal).astype(np.int8), prepend=0, append=0)
    start, end = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    start, end = _merge(start, end, promoter, settings.merge_gap_bp)
    long_enough = end - start >= settings.min_length_bp
    start, end = start[long_enough], end[long_enough]
    mean, largest = _summaries(values, start, end)
    return Calls(start, end, mean, largest, cut)


def threshold_of(distal: NDArray[np.float64], settings: CallSettings) -> float:
    """Return the smallest mask value that is called among the bases outside the promoter."""
    if settings.top_fraction is None:
        return settings.threshold
    kept = int(distal.size * settings.top_fraction)
    if kept == 0:
        return np.inf
    smallest = float(np.partition(distal, distal.size - kept)[distal.size - kept])
    return max(smallest, float(np.nextafter(0, 1)))


def _merge(
    start: NDArray[np.int64], end: NDArray[np.int64], promoter: slice, gap_bp: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if len(start) < 2:
        return start, end
    across = (end[:-1] <= promoter.start) & (start[1:] >= promoter.stop)
    apart = (start[1:] - end[:-1] > gap_bp) | across
    return start[np.concatenate([[True], apart])], end[np.concatenate([apart, [True]])]


def _summaries(
    values: NDArray[np.float64], start: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and maximum over each interval: reduceat over [start, end, start, end, ...], odd entries dropped."""
    if not len(start):
        return np.empty(0), np.empty(0)
    padded = np.append(values, 0.0)  # an end may be L, which reduceat does not take
    bounds = np.stack([start, end], axis=1).ravel()
    total = np.add.reduceat(padded, bounds)[::2]
    return total / (end - start), np.maximum.reduceat(padded, bounds)[::2]


def place_elements(calls: Calls, locus: Locus) -> pd.DataFrame:
    """Turn calls into a table on the genome.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`: BED6 (score = 1000 x mean mask; strand '.'), mean and maximum of the mask, the distance in bp
        from the TSS to the element's middle (negative: upstream of the gene), and the length in bp.
    """
    start, end = calls.start + locus.start, calls.end + locus.start
    direction = -1 if locus.strand == "-" else 1
    distance = ((start + end) // 2 - locus.tss) * direction
    score = np.clip(np.rint(1000 * calls.mean), 0, 1000).astype(np.int64)
    columns = (locus.chrom, start, end, locus.gene_id, score, ".", calls.mean, calls.max, distance, end - start)
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)), columns=list(COLUMNS))


def join_elements(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join tables of elements into one, sorted by chromosome, start, end and gene, as `sort -k1,1 -k2,2n` would."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(filled, ignore_index=True).sort_values(["chrom", "start", "end", "gene_id"], ignore_index=True)
