"""Predictions of several models for the same genes, beside each other and beside the label.

Contract: predictions as `compare_files` reads them in, one value per gene and model out. Rows are matched by gene id,
without version; where a file has other ids, by range (`_by_range` says how). Genes that a model lacks are counted and
left out for all. Each model is judged on its own label. Three kinds of correlation answer different questions and are
kept apart: across genes (of a model), of differences between two cell types (across genes), and across cell types (of a
gene).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.errors import ConfigError, InputError, counted
from kipoi_seq2exp.judge.compare_files import ModelPredictions
from kipoi_seq2exp.metrics import (
    MIN_GENES,
    mean_score,
    paired_differences,
    row_correlations,
    score,
    score_columns,
    too_few_genes,
)

Floats = NDArray[np.float64]

SAME_TSS_BP = 500
"""Fewer genes give no interval: resamples of so few say little about other genes."""
MIN_CELLS = 3
"""Fewer cell types give no correlation across them: for two it is 1 or -1."""
ACROSS_CELLS = "across cell types"


@dataclass(frozen=True)
class Label:
    """What a model is judged on.

    Attributes
    ----------
    name : str
        Column of the gene table, or the cell type.
    values : ndarray, (G,)
        NaN where unknown.
    """

    name: str
    values: Floats


@dataclass(frozen=True)
class Comparison:
    """The comparison of several models.

    Attributes
    ----------
    genes : DataFrame
        gene_id, the observed values ("observed", or "observed_LABEL" of each label where there are several), and a
        column per model: the genes that have all of them.
    scores : DataFrame
        A row per model: label, genes, each of `metrics.METRICS` across genes, and its difference to the first model
        (delta_...), all with _low and _high (95 % bootstrap intervals over the genes, the same resamples for all; NaN
        below `MIN_GENES` genes).
    notes : tuple of str
        How rows were matched and what was left out.
    observed : mapping of str to str
        The column of the observed values of each model.
    """

    genes: pd.DataFrame
    scores: pd.DataFrame
    notes: tuple[str, ...]
    observed: Mapping[str, str]


def compare_models(
    models: Sequence[ModelPredictions],
    genes: pd.DataFrame,
    observed: Floats | Mapping[str, Label],
    bootstrap: int = 1_000,
) -> Comparison:
    """Match predictions to genes and score them.

    Parameters
    ----------
    models : sequence of ModelPredictions
        The first is what the others are compared with.
    genes : DataFrame
        gene_id, chrom, tss, strand.
    observed : ndarray, (G,), or mapping of str to Label
        Label of each gene, NaN where unknown; or the label of each model.
    bootstrap : int
        Resamples of the genes; 0 gives no intervals.

    Raises
    ------
    InputError
        If a file has none of the genes, or fewer than two genes are in all of them.
    ConfigError
        If two models have the same name.
    """
    labels = observed if isinstance(observed, Mapping) else {m.name: Label("observed", observed) for m in models}
    several = len({label.name for label in labels.values()}) > 1
    columns = {m.name: f"observed_{labels[m.name].name}" if several else "observed" for m in models}
    _check_names([model.name for model in models], ["gene_id", *columns.values()])
    table = pd.DataFrame({"gene_id": genes["gene_id"]})
    for name, column in columns.items():
        table[column] = labels[name].values
    notes = []
    for model in models:
        table[model.name], how = _matched(model, genes)
        notes.append(f"{model.name}: {int(table[model.name].notna().sum())} of {counted(len(genes), 'gene')} {how}")
    shared = table.dropna().reset_index(drop=True)
    what = f"{counted(len(shared), 'gene')} with a label and a prediction of every model"
    if len(shared) < 2:
        raise InputError(
            f"at least two genes must be in every file and have a label, found {len(shared)}: {'; '.join(notes)}."
        )
    notes.append(f"compared: {what}")
    if bootstrap and (few := too_few_genes(len(shared))):
        notes.append(few)
        bootstrap = 0
    first = shared[[columns[models[0].name], models[0].name]].to_numpy(np.float64).T
    rows = []
    for name, column in columns.items():
        here = shared[[column, name]].to_numpy(np.float64).T
        row: dict[str, object] = {"model": name, "label": labels[name].name, "genes": len(shared)}
        rows.append(row | _scored(here, first, bootstrap))
    return Comparison(shared, pd.DataFrame(rows), tuple(notes), columns)


def _check_names(names: list[str], taken: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two models are called '{twice}': give names as NAME=FILE.")
    wrong = next((name for name in names if name in taken), None)
    if wrong is not None:
        raise ConfigError(f"a model cannot be called '{wrong}', which is a column of the results: choose another name.")


def _scored(here: Floats, first: Floats, bootstrap: int) -> dict[str, float]:
    """Score observed and predicted values, (2, G), and their change against the first ones."""
    changes = paired_differences([first[0], here[0]], first[1], here[1], bootstrap=bootstrap)
    scores = score(here[0], here[1], bootstrap=bootstrap)
    return score_columns({**scores, **{f"delta_{name}": change for name, change in changes.items()}})


def compare_cells(
    comparison: Comparison, methods: Mapping[str, Sequence[str]], bootstrap: int = 1_000
) -> tuple[pd.DataFrame, dict[tuple[str, str], Floats]]:
    """Judge how methods predict the differences between cell types.

    Parameters
    ----------
    comparison : Comparison
    methods : mapping of str to sequence of str
        The models that make up each method, one per cell type with its own label.
    bootstrap : int
        Resamples of the genes; 0 gives no intervals.

    Returns
    -------
    scores : DataFrame
        A row per method and pair of cell types: method, between ("A - B", labels), genes, and `metrics.METRICS` of the
        predicted against the observed differences across genes. Where there are `MIN_CELLS` cell types, also a row
        with between = `ACROSS_CELLS`: mean over the genes of the correlations across cell types (genes whose label or
        prediction is the same everywhere have none). All with _low and _high.
    differences : dict
        Observed and predicted differences, (2, G), by method and between.

    Raises
    ------
    ConfigError
        If a method has fewer than two models, an unknown one, or two with the same label.
    """
    table = comparison.genes
    bootstrap = bootstrap if len(table) >= MIN_GENES else 0
    rows: list[dict[str, object]] = []
    differences: dict[tuple[str, str], Floats] = {}
    for method, names in methods.items():
        labels = _labels_of(method, names, comparison)
        truth = table[[comparison.observed[name] for name in names]].to_numpy(np.float64)
        guess = table[list(names)].to_numpy(np.float64)
        for one, two in combinations(range(len(names)), 2):
            between = f"{labels[one]} - {labels[two]}"
            pair = np.stack([values[:, one] - values[:, two] for values in (truth, guess)])
            differences[method, between] = pair
            row: dict[str, object] = {"method": method, "between": between, "genes": len(table)}
            rows.append(row | score_columns(score(pair[0], pair[1], bootstrap=bootstrap)))
        if len(names) >= MIN_CELLS:
            found = dict(zip(("pearson", "spearman"), row_correlations(truth, guess), strict=True))
            row = {"method": method, "between": ACROSS_CELLS, "genes": int(np.isfinite(found["pearson"]).sum())}
            rows.append(row | score_columns({name: mean_score(values, bootstrap) for name, values in found.items()}))
    return pd.DataFrame(rows), differences


def _labels_of(method: str, names: Sequence[str], comparison: Comparison) -> list[str]:
    """Return the labels of the models of a method, which must all differ."""
    unknown = next((name for name in names if name not in comparison.observed), None)
    if unknown is not None:
        raise ConfigError(f"the method '{method}' names the model '{unknown}', which is not compared.")
    labels = comparison.scores.set_index("model")["label"].astype(str)
    found = [labels[name] for name in names]
    if len(names) < 2 or len(set(found)) < len(found):
        raise ConfigError(
            f"the method '{method}' needs two models or more, each with the label of its own cell type; it has "
            f"{', '.join(f'{name} ({label})' for name, label in zip(names, found, strict=True))}."
        )
    return found


def _matched(model: ModelPredictions, genes: pd.DataFrame) -> tuple[Floats, str]:
    """Return the prediction of each gene, NaN where there is none, and how they were matched."""
    tss = genes["tss"].to_numpy(np.int64)
    note = f"; {model.note}" if model.note else ""
    if "gene_id" in model.table:
        rows = _by_id(model, genes)
        if (rows >= 0).any():
            return model.of_genes(rows, tss), f"by gene id{note}"
    if "chrom" in model.table:
        rows = _by_range(model.table, genes)
        if (rows >= 0).any():
            return model.of_genes(rows, tss), f"by range{note}"
    ids = listing(model.table["gene_id"]) if "gene_id" in model.table else "no gene ids"
    chroms = sorted(set(model.table["chrom"])) if "chrom" in model.table else []
    others = {other_name(chrom, genes["chrom"].unique()) for chrom in chroms} - {None, *chroms}
    hint = f"; use one naming of the chromosomes ({chroms[0]} is {min(map(str, others))} there)" if others else ""
    raise InputError(
        f"{model.path} ({model.name}) has none of the {counted(len(genes), 'gene')} ({listing(genes['gene_id'])}): it "
        f"names {ids}, and {'no range holds a TSS' if chroms else 'no ranges'}{hint}."
    )


def _by_id(model: ModelPredictions, genes: pd.DataFrame) -> NDArray[np.int64]:
    """Return the row of each gene's id, -1 where there is none."""
    values = model.table["predicted"].to_numpy(np.float64)[:, None] if model.bins is None else model.bins
    place: dict[str, int] = {}
    for row, gene in enumerate(str(gene).split(".")[0] for gene in model.table["gene_id"]):
        if not np.array_equal(values[place.setdefault(gene, row)], values[row]):
            raise InputError(f"{model.path} has two predictions of the gene '{gene}': keep one.")
    return np.array([place.get(str(gene).split(".")[0], -1) for gene in genes["gene_id"]], dtype=np.int64)


def _by_range(table: pd.DataFrame, genes: pd.DataFrame) -> NDArray[np.int64]:
    """Return the row of each gene, -1 where there is none.

    Of the ranges that hold a TSS, it is the one in which the TSS has the same place as in most ranges of the file.
    Windows need not be centred (Xpresso's are [TSS - 7,000, TSS + 3,500) along the gene), and neighbours overlap: the
    place of the TSS, counted along the gene, tells a gene's own window from its neighbour's. Where no place is common,
    the middle counts. A range serves one gene, of the range's strand if it has one. Two annotations may put a TSS up to
    `SAME_TSS_BP` apart.
    """
    pairs = _pairs(table, genes)
    found = np.full(len(genes), -1, dtype=np.int64)
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
    found[best["gene"]] = best["row"]
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
    """Lay out the scores of models across genes; MSE compares only models of the same unit."""
    width = max(len(name) for name in scores["model"])
    lines = []
    for number, row in scores.iterrows():
        text = f"{row['model']:<{width}}"
        for metric in ("pearson", "spearman", "mse"):
            text += f"  {metric} {_with_interval(row, metric)}"
            if number:
                text += f" ({_with_interval(row, f'delta_{metric}', '+')})"
        lines.append(text)
    return lines


def cell_lines(scores: pd.DataFrame) -> list[str]:
    """Lay out the scores of differences between cell types and across them."""
    lines = []
    for _, row in scores.iterrows():
        text = f"{row['method']}, {row['between']}, {counted(int(row['genes']), 'gene')}:"
        lines.append(text + "".join(f"  {metric} {_with_interval(row, metric)}" for metric in ("pearson", "spearman")))
    return lines


def _with_interval(row: pd.Series, name: str, sign: str = "") -> str:
    if not np.isfinite(row[name]):
        return "undefined"
    text = f"{row[name]:{sign}.4f}"
    if np.isfinite(row[f"{name}_low"]):
        text += f" [{row[f'{name}_low']:{sign}.4f}, {row[f'{name}_high']:{sign}.4f}]"
    return text
