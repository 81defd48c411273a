"""Windows of DNA round a transcription start site (TSS), 0-based and half-open; they may reach beyond a chromosome."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.text import as_whole
from kipoi_seq2exp.errors import ConfigError


def written(chrom: str, start: int, end: int | None = None) -> str:
    """Write ``[start, end)``, or the base `start` alone, as genome browsers do: "chr22:1,001-2,000", counted from 1."""
    return f"{chrom}:{start + 1:,}" if end is None else f"{chrom}:{start + 1:,}-{end:,}"


def parse_position(text: str, option: str = "") -> tuple[str, int]:
    """Read a base as genome browsers write it, "chr22:1,001", counted from 1: chromosome and 0-based position.

    Parameters
    ----------
    text : str
    option : str
        The option it was given for, for the message.

    Raises
    ------
    ConfigError
        If the text is not a position.
    """
    found = re.fullmatch(r"(\S+):([0-9,]+)", text.strip())
    position = None if found is None else as_whole(found[2].replace(",", ""))
    if found is None or position is None or position < 1:
        raise ConfigError(
            f"{_given(text, option)} is not a position: write CHR:BASE as genome browsers do, counted from 1, e.g. "
            f"chr22:39,077,001."
        )
    return found[1], position - 1


def _given(text: str, option: str) -> str:
    return f"{option} {text}" if option else f"'{text}'"


def parse_region(text: str, option: str = "") -> Window:
    """Read a region as genome browsers write it, "chr22:1,001-2,000": counted from 1, both ends in it.

    Parameters
    ----------
    text : str
    option : str
        The option it was given for, for the message.

    Raises
    ------
    ConfigError
        If the text is not a region.
    """
    found = re.fullmatch(r"(\S+):([0-9,]+)-([0-9,]+)", text.strip())
    start, end = [as_whole(number.replace(",", "")) for number in found.groups()[1:]] if found else (None, None)
    if found is None or start is None or end is None or not 0 < start <= end:
        raise ConfigError(
            f"{_given(text, option)} is not a region: write CHR:FIRST-LAST as genome browsers do, counted from 1, e.g. "
            f"chr22:16,370,001-18,220,000."
        )
    return Window(found[1], start - 1, end)


@dataclass(frozen=True)
class Window:
    """A stretch of the forward strand; `start` may be negative and `end` may lie beyond the chromosome's end.

    Attributes
    ----------
    chrom : str
    start, end : int
        0-based, half-open, in base pairs.
    """

    chrom: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ConfigError(f"a window must end after its start, found {self.chrom} {self.start} to {self.end}.")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return written(self.chrom, self.start, self.end)

    @classmethod
    def around(cls, chrom: str, tss: int, length_bp: int) -> Window:
        """Return ``[tss - length_bp / 2, tss + length_bp / 2)``, forward strand whatever the gene's strand.

        Raises
        ------
        ConfigError
            If `length_bp` is odd or not positive.
        """
        if length_bp <= 0 or length_bp % 2:
            raise ConfigError(f"the length of a window must be even and above 0, found {length_bp}.")
        return cls(chrom, tss - length_bp // 2, tss + length_bp // 2)

    def inside(self, chrom_length: int) -> tuple[int, int]:
        """Return (start, end) of the part that lies on a chromosome of that length; the two are equal if none does."""
        start = min(max(self.start, 0), chrom_length)
        return start, max(start, min(self.end, chrom_length))


@dataclass(frozen=True)
class Locus:
    """Where a gene's window lies: `[start, end)` on `chrom`, and its TSS and strand."""

    gene_id: str
    chrom: str
    start: int
    end: int
    tss: int
    strand: str


def pad(values: NDArray[np.generic], window: Window, start: int) -> NDArray[np.generic]:
    """Place values that begin at base `start` in an array of the window's length; zeros elsewhere.

    Parameters
    ----------
    values : ndarray, (n, ...)
        One entry per base from `start` on; must lie inside the window.
    window : Window
    start : int
        Coordinate of the first entry.

    Returns
    -------
    ndarray, (L, ...)
        The same type; `values` itself when it fills the window.
    """
    if len(values) == len(window):
        return values
    padded = np.zeros((len(window), *values.shape[1:]), dtype=values.dtype)
    offset = start - window.start
    padded[offset : offset + len(values)] = values
    return padded
