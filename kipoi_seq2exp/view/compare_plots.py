"""Pictures of a comparison: label and models against each other, and differences between cell types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 2.6  # the side of a panel
COLUMNS = 4  # of panels of differences


def plot_scatter_matrix(genes: pd.DataFrame, path: Path, scores: Mapping[str, str] | None = None) -> None:
    """Draw label and models against each other; the ending of `path` is the format.

    Parameters
    ----------
    genes : DataFrame
        The table `genes` of a `Comparison`.
    path : Path
    scores : mapping of str to str, optional
        A line under the name of each model.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    names = [name for name in genes.columns if name != "gene_id"]
    figure = _new_figure(INCHES * len(names), INCHES * len(names))
    for row, vertical in enumerate(names):
        for column, horizontal in enumerate(names):
            axes = figure.add_subplot(len(names), len(names), row * len(names) + column + 1)
            _draw_pair(axes, genes, horizontal, vertical, (scores or {}).get(vertical, ""))
            if row == len(names) - 1:
                axes.set_xlabel(horizontal)
            if column == 0 and row:
                axes.set_ylabel(vertical)
    _save(figure, path)


def plot_differences(
    differences: Mapping[tuple[str, str], NDArray[np.float64]], path: Path, captions: Sequence[str]
) -> None:
    """Draw predicted against observed differences between cell types, a panel per method and pair.

    Parameters
    ----------
    differences : mapping of (str, str) to ndarray, (2, G)
        Result of `judge.compare.compare_cells`: observed and predicted, by method and pair of labels.
    path : Path
    captions : sequence of str
        A line under the name of each, in the same order.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    columns = min(COLUMNS, len(differences))
    rows = -(-len(differences) // columns)
    figure = _new_figure(1.4 * INCHES * columns, 1.4 * INCHES * rows)
    for number, ((method, between), (observed, predicted)) in enumerate(differences.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.axhline(0, color="#d0d5d9", linewidth=0.8)
        axes.axvline(0, color="#d0d5d9", linewidth=0.8)
        axes.scatter(observed, predicted, s=10, color="#2f6f9f", alpha=0.7, linewidths=0)
        axes.set_title(f"{method}\n{captions[number]}", fontsize=10)
        axes.set_xlabel(f"observed: {between}", wrap=True)
        axes.set_ylabel("predicted difference")
    _save(figure, path)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a "$" in a model's name is a letter
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=150)


def _draw_pair(axes: Axes, genes: pd.DataFrame, horizontal: str, vertical: str, caption: str) -> None:
    if horizontal == vertical:
        axes.hist(genes[horizontal], bins=20, color="#9aa5ad")
        axes.set_ylabel("genes")
        axes.set_title(f"{horizontal}\n{caption}" if caption else horizontal, fontsize=10)
        return
    axes.scatter(genes[horizontal], genes[vertical], s=10, color="#2f6f9f", alpha=0.7, linewidths=0)
