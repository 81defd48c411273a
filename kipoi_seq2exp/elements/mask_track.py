"""Values per base as bigWig: the masks of many genes (the maximum where windows overlap), or one window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.elements.bigwig import BigWigWriter
from kipoi_seq2exp.files import whole_file
from kipoi_seq2exp.prediction.store import Predictions

OVERLAP_RULE = "maximum over the genes whose windows cover the base"


class Piece(NamedTuple):
    """Finished values of consecutive bases."""

    chrom: str
    start: int
    values: NDArray[np.float32]


def merged_masks(predictions: Predictions, lengths: Mapping[str, int]) -> Iterator[Piece]:
    """Sweep over the genome and yield the merged mask, piece by piece, in the order of `lengths` and of position.

    Only the windows that overlap the sweep's position are in memory. Bases beyond the chromosome's ends are left out.

    Parameters
    ----------
    predictions : Predictions
    lengths : Mapping
        Chromosomes and their lengths in bp.
    """
    genes = predictions.genes
    for chrom in lengths:
        rows = np.flatnonzero((genes["chrom"] == chrom).to_numpy())
        rows = rows[np.argsort(genes["start"].to_numpy()[rows], kind="stable")]
        position, open_bases = 0, np.empty(0, dtype=np.float32)  # bases from `position` on that may still rise
        for row in rows:
            mask = predictions.mask(int(row))
            if mask is None:
                return
            inside = predictions.on_chromosome(int(row))
            start, mask = int(genes["start"].iloc[row]) + inside.start, mask[inside]
            finished = min(start - position, len(open_bases))
            if finished > 0:
                yield Piece(chrom, position, open_bases[:finished])
            open_bases = _maximum(open_bases[max(finished, 0) :], mask)
            position = start
        if len(open_bases):
            yield Piece(chrom, position, open_bases)


def _maximum(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the maximum of two stretches that begin at the same base; where one has ended, the other's value."""
    longer, shorter = (first, second) if len(first) > len(second) else (second, first)
    merged = longer.copy()
    np.maximum(merged[: len(shorter)], shorter, out=merged[: len(shorter)])
    return merged


def write_mask_track(predictions: Predictions, path: Path) -> None:
    """Write the merged mask of a store of predictions as a bigWig.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    lengths: dict[str, int] = predictions.provenance["chrom_lengths"]
    with path.open("wb") as handle:
        writer = BigWigWriter(handle, lengths)
        for piece in merged_masks(predictions, lengths):
            writer.add(*piece)
        writer.close()


def write_window(path: Path, lengths: Mapping[str, int], window: WindowInputs, values: NDArray[np.floating]) -> None:
    """Write the bases of a window, (L,), that lie on the chromosome, without those that are NaN."""
    first, last = Window(window.chrom, window.start, window.end).inside(lengths[window.chrom])
    inside = values[first - window.start : last - window.start].astype(np.float32)
    known = np.isfinite(inside)
    edges = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        writer = BigWigWriter(handle, {window.chrom: lengths[window.chrom]})
        for start, end in edges:
            writer.add(window.chrom, first + int(start), inside[start:end])
        writer.close()
