"""The mask of many genes as one bigWig; where windows overlap, each base gets the maximum over the genes.

The C library behind pyBigWig crashes when the disk is full, so the file is written by a child process, which is this
module run as a script: ``python -m kipoi_seq2exp.analysis.mask_track STORE OUT``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.analysis.store import Predictions, read_predictions
from kipoi_seq2exp.errors import OutputError, Seq2ExpError

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
    for chrom, length in lengths.items():
        rows = np.flatnonzero((genes["chrom"] == chrom).to_numpy())
        rows = rows[np.argsort(genes["start"].to_numpy()[rows], kind="stable")]
        position, open_bases = 0, np.empty(0, dtype=np.float32)  # bases from `position` on that may still rise
        for row in rows:
            mask = predictions.mask(int(row))
            if mask is None:
                return
            start = int(genes["start"].iloc[row])
            mask = mask[max(-start, 0) : max(length - start, 0)]
            start = max(start, 0)
            finished = min(start - position, len(open_bases))
            if finished > 0:
                yield Piece(chrom, position, open_bases[:finished])
            open_bases = _maximum(open_bases[max(finished, 0) :], mask)
            position = start
        if len(open_bases):
            yield Piece(chrom, position, open_bases)


def _maximum(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maximum of two stretches that begin at the same base; where only one is, its value."""
    longer, shorter = (first, second) if len(first) > len(second) else (second, first)
    merged = longer.copy()
    np.maximum(merged[: len(shorter)], shorter, out=merged[: len(shorter)])
    return merged


def write_mask_track(store: Path, path: Path) -> None:
    """Write the bigWig of a store of predictions, in a child process, and check that it is whole.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    command = [sys.executable, "-m", __name__, str(store), str(path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode == -signal.SIGINT:
        raise KeyboardInterrupt
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise OutputError(
            f"{path.parent}: the mask's bigWig cannot be written (the writer died of {name}: disk full?)."
        )
    if child.returncode:
        reason = child.stderr.strip().splitlines() or ["no reason given"]
        raise OutputError(f"{path.parent}: the mask's bigWig cannot be written ({reason[-1].rstrip('.')}).")


def _write(predictions: Predictions, path: Path) -> None:
    """Write the bigWig in this process, read it back, and complain if a base is missing."""
    import pyBigWig

    lengths: dict[str, int] = predictions.provenance["chrom_lengths"]
    written = 0
    with pyBigWig.open(str(path), "w") as track:
        track.addHeader(list(lengths.items()))
        for piece in merged_masks(predictions, lengths):
            written += len(piece.values)
            _add(track, piece)
    with path.open("rb") as handle:
        signature = handle.read(4)
        handle.seek(-4, 2)
        whole = handle.read(4) == signature
    with pyBigWig.open(str(path)) as track:
        if not whole or int(track.header()["nBasesCovered"]) != written:
            raise OutputError(f"{path} is incomplete: disk full?")


def _add(track: object, piece: Piece) -> None:
    """Add a piece as runs of equal values where that is shorter, else base by base."""
    changes = np.flatnonzero(np.diff(piece.values)) + 1
    add = track.addEntries  # type: ignore[attr-defined]
    if 3 * len(changes) < len(piece.values):  # a run takes three numbers, a base one
        bounds = np.concatenate([[0], changes, [len(piece.values)]]) + piece.start
        values = piece.values[bounds[:-1] - piece.start].astype(np.float64)
        add([piece.chrom] * len(values), bounds[:-1].tolist(), ends=bounds[1:].tolist(), values=values.tolist())
    else:
        add(piece.chrom, piece.start, values=piece.values.astype(np.float64), span=1, step=1)


def main(arguments: list[str]) -> int:
    """Write the track of a store; the child process's own entry."""
    store, out = arguments
    try:
        with read_predictions(store) as predictions:
            _write(predictions, Path(out))
    except (Seq2ExpError, OSError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
