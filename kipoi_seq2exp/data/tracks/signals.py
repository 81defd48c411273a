"""Signal tracks: one value per base from a bigWig, a bedGraph or called peaks, by the name of the file."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.tracks.bedgraph import BedGraphTrack, PeakFileTrack
from kipoi_seq2exp.data.tracks.bigwig_file import check_bigwig
from kipoi_seq2exp.data.tracks.track import SignalTrack, Values
from kipoi_seq2exp.data.windows import written
from kipoi_seq2exp.errors import InputError


class SignalFormat(enum.Enum):
    """The format of a file by its name, also with .gz behind it; any other name stands for a bigWig."""

    BEDGRAPH = "bedGraph"
    PEAKS = "peaks"
    BIGWIG = "bigWig"


SUFFIXES = {
    SignalFormat.BEDGRAPH: (".bedgraph", ".bdg", ".bg"),
    SignalFormat.PEAKS: (".narrowpeak", ".broadpeak", ".bed"),
}


def signal_file(source: str | Path) -> tuple[Path, str]:
    """Split "FILE::COLUMN" into the file and the name of the column, which is empty without "::"."""
    file, _, column = str(source).partition("::")
    return Path(file), column


def signal_format(source: str | Path) -> SignalFormat:
    """Return the format of a source, by the name of its file."""
    name = signal_file(source)[0].name.lower().removesuffix(".gz")
    return next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), SignalFormat.BIGWIG)


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
        If the file is missing or none of these, or a column is named that the format does not have.
    """
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


class BigWigTrack(SignalTrack[Any]):
    """A bigWig, read by pyBigWig; its skeleton is checked beforehand (see `bigwig_file`)."""

    def __init__(self, path: str | Path, spec: TrackSpec) -> None:
        super().__init__(path, spec)
        self._summary = check_bigwig(self.path, self.where)
        self._lengths: dict[str, int] = {name: int(length) for name, length in self.handle.chroms().items()}

    @property
    def lengths(self) -> Mapping[str, int | None]:
        """Chromosomes of the file and their lengths in bp."""
        return self._lengths

    def _open(self) -> Any:
        import pyBigWig

        try:
            return pyBigWig.open(str(self.path))  # never its `header()`, which dies on a NaN in the summary
        except RuntimeError as error:
            raise InputError(f"{self.where} cannot be opened as bigWig ({error}).") from None

    def _has_negative(self) -> bool:
        return self._summary.may_have_negative

    def _read(self, chrom: str, start: int, end: int) -> Values:
        try:
            values: Values = self.handle.values(chrom, start, end, numpy=True)
        except RuntimeError as error:
            raise InputError(f"{self.where}: {written(chrom, start, end)} cannot be read ({error}).") from None
        return values
