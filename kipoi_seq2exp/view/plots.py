"""The picture of a locus on one slide: genes, tracks, mask, called elements, predicted and observed expression.

Contract: a `LocusData` in, one matplotlib figure out, sized 16:9 (taller where panels would not find room) with text
that can be read from the back row; nothing is read here. More bases than pixels are drawn by bin: the maximum of a
track, the mean of the mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.data.windows import written
from kipoi_seq2exp.elements.credible import beta_quantiles
from kipoi_seq2exp.errors import ConfigError, counted
from kipoi_seq2exp.files import whole_file
from kipoi_seq2exp.prediction.tracks import TrackLine
from kipoi_seq2exp.view.locus import LocusData
from kipoi_seq2exp.view.margins import fit_left, name_panel, note_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
CREDIBLE = (0.025, 0.975)
BINS = 1_200
GENE_ROWS = 4
ROOM = 9.0  # of panel heights on a slide
AT_EDGE = 0.1  # of a panel's height
TOP_ROWS_IN, AXIS_ROW_IN = 1.05, 0.64  # title above the panels, axis below them

_INK, _FAINT, _MASK, _CALL, _TSS = "#22303c", "#9aa5ad", "#7a3e9d", "#d1495b", "#d1495b"
_FAINT_TEXT = "#5b6770"
TRACK_COLOURS = ("#2f6f9f", "#3a8f5c", "#b7791f", "#4c5a8a", "#8a4c6c")
_KINDS = ("#22303c", "#3a8f5c", "#b7791f", "#2f6f9f", "#9aa5ad", "#7a3e9d")
TEXT: Any = {
    "font.size": 13,
    "axes.labelsize": 13,
    "xtick.labelsize": 12,
    "ytick.labelsize": 11,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a "$" in a gene's or a track's name is a letter
}


def plot_locus(data: LocusData, path: Path) -> None:
    """Draw one gene and save it; the ending of `path` is the format: .png, .svg or .pdf.

    Raises
    ------
    ConfigError
        If the ending is another.
    OutputError
        If the picture cannot be written.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise ConfigError(f"{path}: a picture ends in .png, .svg or .pdf.")
    import matplotlib

    with matplotlib.rc_context(TEXT), whole_file(path) as temporary:
        figure = draw_locus(data)
        figure.savefig(temporary, format=ending, dpi=150, facecolor="white")


def draw_locus(data: LocusData) -> Figure:
    """Draw one gene; return the matplotlib figure."""
    import matplotlib

    with matplotlib.rc_context(TEXT):
        return _draw(data)


def _draw(data: LocusData) -> Figure:
    from matplotlib.figure import Figure

    panels: list[tuple[str, float]] = [("genes", 1.3)]
    panels += [("known", 0.6)] * (data.known is not None)
    panels += [("pairs", 0.8)] * (data.pairs is not None)
    panels += [(f"track {number}", 1.0) for number in range(len(data.tracks))]
    panels += [("mask", 1.7)] * (data.mask is not None)
    panels += [("effects", 1.7)] if data.effects is not None else [("elements", 0.55)] * (data.mask is not None)
    room = sum(height for _, height in panels)
    tall = 7.5 * max(1.0, room / ROOM)
    figure = Figure(figsize=(13.33, tall))
    grid = figure.add_gridspec(
        len(panels),
        2,
        width_ratios=(1, 0.1),
        height_ratios=[height for _, height in panels],
        left=0.2,
        right=0.98,
        top=1 - TOP_ROWS_IN / tall,
        bottom=AXIS_ROW_IN / tall,
        hspace=0.16,
        wspace=0.1,
    )
    first = figure.add_subplot(grid[0, 0])
    axes = {name: figure.add_subplot(grid[row, 0], sharex=first) for row, (name, _) in enumerate(panels) if row}
    axes["genes"] = first
    _draw_genes(axes["genes"], data)
    if data.known is not None:
        _draw_known(axes["known"], data, legend_above=first)
    if data.pairs is not None:
        _draw_pairs(axes["pairs"], data, data.pairs)
    for number, track in enumerate(data.tracks):
        _draw_track(axes[f"track {number}"], data, track, TRACK_COLOURS[number % len(TRACK_COLOURS)])
    if data.mask is not None:
        _draw_mask(axes["mask"], data, data.mask)
    if data.effects is not None:
        _draw_effects(axes["effects"], data, data.effects)
    elif data.mask is not None:
        _draw_elements(axes["elements"], data)
    _draw_expression(figure.add_subplot(grid[:, 1]), data)
    drawn = [axes[name] for name, _ in panels]
    _finish(drawn, data)
    _title(figure, data, fit_left(figure, grid, drawn))
    return figure


# -------------------------------------------------------------------------------------------------------- the panels


def _draw_genes(axes: Axes, data: LocusData) -> None:
    locus = data.locus
    shown = [model for model in data.models if model.coding or model.is_gene(locus.gene_id)]
    row_ends: list[float] = []
    hidden = 0
    for model in shown:
        target = model.is_gene(locus.gene_id)
        start, end = max(model.start, locus.start), min(model.end, locus.end)
        text_end = start + (locus.end - locus.start) * 0.0125 * (len(model.name) + 2)
        row = next((r for r, taken in enumerate(row_ends) if taken < start), len(row_ends))
        if row >= GENE_ROWS:
            hidden += 1
            continue
        row_ends[row : row + 1] = [max(end, text_end)]
        colour = _TSS if target else _INK
        axes.plot([start, end], [-row, -row], color=colour, linewidth=1.2, solid_capstyle="butt")
        exons = [(max(s, locus.start), min(e, locus.end)) for s, e in model.exons or ((model.start, model.end),)]
        axes.broken_barh([(s, e - s) for s, e in exons if e > s], (-row - 0.16, 0.32), color=colour)
        arrow = "\u2192" if model.strand == "+" else "\u2190"
        weight = "bold" if target else "normal"
        place, side = (start, "left") if text_end < locus.end else (end, "right")
        if target and side == "left" and 0 <= locus.tss - start < text_end - start:
            place = locus.tss + (locus.end - locus.start) // 250  # beside the arrow of the TSS
        axes.text(place, -row + 0.24, f"{model.name} {arrow}", fontsize=11, color=colour, weight=weight, ha=side)
    _draw_tss(axes, data, labelled=not any(model.is_gene(locus.gene_id) for model in shown))
    axes.set_ylim(-max(len(row_ends), 1) + 0.6, 1.2)
    axes.set_yticks([])
    _label(axes, "genes" if data.models else "TSS", f"{hidden} not drawn" if hidden else "")


def _draw_tss(axes: Axes, data: LocusData, labelled: bool) -> None:
    """Mark the TSS by a bent arrow; name the gene where no gene model does."""
    locus = data.locus
    reach = (locus.end - locus.start) * 0.025 * (-1 if locus.strand == "-" else 1)
    low, high = 0.1, 1.0
    axes.plot([locus.tss, locus.tss], [low, high], color=_TSS, linewidth=2)
    axes.annotate(
        "",
        xy=(locus.tss + reach, high),
        xytext=(locus.tss, high),
        arrowprops={"arrowstyle": "-|>", "color": _TSS, "linewidth": 2, "shrinkA": 0, "shrinkB": 0},
    )
    if labelled:
        side = "left" if reach > 0 else "right"
        axes.text(locus.tss + 1.3 * reach, high, locus.gene_id, color=_TSS, weight="bold", ha=side, va="center")


def _draw_known(axes: Axes, data: LocusData, legend_above: Axes) -> None:
    known = data.known
    assert known is not None
    kinds = sorted(known["kind"].unique())
    for number, kind in enumerate(kinds):
        rows = known[known["kind"] == kind]
        colour = _KINDS[number % len(_KINDS)]
        spans = [(max(s, data.locus.start), e - s) for s, e in zip(rows["start"], rows["end"], strict=True)]
        axes.broken_barh(_visible(spans, data), (0.2, 0.6), color=colour, label=kind.replace("_", " "))
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    _label(axes, "known")
    if len(kinds) > 1:
        handles = axes.get_legend_handles_labels()[0]
        legend_above.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            borderaxespad=0,
            ncols=len(kinds),
            frameon=False,
            fontsize=11,
        )


def _draw_pairs(axes: Axes, data: LocusData, pairs: pd.DataFrame) -> None:
    """Draw what CRISPRi tested for this gene: an arc from each element to the TSS, in colour where it regulates."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    tss, reach = data.locus.tss, max(data.locus.end - data.locus.tss, data.locus.tss - data.locus.start)
    for regulated, label in ((False, "no effect seen"), (True, "regulates the gene")):
        rows = pairs[pairs["regulated"] == regulated]
        if not len(rows):
            continue
        colour, order = (_CALL, 3) if regulated else (_FAINT, 2)
        spans = [(int(start), int(end - start)) for start, end in zip(rows["start"], rows["end"], strict=True)]
        axes.broken_barh(_visible(spans, data), (0, 0.13), color=colour, zorder=order, label=label)
        for start, length in spans:
            middle = start + length / 2
            top = 0.25 + 1.55 * min(abs(middle - tss) / reach, 1)  # a quadratic curve reaches half of it
            points = [(middle, 0.13), ((middle + tss) / 2, 0.13 + top), (tss, 0.13)]
            curve = Curve(points, [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3])
            axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=colour, linewidth=2, zorder=order))
    axes.set_ylim(0, 1.15)
    axes.set_yticks([])
    if len(pairs):
        axes.legend(loc="upper left", frameon=False, borderaxespad=0.1, fontsize=11, handlelength=1, labelspacing=0.2)
    else:
        axes.text(
            0.01, 0.5, "no pair of this gene was tested", transform=axes.transAxes, va="center", color=_FAINT_TEXT
        )
    _label(axes, "CRISPRi", f"{len(pairs)} tested")


def _draw_track(axes: Axes, data: LocusData, track: TrackLine, colour: str) -> None:
    position, values = _binned(data, track.values, np.maximum)
    contact = track.spec.kind is TrackKind.CONTACT
    if contact and (values > 0).any():
        low = float(values[values > 0].min())
        axes.fill_between(position, low, np.maximum(values, low), step="mid", color=colour, linewidth=0)
        axes.set_yscale("log")
        axes.set_yticks([low, float(values.max())], [f"{low:.2g}", f"{values.max():.2g}"])
        axes.set_yticks([], minor=True)
    else:
        axes.fill_between(position, 0, values, step="mid", color=colour, linewidth=0)
        axes.set_ylim(0, _highest(data, track.values) * 1.05)
        axes.locator_params(axis="y", nbins=2)
    _outer_ticks_inside(axes)
    _shade_blacklist(axes, data)
    unit = note_lines(track.spec.unit.partition(" (")[0])
    _label(axes, track.spec.name, f"{unit}\nlog scale".strip() if axes.get_yscale() == "log" else unit)


def _highest(data: LocusData, values: NDArray[np.float32]) -> float:
    """Highest value outside the blacklist, whose artefacts would flatten everything else."""
    trusted = values if data.blacklist is None or data.blacklist.all() else values[~data.blacklist]
    return max(float(trusted.max()), 1e-9)


def _shade_blacklist(axes: Axes, data: LocusData) -> None:
    if data.blacklist is None:
        return
    edges = np.flatnonzero(np.diff(data.blacklist.astype(np.int8), prepend=0, append=0)) + data.locus.start
    for start, end in edges.reshape(-1, 2):
        axes.axvspan(start, end, facecolor="white", edgecolor=_FAINT, hatch="////", linewidth=0, zorder=3)


def _draw_mask(axes: Axes, data: LocusData, mask: NDArray[np.float32]) -> None:
    position, mean = _binned(data, mask, np.add)
    inside = slice(data.promoter.start + data.locus.start, data.promoter.stop + data.locus.start)
    axes.axvspan(inside.start, inside.stop, color=_TSS, alpha=0.15, linewidth=0)
    if data.concentrations is not None:
        parameters = [_binned(data, values, np.add)[1] for values in data.concentrations]
        low, high = beta_quantiles(parameters[0], parameters[1], CREDIBLE)
        axes.fill_between(position, low, high, step="mid", color=_MASK, alpha=0.25, linewidth=0, label="95 % credible")
    else:
        axes.fill_between(position, 0, mean, step="mid", color=_MASK, alpha=0.25, linewidth=0)
    axes.plot(position, mean, color=_MASK, linewidth=1.1, label="mean")
    if data.threshold is not None and data.threshold <= 1:
        axes.axhline(
            data.threshold, color=_CALL, linestyle="--", linewidth=1.1, label=f"called at {data.threshold:.2g}"
        )
    axes.set_ylim(0, 1.42)
    axes.set_yticks([0, 0.5, 1])
    _outer_ticks_inside(axes)
    axes.legend(loc="upper left", ncols=3, frameon=False, borderaxespad=0.1, fontsize=11).set_zorder(5)
    _shade_blacklist(axes, data)
    _label(axes, "mask", "probability\nkept")


def _draw_elements(axes: Axes, data: LocusData) -> None:
    spans = [(s, e - s) for s, e in zip(data.elements["start"], data.elements["end"], strict=True)]
    least = (data.locus.end - data.locus.start) / BINS  # so that a short element is visible
    axes.broken_barh([(start, max(length, least)) for start, length in spans], (0.2, 0.6), color=_CALL, linewidth=0)
    promoter = data.promoter
    axes.broken_barh(
        [(data.locus.start + promoter.start, promoter.stop - promoter.start)],
        (0.2, 0.6),
        facecolor="none",
        edgecolor=_FAINT,
        linewidth=1,
    )
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    _label(axes, "elements", f"{len(spans)} called")


def _draw_effects(axes: Axes, data: LocusData, effects: pd.DataFrame) -> None:
    """Draw the effect of each perturbed site, as wide as the site; sites that lower expression are the drivers."""
    least = (data.locus.end - data.locus.start) / BINS
    width = np.maximum(effects["end"] - effects["start"], least)
    delta = effects["delta_expression"].to_numpy(np.float64)
    axes.bar(effects["start"], delta, width=width, align="edge", color=np.where(delta < 0, _CALL, _FAINT), alpha=0.6)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.locator_params(axis="y", nbins=3)
    axes.margins(y=0.1)
    _outer_ticks_inside(axes)
    _label(axes, "perturbed", f"{counted(len(effects), 'site')}\nchange of\n{data.unit}")


def _draw_expression(axes: Axes, data: LocusData) -> None:
    bars = [("pred.", data.predicted, _MASK)]
    bars += [("obs.", data.observed, _INK)] if data.observed is not None else []
    for place, (_, value, colour) in enumerate(bars):
        axes.bar(place, value, width=0.7, color=colour)
        axes.annotate(
            f"{value:.2f}",
            (place, max(value, 0)),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=11,
            weight="bold",
        )
    values = [value for _, value, _ in bars]
    axes.set_ylim(min(0, *values) * 1.15 if len(values) > 1 else min(0, values[0]) * 1.15, max(1, *values, 0) * 1.12)
    axes.set_xlim(-0.6, len(bars) - 0.4)
    axes.set_xticks(range(len(bars)), [name for name, _, _ in bars], fontsize=11)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.set_title(f"expression\n{data.unit}", fontsize=12, loc="right")
    axes.tick_params(axis="y", labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)


# ------------------------------------------------------------------------------------------------------------- parts


def _finish(panels: list[Any], data: LocusData) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    locus = data.locus
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvline(locus.tss, color=_TSS, linewidth=0.8, alpha=0.5, zorder=0)
        axes.tick_params(axis="x", labelbottom=axes is panels[-1], length=3 if axes is panels[-1] else 0)
    panels[0].set_xlim(locus.start, locus.end)
    panels[-1].xaxis.set_major_locator(MaxNLocator(6))
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:,.3f}"))
    panels[-1].set_xlabel(f"{locus.chrom} (Mb)")


def _title(figure: Figure, data: LocusData, left: float) -> None:
    locus, inch = data.locus, 1 / figure.get_figheight()
    name = next((m.name for m in data.models if m.is_gene(locus.gene_id)), "") or data.symbol
    title = f"{name} ({locus.gene_id})" if name not in ("", locus.gene_id) else locus.gene_id
    where = f"{written(locus.chrom, locus.start, locus.end)} ({locus.strand})"
    figure.text(left, 1 - 0.315 * inch, title, fontsize=20, weight="bold", va="center")
    figure.text(0.875, 1 - 0.315 * inch, where, fontsize=13, ha="right", va="center")
    figure.text(0.875, 1 - 0.615 * inch, data.caption, fontsize=11, ha="right", va="center", color=_FAINT_TEXT)


def _label(axes: Axes, text: str, note: str = "") -> None:
    name_panel(axes, text, note, colours=(_INK, _FAINT_TEXT))


def _outer_ticks_inside(axes: Axes) -> None:
    """Keep tick labels at the edge of a panel inside it, away from the neighbouring panel."""
    low, high = sorted(axes.get_ylim())
    ticks = [float(tick) for tick in axes.get_yticks() if low <= tick <= high]
    axes.set_yticks(ticks, axes.yaxis.get_major_formatter().format_ticks(ticks))
    heights = axes.transAxes.inverted().transform(axes.transData.transform([(0, tick) for tick in ticks]))[:, 1]
    for text, height in zip(axes.get_yticklabels(), heights, strict=True):
        text.set_verticalalignment("bottom" if height < AT_EDGE else "top" if height > 1 - AT_EDGE else "center")


def _binned(data: LocusData, values: NDArray[np.floating], combine: np.ufunc) -> tuple[Any, NDArray[np.float64]]:
    """Summarise the bases of each of at most `BINS` bins: their maximum, or their mean for `np.add`."""
    edges = np.unique(np.linspace(0, len(values), min(BINS, len(values)) + 1).astype(np.int64))
    summary = combine.reduceat(values.astype(np.float64), edges[:-1])
    if combine is np.add:
        summary = summary / np.diff(edges)
    return data.locus.start + (edges[:-1] + edges[1:]) / 2, summary


def _visible(spans: list[tuple[int, int]], data: LocusData) -> list[tuple[int, int]]:
    least = (data.locus.end - data.locus.start) // BINS
    return [(start, max(length, least)) for start, length in spans]
