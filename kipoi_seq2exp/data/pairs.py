"""Element-gene pairs tested by CRISPRi, in the ENCODE benchmark's format, and the baselines that need no model.

Contract: the file as it is published (EPCrisprBenchmark, tab-separated, plain or .gz) in; one row per valid pair out.
Coordinates are 0-based and half-open, hg38.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.tables import read_table
from kipoi_seq2exp.data.text import whole_number
from kipoi_seq2exp.data.tracks.contacts import powerlaw_contact
from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.settings import suggest

Floats = NDArray[np.float64]

NEEDED = ("chrom", "chromStart", "chromEnd", "startTSS", "endTSS", "measuredGeneEnsemblId", "Regulated")
OPTIONAL = ("name", "measuredGeneSymbol", "ValidConnection", "CellType", "distanceToTSS", "DHS.RPM", "H3K27ac.RPM")
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def read_pairs(path: Path, cell_type: str | None = None) -> pd.DataFrame:
    """Read the valid pairs of a benchmark file.

    Parameters
    ----------
    path : Path
    cell_type : str, optional
        Keep only the pairs of this cell type.

    Returns
    -------
    DataFrame
        chrom, start, end, gene_id (Ensembl, without version), symbol, tss, distance (bp from TSS to element, the file's
        own where it has it), regulated (bool), name, cell_type, and dhs, h3k27ac (RPM; NaN where the file has none).
        ``attrs["invalid"]`` is the number of pairs that the file itself marks as invalid.

    Raises
    ------
    InputError
        If the file is missing, damaged or empty, a column is missing, or a value is not what its column needs.
    """
    table = read_table(path, f"pairs in the ENCODE CRISPRi benchmark's format {path}", NEEDED)
    if not table.rows:
        raise InputError(f"{path} holds no pairs.")
    lines = table.lines
    text = table.frame()[[name for name in (*NEEDED, *OPTIONAL) if name in table.columns]]
    numbers = {name: _whole(path, text, name, lines) for name in ("chromStart", "chromEnd", "startTSS", "endTSS")}
    start, end = numbers["chromStart"], numbers["chromEnd"]
    wrong = np.flatnonzero(start > end)
    if wrong.size:
        at = int(wrong[0])
        raise InputError(f"{path}, line {lines[at]}: the element {start[at]}-{end[at]} is reversed.")
    end = np.maximum(end, start + 1)  # the published held-out set names some elements by one position
    tss = (numbers["startTSS"] + numbers["endTSS"]) // 2
    pairs = pd.DataFrame({"chrom": text["chrom"].astype(str), "start": start, "end": end})
    pairs["gene_id"] = [str(gene).split(".")[0] for gene in text["measuredGeneEnsemblId"]]
    pairs["symbol"] = text.get("measuredGeneSymbol", pairs["gene_id"])
    pairs["tss"] = tss
    pairs["distance"] = _optional(path, text, "distanceToTSS", lines, np.abs((start + end) // 2 - tss))
    pairs["regulated"] = _truth(path, text, "Regulated", lines)
    pairs["name"] = text.get("name", pairs["symbol"])
    pairs["cell_type"] = text.get("CellType", pd.Series("", index=text.index))
    pairs["dhs"] = _optional(path, text, "DHS.RPM", lines, np.full(len(text), np.nan))
    pairs["h3k27ac"] = _optional(path, text, "H3K27ac.RPM", lines, np.full(len(text), np.nan))
    valid = (
        _truth(path, text, "ValidConnection", lines) if "ValidConnection" in text else np.ones(len(text), dtype=bool)
    )
    if cell_type is not None:
        cells = sorted(set(pairs["cell_type"]))
        if cell_type not in cells:
            raise InputError(f"{path} has no pairs of the cell type '{cell_type}'{suggest(cell_type, cells)}.")
        chosen = (pairs["cell_type"] == cell_type).to_numpy()
        pairs, valid = pairs[chosen], valid[chosen]
    kept = pairs[valid].reset_index(drop=True)
    kept.attrs = {"invalid": int((~valid).sum())}
    if not len(kept):
        raise InputError(f"{path} holds no valid pairs.")
    return kept


def pairs_of(pairs: pd.DataFrame, locus: Locus) -> pd.DataFrame:
    """Return the pairs of one gene whose element overlaps its window, sorted by start."""
    own = (pairs["gene_id"] == locus.gene_id.split(".")[0]) & (pairs["chrom"] == locus.chrom)
    own &= (pairs["end"] > locus.start) & (pairs["start"] < locus.end)
    return pairs[own].sort_values(["start", "end"], ignore_index=True)


def file_baselines(pairs: pd.DataFrame) -> dict[str, Floats]:
    """Return the baselines that follow from the file: nearness, DNase, H3K27ac, and both with power-law contact.

    Contact is the power law of the ABC model: without candidate elements round each gene, the ABC score's denominator
    cannot be computed from this file, so the products are its numerator.
    """
    scores: dict[str, Floats] = {"distance to TSS": -pairs["distance"].to_numpy(np.float64)}
    contact = powerlaw_contact(pairs["distance"].to_numpy(np.float64))
    dhs, h3k27ac = (pairs[name].to_numpy(np.float64) for name in ("dhs", "h3k27ac"))
    if not np.isnan(dhs).any():
        scores["DNase (file)"] = dhs
        scores["DNase x power law (file)"] = dhs * contact
    if not np.isnan(h3k27ac).any():
        scores["H3K27ac (file)"] = h3k27ac
    if not np.isnan(dhs * h3k27ac).any():
        scores["ABC numerator (file)"] = np.sqrt(dhs * h3k27ac) * contact
    return scores


def _whole(path: Path, text: pd.DataFrame, name: str, lines: Sequence[int]) -> NDArray[np.int64]:
    values = np.empty(len(text), dtype=np.int64)
    for row, entry in enumerate(text[name]):
        values[row] = whole_number(entry, f"{path}, line {lines[row]}", name)
    return values


def _optional(path: Path, text: pd.DataFrame, name: str, lines: Sequence[int], fallback: NDArray[np.generic]) -> Floats:
    if name not in text:
        return fallback.astype(np.float64)
    values = np.empty(len(text))
    for row, entry in enumerate(text[name]):
        try:
            values[row] = float("nan") if entry in ("", "NA", "nan") else float(entry)
        except ValueError:
            raise InputError(f"{path}, line {lines[row]}: {name} is '{entry}', not a number.") from None
    return np.where(np.isnan(values), fallback.astype(np.float64), values)


def _truth(path: Path, text: pd.DataFrame, name: str, lines: Sequence[int]) -> NDArray[np.bool_]:
    values = np.empty(len(text), dtype=bool)
    for row, entry in enumerate(text[name]):
        if entry.lower() not in _TRUTH:
            raise InputError(f"{path}, line {lines[row]}: {name} is '{entry}', neither TRUE nor FALSE.")
        values[row] = _TRUTH[entry.lower()]
    return values
