"""Text files of the field, read line by line: plain or .gz, with either line ending, with or without a byte order mark.

Contract: everything that reads text goes through `text_lines`, every BED through `bed_records`, every GTF through
`gtf_records`, every whole number through `whole_number`, every id through `checked_label`. What cannot be read is an
`InputError` that names the file, the line and the column.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kipoi_seq2exp.errors import InputError, excerpt
from kipoi_seq2exp.files import check_regular

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # fits 64 bits
_DECIMAL = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{0,18})?(?:[eE]\+?[0-9]{1,2})?")
_EXACT = 2**53  # whole numbers below it are exact as floats
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories
_ATTRIBUTE = re.compile(r'[\s;]*([^\s;"]+)(?:\s+(")?|(?=;|$))')  # a name, and whether a quote opens its value
_CLOSING = re.compile(r'(?<!\\)"\s*(?:;|$)')
_BED_HEADERS = ("track", "browser")
_SHOWN = 60  # letters of a line or an entry that a message quotes


def text_lines(path: Path, where: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines (from 1) of a text file without their endings.

    Parameters
    ----------
    path : Path
        Plain or compressed by gzip, whatever its name.
    where : str
        What the file is, starts every message.

    Raises
    ------
    InputError
        If it is missing, no regular file (a pipe, a folder), no text, or damaged.
    """
    check_regular(path, where)
    try:
        with path.open("rb") as handle:
            compressed = handle.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8-sig") if compressed else path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.removesuffix("\n")
    except EOFError:
        raise InputError(f"{where} is truncated: its gzip stream ends too early; fetch the file again.") from None
    except UnicodeDecodeError:
        raise InputError(f"{where} is not a text file.") from None
    except (OSError, zlib.error) as error:
        raise InputError(f"{where} cannot be read ({error}).") from None


def as_whole(text: str, *, decimals: bool = False) -> int | None:
    """Return a whole number that fits 64 bits, or None: a sign at most and ASCII digits.

    Parameters
    ----------
    text : str
    decimals : bool
        Take "5.0" and "1e+05" too, as statistics programs write whole numbers.
    """
    if _WHOLE.fullmatch(text):
        return int(text)
    if decimals and _DECIMAL.fullmatch(text):
        number = float(text)
        return int(number) if number.is_integer() and abs(number) < _EXACT else None
    return None


def whole_number(text: str, where: str, what: str) -> int:
    """Read a whole number (see `as_whole`).

    Parameters
    ----------
    text : str
    where, what : str
        The line and the column, for the message.

    Raises
    ------
    InputError
        If it is anything else.
    """
    number = as_whole(text)
    if number is None:
        most = " of at most 18 digits" if len(text) > 18 else ""
        raise InputError(f"{where}: {what} is {excerpt(text)!r}, not a whole number{most}.")
    return number


def label_fault(text: str) -> str | None:
    """Return why a name from the user's data cannot stand in a column of a result, or None if it can.

    Tables and BEDs separate columns by tabs and rows by line ends, and take a line that begins with # for a comment, so
    such a gene id or chromosome would shift the columns beside it.
    """
    if not text:
        return "is empty"
    if text.startswith("#"):
        return f"{excerpt(text)!r} begins with #, as a comment does: rename it"
    if not text.isprintable() and any(unicodedata.category(letter) in _CONTROLS for letter in text):
        return f"{excerpt(text)!r} holds a tab, a line end or another control character: rename it"
    return None


def checked_label(text: str, where: str, what: str) -> str:
    """Return a name that may stand in a column of a result (see `label_fault`).

    Raises
    ------
    InputError
        If it may not stand there.
    """
    fault = label_fault(text)
    if fault:
        raise InputError(f"{where}: {what} {fault}.")
    return text


# --------------------------------------------------------------------------------------------------------------- BED


class BedRecord(NamedTuple):
    """A line of a BED-like file: its number, its columns as text, and its interval (0-based, half-open)."""

    line: int
    fields: list[str]
    start: int
    end: int

    @property
    def chrom(self) -> str:
        """The first column."""
        return self.fields[0]


def bed_records(path: Path, where: str, needed: str = "chrom, start, end") -> Iterator[BedRecord]:
    """Yield the records of a BED, bedGraph, narrowPeak or broadPeak, separated by tabs or else by spaces.

    Parameters
    ----------
    path : Path
    where : str
        What the file is, for messages.
    needed : str
        The columns that a line must have at least, for messages.

    Raises
    ------
    InputError
        If a line is not an interval; the line is named.
    """
    columns = needed.count(",") + 1
    for number, line in text_lines(path, where):
        if line.startswith("#") or not line.strip() or line.split(maxsplit=1)[0] in _BED_HEADERS:
            continue
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        here = f"{where}, line {number}"
        if len(fields) < columns:
            raise InputError(f"{here}: expected {needed}, found {excerpt(line.strip(), _SHOWN)!r}.")
        start, end = whole_number(fields[1], here, "start (column 2)"), whole_number(fields[2], here, "end (column 3)")
        if not 0 <= start < end:
            raise InputError(f"{here}: the interval {start}-{end} is empty, reversed or negative.")
        yield BedRecord(number, fields, start, end)


# --------------------------------------------------------------------------------------------------------------- GTF


class GtfRecord(NamedTuple):
    """A line of a GTF; the interval is 0-based and half-open here (the file counts from 1, both ends in it)."""

    where: str
    line: int
    chrom: str
    feature: str
    start: int
    end: int
    strand: str
    text: str

    def attributes(self) -> dict[str, str]:
        """Return the attributes by name; of one that appears several times, the first value.

        Raises
        ------
        InputError
            If there are several gene ids.
        """
        found: dict[str, str] = {}
        for name, value in _attributes(self.text):
            if found.setdefault(name, value) != value and name == "gene_id":
                raise InputError(
                    f"{self.where}, line {self.line}: gene_id appears twice ({found[name]} and {value}): keep one."
                )
        return found


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and values; a quoted value ends at a quote before ; or the end, so that it may hold both."""
    at = 0
    while at < len(text):
        name = _ATTRIBUTE.match(text, at)
        if name is not None and name[2]:
            closing = _CLOSING.search(text, name.end())
            if closing is None:
                return
            value, at = text[name.end() : closing.start()], closing.end()
        else:
            end = text.find(";", at if name is None else name.end())
            end = len(text) if end < 0 else end
            value, at = "" if name is None else text[name.end() : end], end + 1
        if name is not None:
            yield name[1], value.strip()


def gtf_records(path: Path, where: str) -> Iterator[GtfRecord]:
    """Yield the records of a GTF.

    Raises
    ------
    InputError
        If a line is not a GTF record; the line is named.
    """
    for number, line in text_lines(path, where):
        if line.startswith("#") or not line.strip():
            continue
        fields, here = line.split("\t"), f"{where}, line {number}"
        if len(fields) != 9:
            raise InputError(f"{here}: not a GTF record (it has {len(fields)} columns separated by tabs, not nine).")
        start = whole_number(fields[3], here, "start (column 4)")
        end = whole_number(fields[4], here, "end (column 5)")
        if not 1 <= start <= end:
            raise InputError(f"{here}: {start} to {end} is not an interval (a GTF counts from 1, both ends in it).")
        yield GtfRecord(where, number, fields[0], fields[2], start - 1, end, fields[6], fields[8])
