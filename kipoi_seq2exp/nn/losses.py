"""The training objective: smooth L1 on the expression plus the information bottleneck (paper, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from kipoi_seq2exp.errors import ShapeError
from kipoi_seq2exp.nn.network import Seq2ExpOutput

KL_WEIGHT = 0.01  # as published


@dataclass(frozen=True)
class Losses:
    """The objective and its two terms, each a scalar Tensor.

    Attributes
    ----------
    prediction : Tensor, ()
        Smooth L1 (beta 1) between predicted and observed expression.
    kl : Tensor or None, ()
        KL divergence from the prior in nats per base, times its weight; None for a network without a generator.
    total : Tensor, ()
        Their sum, to be minimised.
    """

    prediction: Tensor
    kl: Tensor | None
    total: Tensor


def seq2exp_loss(output: Seq2ExpOutput, target: Tensor, kl_weight: float = KL_WEIGHT) -> Losses:
    """Compute the objective of one batch.

    Parameters
    ----------
    output : Seq2ExpOutput
        What the network returned.
    target : Tensor, (B,)
        Observed expression in the network's unit.
    kl_weight : float
        Weight of the information bottleneck.

    Returns
    -------
    Losses
        Of the prediction, of the bottleneck (None without a mask of the network's own), and their sum.

    Raises
    ------
    ShapeError
        If there is not one target for each prediction.
    """
    if target.numel() != output.expression.numel():
        raise ShapeError(f"{target.numel()} targets do not belong to {output.expression.numel()} predictions.")
    prediction = functional.smooth_l1_loss(output.expression, target.to(output.expression.dtype).reshape(-1))
    if output.kl is None:
        return Losses(prediction, None, prediction)
    kl = kl_weight * output.kl
    return Losses(prediction, kl, prediction + kl)
