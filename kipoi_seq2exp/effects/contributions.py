"""Which bases, track values and features made a prediction: gradient x input, integrated gradients, mutagenesis.

Contract: one window in; one number per base, per track value and per gene feature out, in units of the prediction. The
mask, the encoder and the features that are computed from tracks (`FeatureRules`) all take part, so that the parts of
integrated gradients add up to the prediction minus that of the baseline: no DNA, no signal, features at their baseline.
Where the mask is read with a threshold (any mask mode but soft) no gradient passes through it: it is held fixed, for
the window and for the baseline. The gradients are captum's (the extra `interpret`), one window and one layer's
intermediates in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import MaskMode, Variant
from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.windows import written
from kipoi_seq2exp.effects.track_features import FeatureRules
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.prediction.run import predict_windows
from kipoi_seq2exp.settings import suggest
from kipoi_seq2exp.zoo.forward import forward, stacked, tensors_of

if TYPE_CHECKING:
    from torch import Tensor

    from kipoi_seq2exp.nn.network import Seq2Exp
    from kipoi_seq2exp.prediction.units import Bench

Floats = NDArray[np.float64]

STEPS = 32
METHODS = ("integrated", "gradient")


@dataclass(frozen=True)
class Contributions:
    """Contributions to the prediction of one window.

    Attributes
    ----------
    letters : ndarray, (L, 4)
        What each letter would contribute at each base: "hypothetical contributions", as TF-MoDISco reads them.
    dna : ndarray, (L,)
        Contribution of the letter that each base has; 0 for N.
    tracks : ndarray, (L, S)
        Contribution of each track value, including what it contributes through computed features.
    features : ndarray, (F,)
        Contribution of each gene feature; 0 for those that are computed from tracks.
    prediction, baseline : float
        Expression of the window and of the baseline; the latter is NaN for plain gradients, which have none.
    """

    letters: Floats
    dna: Floats
    tracks: Floats
    features: Floats
    prediction: float
    baseline: float

    @property
    def sum(self) -> float:
        """All contributions together."""
        return float(self.dna.sum() + self.tracks.sum() + self.features.sum())

    @property
    def delta(self) -> float:
        """The sum of the contributions minus what it should be; more steps bring it closer to 0."""
        return self.sum - (self.prediction - self.baseline)


def gradient_times_input(model: Seq2Exp, window: WindowInputs, rules: FeatureRules | None = None) -> Contributions:
    """Multiply each input by the gradient of the predicted expression with respect to it.

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    rules : FeatureRules, optional
        Of the window's data set; without them the features stay as they are.

    Raises
    ------
    ConfigError
        If captum is missing.
    """
    from kipoi_seq2exp.nn.mamba import recomputed_layers

    attr, expression = captum_methods(), Expression(model, window, rules)
    with recomputed_layers(model):
        slopes = attr.Saliency(expression).attribute(expression.inputs, abs=False)
    return expression.contributions(slopes, None)


def integrated_gradients(
    model: Seq2Exp,
    window: WindowInputs,
    steps: int = STEPS,
    on_step: Callable[[], None] | None = None,
    rules: FeatureRules | None = None,
) -> Contributions:
    """Integrate the gradient along the path from the baseline to the window (Sundararajan et al. 2017).

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    steps : int
        Points on the path (midpoints of equal parts); more bring `delta` closer to 0. Each keeps a copy of the inputs
        and of their gradients: 11 MB at 200 kb.
    on_step : callable, optional
        Called after each step.
    rules : FeatureRules, optional
        Rules of the window's data set; without them the features stay as they are.

    Raises
    ------
    ConfigError
        If there is no step, or captum is missing.
    """
    if steps < 1:
        raise ConfigError(f"integrated gradients need at least one step, found {steps}.")
    from kipoi_seq2exp.nn.mamba import recomputed_layers

    attr, expression = captum_methods(), Expression(model, window, rules, on_step)
    method = attr.IntegratedGradients(expression, multiply_by_inputs=False)
    with recomputed_layers(model):
        slopes = method.attribute(
            expression.inputs,
            baselines=expression.baselines,
            n_steps=steps,
            method="riemann_middle",
            internal_batch_size=1,
        )
    return expression.contributions(slopes, expression.baselines)


class Expression:
    """The expression of one window as a function of its DNA, tracks and features, through which gradients pass.

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    rules : FeatureRules, optional
        Without them the features stay as they are.
    on_call : callable, optional
        Called after each call that keeps gradients.

    Attributes
    ----------
    inputs, baselines : tuple of Tensor
        DNA (1, L, 4), and tracks (1, L, S) and features (1, F) where the network reads any.
    """

    def __init__(
        self,
        model: Seq2Exp,
        window: WindowInputs,
        rules: FeatureRules | None = None,
        on_call: Callable[[], None] | None = None,
    ) -> None:

        self.model, self.rules, self.on_call = model, rules, on_call
        given = tensors_of(model, [window])
        self._dna, self._tracks, self._features = (given[name].float() for name in ("onehot", "signals", "features"))
        self._blacklist: Tensor | None = given["blacklist"]
        self._mask: Tensor | None = None
        if _reads_a_threshold(model):
            found = forward(model, [window], evidence=False)
            assert found.mask is not None  # for the type checker: such a network makes one
            self._mask, self._blacklist = found.mask.clone(), None
        resting = window.features if rules is None else rules.baseline_of(window.features)
        pairs = [
            (self._dna, self._dna * 0),
            (self._tracks, self._tracks * 0),
            (self._features, stacked([resting], model)),
        ]
        kept = [pair for pair in pairs if pair[0].numel()]
        self.inputs = tuple(values.requires_grad_() for values, _ in kept)
        self.baselines = tuple(values for _, values in kept)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the expression (B,) of inputs like `inputs`."""
        import torch

        dna, tracks, features = self._complete(inputs)
        if self.rules is not None:
            features = self.rules.compute(features, tracks)
        fixed = {
            name: values.expand(len(dna), -1)
            for name, values in (("blacklist", self._blacklist), ("mask", self._mask))
            if values is not None
        }
        found: Tensor = self.model(dna, tracks, features, **fixed, evidence=False).expression
        for values in inputs:  # an input that the network does not read has a gradient of 0
            found = found + 0 * values.flatten(1).sum(1)
        if self.on_call is not None and torch.is_grad_enabled():
            self.on_call()
        return found

    def _complete(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Put inputs of width 0, which `inputs` leaves out, back in their places."""
        given = list(inputs[1:])
        tracks, features = (
            given.pop(0) if values.numel() else values.expand(len(inputs[0]), *values.shape[1:])
            for values in (self._tracks, self._features)
        )
        return inputs[0], tracks, features

    def contributions(self, slopes: tuple[Tensor, ...], baselines: tuple[Tensor, ...] | None) -> Contributions:
        """Multiply slopes by the inputs' differences from the baselines (None: from 0), and predict both ends."""
        import torch

        with torch.no_grad():
            prediction = float(self(*self.inputs))
            baseline = float("nan") if baselines is None else float(self(*baselines))
        starts = tuple(slope * 0 for slope in slopes) if baselines is None else baselines
        parts = [(slope * (at - start))[0] for slope, at, start in zip(slopes, self.inputs, starts, strict=True)]
        dna, tracks, features = (_array(values) for values in self._complete(tuple(part[None] for part in parts)))
        return Contributions(_array(slopes[0]), dna.sum(axis=1), tracks, features, prediction, baseline)


def _array(values: Tensor) -> Floats:
    array: Floats = values[0].detach().double().cpu().numpy()
    return array


def _reads_a_threshold(model: Seq2Exp) -> bool:
    """Whether the mask jumps where its inputs change smoothly."""
    config = model.config
    return config.generates_mask and (config.variant is Variant.HARD or config.mask_mode is not MaskMode.SOFT)


def mutagenesis(
    model: Seq2Exp,
    window: WindowInputs,
    bases: slice,
    batch_size: int = 1,
    on_base: Callable[[], None] | None = None,
) -> Floats:
    """Replace each base of a region by each of the other letters.

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
            f"the region must lie in the gene's window, {written(window.chrom, window.start, window.end)}, found "
            f"{written(window.chrom, window.start + bases.start, window.start + bases.stop)}."
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


def summary(gene_id: str, found: Contributions, dataset: WindowDataset) -> dict[str, Any]:
    """Return the row of one gene: prediction, baseline, contributions of each source, and the rest."""
    row = {"gene_id": gene_id, "expression": found.prediction, "baseline": found.baseline}
    row |= {"dna": float(found.dna.sum())}
    row |= dict(zip(dataset.inputs.track_names, found.tracks.sum(axis=0).tolist(), strict=True))
    computed = dataset.features.from_tracks
    names = dataset.inputs.feature_names
    row |= {name: float(found.features[i]) for i, name in enumerate(names) if i not in computed}
    return {**row, "not_explained": -found.delta}


@dataclass(frozen=True)
class ContributionJob:
    """Computes the contributions of a row of the gene table, as a unit of work (`prediction.units`).

    Attributes
    ----------
    steps : int or None
        Steps of integrated gradients; None for gradient x input.
    on_step : callable or None
        Called after each step, in this process.
    """

    steps: int | None
    on_step: Callable[[], None] | None = None

    @classmethod
    def of(cls, method: str, steps: int = STEPS, on_step: Callable[[], None] | None = None) -> ContributionJob:
        """Return the job of a method of `METHODS`.

        Raises
        ------
        ConfigError
            If there is no such method.
        """
        if method not in METHODS:
            raise ConfigError(f"method: unknown method '{method}'{suggest(method, METHODS)}.")
        return cls(steps if method == METHODS[0] else None, on_step)

    def __call__(self, bench: Bench, row: int) -> tuple[int, Contributions]:
        """Return the row and its contributions."""
        window, rules = bench.dataset[row], FeatureRules.of(bench.dataset)
        if self.steps is None:
            return row, gradient_times_input(bench.model, window, rules)
        return row, integrated_gradients(bench.model, window, self.steps, self.on_step, rules)


class MutationJob:
    """Mutates bases of the window of a row of the gene table, as a unit of work."""

    def __call__(self, bench: Bench, part: tuple[int, slice]) -> list[list[float]]:
        """Return the changes of `mutagenesis`."""
        row, bases = part
        changes: list[list[float]] = mutagenesis(bench.model, bench.dataset[row], bases, bench.batch_size).tolist()
        return changes


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
