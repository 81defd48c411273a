"""How many bases would be called if the tracks' peaks lay elsewhere: a null for the mask, and its false discovery rate.

The null keeps the values of the tracks and the shapes of their peaks, but moves them to other places. In each window
every track that is read from a signal file is rotated through the bases outside the promoter, by its own random number
of whole blocks, so that tracks no longer agree with the DNA or with each other. Contact with the TSS follows from
distance and stays as it is. The false discovery rate at a threshold is the number of bases that reach it under the null
(mean over the shuffles), divided by the number that reach it in the real window, over all genes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import MOST_SHUFFLES, TrackKind, Variant
from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.elements.evidence import track_shares
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.zoo.forward import forward

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp

Floats = NDArray[np.float32]
Concentrations = tuple[Floats, Floats]
Counts = NDArray[np.int64]

BINS = 2_000


@dataclass(frozen=True)
class NullSettings:
    """How the null is made.

    Attributes
    ----------
    fdr : float
        Highest false discovery rate that is allowed.
    shuffles : int
        Shuffles of each window.
    block_bp : int
        Tracks are rotated by whole blocks.
    seed : int
        The same seed gives the same shuffles.
    """

    fdr: float = 0.05
    shuffles: int = 10
    block_bp: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fdr < 1:
            raise ConfigError(f"the false discovery rate must lie between 0 and 1, found {self.fdr}.")
        if not 1 <= self.shuffles <= MOST_SHUFFLES or self.block_bp < 1:
            raise ConfigError(
                f"1 to {MOST_SHUFFLES:,} shuffles and blocks of at least 1 bp are needed, found {self.shuffles:,} and "
                f"{self.block_bp:,}."
            )


@dataclass
class Null:
    """Counts of bases outside promoters by mask, real and under the null, over the genes seen so far.

    Attributes
    ----------
    real, shuffled : ndarray, (BINS + 1,)
        Bases whose mask lies in each bin of width 1 / BINS (the last: 1 itself); the mean of the shuffles.
    """

    real: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS + 1))
    shuffled: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS + 1))

    def add(self, real: Floats, shuffled: list[Floats]) -> None:
        """Count the bases outside the promoter of one gene: real mask (D,) and shuffled masks (D,)."""
        total = np.sum([histogram(mask) for mask in shuffled], axis=0)
        self.add_counts(histogram(real), total, len(shuffled))

    def add_counts(self, real: Counts, shuffled: Counts, shuffles: int) -> None:
        """Add the counts of one gene, (BINS + 1,) each; `shuffled` is the sum over `shuffles` shuffles."""
        self.real += real
        self.shuffled += shuffled / shuffles

    @property
    def fdr(self) -> NDArray[np.float64]:
        """False discovery rate at each threshold i / BINS, made monotone: never higher at a higher threshold."""
        real, null = (np.cumsum(counts[::-1])[::-1] for counts in (self.real, self.shuffled))
        rate = np.divide(null, real, out=np.full(BINS + 1, np.inf), where=real > 0)
        monotone: NDArray[np.float64] = np.minimum.accumulate(np.minimum(rate, 1.0))
        return np.where(real > 0, monotone, np.nan)

    def threshold(self, fdr: float) -> float | None:
        """Return the lowest threshold, above 0, with at most that false discovery rate; None where there is none."""
        good = np.flatnonzero(self.fdr[1:] <= fdr)
        return float(good[0] + 1) / BINS if good.size else None

    def rate_at(self, mask: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the false discovery rate of calling every base whose mask reaches these values."""
        return self.fdr[_bin(mask)]


def shuffled_masks(
    model: Seq2Exp, window: WindowInputs, concentrations: Concentrations, settings: NullSettings
) -> list[Floats]:
    """Return the masks (L,) of one window under shuffled tracks.

    The generator of a soft network reads DNA alone, so the shuffled mask follows from the stored Beta; a hard network,
    whose generator reads the tracks too, is run again.

    Parameters
    ----------
    model : Seq2Exp
    window : WindowInputs
    concentrations : (ndarray, ndarray), (L,) each
        Alpha and beta of z.
    settings : NullSettings

    Raises
    ------
    ConfigError
        If the network makes no mask, reads no track that could be shuffled, or the window holds fewer than two blocks.
    """
    if not model.config.generates_mask or model.inputs is None:
        raise ConfigError("a null needs a network that makes its own mask and names its tracks.")
    columns = [i for i, track in enumerate(model.inputs.tracks) if track.kind is TrackKind.BIGWIG]
    promoter = model.promoter(len(window.onehot))
    distal = np.ones(len(window.onehot), dtype=bool)
    distal[promoter] = False
    blocks = int(distal.sum()) // settings.block_bp
    if not columns or blocks < 2:
        raise ConfigError(
            f"a null needs a track read from a signal file and at least two blocks of {settings.block_bp:,} bp outside "
            f"the promoter, found {len(columns)} and {blocks}."
        )
    gene = int.from_bytes(window.gene_id.encode()[-8:], "little")
    random = np.random.default_rng([settings.seed, gene, window.tss])
    masks = []
    for _ in range(settings.shuffles):
        signals = window.signals.copy()
        for column in columns:
            shift = int(random.integers(1, blocks)) * settings.block_bp
            signals[distal, column] = np.roll(window.signals[distal, column], shift)
        masks.append(mask_under(model, window, concentrations, signals))
    return masks


def mask_under(model: Seq2Exp, window: WindowInputs, concentrations: Concentrations, signals: Floats) -> Floats:
    """Return the mask (L,) that the network would make from other tracks."""
    import torch

    from kipoi_seq2exp.nn import bottleneck

    if model.config.variant is not Variant.SOFT:
        output = forward(model, [dataclasses.replace(window, signals=signals)], evidence=False)
        assert output.mask is not None  # for the type checker: `shuffled_masks` needs one
        mask: Floats = output.mask[0].float().cpu().numpy()
        return mask
    alpha, beta = (values.astype(np.float64) for values in concentrations)
    difference = torch.from_numpy((signals - window.signals).astype(np.float64))
    change = model.tracks_as_read(difference[None])[0].numpy() @ track_shares(model)
    alpha = alpha + model.config.z_scale * model.config.prior_scale * change
    mean = torch.from_numpy((alpha / (alpha + beta)).astype(np.float32))[None]
    read = bottleneck.evaluation_mask(mean, model.config.mask_mode, model.config)
    read = bottleneck.apply_annotations(read, torch.from_numpy(window.blacklist)[None], model.promoter(mean.shape[1]))
    shuffled: Floats = read[0].numpy()
    return shuffled


def histogram(mask: Floats) -> Counts:
    """Count the values of a mask by bin: (BINS + 1,)."""
    counts: Counts = np.bincount(_bin(mask), minlength=BINS + 1)
    return counts


def _bin(mask: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.clip(np.floor(np.asarray(mask, dtype=np.float64) * BINS), 0, BINS).astype(np.int64)
