"""The content of the picture of one gene, gathered from predictions, tracks and annotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.data.genes import NAME_COLUMN
from kipoi_seq2exp.data.naming import check_places
from kipoi_seq2exp.data.pairs import pairs_of, read_pairs
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.elements.calls import CallSettings, call_elements, place_elements
from kipoi_seq2exp.elements.outputs import status_line
from kipoi_seq2exp.prediction.request import observed_label
from kipoi_seq2exp.prediction.run import predict_windows
from kipoi_seq2exp.prediction.store import Predictions
from kipoi_seq2exp.prediction.tracks import TrackLine, read_tracks
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.view.annotation import GeneModel, read_gene_models, read_known_elements

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.nn.network import Seq2Exp

Floats = NDArray[np.float32]
UNNAMED_UNIT = "log10(reads + 1)"  # for predictions that do not name it: CAGE or PRO-cap, see the card of the model


@dataclass(frozen=True)
class LocusData:
    """What is drawn for one gene.

    Attributes
    ----------
    locus : Locus
    predicted : float
        In the unit of the weights' label.
    observed : float or None
    tracks : tuple of TrackLine
        In the model's order.
    mask : ndarray or None, (L,)
    concentrations : (ndarray, ndarray) or None, (L,) each
        Alpha and beta of each base.
    promoter : slice
        Bases that are always kept.
    threshold : float or None
        Lowest mask of a called base.
    elements : DataFrame
        Called elements of this gene.
    models : tuple of GeneModel
    known : DataFrame or None
        Intervals to compare the calls with: start, end, name, kind.
    pairs : DataFrame or None
        Elements tested for this gene by CRISPRi, columns as in `pairs.read_pairs`.
    blacklist : ndarray of bool or None, (L,)
        Bases that the mask may not keep.
    effects : DataFrame or None
        Sites that were perturbed: start, end, delta_expression; drawn in place of the elements.
    unit : str
        Unit of the expression.
    caption : str
        The model, and whether its weights are provisional.
    symbol : str
        Symbol of the gene, where the predictions have it.
    """

    locus: Locus
    predicted: float
    observed: float | None
    tracks: tuple[TrackLine, ...]
    mask: Floats | None
    concentrations: tuple[Floats, Floats] | None
    promoter: slice
    threshold: float | None
    elements: pd.DataFrame
    models: tuple[GeneModel, ...] = ()
    known: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    blacklist: NDArray[np.bool_] | None = None
    effects: pd.DataFrame | None = None
    unit: str = ""
    caption: str = ""
    symbol: str = ""


@dataclass(frozen=True)
class Surroundings:
    """Files that a picture draws besides the prediction.

    Attributes
    ----------
    sources : Mapping
        Track name to file; empty: the files that the predictions were made from, where the result names them.
    gtf, known : Path or None
        Gene models; a BED of intervals to compare the calls with.
    blacklist : Path or None
        BED of bases that the mask may not keep; by default the one that the predictions were made with.
    crispri : Path or None
        Element-gene pairs tested by CRISPRi, in the ENCODE benchmark's format.
    """

    sources: Mapping[str, str]
    gtf: Path | None = None
    known: Path | None = None
    blacklist: Path | None = None
    crispri: Path | None = None


def gather(predictions: Predictions, gene_id: str, calls: CallSettings, around: Surroundings) -> LocusData:
    """Gather the picture of one gene.

    Raises
    ------
    InputError
        If there is no such gene, or a file cannot be read.
    """
    index = predictions.index(gene_id)
    locus, gene = predictions.locus(index), predictions.genes.iloc[index]
    mask = predictions.mask(index)
    found = None if mask is None else call_elements(mask, predictions.promoter, calls)
    observed = float(gene["observed"]) if "observed" in gene and not np.isnan(gene["observed"]) else None
    return LocusData(
        locus=locus,
        predicted=float(gene["expression"]),
        observed=observed,
        tracks=read_tracks(predictions.provenance, around.sources, locus),
        mask=mask,
        concentrations=predictions.concentrations(index),
        promoter=predictions.promoter,
        threshold=None if found is None else found.threshold,
        elements=pd.DataFrame(columns=["start", "end", "mean_mask"]) if found is None else place_elements(found, locus),
        models=() if around.gtf is None else read_gene_models(around.gtf, locus),
        known=None if around.known is None else read_known_elements(around.known, locus),
        pairs=None if around.crispri is None else _tested_pairs(around.crispri, locus),
        blacklist=_blacklist(predictions.provenance, around.blacklist, locus),
        unit=unit_of(predictions.provenance),
        caption=caption_of(predictions.provenance),
        symbol=symbol_of(gene),
    )


def gather_window(
    model: Seq2Exp,
    dataset: WindowDataset,
    row: int,
    around: Surroundings,
    effects: pd.DataFrame,
    *,
    name: str,
    label: str | None = None,
) -> LocusData:
    """Gather the picture of one gene's perturbed sites, predicted here.

    Parameters
    ----------
    model : Seq2Exp
    dataset : WindowDataset
    row : int
        Row of the gene table.
    around : Surroundings
    effects : DataFrame
        start, end, delta_expression.
    name : str
        Name of the model.
    label : str, optional
        Column of the gene table with the observed expression.
    """
    window = dataset[row]
    observed = observed_label(dataset.genes, label)[1]
    locus = Locus(window.gene_id, window.chrom, window.start, window.end, window.tss, window.strand)
    found, provenance = predict_windows(model, [window])[0], {"inputs": to_mapping(dataset.inputs)}
    return LocusData(
        locus=locus,
        predicted=found.expression,
        observed=None if observed is None or np.isnan(observed[row]) else float(observed[row]),
        tracks=read_tracks(provenance, around.sources, locus),
        mask=found.mask,
        concentrations=None,
        promoter=model.promoter(len(window.onehot)),
        threshold=None,
        elements=pd.DataFrame(columns=["start", "end", "mean_mask"]),
        models=() if around.gtf is None else read_gene_models(around.gtf, locus),
        blacklist=window.blacklist if around.blacklist is not None else None,
        effects=effects,
        unit=unit_of(provenance),
        caption=status_line(name, model.provenance.status),
        symbol=symbol_of(dataset.genes.iloc[row]),
    )


def assembly_of(provenance: Mapping[str, Any]) -> str:
    """Return the assembly of a result; if it names none, that of the known cell types, if they share one."""
    if "inputs" in provenance:
        return str(provenance["inputs"]["assembly"])
    known = {inputs.assembly for inputs in read_cells().values()}
    return known.pop() if len(known) == 1 else "genome"


def caption_of(provenance: Mapping[str, Any]) -> str:
    """Return the first line of every output of the model; empty if the result does not name the model."""
    if "model" not in provenance:  # an output of Kipoi names its weights, not whether they are provisional
        return f"weights {Path(provenance['weights']).stem}, by kipoi predict" if "weights" in provenance else ""
    return status_line(provenance["model"]["name"], provenance["model"]["provenance"]["status"])


def unit_of(provenance: Mapping[str, Any]) -> str:
    """Return the unit of the expression in short: the model's label up to its first comma or closing bracket."""
    label: str = provenance.get("inputs", {}).get("label", UNNAMED_UNIT)
    short = label.partition(",")[0]
    return short[: short.index(")") + 1] if ")" in short else short


def symbol_of(gene: pd.Series) -> str:
    """Return the symbol of a gene of a table; empty where the table has none."""
    symbol = gene.get(NAME_COLUMN, "")
    return symbol if isinstance(symbol, str) else ""  # a table may lack it for some


def _blacklist(provenance: Mapping[str, Any], given: Path | None, locus: Locus) -> NDArray[np.bool_] | None:
    recorded = provenance.get("files", {}).get("blacklist")
    path = given or (Path(recorded["path"]) if recorded else None)
    return None if path is None else Regions(path, "blacklist").mask(locus.chrom, locus.start, locus.end)


def _tested_pairs(path: Path, locus: Locus) -> pd.DataFrame:
    pairs = read_pairs(path)
    own = pairs[pairs["gene_id"] == locus.gene_id.split(".")[0]]
    if len(own):  # a gene that was not tested is fine, one that lies elsewhere is a mistake
        place = {locus.gene_id: (str(own["chrom"].iloc[0]), int(own["tss"].iloc[0]))}
        check_places(place, {locus.gene_id: (locus.chrom, locus.tss)}, str(path), "the predictions")
    return pairs_of(pairs, locus)
