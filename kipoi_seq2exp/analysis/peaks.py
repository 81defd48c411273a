"""The mask beside called peaks: how they overlap, and which of them predicts expression better at the same size.

Contract: an open run with its finished predictions (and the Beta of each base) and a set of peaks in. Per gene, the
mask's best bases outside the promoter are compared with as many bases of peaks: each set, with the promoter, is given
to the network as a mask of ones and zeros. Peaks rotated through the window are the chance level.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.analysis.element_calls import GeneWindows, genomic_mask
from kipoi_seq2exp.analysis.elements import CallSettings, call_elements
from kipoi_seq2exp.analysis.masking import predict_masked
from kipoi_seq2exp.analysis.predict import Run
from kipoi_seq2exp.analysis.store import Predictions
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.errors import ConfigError, InputError

Bools = NDArray[np.bool_]

OWN, SAME_SIZE, PEAKS = "the model's own mask", "its best bases, as many as in peaks", "peaks"
ROTATED, PROMOTER_ONLY = "peaks rotated", "promoter alone"
CONDITIONS = (OWN, SAME_SIZE, PEAKS, ROTATED, PROMOTER_ONLY)


def peak_comparison(
    run: Run,
    predictions: Predictions,
    peaks: Regions,
    calls: CallSettings,
    on_gene: Callable[[], None] | None = None,
) -> pd.DataFrame:
    """Compare mask and peaks gene by gene.

    Parameters
    ----------
    run : Run
    predictions : Predictions
        Of the run, with the Beta of each base.
    peaks : Regions
    calls : CallSettings
        How elements are called, for the overlap.
    on_gene : callable, optional
        Called after each gene.

    Returns
    -------
    DataFrame
        gene_id; distal_bp (bases outside promoter and blacklist), peak_bp, called_bp, both_bp; elements,
        elements_in_peaks (those that share a base with a peak); and the expression under each of `CONDITIONS`.

    Raises
    ------
    ConfigError
        If the network makes no mask of its own.
    InputError
        If no peak lies in any window.
    """
    if not (predictions.has_mask and predictions.has_beta):
        raise ConfigError("a comparison with peaks needs a network that makes its own mask.")
    windows = GeneWindows(run)
    random, table = np.random.default_rng(0), []
    for index, gene in predictions.genes.iterrows():
        window, mask = windows[gene["gene_id"]], genomic_mask(predictions, index)
        allowed = _allowed(predictions, index, window.blacklist)
        in_peaks = peaks.mask(window.chrom, window.start, window.end) & allowed
        row: dict[str, object] = {"gene_id": gene["gene_id"], **_overlap(mask, in_peaks, allowed, predictions, calls)}
        alpha, beta = predictions.concentrations(index) or (mask, mask)
        masks = {
            SAME_SIZE: best_bases(alpha / (alpha + beta), allowed, int(in_peaks.sum())),
            PEAKS: in_peaks,
            ROTATED: rotated(in_peaks, allowed, random),
            PROMOTER_ONLY: np.zeros(len(mask), dtype=bool),
        }
        for chosen in masks.values():
            chosen[predictions.promoter] = True
        expression = predict_masked(run.model, window, masks.values(), run.request.batch_size)
        row |= {OWN: float(gene["expression"]), **dict(zip(masks, expression.tolist(), strict=True))}
        table.append(row)
        if on_gene is not None:
            on_gene()
    found = pd.DataFrame(table)
    if not found["peak_bp"].sum():
        raise InputError(f"{peaks.where}: no peak lies in the window of any gene, outside promoter and blacklist.")
    return found


def overlap_lines(table: pd.DataFrame) -> list[str]:
    """Say how calls and peaks overlap, over all genes."""
    total = table[["distal_bp", "peak_bp", "called_bp", "both_bp", "elements", "elements_in_peaks"]].sum()
    peaks, called = total["peak_bp"] / total["distal_bp"], total["called_bp"] / total["distal_bp"]
    lines = [f"outside promoters, peaks keep {peaks:.2%} of the bases and called elements {called:.2%}"]
    if not total["called_bp"]:
        return [*lines, "no element is called: nothing overlaps"]
    union = total["peak_bp"] + total["called_bp"] - total["both_bp"]
    inside = total["both_bp"] / total["called_bp"]
    lines.append(
        f"{inside:.2%} of the called bases lie in peaks ({inside / peaks:.2f} times what chance gives), "
        f"{total['both_bp'] / total['peak_bp']:.2%} of the peaks' bases are called, Jaccard index "
        f"{total['both_bp'] / union:.4f}; {total['elements_in_peaks']} of {total['elements']} elements share a "
        f"base with a peak"
    )
    return lines


def best_bases(probability: NDArray[np.floating], allowed: Bools, count: int) -> Bools:
    """Choose the allowed bases of highest probability, `count` of them; of equal ones the first."""
    order = np.argsort(-np.where(allowed, probability, -np.inf), kind="stable")
    chosen = np.zeros(len(probability), dtype=bool)
    chosen[order[:count]] = True
    return chosen & allowed


def rotated(chosen: Bools, allowed: Bools, random: np.random.Generator) -> Bools:
    """Rotate a set of bases through the allowed ones, by a random number of them."""
    places = np.flatnonzero(allowed)
    turned = np.zeros(len(chosen), dtype=bool)
    if places.size > 1:
        turned[places] = np.roll(chosen[places], int(random.integers(1, places.size)))
    return turned


def _allowed(predictions: Predictions, index: int, blacklist: Bools) -> Bools:
    """Return the bases that a mask may keep beside the promoter: on the chromosome, not blacklisted."""
    locus = predictions.locus(index)
    allowed = ~blacklist
    allowed[predictions.promoter] = False
    allowed[: max(-locus.start, 0)] = False
    length = predictions.provenance.get("chrom_lengths", {}).get(locus.chrom)
    if length is not None:
        allowed[max(length - locus.start, 0) :] = False
    return allowed


def _overlap(
    mask: NDArray[np.float32], in_peaks: Bools, allowed: Bools, predictions: Predictions, calls: CallSettings
) -> dict[str, int]:
    found = call_elements(mask, predictions.promoter, calls)
    called = np.zeros(len(mask), dtype=bool)
    touching = 0
    for first, last in zip(found.start, found.end, strict=True):
        called[first:last] = True
        touching += bool(in_peaks[first:last].any())
    called &= allowed
    return {
        "distal_bp": int(allowed.sum()),
        "peak_bp": int(in_peaks.sum()),
        "called_bp": int(called.sum()),
        "both_bp": int((called & in_peaks).sum()),
        "elements": len(found),
        "elements_in_peaks": touching,
    }
