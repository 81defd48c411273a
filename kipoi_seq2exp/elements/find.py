"""From predictions of a gene set to its called elements, with the evidence for each and what it does to expression.

Contract: a finished set of predictions in (a results folder, or an .h5 or .zarr of `kipoi predict`), one table of
elements and one of promoters out. What needs the network or its tracks (the evidence of each source, the null, the
perturbation) needs the run that is open beside the predictions; calls and credible intervals do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.elements.calls import COLUMNS, Calls, CallSettings, call_elements, place_elements
from kipoi_seq2exp.elements.evidence import Intervals, credible_columns, source_columns, split_evidence
from kipoi_seq2exp.elements.fdr import Null, NullSettings, shuffled_masks
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.prediction.masking import masked_out, predict_masked
from kipoi_seq2exp.prediction.run import Run
from kipoi_seq2exp.prediction.store import Predictions

Floats = NDArray[np.float32]

DESCRIBED = ("name", "tss", "gene_strand", "peak")


@dataclass(frozen=True)
class ElementSettings:
    """What is asked of the elements.

    Attributes
    ----------
    calls : CallSettings
        How the mask is cut; its threshold is replaced by that of the null, if there is one.
    null : NullSettings or None
        Choose the threshold by a false discovery rate.
    perturb : bool
        Predict expression with each element masked out.
    """

    calls: CallSettings
    null: NullSettings | None = None
    perturb: bool = False


@dataclass(frozen=True)
class Found:
    """The elements of a gene set.

    Attributes
    ----------
    elements : DataFrame
        Sorted by position: `calls.COLUMNS`, then name, tss, gene_strand, peak, and as far as they could be computed
        fdr, probability (with _low, _high), dna and every track (what each source said), expression_without and
        delta_expression.
    promoters : DataFrame
        A row per gene: the promoter's bases with the same evidence. Always kept by the model, so never an element.
    calls : CallSettings
        As they were used in the end.
    null : Null or None
    """

    elements: pd.DataFrame
    promoters: pd.DataFrame
    calls: CallSettings
    null: Null | None = None


class GeneWindows:
    """Windows of a run by gene id; the last one is kept, since several steps read the same gene in turn.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._rows = {str(gene_id): row for row, gene_id in enumerate(run.dataset.genes["gene_id"])}
        self._last: WindowInputs | None = None

    def __getitem__(self, gene_id: str) -> WindowInputs:
        if self._last is None or self._last.gene_id != gene_id:
            self._last = self.run.dataset[self._rows[gene_id]]
        return self._last


def find_elements(
    predictions: Predictions,
    settings: ElementSettings,
    run: Run | None = None,
    on_gene: Callable[[], None] | None = None,
) -> Found:
    """Call the elements of every gene.

    Parameters
    ----------
    predictions : Predictions
    settings : ElementSettings
    run : Run, optional
        The run that made the predictions, open: gives the evidence of each source; needed for a null and for
        perturbation.
    on_gene : callable, optional
        Called after each gene.

    Raises
    ------
    InputError, ConfigError
        If the predictions hold no masks, or something is asked for that they and the run cannot give.
    """
    if not predictions.has_mask:
        raise InputError(
            f"{predictions.path} holds no element mask: it was made by a model that gives expression alone."
        )
    if run is None and (settings.perturb or settings.null is not None):
        raise ConfigError("a null and a perturbation run the network: give the model and its inputs.")
    windows = None if run is None else GeneWindows(run)
    null = None if settings.null is None else measure_null(predictions, _open(windows), settings.null)
    calls = settings.calls
    if null is not None and settings.null is not None:
        threshold = null.threshold(settings.null.fdr)
        if threshold is None:
            return Found(empty_elements(), _promoters(predictions, windows), calls, null)
        calls = dataclasses.replace(calls, threshold=threshold)
    tables = []
    for index in range(len(predictions)):
        mask = genomic_mask(predictions, index)
        found = call_elements(mask, predictions.promoter, calls)
        table = _describe(predictions, index, found, mask)
        if len(found):
            table = pd.concat([table, _evidence(predictions, index, (found.start, found.end), windows)], axis=1)
        if null is not None:
            table["fdr"] = null.rate_at(found.mean)
        if settings.perturb:
            table = table.assign(**_perturb(predictions, index, found, _open(windows)))
        tables.append(table)
        if on_gene is not None:
            on_gene()
    filled = [table for table in tables if len(table)]
    elements = pd.concat(filled, ignore_index=True) if filled else empty_elements()
    elements = elements.sort_values(["chrom", "start", "end", "gene_id"], ignore_index=True)
    return Found(elements, _promoters(predictions, windows), calls, null)


def genomic_mask(predictions: Predictions, index: int) -> Floats:
    """Return the mask of one gene with 0 beyond the chromosome's ends, where there is no DNA to call.

    Raises
    ------
    InputError
        If the predictions hold no masks.
    """
    mask = predictions.mask(index)
    if mask is None:
        raise InputError(
            f"{predictions.path} holds no element mask: it was made by a model that gives expression alone."
        )
    locus = predictions.locus(index)
    mask = mask.copy()
    mask[: max(-locus.start, 0)] = 0
    length = predictions.provenance.get("chrom_lengths", {}).get(locus.chrom)
    if length is not None:
        mask[max(length - locus.start, 0) :] = 0
    return mask


def measure_null(predictions: Predictions, windows: GeneWindows, settings: NullSettings) -> Null:
    """Count the bases that reach each threshold, really and under shuffled tracks, over all genes.

    Raises
    ------
    ConfigError
        If the predictions hold no Beta, or the network makes no mask of its own.
    """
    null = Null()
    for index in range(len(predictions)):
        concentrations = predictions.concentrations(index)
        if concentrations is None:
            raise ConfigError(f"{predictions.path} holds no Beta of each base, which the null is made from.")
        window = windows[predictions.genes["gene_id"].iloc[index]]
        mask = genomic_mask(predictions, index)
        counted = np.ones(mask.size, dtype=bool)
        counted[predictions.promoter] = False
        shuffles = shuffled_masks(windows.run.model, window, concentrations, settings)
        null.add(mask[counted], [shuffled[counted] for shuffled in shuffles])
    return null


def empty_elements() -> pd.DataFrame:
    """Return the table of no elements."""
    return pd.DataFrame(columns=[*COLUMNS, *DESCRIBED])


def _describe(predictions: Predictions, index: int, found: Calls, mask: Floats) -> pd.DataFrame:
    locus = predictions.locus(index)
    table = place_elements(found, locus)
    table["name"] = [f"{locus.gene_id}_{number}" for number in range(1, len(found) + 1)]
    table["tss"], table["gene_strand"] = locus.tss, locus.strand
    table["peak"] = [int(mask[first:last].argmax()) for first, last in zip(found.start, found.end, strict=True)]
    return table


def _evidence(predictions: Predictions, index: int, intervals: Intervals, windows: GeneWindows | None) -> pd.DataFrame:
    concentrations = predictions.concentrations(index)
    if concentrations is None:
        return pd.DataFrame(index=range(len(intervals[0])))
    columns = pd.DataFrame(credible_columns(concentrations, intervals))
    if windows is None:
        return columns
    model = windows.run.model
    sources = split_evidence(model, concentrations, windows[predictions.genes["gene_id"].iloc[index]].signals)
    return pd.concat([columns, source_columns(model, sources, intervals)], axis=1)


def _perturb(predictions: Predictions, index: int, found: Calls, windows: GeneWindows) -> dict[str, Any]:
    """Predict expression with each element masked out; the difference is to the prediction with all of them."""
    mask, gene = predictions.mask(index), predictions.genes.iloc[index]
    if mask is None or not len(found):
        return {"expression_without": np.empty(0), "delta_expression": np.empty(0)}
    run, masks = windows.run, masked_out(mask, found.start, found.end)
    without = predict_masked(run.model, windows[gene["gene_id"]], masks, run.request.batch_size)
    return {"expression_without": without, "delta_expression": without - float(gene["expression"])}


def _promoters(predictions: Predictions, windows: GeneWindows | None) -> pd.DataFrame:
    """Describe the promoter of each gene, which the model keeps whatever the evidence."""
    promoter = predictions.promoter
    span = (np.array([promoter.start]), np.array([promoter.stop]))
    tables = []
    for index in range(len(predictions)):
        locus = predictions.locus(index)
        row = {"chrom": locus.chrom, "start": locus.start + promoter.start, "end": locus.start + promoter.stop}
        row |= {"gene_id": locus.gene_id, "tss": locus.tss, "strand": locus.strand}
        tables.append(pd.concat([pd.DataFrame([row]), _evidence(predictions, index, span, windows)], axis=1))
    return pd.concat(tables, ignore_index=True)


def _open(windows: GeneWindows | None) -> GeneWindows:
    if windows is None:
        raise ConfigError("this runs the network: give the model and its inputs.")
    return windows
