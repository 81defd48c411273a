"""The files a biologist opens, made from a store of predictions: gene table, elements, mask track, provenance.

Contract: everything is written to temporary names first and renamed together at the end, so that a results folder
never mixes two runs. The gene table and the elements hold no time stamps: the same store gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kipoi_seq2exp.data.tables import write_tsv
from kipoi_seq2exp.elements.calls import (
    DISTANCE_WORDS,
    KEPT_WORDS,
    CallSettings,
    call_elements,
    join_elements,
    kept_fraction,
    place_all,
)
from kipoi_seq2exp.elements.mask_track import OVERLAP_RULE, write_mask_track
from kipoi_seq2exp.files import whole_file
from kipoi_seq2exp.prediction.store import Predictions
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.zoo.registry import PROVISIONAL

TABLE, ELEMENTS, TRACK, PROVENANCE = "predictions.tsv", "elements.bed", "element_mask.bw", "provenance.json"
PLACED_TOGETHER = 256  # genes: a table each is slow, and small arrays of all genes between large ones split up the heap

DECIMALS = 6
_DECIMAL_COLUMNS = (
    "expression",
    "expression_sd",
    "observed",
    "kept_fraction",
    "mean_mask",
    "known_fraction",
    "max_mask",
)


@dataclass(frozen=True)
class Summary:
    """What was found in a store, and the files it was written to.

    Attributes
    ----------
    genes : DataFrame
        The rows of the gene table.
    elements : DataFrame
        Called elements, columns as in `calls.COLUMNS`; empty when the model makes no mask.
    files : tuple of Path
    """

    genes: pd.DataFrame
    elements: pd.DataFrame
    files: tuple[Path, ...] = ()


def summarise(predictions: Predictions, calls: CallSettings) -> Summary:
    """Call the elements of every gene, and add to the gene table what its mask keeps.

    The table's columns: gene_id, chrom, tss, strand, start, end, expression, expression_sd (of an ensemble: the
    standard deviation over its members), observed (if there are labels), kept_fraction (`calls.KEPT_WORDS`), mean_mask
    (over the window), n_elements, known_fraction (the share of bases other than N).
    """
    tables, found, rows = [], [], []
    for index in range(len(predictions)):
        mask = predictions.mask(index)
        if mask is None:
            rows.append((np.nan, np.nan, 0))
            continue
        called = call_elements(mask, predictions.promoter, calls)
        found.append((called, predictions.locus(index)))
        rows.append((kept_fraction(mask, called.threshold), float(mask.mean(dtype=np.float64)), len(called)))
        if len(found) == PLACED_TOGETHER:
            tables.append(place_all(found))
            found = []
    masks = pd.DataFrame(rows, columns=["kept_fraction", "mean_mask", "n_elements"])
    genes = pd.concat([predictions.genes, masks], axis=1)
    columns = ["gene_id", "chrom", "tss", "strand", "start", "end", "expression"]
    columns += [name for name in ("expression_sd", "observed") if name in genes]
    columns += ["kept_fraction", "mean_mask", "n_elements", "known_fraction"]
    if not predictions.has_mask:
        columns = [name for name in columns if name not in masks]
    return Summary(genes[columns], join_elements([*tables, place_all(found)]))


def write_results(
    predictions: Predictions, folder: Path, calls: CallSettings, about_run: Mapping[str, Any] | None = None
) -> Summary:
    """Write every file of a results folder.

    Parameters
    ----------
    predictions : Predictions
        Read from a store of a prediction run.
    folder : Path
    calls : CallSettings
    about_run : Mapping, optional
        Facts about this run alone (command line, versions, device, time) for provenance.json.

    Raises
    ------
    OutputError
        If a file cannot be written; then none is.
    """
    summary = summarise(predictions, calls)
    names = [TABLE, PROVENANCE] + [ELEMENTS, TRACK] * predictions.has_mask
    files = tuple(folder / name for name in names)
    with ExitStack() as stack:
        temporary = {path.name: stack.enter_context(whole_file(path)) for path in files}
        header = describe_lines(predictions.provenance, calls)
        write_tsv(as_texts(summary.genes), temporary[TABLE], header)
        if predictions.has_mask:
            write_tsv(as_texts(summary.elements), temporary[ELEMENTS], header, comment_names=True)
            write_mask_track(predictions, temporary[TRACK])
        whole = {**predictions.provenance, "elements": to_mapping(calls), "mask_overlap_rule": OVERLAP_RULE}
        text = json.dumps({**whole, "n_genes": len(predictions), **(about_run or {})}, indent=2)
        temporary[PROVENANCE].write_text(text + "\n", encoding="utf-8")
    return Summary(summary.genes, summary.elements, files)


def as_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its numbers as texts, with the decimals of result files."""
    texts = {
        name: ["" if np.isnan(value) else f"{value:.{DECIMALS}f}" for value in table[name]]
        for name in _DECIMAL_COLUMNS
        if name in table
    }
    return table.assign(**texts)


def describe_lines(provenance: Mapping[str, Any], calls: CallSettings | None = None) -> list[str]:
    """Return what a reader of the results must know, a line each; the first says whether weights are provisional."""
    if "model" not in provenance:
        return []
    model, inputs, dataset = provenance["model"], provenance["inputs"], provenance["dataset"]
    trained = model["provenance"]["trained_on"] or model["provenance"]["source"] or "not recorded"
    lines = [
        f"{status_line(model['name'], model['provenance']['status'])}; weights from: {trained}",
        f"kipoi_seq2exp {provenance['package']}; weights SHA-256 {model['weights_sha256']}; cell type "
        f"{inputs['cell_type']}, assembly {inputs['assembly']}; coordinates 0-based, half-open",
        f"expression: {inputs['label']}",
    ]
    if provenance["label"]:
        lines.append(f"observed: column '{provenance['label']}' of the gene table")
    for name, track in dataset["tracks"].items():
        lines.append(f"track {name}: {track['source']} ({track['transform']})")
    lines.append(f"missing features: {dataset['missing_features']}")
    if provenance["mask"] and calls is not None:
        lines.append(
            f"elements: {calls.rule} outside the {inputs['promoter_bp']:,}-bp promoter, gaps up to "
            f"{calls.merge_gap_bp} bp joined, at least {calls.min_length_bp} bp; mask: {provenance['mask']}, "
            "0 beyond the chromosome's ends"
        )
        lines.append(f"kept_fraction: {KEPT_WORDS}; distance_to_tss: {DISTANCE_WORDS}")
    return lines


def status_line(name: str, status: str) -> str:
    """Return the first line of every output: the model, and whether its weights are provisional."""
    name = Path(name).name
    if status == PROVISIONAL:
        return f"provisional weights: {name} is for testing the software, do not use its numbers"
    return f"model {name} ({status} weights)"
