"""Pictures of a run: the curves of its metrics, and predictions against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kipoi_seq2exp.errors import counted
from kipoi_seq2exp.files import whole_file
from kipoi_seq2exp.metrics import Score

PANELS = (  # what is drawn together, and what its y-axis is
    (("train_prediction", "validation_mse"), "error loss (training),\nMSE (validation)"),
    (("train_kl",), "KL term, nats"),
    (("validation_pearson",), "Pearson, validation"),
    (("learning_rate",), "learning rate"),
)


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw metrics.csv to a PNG, one panel per kind of figure that the run has."""
    panels = []
    for names, label in PANELS:
        curves = {
            name: [(row["step"], row[name]) for row in rows if np.isfinite(row.get(name, np.nan))] for name in names
        }
        if any(curves.values()):
            panels.append((label, {name: points for name, points in curves.items() if points}))
    columns = min(2, max(1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure, axes = _figure(lines, columns, (4.5 * columns, 3.0 * lines))
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (label, curves) in zip(axes.flat, panels, strict=False):
        for name, points in curves.items():
            axis.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
        axis.set(xlabel="optimiser step", ylabel=label)
        axis.legend()
    _save(figure, path)


def draw_scatter(
    observed: npt.NDArray[Any], predicted: npt.NDArray[Any], scores: Mapping[str, Score], path: Path, label: str
) -> None:
    """Draw predictions against labels to a PNG; the title gives the scores."""
    figure, axes = _figure(1, 1, (5, 5))
    axis = axes.flat[0]
    axis.scatter(observed, predicted, s=14, alpha=0.6)
    ends = [float(min(np.min(observed), np.min(predicted))), float(max(np.max(observed), np.max(predicted)))]
    axis.plot(ends, ends, color="grey", linewidth=1)
    axis.set(
        xlabel=f"observed: {label}",
        ylabel="predicted",
        title=f"{counted(len(observed), 'gene')}, Pearson {scores['pearson'].value:.3f}, MSE {scores['mse'].value:.3f}",
    )
    axis.xaxis.label.set_wrap(True)
    _save(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Make a figure that needs no screen and leaves matplotlib's own state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a "$" in the name of a label is a letter
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=120)
