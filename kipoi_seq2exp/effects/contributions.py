"""Which bases, and which track values, made a prediction: gradient x input, integrated gradients, mutagenesis.

Contract: one window in; one number per base (and per track) out, in the unit of the prediction. Both
parts of the network take part, the mask and the encoder; gene features stay as they are. Where the mask is read with a
threshold (mask modes hard and top), no gradient passes through it: only the encoder's part counts then. The gradients
are captum's (the extra `interpret`), one window and one layer's intermediates in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.prediction.run import predict_windows

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
    delta : float
        What the contributions of integrated gradients add up to, minus what they should: the prediction minus that of
        an empty window. More steps make it smaller. NaN for plain gradients, which have no baseline.
    """

    dna: Floats
    tracks: Floats
    delta: float

    @property
    def sum(self) -> float:
        """All contributions together."""
        return float(self.dna.sum() + self.tracks.sum())


def gradient_times_input(model: Seq2Exp, window: WindowInputs) -> Contributions:
    """Multiply each input by the gradient of the predicted expression with respect to it.

    Raises
    ------
    ConfigError
        If captum is missing.
    """
    attr = captum_methods()
    from kipoi_seq2exp.nn.mamba import recomputed_layers

    with recomputed_layers(model):
        found = attr.InputXGradient(_expression_of(model, window)).attribute(_inputs(model, window))
    return _contributions(found, float("nan"))


def integrated_gradients(
    model: Seq2Exp, window: WindowInputs, steps: int = STEPS, on_step: Callable[[], None] | None = None
) -> Contributions:
    """Average the gradient on the way from no DNA and no signal to the window (Sundararajan et al. 2017), by input.

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    steps : int
        Points on the way (midpoints of equal parts); more bring `delta` closer to 0. Each keeps a copy of the inputs
        and of their gradients: 11 MB at 200 kb.
    on_step : callable, optional
        Called after each.

    Raises
    ------
    ConfigError
        If there is no step, or captum is missing.
    """
    if steps < 1:
        raise ConfigError(f"integrated gradients need at least one step, found {steps}.")
    attr = captum_methods()
    method = attr.IntegratedGradients(_expression_of(model, window, on_step))
    from kipoi_seq2exp.nn.mamba import recomputed_layers

    with recomputed_layers(model):
        found, delta = method.attribute(
            _inputs(model, window),
            n_steps=steps,
            method="riemann_middle",
            internal_batch_size=1,
            return_convergence_delta=True,
        )
    return _contributions(found, float(delta[0]))


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


def captum_methods() -> Any:
    """Return captum's methods.

    Raises
    ------
    ConfigError
        If captum is missing.
    """
    try:
        import captum.attr
    except ImportError:
        raise ConfigError(
            "gradients and integrated gradients need captum: pip install 'kipoi-seq2exp[interpret]' (in-silico "
            "mutagenesis does not)."
        ) from None
    return captum.attr


def _inputs(model: Seq2Exp, window: WindowInputs) -> tuple[Tensor, Tensor]:
    """Return DNA and tracks, (1, L, 4) and (1, L, S), whose gradients are asked for."""
    import torch

    device = next(model.parameters()).device
    dna, tracks = (torch.from_numpy(array)[None].to(device, torch.float32) for array in (window.onehot, window.signals))
    return dna.requires_grad_(), tracks.requires_grad_()


def _expression_of(
    model: Seq2Exp, window: WindowInputs, on_call: Callable[[], None] | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the expression as a function of DNA and tracks; features and blacklist stay as they are."""
    import torch

    device = next(model.parameters()).device
    features, blacklist = (torch.from_numpy(array)[None].to(device) for array in (window.features, window.blacklist))

    def expression(dna: Tensor, tracks: Tensor) -> Tensor:
        size = len(dna)
        found: Tensor = model(dna, tracks, features.expand(size, -1), blacklist=blacklist.expand(size, -1)).expression
        if on_call is not None and torch.is_grad_enabled():
            on_call()
        return found

    return expression


def _contributions(found: tuple[Tensor, Tensor], delta: float) -> Contributions:
    dna, tracks = (values[0].detach().double().cpu().numpy() for values in found)
    return Contributions(dna.sum(axis=1), tracks, delta)
