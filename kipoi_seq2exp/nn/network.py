"""Seq2Exp in one file, top to bottom: what the network does with a window round a gene's TSS.

Glossary (ours = paper's symbol)
    B, L, S, D, F   batch, bases of the window, tracks, d_model, gene features; P is the promoter's length
    onehot          X, the DNA in A C G T order (N is all zeros)                                        (B, L, 4)
    signals         S, the tracks in their own units: H3K27ac, DNase, contact with the TSS              (B, L, S)
    features        gene features: UTR and CDS lengths, GC, exon density, promoter activity             (B, F)
    posterior       Beta of each base read from DNA by the generator, q(z | x)                          (B, L)
    prior           Beta of each base and track, from the track's value                                 (B, L, S)
    z               both together, the probability that a base belongs to an active element             (B, L)
    mask            m, what of the window the encoder sees                                              (B, L)
    expression      y, log10(CAGE + 1) at the TSS                                                       (B,)

    window -> embed -> generator -> posterior --+
                                    tracks -> prior --+-> z -> mask -> (embedding * mask) -> encoder -> promoter mean
                                                                                 features -> MLP <-+      -> expression

Source: Su et al., ICLR 2025, arXiv 2502.13991.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kipoi_seq2exp.config import InputSpec, NetworkConfig, Products, Provenance, Variant
from kipoi_seq2exp.errors import ShapeError
from kipoi_seq2exp.nn import bottleneck
from kipoi_seq2exp.nn.bottleneck import BetaParams
from kipoi_seq2exp.nn.inputs import Inputs, check_inputs
from kipoi_seq2exp.nn.mamba import MambaStack


@dataclass(frozen=True)
class Seq2ExpOutput:
    """What the network says of a batch of windows.

    Attributes
    ----------
    expression : Tensor, (B,)
        log10(CAGE + 1), or the label that the weights were trained on.
    mask : Tensor or None, (B, L)
        What the encoder saw of each base, 0 to 1, promoter and blacklist applied; None for the plain baseline.
    z, posterior : BetaParams or None, (B, L)
        All evidence together, and that of the DNA alone. None (as the next three) where no mask was generated.
    prior : BetaParams or None, (B, L, S)
        Evidence of each track alone.
    mask_logits : Tensor or None, (B, L, 2)
        The generator's output: column 1 for keeping a base, column 0 against.
    kl : Tensor or None, ()
        KL divergence from the marginal, nats per base, mean over the batch.
    """

    expression: Tensor
    mask: Tensor | None = None
    z: BetaParams | None = None
    posterior: BetaParams | None = None
    prior: BetaParams | None = None
    mask_logits: Tensor | None = None
    kl: Tensor | None = None


@dataclass(frozen=True)
class Evidence:
    """The generator's part of the output, before the mask is read from it."""

    z: BetaParams
    posterior: BetaParams
    prior: BetaParams
    mask_logits: Tensor


class Seq2Exp(nn.Module):
    """The network; build it with `load_model`, or with a config for random weights.

    Parameters
    ----------
    config : NetworkConfig
        Variant, lengths, widths and constants.
    inputs : InputSpec, optional
        Names and units of the tracks and features that the weights expect, for the data wing.
    provenance : Provenance
        Where the weights come from.
    """

    prior_weights: Tensor
    signal_betas: Tensor

    def __init__(
        self, config: NetworkConfig, inputs: InputSpec | None = None, provenance: Provenance | None = None
    ) -> None:
        super().__init__()
        self.config, self.inputs, self.provenance = config, inputs, provenance or Provenance()
        D = config.d_model
        self.sequence_embedding = nn.Linear(4, D)
        self.signal_embedding = nn.Linear(config.n_tracks, D) if config.n_tracks else None
        self.position_embedding: nn.Parameter | None = None
        if config.variant is Variant.HARD:
            self.position_embedding = nn.Parameter(0.02 * torch.randn(config.window_bp, D))
        self.generator: MambaStack | None = None
        if config.variant is Variant.SOFT:
            self.generator = MambaStack(config, config.generator_layers)
        if config.generates_mask:
            self.evidence_head = nn.Linear(D, 2)
            self.register_buffer("prior_weights", torch.tensor(config.prior_weights))
            self.register_buffer("signal_betas", torch.tensor(config.signal_betas))
        self.encoder = MambaStack(config, config.encoder_layers)
        self.expression_head = nn.Sequential(
            nn.Linear(D + config.n_features, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 1)
        )

    def forward(
        self,
        onehot: Tensor,
        signals: Tensor | None,
        features: Tensor | None,
        blacklist: Tensor | None = None,
        mask: Tensor | None = None,
        sample: Tensor | None = None,
    ) -> Seq2ExpOutput:
        """Predict expression and mask of a batch of windows.

        Parameters
        ----------
        onehot : Tensor, (B, L, 4)
            DNA in A C G T order; N all zeros. Any number type.
        signals : Tensor, (B, L, S)
            Tracks, non-negative, transformed as `inputs` says. None if the network reads none.
        features : Tensor, (B, F)
            Gene features. None if the network reads none.
        blacklist : Tensor, (B, L), optional
            True where a base may not be kept (the promoter is kept all the same).
        mask : Tensor, (B, L), optional
            Use this mask exactly as given instead of the network's own (peaks, a perturbation); the generator does not
            run, and the output has no `z`, `posterior`, `prior` and `kl`.
        sample : Tensor, (B, L), optional
            Training: a draw from z to use instead of a fresh one.

        Returns
        -------
        Seq2ExpOutput
            The result does not depend on how windows are grouped into batches.

        Raises
        ------
        ShapeError
            If an input has the wrong shape, or holds a negative or non-finite track or feature.
        """
        inputs = check_inputs(self.config, onehot, signals, features, blacklist, mask, sample)
        if torch.is_grad_enabled() or onehot.device.type != "cpu":
            return self._forward(inputs)
        return _joined([self._forward(window) for window in inputs.windows()])  # the same bits in any batch

    def _forward(self, inputs: Inputs) -> Seq2ExpOutput:
        sequence, embedded = self.embed(inputs)
        mask, evidence = inputs.mask, None
        if mask is None and self.config.generates_mask:
            evidence = self.generate(sequence, embedded, inputs)
            mask = self.read_mask(evidence.z, inputs)
        pooled = self.encode(embedded, mask)
        expression: Tensor = self.expression_head(
            torch.cat([pooled, inputs.features.to(pooled.dtype)], dim=-1)
        ).squeeze(-1)
        if evidence is None:
            return Seq2ExpOutput(expression, mask=mask)
        return Seq2ExpOutput(
            expression,
            mask=mask,
            z=evidence.z,
            posterior=evidence.posterior,
            prior=evidence.prior,
            mask_logits=evidence.mask_logits,
            kl=bottleneck.marginal_kl(evidence.z, self.config),
        )

    def embed(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Embed DNA alone, and DNA with tracks; both (B, L, D)."""
        sequence = self.sequence_embedding(inputs.onehot)
        if self.position_embedding is not None:
            sequence = sequence + self.position_embedding
        if self.signal_embedding is None:
            return sequence, sequence
        return sequence, sequence + self.signal_embedding(inputs.signals)

    def generate(self, sequence: Tensor, embedded: Tensor, inputs: Inputs) -> Evidence:
        """Gather the evidence of DNA and tracks that each base belongs to an active element."""
        hidden = self.encoder(embedded) if self.generator is None else self.generator(sequence)
        with torch.autocast(hidden.device.type, enabled=False):  # concentrations stay in full precision
            exact = hidden.float() if hidden.dtype != torch.float64 else hidden
            logits = self.evidence_head(exact)
            posterior = bottleneck.sequence_evidence(logits, self.config)
            prior = bottleneck.signal_evidence(inputs.signals, self.signal_betas, self.config)
            z = bottleneck.couple_evidence(posterior, prior, self.prior_weights, self.config)
        return Evidence(z, posterior, prior, logits)

    def read_mask(self, z: BetaParams, inputs: Inputs) -> Tensor:
        """Read the mask (B, L) from z: its mean when evaluating, a sample of it when training."""
        if self.training or inputs.sample is not None:
            sample = z.distribution.rsample() if inputs.sample is None else inputs.sample
            hard = self.config.variant is Variant.HARD
            mask = bottleneck.straight_through(sample, self.config.threshold) if hard else sample
        else:
            mask = bottleneck.evaluation_mask(z.mean, self.config.mask_mode, self.config)
        return bottleneck.apply_annotations(mask, inputs.blacklist, self.promoter(mask.shape[1]))

    def encode(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        """Encode what the mask keeps and average it over the promoter: (B, L, D) -> (B, D)."""
        if self.config.variant is Variant.HARD and mask is not None:
            packed = [self._encode_packed(window, kept) for window, kept in zip(embedded, mask, strict=True)]
            return torch.stack(packed)
        masked = embedded if mask is None else embedded * mask[..., None].to(embedded.dtype)
        pooled: Tensor = self.encoder(masked, self.promoter(masked.shape[1])).mean(1)
        return pooled

    def _encode_packed(self, window: Tensor, mask: Tensor) -> Tensor:
        """Hard variant: encode the kept bases of one window (L, D) alone, moved together."""
        L, P = mask.shape[0], self.config.promoter_bp
        rows = mask > 0
        start = int(rows[: L // 2].sum()) - P // 2
        if start < 0 or start + P > int(rows.sum()):
            raise ShapeError(f"mask: a hard network needs the whole promoter (the central {P} bases) kept.")
        kept = window[rows]
        if self.config.straight_through:
            kept = kept * mask[rows, None].to(kept.dtype)
        pooled: Tensor = self.encoder(kept[None], slice(start, start + P))[0].mean(0)
        return pooled

    @property
    def products(self) -> Products:
        """Number type of the large products in predictions on a CPU; no property of the weights, and not saved."""
        return self.encoder.products

    @products.setter
    def products(self, value: Products) -> None:
        for stack in (self.generator, self.encoder):
            if stack is not None:
                stack.products = value

    def promoter(self, window_bp: int) -> slice:
        """Return the central P bases of a window of that length."""
        start = (window_bp - self.config.promoter_bp) // 2
        return slice(start, start + self.config.promoter_bp)


def _joined(outputs: list[Seq2ExpOutput]) -> Seq2ExpOutput:
    """Join the outputs of single windows to that of a batch; `kl` is the mean."""
    if len(outputs) == 1:
        return outputs[0]

    def join(values: list[Any]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], BetaParams):
            return BetaParams(torch.cat([v.alpha for v in values]), torch.cat([v.beta for v in values]))
        return torch.stack(values).mean() if values[0].ndim == 0 else torch.cat(values)

    names = [field.name for field in dataclasses.fields(Seq2ExpOutput)]
    return Seq2ExpOutput(**{name: join([getattr(output, name) for output in outputs]) for name in names})
