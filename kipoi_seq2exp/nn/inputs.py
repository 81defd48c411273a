"""Checks at the network's input and output: any number type in, float tensors out, every result a finite number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kipoi_seq2exp.config import NetworkConfig, Variant
from kipoi_seq2exp.errors import ShapeError, WeightsError


@dataclass(frozen=True)
class Inputs:
    """Checked inputs of a batch: shapes agree, numbers are float32 (or float64), the blacklist is bool.

    Attributes
    ----------
    onehot : Tensor, (B, L, 4)
        Unchanged if the network reads no DNA and no gradient with respect to it is wanted.
    signals : Tensor, (B, L, S)
    features : Tensor, (B, F)
    blacklist, mask, sample : Tensor or None, (B, L)
    """

    onehot: Tensor
    signals: Tensor
    features: Tensor
    blacklist: Tensor | None
    mask: Tensor | None
    sample: Tensor | None

    def windows(self) -> Iterator[Inputs]:
        """Yield the windows of the batch one by one."""
        for i in range(self.onehot.shape[0]):
            one: dict[str, Any] = {k: None if v is None else v[i : i + 1] for k, v in vars(self).items()}
            yield Inputs(**one)


def check_inputs(
    config: NetworkConfig,
    onehot: Tensor,
    signals: Tensor | None,
    features: Tensor | None,
    blacklist: Tensor | None,
    mask: Tensor | None,
    sample: Tensor | None,
) -> Inputs:
    """Check every input against the config and against each other.

    Raises
    ------
    ShapeError
        If a shape is wrong, an input is missing, or a track or feature is negative or not a number.
    """
    if onehot.ndim != 3 or onehot.shape[2] != 4:
        raise ShapeError(f"onehot must have shape (batch, window, 4), found {tuple(onehot.shape)}.")
    B, L = onehot.shape[:2]
    _check_window(config, L)
    signals = _required("signals", signals, (B, L, config.n_tracks), "tracks", onehot)
    features = _required("features", features, (B, config.n_features), "gene features", onehot)
    lowest = _lowest(signals)
    if math.isnan(lowest):
        raise ShapeError("signals hold a value that is not a finite number: replace missing values by 0 first.")
    if config.generates_mask and lowest < 0:
        track = int((signals < 0).any(0).any(0).nonzero()[0])
        raise ShapeError(
            f"signals: track {track} has a negative value ({float(signals[..., track].min()):.4g}); "
            "evidence cannot be negative: give a track of counts or of fold change without logarithm."
        )
    if math.isnan(_lowest(features)):
        raise ShapeError("features hold a value that is not a finite number.")
    if mask is None and config.variant is Variant.PEAKS:
        raise ShapeError("mask: this network makes no mask of its own; give one (B, L), e.g. peaks.")
    if blacklist is not None:
        blacklist = _same_window("blacklist", blacklist, (B, L), onehot).bool()
    numbers = torch.float64 if signals.dtype == torch.float64 else torch.float32
    mask = None if mask is None else _same_window("mask", mask, (B, L), onehot).to(numbers)
    sample = None if sample is None else _same_window("sample", sample, (B, L), onehot).to(numbers)
    if config.reads_dna or onehot.requires_grad:  # otherwise it is not read
        onehot = onehot.to(numbers)
    return Inputs(onehot, signals, features.to(numbers), blacklist, mask, sample)


def check_results(expression: Tensor, mask: Tensor | None) -> None:
    """Check that the predictions of a network, (B,) and (B, L), are finite numbers: a NaN is never a result.

    Raises
    ------
    WeightsError
        If one is not.
    """
    for what, values in (("expression", expression), ("mask", mask)):
        if values is not None and math.isnan(_lowest(values)):
            found = float(values[~torch.isfinite(values)][0])
            raise WeightsError(
                f"the network predicts {'an' if what == 'expression' else 'a'} {what} of {found}: its weights overflow "
                "on these inputs (are the tracks and features in the units that the weights were trained on?)."
            )


def _lowest(values: Tensor) -> float:
    """Return the lowest of values, in one pass; NaN if one of them is not a finite number, 0 if there are none."""
    if not values.numel():
        return 0.0
    lowest, highest = (float(value) for value in torch.aminmax(values.detach()))  # a NaN is both
    return lowest if lowest > -math.inf and highest < math.inf else math.nan


def _check_window(config: NetworkConfig, length: int) -> None:
    if config.variant is Variant.HARD and length != config.window_bp:
        raise ShapeError(f"onehot: a hard network reads windows of {config.window_bp:,} bases, found {length:,}.")
    if length < config.promoter_bp or length % 2:
        raise ShapeError(
            f"onehot: the window must be even and hold the promoter of {config.promoter_bp:,} bases, found {length:,}."
        )


def _required(name: str, value: Tensor | None, shape: tuple[int, ...], what: str, like: Tensor) -> Tensor:
    """Check one input whose width the weights fix; an input of width 0 may be left out."""
    if value is None:
        if shape[-1]:
            raise ShapeError(f"{name} is missing: these weights read {shape[-1]} {what}.")
        return torch.zeros(shape, device=like.device)
    if shape[-1] == 0 and value.ndim == len(shape):
        value = value[..., :0]
    if tuple(value.shape) != shape:
        raise ShapeError(f"{name} must have shape {shape} ({shape[-1]} {what}), found {tuple(value.shape)}.")
    return value if value.dtype == torch.float64 else value.float()


def _same_window(name: str, value: Tensor, shape: tuple[int, int], like: Tensor) -> Tensor:
    if tuple(value.shape) != shape:
        raise ShapeError(f"{name} must have shape {shape}, one value a base, found {tuple(value.shape)}.")
    return value.to(like.device)
