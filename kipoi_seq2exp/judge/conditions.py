"""One prediction of each gene under several conditions, compared: errors, and how far each moves from the first.

Contract: a table of genes with a column of predictions per condition in; one row per condition out. Genes are resampled
together, so that the difference of two conditions has an interval of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.elements.find import GeneWindows
from kipoi_seq2exp.errors import counted
from kipoi_seq2exp.metrics import paired_differences, score, score_columns
from kipoi_seq2exp.prediction.run import Run
from kipoi_seq2exp.prediction.store import Predictions

Floats = NDArray[np.float64]
Rows = Iterable[dict[str, object]]
RowsOf = Callable[[int, WindowInputs], Rows]
"""Returns the rows of one gene, given its place in the predictions and its window."""

NEGLIGIBLE = 1e-3
"""Changes of log10 expression below this (0.2 % of the expression) count as none."""


def over_genes(
    run: Run,
    predictions: Predictions,
    rows_of: RowsOf,
    on_gene: Callable[[], None] | None = None,
) -> pd.DataFrame:
    """Build a table gene by gene, each window read once.

    Parameters
    ----------
    run : Run
    predictions : Predictions
        The run's predictions.
    rows_of : callable
        Of `distal.distal_rows` or `peaks.peak_rows`; gene_id is put before each row.
    on_gene : callable, optional
        Called after each gene.
    """
    windows, table = GeneWindows(run), []
    for index, gene_id in enumerate(predictions.genes["gene_id"]):
        table += [{"gene_id": gene_id, **row} for row in rows_of(index, windows[gene_id])]
        if on_gene is not None:
            on_gene()
    return pd.DataFrame(table)


def compare_conditions(
    predicted: Mapping[str, Floats], observed: Floats | None, bootstrap: int = 1_000
) -> pd.DataFrame:
    """Compare conditions with the first of them.

    Parameters
    ----------
    predicted : mapping of str to ndarray, (G,)
        Predictions of the same genes under each condition; the first is the reference.
    observed : ndarray, (G,) or None
        The label, NaN where unknown; without it only the changes of the prediction are given.
    bootstrap : int
        Resamples of the genes.

    Returns
    -------
    DataFrame
        condition, genes, mean_abs_change and max_abs_change (of the prediction, against the reference) and, where two
        genes or more have a label, each of `metrics.METRICS` and delta_mse (against the reference), all with _low and
        _high (95 %).
    """
    reference = next(iter(predicted.values()))
    known = np.zeros(len(reference), dtype=bool) if observed is None else np.isfinite(observed)
    rows = []
    for name, values in predicted.items():
        moved = np.abs(values - reference)
        row: dict[str, object] = {"condition": name, "genes": len(values)}
        row |= {"mean_abs_change": float(moved.mean()), "max_abs_change": float(moved.max())}
        if observed is not None and known.sum() > 1:
            truth = observed[known]
            change = paired_differences(truth, reference[known], values[known], bootstrap=bootstrap)["mse"]
            scores = score(truth, values[known], bootstrap=bootstrap)
            row |= score_columns({**scores, "delta_mse": change})
        rows.append(row)
    return pd.DataFrame(rows)


def condition_lines(table: pd.DataFrame) -> list[str]:
    """Lay out a comparison for the reader."""
    width = max(len(name) for name in table["condition"])
    lines = [
        f"{counted(table['genes'].iloc[0], 'gene')}; changes of log10 expression against '{table['condition'].iloc[0]}'"
    ]
    for _, row in table.iterrows():
        line = f"{row['condition']:<{width}}  mean |change| {row['mean_abs_change']:.3g}"
        if "mse" in table:
            line += (
                f"  MSE {row['mse']:.4f} [{row['mse_low']:.4f}, {row['mse_high']:.4f}]  Pearson {row['pearson']:.4f}"
            )
            line += f"  change of MSE {row['delta_mse']:+.3g}"
            line += f" [{row['delta_mse_low']:+.3g}, {row['delta_mse_high']:+.3g}]"
        lines.append(line)
    if len(table) > 1 and table["max_abs_change"].max() < NEGLIGIBLE:
        lines.append(
            f"no prediction moves by {NEGLIGIBLE:g} under any condition: to these weights they are all the same, so "
            f"the errors above favour none of them"
        )
    return lines
