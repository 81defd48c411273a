"""Tables as text: read with a header line and checked row by row; written under comment lines in one format.

A table is separated by commas where its name ends in .csv, else by tabs. Lines before the header that begin with ##, or
with # and a space, are comments; a # before the first column's name is not part of the name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.text import text_lines
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.files import whole_file

if TYPE_CHECKING:
    import pandas as pd

Rows = Iterator[tuple[int, list[str]]]


@dataclass(frozen=True)
class TextTable:
    """A table as text.

    Attributes
    ----------
    where : str
        What it was read from, for messages.
    columns : list of str
    rows : list of list of str
    lines : list of int
        The line of the file that each row comes from.
    """

    where: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]

    def frame(self) -> pd.DataFrame:
        """Return the texts as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=self.columns, dtype=object)

    def typed(self) -> pd.DataFrame:
        """Return a DataFrame in which a column of numbers or truth values has that type, as pandas reads a table."""
        import pandas as pd

        text = io.StringIO()
        csv.writer(text).writerows([self.columns, *self.rows])
        text.seek(0)
        return pd.read_csv(text, low_memory=False)


def read_table(path: Path, where: str, needed: Sequence[str] = ()) -> TextTable:
    """Read a table with a header line.

    Parameters
    ----------
    path : Path
        Plain or .gz.
    where : str
        What the file is, for messages.
    needed : sequence of str
        Columns that must be there.

    Raises
    ------
    InputError
        If it is missing, damaged or empty, a column is missing or appears twice, or a row has a different number of
        columns.
    """
    columns, rows = table_rows(path, where, needed)
    lines, read = [], []
    for number, fields in rows:
        lines.append(number)
        read.append(fields)
    return TextTable(where, columns, read, lines)


def table_rows(path: Path, where: str, needed: Sequence[str] = ()) -> tuple[list[str], Rows]:
    """Return the columns of a table, and its rows one by one with the number of their line; see `read_table`."""
    comma = path.name.lower().removesuffix(".gz").endswith(".csv")
    rows = _split_lines(path, where, comma)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{where} is empty: a table with a header line is needed.")
    columns = [first[1][0].removeprefix("#").strip(), *first[1][1:]]
    for name in columns:
        if columns.count(name) > 1:
            raise InputError(f"{where}: the column '{name}' appears twice.")
    for name in needed:
        if name not in columns:
            raise InputError(
                f"{where} has no column '{name}' (it has {listing(columns)}): it needs {', '.join(needed)}."
            )
    return columns, _checked(rows, where, len(columns), "commas" if comma else "tabs")


def _checked(rows: Rows, where: str, count: int, separators: str) -> Rows:
    for number, fields in rows:
        if len(fields) != count:
            raise InputError(
                f"{where}, line {number}: found {len(fields)} columns where the header has {count} (columns are "
                f"separated by {separators})."
            )
        yield number, fields


def _split_lines(path: Path, where: str, comma: bool) -> Rows:
    """Yield the fields of each line that is not a comment; the first one is the header."""
    header = True
    for number, line in text_lines(path, where):
        if not line.strip() or (header and (line.startswith(("##", "# ")) or line.strip() == "#")):
            continue
        header = False
        if not comma:
            yield number, [field.strip().strip('"') for field in line.split("\t")]
            continue
        try:
            (fields,) = csv.reader([line], skipinitialspace=True)
        except (csv.Error, ValueError) as error:
            raise InputError(f"{where}, line {number}: cannot be read as columns with commas ({error}).") from None
        yield number, [field.strip() for field in fields]


def write_tsv(table: pd.DataFrame, path: Path, header: Sequence[str] = (), *, comment_names: bool = False) -> None:
    """Write a table, whole or not at all.

    Parameters
    ----------
    table : DataFrame
    path : Path
    header : sequence of str
        Lines for the reader, each written after "# ".
    comment_names : bool
        Put a # before the column names too, as BED and VCF have it.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    write_lines(tsv_lines([table], header, comment_names=comment_names), path)


def tsv_lines(
    tables: Iterable[pd.DataFrame], header: Sequence[str] = (), *, comment_names: bool = False
) -> Iterator[str]:
    """Yield the lines of a table that comes in stretches: header and column names as in `write_tsv`, then the rows."""
    yield from (f"# {line}" for line in header)
    for number, table in enumerate(tables):
        if number == 0:
            yield ("#" if comment_names else "") + "\t".join(map(str, table.columns))
        for row in table.itertuples(index=False):
            yield "\t".join(map(cell, row))


def write_lines(lines: Iterable[str], path: Path) -> None:
    """Write lines of text one by one, whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.writelines(f"{line}\n" for line in lines)


def cell(value: Any) -> str:
    """Return the text of one entry: six significant digits of a float, nothing for an absent one."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{float(value):.6g}"
    return str(value)
