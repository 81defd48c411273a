"""Tokens: stretches of `token_bp` bases that the network reads, masks and encodes as one position.

One token a base is the published network. Longer tokens make a window short, 3,126 tokens of 64 bases in 200 kb, so the
network needs that many times less work and its states reach that many times further.

The rules that tie tokens to bases are all here (`TokenGrid`):

    grid        the promoter is a whole number of tokens; the others follow on both sides, and the outermost token on
                each side may reach beyond the window (those bases do not exist and count for nothing)
    to tokens   a track, a blacklist or a mask: the mean over the token's bases
    to bases    a mask or a Beta distribution: every base has the value of its token
    DNA         `TokenStem`: a convolution over bases, then the maximum over the token, so that a motif counts wherever
                in the token it lies
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kipoi_seq2exp.config import NetworkConfig
from kipoi_seq2exp.nn.cpu.stem import read_codes, strongest_matches
from kipoi_seq2exp.nn.inputs import Inputs
from kipoi_seq2exp.nn.mamba import has_hooks

SPAN_SCALE = 10.0  # of the means of tracks over spans: those of long spans are small, the head learns from all alike


@dataclass(frozen=True)
class TokenGrid:
    """Where the tokens of a window lie.

    Attributes
    ----------
    window_bp, promoter_bp, token_bp : int
        Lengths in base pairs; the promoter is the centre of the window and a whole number of tokens.
    """

    window_bp: int
    promoter_bp: int
    token_bp: int

    @property
    def side(self) -> int:
        """Number of tokens on each side of the promoter."""
        return -(-(self.window_bp - self.promoter_bp) // (2 * self.token_bp))

    @property
    def promoter(self) -> slice:
        """The promoter's tokens."""
        return slice(self.side, self.side + self.promoter_bp // self.token_bp)

    @property
    def length(self) -> int:
        """Number of tokens of the window (T)."""
        return 2 * self.side + self.promoter_bp // self.token_bp

    @property
    def beyond_bp(self) -> int:
        """Bases by which the outermost token on each side reaches beyond the window."""
        return self.side * self.token_bp - (self.window_bp - self.promoter_bp) // 2

    def padded(self, bases: Tensor) -> Tensor:
        """Cut (B, L, ...) into tokens, (B, T, token_bp, ...), with zeros beyond the window."""
        beyond = self.beyond_bp
        if beyond:
            bases = functional.pad(bases, (0, 0) * (bases.ndim - 2) + (beyond, beyond))
        cut: Tensor = bases.unflatten(1, (self.length, self.token_bp))
        return cut

    def to_tokens(self, bases: Tensor) -> Tensor:
        """Average per-base values (B, L) or (B, L, S) over each token's bases: (B, T) or (B, T, S)."""
        if self.token_bp == 1:
            return bases
        means = self.padded(bases).mean(2)
        if self.beyond_bp:  # the outermost tokens have fewer bases
            share = 1 - self.beyond_bp / self.token_bp
            means = torch.cat([means[:, :1] / share, means[:, 1:-1], means[:, -1:] / share], dim=1)
        return means

    def centre(self, length_bp: int) -> slice:
        """Return the tokens of the central bases of the window, the promoter's among them."""
        flank = min(self.side, max(0, length_bp - self.promoter_bp) // (2 * self.token_bp))
        return slice(self.promoter.start - flank, self.promoter.stop + flank)

    def span_shares(self, edges_bp: Sequence[int]) -> Tensor:
        """Return the share that each token has in each span round the TSS, (2 * edges, T).

        The spans lie between distances 0, edge, edge, ... from the TSS, upstream ones first, from the farthest to the
        farthest. Parts of spans beyond the window count as zeros.
        """
        bounds, half = [*(-edge for edge in reversed(edges_bp)), 0, *edges_bp], self.window_bp // 2
        start = torch.arange(self.length) * self.token_bp - self.beyond_bp - half
        rows = []
        for first, last in itertools.pairwise(bounds):
            shared = (start + self.token_bp).clamp(max=min(last, half)) - start.clamp(min=max(first, -half))
            rows.append(shared.clamp(min=0) / (last - first))
        return torch.stack(rows)

    def span_means(self, tracks: Tensor, mask: Tensor | None, edges_bp: Sequence[int]) -> Tensor:
        """Average track x mask, (B, T, S) and (B, T), over the spans, as ln(10 x mean + 1): (B, 2 * edges * S)."""
        kept = tracks if mask is None else tracks * mask[..., None].to(tracks.dtype)
        means = torch.einsum("nt,bts->bns", self.span_shares(edges_bp).to(kept), kept)
        return torch.log1p(SPAN_SCALE * means).flatten(1)

    def to_bases(self, tokens: Tensor) -> Tensor:
        """Give every base its token's value: (B, T, ...) -> (B, L, ...)."""
        if self.token_bp == 1:
            return tokens
        spread = tokens.unsqueeze(2).expand(-1, -1, self.token_bp, *(-1,) * (tokens.ndim - 2))
        return spread.flatten(1, 2).narrow(1, self.beyond_bp, self.window_bp)


@dataclass(frozen=True)
class Tokens:
    """A batch of windows in the form that the network works on.

    Attributes
    ----------
    onehot : Tensor, (U, L, 4)
        DNA of the distinct windows; where `unknown`, one more without any known base follows them.
    unknown : bool
        Whether a window of the batch has no known base: all these share one row.
    rows : Tensor, (B,), or slice
        Which of the distinct windows each window of the batch is.
    tracks : Tensor, (B, T, S)
    features : Tensor, (B, F)
    kept : Tensor or None, (B, T)
        Share of each token's bases that are not blacklisted.
    mask, sample : Tensor or None, (B, T)
        Given from outside: the mask, and a draw from z.
    """

    onehot: Tensor
    unknown: bool
    rows: Tensor | slice
    tracks: Tensor
    features: Tensor
    kept: Tensor | None = None
    mask: Tensor | None = None
    sample: Tensor | None = None


def without_dna(tokens: Tokens) -> Tokens:
    """Return a batch whose windows have no known base; gradients by the DNA exist, and are zero."""
    if tokens.onehot.requires_grad:
        return dataclasses.replace(tokens, onehot=tokens.onehot * 0)
    onehot, unknown, rows = _no_dna(tokens.onehot, len(tokens.tracks))
    return dataclasses.replace(tokens, onehot=onehot, unknown=unknown, rows=rows)


def _no_dna(onehot: Tensor, windows: int) -> tuple[Tensor, bool, Tensor]:
    """Return the first three fields of `Tokens` for that many windows without any known base."""
    return onehot[:0], True, torch.zeros(windows, dtype=torch.long, device=onehot.device)


def to_tokens(inputs: Inputs, grid: TokenGrid, reads_dna: bool) -> Tokens:
    """Reduce checked inputs to tokens; DNA that nothing reads is skipped unless its gradient is wanted."""
    kept = None if inputs.blacklist is None else grid.to_tokens((~inputs.blacklist).to(inputs.signals.dtype))
    mask, sample = (None if x is None else grid.to_tokens(x) for x in (inputs.mask, inputs.sample))
    unread = not reads_dna and not inputs.onehot.requires_grad
    dna = _no_dna(inputs.onehot, len(inputs.onehot)) if unread else distinct_windows(inputs.onehot)
    return Tokens(*dna, grid.to_tokens(inputs.signals), inputs.features, kept, mask, sample)


def turned(values: Tensor, reverse: Tensor | None) -> Tensor:
    """Turn round the windows (B, T, ...) that are read from the other strand (bool, (B,)); None: none."""
    if reverse is None:
        return values
    return torch.where(reverse.view(-1, *(1,) * (values.ndim - 1)), values.flip(1), values)


def read_5_to_3(tokens: Tokens, reverse: Tensor | None) -> Tokens:
    """Read the windows of genes on the reverse strand (bool, (B,)) from that strand."""
    if reverse is None:
        return tokens
    dna = reverse[: len(tokens.onehot)]
    if isinstance(tokens.rows, Tensor):
        known = tokens.rows < len(tokens.onehot)
        dna = torch.zeros(len(tokens.onehot), dtype=torch.bool, device=reverse.device)
        dna[tokens.rows[known]] = reverse[known]
    complement = torch.where(dna[:, None, None], tokens.onehot.flip(1, 2), tokens.onehot)
    changes: dict[str, Any] = {
        name: turned(value, reverse)
        for name in ("tracks", "kept", "mask", "sample")
        if (value := getattr(tokens, name)) is not None
    }
    return dataclasses.replace(tokens, onehot=complement, **changes)


def distinct_windows(onehot: Tensor) -> tuple[Tensor, bool, Tensor | slice]:
    """Return the first three fields of `Tokens` for windows (B, L, 4); those without a known base share a row."""
    if onehot.requires_grad or bool((known := onehot.flatten(1).any(1)).all()):
        return onehot, False, slice(None)
    return onehot[known], True, known_rows(known)


def known_rows(known: Tensor) -> Tensor:
    """Return the row of each window among the distinct ones: known ones (bool, (B,)) in order, all others the last."""
    return torch.where(known, known.cumsum(0) - 1, known.sum())


class TokenStem(nn.Module):
    """Read each token's DNA: motifs by a convolution over bases, the strongest match of each in the token.

    Parameters
    ----------
    config : NetworkConfig
        Gives d_model, and `stem_bp`, the width of the convolution.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.motifs = nn.Conv1d(4, config.d_model, config.stem_bp)
        self.mix = nn.Linear(config.d_model, config.d_model)

    def forward(self, onehot: Tensor, grid: TokenGrid) -> Tensor:
        """Map (B, L, 4) to (B, T, D); a base beyond the window reads as N.

        Plain DNA on the CPU is read as codes (see `cpu.stem`), past the convolution; where that has a hook, it runs.
        """
        left = (self.motifs.kernel_size[0] - 1) // 2
        before = grid.beyond_bp + left
        after = grid.beyond_bp + self.motifs.kernel_size[0] - 1 - left
        codes = None if has_hooks(self) else read_codes(onehot, before, after)
        if codes is None:
            strongest = self._strongest(functional.pad(onehot, (0, 0, before, after)), grid)
        else:
            assert self.motifs.bias is not None  # for the type checker
            strongest = strongest_matches(codes, self.motifs.weight, self.motifs.bias, grid.length)
        out: Tensor = self.mix(functional.gelu(strongest))
        return out

    def _strongest(self, bases: Tensor, grid: TokenGrid) -> Tensor:
        """Match all bases, of any numbers and on any device, then take each token's maximum: (B, T, D)."""
        return functional.max_pool1d(self.motifs(bases.transpose(1, 2)), grid.token_bp).transpose(1, 2)

    def unknown(self) -> Tensor:
        """Return the embedding of a token without any known base, (D,), which every token of such a window has."""
        assert self.motifs.bias is not None  # for the type checker
        out: Tensor = self.mix(functional.gelu(self.motifs.bias))
        return out
