"""What a model learns to predict: log10(x + 1) of a gene's reads, from a column or summed from stranded tracks.

Contract: a gene table in, one finite number per gene out (float32, the genes' order). A missing or negative count is an
error that names the gene; labels that are all equal are refused, because nothing can be learned from them.
"""

from __future__ import annotations

import enum
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.naming import check_chromosomes
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.tracks.track import SignalTrack
from kipoi_seq2exp.data.windows import written
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.settings import suggest

Labels = npt.NDArray[np.float32]


class LabelScale(str, enum.Enum):
    """What the column of labels holds."""

    LOG10P1 = "log10p1"  # log10(x + 1) already
    COUNT = "count"  # reads: log10(x + 1) is taken here


@dataclass(frozen=True)
class LabelConfig:
    """Where the label of each gene comes from: either `column`, or the two tracks `plus` and `minus`.

    Attributes
    ----------
    column : str or None
        Column of the gene table.
    scale : LabelScale
        What that column holds.
    plus, minus : str or None
        bigWigs of 5' ends (CAGE, PRO-cap) on each strand; values of the minus strand may carry a minus sign.
    flank_bp : int
        Reads are summed over TSS +- this many bases (192 as published: 384 bp in all).
    """

    column: str | None = None
    scale: LabelScale = LabelScale.LOG10P1
    plus: str | None = None
    minus: str | None = None
    flank_bp: int = 192

    def __post_init__(self) -> None:
        tracks = (self.plus is not None) + (self.minus is not None)
        if tracks == 1 or (self.column is None) == (tracks == 0):
            raise ConfigError("a label needs either 'column', or both 'plus' and 'minus'.")
        if self.flank_bp <= 0:
            raise ConfigError(f"flank_bp must be above 0, found {self.flank_bp}.")


def read_labels(
    genes: pd.DataFrame, config: LabelConfig, folder: Path = Path(), genome: Genome | None = None
) -> Labels:
    """Return the label of each gene, log10(x + 1).

    Parameters
    ----------
    genes : DataFrame
        The gene table: `gene_id`, `chrom`, `tss`, `strand`, and the label's column if there is one.
    config : LabelConfig
        Where the label comes from.
    folder : Path
        What relative paths of tracks are relative to.
    genome : Genome, optional
        The FASTA, whose chromosomes the tracks of a label must have.

    Returns
    -------
    float32 array, (G,)

    Raises
    ------
    ConfigError
        If the column is absent.
    InputError
        If a label is missing, negative or no number, all labels are equal, or a track cannot be used.
    """
    if config.column is not None:
        labels = labels_from_column(genes, config.column, config.scale)
    else:
        plus, minus = folder / str(config.plus), folder / str(config.minus)
        labels = labels_from_tracks(genes, plus, minus, flank_bp=config.flank_bp, genome=genome)
    if len(labels) > 1 and np.ptp(labels) == 0:
        raise InputError(
            f"all {len(labels)} labels are {labels[0]:g}: nothing can be learned; check the label's column or tracks."
        )
    return labels


def labels_from_column(genes: pd.DataFrame, column: str, scale: LabelScale = LabelScale.LOG10P1) -> Labels:
    """Read labels from a column of the gene table."""
    if column not in genes.columns:
        raise ConfigError(f"the gene table has no label column '{column}'{suggest(column, map(str, genes.columns))}.")
    values = pd.to_numeric(genes[column], errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(bad):
        row = int(bad[0])
        raise InputError(
            f"the label '{column}' of the gene {genes['gene_id'].iloc[row]} is {genes[column].iloc[row]} "
            f"({len(bad)} such genes): labels must be numbers of at least 0; leave those genes out or correct them."
        )
    labels: Labels = (np.log10(values + 1) if scale is LabelScale.COUNT else values).astype(np.float32)
    return labels


def labels_from_tracks(
    genes: pd.DataFrame, plus: Path, minus: Path, *, flank_bp: int = 192, genome: Genome | None = None
) -> Labels:
    """Sum the 5' ends on each gene's own strand over TSS +- `flank_bp`; log10(x + 1) of the sum.

    Parameters
    ----------
    genes : DataFrame
        With `gene_id`, `chrom`, `tss` (0-based) and `strand`.
    plus, minus : Path
        5' ends on each strand; values of the minus strand may carry a minus sign.
    flank_bp : int
        Bases to either side of the TSS.
    genome : Genome, optional
        The FASTA, whose chromosomes the tracks must have.

    Raises
    ------
    InputError
        If a track is missing, damaged, of another genome build or with the wrong sign, or a TSS lies outside it.
    """
    tracks = {
        strand: open_signal(path, TrackSpec(f"{name} strand of the label"))
        for strand, name, path in (("+", "plus", plus), ("-", "minus", minus))
    }
    sums = np.zeros(len(genes))
    for strand, track in tracks.items():
        with closing(track):
            rows = np.flatnonzero(genes["strand"] == strand)
            chroms = genes["chrom"].iloc[rows]
            check_chromosomes(chroms, track.lengths, {} if genome is None else genome.lengths, track.where)
            for row in rows:
                sums[row] = _sum_at(track, genes.iloc[row], flank_bp, signed=strand == "-")
    return np.log10(sums + 1).astype(np.float32)


def _sum_at(track: SignalTrack[Any], gene: pd.Series, flank_bp: int, *, signed: bool) -> float:
    """Sum the 5' ends of one gene."""
    chrom, tss = str(gene["chrom"]), int(gene["tss"])
    length = track.lengths[chrom]
    if length is not None and not -flank_bp < tss < length + flank_bp:
        raise InputError(f"{track.where}: the TSS {written(chrom, tss)} of {gene['gene_id']} lies outside {chrom}.")
    values = track.signed_values(chrom, tss - flank_bp, tss + flank_bp).astype(np.float64)
    if not signed and (values < 0).any():
        raise InputError(
            f"{track.where} holds negative values near {written(chrom, tss)}: give the plus strand's track."
        )
    return float(np.abs(values).sum())
