"""Seq2Exp in one file, top to bottom: what the network does with a window around a gene's TSS.

Glossary (ours = paper's symbol)
    B, L, S, D, F   batch, bases of the window, tracks, d_model, gene features; P is the promoter's length
    T               positions that the network works on: tokens of token_bp bases (`tokens`); published: T = L
    onehot          X, the DNA in A C G T order (N is all zeros)                                        (B, L, 4)
    signals         S, the tracks in their own units: H3K27ac, DNase, contact with the TSS              (B, L, S)
    features        gene features: UTR and CDS lengths, GC, exon density, promoter activity             (B, F)
    posterior       Beta of each base read from DNA by the generator, q(z | x)                          (B, L)
    prior           Beta of each base and track, from the track's value                                 (B, L, S)
    z               both together, the probability that a base belongs to an active element             (B, L)
    mask            m, what of the window the encoder sees                                              (B, L)
    expression      y, at the TSS; the published label is log10(CAGE + 1)                              (B,)

    window -> embed -> generator -> posterior --+
                                    tracks -> prior --+-> z -> mask -> (embedding * mask) -> encoder -> promoter mean
                                                                                 features -> MLP <-+      -> expression

Source: Su et al., ICLR 2025, arXiv 2502.13991. Ours beyond it, all off by default: tokens, the reach of the states
(`memory_bp`), what the rest of the window adds to the promoter as activity x contact x mask (`contact_pool`,
`encoder_bp`), and the means of track x mask in spans round the TSS (`spans_bp`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kipoi_seq2exp.config import InputSpec, NetworkConfig, Products, Provenance, Variant
from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.nn import bottleneck
from kipoi_seq2exp.nn.bottleneck import BetaParams, Evidence, mean_evidence
from kipoi_seq2exp.nn.inputs import Inputs, check_inputs, check_results
from kipoi_seq2exp.nn.mamba import MambaStack, has_hooks
from kipoi_seq2exp.nn.remembered import Remembered
from kipoi_seq2exp.nn.tokens import TokenGrid, Tokens, TokenStem, read_5_to_3, to_tokens, turned, without_dna

GAIN = -2.0  # of each sum of `contact_pool` at the start, before softplus
CONTEXT = 9  # positions that an activity is read from where the encoder reads the centre alone
ACTIVITY_BIAS = -3.0  # of the activities of `contact_pool` at the start: next to none, as of most of a window


@dataclass(frozen=True)
class Seq2ExpOutput:
    """The network's output for a batch of windows.

    Attributes
    ----------
    expression : Tensor, (B,)
        In the unit of the label that the weights were trained on (published: log10(CAGE + 1)).
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
    spread : Tensor or None, (B,)
        Standard deviation of the expression over the members of an ensemble; None for a single network.
    """

    expression: Tensor
    mask: Tensor | None = None
    z: BetaParams | None = None
    posterior: BetaParams | None = None
    prior: BetaParams | None = None
    mask_logits: Tensor | None = None
    kl: Tensor | None = None
    spread: Tensor | None = None


class Seq2Exp(nn.Module):
    """The network; build it with `load_model`, or with a config for random weights.

    Parameters
    ----------
    config : NetworkConfig
        Variant, lengths, widths and constants.
    inputs : InputSpec, optional
        Names and units of the tracks and features that the weights expect, for the code that reads them.
    provenance : Provenance
        Where the weights come from.
    """

    prior_weights: Tensor
    signal_betas: Tensor
    encoder: MambaStack

    def __init__(
        self, config: NetworkConfig, inputs: InputSpec | None = None, provenance: Provenance | None = None
    ) -> None:
        super().__init__()
        self.config, self.inputs, self.provenance = config, inputs, provenance or Provenance()
        self.members: nn.ModuleList | None = None
        self.generator: MambaStack | None = None
        self._remembered = Remembered()
        if config.generates_mask:
            self.register_buffer("prior_weights", torch.tensor(config.prior_weights))
            self.register_buffer("signal_betas", torch.tensor(config.signal_betas))
        if config.members > 1:
            single = dataclasses.replace(config, members=1)
            self.members = nn.ModuleList(Seq2Exp(single, inputs, provenance) for _ in range(config.members))
        else:
            self._make_layers(config)

    @classmethod
    def of_members(cls, networks: Sequence[Seq2Exp]) -> Seq2Exp:
        """Join networks of the same settings into an ensemble, which takes inputs and provenance from the first.

        Raises
        ------
        ConfigError
            If there are fewer than two, their settings or inputs differ, or one is an ensemble itself.
        """
        if len(networks) < 2:
            raise ConfigError(f"members: an ensemble needs at least two networks, found {len(networks)}.")
        first = networks[0]
        if first.members is not None or any((n.config, n.inputs) != (first.config, first.inputs) for n in networks):
            raise ConfigError("members: only single networks of the same settings and inputs make an ensemble.")
        ensemble = cls(dataclasses.replace(first.config, members=len(networks)), first.inputs, first.provenance)
        assert ensemble.members is not None  # for the type checker
        for member, network in zip(ensemble.members, networks, strict=True):
            member.load_state_dict(network.state_dict())
        for name, value in first.named_buffers(recurse=False):
            getattr(ensemble, name).copy_(value)
        return ensemble.train(first.training)

    @property
    def networks(self) -> tuple[Seq2Exp, ...]:
        """The members of an ensemble, or the single network itself."""
        return (self,) if self.members is None else tuple(self.members)  # type: ignore[arg-type]

    def _make_layers(self, config: NetworkConfig) -> None:
        D = config.d_model
        self.sequence_embedding: nn.Linear | TokenStem
        self.sequence_embedding = nn.Linear(4, D) if config.token_bp == 1 else TokenStem(config)
        self.signal_embedding = nn.Linear(config.n_tracks, D) if config.n_tracks else None
        self.position_embedding: nn.Parameter | None = None
        if config.variant is Variant.HARD:
            self.position_embedding = nn.Parameter(0.02 * torch.randn(self.grid(config.window_bp).length, D))
        if config.variant is Variant.SOFT:
            self.generator = MambaStack(config, config.generator_layers)
        if config.generates_mask:
            self.evidence_head = nn.Linear(D, 2)
        self.encoder = MambaStack(config, config.encoder_layers)
        self.activity_head: nn.Linear | None = None
        self.activity_context: nn.Conv1d | None = None
        if config.contact_pool:
            self.activity_head = nn.Linear(D, config.contact_pool)
            nn.init.constant_(self.activity_head.bias, ACTIVITY_BIAS)
            if config.encoder_bp is not None:
                self.activity_context = nn.Conv1d(D, D, CONTEXT, padding=CONTEXT // 2)
            self.activity_gain = nn.Parameter(torch.full((config.contact_pool,), GAIN))
        self.expression_head = nn.Sequential(
            nn.Linear(D + config.n_span_means + config.n_features, D),
            nn.ReLU(),
            nn.Linear(D, D),
            nn.ReLU(),
            nn.Linear(D, 1),
        )

    def forward(
        self,
        onehot: Tensor,
        signals: Tensor | None,
        features: Tensor | None,
        blacklist: Tensor | None = None,
        mask: Tensor | None = None,
        sample: Tensor | None = None,
        *,
        evidence: bool = True,
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
        evidence : bool
            Return `z`, `posterior`, `prior`, `mask_logits` and `kl`; leaving them out is faster with long tokens.

        Returns
        -------
        Seq2ExpOutput
            The result does not depend on how windows are grouped into batches.

        Raises
        ------
        ShapeError
            If an input has the wrong shape, or holds a negative or non-finite track or feature.
        WeightsError
            If a prediction, outside training, is not a finite number.
        """
        inputs = check_inputs(self.config, onehot, signals, features, blacklist, mask, sample)
        whole = torch.is_grad_enabled() or onehot.device.type != "cpu"  # else one by one: the same bits in any batch
        parts = [inputs] if whole else inputs.windows()
        output = _joined([self._forward(part, evidence) for part in parts])
        if not self.training:
            check_results(output.expression, output.mask)
        return output

    def _forward(self, inputs: Inputs, evidence: bool) -> Seq2ExpOutput:
        grid = self.grid(inputs.onehot.shape[1])
        output, probability = self._run(to_tokens(inputs, grid, self.config.reads_dna), grid, evidence)
        mask = output.mask if inputs.mask is None else inputs.mask
        if probability is not None and grid.token_bp > 1:
            annotations = inputs.blacklist, self.promoter(grid.window_bp)
            mask = bottleneck.apply_annotations(grid.to_bases(probability), *annotations)
        return dataclasses.replace(_at_bases(output, grid), mask=mask)

    def forward_tokens(self, tokens: Tokens, window_bp: int) -> Seq2ExpOutput:
        """Predict windows of that length from their tokens; every (B, L) of the output is (B, T) here."""
        return self._run(tokens, self.grid(window_bp))[0]

    def _run(self, tokens: Tokens, grid: TokenGrid, wanted: bool = True) -> tuple[Seq2ExpOutput, Tensor | None]:
        """Return the output per token, and the mask before annotations where the network makes its own."""
        reverse, features = None, tokens.features
        if not self.config.reads_dna:
            tokens = without_dna(tokens)
        if self.config.strand_feature is not None:
            reverse = features[:, self.config.strand_feature] < 0
            features = features.clone()
            features[:, self.config.strand_feature] = 0  # it has done its work
            tokens = read_5_to_3(tokens, reverse)
        tokens = dataclasses.replace(tokens, features=features)
        embedded = [one.embed(tokens, grid) for one in self.networks]
        evidence, probability, mask = None, None, tokens.mask
        if mask is None and self.config.generates_mask:
            parts = zip(self.networks, embedded, strict=True)
            evidence = mean_evidence([one.generate(*part, tokens) for one, part in parts])
            probability = self.read_mask(evidence.z, tokens.sample)
            mask = bottleneck.annotate_tokens(probability, tokens.kept, grid.promoter)
        parts = zip(self.networks, embedded, strict=True)
        spans = grid.span_means(tokens.tracks, mask, self.config.spans_bp) if self.config.spans_bp else None
        values = [one.express(part[1], mask, tokens, grid, spans) for one, part in parts]
        expression, spread = values[0], None
        if len(values) > 1:
            expression, spread = torch.stack(values).mean(0), torch.stack(values).std(0)
        output = Seq2ExpOutput(expression, mask=None if mask is None else turned(mask, reverse), spread=spread)
        if evidence is None or probability is None:
            return output, None
        if wanted:
            back = _changed(evidence, lambda value: turned(value, reverse))
            output = dataclasses.replace(output, **back, kl=bottleneck.marginal_kl(evidence.z, self.config))
        return output, turned(probability, reverse)

    def embed(self, tokens: Tokens, grid: TokenGrid) -> tuple[Tensor, Tensor]:
        """Embed the DNA of the distinct windows of a batch, (U, T, D), and DNA and tracks of each window, (B, T, D)."""
        sequence = self.embed_sequence(tokens, grid)
        embedded = sequence[tokens.rows]
        if self.signal_embedding is not None:
            embedded = embedded + self.signal_embedding(tokens.tracks)
        return sequence, embedded

    def express(
        self, embedded: Tensor, mask: Tensor | None, tokens: Tokens, grid: TokenGrid, spans: Tensor | None
    ) -> Tensor:
        """Predict the expression, (B,), from what the mask keeps of the embedded window, and of the tracks in spans."""
        pooled, distal = self.encode(embedded, mask, tokens.tracks, grid)
        read = [part.to(pooled.dtype) for part in (pooled, spans, tokens.features) if part is not None]
        expression: Tensor = self.expression_head(torch.cat(read, dim=-1)).squeeze(-1)
        return expression if distal is None else expression + distal.to(expression.dtype)

    def embed_sequence(self, tokens: Tokens, grid: TokenGrid) -> Tensor:
        """Embed the DNA of the distinct windows of a batch, (U, T, D)."""
        stem, parts = self.sequence_embedding, []
        if len(tokens.onehot):
            parts.append(stem(tokens.onehot, grid) if isinstance(stem, TokenStem) else stem(tokens.onehot))
        if tokens.unknown:
            blank = stem.unknown() if isinstance(stem, TokenStem) else stem.bias
            parts.append(blank.expand(1, grid.length, -1))
        sequence = parts[0] if len(parts) == 1 else torch.cat(parts)
        return sequence if self.position_embedding is None else sequence + self.position_embedding

    def generate(self, sequence: Tensor, embedded: Tensor, tokens: Tokens) -> Evidence:
        """Gather the evidence of DNA and tracks that each token belongs to an active element."""
        if self.generator is None:
            logits = self._logits(self.encoder(embedded))
        elif len(tokens.onehot) or torch.is_grad_enabled() or has_hooks(self):
            logits = self._logits(self.generator(sequence))[tokens.rows]
        else:
            logits = self._blank_logits(self.generator, sequence)[tokens.rows]
        with torch.autocast(logits.device.type, enabled=False):  # concentrations stay in full precision
            posterior = bottleneck.sequence_evidence(logits, self.config)
            prior = bottleneck.signal_evidence(tokens.tracks, self.signal_betas, self.config)
            z = bottleneck.couple_evidence(posterior, prior, self.prior_weights, self.config)
        return Evidence(z, posterior, prior, logits)

    def _logits(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.evidence_head(hidden.float() if hidden.dtype != torch.float64 else hidden)
        return logits

    def _blank_logits(self, generator: MambaStack, sequence: Tensor) -> Tensor:
        """Run the generator on a window without DNA, (1, T, D), the same at every token: once, until a weight changes.

        Everything else that the numbers depend on is compared too, so they equal the generator's to the bit.
        """
        kind = sequence.shape[1], generator.products, str(torch.is_autocast_enabled(sequence.device.type))
        weights = [sequence[0, :1], *generator.parameters(), *self.evidence_head.parameters()]
        return self._remembered(kind, weights, lambda: self._logits(generator(sequence)))

    def read_mask(self, z: BetaParams, sample: Tensor | None) -> Tensor:
        """Read the mask (B, T) from z, without annotations: its mean when evaluating, a sample of it when training."""
        if not self.training and sample is None:
            return bottleneck.evaluation_mask(z.mean, self.config.mask_mode, self.config)
        if sample is None:
            sample = z.distribution.rsample()
        hard = self.config.variant is Variant.HARD
        return bottleneck.straight_through(sample, self.config.threshold) if hard else sample

    def encode(
        self, embedded: Tensor, mask: Tensor | None, tracks: Tensor, grid: TokenGrid
    ) -> tuple[Tensor, Tensor | None]:
        """Encode what the mask (B, T) keeps of (B, T, D).

        Returns
        -------
        Tensor, (B, D)
            Its mean over the promoter.
        Tensor or None, (B,)
            With `contact_pool`, what all other positions add to the expression.
        """
        if self.config.variant is Variant.HARD and mask is not None:
            packed = [self._encode_packed(window, kept, grid) for window, kept in zip(embedded, mask, strict=True)]
            return torch.stack(packed), None
        masked = embedded if mask is None else embedded * mask[..., None].to(embedded.dtype)
        if self.activity_head is None:
            pooled: Tensor = self.encoder(masked, grid.promoter).mean(1)
            return pooled, None
        contact = tracks[..., self.config.contact_track]
        if self.activity_context is None:
            hidden = self.encoder(masked)
            return hidden[:, grid.promoter].mean(1), self.sum_activity(hidden, mask, contact, grid)
        assert self.config.encoder_bp is not None  # for the type checker
        centre = grid.centre(self.config.encoder_bp)
        promoter = slice(grid.promoter.start - centre.start, grid.promoter.stop - centre.start)
        context = functional.gelu(self.activity_context(masked.transpose(1, 2))).transpose(1, 2)
        return self.encoder(masked[:, centre], promoter).mean(1), self.sum_activity(context, mask, contact, grid)

    def sum_activity(self, hidden: Tensor, mask: Tensor | None, contact: Tensor, grid: TokenGrid) -> Tensor:
        """Add up activity x contact x mask over all tokens but the promoter's: what they add to the expression, (B,).

        Each sum S counts as gain x ln(S + 1), gain and activity never negative: an element can only add, and adds less
        the more there is already.
        """
        assert self.activity_head is not None  # for the type checker
        weights = torch.expm1(contact * math.log(10))
        if mask is not None:
            weights = weights * mask
        outside = torch.ones(grid.length, device=weights.device, dtype=weights.dtype)
        outside[grid.promoter] = 0
        activity = functional.softplus(self.activity_head(hidden))
        sums = torch.log1p((activity * (weights * outside)[..., None]).sum(1))
        return (sums * functional.softplus(self.activity_gain)).sum(-1)

    def _encode_packed(self, window: Tensor, mask: Tensor, grid: TokenGrid) -> Tensor:
        """Hard variant: encode the kept tokens of one window (T, D) alone, moved together."""
        rows, promoter = mask > 0, grid.promoter
        if not bool(rows[promoter].all()):
            raise ShapeError(
                f"mask: a hard network needs the whole promoter (the central {grid.promoter_bp} bases) kept."
            )
        start = int(rows[: promoter.start].sum())
        kept = window[rows]
        if self.config.straight_through:
            kept = kept * mask[rows, None].to(kept.dtype)
        stop = start + promoter.stop - promoter.start
        pooled: Tensor = self.encoder(kept[None], slice(start, stop))[0].mean(0)
        return pooled

    @property
    def products(self) -> Products:
        """Number type of the large products in predictions on a CPU; no property of the weights, and not saved."""
        return self.networks[0].encoder.products

    @products.setter
    def products(self, value: Products) -> None:
        for stack in self.modules():
            if isinstance(stack, MambaStack):
                stack.products = value

    def grid(self, window_bp: int) -> TokenGrid:
        """Return where the tokens of a window of that length lie."""
        return TokenGrid(window_bp, self.config.promoter_bp, self.config.token_bp)

    def tracks_as_read(self, signals: Tensor) -> Tensor:
        """Give every base the tracks that the network reads there, the means over its token: (B, L, S)."""
        grid = self.grid(signals.shape[1])
        return grid.to_bases(grid.to_tokens(signals))

    def promoter(self, window_bp: int) -> slice:
        """Return the central P bases of a window of that length."""
        start = (window_bp - self.config.promoter_bp) // 2
        return slice(start, start + self.config.promoter_bp)


def _at_bases(output: Seq2ExpOutput, grid: TokenGrid) -> Seq2ExpOutput:
    """Give every base the value of its token."""
    if grid.token_bp == 1 or output.z is None:
        return output
    return dataclasses.replace(output, **_changed(output, grid.to_bases))


def _changed(evidence: Evidence | Seq2ExpOutput, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Apply a change to every tensor of the evidence."""
    changed: dict[str, Any] = {"mask_logits": change(evidence.mask_logits)}  # type: ignore[arg-type]
    for name in ("z", "posterior", "prior"):
        value = getattr(evidence, name)
        changed[name] = BetaParams(change(value.alpha), change(value.beta))
    return changed


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
