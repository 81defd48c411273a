"""The information bottleneck: evidence of DNA and tracks as Beta distributions, added up, then turned into a mask.

Each base has a probability of belonging to an active regulatory element. The DNA gives it one Beta distribution (the
*posterior*, from the generator), each track another (the *prior*). A Beta's two concentrations act as counts of
evidence for (alpha) and against (beta) keeping the base, so evidence adds up, and the mask is read from the sum `z`.
The KL divergence from a *marginal* Beta, which expects few bases to be kept, is the price of every base that is kept.
Source: Su et al. 2025 (arXiv 2502.13991), section 3; the constants are those of `NetworkConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta, kl_divergence
from torch.nn import functional

from kipoi_seq2exp.config import MaskMode, NetworkConfig

EPSILON = 1e-8  # keeps concentrations above zero


@dataclass(frozen=True)
class BetaParams:
    """Concentrations of Beta distributions, one per base (and, for the tracks, one per track).

    Attributes
    ----------
    alpha, beta : Tensor, (B, L) or (B, L, S)
        Evidence for and against keeping the base, > 0.
    """

    alpha: Tensor
    beta: Tensor

    @property
    def mean(self) -> Tensor:
        """Probability that the base is kept."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def distribution(self) -> Beta:
        """The same as a torch distribution (quantiles are scipy's: `scipy.stats.beta.ppf`)."""
        return Beta(self.alpha, self.beta, validate_args=False)


@dataclass(frozen=True)
class Evidence:
    """The generator's part of the output, before the mask is read from it: per token."""

    z: BetaParams
    posterior: BetaParams
    prior: BetaParams
    mask_logits: Tensor


def mean_evidence(members: Sequence[Evidence]) -> Evidence:
    """Average the evidence of the members of an ensemble; sums of evidence stay sums in the mean."""
    if len(members) == 1:
        return members[0]

    def mean(name: str) -> BetaParams:
        values = [getattr(member, name) for member in members]
        alpha, beta = (torch.stack([getattr(value, side) for value in values]).mean(0) for side in ("alpha", "beta"))
        return BetaParams(alpha=alpha, beta=beta)

    logits = torch.stack([member.mask_logits for member in members]).mean(0)
    return Evidence(mean("z"), mean("posterior"), mean("prior"), logits)


def sequence_evidence(logits: Tensor, config: NetworkConfig) -> BetaParams:
    """Turn the generator's two logits a base, (B, L, 2), into concentrations (B, L): column 1 is alpha."""
    evidence = functional.softplus(logits) + config.beta_min + EPSILON
    return BetaParams(alpha=evidence[..., 1], beta=evidence[..., 0])


def signal_evidence(signals: Tensor, signal_betas: Tensor, config: NetworkConfig) -> BetaParams:
    """Turn the tracks (B, L, S) into concentrations (B, L, S): a high signal is evidence for keeping the base."""
    alpha = (signals + config.beta_min) * config.prior_scale + EPSILON
    beta = (signal_betas + config.beta_min) * config.prior_scale
    return BetaParams(alpha=alpha, beta=beta.expand_as(alpha))


def couple_evidence(
    sequence: BetaParams, tracks: BetaParams, prior_weights: Tensor, config: NetworkConfig
) -> BetaParams:
    """Add the evidence of the DNA and of the tracks, base by base (the paper's coupling of the Beta distributions).

    Parameters
    ----------
    sequence : BetaParams
        Evidence read from DNA; both fields (B, L).
    tracks : BetaParams
        Evidence of each track; both fields (B, L, S).
    prior_weights : Tensor, (S,)
        Shares of the tracks before the softmax.

    Returns
    -------
    BetaParams
        Both fields (B, L).
    """
    shares = prior_weights.softmax(0)
    alpha = (sequence.alpha + (tracks.alpha * shares).sum(-1)) * config.z_scale
    beta = (sequence.beta + (tracks.beta * shares).sum(-1)) * config.z_scale
    return BetaParams(alpha=alpha, beta=beta)


def marginal_kl(z: BetaParams, config: NetworkConfig) -> Tensor:
    """Return KL(z || marginal) in nats per base, the mean over the batch and all bases: a scalar."""
    scale, mean = config.marginal_scale, config.marginal_mean
    marginal = Beta(z.alpha.new_tensor(scale), z.alpha.new_tensor(scale * (1 - mean) / mean))
    return kl_divergence(z.distribution, marginal).mean()


def evaluation_mask(probability: Tensor, mode: MaskMode, config: NetworkConfig) -> Tensor:
    """Turn the mean of z, (B, L), into the mask that the encoder sees, (B, L)."""
    if mode is MaskMode.SOFT:
        return probability
    if mode is MaskMode.HARD:
        return (probability >= config.threshold).to(probability.dtype)
    kept = int(probability.shape[1] * config.top_fraction)
    top = probability.topk(kept, dim=1).indices
    chosen = torch.zeros_like(probability).scatter_(1, top, 1.0)
    return chosen if mode is MaskMode.TOP else chosen * probability


def straight_through(sample: Tensor, threshold: float) -> Tensor:
    """Threshold a sample to 0 or 1 with the gradient of the sample itself."""
    hard = (sample >= threshold).to(sample.dtype)
    return hard + (sample - sample.detach())


def apply_annotations(mask: Tensor, blacklist: Tensor | None, promoter: slice) -> Tensor:
    """Drop blacklisted bases, then keep the whole promoter, blacklisted or not."""
    kept = mask if blacklist is None else mask.masked_fill(blacklist, 0.0)
    annotated = kept.clone()
    annotated[:, promoter] = 1.0
    return annotated


def annotate_tokens(probability: Tensor, kept: Tensor | None, promoter: slice) -> Tensor:
    """Give each token the mean of its bases' mask as `apply_annotations` makes it.

    Parameters
    ----------
    probability : Tensor, (B, T)
        The mask before annotations.
    kept : Tensor or None, (B, T)
        Share of each token's bases that are not blacklisted; None: all.
    promoter : slice
        The promoter's tokens.
    """
    annotated = probability.clone() if kept is None else probability * kept.to(probability.dtype)
    annotated[:, promoter] = 1.0
    return annotated
