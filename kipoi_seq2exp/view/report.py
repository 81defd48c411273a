"""The page of a set of predicted genes: a table to sort and search, a scatter plot, and loci to zoom into.

Contract: predictions in; one HTML text out that needs no network: its own code (`report.js`), igv.js (`igv/`, a copy of
the published build) and the table are inside it, and the loci too, up to `INSIDE` genes. The loci of more genes lie in
files beside it (`loci_files`), written gene by gene: memory holds the rows of the table alone. A track is at most
`BINS` bins per window (the maximum of a signal, the mean of the mask), a byte each.
"""

from __future__ import annotations

import base64
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.pairs import pairs_of, read_pairs
from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.elements.calls import CallSettings, call_elements, kept_fraction, place_elements
from kipoi_seq2exp.elements.outputs import describe_lines, status_line
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.judge.crispri import check_overlap
from kipoi_seq2exp.prediction.store import Predictions
from kipoi_seq2exp.prediction.tracks import read_tracks
from kipoi_seq2exp.view.annotation import GeneModel, read_gene_models
from kipoi_seq2exp.view.loci_files import FOLDER, json_text, locus_writer, script_hash
from kipoi_seq2exp.view.locus import Surroundings, assembly_of, unit_of
from kipoi_seq2exp.zoo.registry import PROVISIONAL

BINS = 8_000
INSIDE = 300  # genes whose loci are inside the page, some 46 kB each
BESIDE = ("tracks", "mask", "elements", "pairs", "promoter", "threshold")  # of a gene, where its locus is in a file


def build_page(
    predictions: Predictions,
    calls: CallSettings,
    around: Surroundings,
    title: str,
    folder: Path,
    on_gene: Callable[[], None] | None = None,
) -> str:
    """Return the page of a gene set.

    Parameters
    ----------
    predictions : Predictions
    calls : CallSettings
    around : Surroundings
        Files of the tracks (by default those that the predictions were made from), gene models, CRISPRi pairs.
    title : str
    folder : Path
        Folder of the page; the loci of more than `INSIDE` genes are written there.
    on_gene : callable, optional
        Called after each gene.

    Raises
    ------
    InputError
        If there are no genes; if a file cannot be read, or the CRISPRi pairs are of other genes.
    OutputError
        If the loci cannot be written.
    """
    import jinja2

    if not len(predictions):
        raise InputError(f"{predictions.path} holds no genes: there is nothing to show.")
    model = predictions.provenance.get("model")
    provisional = model is not None and model["provenance"]["status"] == PROVISIONAL
    data = _data(predictions, calls, around, folder, on_gene)
    template = jinja2.Environment(autoescape=True).from_string(_packaged("report.html"))
    igv = _packaged("igv", "igv.min.js").partition("\n//# sourceMappingURL=")[0]  # the map is not in the page
    about_igv = f"/* igv.js, inside this page so that it needs no network.\n{_packaged('igv', 'LICENSE')}\n*/\n"
    scripts = [_as_parsed(about_igv + igv), _as_parsed(_packaged("report.js"))]
    return template.render(
        title=title,
        notice=status_line(model["name"], PROVISIONAL) if provisional and model is not None else "",
        about="\n".join(describe_lines(predictions.provenance, calls)),
        data=json_text(data),
        scripts=scripts,
        script_hashes=" ".join(map(script_hash, scripts)),
        frames="file: 'self'" if data["beside"] else "'none'",
    )


def _packaged(*names: str) -> str:
    return resources.files(__package__).joinpath(*names).read_text("utf-8")


def _as_parsed(script: str) -> str:
    """Return a script as a browser reads it from the page."""
    return script.replace("\r\n", "\n").replace("\r", "\n")


def _data(
    predictions: Predictions,
    calls: CallSettings,
    around: Surroundings,
    folder: Path,
    on_gene: Callable[[], None] | None,
) -> dict[str, Any]:
    loci = [predictions.locus(index) for index in range(len(predictions))]
    models = () if around.gtf is None else read_gene_models(around.gtf, *loci)
    pairs = None
    if around.crispri is not None:
        pairs = read_pairs(around.crispri)
        check_overlap(pairs, predictions, str(around.crispri))
    beside = len(loci) > INSIDE
    names = {name: model for model in models for name in (model.gene_id.split(".")[0], model.gene_id)}
    laid_out = _models(models, {locus.gene_id for locus in loci})
    genes = []
    with locus_writer(folder) if beside else nullcontext() as write:
        for index, locus in enumerate(loci):
            gene = _gene(predictions, index, calls)
            if locus.gene_id in names:
                gene["name"] = names[locus.gene_id].name
            gene["tracks"] = [
                {"name": line.spec.name, "unit": line.spec.unit, **_packed(binned(line.values, np.max))}
                for line in read_tracks(predictions.provenance, around.sources, locus)
            ]
            gene["pairs"] = None if pairs is None else _pairs(pairs, locus)
            gene["n_pairs"] = None if pairs is None else len(gene["pairs"])
            if write is not None:
                near = {locus.chrom: _near(laid_out.get(locus.chrom, []), locus)} if models else {}
                shown = {name: gene.pop(name) for name in BESIDE if name in gene}
                write(index, {"gene_id": locus.gene_id, "models": near, **shown})
            genes.append(gene)
            if on_gene is not None:
                on_gene()
    return {
        "assembly": assembly_of(predictions.provenance),
        "chroms": _chrom_lengths(predictions, loci),
        "unit": unit_of(predictions.provenance),
        "models": {} if beside else laid_out,
        "beside": FOLDER if beside else None,
        "genes": genes,
    }


def _near(entries: Sequence[list[Any]], locus: Locus) -> list[list[Any]]:
    """Return the gene models of a chromosome that lie at most a window's length from a window."""
    length = locus.end - locus.start
    stop = bisect_left(entries, locus.end + length, key=lambda entry: entry[0])
    return [entry for entry in entries[:stop] if entry[1] > locus.start - length]


def _gene(predictions: Predictions, index: int, calls: CallSettings) -> dict[str, Any]:
    gene, locus = predictions.genes.iloc[index], predictions.locus(index)
    mask, promoter = predictions.mask(index), predictions.promoter
    observed = float(gene["observed"]) if "observed" in gene else float("nan")
    row: dict[str, Any] = {name: getattr(locus, name) for name in ("gene_id", "chrom", "start", "end", "tss", "strand")}
    row |= {"expression": float(gene["expression"]), "elements": [], "mask": None}
    row |= {"observed": None, "residual": None}
    if not np.isnan(observed):
        row |= {"observed": observed, "residual": row["expression"] - observed}
    row["promoter"] = [locus.start + promoter.start, locus.start + promoter.stop]
    if mask is not None:
        found = call_elements(mask, promoter, calls)
        table = place_elements(found, locus)[["start", "end", "mean_mask", "distance_to_tss"]]
        row["elements"] = [
            [int(start), int(end), round(float(mean), 4), int(distance)]
            for start, end, mean, distance in table.itertuples(index=False)
        ]
        row |= {"n_elements": len(found), "kept_fraction": kept_fraction(mask, found.threshold)}
        row["threshold"] = found.threshold if np.isfinite(found.threshold) else None
        row["mask"] = _packed(binned(mask, np.mean), 1.0)
    return row


def _pairs(pairs: pd.DataFrame, locus: Locus) -> list[list[Any]]:
    table = pairs_of(pairs, locus)[["start", "end", "regulated"]]
    return [[int(start), int(end), bool(regulated)] for start, end, regulated in table.itertuples(index=False)]


def _models(models: tuple[GeneModel, ...], predicted: set[str]) -> dict[str, list[list[Any]]]:
    """Lay out the gene models by chromosome: those that code for a protein, and every predicted gene."""
    found: dict[str, list[list[Any]]] = {}
    for model in models:
        if model.coding or not predicted.isdisjoint((model.gene_id, model.gene_id.split(".")[0], model.name)):
            entry = [model.start, model.end, model.name, model.gene_id, model.strand, [*map(list, model.exons)]]
            found.setdefault(model.chrom, []).append(entry)
    return found


def _chrom_lengths(predictions: Predictions, loci: list[Locus]) -> dict[str, int]:
    """Return the lengths of the chromosomes; where the result does not say, the end of the last window."""
    known = predictions.provenance.get("chrom_lengths", {})
    return {
        chrom: int(known.get(chrom, max(locus.end for locus in loci if locus.chrom == chrom)))
        for chrom in dict.fromkeys(locus.chrom for locus in loci)
    }


def binned(values: NDArray[np.floating], reduce: Callable[..., Any]) -> NDArray[np.float64]:
    """Reduce bases to at most `BINS` bins of nearly equal width."""
    if len(values) <= BINS:
        return values.astype(np.float64)
    edges = np.linspace(0, len(values), BINS + 1).astype(np.int64)
    if reduce is np.max:
        return np.maximum.reduceat(values, edges[:-1]).astype(np.float64)
    total: NDArray[np.float64] = np.add.reduceat(values.astype(np.float64), edges[:-1]) / np.diff(edges)
    return total


def _packed(bins: NDArray[np.float64], top: float | None = None) -> dict[str, Any]:
    """Pack bins as a byte each, 255 for `top` (by default their maximum)."""
    top = float(bins.max()) or 1.0 if top is None else top
    steps = np.rint(np.clip(bins / top, 0, 1) * 255).astype(np.uint8)
    return {"top": top, "bins": base64.b64encode(steps.tobytes()).decode()}
