"""One self-contained page of a set of predicted genes, and the same tracks for IGV and pyGenomeTracks.

Contract: predictions in; one HTML text out that needs no network and no other file: everything is inside it, tracks
as `BINS` bins per window (the maximum of a track, the mean of the mask), a byte each. Its code is `report.js`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.analysis.elements import CallSettings, call_elements
from kipoi_seq2exp.analysis.locus import read_tracks, track_specs
from kipoi_seq2exp.analysis.outputs import describe_lines, status_line
from kipoi_seq2exp.analysis.store import Predictions
from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.paths import PROVISIONAL

BINS = 2_000
MOST_GENES = 1_000
_COLOURS = ("47,111,159", "58,143,92", "183,121,31", "76,90,138")


def build_page(
    predictions: Predictions,
    calls: CallSettings,
    sources: Mapping[str, str],
    title: str,
    on_gene: Callable[[], None] | None = None,
) -> str:
    """Return the page of a gene set.

    Parameters
    ----------
    predictions : Predictions
    calls : CallSettings
    sources : mapping of str to str
        Files of the tracks; by default those that the predictions were made from.
    title : str
    on_gene : callable, optional
        Called after each gene.

    Raises
    ------
    InputError
        If there are no genes, or more than a page can hold.
    """
    import jinja2

    if not 0 < len(predictions) <= MOST_GENES:
        raise InputError(
            f"{predictions.path} holds {len(predictions)} genes; a page takes 1 to {MOST_GENES:,}: predict a part of "
            f"them into a folder of their own (--gene-ids)."
        )
    genes = []
    for index in range(len(predictions)):
        genes.append(_gene(predictions, index, calls, sources))
        if on_gene is not None:
            on_gene()
    data = json.dumps({"bins": BINS, "genes": genes}, allow_nan=False).replace("<", "\\u003c")
    model = predictions.provenance.get("model")
    provisional = model is not None and model["provenance"]["status"] == PROVISIONAL
    folder = resources.files(__package__)
    template = jinja2.Environment(autoescape=True).from_string(folder.joinpath("report.html").read_text("utf-8"))
    return template.render(
        title=title,
        notice=status_line(model["name"], PROVISIONAL) if provisional and model is not None else "",
        about="\n".join(describe_lines(predictions.provenance, calls)),
        data=data,
        script=folder.joinpath("report.js").read_text("utf-8"),
    )


def _gene(predictions: Predictions, index: int, calls: CallSettings, sources: Mapping[str, str]) -> dict[str, Any]:
    gene, locus = predictions.genes.iloc[index], predictions.locus(index)
    mask, promoter = predictions.mask(index), predictions.promoter
    observed = float(gene["observed"]) if "observed" in gene else float("nan")
    row: dict[str, Any] = {name: getattr(locus, name) for name in ("gene_id", "chrom", "start", "end", "tss", "strand")}
    row |= {"place": f"{locus.chrom}:{locus.tss:,} {locus.strand}", "expression": float(gene["expression"])}
    row |= {"observed": None if np.isnan(observed) else observed, "elements": [], "mask": None}
    row |= {"promoter": [locus.start + promoter.start, locus.start + promoter.stop]}
    if mask is not None:
        found = call_elements(mask, promoter, calls)
        places = zip((found.start + locus.start).tolist(), (found.end + locus.start).tolist(), strict=True)
        row |= {"elements": [list(place) for place in places], "n_elements": len(found)}
        row |= {"kept_fraction": float((mask >= found.threshold).mean()), "mask": _packed(binned(mask, np.mean), 1.0)}
    row["tracks"] = []
    for line in read_tracks(predictions.provenance, sources, locus):
        bins = binned(line.values, np.max)
        top = float(bins.max()) or 1.0
        row["tracks"].append({"name": line.spec.name, "top": top, "bins": _packed(bins, top)})
    return row


def binned(values: NDArray[np.floating], reduce: Callable[..., Any]) -> NDArray[np.float64]:
    """Reduce bases to at most `BINS` bins of nearly equal width."""
    if len(values) <= BINS:
        return values.astype(np.float64)
    edges = np.linspace(0, len(values), BINS + 1).astype(np.int64)
    if reduce is np.max:
        return np.maximum.reduceat(values, edges[:-1]).astype(np.float64)
    total: NDArray[np.float64] = np.add.reduceat(values.astype(np.float64), edges[:-1]) / np.diff(edges)
    return total


def _packed(bins: NDArray[np.float64], top: float) -> str:
    return base64.b64encode(np.rint(np.clip(bins / top, 0, 1) * 255).astype(np.uint8).tobytes()).decode()


def igv_session(predictions: Predictions, files: Mapping[str, Path], sources: Mapping[str, str]) -> str:
    """Return an IGV session (XML): mask, elements and the tracks that are files; the genome is the model's assembly."""
    assembly = predictions.provenance.get("inputs", {}).get("assembly", "hg38")
    tracks = {**{name: str(path) for name, path in files.items()}, **_signal_files(predictions, sources)}
    first = predictions.locus(0)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    place = f"{first.chrom}:{max(first.start, 0) + 1}-{first.end}"
    lines.append(f'<Session genome={quoteattr(assembly)} locus={quoteattr(place)} version="8">')
    lines += [
        "  <Resources>",
        *(f"    <Resource path={quoteattr(path)}/>" for path in tracks.values()),
        "  </Resources>",
    ]
    lines.append('  <Panel name="Seq2Exp">')
    for number, (name, path) in enumerate(tracks.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        lines.append(f'    <Track id={quoteattr(path)} name={quoteattr(name)} color="{colour}" visible="true"/>')
    return "\n".join([*lines, "  </Panel>", "</Session>"]) + "\n"


def genome_tracks_ini(predictions: Predictions, files: Mapping[str, Path], sources: Mapping[str, str]) -> str:
    """Return the settings of the same tracks for pyGenomeTracks."""
    lines = ["[x-axis]", ""]
    tracks = {**_signal_files(predictions, sources), **{name: str(path) for name, path in files.items()}}
    for number, (name, path) in enumerate(tracks.items()):
        colour = "#" + "".join(f"{int(part):02x}" for part in _COLOURS[number % len(_COLOURS)].split(","))
        lines += [f"[{name}]", f"file = {path}", f"title = {name}", f"color = {colour}", "height = 2"]
        bed = path.endswith(".bed")
        lines += ["file_type = bed", "labels = false"] if bed else ["file_type = bigwig", "min_value = 0"]
        lines.append("")
    return "\n".join(lines)


def _signal_files(predictions: Predictions, sources: Mapping[str, str]) -> dict[str, str]:
    given = dict(sources) or dict(predictions.provenance.get("sources", {}))
    kinds = {name: spec.kind for name, spec in track_specs(predictions.provenance).items()}
    return {name: str(Path(path).resolve()) for name, path in given.items() if kinds.get(name) is TrackKind.BIGWIG}
