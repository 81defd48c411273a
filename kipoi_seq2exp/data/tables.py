"""Tables as text: tab-separated under comment lines, numbers short and the same every time, absent ones left empty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kipoi_seq2exp.files import whole_file


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
    names, *rows = tsv_lines([table])
    write_lines([*(f"# {line}" for line in header), ("#" if comment_names else "") + names, *rows], path)


def tsv_lines(tables: Iterable[pd.DataFrame]) -> Iterator[str]:
    """Yield the lines of stretches of one table: the names of its columns, then its rows."""
    for number, table in enumerate(tables):
        if number == 0:
            yield "\t".join(map(str, table.columns))
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
