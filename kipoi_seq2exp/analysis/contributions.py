"""Which bases, and which track values, made a prediction: gradient x input, integrated gradients, mutagenesis.

Contract: one window in; one number per base (and per track) out, in units of the prediction, log10(CAGE + 1). Both
parts of the network take part, the mask and the encoder; gene features stay as they are. Where the mask is read with a
threshold (mask modes hard and top), no gradient passes through it: only the encoder's part is told then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.analysis.predict import predict_windows
from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from kipoi_seq2exp.nn.network import Seq2Exp

Floats = NDArray[np.float64]

STEPS = 32


@dataclass(frozen=True)
class Contributions:
    """Contributions to the prediction of one window.

    Attributes
    ----------
    dna : ndarray, (L,)
        Of the letter that each base has; 0 for N.
    tracks : ndarray, (L, S)
        Of each track's value.
    total : float
        Prediction minus that of the baseline, which the contributions of integrated gradients add up to; NaN for plain
        gradients, which have no baseline.
    """

    dna: Floats
    tracks: Floats
    total: float


def gradient_times_input(model: Seq2Exp, window: WindowInputs) -> Contributions:
    """Multiply each input by the gradient of the predicted expression with respect to it."""
    dna, tracks = _gradients(model, window, 1.0)
    return Contributions((dna * window.onehot).sum(axis=1), tracks * window.signals, float("nan"))


def integrated_gradients(
    model: Seq2Exp, window: WindowInputs, steps: int = STEPS, on_step: Callable[[], None] | None = None
) -> Contributions:
    """Average the gradient on the way from no DNA and no signal to the window (Sundararajan et al. 2017), by input.

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    steps : int
        Points on the way (midpoints of equal parts); more make the sum come closer to the total.
    on_step : callable, optional
        Called after each.

    Raises
    ------
    ConfigError
        If there is no step.
    """
    if steps < 1:
        raise ConfigError(f"integrated gradients need at least one step, found {steps}.")
    dna = np.zeros(window.onehot.shape)
    tracks = np.zeros(window.signals.shape)
    for step in range(steps):
        of_dna, of_tracks = _gradients(model, window, (step + 0.5) / steps)
        dna += of_dna / steps
        tracks += of_tracks / steps
        if on_step is not None:
            on_step()
    total = _expression(model, window, 1.0) - _expression(model, window, 0.0)
    return Contributions((dna * window.onehot).sum(axis=1), tracks * window.signals, total)


def mutagenesis(
    model: Seq2Exp,
    window: WindowInputs,
    bases: slice,
    batch_size: int = 1,
    on_base: Callable[[], None] | None = None,
) -> Floats:
    """Replace each base of a region by each other letter.

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    bases : slice
        The region, from the window's start.
    batch_size : int
        Windows that go through the network together; changes memory and speed only.
    on_base : callable, optional
        Called after each mutated base.

    Returns
    -------
    ndarray, (n, 4)
        Change of expression for A, C, G, T; 0 for the letter that is there, NaN where the base is unknown.

    Raises
    ------
    ConfigError
        If the region does not lie in the window.
    """
    length = len(window.onehot)
    if not 0 <= bases.start < bases.stop <= length:
        raise ConfigError(
            f"the region must lie in the gene's window, {window.chrom}:{window.start}-{window.end}, found "
            f"{window.chrom}:{window.start + bases.start}-{window.start + bases.stop}."
        )
    before = predict_windows(model, [window])[0].expression
    change = np.full((bases.stop - bases.start, 4), np.nan)
    known = np.flatnonzero(window.onehot[bases].any(axis=1))
    change[known[:, None], window.onehot[bases][known].argmax(axis=1)[:, None]] = 0
    wanted = [(int(row), letter) for row in known for letter in range(4) if np.isnan(change[row, letter])]
    for first in range(0, len(wanted), batch_size):
        batch = wanted[first : first + batch_size]
        rows = predict_windows(model, [_mutated(window, bases.start + row, letter) for row, letter in batch])
        for (row, letter), result in zip(batch, rows, strict=True):
            change[row, letter] = result.expression - before
            if on_base is not None:
                on_base()
    return change


def _mutated(window: WindowInputs, place: int, letter: int) -> WindowInputs:
    import dataclasses

    onehot = window.onehot.copy()
    onehot[place] = 0
    onehot[place, letter] = 1
    return dataclasses.replace(window, onehot=onehot)


def _scaled(model: Seq2Exp, window: WindowInputs, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return DNA and tracks times `scale`, features and blacklist, as the network takes them."""
    import torch

    device = next(model.parameters()).device
    arrays = (window.onehot * np.float32(scale), window.signals * np.float32(scale), window.features, window.blacklist)
    onehot, signals, features, blacklist = (torch.from_numpy(array)[None].to(device) for array in arrays)
    return onehot, signals, features, blacklist


def _gradients(model: Seq2Exp, window: WindowInputs, scale: float) -> tuple[Floats, Floats]:
    """Return the gradient of the expression by DNA, (L, 4), and tracks, (L, S)."""
    import torch

    onehot, signals, features, blacklist = _scaled(model, window, scale)
    with torch.enable_grad():
        onehot.requires_grad_(True)
        signals.requires_grad_(True)
        expression = model(onehot, signals, features, blacklist=blacklist).expression.sum()
        gradients = torch.autograd.grad(expression, (onehot, signals))
    dna, tracks = (gradient[0].double().cpu().numpy() for gradient in gradients)
    return dna, tracks


def _expression(model: Seq2Exp, window: WindowInputs, scale: float) -> float:
    import torch

    onehot, signals, features, blacklist = _scaled(model, window, scale)
    with torch.inference_mode():
        return float(model(onehot, signals, features, blacklist=blacklist).expression[0])
