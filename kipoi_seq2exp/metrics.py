"""Scores of predicted against observed expression, each with a bootstrap interval over the genes.

Contract: two arrays of finite numbers in, one per gene and in the same order; named numbers out. Genes are resampled
together, so that every score of one call is computed on the same resamples. Neighbouring genes share much of their
windows: with `blocks` whole blocks of genes are resampled, which gives honest, wider intervals. No other module
resamples or makes intervals: what needs sums alone (rankings, overlaps) takes `resampled_counts` and `Score.of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kipoi_seq2exp.errors import InputError, counted

Floats = NDArray[np.float64]


METRICS = ("mse", "mae", "pearson", "spearman")
MIN_GENES = 10  # fewer give no interval


@dataclass(frozen=True)
class Score:
    """A score with its bootstrap interval over genes; NaN where it is undefined.

    Attributes
    ----------
    value, low, high : float
        The score; the bounds of its central interval.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: ArrayLike, level: float = 0.95) -> Score:
        """Return a score with its percentile interval.

        Parameters
        ----------
        value : float
        resampled : array_like, (R,)
            The score of each resample; those in which it is undefined are left out.
        level : float
            Probability that the interval should hold.
        """
        draws = np.asarray(resampled, dtype=np.float64)
        defined = draws[np.isfinite(draws)]
        if not (defined.size and np.isfinite(value)):
            return cls(float(value), np.nan, np.nan)
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        return cls(float(value), float(low), float(high))

    def __str__(self) -> str:
        """Return e.g. "0.8631 [0.8012, 0.9100]"."""
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def too_few_genes(count: int) -> str:
    """Say that so few genes give no interval; empty if they give one (from `MIN_GENES` on)."""
    if count >= MIN_GENES:
        return ""
    return f"{counted(count, 'gene')} are too few for an interval (at least {MIN_GENES} are needed)"


def score_columns(scores: Mapping[str, Score]) -> dict[str, float]:
    """Flatten named scores to the columns of a table: "mse", "mse_low", "mse_high", ..."""
    columns: dict[str, float] = {}
    for name, found in scores.items():
        columns |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return columns


def resampled_counts(
    count: int, bootstrap: int, seed: int = 0, at_once: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield how often each of `count` genes or groups is drawn in each resample: arrays (R, count), R <= `at_once`."""
    random = np.random.default_rng(seed)
    size = max(1, bootstrap if at_once is None else at_once)
    for first in range(0, bootstrap, size):
        yield random.multinomial(count, np.full(count, 1 / count), size=min(size, bootstrap - first))


def score(
    observed: ArrayLike,
    predicted: ArrayLike,
    *,
    bootstrap: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
    blocks: ArrayLike | None = None,
) -> dict[str, Score]:
    """Score predictions, with percentile bootstrap intervals over the genes.

    Parameters
    ----------
    observed, predicted : array_like, (G,)
        Expression of each gene, in the same unit.
    bootstrap : int
        Resamples of the genes; 0 leaves the intervals NaN.
    level : float
        Probability that the interval should hold.
    seed : int
        Of the resampling: the same seed gives the same interval.
    blocks : array_like, (G,), optional
        Block of each gene (any labels, e.g. of `genome_blocks`); blocks are resampled instead of genes.

    Returns
    -------
    dict of str to Score
        Mean squared and mean absolute error ("mse", "mae"); correlation of values and of ranks ("pearson",
        "spearman"), NaN when either side is constant.

    Raises
    ------
    InputError
        If the lengths differ, there are fewer than two genes, or a value is not a finite number.
    """
    truth, guess = _checked("observed", observed), _checked("predicted", predicted)
    if truth.shape != guess.shape:
        raise InputError(f"observed has {truth.size} genes and predicted {guess.size}: they must be the same genes.")
    if truth.size < 2:
        raise InputError(f"at least two genes are needed to score predictions, found {truth.size}.")
    values = _scores(truth[None], guess[None])[0]
    return _with_intervals(values, _bootstrap(truth, guess, bootstrap, seed, blocks), level)


def paired_differences(
    observed: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    bootstrap: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
    blocks: ArrayLike | None = None,
) -> dict[str, Score]:
    """Score the second predictions minus the first ones, on the same genes and the same resamples of them.

    Parameters
    ----------
    observed : array_like, (G,) or (2, G)
        Expression of each gene; of the first and of the second predictions, where they are of two cell types.
    first, second : array_like, (G,)
        Predictions of each gene.
    bootstrap, level, seed, blocks
        As in `score`.

    Returns
    -------
    dict of str to Score
        Difference of each metric; an interval without 0 means that the two differ.

    Raises
    ------
    InputError
        As `score` does.
    """
    truth = np.asarray(observed, dtype=np.float64)
    pairs = list(zip(truth if truth.ndim == 2 else (truth, truth), (first, second), strict=True))
    one, two = (score(*pair, bootstrap=0) for pair in pairs)
    checked = [(_checked("observed", known), _checked("predicted", guess)) for known, guess in pairs]
    resampled = [_bootstrap(*pair, bootstrap, seed, blocks) for pair in checked]
    return _with_intervals([two[name].value - one[name].value for name in METRICS], resampled[1] - resampled[0], level)


def row_correlations(observed: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    """Correlate the values, and their ranks, of each row: (R, C) and (R, C) to (R,) and (R,); NaN of a constant row."""
    truth, guess = (np.asarray(values, dtype=np.float64) for values in (observed, predicted))
    return _pearson(truth, guess), _pearson(_row_ranks(truth), _row_ranks(guess))


def mean_score(values: ArrayLike, bootstrap: int = 1_000, level: float = 0.95, seed: int = 0) -> Score:
    """Return the mean of one value per gene, without NaN, and its percentile bootstrap interval over the genes.

    Parameters
    ----------
    values : array_like, (G,)
    bootstrap : int
        Resamples of the genes; 0 leaves the interval NaN.
    level : float
        Probability that the interval should hold.
    seed : int
        Of the resampling.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not known.size:
        return Score(np.nan, np.nan, np.nan)
    random = np.random.default_rng(seed)
    means = [known[genes].mean(axis=1) for genes in _drawn(known.size, bootstrap, random)]
    return Score.of(float(known.mean()), np.concatenate(means) if means else [], level)


def ranks(values: Floats) -> Floats:
    """Rank the values from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return shared


def _checked(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise InputError(f"{name} must hold one finite number for each gene, found shape {array.shape}.")
    return array


def genome_blocks(chroms: Sequence[str], positions: ArrayLike, block_bp: int = 1_000_000) -> NDArray[np.int64]:
    """Return the number of the block of `block_bp` bases that each gene lies in.

    Parameters
    ----------
    chroms : sequence of str, (G,)
    positions : array_like, (G,)
        TSS of each gene, in bp.
    block_bp : int

    Returns
    -------
    ndarray of int64, (G,)
    """
    chrom = np.unique(np.asarray(chroms, dtype=str), return_inverse=True)[1]
    block = np.asarray(positions, dtype=np.int64) // block_bp
    return np.unique(chrom.astype(np.int64) * (block.max() + 1) + block, return_inverse=True)[1].astype(np.int64)


def _bootstrap(truth: Floats, guess: Floats, n_resamples: int, seed: int, blocks: ArrayLike | None = None) -> Floats:
    rng = np.random.default_rng(seed)
    if blocks is not None:
        return _block_bootstrap(truth, guess, n_resamples, rng, np.asarray(blocks))
    parts = [_scores(truth[genes], guess[genes]) for genes in _drawn(truth.size, n_resamples, rng)]
    return np.concatenate([np.empty((0, len(METRICS))), *parts])


def _drawn(count: int, n_resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the genes of each resample, (R, count)."""
    block = max(1, 2_000_000 // count)  # resamples at once: 2M numbers are 16 MB
    for first in range(0, n_resamples, block):
        yield rng.integers(count, size=(min(block, n_resamples - first), count))


def _block_bootstrap(
    truth: Floats, guess: Floats, n_resamples: int, rng: np.random.Generator, blocks: NDArray[np.generic]
) -> Floats:
    if blocks.shape != truth.shape:
        raise InputError(f"blocks must hold one block for each of the {truth.size} genes, found shape {blocks.shape}.")
    number = np.unique(blocks, return_inverse=True)[1]
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    parts = []
    for _ in range(n_resamples):
        genes = np.concatenate([members[block] for block in rng.integers(len(members), size=len(members))])
        parts.append(_scores(truth[None, genes], guess[None, genes]))
    return np.concatenate([np.empty((0, len(METRICS))), *parts])


def _with_intervals(values: ArrayLike, resampled: Floats, level: float) -> dict[str, Score]:
    """Join each metric with its interval over the resamples, (R, 4)."""
    columns = zip(METRICS, np.asarray(values), resampled.T, strict=True)
    return {name: Score.of(float(value), draws, level) for name, value, draws in columns}


def _scores(truth: Floats, guess: Floats) -> Floats:
    """Return MSE, MAE, Pearson and Spearman of each row: (R, G) and (R, G) to (R, 4)."""
    error = guess - truth
    columns = [np.mean(error**2, axis=1), np.mean(np.abs(error), axis=1), *row_correlations(truth, guess)]
    return np.stack(columns, axis=1)


def _row_ranks(values: Floats) -> Floats:
    return np.stack([ranks(row) for row in values]) if len(values) else values


def _pearson(first: Floats, second: Floats) -> Floats:
    constant = (np.ptp(first, axis=1) == 0) | (np.ptp(second, axis=1) == 0)
    a = first - first.mean(axis=1, keepdims=True)
    b = second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    correlation = (a * b).sum(axis=1) / np.where(constant | (scale == 0), 1.0, scale)
    result: Floats = np.where(constant, np.nan, np.clip(correlation, -1.0, 1.0))
    return result
