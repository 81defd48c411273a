"""A network as Kipoi wants it: dicts of numpy arrays in, numpy arrays out; no file, no Kipoi.

Windows go through the network one at a time, so the memory does not depend on the batch, and neither does the result.
Besides predictions: the gradient of the expression (or of any layer) with respect to the inputs, and the output of
any layer or named result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.nn.bottleneck import BetaParams
from kipoi_seq2exp.nn.mamba import recomputed_layers
from kipoi_seq2exp.nn.network import Seq2Exp, Seq2ExpOutput
from kipoi_seq2exp.settings import suggest

INPUTS = ("onehot", "signals", "features", "blacklist")
OUTPUTS = {"expression": "expression", "element_mask": "mask"}  # Kipoi's name -> field of the network's output
RESULTS = ("expression", "element_mask", "z", "posterior", "prior", "mask_logits")  # "layers" that are no module
REDUCTIONS = ("sum", "max", "min", "absmax")

Arrays = Mapping[str, np.ndarray]


class ArrayModel:
    """Predict, differentiate and look inside a network, with numpy arrays.

    Parameters
    ----------
    network : Seq2Exp
        In eval mode.
    outputs : sequence of str
        Which outputs `predict` returns: "expression" (B, 1), "element_mask" (B, L).

    Raises
    ------
    ConfigError
        If an output is unknown, or the network makes no mask.
    """

    def __init__(self, network: Seq2Exp, outputs: Sequence[str] = tuple(OUTPUTS)) -> None:
        for name in outputs:
            if name not in OUTPUTS:
                raise ConfigError(f"outputs: unknown output '{name}'{suggest(name, OUTPUTS)}.")
        if "element_mask" in outputs and not network.config.generates_mask:
            raise ConfigError("outputs: these weights make no element_mask: ask for the expression only.")
        self.network, self.outputs = network, tuple(outputs)

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """Return the outputs by name: expression (B, 1), in the weights' unit; element_mask (B, L), 0 to 1."""
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        with torch.inference_mode():
            for window in self._windows(x):
                output = self.network(**window)
                for name in self.outputs:
                    rows[name].append(_named_result(output, name).cpu().numpy())
        return {name: np.concatenate(values) for name, values in rows.items()}

    def activation(self, x: Arrays, layer: str) -> np.ndarray:
        """Return what a layer puts out, (B, ...): a module by its dotted name, or one of `RESULTS`."""
        with torch.inference_mode():
            return np.concatenate([self._layer(window, layer).cpu().numpy() for window in self._windows(x)])

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
            As `x`, float32; zeros for the blacklist, which is no number.
        """
        if avg_func is not None and avg_func not in REDUCTIONS:
            raise ConfigError(f"avg_func: unknown reduction '{avg_func}'{suggest(str(avg_func), REDUCTIONS)}.")
        rows: dict[str, list[np.ndarray]] = {name: [] for name in x}
        for window in self._windows(x):
            leaves = {name: value.requires_grad_() for name, value in window.items() if value.is_floating_point()}
            with torch.enable_grad(), recomputed_layers(self.network):
                values = self._layer(window, layer or "expression")
                total = _reduce(_select(values, filter_idx), avg_func)
                gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            for (name, leaf), found in zip(leaves.items(), gradients, strict=True):
                rows[name].append((torch.zeros_like(leaf) if found is None else found).cpu().numpy())
            for name in window.keys() - leaves.keys():
                rows[name].append(np.zeros(tuple(window[name].shape), np.float32))
        return {name: np.concatenate(values) for name, values in rows.items()}

    def _windows(self, x: Arrays) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of one window at a time, (1, ...), as tensors of the types that the network reads."""
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
        device = next(self.network.parameters()).device
        for row in range(len(x["onehot"])):
            yield {
                name: torch.as_tensor(
                    np.ascontiguousarray(values[row : row + 1], bool if name == "blacklist" else np.float32),
                    device=device,
                )
                for name, values in x.items()
            }

    def _layer(self, window: dict[str, Tensor], layer: str) -> Tensor:
        if layer in RESULTS:
            return _named_result(self.network(**window), layer)
        modules = dict(self.network.named_modules())
        if not layer or layer not in modules:
            raise ConfigError(f"unknown layer '{layer}'{suggest(str(layer), [*RESULTS, *modules])}.")
        caught: list[Tensor] = []
        handle = modules[layer].register_forward_hook(lambda _module, _inputs, output: caught.append(output))
        try:
            self.network(**window)
        finally:
            handle.remove()
        if not caught or not isinstance(caught[-1], Tensor):
            raise ConfigError(
                f"the layer '{layer}' puts out no array of its own: choose a module inside it or a result."
            )
        return caught[-1]


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
    flat = values.flatten()
    if how == "max":
        return flat.max()
    if how == "min":
        return flat.min()
    if how == "absmax":
        return flat[flat.abs().argmax()]
    return flat.sum()
