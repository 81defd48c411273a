"""Saved predictions of any model, read into one table: what each row is of, and one number.

Contract: a results folder of ours, an .h5 or .zarr of `kipoi predict` by any model, or a table in; `predicted` with
gene ids or ranges, or both, out. Tables may be Kipoi's (`preds/expression_pred`), Xpresso's own (`ID`, `SCORE`), or
anybody's whose column of predictions is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.genes import COLUMN_NAMES
from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.regions import text_lines
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.prediction.store import STORE_NAME, open_arrays, read_predictions, texts
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
        predicted, and gene_id, or chrom, start and end (with strand, if the file has it), or all of them.
    """

    name: str
    path: Path
    table: pd.DataFrame


def ending(path: Path) -> str:
    """Return the ending of a file's name in lower case, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_model_predictions(name: str, source: str, genes: pd.DataFrame | None = None) -> ModelPredictions:
    """Read saved predictions.

    Parameters
    ----------
    name : str
        What the model is called in the comparison.
    source : str
        A results folder, an .h5 or .zarr of `kipoi predict`, or a table; "FILE::COLUMN" names the prediction.
    genes : DataFrame, optional
        For an .h5 or .zarr without metadata: the genes that were predicted, in the same order.

    Raises
    ------
    InputError
        If the file cannot be read, names no genes, or has no column that could be the prediction.
    """
    text, _, column = source.partition("::")
    path = Path(text)
    if ending(path) in TABLES and not path.is_dir():
        return ModelPredictions(name, path, _pick(path, _read_text(path), column or None))
    if ending(path) in ARRAYS and path.name != STORE_NAME:
        arrays = _read_arrays(path, genes)
        if arrays is not None:
            return ModelPredictions(name, path, _pick(path, arrays, column or None))
    if path.is_file() and ending(path) not in ARRAYS:
        raise InputError(
            f"{path}: the ending names no kind of predictions: give a results folder, an .h5 or .zarr of `kipoi "
            f"predict`, or a table ({', '.join(TABLES)})."
        )
    if column:
        raise ConfigError(f"{source}: only a table or an output of `kipoi predict` has columns to choose from.")
    with read_predictions(path, genes) as found:
        table = found.genes[["gene_id", "chrom", "start", "end"]].assign(predicted=found.genes["expression"])
    return ModelPredictions(name, path, table)


def _read_text(path: Path) -> pd.DataFrame:
    """Read a table as text."""
    separator = "," if ending(path) == ".csv" else "\t"
    rows: list[list[str]] = []
    for number, line in text_lines(path, str(path)):
        text = line.rstrip("\r\n")
        if not text.strip() or (text.startswith("# ") and not rows):
            continue
        rows.append([field.strip().strip('"') for field in text.split(separator)])
        if len(rows[-1]) != len(rows[0]):
            raise InputError(
                f"{path}, line {number}: found {len(rows[-1])} columns where the header has {len(rows[0])}."
            )
    if len(rows) < 2:
        raise InputError(f"{path} holds no predictions.")
    return pd.DataFrame(rows[1:], columns=[rows[0][0].removeprefix("#"), *rows[0][1:]], dtype=object)


def _read_arrays(path: Path, genes: pd.DataFrame | None) -> pd.DataFrame | None:
    """Read the arrays of `kipoi predict` that hold one value a row; None where metadata must come from `genes`."""
    root = open_arrays(path)
    if "metadata" not in root:
        if genes is not None:
            return None
        raise InputError(f"{path} does not say which genes it holds: run `kipoi predict` with --keep_metadata.")
    columns: dict[str, list[str]] = {}

    def keep(name: str, node: object) -> None:
        shape = getattr(node, "shape", None)
        if shape and int(np.prod(shape[1:])) == 1:
            columns[name] = texts(node)

    root.visititems(keep)
    if hasattr(root, "close"):
        root.close()
    rows = max((len(values) for name, values in columns.items() if name.startswith("preds")), default=0)
    return pd.DataFrame({name: values for name, values in columns.items() if len(values) == rows}, dtype=object)


def _pick(path: Path, frame: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """Take the prediction, the gene ids and the ranges out of a table of texts."""
    lower = {str(name).lower(): str(name) for name in reversed(list(frame.columns))}
    chosen = _prediction_column(path, lower, column)
    table = pd.DataFrame({"predicted": _numbers(path, chosen, frame[chosen])})
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
