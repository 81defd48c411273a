"""How a prediction changes when a stretch of DNA is silenced, shuffled or replaced.

Contract: a gene's window and sites on its chromosome in; the expression with each site changed out. The same code
serves `elements --perturb` and `perturb`. Everything else about the gene stays as it is, except what follows from the
change: the mask that the network makes, and features that are computed from tracks.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.config import MOST_SHUFFLES, TrackKind
from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.sequence import encode_bases
from kipoi_seq2exp.data.windows import Window, written
from kipoi_seq2exp.effects.shuffle import shuffle_dinucleotides
from kipoi_seq2exp.effects.track_features import FeatureRules
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.prediction.masking import masked_out, predict_masked
from kipoi_seq2exp.prediction.run import predict_windows

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp

Floats = NDArray[np.float64]

COLUMNS = (
    "gene_id", "chrom", "start", "end", "name", "distance_to_tss", "how", "overlap_bp", "promoter_bp",
    "expression", "expression_without", "delta_expression", "delta_sd",
)  # fmt: skip


class How(str, enum.Enum):
    """What is done to a site."""

    MASK = "mask"  # the encoder does not see it, as CRISPRi silences an element; the rest of the mask stays
    TRACKS = "tracks"  # its signal is 0; contacts stay
    DNA = "dna"  # its DNA is shuffled, dinucleotides kept
    ALL = "all"  # all three
    INSERT = "insert"  # its DNA is replaced by given letters


@dataclass(frozen=True)
class Site:
    """A stretch of a chromosome, 0-based and half-open; `letters` is what is written there (`How.INSERT`)."""

    chrom: str
    start: int
    end: int
    name: str = ""
    letters: str = ""


@dataclass(frozen=True)
class PerturbSettings:
    """How sites are perturbed.

    Attributes
    ----------
    how : How
    shuffles : int
        Number of shuffles, where DNA is shuffled; the effect is their mean.
    seed : int
        Seed of the shuffles, which do not depend on the order of the sites.
    """

    how: How = How.MASK
    shuffles: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shuffles <= MOST_SHUFFLES:
            raise ConfigError(f"shuffles must be from 1 to {MOST_SHUFFLES:,}, found {self.shuffles:,}.")

    @property
    def versions(self) -> int:
        """Number of changed windows for each site."""
        return self.shuffles if self.how in (How.DNA, How.ALL) else 1


def tiles(chrom: str, start: int, end: int, width_bp: int, step_bp: int) -> list[Site]:
    """Tile a locus with sites of one width, as a screen does; the last ones end where the locus ends.

    Raises
    ------
    ConfigError
        If the width or the step is not above 0, or the locus is shorter than a site.
    """
    if not step_bp > 0 or not 0 < width_bp <= end - start:
        raise ConfigError(
            f"tiles of {width_bp:,} bp every {step_bp:,} bp do not fit into {written(chrom, start, end)}: give a "
            f"width up to {end - start:,} and a step above 0."
        )
    return [Site(chrom, first, first + width_bp) for first in range(start, end - width_bp + 1, step_bp)]


def insertion(chrom: str, start: int, motif: str, strand: str = "+") -> Site:
    """Return the site at `start` into which a motif is written, read on `strand`.

    Raises
    ------
    ConfigError
        If the motif holds anything but A, C, G and T.
    """
    letters = motif.upper()
    if not letters or set(letters) - set("ACGT"):
        raise ConfigError(f"the motif '{motif}' must be written in A, C, G and T.")
    if strand == "-":
        letters = letters[::-1].translate(str.maketrans("ACGT", "TGCA"))
    return Site(chrom, start, start + len(letters), motif.upper(), letters)


def perturb_gene(
    model: Seq2Exp,
    dataset: WindowDataset,
    gene: int,
    sites: Sequence[Site],
    settings: PerturbSettings,
    batch_size: int = 1,
    on_site: Callable[[], None] | None = None,
) -> pd.DataFrame:
    """Perturb the sites that lie in the window of one gene, one at a time.

    Parameters
    ----------
    model : Seq2Exp
    dataset : WindowDataset
    gene : int
        Row of the gene table.
    sites : sequence of Site
        Those that do not reach into the window are left out.
    settings : PerturbSettings
    batch_size : int
        Windows that go through the network together; changes memory and speed only.
    on_site : callable, optional
        Called after each site.

    Returns
    -------
    DataFrame
        `COLUMNS`, in the order of the sites. distance_to_tss is that of the site's middle along the gene; overlap_bp
        and promoter_bp are the bases of the site in the window and in the promoter, which the mask always keeps
        (masking a site within it has no effect: NaN); delta_sd is the standard deviation over shuffles.

    Raises
    ------
    ConfigError
        If the mask is to be changed but the network makes none.
    """
    window = dataset[gene]
    inside = [site for site in sites if reaches(site, window)]
    if not inside:
        return pd.DataFrame(columns=list(COLUMNS))
    before = predict_windows(model, [window])[0]
    promoter = model.promoter(len(window.onehot))
    spans = _spans(inside, window)
    if settings.how is How.MASK:
        if before.mask is None:
            raise ConfigError("this network makes no mask to change: perturb tracks or DNA instead.")
        masks = masked_out(before.mask, spans[:, 0], spans[:, 1], promoter)
        found = predict_masked(model, window, _counted(masks, on_site), batch_size)[:, None]
    else:
        changed = _changed_windows(model, dataset, window, list(zip(inside, spans, strict=True)), settings)
        found = _predict(model, changed, batch_size, settings.versions, on_site).reshape(len(inside), -1)
    kept = np.minimum(spans[:, 1], promoter.stop) - np.maximum(spans[:, 0], promoter.start)
    kept = np.maximum(kept, 0)
    without = found.mean(axis=1)
    if settings.how is How.MASK:
        without[kept == spans[:, 1] - spans[:, 0]] = np.nan
    direction = -1 if window.strand == "-" else 1
    table = pd.DataFrame([(window.gene_id, s.chrom, s.start, s.end, s.name) for s in inside], columns=list(COLUMNS[:5]))
    return table.assign(
        distance_to_tss=((table["start"] + table["end"]) // 2 - window.tss) * direction,
        how=settings.how.value,
        overlap_bp=spans[:, 1] - spans[:, 0],
        promoter_bp=kept,
        expression=before.expression,
        expression_without=without,
        delta_expression=without - before.expression,
        delta_sd=found.std(axis=1, ddof=1) if found.shape[1] > 1 else np.nan,
    )


def reaches(site: Site, window: Window | WindowInputs) -> bool:
    """Return whether a site overlaps a window."""
    return site.chrom == window.chrom and site.start < window.end and site.end > window.start


def _spans(sites: Sequence[Site], window: WindowInputs) -> NDArray[np.int64]:
    """Return start and end of each site, counted from the window's start and cut to the window: (E, 2)."""
    ends = np.array([(site.start, site.end) for site in sites], dtype=np.int64) - window.start
    return np.clip(ends, 0, len(window.onehot))


def _counted(
    masks: Iterable[NDArray[np.floating]], on_site: Callable[[], None] | None
) -> Iterator[NDArray[np.floating]]:
    for mask in masks:
        yield mask
        if on_site is not None:
            on_site()


def _changed_windows(
    model: Seq2Exp,
    dataset: WindowDataset,
    window: WindowInputs,
    sites: Sequence[tuple[Site, NDArray[np.int64]]],
    settings: PerturbSettings,
) -> Iterator[WindowInputs]:
    """Yield the window with each site changed, `settings.versions` times."""
    rules, how = FeatureRules.of(dataset), settings.how
    silenced = [i for i, track in enumerate(dataset.inputs.tracks) if track.kind is not TrackKind.CONTACT]
    for site, (first, last) in sites:
        changed = window
        if how in (How.TRACKS, How.ALL):
            signals = window.signals.copy()
            signals[first:last, silenced] = 0
            features = rules.features_of(window.features, signals)
            changed = dataclasses.replace(changed, signals=signals, features=features)
        if how is How.ALL and model.config.generates_mask:
            blacklist = window.blacklist.copy()
            blacklist[first:last] = True
            changed = dataclasses.replace(changed, blacklist=blacklist)
        for version in range(settings.versions):
            yield _with_dna(changed, site, slice(first, last), settings, version)


def _with_dna(window: WindowInputs, site: Site, bases: slice, settings: PerturbSettings, version: int) -> WindowInputs:
    if settings.how is How.TRACKS:
        return window
    onehot = window.onehot.copy()
    if settings.how is How.INSERT:
        skipped = bases.start - (site.start - window.start)
        letters = site.letters[skipped : skipped + bases.stop - bases.start]
        onehot[bases] = encode_bases(letters.encode())
    else:
        random = np.random.default_rng([settings.seed, site.start % 2**32, site.end % 2**32, version])
        onehot[bases] = shuffle_dinucleotides(window.onehot[bases], random)
    return dataclasses.replace(window, onehot=onehot)


def _predict(
    model: Seq2Exp,
    windows: Iterator[WindowInputs],
    batch_size: int,
    versions: int,
    on_site: Callable[[], None] | None,
) -> Floats:
    found: list[float] = []
    while batch := list(islice(windows, batch_size)):
        done = len(found) // versions
        found += [row.expression for row in predict_windows(model, batch)]
        for _ in range(len(found) // versions - done):
            if on_site is not None:
                on_site()
    return np.array(found)


def effect_of_bases(window: WindowInputs, table: pd.DataFrame) -> Floats:
    """Return the mean effect of the sites that cover each base of the window, (L,); NaN where none does."""
    total, count = np.zeros(len(window.onehot)), np.zeros(len(window.onehot))
    for start, end, delta in zip(table["start"], table["end"], table["delta_expression"], strict=True):
        first, last = max(start - window.start, 0), min(end - window.start, len(total))
        if np.isfinite(delta):
            total[first:last] += delta
            count[first:last] += 1
    means: Floats = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return means
