"""One column of a model with many outputs (Basenji, Enformer, DeepSEA), and its bins turned into one value per gene.

Contract: the arrays of `kipoi predict` in, (R, T) or (R, N, T) for R windows, N bins along each and T outputs; one
column of them out, (R,) or (R, N). Bins run from the start of a window to its end and lie round its middle: such models
read more DNA than they predict. A gene's value is the sum of the bin that holds its TSS and of its neighbours, as the
models' authors take it for expression (Avsec et al. 2021, doi 10.1038/s41592-021-01252-x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.text import text_lines
from kipoi_seq2exp.errors import ConfigError, InputError, counted
from kipoi_seq2exp.settings import suggest

Floats = NDArray[np.float64]
Columns = Sequence[tuple[str, ...]]
"""The labels of each output: any of them names it."""

LABEL_HEADERS = ("identifier", "description")  # columns of the table of targets of Basenji and Enformer


@dataclass(frozen=True)
class BinRule:
    """How bins along a window become one value of a gene.

    Attributes
    ----------
    bin_bp : int
        Length of a bin: 128 bp in Basenji and Enformer.
    count : int
        Bins that are summed, an odd number: the one that holds the TSS, and as many on either side.
    log : bool
        Take log10(x + 1) of the sum, the scale of expression here.
    """

    bin_bp: int = 128
    count: int = 3
    log: bool = True

    def __post_init__(self) -> None:
        if self.bin_bp < 1 or self.count < 1 or self.count % 2 == 0:
            raise ConfigError(
                f"bins of {self.bin_bp} bp, {self.count} summed: the length must be above 0 and the count odd, the bin "
                f"of the TSS and as many on either side."
            )

    def said(self, bins: int) -> str:
        """Return the rule in a few words."""
        total = f"{self.count} of {bins:,} bins of {self.bin_bp} bp round the TSS"
        return f"log10(x + 1) of the sum of {total}" if self.log else f"the sum of {total}"


@dataclass(frozen=True)
class Column:
    """One of many outputs.

    Attributes
    ----------
    values : ndarray
        (R,), or (R, N) where the output lies in N bins.
    number, of : int
        Which output it is, from 0, and how many there are.
    """

    values: Floats
    number: int
    of: int


def wide_outputs(root: Any) -> dict[str, tuple[int, ...]]:
    """Return the arrays of predictions with more than one value per row, by name, with their shapes."""
    found: dict[str, tuple[int, ...]] = {}

    def keep(name: str, node: object) -> None:
        shape = tuple(getattr(node, "shape", ()))
        if name.split("/")[0] == "preds" and int(np.prod(shape[1:])) > 1:
            found[name] = shape

    root.visititems(keep)
    return found


def read_column(
    where: str, root: Any, wide: Mapping[str, tuple[int, ...]], column: str, labels: Columns | None
) -> Column:
    """Read one column of many outputs.

    Parameters
    ----------
    where : str
        The file, for messages.
    root : HDF5 file or Zarr group
    wide : mapping of str to tuple of int
        Result of `wide_outputs`.
    column : str
        Number or label of an output; after "NAME/" where several arrays are wide.
    labels : sequence of tuples of str, optional
        The labels of each output.

    Raises
    ------
    InputError
        If it is none of the columns.
    """
    name, wanted = _array(where, wide, column)
    axes = [axis for axis, size in enumerate(wide[name]) if axis and size > 1]
    if len(axes) > 2:
        raise InputError(f"{where}: {name} has the shape {wide[name]}; (windows, bins, outputs) can be read.")
    count = wide[name][axes[-1]]
    number = column_number(where, wanted, count, labels)
    index: list[slice | int] = [slice(None) if axis in (0, *axes[:-1]) else 0 for axis in range(len(wide[name]))]
    index[axes[-1]] = number
    values = np.asarray(root[name][tuple(index)], dtype=np.float64)  # one of thousands: the rest stays on disk
    if not np.isfinite(values).all():
        raise InputError(f"{where}: {name} holds values that are not finite in column {number}.")
    return Column(values, number, count)


def _array(where: str, wide: Mapping[str, tuple[int, ...]], column: str) -> tuple[str, str]:
    """Return the array that a column lies in, and what is left of the column's name."""
    for name in wide:
        for prefix in (f"{name}/", f"{name.removeprefix('preds/')}/"):
            if column.startswith(prefix):
                return name, column.removeprefix(prefix)
    names = listing(f"{name} {shape}" for name, shape in wide.items())
    if not column:
        raise InputError(f"{where} holds many predictions a row ({names}): name one by its number as {where}::NUMBER.")
    if len(wide) > 1:
        raise InputError(f"{where} has several outputs ({names}): name the prediction as {where}::OUTPUT/NUMBER.")
    return next(iter(wide)), column


def column_number(where: str, column: str, count: int, labels: Columns | None) -> int:
    """Return the number of the output that a number or a label names.

    Raises
    ------
    InputError
        If there is none, or more than one.
    """
    if column.isdecimal():
        if int(column) < count:
            return int(column)
        raise InputError(f"{where} has {count:,} columns, from 0 to {count - 1}: there is no column {column}.")
    if labels is None:
        raise InputError(
            f"{where} does not name its {count:,} columns: give a number from 0 to {count - 1} in place of '{column}', "
            f"or their labels (--columns)."
        )
    if len(labels) != count:
        raise InputError(f"{where} has {count:,} columns, the labels name {len(labels):,}.")
    found = [number for number, names in enumerate(labels) if column in names]
    if not found:
        raise InputError(f"{where} has no column '{column}'{suggest(column, {n for names in labels for n in names})}.")
    if len(found) > 1:
        raise InputError(f"'{column}' is the label of several columns, {listing(map(str, found))}: give a number.")
    return found[0]


def read_labels(path: Path) -> list[tuple[str, ...]]:
    """Read the labels of a model's outputs: one per line, or a table with the columns identifier and description.

    The table has the form of Basenji's and Enformer's targets (targets_human.txt), tab-separated.

    Raises
    ------
    InputError
        If the file cannot be read or holds none.
    """
    lines = [line.rstrip("\r\n") for _, line in text_lines(path, str(path)) if line.strip()]
    header = lines[0].split("\t") if lines else []
    places = [header.index(name) for name in LABEL_HEADERS if name in header]
    labels: list[tuple[str, ...]]
    if not places:
        labels = [(line.strip(),) for line in lines]
    else:
        rows = [line.split("\t") for line in lines[1:]]
        labels = [tuple(row[place] for place in places if place < len(row)) for row in rows]
    if not labels:
        raise InputError(f"{path} holds no labels.")
    return labels


def gene_sums(bins: Floats, ranges: NDArray[np.int64], tss: NDArray[np.int64], rule: BinRule, where: str) -> Floats:
    """Turn the bins of each gene's window into one value; NaN where they do not reach around its TSS.

    Parameters
    ----------
    bins : ndarray, (G, N)
        From the start of each window.
    ranges : ndarray, (G, 2)
        Start and end of each window; the bins lie round its middle.
    tss : ndarray, (G,)
    rule : BinRule
    where : str
        The file, for messages.

    Raises
    ------
    InputError
        If the bins are longer than a window, or a sum has no logarithm.
    """
    length, covered = ranges[:, 1] - ranges[:, 0], bins.shape[1] * rule.bin_bp
    if (length < covered).any():
        raise InputError(
            f"{where}: {bins.shape[1]:,} bins of {rule.bin_bp} bp are longer than a window of "
            f"{counted(int(length.min()), 'base')}: give the length of the bins (--bins NAME=BP)."
        )
    place = (tss - ranges[:, 0] - (length - covered) // 2) // rule.bin_bp
    side = rule.count // 2
    inside = (place >= side) & (place < bins.shape[1] - side)
    around = np.clip(place, side, bins.shape[1] - 1 - side)[:, None] + np.arange(-side, side + 1)
    sums = np.take_along_axis(bins, around, axis=1).sum(axis=1)
    if rule.log and (sums[inside] < 0).any():
        raise InputError(
            f"{where}: a sum of bins is {sums[inside].min():g}, which has no log10(x + 1): take sums as they are "
            f"(--bins NAME={rule.bin_bp},{rule.count},plain)."
        )
    values: Floats = np.where(inside, np.log10(np.maximum(sums, 0) + 1) if rule.log else sums, np.nan)
    return values
