"""A network as Kipoi wants it: dicts of numpy arrays in, numpy arrays out; no file, no Kipoi.

Windows go through the network one at a time, so the memory does not depend on the batch, and neither does the result.
Besides predictions: the gradient of the expression (or of any layer) with respect to the inputs, and the output of
any layer or named result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.nn.bottleneck import BetaParams
from kipoi_seq2exp.nn.halving import Halving
from kipoi_seq2exp.nn.mamba import recomputed_layers
from kipoi_seq2exp.nn.network import Seq2Exp, Seq2ExpOutput
from kipoi_seq2exp.settings import suggest

INPUTS = ("onehot", "signals", "features", "blacklist")
OUTPUTS = {"expression": "expression", "element_mask": "mask"}  # Kipoi's name -> field of the network's output
RESULTS = ("expression", "element_mask", "z", "posterior", "prior", "mask_logits")  # "layers" that are not modules
REDUCTIONS = ("sum", "max", "min", "absmax")

Arrays = Mapping[str, np.ndarray]
Tensors = dict[str, Tensor]


class ArrayModel:
    """Run, differentiate and look inside a network with numpy arrays.

    Parameters
    ----------
    network : Seq2Exp
        In eval mode.
    outputs : sequence of str
        Which outputs `predict` returns: "expression" (B, 1), "element_mask" (B, L).
    batch_size : int, optional
        Windows that go through the network together; changes memory and speed only. By default one on the CPU, where
        more would gain nothing, and elsewhere as many as are given and fit.

    Raises
    ------
    ConfigError
        If an output is unknown, or the network makes no mask.
    """

    def __init__(
        self, network: Seq2Exp, outputs: Sequence[str] = tuple(OUTPUTS), batch_size: int | None = None
    ) -> None:
        for name in outputs:
            if name not in OUTPUTS:
                raise ConfigError(f"outputs: unknown output '{name}'{suggest(name, OUTPUTS)}.")
        if "element_mask" in outputs and not network.config.generates_mask:
            raise ConfigError("outputs: these weights make no element_mask: ask for the expression only.")
        self.network, self.outputs, self.batch_size = network, tuple(outputs), batch_size

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """Return the outputs by name: expression (B, 1), in the weights' unit; element_mask (B, L), 0 to 1."""

        def work(windows: Tensors) -> dict[str, Tensor]:
            with torch.inference_mode():
                output = self.network(**windows, evidence=False)
                return {name: _named_result(output, name) for name in self.outputs}

        return self._together(x, work, self.outputs)

    def activation(self, x: Arrays, layer: str) -> np.ndarray:
        """Return the output of a layer, (B, ...): a module by its dotted name, or one of `RESULTS`."""

        def work(windows: Tensors) -> dict[str, Tensor]:
            with torch.inference_mode():
                return {layer: self._layer(windows, layer)}

        return self._together(x, work, [layer])[layer]

    def gradient(
        self, x: Arrays, layer: str | None = None, filter_idx: Any = None, avg_func: str | None = None
    ) -> dict[str, np.ndarray]:
        """Return the gradient of the expression, or of a layer, with respect to each input.

        Parameters
        ----------
        x : mapping of arrays
            The model's inputs.
        layer : str, optional
            Differentiate this layer instead of the expression; see `activation`.
        filter_idx : int, slice or tuple of them, optional
            Part of the layer's output to differentiate, after the batch axis.
        avg_func : {"sum", "max", "min", "absmax"}, optional
            How the selected values are reduced to one number per window; the sum when left out.

        Returns
        -------
        dict of arrays
            As `x`, float32; zeros for the blacklist, which is not a number.
        """
        if avg_func is not None and avg_func not in REDUCTIONS:
            raise ConfigError(f"avg_func: unknown reduction '{avg_func}'{suggest(str(avg_func), REDUCTIONS)}.")

        def work(windows: Tensors) -> dict[str, Tensor]:
            leaves = {name: value.requires_grad_() for name, value in windows.items() if value.is_floating_point()}
            with torch.enable_grad(), recomputed_layers(self.network):
                values = self._layer(windows, layer or "expression")
                total = _reduce(_select(values, filter_idx), avg_func)
                gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            found = {name: torch.zeros(value.shape) for name, value in windows.items()}
            pairs = zip(leaves, gradients, strict=True)
            return found | {name: gradient for name, gradient in pairs if gradient is not None}

        return self._together(x, work, list(x))

    def _together(
        self, x: Arrays, work: Callable[[Tensors], dict[str, Tensor]], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return what `work` makes of the windows: one after the other on the CPU, elsewhere as many at once as fit."""
        count = self._check(x)
        device = next(self.network.parameters()).device

        def rows(places: Sequence[int]) -> list[dict[str, np.ndarray]]:
            part = slice(places[0], places[-1] + 1)
            windows = {
                name: torch.as_tensor(
                    np.ascontiguousarray(values[part], bool if name == "blacklist" else np.float32), device=device
                )
                for name, values in x.items()
            }
            found = {name: value.cpu().numpy() for name, value in work(windows).items()}
            return [{name: found[name][row] for name in names} for row in range(len(places))]

        most = self.batch_size or (1 if device.type == "cpu" else max(1, count))
        results = Halving(rows, most)(range(count))
        return {name: np.stack([result[name] for result in results]) for name in names}

    def _check(self, x: Arrays) -> int:
        """Check the inputs; return the number of windows."""
        if not isinstance(x, Mapping):
            raise ShapeError(f"the inputs must be a dict of arrays ({', '.join(INPUTS)}), found {type(x).__name__}.")
        for name in x:
            if name not in INPUTS:
                raise ShapeError(f"unknown input '{name}'{suggest(str(name), INPUTS)}.")
        missing = [name for name in INPUTS[:3] if name not in x]
        if missing:
            raise ShapeError(f"the input '{missing[0]}' is missing.")
        lengths = {name: len(values) for name, values in x.items()}
        if len(set(lengths.values())) != 1:
            raise ShapeError(f"the inputs hold different numbers of windows: {lengths}.")
        return len(x["onehot"])

    def _layer(self, windows: Tensors, layer: str) -> Tensor:
        if layer in RESULTS:
            return _named_result(self.network(**windows), layer)
        modules = dict(self.network.named_modules())
        if not layer or layer not in modules:
            raise ConfigError(f"unknown layer '{layer}'{suggest(str(layer), [*RESULTS, *modules])}.")
        caught: list[Tensor] = []
        handle = modules[layer].register_forward_hook(lambda _module, _inputs, output: caught.append(output))
        try:
            self.network(**windows)
        finally:
            handle.remove()
        if not caught or not all(isinstance(output, Tensor) for output in caught):
            raise ConfigError(f"the layer '{layer}' does not output an array: choose a module inside it or a result.")
        count = len(windows["onehot"])
        if len(caught[-1]) == count:
            return caught[-1]
        calls = len(caught) // count  # the module's output for each window: on the CPU they are predicted one by one
        return torch.cat(caught[calls - 1 :: calls])


def _named_result(output: Seq2ExpOutput, name: str) -> Tensor:
    value = getattr(output, OUTPUTS.get(name, name))
    if value is None:
        raise ConfigError(f"these weights make no '{name}'.")
    if isinstance(value, BetaParams):
        value = value.mean
    result: Tensor = value[:, None] if name == "expression" else value
    return result


def _select(values: Tensor, filter_idx: Any) -> Tensor:
    if filter_idx is None:
        return values
    index = filter_idx if isinstance(filter_idx, tuple) else (filter_idx,)
    try:
        return values[(slice(None), *index)]
    except (IndexError, TypeError):
        raise ConfigError(
            f"filter_idx {filter_idx!r} does not fit a layer of shape {tuple(values.shape[1:])}."
        ) from None


def _reduce(values: Tensor, how: str | None) -> Tensor:
    """Reduce the values of each window to one number; return their sum, since no window sees another."""
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    if how == "max":
        return flat.amax(1).sum()
    if how == "min":
        return flat.amin(1).sum()
    if how == "absmax":
        return flat.gather(1, flat.abs().argmax(1, keepdim=True)).sum()
    return flat.sum()
