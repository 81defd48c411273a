"""The picture of one gene's contributions: each source over the window, letters at one place, and the sums.

Contract: contributions in, one matplotlib figure out. A window has more bases than pixels: each panel adds up the bases
of a bin. The letters are logomaker's (the extra `interpret`).
"""

from __future__ import annotations

import textwrap
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
from kipoi_seq2exp.view.margins import fit_left, name_panel, shortened
from kipoi_seq2exp.view.plots import TEXT, TRACK_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 800
RIGHT = 0.68  # edge of the panels over the window; beside them stand the sums
LETTERS_BP = 100
LARGEST_LETTERS_BP = 400
NOTHING = 1e-12  # of the prediction: contributions below it are rounding
DNA = "DNA"
_DNA, _FEATURE, _INK, _FAINT, _CHOSEN = "#7a3e9d", "#9aa5ad", "#22303c", "#5b6770", "#d1495b"


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
    symbol : str
        Symbol of the gene, where it is known.
    """

    window: WindowInputs
    found: Contributions
    inputs: InputSpec
    letters_at: slice | None = None
    caption: str = ""
    symbol: str = ""


def letters() -> Any:
    """Return logomaker.

    Raises
    ------
    ConfigError
        If it is not installed.
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
    import matplotlib

    with matplotlib.rc_context(TEXT):
        return _draw(picture)


def _draw(picture: ContributionPicture) -> Figure:
    from matplotlib.figure import Figure

    sources = _sources(picture)
    shown = {name: source for name, source in sources.items() if np.abs(source[0]).max() > NOTHING} or sources
    place = picture.letters_at or strongest(picture.found.dna, LETTERS_BP)
    lettered = DNA in shown or picture.letters_at is not None
    tall = max(7.5, 2.6 + 0.85 * len(shown) + 2.0 * lettered)
    figure = Figure(figsize=(13.33, tall))
    below = (0.7 + 1.9 * lettered) / tall  # of the sources
    grid = figure.add_gridspec(len(shown), 1, right=RIGHT, top=1 - 1.1 / tall, bottom=below, hspace=0.4)
    panels: list[Axes] = []
    for row, (name, (values, colour)) in enumerate(shown.items()):
        panels.append(figure.add_subplot(grid[row, 0], sharex=panels[0] if panels else None))
        _draw_source(panels[-1], picture.window, values, colour, name)
        if lettered:
            edges = (picture.window.start + place.start, picture.window.start + place.stop)
            panels[-1].axvspan(*edges, color=_CHOSEN, alpha=0.3, zorder=0)
        panels[-1].tick_params(axis="x", labelbottom=row == len(shown) - 1)
    _mark_megabases(panels[-1], picture.window.chrom, "; red band: the letters below" if lettered else "")
    letters_axes = figure.add_axes((0.2, 0.7 / tall, RIGHT - 0.2, 0.75 / tall)) if lettered else None
    if letters_axes is not None:
        _draw_letters(letters_axes, picture, place)
    sums = figure.add_axes((0.72, 0.9 / tall, 0.265, 1 - 2.0 / tall))
    _draw_sums(sums, picture, sources)
    left = fit_left(figure, grid, [*panels, *([] if letters_axes is None else [letters_axes])])
    if letters_axes is not None:
        letters_axes.set_position((left, 0.7 / tall, RIGHT - left, 0.75 / tall))
    _title(figure, picture, left)
    return figure


def _sources(picture: ContributionPicture) -> dict[str, tuple[Floats, str]]:
    """Return the values of the DNA and of each track, with the colour of each."""
    sources = {DNA: (picture.found.dna, _DNA)}
    for column, name in enumerate(picture.inputs.track_names):
        sources[name] = (picture.found.tracks[:, column], TRACK_COLOURS[column % len(TRACK_COLOURS)])
    return sources


def _title(figure: Figure, picture: ContributionPicture, left: float) -> None:
    """Name the gene, and state what was explained; sources that contribute nothing have no panel."""
    window, found, inch = picture.window, picture.found, 1 / figure.get_figheight()
    gene = f"{picture.symbol} ({window.gene_id})" if picture.symbol not in ("", window.gene_id) else window.gene_id
    figure.text(left, 1 - 0.315 * inch, gene, fontsize=20, weight="bold", va="center")
    where = f"{written(window.chrom, window.start, window.end)} ({window.strand})"
    figure.text(0.985, 1 - 0.315 * inch, where, fontsize=13, ha="right", va="center")
    numbers = f"prediction {found.prediction:.3f}"
    numbers += "" if np.isnan(found.baseline) else f", baseline {found.baseline:.3f}"
    line = f"{numbers} {_unit(picture)};  {picture.caption}"
    silent = [name for name, (values, _) in _sources(picture).items() if np.abs(values).max() <= NOTHING]
    line += f";  nothing from: {', '.join(silent)}" if silent else ""
    figure.text(left, 1 - 0.68 * inch, line, fontsize=12, va="center", color=_FAINT)


def _unit(picture: ContributionPicture) -> str:
    return picture.inputs.label.partition(",")[0]


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
    axes.axvline(window.tss, color=_CHOSEN, linewidth=0.8, zorder=0)
    axes.set_xlim(window.start, window.end)
    name_panel(axes, name, f"per {int(np.diff(edges).max()):,} bp", colours=(_INK, _FAINT))
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


def _mark_megabases(axes: Axes, chrom: str, more: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:,.3f}"))
    axes.set_xlabel(f"{chrom} (Mb); red line: TSS{more}", fontsize=11)


def _draw_letters(axes: Axes, picture: ContributionPicture, place: slice) -> None:
    """Draw the letter of each base, as tall as its contribution."""
    import pandas as pd

    window = picture.window
    heights = picture.found.letters[place] * window.onehot[place]
    table = pd.DataFrame(heights, columns=list("ACGT"), index=np.arange(place.start, place.stop) + window.start)
    if np.abs(heights).max() > NOTHING:
        letters().Logo(table, ax=axes, color_scheme="classic")
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    else:
        axes.set_xlim(table.index[0], table.index[-1])
        _say_nothing(axes, DNA)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.locator_params(axis="x", nbins=5)
    name_panel(axes, DNA, "per base", colours=(_INK, _FAINT))
    axes.set_xlabel(f"{window.chrom} (bp), {place.stop - place.start:,} bases", fontsize=11)


def _draw_sums(axes: Axes, picture: ContributionPicture, sources: dict[str, tuple[Floats, str]]) -> None:
    """Draw how the prediction adds up, the name of each part above its bar."""
    found = picture.found
    bars = [(name, float(values.sum()), colour) for name, (values, colour) in sources.items()]
    names = picture.inputs.feature_names
    bars += [(names[i], float(value), _FEATURE) for i, value in enumerate(found.features) if value]
    if not np.isnan(found.baseline):
        bars.append(("not explained", found.prediction - found.baseline - sum(value for _, value, _ in bars), _FEATURE))
    axes.barh(range(len(bars)), [value for _, value, _ in bars], height=0.4, color=[colour for *_, colour in bars])
    axes.set_ylim(len(bars) - 0.5, -0.75)
    axes.set_yticks([])
    axes.axvline(0, color=_INK, linewidth=0.8)
    for row, (name, value, _) in enumerate(bars):
        place: Any = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": 11}
        place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the line of 0 stops at the words
        axes.text(0, row - 0.24, shortened(name, 30), ha="left", **place)
        axes.text(1, row - 0.24, f"{value:+.3f}", ha="right", **place)
    axes.locator_params(axis="x", nbins=3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(f"contribution to\n{textwrap.fill(_unit(picture), 24)}", fontsize=11)
