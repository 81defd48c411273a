"""What signal tracks look like over genes, noted at training and compared at prediction.

Two numbers reveal most mistakes: the share of a window that has any signal at all (called peaks cover little of it,
coverage nearly all) and the mean of that signal (its unit, its depth). Tracks that were swapped, or an assay or a unit
that the weights never saw, move at least one of them far away.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import RANGE_LEVELS, TrackKind, TrackRange, TrackSpec
from kipoi_seq2exp.data.dataset import WindowDataset

log = logging.getLogger(__name__)
LOOKED_AT = 256  # training windows that a range is made from
COMPARED = 64  # windows of a gene set that are compared with a range
FEW = 5  # genes below which one unusual gene must not raise a warning
_DIGITS = 6

Place = tuple[WindowDataset, int]


def noted_ranges(tracks: Sequence[TrackSpec], places: Sequence[Place], window_bp: int) -> tuple[TrackSpec, ...]:
    """Return the tracks with what each looks like over windows.

    Parameters
    ----------
    tracks : sequence of TrackSpec
    places : sequence of (WindowDataset, int)
        Genes: their data set, and their row in it.
    window_bp : int
        Length of the windows that are looked at, centred on the TSS.

    Returns
    -------
    tuple of TrackSpec
        As `tracks`. Contacts, and a track without any signal in these windows, have no range.
    """
    noted = []
    for spec in tracks:
        found = None
        if spec.kind is TrackKind.BIGWIG:
            covered, height = _shapes(spec.name, places, window_bp)
            if not np.isnan(height).all():
                found = TrackRange(_quantiles(covered), _quantiles(height))
        noted.append(dataclasses.replace(spec, training=found))
    return tuple(noted)


def far_tracks(dataset: WindowDataset) -> list[str]:
    """Return a sentence for each track of a data set that looks unlike that track in the training genes.

    The median over the genes (at most `COMPARED` of them are read) is compared with the middle 90 % of the training
    genes; with fewer than `FEW` genes, with the middle 98 %. Weights that note no ranges give no sentence.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), COMPARED)).astype(int))
    places = [(dataset, int(row)) for row in rows]
    levels = (0.05, 0.95) if len(dataset) >= FEW else (0.01, 0.99)
    return [
        sentence
        for spec in dataset.inputs.tracks
        if spec.training is not None and not _stood_in_for(spec, dataset)
        for sentence in _compare(spec, spec.training, places, levels)
    ]


def _stood_in_for(spec: TrackSpec, dataset: WindowDataset) -> bool:
    """Whether another track's file is read in place of this one, so that it is meant to look different."""
    return bool(spec.stand_in) and (dataset.tracks[spec.name].description == dataset.tracks[spec.stand_in].description)


def warn_of_inputs(dataset: WindowDataset) -> None:
    """Log what users should know about their inputs: features that were filled, tracks unlike those of the training."""
    filled = dataset.features.filled_line()
    for sentence in [*([filled] if filled else []), *far_tracks(dataset)]:
        log.warning("%s", sentence)


def _compare(spec: TrackSpec, training: TrackRange, places: Sequence[Place], levels: tuple[float, float]) -> list[str]:
    covered, height = _shapes(spec.name, places, places[0][0].inputs.window_bp)
    source = places[0][0].tracks[spec.name].description
    unit = f" ({spec.unit})" if spec.unit else ""
    low, high = (RANGE_LEVELS.index(level) for level in levels)
    sentences = []
    for values, bounds, what, form in (
        (covered, training.covered, "share of a window with any signal", ".2%"),
        (height, training.height, f"mean of the values above 0{unit}", ".3g"),
    ):
        if np.isnan(values).all():
            continue
        median = float(np.nanmedian(values))
        if not bounds[low] <= median <= bounds[high]:
            sentences.append(
                f"the track '{spec.name}' ({source}) looks unlike what the weights were trained on: {what}, median of "
                f"the genes: {median:{form}}; of the training genes: {bounds[RANGE_LEVELS.index(0.5)]:{form}} (the "
                f"middle {levels[1] - levels[0]:.0%}: {bounds[low]:{form}} to {bounds[high]:{form}}). Check that the "
                "file is of this assay and in this unit, and that no tracks are swapped."
            )
    return sentences


def _shapes(name: str, places: Sequence[Place], window_bp: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each gene's share of bases above 0 and their mean (NaN if there are none): (G,) and (G,)."""
    shapes = np.full((len(places), 2), np.nan)
    for place, (dataset, row) in enumerate(places):
        window = dataset.window(row)
        middle = (window.start + window.end) // 2
        values = dataset.track_values(row, name, middle - window_bp // 2, middle + window_bp // 2)
        above = values[values > 0]
        shapes[place] = above.size / values.size, above.mean(dtype=np.float64) if above.size else np.nan
    return shapes[:, 0], shapes[:, 1]


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in np.nanquantile(values, RANGE_LEVELS))
