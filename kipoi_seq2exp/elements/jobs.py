"""What is computed for one gene at a time: its elements with their evidence and effects, and the counts of its null.

Contract: a job gets what is stored for a gene (`StoredGene`) and, where the network or its tracks are needed, a
`Bench`. It returns plain numbers and texts, which JSON keeps unchanged, so that a gene's result is the same from this
process, from a worker and from the store of an interrupted run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.elements.calls import Calls, CallSettings, call_elements, place_elements
from kipoi_seq2exp.elements.evidence import (
    REGULATORY,
    Intervals,
    credible_columns,
    regulatory_score,
    source_columns,
    split_evidence,
)
from kipoi_seq2exp.elements.fdr import NullSettings, histogram, shuffled_masks
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.prediction.masking import masked_out, predict_masked
from kipoi_seq2exp.prediction.store import Predictions
from kipoi_seq2exp.prediction.units import Bench, Unit
from kipoi_seq2exp.settings import to_mapping

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class StoredGene:
    """What the predictions hold for a gene.

    Attributes
    ----------
    locus : Locus
    expression : float
    promoter : slice
    mask : ndarray, (L,)
        0 beyond the chromosome's ends, where there is no DNA to call.
    network_mask : ndarray, (L,)
        The mask that the encoder saw.
    concentrations : (ndarray, ndarray) or None, (L,) each
        Alpha and beta of z.
    """

    locus: Locus
    expression: float
    promoter: slice
    mask: Floats
    network_mask: Floats
    concentrations: tuple[Floats, Floats] | None

    def window(self, bench: Bench) -> WindowInputs:
        """Read the window again, as the network read it."""
        return bench.dataset[bench.rows[self.locus.gene_id]]


def stored_gene(predictions: Predictions, index: int) -> StoredGene:
    """Return what the predictions hold for a gene.

    Raises
    ------
    InputError
        If they hold no masks.
    """
    mask, seen = predictions.mask(index), predictions.network_mask(index)
    if mask is None or seen is None:
        raise InputError(
            f"{predictions.path} holds no element mask: it was made by a model that gives expression alone."
        )
    return StoredGene(
        predictions.locus(index),
        float(predictions.genes["expression"].iloc[index]),
        predictions.promoter,
        mask,
        seen,
        predictions.concentrations(index),
    )


@dataclass(frozen=True)
class ElementJob:
    """Calls and describes the elements of a gene.

    Attributes
    ----------
    calls : CallSettings
    perturb : bool
        Predict expression with each element masked out.
    """

    calls: CallSettings
    perturb: bool = False
    name: ClassVar[str] = "elements"

    def __call__(self, bench: Bench | None, gene: StoredGene) -> dict[str, Any]:
        """Return the rows of the elements, and that of the promoter."""
        found = call_elements(gene.mask, gene.promoter, self.calls)
        window = None if bench is None else gene.window(bench)
        table = _describe(gene, found)
        if len(found):
            if gene.concentrations is not None:
                place = (found.start, found.end), gene.locus.tss - gene.locus.start, gene.expression
                table[REGULATORY] = regulatory_score(gene.concentrations, *place)
            table = pd.concat([table, _evidence(gene, (found.start, found.end), bench, window)], axis=1)
        if self.perturb and len(found):
            table = table.assign(**_perturb(gene, found, bench, window))
        promoter = (np.array([gene.promoter.start]), np.array([gene.promoter.stop]))
        row = pd.concat([_describe_promoter(gene), _evidence(gene, promoter, bench, window)], axis=1)
        return {"elements": table.to_dict("records"), "promoter": row.to_dict("records")[0]}


@dataclass(frozen=True)
class NullJob:
    """Counts the bases of a gene outside the promoter by mask, with the real and with shuffled tracks.

    Attributes
    ----------
    settings : NullSettings
    """

    settings: NullSettings
    name: ClassVar[str] = "null"

    def __call__(self, bench: Bench | None, gene: StoredGene) -> dict[str, list[int]]:
        """Return the counts of `fdr.Null.add_counts`: real, and shuffled, the sum over the shuffles."""
        if bench is None:
            raise ConfigError("a null runs the network: give the model and its inputs.")
        if gene.concentrations is None:
            raise ConfigError("a null needs the Beta distribution of each base: predict with --save-beta.")
        counted = np.ones(gene.mask.size, dtype=bool)
        counted[gene.promoter] = False
        shuffles = shuffled_masks(bench.model, gene.window(bench), gene.concentrations, self.settings)
        shuffled = sum(histogram(mask[counted]) for mask in shuffles)
        return {"real": histogram(gene.mask[counted]).tolist(), "shuffled": np.asarray(shuffled).tolist()}


def gene_units(predictions: Predictions, job: ElementJob | NullJob) -> list[Unit]:
    """Return the units of a job on predictions: one per gene."""
    settings = to_mapping(job)
    settings.get("settings", {}).pop("fdr", None)  # the rate that is allowed changes no count
    made_by = hashlib.sha256(json.dumps(predictions.request, sort_keys=True).encode()).hexdigest()[:16]
    return [
        Unit(
            json.dumps([job.name, gene_id, settings, made_by], sort_keys=True),
            f"the {job.name} of {gene_id}",
            1,
            partial(stored_gene, predictions, index),
        )
        for index, gene_id in enumerate(predictions.genes["gene_id"])
    ]


def _describe(gene: StoredGene, found: Calls) -> pd.DataFrame:
    table = place_elements(found, gene.locus)
    table["name"] = [f"{gene.locus.gene_id}_{number}" for number in range(1, len(found) + 1)]
    table["tss"], table["gene_strand"] = gene.locus.tss, gene.locus.strand
    table["peak"] = [int(gene.mask[first:last].argmax()) for first, last in zip(found.start, found.end, strict=True)]
    return table


def _describe_promoter(gene: StoredGene) -> pd.DataFrame:
    """Describe the promoter, which the model keeps whatever the evidence."""
    locus, promoter = gene.locus, gene.promoter
    row = {"chrom": locus.chrom, "start": locus.start + promoter.start, "end": locus.start + promoter.stop}
    return pd.DataFrame([{**row, "gene_id": locus.gene_id, "tss": locus.tss, "strand": locus.strand}])


def _evidence(gene: StoredGene, intervals: Intervals, bench: Bench | None, window: WindowInputs | None) -> pd.DataFrame:
    if gene.concentrations is None:
        return pd.DataFrame(index=range(len(intervals[0])))
    columns = pd.DataFrame(credible_columns(gene.concentrations, intervals))
    if bench is None or window is None:
        return columns
    sources = split_evidence(bench.model, gene.concentrations, window.signals)
    return pd.concat([columns, source_columns(bench.model, sources, intervals)], axis=1)


def _perturb(gene: StoredGene, found: Calls, bench: Bench | None, window: WindowInputs | None) -> dict[str, Any]:
    """Predict expression with each element masked out; the difference is to the prediction with all of them."""
    if bench is None or window is None:
        raise ConfigError("a perturbation runs the network: give the model and its inputs.")
    masks = masked_out(gene.network_mask, found.start, found.end)
    without = predict_masked(bench.model, window, masks, bench.batch_size)
    return {"expression_without": without, "delta_expression": without - gene.expression}
