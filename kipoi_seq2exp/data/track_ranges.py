"""What signal tracks look like over genes, noted at training and compared at prediction.

Two numbers reveal most mistakes: the share of a window that has any signal at all (called peaks cover little of it,
coverage nearly all) and the mean of that signal (its unit, its depth). Tracks that were swapped, or an assay or a unit
that the weights never saw, move at least one of them far away. How far a median may lie by chance depends on how many
genes it is of, and genes of one neighbourhood count as one: they share most of their windows.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import RANGE_LEVELS, TrackKind, TrackRange, TrackSpec
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.errors import counted

log = logging.getLogger(__name__)
LOOKED_AT = 256  # training windows that a range is made from
COMPARED = 64  # windows of a gene set that are compared with a range
BLOCK_BP = 1_000_000  # genes in one such stretch of a chromosome count as one
BY_CHANCE = 1e-4  # probability that the median of as many training genes lies outside the bounds
WITHIN = 1.2  # factor beyond that to which data of another laboratory differ
BEYOND = 2.0  # the same, where a bound lies beyond the outermost quantiles that are noted
_DIGITS = 6

Place = tuple[WindowDataset, int]


def noted_ranges(tracks: Sequence[TrackSpec], places: Sequence[Place], window_bp: int) -> tuple[TrackSpec, ...]:
    """Return the tracks with what each looks like over windows.

    Parameters
    ----------
    tracks : sequence of TrackSpec
    places : sequence of (WindowDataset, int)
        Training genes: their data set, and their row in it. `LOOKED_AT` of them are read for each track, of the data
        sets that have a file of its own for it.
    window_bp : int
        Length of the windows that are looked at, centred on the TSS.

    Returns
    -------
    tuple of TrackSpec
        As `tracks`. Contacts, and a track without any signal in these windows or for which others stand in everywhere,
        have no range.
    """
    noted = []
    for spec in tracks:
        found = None
        own = {id(dataset): not _stood_in_for(spec, dataset) for dataset, _ in places}
        known = [place for place in places if own[id(place[0])]]
        if spec.kind is TrackKind.BIGWIG and known:
            rows = np.unique(np.linspace(0, len(known) - 1, min(len(known), LOOKED_AT)).astype(int))
            covered, height = _shapes(spec.name, [known[row] for row in rows], window_bp)
            if not np.isnan(height).all():
                found = TrackRange(_quantiles(covered), _quantiles(height))
        noted.append(dataclasses.replace(spec, training=found))
    return tuple(noted)


def far_tracks(dataset: WindowDataset) -> list[str]:
    """Return a sentence for each track of a data set that looks unlike that track in the training genes.

    The median over the genes (at most `COMPARED` of them are read) is compared with `expected_medians` of as many
    training genes. Weights that note no ranges give no sentence.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), COMPARED)).astype(int))
    places = [(dataset, int(row)) for row in rows]
    looked_at = dataset.genes.iloc[rows]
    independent = len(set(zip(looked_at["chrom"], looked_at["tss"] // BLOCK_BP, strict=True)))
    return [
        sentence
        for spec in dataset.inputs.tracks
        if spec.training is not None and not _stood_in_for(spec, dataset)
        for sentence in _compare(spec, spec.training, places, independent)
    ]


def expected_medians(quantiles: Sequence[float], genes: int) -> tuple[float, float]:
    """Return between which values the median of some genes lies, if they are like those of the training.

    Parameters
    ----------
    quantiles : sequence of float
        Of the training genes, at `RANGE_LEVELS`.
    genes : int
        How many independent genes the median is of.

    Returns
    -------
    float, float
        The more genes, the nearer to the median of the training.
    """
    from scipy.special import betaincinv

    half = (genes + 1) / 2  # the level of the median of n values is distributed as Beta((n + 1) / 2, (n + 1) / 2)
    level = float(betaincinv(half, half, BY_CHANCE / 2))
    if level < RANGE_LEVELS[0]:
        return quantiles[0] / BEYOND, quantiles[-1] * BEYOND
    low, high = np.interp((level, 1 - level), RANGE_LEVELS, quantiles)
    return float(low) / WITHIN, float(high) * WITHIN


def _stood_in_for(spec: TrackSpec, dataset: WindowDataset) -> bool:
    """Whether another track's file is read in place of this one, so that it is meant to look different."""
    return bool(spec.stand_in) and (dataset.tracks[spec.name].description == dataset.tracks[spec.stand_in].description)


def warn_of_inputs(dataset: WindowDataset) -> None:
    """Log what users should know about their inputs: features that were filled, tracks unlike those of the training."""
    filled = dataset.features.filled_line()
    for sentence in [*([filled] if filled else []), *far_tracks(dataset)]:
        log.warning("%s", sentence)


def _compare(spec: TrackSpec, training: TrackRange, places: Sequence[Place], independent: int) -> list[str]:
    covered, height = _shapes(spec.name, places, places[0][0].inputs.window_bp)
    source = places[0][0].tracks[spec.name].description
    unit = f" ({spec.unit})" if spec.unit else ""
    sentences = []
    for values, bounds, what, form in (
        (covered, training.covered, "share of a window with any signal", ".2%"),
        (height, training.height, f"mean of the values above 0{unit}", ".3g"),
    ):
        if np.isnan(values).all():
            continue
        median = float(np.nanmedian(values))
        low, high = expected_medians(bounds, independent)
        if what.startswith("share"):
            high = min(high, (1 + bounds[-1]) / 2)  # no share is above 1
        if not low <= median <= high:
            sentences.append(
                f"the track '{spec.name}' ({source}) looks unlike what the weights were trained on: {what}, median of "
                f"the genes: {median:{form}}; of the training genes: {bounds[RANGE_LEVELS.index(0.5)]:{form}} "
                f"(expected of {counted(len(places), 'gene')}: {low:{form}} to {high:{form}}). Check that the file is "
                "of this assay and in this unit, and that no tracks are swapped."
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
