"""What every reader of a signal track does: values of any stretch, chromosomes and values checked, files opened lazily.

A base that the file does not mention has the value 0 (NaN reads as 0); a chromosome that it lacks is an error, for
there 0 would mean "not measured". Negative values are refused: the network reads a value as an amount of evidence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.handles import Handle, LazyFile
from kipoi_seq2exp.data.naming import check_chromosomes
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.windows import Window, pad, written
from kipoi_seq2exp.errors import InputError

Values = NDArray[np.float32]


class SignalTrack(LazyFile[Handle]):
    """One value per base from a file; opened lazily by each process, picklable, closable.

    Parameters
    ----------
    path : str or Path
    spec : TrackSpec
        The track it is read for; its name is in every message.
    """

    def __init__(self, path: str | Path, spec: TrackSpec) -> None:
        super().__init__()
        self.path = Path(path)
        self.spec = spec

    @property
    def where(self) -> str:
        """The track and its file, for messages."""
        return f"track '{self.spec.name}' ({self.path})"

    @property
    def description(self) -> str:
        """What is read, for the record of a run."""
        return str(self.path)

    @property
    @abstractmethod
    def lengths(self) -> Mapping[str, int | None]:
        """Chromosomes of the file and their lengths in bp (None where the format holds none)."""

    @abstractmethod
    def _read(self, chrom: str, start: int, end: int) -> Values:
        """Return the values of a stretch inside the chromosome as a new array; NaN where the file has none."""

    def _chrom_end(self, chrom: str, end: int) -> int:
        """Return the length of a chromosome, or `end` where the format holds none."""
        lengths = self.lengths
        if chrom not in lengths:
            check_chromosomes([chrom], lengths, {}, self.where)
        length = lengths[chrom]
        return end if length is None else length

    def values(self, chrom: str, start: int, end: int) -> Values:
        """Return the values of ``[start, end)``.

        Parameters
        ----------
        chrom : str
        start, end : int
            0-based, half-open, in bp; may reach beyond the chromosome, where the values are 0.

        Returns
        -------
        ndarray of float32, (L,)
            In the file's own unit, at least 0; 0 where the file has no value.

        Raises
        ------
        InputError
            If the chromosome is missing, the file damaged, or a value negative or infinite.
        """
        values = self.signed_values(chrom, start, end)
        if not (values.min() >= 0 and values.max() < np.inf):
            at = int(np.flatnonzero((values < 0) | np.isinf(values))[0])
            raise InputError(
                f"{self.where} has the value {values[at]:g} at {written(chrom, start + at)}: the network needs "
                f"finite values of 0 or more; give the signal itself, not a log-ratio or a difference."
            )
        return values

    def signed_values(self, chrom: str, start: int, end: int) -> Values:
        """Return the values of ``[start, end)`` as `values` does, negative ones too."""
        window = Window(chrom, start, end)
        first, last = window.inside(self._chrom_end(chrom, end))
        if first == last:
            return np.zeros(len(window), dtype=np.float32)
        values = self._read(chrom, first, last)
        values[np.isnan(values)] = 0
        padded: Values = pad(values, window, first)  # type: ignore[assignment]
        return padded

    def check_against(self, genome: Genome, chroms: Iterable[str]) -> None:
        """Check that the chromosomes `chroms` are in the file, named and as long as in the FASTA.

        Raises
        ------
        InputError
            If one is missing ('1' against 'chr1' is told apart) or has another length (another genome build).
        """
        check_chromosomes(chroms, self.lengths, genome.lengths, self.where)

    def check_values(self, windows: Iterable[Window]) -> None:
        """Look for negative values in windows to be read later; without reading them if the file has none at all."""
        if self._has_negative():
            for window in windows:
                self.values(window.chrom, window.start, window.end)

    @abstractmethod
    def _has_negative(self) -> bool:
        """Return whether the file may hold negative values."""
