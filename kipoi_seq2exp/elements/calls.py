"""From an element mask to elements: intervals of DNA that drive the gene, each with a score.

Contract: one mask, one number per base of the window, in; intervals in window coordinates out, sorted and disjoint.
The promoter is forced into the mask by the model: it is never called, and no call reaches across it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.errors import ConfigError, ShapeError

Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]
STANDS_OUT = 0.01
"""Of the top fraction, a base is called only if its mask is this far above the window's median."""

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

KEPT_WORDS = "share of the window's bases, promoter included, whose mask is at least the lowest mask that was called"
DISTANCE_WORDS = "bp from the TSS to the middle of the element, negative upstream of the gene"


@dataclass(frozen=True)
class CallSettings:
    """How a mask is cut into elements.

    Attributes
    ----------
    threshold : float or None
        A base is called when its mask reaches this probability. If None, `top_fraction` decides.
    top_fraction : float
        Call the bases with the highest mask: at most this fraction of the bases outside the promoter, counting gaps
        that are joined. A base is called only if its mask is above the window's median by at least `STANDS_OUT`. If
        more bases than that share the highest value, all of them are called.
    min_length_bp : int
        Shorter calls are dropped, after merging.
    merge_gap_bp : int
        Calls that are at most this far apart are merged.
    """

    threshold: float | None = None
    top_fraction: float = 0.05
    min_length_bp: int = 50
    merge_gap_bp: int = 100

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold must be above 0 and at most 1, found {self.threshold}.")
        if not 0 < self.top_fraction < 1:
            raise ConfigError(f"top_fraction must lie between 0 and 1, found {self.top_fraction}.")
        if self.min_length_bp < 1 or self.merge_gap_bp < 0:
            raise ConfigError(
                f"min_length_bp must be at least 1 and merge_gap_bp at least 0, found {self.min_length_bp} and "
                f"{self.merge_gap_bp}."
            )

    @property
    def rule(self) -> str:
        """The rule by which bases are called, in words."""
        if self.threshold is not None:
            return f"mask >= {self.threshold:g}"
        return f"the top {self.top_fraction:.2%} of each window"


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
    first, heights = _runs(values, promoter)

    def intervals(cut: float) -> Bounds:
        edges = np.diff((heights >= cut).astype(np.int8), prepend=0)
        bounds = _merge(first[edges == 1], first[edges == -1], promoter, settings.merge_gap_bp)
        long_enough = bounds[1] - bounds[0] >= settings.min_length_bp
        return bounds[0][long_enough], bounds[1][long_enough]

    cut = settings.threshold
    if cut is None:
        distal = np.concatenate([values[: promoter.start], values[promoter.stop :]])
        cut = _cut_of_top(distal, heights, settings.top_fraction, lambda cut: _total(intervals(cut)))
    start, end = intervals(cut)
    mean, largest = _summaries(values, start, end)
    return Calls(start, end, mean, largest, cut)


def kept_fraction(mask: NDArray[np.floating], threshold: float) -> float:
    """Return the share of the window's bases whose mask reaches a threshold; a mask of 1 always does (`KEPT_WORDS`)."""
    return float(np.count_nonzero(mask >= min(threshold, 1.0))) / mask.size


def _runs(values: NDArray[np.float64], promoter: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the first base of each run of equal values, and its value; -inf in the promoter and beyond the end.

    A mask is often constant over a token of many bases, so the search for a cut works on runs.
    """
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    first = np.unique(np.concatenate([[0, promoter.start, promoter.stop, values.size], changes]))
    heights = np.append(values, -np.inf)[first]
    heights[(first >= promoter.start) & (first < promoter.stop)] = -np.inf
    return first, heights


def _cut_of_top(
    distal: NDArray[np.float64], heights: NDArray[np.float64], fraction: float, called: Callable[[float], int]
) -> float:
    """Return the lowest cut among the heights that calls at most a fraction of the bases; a lower cut calls more."""
    most = int(distal.size * fraction)
    cuts = np.unique(heights[heights >= np.median(distal) + STANDS_OUT])
    if most == 0 or not cuts.size:
        return np.inf
    low, high = 0, cuts.size - 1
    while low < high:
        middle = (low + high) // 2
        if called(float(cuts[middle])) <= most:
            high = middle
        else:
            low = middle + 1
    return float(cuts[low])


def _total(bounds: Bounds) -> int:
    return int((bounds[1] - bounds[0]).sum())


def _merge(start: NDArray[np.int64], end: NDArray[np.int64], promoter: slice, gap_bp: int) -> Bounds:
    if len(start) < 2:
        return start, end
    across = (end[:-1] <= promoter.start) & (start[1:] >= promoter.stop)
    apart = (start[1:] - end[:-1] > gap_bp) | across
    return start[np.concatenate([[True], apart])], end[np.concatenate([apart, [True]])]


def _summaries(
    values: NDArray[np.float64], start: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and maximum over each interval: reduceat over [start, end, start, end, ...], odd entries dropped."""
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
    return place_all([(calls, locus)])


def place_all(found: Sequence[tuple[Calls, Locus]]) -> pd.DataFrame:
    """Turn the calls of many genes into one table with the columns of `place_elements`; a table per gene is slow."""
    counts = [len(calls) for calls, _ in found]

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([np.empty(0), *(getattr(calls, name) for calls, _ in found)])

    def repeated(name: str, kind: Any) -> NDArray[Any]:
        return np.repeat(np.array([getattr(locus, name) for _, locus in found], dtype=kind), counts)

    start, end = (joined(name).astype(np.int64) + repeated("start", np.int64) for name in ("start", "end"))
    mean, direction = joined("mean"), np.where(repeated("strand", object) == "-", -1, 1)
    distance = ((start + end) // 2 - repeated("tss", np.int64)) * direction
    score = np.clip(np.rint(1000 * mean), 0, 1000).astype(np.int64)
    names = repeated("chrom", object), repeated("gene_id", object)
    columns = (names[0], start, end, names[1], score, ".", mean, joined("max"), distance, end - start)
    table = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)), columns=list(COLUMNS))
    return table.astype({name: "str" for name in ("chrom", "gene_id", "strand")})


def join_elements(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join tables of elements into one, sorted by chromosome, start, end and gene, as `sort -k1,1 -k2,2n` would."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(filled, ignore_index=True).sort_values(["chrom", "start", "end", "gene_id"], ignore_index=True)
