"""How well predictions agree with labels: MSE, MAE, Pearson and Spearman, with bootstrap intervals over genes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kipoi_seq2exp.errors import InputError

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A score with its bootstrap interval over genes.

    Attributes
    ----------
    value, low, high : float
        The score; the bounds of the central 95 %.
    """

    value: float
    low: float
    high: float


def mean_squared_error(observed: Numbers, predicted: Numbers) -> float:
    """Mean of the squared differences."""
    return float(np.mean((observed - predicted) ** 2))


def mean_absolute_error(observed: Numbers, predicted: Numbers) -> float:
    """Mean of the absolute differences."""
    return float(np.mean(np.abs(observed - predicted)))


def pearson(observed: Numbers, predicted: Numbers) -> float:
    """Linear correlation; NaN where either side does not vary."""
    a, b = observed - observed.mean(), predicted - predicted.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def spearman(observed: Numbers, predicted: Numbers) -> float:
    """Rank correlation; ties share their mean rank."""
    return pearson(_ranks(observed), _ranks(predicted))


METRICS: dict[str, Callable[[Numbers, Numbers], float]] = {
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
    "pearson": pearson,
    "spearman": spearman,
}


def score(
    observed: npt.ArrayLike, predicted: npt.ArrayLike, *, bootstrap: int = 1_000, seed: int = 0
) -> dict[str, Score]:
    """Score predictions; genes are drawn with replacement for the intervals.

    Parameters
    ----------
    observed, predicted : array, (n,)
        Labels and predictions, in one unit.
    bootstrap : int
        Number of draws.
    seed : int
        Of the draws.

    Returns
    -------
    dict of str to Score
        "mse", "mae", "pearson", "spearman".

    Raises
    ------
    InputError
        If there are fewer than two genes, or the two do not agree in number.
    """
    truth, guess = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if truth.shape != guess.shape or truth.ndim != 1 or len(truth) < 2:
        raise InputError(f"scores need two or more genes, found {truth.shape} labels and {guess.shape} predictions.")
    draws = np.random.default_rng(seed).integers(0, len(truth), (bootstrap, len(truth)))
    result = {}
    for name, metric in METRICS.items():
        values = np.array([metric(truth[draw], guess[draw]) for draw in draws])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
        result[name] = Score(metric(truth, guess), float(low), float(high))
    return result


def _ranks(values: Numbers) -> Numbers:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    ranks: Numbers = (last - (counts - 1) / 2)[where.reshape(-1)]
    return ranks
