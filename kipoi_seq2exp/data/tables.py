"""Tables as text: tab-separated under comment lines, numbers short and the same every time, absent ones left empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kipoi_seq2exp.files import write_text


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
    lines = [f"# {line}" for line in header]
    lines.append(("#" if comment_names else "") + "\t".join(map(str, table.columns)))
    lines += ["\t".join(map(cell, row)) for row in table.itertuples(index=False)]
    write_lines(lines, path)


def write_lines(lines: Sequence[str], path: Path) -> None:
    """Write lines of text, whole or not at all."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def cell(value: Any) -> str:
    """Return the text of one entry: six significant digits of a float, nothing for an absent one."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{float(value):.6g}"
    return str(value)
