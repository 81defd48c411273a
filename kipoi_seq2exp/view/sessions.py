"""The tracks of a report for other browsers: an IGV session, and the settings of a pyGenomeTracks picture.

Contract: both name files on this machine; nothing is read here. Their order is that of the page: genes, CRISPRi pairs
(IGV), signals, mask, elements. The session names files relative to its folder, so that both can be moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.data.pairs import pairs_of
from kipoi_seq2exp.data.tracks.signals import SignalFormat, signal_file, signal_format
from kipoi_seq2exp.errors import excerpt
from kipoi_seq2exp.prediction.store import Predictions
from kipoi_seq2exp.prediction.tracks import track_specs
from kipoi_seq2exp.view.locus import Surroundings, assembly_of

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.data.windows import Locus

PAIRS = "crispri.bedpe"
_GENES, _MASK, _ELEMENTS = "#22303c", "#7a3e9d", "#d1495b"
_SIGNALS = ("#2f6f9f", "#3a8f5c", "#b7791f", "#4c5a8a", "#8a4c6c")
_NAME_LETTERS = 31  # that fit beside the tracks, where IGV has 160 pixels
_KINDS = {SignalFormat.BIGWIG: "bigwig", SignalFormat.BEDGRAPH: "bedgraph", SignalFormat.PEAKS: "bed"}


@dataclass(frozen=True)
class ShownFile:
    """A file as a track: `kind` is gtf, bigwig, bedgraph, bed or bedpe; `colour` is #rrggbb; `unit` may be empty."""

    name: str
    path: Path
    kind: str
    colour: str
    unit: str = ""


def shown_files(
    predictions: Predictions,
    around: Surroundings,
    mask: Path | None,
    elements: Path | None,
    crispri: Path | None = None,
) -> list[ShownFile]:
    """List the files of the tracks, from top to bottom; contacts, which have no track file, are left out."""
    specs = track_specs(predictions.provenance)
    given = dict(around.sources) or dict(predictions.provenance.get("sources", {}))
    signals = [(spec, given[name]) for name, spec in specs.items() if name in given and spec.kind is TrackKind.BIGWIG]
    files = [] if around.gtf is None else [ShownFile("genes", around.gtf.resolve(), "gtf", _GENES)]
    files += [] if crispri is None else [ShownFile("CRISPRi", crispri.resolve(), "bedpe", _ELEMENTS)]
    for number, (spec, path) in enumerate(signals):
        colour = _SIGNALS[number % len(_SIGNALS)]
        kind = _KINDS[signal_format(path)]
        files.append(ShownFile(spec.name, signal_file(path)[0].resolve(), kind, colour, spec.unit))
    if mask is not None:
        files.append(ShownFile("element mask", mask.resolve(), "bigwig", _MASK))
    if elements is not None:
        files.append(ShownFile("elements", elements.resolve(), "bed", _ELEMENTS))
    return files


def crispri_lines(pairs: pd.DataFrame, loci: Iterable[Locus]) -> list[str]:
    """Return the tested pairs of the genes as BEDPE: the element, the gene's TSS, and what was found.

    Parameters
    ----------
    pairs : DataFrame
        Result of `data.pairs.read_pairs`.
    loci : iterable of Locus
        Windows of the genes; pairs that reach beyond are left out.
    """
    lines = []
    for locus in loci:
        for pair in pairs_of(pairs, locus).itertuples(index=False):
            said = "regulates" if pair.regulated else "no_effect_on"
            fields = (pair.chrom, pair.start, pair.end, locus.chrom, locus.tss, locus.tss + 1)
            lines.append("\t".join(map(str, (*fields, f"{said}_{locus.gene_id}", int(pair.regulated)))))
    return lines


def igv_session(predictions: Predictions, files: list[ShownFile], folder: Path) -> str:
    """Return an IGV session (XML) at the first gene, to be saved in `folder`; the genome is the model's assembly."""
    paths = [os.path.relpath(file.path, folder.resolve()) for file in files]
    first = predictions.locus(0)
    place = f"{first.chrom}:{max(first.start, 0) + 1}-{first.end}"
    lines = ['<?xml version="1.0" encoding="UTF-8" standalone="no"?>']
    lines.append(
        f'<Session genome={quoteattr(assembly_of(predictions.provenance))} locus={quoteattr(place)} version="8">'
    )
    lines.append("  <Resources>")
    lines += [f"    <Resource path={quoteattr(path)}/>" for path in paths]
    lines += ["  </Resources>", '  <Panel name="DataPanel">']
    for file, path in zip(files, paths, strict=True):
        name = quoteattr(excerpt(f"{file.name} ({file.unit})" if file.unit else file.name, _NAME_LETTERS))
        start = f"    <Track id={quoteattr(path)} name={name} color={_rgb(file.colour)}"
        if file.kind in ("gtf", "bed", "bedpe"):
            height = 'height="60" ' if file.kind == "bedpe" else ""  # IGV gives arcs a third of the screen otherwise
            lines.append(f'{start} {height}displayMode="COLLAPSED" visible="true"/>')
            continue
        fixed = file.colour == _MASK  # a probability; a signal's axis follows the view
        scale = '<DataRange baseline="0.0" minimum="0.0" maximum="1.0" flipAxis="false" type="LINEAR"/>'
        lines.append(
            f'{start} autoScale="{str(not fixed).lower()}" renderer="BAR_CHART" windowFunction="mean" height="60" '
            'visible="true"' + (f">{scale}</Track>" if fixed else "/>")
        )
    return "\n".join([*lines, "  </Panel>", "</Session>"]) + "\n"


def genome_tracks_ini(files: list[ShownFile]) -> str:
    """Return the settings of the same tracks for pyGenomeTracks."""
    signal: Mapping[str, object] = {"height": 2.5, "min_value": 0, "number_of_bins": 1000, "summary_method": "max"}
    lines = ["[x-axis]", "where = top", ""]
    for file in (file for file in files if file.kind != "bedpe"):  # its links read scores where BEDPE has names
        settings: Mapping[str, object] = {
            "gtf": {"height": 4, "prefered_name": "gene_name", "merge_transcripts": "true", "style": "UCSC"},
            "bigwig": signal,
            "bedgraph": signal,
            "bed": {"height": 0.8, "display": "collapsed", "labels": "false", "border_color": "none"},
        }[file.kind]
        if file.colour == _MASK:
            settings = {**settings, "max_value": 1, "summary_method": "mean"}
        title = f"{file.name} ({file.unit})" if file.unit else file.name
        lines += [f"[{file.name}]", f"file = {file.path}", f"file_type = {file.kind}", f"title = {title}"]
        lines += [f"color = {file.colour}", *(f"{name} = {value}" for name, value in settings.items()), ""]
        lines += ["[spacer]", "height = 0.2", ""] if file is not files[-1] else []
    return "\n".join(lines)


def _rgb(colour: str) -> str:
    return quoteattr(",".join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5)))
