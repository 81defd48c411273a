"""The picture of one gene's contributions: each source over the window, letters at one place, and the sums.

Contract: contributions in, one matplotlib figure out. A window has more bases than pixels: the panels add up the bases
of each bin. The letters are logomaker's (the extra `interpret`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kipoi_seq2exp.config import InputSpec
from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.data.windows import written
from kipoi_seq2exp.effects.contributions import Contributions, Floats
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.files import whole_file
from kipoi_seq2exp.view.plots import TEXT, TRACK_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 800
LETTERS_BP = 100
LARGEST_LETTERS_BP = 400
NOTHING = 1e-12  # of the prediction: contributions below it are rounding
_DNA, _FEATURE, _INK = "#7a3e9d", "#9aa5ad", "#22303c"


@dataclass(frozen=True)
class ContributionPicture:
    """What is drawn.

    Attributes
    ----------
    window : WindowInputs
    found : Contributions
    inputs : InputSpec
        Names of tracks and features, and what the expression is.
    letters_at : slice or None
        Bases of the window whose letters are drawn; by default the `LETTERS_BP` where the DNA contributes most.
    caption : str
    """

    window: WindowInputs
    found: Contributions
    inputs: InputSpec
    letters_at: slice | None = None
    caption: str = ""


def letters() -> Any:
    """Return logomaker.

    Raises
    ------
    ConfigError
        If it is missing.
    """
    try:
        import logomaker
    except ImportError:
        raise ConfigError("letters need logomaker: pip install 'kipoi-seq2exp[interpret]'.") from None
    return logomaker


def plot_contributions(picture: ContributionPicture, path: Path) -> None:
    """Draw a picture and save it; the ending of `path` is the format.

    Raises
    ------
    ConfigError
        If logomaker is missing.
    OutputError
        If the picture cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context(TEXT), whole_file(path) as temporary:
        figure = draw_contributions(picture)
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=150, facecolor="white")


def draw_contributions(picture: ContributionPicture) -> Figure:
    """Draw one gene; return the matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    place = picture.letters_at or strongest(picture.found.dna, LETTERS_BP)
    sources = {"DNA": (picture.found.dna, _DNA)}
    for column, name in enumerate(picture.inputs.track_names):
        sources[name] = (picture.found.tracks[:, column], TRACK_COLOURS[column % len(TRACK_COLOURS)])
    figure = Figure(figsize=(13.33, 7.5), layout=ConstrainedLayoutEngine(h_pad=0.02, hspace=0.0))
    grid = figure.add_gridspec(len(sources) + 1, 2, width_ratios=(1, 0.28), height_ratios=[1] * len(sources) + [1.3])
    panels: list[Axes] = []
    for row, (name, (values, colour)) in enumerate(sources.items()):
        panels.append(figure.add_subplot(grid[row, 0], sharex=panels[0] if panels else None))
        _draw_source(panels[-1], picture.window, values, colour, name)
        panels[-1].axvspan(
            picture.window.start + place.start, picture.window.start + place.stop, color="#d1495b", alpha=0.3, zorder=0
        )
        panels[-1].tick_params(axis="x", labelbottom=row == len(sources) - 1)
    _mark_megabases(panels[-1], picture.window.chrom)
    _draw_letters(figure.add_subplot(grid[len(sources), 0]), picture, place)
    _draw_sums(figure.add_subplot(grid[:, 1]), picture, sources)
    window = picture.window
    strand = f"{written(window.chrom, window.start, window.end)} ({window.strand})"
    figure.suptitle(
        f"{window.gene_id.replace('$', chr(92) + '$')}   {strand}", fontsize=15, weight="bold", x=0.01, ha="left"
    )
    return figure


def strongest(values: Floats, length: int) -> slice:
    """Return the `length` bases, all within the window, that have the largest sum of absolute values."""
    total = np.concatenate([[0.0], np.cumsum(np.abs(values))])
    start = int((total[length:] - total[:-length]).argmax())
    return slice(start, start + length)


def _draw_source(axes: Axes, window: WindowInputs, values: Floats, colour: str, name: str) -> None:
    edges = np.unique(np.linspace(0, len(values), min(BINS, len(values)) + 1).astype(np.int64))
    sums = np.add.reduceat(values, edges[:-1])
    middle = window.start + (edges[:-1] + edges[1:]) / 2
    axes.fill_between(middle, 0, sums, step="mid", color=colour, linewidth=0)
    axes.axhline(0, color=_INK, linewidth=0.6)
    axes.axvline(window.tss, color="#d1495b", linewidth=0.8, zorder=0)
    axes.set_xlim(window.start, window.end)
    axes.set_ylabel(f"{name}\nper {int(np.diff(edges).max()):,} bp", fontsize=11)
    if np.abs(values).max() > NOTHING:
        axes.locator_params(axis="y", nbins=3)
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
        axes.margins(y=0.15)
    else:
        _say_nothing(axes, name)
    axes.spines[["top", "right"]].set_visible(False)


def _say_nothing(axes: Axes, name: str) -> None:
    """Mark a panel whose values are all zero: rounding would fill its axis otherwise."""
    axes.set_ylim(-1, 1)
    axes.set_yticks([0])
    axes.text(0.5, 0.75, f"{name} contributes nothing here", transform=axes.transAxes, ha="center", va="center")


def _mark_megabases(axes: Axes, chrom: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:,.3f}"))
    axes.set_xlabel(f"{chrom} (Mb); red line: TSS; red band: the letters below", fontsize=11)


def _draw_letters(axes: Axes, picture: ContributionPicture, place: slice) -> None:
    """Draw each base's own letter, as high as its contribution."""
    import pandas as pd

    window = picture.window
    heights = picture.found.letters[place] * window.onehot[place]
    table = pd.DataFrame(heights, columns=list("ACGT"), index=np.arange(place.start, place.stop) + window.start)
    if np.abs(heights).max() > NOTHING:
        letters().Logo(table, ax=axes, color_scheme="classic")
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    else:
        axes.set_xlim(table.index[0], table.index[-1])
        _say_nothing(axes, "DNA")
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylabel("DNA\nper base", fontsize=11)
    axes.set_xlabel(f"{window.chrom} (bp), {place.stop - place.start:,} bases", fontsize=11)


def _draw_sums(axes: Axes, picture: ContributionPicture, sources: dict[str, tuple[Floats, str]]) -> None:
    """Draw how the prediction adds up."""
    bars = [(name, float(values.sum()), colour) for name, (values, colour) in sources.items()]
    names = picture.inputs.feature_names
    bars += [(names[i], float(value), _FEATURE) for i, value in enumerate(picture.found.features) if value]
    places = range(len(bars))
    axes.barh(places, [value for _, value, _ in bars], color=[colour for *_, colour in bars])
    axes.set_yticks(places, [name for name, *_ in bars], fontsize=10)
    axes.invert_yaxis()
    axes.axvline(0, color=_INK, linewidth=0.8)
    for row, (_, value, _) in enumerate(bars):
        axes.annotate(
            f"{value:+.3f}", (max(value, 0), row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.margins(x=0.25)
    axes.locator_params(axis="x", nbins=3)
    axes.spines[["top", "right"]].set_visible(False)
    unit = picture.inputs.label.partition(",")[0]
    axes.set_xlabel(f"contribution to\n{unit}", fontsize=11, wrap=True)
    found = picture.found
    heading = f"prediction {found.prediction:.3f}"
    heading += "" if np.isnan(found.baseline) else f"\nbaseline {found.baseline:.3f}"
    axes.set_title(f"{heading}\n{picture.caption}", fontsize=10, loc="left")
