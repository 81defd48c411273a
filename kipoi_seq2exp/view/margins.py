"""Room at the left of a figure's panels: names of panels and ticks are measured, then placed, so that none is cut.

Contract: a panel's name is drawn by `name_panel` while the figure is built; `fit_left` places all of them once every
tick is set. Letters keep a size that can be read from the back row; a name that is too long loses its middle.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

NAME_SIZE, NOTE_SIZE = 14, 11  # points
LINE = 15  # points from line to line
NOTE_LETTERS, NOTE_LINES = 18, 2
LARGEST = 0.24  # of the figure's width
_GAP, _EDGE = 6, 6  # points between ticks and names, and between names and the edge
PANEL_NAME = "panel name"  # gid of the texts that are placed


def name_panel(axes: Axes, text: str, note: str = "", *, colours: tuple[str, str]) -> None:
    """Name a panel to its left; the note, in small letters, stands below."""
    lines = note.split("\n") if note else []
    place: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "va": "center"}
    for number, line in enumerate([text, *lines]):
        size, colour = (NAME_SIZE, colours[0]) if number == 0 else (NOTE_SIZE, colours[1])
        drop = LINE / 2 * len(lines) - LINE * number
        axes.annotate(line, (0, 0.5), xytext=(0, drop), fontsize=size, color=colour, gid=PANEL_NAME, **place)


def note_lines(text: str) -> str:
    """Break a note into lines of `NOTE_LETTERS`; what needs more than `NOTE_LINES` ends in dots."""
    return textwrap.fill(text, NOTE_LETTERS, max_lines=NOTE_LINES, placeholder=" ...")


def shortened(text: str, letters: int) -> str:
    """Return a text cut to a number of letters; a longer one loses its middle."""
    if len(text) <= letters:
        return text
    return f"{text[: letters // 2]}\u2026{text[len(text) - (letters - 1) // 2 :]}"


def fit_left(figure: Figure, grid: GridSpec, panels: Sequence[Axes]) -> float:
    """Place the names of panels beside their ticks and give both the room that they need.

    Parameters
    ----------
    figure : Figure
    grid : GridSpec
        Of the panels; its left edge is moved.
    panels : sequence of Axes
        The panels whose left edge that is.

    Returns
    -------
    float
        The panels' left edge, as a fraction of the figure's width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    points, width = 72 / figure.dpi, figure.get_figwidth() * 72

    def ticks_of(axes: Axes) -> float:
        labels = [text.get_window_extent(renderer) for text in axes.get_yticklabels() if text.get_text()]
        return (axes.get_window_extent(renderer).x0 - min(box.x0 for box in labels)) * points if labels else 0.0

    ticks = max(map(ticks_of, panels)) + _GAP
    names: list[Any] = [text for axes in panels for text in axes.texts if text.get_gid() == PANEL_NAME]
    room = LARGEST * width - ticks - _EDGE
    for text in names:
        whole = text.get_text()
        for letters in range(len(whole) - 1, 2, -1):
            if text.get_window_extent(renderer).width * points <= room:
                break
            text.set_text(shortened(whole, letters))
    widest = max(text.get_window_extent(renderer).width for text in names) * points
    for text in names:
        text.xyann = (-ticks, text.xyann[1])
    left: float = (ticks + widest + _EDGE) / width
    grid.update(left=left)
    for axes in figure.axes:  # `update` moves those of pyplot's figures alone
        if (place := axes.get_subplotspec()) is not None:
            axes.set_position(place.get_position(figure))
    return left
