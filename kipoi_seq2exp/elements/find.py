"""From the predictions of a gene set to its called elements, with the evidence for each and its effect on expression.

Contract: a finished set of predictions in (a results folder, or an .h5 or .zarr of `kipoi predict`), one table of
elements and one of promoters out. The evidence of each source, the null and the perturbation need the network or its
tracks, and so the run opened beside the predictions; calls and credible intervals do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.elements.calls import COLUMNS, CallSettings
from kipoi_seq2exp.elements.fdr import Null, NullSettings
from kipoi_seq2exp.elements.jobs import ElementJob, NullJob, gene_units
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.prediction.run import Run
from kipoi_seq2exp.prediction.store import Predictions
from kipoi_seq2exp.prediction.units import Bench, Unit

Floats = NDArray[np.float32]

DESCRIBED = ("name", "tss", "gene_strand", "peak")


@dataclass(frozen=True)
class ElementSettings:
    """How elements are called, and what is computed for each.

    Attributes
    ----------
    calls : CallSettings
        How the mask is cut; its threshold is replaced by that of the null, if there is one.
    null : NullSettings or None
        Choose the threshold by a false discovery rate; None keeps that of `calls`.
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
        regulatory_score, fdr, probability (with _low, _high), dna and every track (each source's evidence),
        expression_without and delta_expression.
    promoters : DataFrame
        A row per gene: the promoter's bases with the same evidence. Always kept by the model, so never an element.
    calls : CallSettings
        The settings that were used in the end.
    null : Null or None
    """

    elements: pd.DataFrame
    promoters: pd.DataFrame
    calls: CallSettings
    null: Null | None = None


class GeneWindows:
    """The windows of a run by gene id; the last one is kept, since several steps read the same gene in turn.

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


Results = Callable[[Callable[[Bench, Any], Any], Sequence[Unit]], Iterable[Any]]


def find_elements(predictions: Predictions, settings: ElementSettings, results: Results | None = None) -> Found:
    """Call the elements of every gene.

    Parameters
    ----------
    predictions : Predictions
    settings : ElementSettings
    results : callable, optional
        Computes a job's units and returns their results in the same order. `results_here`, given the run that made the
        predictions, adds the evidence of each source, a null and perturbations; the default gives only what the
        predictions themselves hold.

    Raises
    ------
    InputError, ConfigError
        If the predictions hold no masks, or something is asked for that cannot be computed.
    """
    if not predictions.has_mask:
        raise InputError(
            f"{predictions.path} holds no element mask: it was made by a model that gives expression alone."
        )
    if results is None and (settings.perturb or settings.null is not None):
        raise ConfigError("a null and a perturbation run the network: give the model and its inputs.")
    results = results or results_here(None)
    null = None if settings.null is None else measure_null(predictions, settings.null, results)
    calls, none_allowed = settings.calls, False
    if null is not None and settings.null is not None:
        threshold = null.threshold(settings.null.fdr)
        none_allowed = threshold is None
        calls = calls if threshold is None else dataclasses.replace(calls, threshold=threshold)
    job = ElementJob(calls, settings.perturb and not none_allowed)
    rows: list[dict[str, Any]] = []
    promoters = []
    for found in results(job, gene_units(predictions, job)):
        rows += [] if none_allowed else found["elements"]
        promoters.append(found["promoter"])
    return Found(_joined(rows, null), pd.DataFrame(promoters), calls, null)


def results_here(run: Run | Bench | None, on_gene: Callable[[], None] | None = None) -> Results:
    """Return a function that computes jobs in this process, gene by gene.

    Parameters
    ----------
    run : Run, Bench or None
        None for jobs that do not need the network.
    on_gene : callable, optional
        Called after each gene.
    """
    bench = Bench(run.model, run.dataset, run.request.batch_size) if isinstance(run, Run) else run

    def results(job: Callable[[Any, Any], Any], units: Sequence[Unit]) -> Iterator[Any]:
        for unit in units:
            yield job(bench, unit.load())
            if on_gene is not None:
                on_gene()

    return results


def _joined(rows: list[dict[str, Any]], null: Null | None) -> pd.DataFrame:
    """Join the elements of all genes, sorted by position, with the false discovery rate of each."""
    if not rows:
        return empty_elements()
    table = pd.DataFrame(rows)
    if null is not None:
        place = list(table).index("expression_without") if "expression_without" in table else table.shape[1]
        table.insert(place, "fdr", null.rate_at(table["mean_mask"].to_numpy(float)))
    return table.sort_values(["chrom", "start", "end", "gene_id"], ignore_index=True)


def measure_null(predictions: Predictions, settings: NullSettings, results: Results) -> Null:
    """Count the bases that reach each threshold with the real and with shuffled tracks, over all genes.

    Parameters
    ----------
    predictions : Predictions
    settings : NullSettings
    results : callable
        As in `find_elements`.

    Raises
    ------
    ConfigError
        If the predictions hold no Beta, or the network makes no mask of its own.
    """
    null, job = Null(), NullJob(settings)
    for found in results(job, gene_units(predictions, job)):
        null.add_counts(np.array(found["real"]), np.array(found["shuffled"]), settings.shuffles)
    return null


def empty_elements() -> pd.DataFrame:
    """Return a table of elements without rows."""
    return pd.DataFrame(columns=[*COLUMNS, *DESCRIBED])
