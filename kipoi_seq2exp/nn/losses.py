"""The training objective: the error of the expression plus the information bottleneck (paper, section 3)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from kipoi_seq2exp.errors import ShapeError
from kipoi_seq2exp.nn.network import Seq2ExpOutput

KL_WEIGHT = 0.01  # as published


class ErrorLoss(str, enum.Enum):
    """How the errors of a batch's predictions count; the two agree on errors up to 1."""

    SMOOTH_L1 = "smooth_l1"  # half the square up to 1, linear beyond (published)
    SQUARED = "squared"  # half the square throughout: predictions tend to the mean of a skewed label, not below it


@dataclass(frozen=True)
class Losses:
    """The objective and its two terms, each a scalar Tensor.

    Attributes
    ----------
    prediction : Tensor, ()
        Mean error loss between predicted and observed expression.
    kl : Tensor or None, ()
        KL divergence from the prior in nats per base, times its weight; None for a network without a generator.
    total : Tensor, ()
        Their sum, to be minimised.
    """

    prediction: Tensor
    kl: Tensor | None
    total: Tensor


def seq2exp_loss(
    output: Seq2ExpOutput, target: Tensor, kl_weight: float = KL_WEIGHT, error: ErrorLoss = ErrorLoss.SMOOTH_L1
) -> Losses:
    """Compute the objective of one batch.

    Parameters
    ----------
    output : Seq2ExpOutput
        The network's output.
    target : Tensor, (B,)
        Observed expression in the network's unit.
    kl_weight : float
        Weight of the information bottleneck.
    error : ErrorLoss
        How errors of the expression count.

    Returns
    -------
    Losses
        The loss of the prediction, that of the bottleneck (None if the network makes no mask), and their sum.

    Raises
    ------
    ShapeError
        If there is not one target for each prediction.
    """
    if target.numel() != output.expression.numel():
        raise ShapeError(f"{target.numel()} targets were given for {output.expression.numel()} predictions.")
    target = target.to(output.expression.dtype).reshape(-1)
    if error is ErrorLoss.SQUARED:
        prediction = functional.mse_loss(output.expression, target) / 2
    else:
        prediction = functional.smooth_l1_loss(output.expression, target)
    if output.kl is None:
        return Losses(prediction, None, prediction)
    kl = kl_weight * output.kl
    return Losses(prediction, kl, prediction + kl)
