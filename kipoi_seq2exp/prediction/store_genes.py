"""Which genes a result holds: from its own metadata, which our results and Kipoi's share, or from the gene table.

Also the origin that an output of `kipoi predict` states, in the form that our results use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kipoi_seq2exp.data.genes import NAME_COLUMN
from kipoi_seq2exp.data.naming import check_places
from kipoi_seq2exp.data.tracks.contacts import POWERLAW
from kipoi_seq2exp.errors import InputError


def genes_of(path: Path, root: Any, genes: pd.DataFrame | None) -> pd.DataFrame:
    """Return gene_id, chrom, strand, start, end and tss (and the symbol, where it is stored) of each row of a result.

    Parameters
    ----------
    path : Path
        The result, for messages.
    root : mapping of str to arrays
    genes : DataFrame or None
        The gene table that was predicted; what the metadata says must agree with it.

    Raises
    ------
    InputError
        If neither names the genes, or they disagree.
    """
    if not holds(root, "metadata/ranges/chr"):
        return _given_genes(path, root, genes)
    table = _read_genes(path, root)
    if genes is not None:
        check_places(_places(genes), _places(table), "the gene table", f"{path}")
    return table


def _read_genes(path: Path, root: Any) -> pd.DataFrame:
    """Read the genes from the metadata that ours and Kipoi's outputs share."""
    identifier = "metadata/gene_id" if holds(root, "metadata/gene_id") else "metadata/ranges/id"
    names = {"gene_id": identifier, "chrom": "metadata/ranges/chr", "strand": "metadata/ranges/strand"}
    try:
        table = pd.DataFrame({column: texts(root[name]) for column, name in names.items()})
        for column in ("start", "end"):
            table[column] = np.asarray(root[f"metadata/ranges/{column}"][...]).astype(np.int64).ravel()
    except KeyError as error:
        raise InputError(f"{path}: the metadata of the genes is incomplete ({error.args[0]}).") from None
    table["tss"] = (table["start"] + table["end"]) // 2
    if holds(root, f"metadata/{NAME_COLUMN}"):
        table[NAME_COLUMN] = texts(root[f"metadata/{NAME_COLUMN}"])
    return table


def _places(genes: pd.DataFrame) -> dict[str, tuple[str, int]]:
    return dict(zip(genes["gene_id"], zip(genes["chrom"], genes["tss"], strict=True), strict=True))


def _given_genes(path: Path, root: Any, genes: pd.DataFrame | None) -> pd.DataFrame:
    """Take the genes from a table, for an output of Kipoi that was made without metadata."""
    if genes is None:
        raise InputError(
            f"{path} does not say which genes it holds: run `kipoi predict` with --keep_metadata, or give the gene "
            f"table that was predicted."
        )
    table = genes[["gene_id", "chrom", "tss", "strand"]].reset_index(drop=True)
    length = root["preds/element_mask"].shape[1] if holds(root, "preds/element_mask") else 0
    return table.assign(start=table["tss"] - length // 2, end=table["tss"] + length // 2)


def texts(values: Any) -> list[str]:
    """Return the values of an array on disk as text; a damaged one that is not text is a ValueError."""
    found = [item.decode() if isinstance(item, bytes) else str(item) for item in np.asarray(values[...]).ravel()]
    "".join(found).encode().decode()  # fails on half a character and on numbers outside Unicode
    return found


def holds(root: Any, name: str) -> bool:
    """Whether there is an array of this name."""
    return name in root


def provenance_of_kipoi(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Return the origin of a Kipoi output: what its weights read, and where the tracks lie.

    Parameters
    ----------
    made_by : Mapping
        What our data loader noted in the output; paths are relative to its `folder`.
    """
    origin: dict[str, Any] = {"inputs": made_by["reads"]}
    origin |= {name: made_by[name] for name in ("chrom_lengths", "weights") if name in made_by}
    sources = made_by.get("inputs", {}).get("sources", {})
    if "folder" in made_by:
        folder = Path(made_by["folder"])
        origin["sources"] = {name: at if at == POWERLAW else str(folder / at) for name, at in sources.items()}
    return origin
