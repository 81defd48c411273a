"""Saved predictions of any model, read into one table: the gene or range of each row, and one number.

Contract: a results folder of ours, an .h5 or .zarr of `kipoi predict` by any model, or a table in; `predicted` with
gene ids or ranges, or both, out. Tables may be Kipoi's (`preds/expression_pred`), Xpresso's own (`ID`, `SCORE`), or any
other whose column of predictions is named. Of a model with many outputs one column is read (`many_outputs`).
"""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.genes import COLUMN_NAMES
from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.tables import read_table
from kipoi_seq2exp.errors import ConfigError, InputError, counted
from kipoi_seq2exp.judge.many_outputs import BinRule, Columns, column_number, gene_sums, read_column, wide_outputs
from kipoi_seq2exp.prediction.store import STORE_NAME, open_arrays, read_predictions
from kipoi_seq2exp.prediction.store_genes import texts
from kipoi_seq2exp.settings import suggest

Floats = NDArray[np.float64]

PREDICTION_COLUMNS: tuple[str, ...] = (
    "expression",
    "preds/expression",
    "preds/expression/0",
    "preds/0",
    "preds",
    "prediction",
    "predicted",
    "score",
)
"""Columns that are taken for the prediction when none is named, most usual first; case does not matter. In an output of
Kipoi's with a single column of predictions it is that one."""

ID_COLUMNS = ("metadata/gene_id", *COLUMN_NAMES["gene_id"], "gene_name", "metadata/ranges/id", "name", "id")
RANGE_COLUMNS = ("metadata/ranges/chr", "metadata/ranges/start", "metadata/ranges/end")
STRAND_COLUMNS = ("metadata/ranges/strand", "strand")
TABLES, ARRAYS = (".tsv", ".txt", ".csv", ".bed"), (".h5", ".hdf5", ".zarr")


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one model as they were saved.

    Attributes
    ----------
    name : str
    path : Path
    table : DataFrame
        A row per window: gene_id, or chrom, start and end (with strand, if the file has it), or all of them; and
        predicted, unless there are bins.
    bins : ndarray or None, (R, N)
        Values of the bins, for a model whose output lies in bins along each window; from the window's start.
    rule : BinRule or None
        How bins become one value of a gene.
    note : str
        Which column was read, and how; empty where there was no choice.
    """

    name: str
    path: Path
    table: pd.DataFrame
    bins: Floats | None = None
    rule: BinRule | None = None
    note: str = ""

    def of_genes(self, rows: NDArray[np.int64], tss: NDArray[np.int64]) -> Floats:
        """Return the prediction of each gene, (G,), from the row of its window (-1: none, so NaN) and its TSS.

        Raises
        ------
        InputError
            If the bins do not fit the windows, or a sum has no logarithm.
        """
        found = np.full(len(rows), np.nan)
        has = rows >= 0
        if self.bins is None or self.rule is None:
            found[has] = self.table["predicted"].to_numpy(np.float64)[rows[has]]
            return found
        ranges = self.table[["start", "end"]].to_numpy(np.int64)[rows[has]]
        found[has] = gene_sums(self.bins[rows[has]], ranges, tss[has], self.rule, f"{self.path} ({self.name})")
        return found


def ending(path: Path) -> str:
    """Return the ending of a file's name in lower case, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_model_predictions(
    name: str,
    source: str,
    genes: pd.DataFrame | None = None,
    *,
    columns: Columns | None = None,
    rule: BinRule | None = None,
) -> ModelPredictions:
    """Read saved predictions.

    Parameters
    ----------
    name : str
        What the model is called in the comparison.
    source : str
        A results folder, an .h5 or .zarr of `kipoi predict`, or a table; "FILE::COLUMN" names the prediction: a column
        of a table, or the number (from 0) or the label of one of many outputs.
    genes : DataFrame, optional
        For an .h5 or .zarr without metadata: the genes that were predicted, in the same order.
    columns : sequence of tuples of str, optional
        The labels of each of many outputs.
    rule : BinRule, optional
        How bins along a window become one value of a gene.

    Raises
    ------
    InputError
        If the file cannot be read, names no genes, or has no column that could be the prediction.
    """
    text, _, column = source.partition("::")
    path = Path(text)
    if ending(path) in TABLES and not path.is_dir():
        return _from_table(name, path, column or None, columns)
    if ending(path) in ARRAYS and path.name != STORE_NAME:
        return _from_arrays(name, source, genes, columns, rule or BinRule())
    if path.is_file() and ending(path) not in ARRAYS:
        raise InputError(
            f"{path}: unknown kind of file for predictions: give a results folder, an .h5 or .zarr of `kipoi "
            f"predict`, or a table ({', '.join(TABLES)})."
        )
    if column:
        raise ConfigError(f"{source}: only a table or an output of `kipoi predict` has columns to choose from.")
    with read_predictions(path, genes) as found:
        table = found.genes[["gene_id", "chrom", "start", "end"]].assign(predicted=found.genes["expression"])
    return ModelPredictions(name, path, table)


def _from_table(name: str, path: Path, column: str | None, columns: Columns | None) -> ModelPredictions:
    """Read a table; of the many columns that Kipoi wrote one may be named by its number or label."""
    frame = _read_text(path)
    written = [str(text) for text in frame.columns if str(text).removeprefix("preds/").isdecimal()]
    if column is None or column in frame or not written:
        return ModelPredictions(name, path, _pick(path, frame, column))
    number = column_number(str(path), column, len(written), columns)
    table = _pick(path, frame, f"preds/{number}")
    return ModelPredictions(name, path, table, note=_said(column, number, len(written)))


def _from_arrays(
    name: str, source: str, genes: pd.DataFrame | None, columns: Columns | None, rule: BinRule
) -> ModelPredictions:
    """Read the arrays of `kipoi predict`: a single value a row, or a column of many outputs."""
    text, _, column = source.partition("::")
    path = Path(text)
    root = open_arrays(path)
    with closing(root) if hasattr(root, "close") else nullcontext():
        rows = _rows(path, root, genes)
        wide = wide_outputs(root)
        if column in rows or not wide or (not column and any(key.startswith("preds") for key in rows)):
            return ModelPredictions(name, path, _pick(path, rows, column or None))
        chosen = read_column(str(path), root, wide, column, columns)
    note = _said(column, chosen.number, chosen.of)
    if chosen.values.ndim == 1:
        return ModelPredictions(name, path, _pick(path, rows.assign(**{column: chosen.values}), column), note=note)
    table = _places(path, rows)
    if "chrom" not in table:
        raise InputError(
            f"{path} does not say where the windows of its {chosen.values.shape[1]:,} bins lie: run `kipoi predict` "
            f"with --keep_metadata."
        )
    note += f"; {rule.said(chosen.values.shape[1])}"
    return ModelPredictions(name, path, table, chosen.values, rule, note)


def _said(column: str, number: int, of: int) -> str:
    return f"column {number:,} of {of:,}" + ("" if column.split("/")[-1].isdecimal() else f" ({column})")


def _read_text(path: Path) -> pd.DataFrame:
    """Read a table as text."""
    table = read_table(path, str(path))
    if not table.rows:
        raise InputError(f"{path} holds no predictions.")
    return table.frame()


def _rows(path: Path, root: Any, genes: pd.DataFrame | None) -> pd.DataFrame:
    """Read the arrays that hold one value a row; without metadata the rows are those of `genes`."""
    columns: dict[str, list[str]] = {}

    def keep(name: str, node: object) -> None:
        shape = getattr(node, "shape", None)
        if shape and int(np.prod(shape[1:])) == 1:
            columns[name] = texts(node)

    root.visititems(keep)
    outputs = [root["preds"]] if hasattr(root["preds"], "shape") else list(root["preds"].values())
    count = max((int(node.shape[0]) for node in outputs if hasattr(node, "shape")), default=0)
    rows = {name: values for name, values in columns.items() if len(values) == count}
    if "metadata" not in root:
        if genes is None:
            raise InputError(f"{path} does not say which genes it holds: run `kipoi predict` with --keep_metadata.")
        if len(genes) != count:
            raise InputError(
                f"{path} holds predictions of {counted(count, 'gene')} but the gene table names {len(genes):,}: the "
                f"table must list the genes that were predicted, in the same order."
            )
        rows["gene_id"] = genes["gene_id"].astype(str).tolist()
    return pd.DataFrame(rows, dtype=object)


def _pick(path: Path, frame: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """Take the prediction, the gene ids and the ranges out of a table of texts."""
    chosen = _prediction_column(path, _lower(frame), column)
    return _places(path, frame).assign(predicted=_numbers(path, chosen, frame[chosen]))


def _lower(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name).lower(): str(name) for name in reversed(list(frame.columns))}


def _places(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Take the gene ids and the ranges out of a table of texts."""
    lower = _lower(frame)
    table = pd.DataFrame(index=frame.index)
    ids = next((lower[name.lower()] for name in ID_COLUMNS if name.lower() in lower), None)
    if ids is not None:
        table["gene_id"] = frame[ids].astype(str)
    ranges = [lower.get(full.lower(), lower.get(full.split("/")[-1])) for full in RANGE_COLUMNS]
    ranges[0] = ranges[0] or lower.get("chrom")
    if all(ranges):
        table["chrom"] = frame[ranges[0]].astype(str)
        for name, source in zip(("start", "end"), ranges[1:], strict=True):
            table[name] = _numbers(path, str(source), frame[source])
        strand = next((lower[name] for name in STRAND_COLUMNS if name in lower), None)
        if strand is not None:
            table["strand"] = frame[strand].astype(str)
    if ids is None and "chrom" not in table:
        raise InputError(
            f"{path} names no genes: a column with gene ids ({', '.join(ID_COLUMNS[:4])}, ...) or the ranges "
            f"({', '.join(RANGE_COLUMNS)}) are needed."
        )
    return table


def _prediction_column(path: Path, lower: dict[str, str], column: str | None) -> str:
    """Return the column of the prediction: the one that was named, a usual one, or the only one that Kipoi wrote."""
    if column is not None:
        if column in lower.values():
            return column
        raise InputError(f"{path} has no column '{column}'{suggest(column, lower.values())}.")
    usual = [lower[name] for name in PREDICTION_COLUMNS if name in lower]
    written = [full for name, full in lower.items() if name.startswith("preds/")]
    if len(written) == 1 or usual:
        return written[0] if len(written) == 1 else usual[0]
    names = listing(list(lower.values())[::-1])
    raise InputError(
        f"{path} has no column '{PREDICTION_COLUMNS[0]}' (it has {names}): name the prediction as {path}::COLUMN."
    )


def _numbers(path: Path, name: str, values: pd.Series[str]) -> Floats:
    numbers: Floats = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(np.isnan(numbers))
    if bad.size:
        raise InputError(f"{path}: {name} is '{values.iloc[int(bad[0])]}' in row {int(bad[0]) + 1}, not a number.")
    return numbers
