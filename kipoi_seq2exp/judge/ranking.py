"""How well a score ranks positives before negatives: precision and recall, with bootstrap intervals over the pairs.

Contract: labels and one or more scores of the same pairs in; a score of -inf is a miss, which no threshold recalls.
Every score of one call is judged on the same resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.errors import InputError, counted
from kipoi_seq2exp.metrics import Score, resampled_counts

Floats = NDArray[np.float64]

RECALL = 0.7
FEW = 10
"""Number of positive or negative pairs below which a ranking is said to mean little."""
_BLOCK = 1_000_000  # numbers at once


@dataclass(frozen=True)
class Ranking:
    """How one score ranks.

    Attributes
    ----------
    auprc : Score
        Area under the precision-recall curve, as average precision: the mean, over the positives, of the precision at
        the threshold that recalls each; a positive that is missed counts 0. Pairs of equal score share a threshold.
    precision : Score
        Precision at the highest threshold that recalls `RECALL` of the positives; NaN where none does.
    """

    auprc: Score
    precision: Score


def rank_scores(
    labels: NDArray[np.bool_],
    scores: Mapping[str, Floats],
    *,
    groups: NDArray[Any] | None = None,
    bootstrap: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Ranking]:
    """Judge scores by how they rank the same pairs.

    Parameters
    ----------
    labels : ndarray of bool, (n,)
        Which pairs are positive.
    scores : mapping of str to ndarray, (n,)
        Higher is more likely positive; -inf is a miss.
    groups : ndarray, (n,), optional
        Pairs of one group (a gene's) are resampled together; by default each pair is by itself.
    bootstrap : int
        Resamples of the groups; 0 leaves the intervals NaN.
    level : float
        Coverage of the intervals.
    seed : int
        Seed of the resampling.

    Raises
    ------
    InputError
        If there is no positive pair, or a score has another length or holds NaN.
    """
    point, draws = _measured(labels, scores, bootstrap, seed, groups)
    return {name: _ranking(point[name], draws[name], level) for name in scores}


def auprc_difference(
    labels: NDArray[np.bool_],
    first: Floats,
    second: Floats,
    *,
    bootstrap: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
    groups: NDArray[Any] | None = None,
) -> Score:
    """Return the AUPRC of the second score minus that of the first, with an interval on the same resamples.

    Parameters and errors are those of `rank_scores`.
    """
    point, draws = _measured(labels, {"first": first, "second": second}, bootstrap, seed, groups)
    return _ranking(point["second"] - point["first"], draws["second"] - draws["first"], level).auprc


def _measured(
    labels: NDArray[np.bool_],
    scores: Mapping[str, Floats],
    bootstrap: int,
    seed: int,
    groups: NDArray[Any] | None,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Measure every score on all pairs and on the same resamples of them."""
    positives = int(labels.sum())
    if not positives:
        raise InputError(f"no pair is positive ({counted(labels.size, 'pair')}): nothing can be ranked.")
    for name, values in scores.items():
        if values.shape != labels.shape or np.isnan(values).any():
            raise InputError(f"the score '{name}' must hold one number for each of the {counted(labels.size, 'pair')}.")
    sorted_pairs = {name: _Sorted(labels, values) for name, values in scores.items()}
    point = {name: pairs.measure(np.ones((1, labels.size)))[0] for name, pairs in sorted_pairs.items()}
    resampled: dict[str, list[Floats]] = {name: [np.empty((0, 2))] for name in scores}
    block = max(1, _BLOCK // labels.size)
    group_of = np.arange(labels.size) if groups is None else np.unique(groups, return_inverse=True)[1]
    for drawn in resampled_counts(int(group_of.max()) + 1, bootstrap, seed, block):
        weights = drawn[:, group_of].astype(np.float64)
        for name, pairs in sorted_pairs.items():
            resampled[name].append(pairs.measure(weights))
    return point, {name: np.concatenate(parts) for name, parts in resampled.items()}


class _Sorted:
    """Pairs in falling order of one score, with the last pair of each run of equal scores."""

    def __init__(self, labels: NDArray[np.bool_], scores: Floats) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.labels = labels[self.order].astype(np.float64)
        ordered = scores[self.order]
        self.last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True) & (ordered > -np.inf))

    def measure(self, weights: Floats) -> Floats:
        """Return average precision and precision at `RECALL` under each row of weights: (R, n) to (R, 2)."""
        taken = weights[:, self.order]
        true = np.cumsum(taken * self.labels, axis=1)
        total = true[:, -1:]  # the missed positives too
        true, called = true[:, self.last], np.cumsum(taken, axis=1)[:, self.last]
        if not self.last.size:
            return np.column_stack([np.where(total[:, 0] > 0, 0.0, np.nan), np.full(len(weights), np.nan)])
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        gained = np.diff(true, axis=1, prepend=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            average = (precision * gained).sum(axis=1) / total[:, 0]
            reached = true / total >= RECALL - 1e-12
        first = reached.argmax(axis=1)
        at_recall = np.where(reached.any(axis=1), precision[np.arange(len(true)), first], np.nan)
        return np.column_stack([average, at_recall])


def _ranking(point: Floats, draws: Floats, level: float) -> Ranking:
    return Ranking(*(Score.of(float(value), column, level) for value, column in zip(point, draws.T, strict=True)))


def ranking_lines(table: pd.DataFrame) -> list[str]:
    """Lay out a ranking for the reader, a block per distance bin; the table is that of `crispri.Judgement`."""
    lines, precision = [], f"precision_at_{RECALL:.0%}_recall"
    for label, rows in table.groupby("bin", sort=False):
        first = rows.iloc[0]
        few = min(first["positives"], first["pairs"] - first["positives"]) < FEW
        lines.append(
            f"{label}: {counted(first['pairs'], 'pair')}, {first['positives']} positive (floor {first['floor']:.3f})"
            f"{f'; fewer than {FEW} of a kind: neither order nor intervals mean much' if few else ''}"
        )
        for _, row in rows.sort_values("auprc", ascending=False).iterrows():
            auprc, at_recall = (_with_interval(row, name) for name in ("auprc", precision))
            missed = f", {row['missed']} positives missed" if row["missed"] else ""
            lines.append(
                f"  {row['score']:<26} AUPRC {auprc}  precision at {100 * RECALL:.0f} % recall {at_recall}{missed}"
            )
    return lines


def _with_interval(row: pd.Series[float], name: str) -> str:
    """Return a number with its interval; a precision at a recall that no threshold reaches has none."""
    if row[name] != row[name]:
        return "not reached"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
