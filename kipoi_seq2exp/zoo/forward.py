"""From windows to the network's output: the one place where windows of files become tensors.

Everything that runs the network on `WindowInputs` goes through here: predictions, masks from outside, nulls,
perturbations and contributions. (Training cuts windows to tokens beforehand, Kipoi's door gets arrays.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs

if TYPE_CHECKING:
    from torch import Tensor

    from kipoi_seq2exp.nn.network import Seq2Exp, Seq2ExpOutput


def stacked(arrays: Sequence[NDArray[Any]], model: Seq2Exp) -> Tensor:
    """Return arrays (...) as one tensor (B, ...) on the network's device; a single one shares its memory on the CPU."""
    import torch

    joined = arrays[0][None] if len(arrays) == 1 and arrays[0].flags.writeable else np.stack(arrays)
    return torch.from_numpy(joined).to(next(model.parameters()).device)


def tensors_of(model: Seq2Exp, windows: Sequence[WindowInputs]) -> dict[str, Tensor]:
    """Return the network's inputs for windows, on its device.

    Parameters
    ----------
    model : Seq2Exp
    windows : sequence of WindowInputs, B
        All of one length.

    Returns
    -------
    dict of str to Tensor
        onehot (B, L, 4), signals (B, L, S), features (B, F), blacklist (B, L).
    """
    names = ("onehot", "signals", "features", "blacklist")
    return {name: stacked([getattr(window, name) for window in windows], model) for name in names}


def forward(
    model: Seq2Exp, windows: Sequence[WindowInputs], mask: Tensor | None = None, *, evidence: bool = True
) -> Seq2ExpOutput:
    """Run the network on windows, without gradients.

    Parameters
    ----------
    model : Seq2Exp
    windows : sequence of WindowInputs, B
        All of one length.
    mask : Tensor, (B, L), optional
        Used exactly as given, in place of the network's own.
    evidence : bool
        Return the evidence behind the mask too (see `Seq2Exp.forward`).

    Returns
    -------
    Seq2ExpOutput
    """
    import torch

    with torch.inference_mode():
        output: Seq2ExpOutput = model(**tensors_of(model, windows), mask=mask, evidence=evidence)
    return output
