"""The evidence of each source for the called elements: DNA, every track, and all together with a credible interval.

The Beta of a base is the sum of its sources (`nn.bottleneck`). The tracks' part follows from their values alone, so the
DNA's part is the rest of the stored sum, and the network need not run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.tracks.contacts import GAMMA
from kipoi_seq2exp.elements.credible import beta_quantiles
from kipoi_seq2exp.errors import ShapeError

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp

Floats = NDArray[np.float64]
Intervals = tuple[NDArray[np.int64], NDArray[np.int64]]

CREDIBLE = (0.025, 0.975)
NEAREST_BP, FLANK_BP = 1_000, 500
REGULATORY = "regulatory_score"


@dataclass(frozen=True)
class Sources:
    """Probability of each base according to each source alone.

    Attributes
    ----------
    dna : ndarray, (L,)
        Mean of the posterior, which the generator reads from DNA (in a hard network: from DNA and tracks).
    tracks : ndarray, (L, S)
        Mean of each track's prior, in the model's order.
    """

    dna: Floats
    tracks: Floats


def split_evidence(
    model: Seq2Exp, concentrations: tuple[NDArray[np.floating], NDArray[np.floating]], signals: NDArray[np.floating]
) -> Sources:
    """Split the Beta of each base into the evidence of the DNA and of each track.

    Parameters
    ----------
    model : Seq2Exp
        The network that made the concentrations.
    concentrations : (ndarray, ndarray), (L,) each
        Alpha and beta of z.
    signals : ndarray, (L, S)
        The tracks as the network read them.

    Raises
    ------
    ShapeError
        If the signals do not fit the concentrations or the network's tracks.
    """
    import torch

    from kipoi_seq2exp.nn import bottleneck

    alpha, beta = (np.asarray(values, dtype=np.float64) for values in concentrations)
    if signals.shape != (alpha.size, model.config.n_tracks):
        raise ShapeError(f"signals must have shape {(alpha.size, model.config.n_tracks)}, found {signals.shape}.")
    read = model.tracks_as_read(torch.from_numpy(signals.astype(np.float64))[None])[0]
    prior = bottleneck.signal_evidence(read, model.signal_betas.double().cpu(), model.config)
    shares = track_shares(model)
    for_tracks, against_tracks = prior.alpha.numpy(), prior.beta.numpy()
    least = model.config.beta_min + bottleneck.EPSILON  # rounding may leave a little less than the generator gives
    dna_for = np.maximum(alpha / model.config.z_scale - for_tracks @ shares, least)
    dna_against = np.maximum(beta / model.config.z_scale - against_tracks @ shares, least)
    return Sources(dna_for / (dna_for + dna_against), for_tracks / (for_tracks + against_tracks))


def track_shares(model: Seq2Exp) -> Floats:
    """Return each track's share of the tracks' evidence: (S,), summing to 1."""
    shares: Floats = model.prior_weights.double().cpu().softmax(0).numpy()
    return shares


def interval_means(values: NDArray[np.floating], intervals: Intervals) -> Floats:
    """Return the mean over each interval: (L,) or (L, S) to (E,) or (E, S)."""
    start, end = intervals
    total = np.cumsum(values, axis=0, dtype=np.float64)
    total = np.concatenate([np.zeros_like(total[:1]), total])
    length = (end - start).reshape(-1, *[1] * (values.ndim - 1))
    means: Floats = (total[end] - total[start]) / length
    return means


def credible_columns(
    concentrations: tuple[NDArray[np.floating], NDArray[np.floating]], intervals: Intervals
) -> dict[str, Floats]:
    """Return the probability of each interval with its credible interval.

    The Beta of an interval has the mean concentrations of its bases. It describes a typical base: the evidence of
    neighbouring bases is not independent and must not be added up.

    Returns
    -------
    dict
        probability, probability_low and probability_high, (E,) each; the last two are the quantiles `CREDIBLE`.
    """
    alpha, beta = (interval_means(values, intervals) for values in concentrations)
    low, high = beta_quantiles(alpha, beta, CREDIBLE)
    return {"probability": alpha / (alpha + beta), "probability_low": low, "probability_high": high}


def regulatory_score(
    concentrations: tuple[NDArray[np.floating], NDArray[np.floating]],
    intervals: Intervals,
    tss: int,
    expression: float,
) -> Floats:
    """Return evidence x contact / expression of each interval: the score of a network that agreed best with CRISPRi.

    Evidence is the mean of alpha / beta, less its median over the window: unlike the mask it does not level off.
    Contact falls with the distance to the power of 0.87, and is 1 up to 1 kb. An element matters less for a gene that
    is strongly expressed without it.

    Parameters
    ----------
    concentrations : (ndarray, ndarray), (L,) each
        Alpha and beta of z.
    intervals : (ndarray, ndarray), (E,) each
        At least 500 bp to either side of the middle are looked at, within the window.
    tss : int
        From the window's start, in bp.
    expression : float
        log10(x + 1), as predicted.

    Returns
    -------
    ndarray, (E,)
        Without a unit; for the elements of one set of predictions.
    """
    start, end = intervals
    alpha, beta = (np.asarray(values, dtype=np.float64) for values in concentrations)
    odds, middle = alpha / beta, (start + end) // 2
    wide = (
        np.maximum(np.minimum(start, middle - FLANK_BP), 0),
        np.minimum(np.maximum(end, middle + FLANK_BP), odds.size),
    )
    contact: Floats = (np.maximum(np.abs(middle - tss), NEAREST_BP) / NEAREST_BP) ** -GAMMA
    score: Floats = (interval_means(odds, wide) - np.median(odds)) * contact / np.sqrt(10**expression)
    return score


def source_columns(model: Seq2Exp, sources: Sources, intervals: Intervals) -> pd.DataFrame:
    """Return each source's probability for each interval: columns dna and the tracks' names, (E,) each."""
    names = model.inputs.track_names if model.inputs else tuple(f"track{i}" for i in range(model.config.n_tracks))
    tracks = interval_means(sources.tracks, intervals)
    columns = {"dna": interval_means(sources.dna, intervals)}
    return pd.DataFrame({**columns, **{name: tracks[:, i] for i, name in enumerate(names)}})
