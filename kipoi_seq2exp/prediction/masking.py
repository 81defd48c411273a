"""Predicted expression under masks given from outside: elements masked out, masks swapped in.

Work that the masks of one window share is done once: the generator never runs here, and equal masks are predicted once
(an element that a hard mask leaves out anyway gives an equal mask). The encoder runs once for each mask: its layers
read the window in both directions, so from the second layer on every base sees the change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.zoo.forward import stacked, tensors_of

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp

Floats = NDArray[np.float32]

PRECISION = 1e-5
RESOLVED = 0.1  # of the error on genes held out: a tenth of it may still rank variants of one gene, less says nothing
"""Changes of a prediction below this are rounding: single precision, through a window of 200 kb."""


def predict_masked(
    model: Seq2Exp, window: WindowInputs, masks: Iterable[NDArray[np.floating]], batch_size: int = 1
) -> NDArray[np.float64]:
    """Predict one window under each of several masks.

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    masks : iterable of ndarray, (L,)
        Used exactly as given.
    batch_size : int
        Masks that go through the network together; changes memory and speed only.

    Returns
    -------
    ndarray, (M,)
        In the unit of the prediction, one for each mask.
    """
    import torch

    given = tensors_of(model, [window])
    expression: dict[bytes, float] = {}
    wanted: list[bytes] = []
    queue = _new_masks(masks, wanted)
    while chunk := dict(islice(queue, batch_size)):
        with torch.inference_mode():
            windows = {name: array.expand(len(chunk), *array.shape[1:]) for name, array in given.items()}
            output = model(**windows, mask=stacked(list(chunk.values()), model))
        expression.update(zip(chunk, output.expression.float().cpu().tolist(), strict=True))
    return np.array([expression[key] for key in wanted], dtype=np.float64)


def _new_masks(masks: Iterable[NDArray[np.floating]], wanted: list[bytes]) -> Iterator[tuple[bytes, Floats]]:
    """Yield each new mask with its digest; the digest of every mask is added to `wanted`, in order."""
    seen: set[bytes] = set()
    for given in masks:
        mask = np.ascontiguousarray(given, dtype=np.float32)
        wanted.append(hashlib.sha256(mask.tobytes()).digest())
        if wanted[-1] not in seen:
            seen.add(wanted[-1])
            yield wanted[-1], mask


def effect_line(changes: NDArray[np.floating], what: str) -> str:
    """Return a sentence on how far predictions moved, and whether that is only rounding."""
    if not changes.size:
        return f"{what}: none"
    line = f"{what} change log10 expression by {changes.min():+.3g} to {changes.max():+.3g}"
    if np.abs(changes).max() < PRECISION:
        line += f", which is rounding (below {PRECISION:g}): the prediction does not depend on them"
    return line


def resolution_line(changes: NDArray[np.floating], scores: Mapping[str, float]) -> str | None:
    """Return a sentence if every change is far below the error of the weights, else None.

    Parameters
    ----------
    changes : ndarray, (n,)
        Of log10 expression.
    scores : mapping of str to float
        Scores of the weights on genes that they were not trained on; only `mse` is used.
    """
    if not changes.size or not scores.get("mse"):
        return None
    largest, error = float(np.abs(changes).max()), float(np.sqrt(scores["mse"]))
    if largest >= RESOLVED * error:
        return None
    return (
        f"the largest is {largest:.3g}, while predictions of these weights are off by {error:.3g} (root mean square, "
        "genes held out): effects this small are below what they resolve"
    )


def masked_out(
    mask: NDArray[np.floating], start: NDArray[np.int64], end: NDArray[np.int64], promoter: slice = slice(0, 0)
) -> Iterable[NDArray[np.floating]]:
    """Yield the mask with one interval after the other set to 0, as CRISPRi silences an element; the promoter stays."""
    for first, last in zip(start, end, strict=True):
        changed = mask.copy()
        changed[first:last] = 0
        changed[promoter] = mask[promoter]
        yield changed
