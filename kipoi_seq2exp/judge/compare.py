"""Predictions of several models of the same genes, beside each other and beside the label.

Contract: predictions as `compare_files` reads them in, one value per gene and model out. Rows are matched by gene id,
without version; where a file has other ids, by range (`_by_range` says how). Genes that a model lacks are counted and
left out for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.files import whole_file
from kipoi_seq2exp.judge.compare_files import ModelPredictions
from kipoi_seq2exp.metrics import METRICS, paired_differences, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

SAME_TSS_BP = 500


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


def compare_models(
    models: list[ModelPredictions], genes: pd.DataFrame, observed: Floats, bootstrap: int = 1_000
) -> Comparison:
    """Match predictions to genes and score them.

    Parameters
    ----------
    models : list of ModelPredictions
        The first is what the others are compared with.
    genes : DataFrame
        gene_id, chrom, tss, strand.
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
    taken = next((name for name in names if name in ("gene_id", "observed")), None)
    if taken is not None:
        raise ConfigError(f"a model cannot be called '{taken}', which is a column of the results: choose another name.")
    table = pd.DataFrame({"gene_id": genes["gene_id"], "observed": observed})
    notes = []
    for model in models:
        table[model.name], how = _matched(model, genes)
        notes.append(f"{model.name}: {int(table[model.name].notna().sum())} of {len(genes)} genes {how}")
    shared = table.dropna().reset_index(drop=True)
    notes.append(f"{len(shared)} genes have a label and a prediction of every model: these are compared")
    if len(shared) < 2:
        raise InputError(
            f"at least two genes must be in every file and have a label, found {len(shared)}: {'; '.join(notes[:-1])}."
        )
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
    chroms = sorted(set(model.table["chrom"])) if "chrom" in model.table else []
    others = {other_name(chrom, genes["chrom"].unique()) for chrom in chroms} - {None, *chroms}
    hint = f"; use one naming of the chromosomes ({chroms[0]} is {min(map(str, others))} there)" if others else ""
    raise InputError(
        f"{model.path} ({model.name}) has none of the {len(genes)} genes ({listing(genes['gene_id'])}): it names "
        f"{ids}, and {'no range holds a TSS' if chroms else 'no ranges'}{hint}."
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
    """Take, of the ranges that hold a TSS, the one in which it lies where it lies in most ranges of the file.

    Windows need not be centred (Xpresso's are [TSS - 7,000, TSS + 3,500) along the gene), and neighbours overlap: the
    place of the TSS, counted along the gene, tells a gene's own window from its neighbour's. Where no place is common,
    the middle counts. A range serves one gene, and one of its strand if it has one. Two annotations may put a TSS up to
    `SAME_TSS_BP` apart.
    """
    pairs = _pairs(table, genes)
    found = np.full(len(genes), np.nan)
    if pairs.empty:
        return found
    places = pairs["place"].value_counts()
    common = places.iloc[0] >= max(2, 0.25 * pairs["gene"].nunique())
    usual = places.index[0] if common else pairs["length"] / 2
    pairs = pairs.assign(off=(pairs["place"] - usual).abs())
    if common:
        pairs = pairs[pairs["off"] <= SAME_TSS_BP]
    pairs = pairs[pairs["off"] == pairs.groupby("row")["off"].transform("min")]
    best = pairs.loc[pairs.groupby("gene")["off"].idxmin()]
    found[best["gene"]] = table["predicted"].to_numpy(np.float64)[best["row"]]
    return found


def _pairs(table: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Return every gene and range that holds its TSS: their rows, the TSS's place along the gene, and the length."""
    by_chrom = {chrom: np.array(rows) for chrom, rows in table.groupby("chrom", sort=False).indices.items()}
    start, end = (table[name].to_numpy(np.float64) for name in ("start", "end"))
    strands = table["strand"].to_numpy(str) if "strand" in table else np.full(len(table), ".")
    parts = []
    for gene, (chrom, tss, strand) in enumerate(zip(genes["chrom"], genes["tss"], genes["strand"], strict=True)):
        rows = by_chrom.get(chrom, np.array([], dtype=int))
        holds = (start[rows] <= tss) & (tss < end[rows]) & np.isin(strands[rows], [strand, ".", "*"])
        rows = rows[holds]
        place = end[rows] - 1 - tss if strand == "-" else tss - start[rows]
        parts.append(pd.DataFrame({"gene": gene, "row": rows, "place": place, "length": end[rows] - start[rows]}))
    return pd.concat(parts, ignore_index=True)


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
    from matplotlib.text import Text

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
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a "$" in a model's name is a letter
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=150)


def _draw_pair(axes: Axes, genes: pd.DataFrame, horizontal: str, vertical: str, caption: str) -> None:
    if horizontal == vertical:
        axes.hist(genes[horizontal], bins=20, color="#9aa5ad")
        axes.set_title(f"{horizontal}\n{caption}" if caption else horizontal, fontsize=10)
        return
    axes.scatter(genes[horizontal], genes[vertical], s=10, color="#2f6f9f", alpha=0.7, linewidths=0)
