"""The mask compared with called peaks: how they overlap, and which predicts expression better at the same size.

Contract: an open run with its finished predictions (and the Beta of each base) and sets of peaks in. Per gene and set,
the mask's best bases outside the promoter are compared with as many bases of peaks: each, with the promoter, is given
to the network as a mask of ones and zeros. Peaks rotated through the window are the chance level.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.elements.calls import CallSettings, call_elements
from kipoi_seq2exp.errors import ConfigError, InputError, counted
from kipoi_seq2exp.judge.conditions import Rows, RowsOf
from kipoi_seq2exp.metrics import Score, resampled_counts, score_columns
from kipoi_seq2exp.prediction.masking import predict_masked
from kipoi_seq2exp.prediction.run import Run
from kipoi_seq2exp.prediction.store import Predictions

Bools = NDArray[np.bool_]

OWN, SAME_SIZE, PEAKS = "the model's own mask", "its best bases, as many as in peaks", "peaks"
ROTATED, PROMOTER_ONLY = "peaks rotated", "promoter alone"
CONDITIONS = (OWN, SAME_SIZE, PEAKS, ROTATED, PROMOTER_ONLY)


def peak_rows(run: Run, predictions: Predictions, peaks: Mapping[str, Regions], calls: CallSettings) -> RowsOf:
    """Return a function that compares mask and peaks in one gene of a run, for `conditions.over_genes`.

    It returns a row per set of peaks: set; distal_bp (bases outside promoter and blacklist), peak_bp, called_bp and
    both_bp; best_in_peaks_bp (of the mask's best peak_bp bases); elements, elements_in_peaks (those that share a base
    with a peak); and the expression under each of `CONDITIONS`.

    Parameters
    ----------
    run : Run
    predictions : Predictions
        With the Beta of each base.
    peaks : mapping of str to Regions
        Sets of peaks by name.
    calls : CallSettings
        How elements are called, for the overlap.

    Raises
    ------
    ConfigError
        If the network makes no mask of its own.
    """
    if not (predictions.has_mask and predictions.has_beta):
        raise ConfigError("a comparison with peaks needs a network that makes its own mask.")

    def rows_of(index: int, window: WindowInputs) -> Rows:
        allowed = _allowed(predictions, index, window.blacklist)
        probability = _probability(predictions, index)
        counts, masks = {}, {"": {PROMOTER_ONLY: np.zeros(len(allowed), dtype=bool)}}
        for name, regions in peaks.items():
            in_peaks = regions.mask(window.chrom, window.start, window.end) & allowed
            best = best_bases(probability, allowed, int(in_peaks.sum()))
            counts[name] = _overlap(predictions, index, allowed, in_peaks, calls)
            counts[name]["best_in_peaks_bp"] = int((best & in_peaks).sum())
            masks[name] = {
                SAME_SIZE: best,
                PEAKS: in_peaks,
                ROTATED: rotated(in_peaks, allowed, np.random.default_rng(index)),
            }
        expression = _expression(run, window, predictions.promoter, masks)
        own = float(predictions.genes["expression"].iloc[index])
        for name, found in counts.items():
            yield {"set": name, **found, OWN: own, **expression[name], **expression[""]}

    return rows_of


def check_peaks(run: Run, peaks: Regions) -> None:
    """Check, before anything is computed, that peaks are of the run's genome and that some lie in its windows.

    Raises
    ------
    InputError
        If they are of another genome, or none lies in the window of any gene outside the promoter.
    """
    peaks.check_against(run.dataset.genome)
    half, promoter = run.model.config.window_bp // 2, run.model.promoter(run.model.config.window_bp)
    for chrom, tss in zip(run.dataset.genes["chrom"], run.dataset.genes["tss"], strict=True):
        in_peaks = peaks.mask(chrom, tss - half, tss + half)
        in_peaks[promoter] = False
        if in_peaks.any():
            return
    raise InputError(f"{peaks.where}: no peak lies in the window of any gene, outside its promoter.")


def overlap_table(table: pd.DataFrame, bootstrap: int = 1_000) -> pd.DataFrame:
    """Measure how called elements and each set of peaks overlap, over all genes.

    A base counts once for each gene whose window holds it. Intervals (95 %) come from resampling the genes.

    Parameters
    ----------
    table : DataFrame
        Rows of `peak_rows`, over the genes.
    bootstrap : int
        Resamples of the genes.

    Returns
    -------
    DataFrame
        set, genes, elements, elements_in_peaks, and with _low and _high: peaks_kept and called_kept (shares of the
        distal bases), precision (share of the called bases that lie in peaks), recall (share of the peaks' bases that
        are called), jaccard, enrichment (precision over peaks_kept) and same_size_precision (share in peaks of the
        mask's best bases, as many as peaks have: precision and recall at once).

    Raises
    ------
    InputError
        If the blacklist holds every peak of a set.
    """
    rows = []
    for name, found in table.groupby("set", sort=False):
        if not found["peak_bp"].any():
            raise InputError(f"{name}: every peak in the window of a gene is blacklisted.")
        genes = len(found)
        columns = ["distal_bp", "peak_bp", "called_bp", "both_bp", "best_in_peaks_bp"]
        counts = found[columns].to_numpy(np.float64)
        row = {"set": name, "genes": genes, **found[["elements", "elements_in_peaks"]].sum().to_dict()}
        sums = [weights @ counts for weights in resampled_counts(genes, bootstrap)]
        point, resampled = _shares(counts.sum(axis=0)[None]), _shares(np.concatenate([np.empty((0, 5)), *sums]))
        row |= score_columns({name: Score.of(float(value[0]), resampled[name]) for name, value in point.items()})
        rows.append(row)
    return pd.DataFrame(rows)


def _shares(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Turn sums of bases (R, 5) into the measures of `overlap_table`; NaN where there is nothing to divide by."""
    distal, peak, called, both, best = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "peaks_kept": peak / distal,
            "called_kept": called / distal,
            "precision": both / called,
            "recall": both / peak,
            "jaccard": both / (peak + called - both),
            "enrichment": both / called / (peak / distal),
            "same_size_precision": best / peak,
        }


def overlap_lines(overlap: pd.DataFrame) -> list[str]:
    """Lay out how called elements and each set of peaks overlap."""
    lines = []
    for _, row in overlap.iterrows():

        def share(name: str, row: pd.Series = row) -> str:
            return f"{row[name]:.2%} [{row[f'{name}_low']:.2%}, {row[f'{name}_high']:.2%}]"

        lines += [
            f"{row['set']}, {counted(row['genes'], 'gene')}: of the bases outside promoters it keeps "
            f"{share('peaks_kept')}, called elements keep {share('called_kept')}",
            f"  the best bases of the mask, as many as in peaks: {share('same_size_precision')} lie in peaks (chance "
            f"{row['peaks_kept']:.2%})",
        ]
        if not row["elements"]:
            lines.append("  no element is called: nothing overlaps")
            continue
        lines += [
            f"  called bases in peaks (precision) {share('precision')}, {row['enrichment']:.2f} "
            f"[{row['enrichment_low']:.2f}, {row['enrichment_high']:.2f}] times chance; peaks' bases called "
            f"(recall) {share('recall')}; Jaccard {share('jaccard')}",
            f"  {row['elements_in_peaks']} of {row['elements']} elements share a base with a peak",
        ]
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
    allowed, inside = ~blacklist, predictions.on_chromosome(index)
    allowed[predictions.promoter] = False
    allowed[: inside.start] = allowed[inside.stop :] = False
    return allowed


def _probability(predictions: Predictions, index: int) -> NDArray[np.floating]:
    """Return the mean of the Beta of each base, before the mask is read from it."""
    alpha, beta = predictions.concentrations(index) or (np.empty(0), np.empty(0))
    return alpha / (alpha + beta)


def _overlap(
    predictions: Predictions, index: int, allowed: Bools, in_peaks: Bools, calls: CallSettings
) -> dict[str, int]:
    """Count the bases of one gene that peaks, calls and both hold."""
    mask = predictions.mask(index)
    assert mask is not None  # for the type checker: `peak_rows` needs one
    found = call_elements(mask, predictions.promoter, calls)
    called = found.bases(len(allowed)) & allowed
    return {
        "distal_bp": int(allowed.sum()),
        "peak_bp": int(in_peaks.sum()),
        "called_bp": int(called.sum()),
        "both_bp": int((called & in_peaks).sum()),
        "elements": len(found),
        "elements_in_peaks": sum(bool(in_peaks[s:e].any()) for s, e in zip(found.start, found.end, strict=True)),
    }


def _expression(
    run: Run, window: WindowInputs, promoter: slice, masks: Mapping[str, Mapping[str, Bools]]
) -> dict[str, dict[str, float]]:
    """Predict one window under every mask of every set, each with the promoter."""
    chosen = [mask.astype(np.float32) for of_set in masks.values() for mask in of_set.values()]
    for mask in chosen:
        mask[promoter] = 1
    values = iter(predict_masked(run.model, window, chosen, run.request.batch_size).tolist())
    return {name: {condition: next(values) for condition in of_set} for name, of_set in masks.items()}
