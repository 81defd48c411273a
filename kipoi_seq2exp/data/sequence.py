"""DNA of a FASTA file (plain or bgzip) as one-hot windows in A, C, G, T order.

Lower case (soft-masked) reads as upper case. N and the other IUPAC codes (R, Y, S, W, K, M, B, D, H, V, -) are unknown
bases: all four columns are 0, as they are beyond the ends of a chromosome.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.fasta_index import FastaIndex, prepare_index
from kipoi_seq2exp.data.handles import LazyFile
from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.data.windows import Window, written
from kipoi_seq2exp.errors import InputError, damage_as
from kipoi_seq2exp.files import content_mark

_IUPAC = b"ACGTUNRYSWKMBDHVX-*.acgtunryswkmbdhvx"


def _one_hot_table() -> NDArray[np.uint32]:
    """Return the four columns of each letter as one 32-bit word: one look-up per base instead of four."""
    table = np.zeros((256, 4), dtype=np.uint8)
    for column, base in enumerate("ACGT"):
        table[[ord(base), ord(base.lower())], column] = 1
    return table.view(np.uint32).ravel()


_ONE_HOT = _one_hot_table()
_KNOWN = np.isin(np.arange(256, dtype=np.uint8), np.frombuffer(_IUPAC, dtype=np.uint8))


def encode_bases(bases: bytes) -> NDArray[np.uint8]:
    """Return the one-hot code of bases.

    Parameters
    ----------
    bases : bytes, (L,)
        Letters of either case.

    Returns
    -------
    ndarray of uint8, (L, 4)
        Columns A, C, G, T; zeros for any other letter.
    """
    return _ONE_HOT[np.frombuffer(bases, dtype=np.uint8)].view(np.uint8).reshape(-1, 4)


def decode_bases(onehot: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the letters (L,), as ASCII codes, of one-hot DNA (L, 4): the inverse of `encode_bases`, N for zeros."""
    letters = np.where(onehot.any(1), np.frombuffer(b"ACGT", dtype=np.uint8)[onehot.argmax(1)], ord("N"))
    return letters.astype(np.uint8)


class Genome(LazyFile[Any]):
    """A FASTA file: opened lazily by each process, picklable, closable.

    The index (.fai) is checked against the file, or built, when the object is made: beside the FASTA if that folder
    can be written, else in the user's cache (`index.location` tells).

    Parameters
    ----------
    path : str or Path
        FASTA, plain or compressed by bgzip.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, compressed by plain gzip, or no FASTA.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.index: FastaIndex = prepare_index(self.path)

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Chromosomes and their lengths in bp, in the file's order."""
        return dict(self.index.lengths)

    def onehot(self, chrom: str, start: int, end: int) -> NDArray[np.uint8]:
        """Return the one-hot DNA of ``[start, end)``: (L, 4), zeros for unknown bases and beyond the chromosome."""
        return encode_bases(self.bases(chrom, start, end))

    def bases(self, chrom: str, start: int, end: int) -> bytes:
        """Return the letters of ``[start, end)`` as they stand in the file; N beyond the chromosome's ends.

        Raises
        ------
        InputError
            If the chromosome is not in the file, or the file holds something that is not a base.
        """
        window = Window(chrom, start, end)
        first, last = window.inside(self.length(chrom))
        if first == last:
            return b"N" * len(window)
        letters = self._letters(chrom, first, last)
        return b"N" * (first - start) + letters + b"N" * (end - last)

    def length(self, chrom: str) -> int:
        """Return the length of a chromosome in bp; the error for an unknown one lists the names."""
        try:
            return self.lengths[chrom]
        except KeyError:
            other = other_name(chrom, self.lengths)
            hint = f"it names it '{other}'" if other else f"it has {listing(self.lengths)}"
            raise InputError(f"{self.path} has no chromosome '{chrom}' ({hint}).") from None

    def _open(self) -> Any:
        import pyfaidx

        if not self.index.location.exists():  # not rebuilt here: several processes would do so at once
            raise InputError(f"{self.path}: its index {self.index.location} is gone; start again to have it built.")
        if content_mark(self.path) != self.index.mark:
            raise InputError(f"{self.path} was replaced by another file after this run began: start again.")
        with warnings.catch_warnings():  # an index older than its FASTA was compared with it by `prepare_index`
            warnings.filterwarnings("ignore", message=".*is older than FASTA", category=RuntimeWarning)
            return pyfaidx.Faidx(
                self.path, indexname=self.index.location, gzi_indexname=self.index.gzi, as_raw=True, rebuild=False
            )

    def _letters(self, chrom: str, start: int, end: int) -> bytes:
        place = written(chrom, start, end)
        with damage_as(lambda what: InputError(f"{self.path}: {place} cannot be read ({what}).")):
            text = self.handle.fetch(chrom, start + 1, end)
        letters: bytes = text.encode("latin-1")
        codes = np.frombuffer(letters, dtype=np.uint8)
        if len(letters) != end - start or not _KNOWN[codes].all():
            bad = np.flatnonzero(~_KNOWN[codes])
            what = (
                f"{chr(codes[bad[0]])!r} at {written(chrom, start + int(bad[0]))}"
                if bad.size
                else f"{len(letters):,} bases"
            )
            raise InputError(
                f"{self.path}: found {what} while reading {written(chrom, start, end)}: the file is damaged or no DNA."
            )
        return letters
