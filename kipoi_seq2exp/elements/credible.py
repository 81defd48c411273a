"""Quantiles of Beta distributions for many bases at once, for credible bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.errors import ShapeError

Floats = NDArray[np.float64]


def beta_quantiles(alpha: NDArray[np.floating], beta: NDArray[np.floating], levels: tuple[float, ...]) -> Floats:
    """Return quantiles of Beta(alpha, beta).

    Parameters
    ----------
    alpha, beta : ndarray, (n,)
        Concentrations, > 0.
    levels : tuple of float
        Probabilities, e.g. (0.025, 0.975).

    Returns
    -------
    ndarray, (len(levels), n)

    Raises
    ------
    ShapeError
        If the concentrations differ in shape or are not above 0.
    """
    from scipy.special import betaincinv

    a, b = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not ((a > 0).all() and (b > 0).all()):
        raise ShapeError(f"alpha {a.shape} and beta {b.shape} must hold one number above 0 for each base.")
    found: Floats = betaincinv(a, b, np.array(levels, dtype=np.float64)[:, None])
    return found
