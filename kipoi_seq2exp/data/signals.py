"""Signal tracks: one value per base from a bigWig, a bedGraph or called peaks; a base without a value is 0.

A base that the file does not mention has the value 0 (NaN reads as 0); a chromosome that it lacks is an error, for
there 0 would mean "not measured". Negative values are refused: the network reads a value as an amount of evidence.
"""

from __future__ import annotations

import enum
import struct
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.handles import Handle, LazyFile, file_ends
from kipoi_seq2exp.data.naming import check_chromosomes
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.windows import Window, pad, written
from kipoi_seq2exp.errors import InputError

Values = NDArray[np.float32]

_MAGICS = (struct.pack("<I", 0x888FFC26), struct.pack(">I", 0x888FFC26))
_BIGBED_MAGICS = (struct.pack("<I", 0x8789F2EB), struct.pack(">I", 0x8789F2EB))


class SignalFormat(enum.Enum):
    """What a file is taken for by its name, also with .gz behind it; any other name is that of a bigWig."""

    BEDGRAPH = (".bedgraph", ".bdg", ".bg")
    PEAKS = (".narrowpeak", ".broadpeak", ".bed")
    BIGWIG = ()


def signal_file(source: str | Path) -> tuple[Path, str]:
    """Split "FILE::COLUMN" into the file and the name of the column, which is empty without "::"."""
    file, _, column = str(source).partition("::")
    return Path(file), column


def signal_format(source: str | Path) -> SignalFormat:
    """Return what a source is by the name of its file."""
    name = signal_file(source)[0].name.lower().removesuffix(".gz")
    return next((kind for kind in SignalFormat if name.endswith(kind.value)), SignalFormat.BIGWIG)


def open_signal(source: str | Path, spec: TrackSpec) -> SignalTrack[Any]:
    """Return the reader of a source of values.

    Parameters
    ----------
    source : str or Path
        A bigWig, a bedGraph, or called peaks as "FILE[::COLUMN]" (.narrowPeak, .broadPeak, .bed), by its name
        (`SignalFormat`). COLUMN is the number of a column, from 1; score, signalValue (the default), pValue or qValue;
        or "presence", which reads 1 in every peak.
    spec : TrackSpec
        The track it is read for; its name is in every message.

    Raises
    ------
    InputError
        If the file is missing or none of these, or a column is asked for that there cannot be.
    """
    from kipoi_seq2exp.data.bedgraph import BedGraphTrack, PeakFileTrack

    path, column = signal_file(source)
    kind = signal_format(source)
    if kind is SignalFormat.PEAKS:
        return PeakFileTrack(path, spec, column)
    if column:
        raise InputError(
            f"track '{spec.name}' ({path}): '::{column}' names a column, which peak files alone have (.narrowPeak, "
            ".broadPeak, .bed): leave it out."
        )
    return BedGraphTrack(path, spec) if kind is SignalFormat.BEDGRAPH else BigWigTrack(path, spec)


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


class BigWigTrack(SignalTrack[Any]):
    """A bigWig, read by pyBigWig; checked for being whole beforehand, for the C library crashes on a truncated one."""

    def __init__(self, path: str | Path, spec: TrackSpec) -> None:
        super().__init__(path, spec)
        _check_bigwig(self.path, self.where)
        self._lengths: dict[str, int] = {name: int(length) for name, length in self.handle.chroms().items()}

    @property
    def lengths(self) -> Mapping[str, int | None]:
        """Chromosomes of the file and their lengths in bp."""
        return self._lengths

    def _open(self) -> Any:
        import pyBigWig

        try:
            return pyBigWig.open(str(self.path))
        except RuntimeError as error:
            raise InputError(f"{self.where} cannot be opened as bigWig ({error}).") from None

    def _has_negative(self) -> bool:
        return bool(self.handle.header()["minVal"] < 0)

    def _read(self, chrom: str, start: int, end: int) -> Values:
        try:
            values: Values = self.handle.values(chrom, start, end, numpy=True)
        except RuntimeError as error:
            raise InputError(f"{self.where}: {written(chrom, start, end)} cannot be read ({error}).") from None
        return values


def _check_bigwig(path: Path, where: str) -> None:
    """Check the signature at both ends of a bigWig and the offsets in its header, or say what the file is instead."""
    size, head, tail = file_ends(path, where, "a bigWig", (64, 4))
    if head[:4] not in _MAGICS:
        raise InputError(f"{where} is no bigWig: {_describe(head)}.")
    order = "<" if head[:4] == _MAGICS[0] else ">"
    offsets = struct.unpack(order + "QQQ", head[8:32]) if len(head) == 64 else (size,)
    if max(offsets) >= size or tail != head[:4]:
        raise InputError(f"{where} is truncated at {size:,} bytes (a bigWig ends with its signature): fetch it again.")


def _describe(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it holds a web page (an error page saved under this name?); fetch the file itself"
    if head[:4] in _BIGBED_MAGICS:
        return "it is a bigBed; convert it to BED (bigBedToBed)"
    if head[:2] == b"\x1f\x8b":
        return "it is compressed by gzip; decompress it"
    start = head[:16].decode("latin-1")
    return f"it starts with {start!r} (bedGraph and peaks are known by their names: .bedGraph, .narrowPeak, .bed)"
