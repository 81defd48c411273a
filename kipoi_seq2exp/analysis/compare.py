"""Predictions of several models of the same genes, beside each other and beside the label.

Contract: saved predictions of any models in (our results, .h5 or .zarr of `kipoi predict`, or a table as .tsv or .csv),
one value per gene and model out. Rows are matched by gene id, without version; where a file has other ids, by the range
whose middle lies nearest to the TSS of the gene. Genes that a model lacks are counted and left out for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.analysis.files import whole_file
from kipoi_seq2exp.analysis.store import read_predictions
from kipoi_seq2exp.config import suggest
from kipoi_seq2exp.data.genes import COLUMN_NAMES
from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.regions import text_lines
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.metrics import METRICS, paired_differences, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
"""Columns of a table that are taken for the prediction when none is named, most usual first; case does not matter."""

ID_COLUMNS = ("metadata/gene_id", "metadata/ranges/id", *COLUMN_NAMES["gene_id"], "gene_name", "name", "id")
RANGE_COLUMNS = ("metadata/ranges/chr", "metadata/ranges/start", "metadata/ranges/end")
_TABLES = (".tsv", ".txt", ".csv")


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one model as they were saved.

    Attributes
    ----------
    name : str
    path : Path
    table : DataFrame
        predicted, and gene_id, or chrom, start and end, or all of them.
    """

    name: str
    path: Path
    table: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """Models beside each other.

    Attributes
    ----------
    genes : DataFrame
        gene_id, observed, and a column per model: the genes that all of them have.
    scores : DataFrame
        A row per model: genes, each of `metrics.METRICS`, and its difference to the first model (delta_...), all with
        _low and _high (95 % bootstrap intervals over the genes, the same resamples for all).
    notes : tuple of str
        How rows were matched and what was left out.
    """

    genes: pd.DataFrame
    scores: pd.DataFrame
    notes: tuple[str, ...]


def read_model_predictions(name: str, source: str, genes: pd.DataFrame | None = None) -> ModelPredictions:
    """Read saved predictions.

    Parameters
    ----------
    name : str
        What the model is called in the comparison.
    source : str
        A results folder, an .h5 or .zarr of `kipoi predict`, or a table; "FILE::COLUMN" names a table's prediction.
    genes : DataFrame, optional
        For an .h5 or .zarr without metadata: the genes that were predicted, in the same order.

    Raises
    ------
    InputError
        If the file cannot be read, names no genes, or has no column that could be the prediction.
    """
    text, _, column = source.partition("::")
    path = Path(text)
    if Path(path.name.lower().removesuffix(".gz")).suffix in _TABLES and not path.is_dir():
        return ModelPredictions(name, path, _read_table(path, column or None))
    if column:
        raise ConfigError(f"{source}: only a .tsv or .csv has columns to choose from.")
    with read_predictions(path, genes) as found:
        table = found.genes[["gene_id", "chrom", "start", "end"]].assign(predicted=found.genes["expression"])
    return ModelPredictions(name, path, table)


def _read_table(path: Path, column: str | None) -> pd.DataFrame:
    separator = "," if path.name.lower().removesuffix(".gz").endswith(".csv") else "\t"
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
    frame = pd.DataFrame(rows[1:], columns=[rows[0][0].removeprefix("#"), *rows[0][1:]], dtype=object)
    lower = {str(name).lower(): str(name) for name in reversed(list(frame.columns))}
    chosen = column if column is not None else next((lower[n] for n in PREDICTION_COLUMNS if n in lower), None)
    if chosen is None or chosen not in frame:
        hint = suggest(column, map(str, frame.columns)) if column else f" (it has {', '.join(map(str, frame.columns))})"
        raise InputError(f"{path} has no column '{column or PREDICTION_COLUMNS[0]}'{hint}: name it as {path}::COLUMN.")
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
    if ids is None and "chrom" not in table:
        raise InputError(
            f"{path} names no genes: a column with gene ids ({', '.join(ID_COLUMNS[:4])}, ...) or the ranges "
            f"({', '.join(RANGE_COLUMNS)}) are needed."
        )
    return table


def _numbers(path: Path, name: str, values: pd.Series[str]) -> Floats:
    numbers: Floats = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(np.isnan(numbers))
    if bad.size:
        raise InputError(f"{path}: {name} is '{values.iloc[int(bad[0])]}' in row {int(bad[0]) + 1}, not a number.")
    return numbers


def compare_models(
    models: list[ModelPredictions], genes: pd.DataFrame, observed: Floats, bootstrap: int = 1_000
) -> Comparison:
    """Match predictions to genes and score them.

    Parameters
    ----------
    models : list of ModelPredictions
        The first is what the others are compared with.
    genes : DataFrame
        gene_id, chrom, tss.
    observed : ndarray, (G,)
        Label of each gene, NaN where unknown.
    bootstrap : int
        Resamples of the genes.

    Raises
    ------
    InputError
        If a file has none of the genes, or fewer than two genes are in all of them.
    ConfigError
        If two models have the same name.
    """
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two models are called '{twice}': give names as NAME=FILE.")
    table = pd.DataFrame({"gene_id": genes["gene_id"], "observed": observed})
    notes = []
    for model in models:
        table[model.name], how = _matched(model, genes)
        notes.append(f"{model.name}: {int(table[model.name].notna().sum())} of {len(genes)} genes {how}")
    shared = table.dropna().reset_index(drop=True)
    notes.append(f"{len(shared)} genes have a label and a prediction of every model: these are compared")
    if len(shared) < 2:
        raise InputError(f"at least two genes must be in every file and have a label, found {len(shared)}: {notes[0]}.")
    truth = shared["observed"].to_numpy(np.float64)
    first = shared[names[0]].to_numpy(np.float64)
    rows = []
    for name in names:
        values = shared[name].to_numpy(np.float64)
        row: dict[str, object] = {"model": name, "genes": len(shared)}
        scores, changes = (
            score(truth, values, bootstrap=bootstrap),
            paired_differences(truth, first, values, bootstrap=bootstrap),
        )
        for prefix, results in (("", scores), ("delta_", changes)):
            for metric in METRICS:
                result, key = results[metric], prefix + metric
                row |= {key: result.value, f"{key}_low": result.low, f"{key}_high": result.high}
        rows.append(row)
    return Comparison(shared, pd.DataFrame(rows), tuple(notes))


def _matched(model: ModelPredictions, genes: pd.DataFrame) -> tuple[Floats, str]:
    """Return the prediction of each gene, NaN where there is none, and how they were matched."""
    if "gene_id" in model.table:
        found = _by_id(model, genes)
        if np.isfinite(found).any():
            return found, "by gene id"
    if "chrom" in model.table:
        found = _by_range(model.table, genes)
        if np.isfinite(found).any():
            return found, "by range"
    ids = listing(model.table["gene_id"]) if "gene_id" in model.table else "no gene ids"
    raise InputError(
        f"{model.path} ({model.name}) has none of the {len(genes)} genes ({listing(genes['gene_id'])}): it names "
        f"{ids}, and no range holds a TSS."
    )


def _by_id(model: ModelPredictions, genes: pd.DataFrame) -> Floats:
    bare = [str(gene).split(".")[0] for gene in model.table["gene_id"]]
    predicted: dict[str, float] = {}
    for gene, value in zip(bare, model.table["predicted"], strict=True):
        if gene in predicted and predicted[gene] != value:
            raise InputError(f"{model.path} has two predictions of the gene '{gene}': keep one.")
        predicted[gene] = float(value)
    return np.array([predicted.get(str(gene).split(".")[0], np.nan) for gene in genes["gene_id"]])


def _by_range(table: pd.DataFrame, genes: pd.DataFrame) -> Floats:
    """Take, of the ranges that hold a TSS, the one whose middle lies nearest to it."""
    found = np.full(len(genes), np.nan)
    rows = {chrom: group for chrom, group in table.groupby("chrom", sort=False)}
    for place, (chrom, tss) in enumerate(zip(genes["chrom"], genes["tss"], strict=True)):
        if chrom not in rows:
            continue
        start, end = (rows[chrom][name].to_numpy(np.float64) for name in ("start", "end"))
        distance = np.where((start <= tss) & (tss < end), np.abs((start + end) / 2 - tss), np.inf)
        if np.isfinite(distance).any():
            found[place] = rows[chrom]["predicted"].iloc[int(distance.argmin())]
    return found


def score_lines(scores: pd.DataFrame) -> list[str]:
    """Lay out the scores; MSE compares only models of the same unit."""
    width = max(len(name) for name in scores["model"])
    lines = []
    for number, row in scores.iterrows():
        text = f"{row['model']:<{width}}"
        for metric in ("pearson", "spearman", "mse"):
            text += f"  {metric} {row[metric]:.4f} [{row[f'{metric}_low']:.4f}, {row[f'{metric}_high']:.4f}]"
            if number:
                change = f"{row[f'delta_{metric}']:+.4f}"
                text += f" ({change} [{row[f'delta_{metric}_low']:+.4f}, {row[f'delta_{metric}_high']:+.4f}])"
        lines.append(text)
    return lines


def plot_scatter_matrix(genes: pd.DataFrame, path: Path, scores: Mapping[str, str] | None = None) -> None:
    """Draw label and models against each other; the ending of `path` is the format.

    Parameters
    ----------
    genes : DataFrame
        Of a `Comparison`.
    path : Path
    scores : mapping of str to str, optional
        A line under the name of each model.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in genes.columns if name != "gene_id"]
    size = 2.6 * len(names)
    figure = Figure(figsize=(size, size), layout="constrained")
    FigureCanvasAgg(figure)
    for row, vertical in enumerate(names):
        for column, horizontal in enumerate(names):
            axes = figure.add_subplot(len(names), len(names), row * len(names) + column + 1)
            _draw_pair(axes, genes, horizontal, vertical, (scores or {}).get(vertical, ""))
            if row == len(names) - 1:
                axes.set_xlabel(horizontal)
            if column == 0:
                axes.set_ylabel(vertical)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=150)


def _draw_pair(axes: Axes, genes: pd.DataFrame, horizontal: str, vertical: str, caption: str) -> None:
    if horizontal == vertical:
        axes.hist(genes[horizontal], bins=20, color="#9aa5ad")
        axes.set_title(f"{horizontal}\n{caption}" if caption else horizontal, fontsize=10)
        return
    axes.scatter(genes[horizontal], genes[vertical], s=10, color="#2f6f9f", alpha=0.7, linewidths=0)
