"""Does the model use distal DNA? Its predictions as the window shrinks, and as distal bases or tracks are removed.

Contract: an open run with its finished predictions in; for every gene, one prediction per condition out. The network is
never retrained: each condition is a change of its input or of its mask at test time. Gene features stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import Variant
from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.elements.calls import CallSettings, call_elements
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.judge.conditions import Rows, RowsOf
from kipoi_seq2exp.prediction.masking import predict_masked
from kipoi_seq2exp.prediction.run import Run, predict_windows
from kipoi_seq2exp.prediction.store import Predictions

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp

Floats = NDArray[np.float32]

WINDOWS_BP = (100_000, 50_000, 20_000, 10_000, 5_000, 2_500)
FULL, PROMOTER_ONLY = "whole window", "mask: promoter alone"
WITHOUT, ALONE, NO_TRACKS = "mask: elements out", "mask: promoter and elements", "distal tracks 0"


def distal_rows(run: Run, predictions: Predictions, windows_bp: Sequence[int] | None, calls: CallSettings) -> RowsOf:
    """Return a function that predicts one gene of a run under each condition, for `conditions.over_genes`.

    Its row has a column per condition: the whole window first (the mask and expression of the predictions), then
    shorter windows (a hard network reads one length alone and gets the mask cut to them instead), then changes of the
    mask and of the tracks.

    Parameters
    ----------
    run : Run
    predictions : Predictions
    windows_bp : sequence of int, optional
        Lengths of shorter windows; by default those of `WINDOWS_BP` that the model's window holds.
    calls : CallSettings
        Which elements are masked out, or left alone with the promoter.

    Raises
    ------
    ConfigError
        If a window is not shorter than the model's or does not hold the promoter, or the weights read peaks.
    """
    config = run.model.config
    if config.variant is Variant.PEAKS:
        raise ConfigError("these weights read a mask of peaks, which this comparison does not cover.")
    lengths = checked_windows(windows_bp, config.window_bp, config.promoter_bp)

    def rows_of(index: int, window: WindowInputs) -> Rows:
        mask = predictions.network_mask(index)
        row: dict[str, object] = {FULL: float(predictions.genes["expression"].iloc[index])}
        for length in lengths:
            row[f"window {length:,} bp"] = _shortened(run.model, window, mask, length)
        if mask is not None:
            row |= _masked(run, window, mask, calls)
        row[NO_TRACKS] = predict_windows(run.model, [_without_distal_tracks(run.model, window)])[0].expression
        yield row

    return rows_of


def checked_windows(windows_bp: Sequence[int] | None, whole_bp: int, promoter_bp: int) -> list[int]:
    """Return the lengths to try, longest first.

    Raises
    ------
    ConfigError
        If a length is odd, shorter than the promoter, or not shorter than the whole window.
    """
    if windows_bp is None:
        return [length for length in WINDOWS_BP if promoter_bp <= length < whole_bp]
    for length in windows_bp:
        if length % 2 or not promoter_bp <= length < whole_bp:
            raise ConfigError(
                f"a shorter window must be even, hold the promoter ({promoter_bp:,} bp) and be shorter than the "
                f"model's ({whole_bp:,} bp), found {length:,}."
            )
    return sorted(set(windows_bp), reverse=True)


def shorten(window: WindowInputs, length_bp: int) -> WindowInputs:
    """Return the central part of a window."""
    cut = (len(window.onehot) - length_bp) // 2
    middle = slice(cut, cut + length_bp)
    return dataclasses.replace(
        window,
        start=window.start + cut,
        end=window.start + cut + length_bp,
        onehot=window.onehot[middle],
        signals=window.signals[middle],
        blacklist=window.blacklist[middle],
    )


def _shortened(model: Seq2Exp, window: WindowInputs, mask: Floats | None, length_bp: int) -> float:
    if model.config.variant is Variant.HARD and mask is not None:
        return float(predict_masked(model, window, [_central(mask, length_bp)])[0])
    return predict_windows(model, [shorten(window, length_bp)])[0].expression


def _central(mask: Floats, length_bp: int) -> Floats:
    """Return the mask with 0 outside its central part."""
    cut = (len(mask) - length_bp) // 2
    central = np.zeros_like(mask)
    central[cut : cut + length_bp] = mask[cut : cut + length_bp]
    return central


def _masked(run: Run, window: WindowInputs, mask: Floats, calls: CallSettings) -> dict[str, float]:
    promoter = run.model.promoter(len(mask))
    called = call_elements(mask, promoter, calls).bases(len(mask))
    outside = np.ones(len(mask), dtype=bool)
    outside[promoter] = False
    masks = {
        PROMOTER_ONLY: np.where(outside, 0, mask),
        WITHOUT: np.where(called, 0, mask),
        ALONE: np.where(outside & ~called, 0, mask),
    }
    expression = predict_masked(run.model, window, masks.values(), run.request.batch_size)
    return dict(zip(masks, expression.tolist(), strict=True))


def _without_distal_tracks(model: Seq2Exp, window: WindowInputs) -> WindowInputs:
    signals = np.zeros_like(window.signals)
    promoter = model.promoter(len(signals))
    signals[promoter] = window.signals[promoter]
    return dataclasses.replace(window, signals=signals)
