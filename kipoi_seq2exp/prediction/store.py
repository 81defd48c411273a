"""Results on disk: the working store of a prediction run, and one reader for it and for `kipoi predict` outputs.

The store is Zarr 2 with the names that Kipoi's own outputs use, one chunk per gene (`done`, like the metadata, is a
single one, there from the start: a lost chunk is never mistaken for genes that are still to be predicted):

    metadata/gene_id, metadata/ranges/{chr,start,end,strand}   (G,)     the genes, in the order of the gene table
    metadata/observed                                          (G,)     label of each gene, if the table has one
    metadata/gene_name                                         (G,)     symbol of each gene, if the table has them
    preds/expression                                           (G, 1)   in the unit of the weights' label
    preds/element_mask                                         (G, L)   mask that the encoder saw, if there is one
    preds/beta_{alpha,beta}                                    (G, L)   concentrations of z, if asked for
    stats/known_fraction                                       (G,)     bases of the window that are A, C, G or T
    stats/expression_sd                                        (G,)     of an ensemble: deviation over its members
    done                                                       (G,)     1 once everything else of the gene is written

A gene's row is therefore complete or absent, whenever the run stops. The attribute `request` holds everything that
the numbers depend on; a run resumes only under the same request. `batch_size` is what the last run used: batches do not
change a number on the CPU, and on CUDA a run that goes on uses the same ones.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.genes import NAME_COLUMN, GeneNames
from kipoi_seq2exp.data.handles import Closes
from kipoi_seq2exp.data.windows import Locus, Window
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.files import output_error, whole_file
from kipoi_seq2exp.prediction.store_files import check_arrays, check_chunks, damaged, open_hdf5, open_zarr, reading
from kipoi_seq2exp.prediction.store_genes import genes_of, holds, provenance_of_kipoi, texts

STORE_NAME = "predictions.zarr"
IN_MEMORY = Path("the predictions in memory")
FORMAT = "kipoi_seq2exp predictions 1"
PROMOTER_BP = 2_000
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """Everything that is stored for one gene.

    Attributes
    ----------
    expression : float
        In the unit of the weights' label.
    known_fraction : float
        Bases of the window that are A, C, G or T.
    mask, alpha, beta : ndarray of float32 or None, (L,)
        Mask that the encoder saw; concentrations of z.
    spread : float or None
        Standard deviation of the expression over the members of an ensemble.
    """

    expression: float
    known_fraction: float
    mask: Floats | None = None
    alpha: Floats | None = None
    beta: Floats | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Layout:
    """What a new store holds: the genes and which arrays.

    Attributes
    ----------
    genes : DataFrame
        Columns gene_id, chrom, start, end, strand; `observed` if there are labels; `gene_name` if there are symbols.
    window_bp : int
    has_mask, has_beta, has_spread : bool
    request : Mapping
        Everything that the numbers depend on.
    provenance : Mapping
        What every result from the store states about its origin.
    """

    genes: pd.DataFrame
    window_bp: int
    has_mask: bool
    has_beta: bool
    request: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    has_spread: bool = False


class PredictionStore:
    """The working store of a run, open for writing rows.

    Made by `create` or `reopen`; every error of the disk is an `OutputError` of one sentence.
    """

    def __init__(self, path: Path, root: Any) -> None:
        self.path = path
        self._root = root
        self._arrays: dict[str, Any] = {}  # looking one up by its name reads its description again

    @classmethod
    def create(cls, path: Path, layout: Layout) -> PredictionStore:
        """Make a new store, whole or not at all; there must be none at `path`."""
        import zarr

        with whole_file(path) as temporary:
            root = zarr.group(zarr.DirectoryStore(str(temporary)), overwrite=True)
            _lay_out(root, layout)
        return cls(path, zarr.open_group(str(path), mode="r+"))

    @classmethod
    def in_memory(cls, layout: Layout) -> PredictionStore:
        """Make a store in memory, which disappears with the process."""
        import zarr

        root = zarr.group(zarr.MemoryStore())
        _lay_out(root, layout)
        return cls(IN_MEMORY, root)

    def predictions(self) -> Predictions:
        """Return the predictions of the genes that are complete."""
        return predictions_of(self.path, self._root)

    @classmethod
    def reopen(cls, path: Path) -> PredictionStore:
        """Open the store of an earlier run.

        Raises
        ------
        InputError
            If it is not such a store.
        """
        root = open_zarr(path, "r+")
        with reading(path):
            check_arrays(path, root)
            json.loads(root.attrs["request"])
        return cls(path, root)

    @property
    def request(self) -> dict[str, Any]:
        """Everything that the numbers of this store depend on."""
        request: dict[str, Any] = json.loads(self._root.attrs.get("request", "{}"))
        return request

    @property
    def gene_ids(self) -> tuple[str, ...]:
        """The genes of the run, complete or not."""
        return tuple(texts(self._root["metadata/gene_id"][:]))

    @property
    def batch_size(self) -> int | None:
        """Windows that went through the network together, in the last run that filled this store."""
        size = self._root.attrs.get("batch_size")
        return None if size is None else int(size)

    def remember_batch_size(self, size: int) -> None:
        """Note the batch size of a run, so that it goes on with the same batches.

        Raises
        ------
        OutputError
            If it cannot be written to the disk.
        """
        if size == self.batch_size:
            return
        try:
            self._root.attrs["batch_size"] = size
        except OSError as error:
            raise output_error(self.path, error) from None

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which genes are complete, (G,); empty where the store was removed, as before the first gene."""
        if "done" not in self._root:
            return np.zeros(0, dtype=np.bool_)
        with reading(self.path):
            return np.asarray(self._root["done"][:] == 1)

    def write(self, index: int, row: Row) -> None:
        """Store the row of one gene; its `done` flag comes last.

        Raises
        ------
        OutputError
            If it cannot be written to the disk; the gene then stays absent.
        """
        arrays = {
            "preds/expression": row.expression,
            "preds/element_mask": row.mask,
            "preds/beta_alpha": row.alpha,
            "preds/beta_beta": row.beta,
            "stats/known_fraction": row.known_fraction,
            "stats/expression_sd": row.spread,
        }
        try:
            for name, value in arrays.items():
                if value is not None and (array := self._array(name)) is not None:
                    array[index] = value
            self._array("done")[index] = 1
        except OSError as error:
            raise output_error(self.path, error) from None

    def _array(self, name: str) -> Any:
        """Return an array, or None where the store was made without it."""
        if name not in self._arrays:
            self._arrays[name] = self._root.get(name)
        return self._arrays[name]


def _lay_out(root: Any, layout: Layout) -> None:
    genes, count = layout.genes, len(layout.genes)
    texts = {"gene_id": "gene_id", "ranges/chr": "chrom", "ranges/strand": "strand", "ranges/id": "gene_id"}
    for name, column in texts.items():
        root.create_dataset(f"metadata/{name}", data=genes[column].to_numpy(dtype="U"), chunks=(count,))
    for name in ("start", "end"):
        root.create_dataset(f"metadata/ranges/{name}", data=genes[name].to_numpy(np.int64), chunks=(count,))
    if NAME_COLUMN in genes:
        symbols = genes[NAME_COLUMN].fillna("").to_numpy(dtype="U")
        root.create_dataset(f"metadata/{NAME_COLUMN}", data=symbols, chunks=(count,))
    if "observed" in genes:
        root.create_dataset("metadata/observed", data=genes["observed"].to_numpy(np.float64), chunks=(count,))
    per_base = ["element_mask"] * layout.has_mask + ["beta_alpha", "beta_beta"] * layout.has_beta
    for name in per_base:
        shape = (count, layout.window_bp)
        root.create_dataset(f"preds/{name}", shape=shape, chunks=(1, shape[1]), dtype="f4", fill_value=np.nan)
    root.create_dataset("preds/expression", shape=(count, 1), chunks=(1, 1), dtype="f4", fill_value=np.nan)
    root.create_dataset("stats/known_fraction", shape=(count,), chunks=(1,), dtype="f8", fill_value=np.nan)
    if layout.has_spread:
        root.create_dataset("stats/expression_sd", shape=(count,), chunks=(1,), dtype="f4", fill_value=np.nan)
    root.create_dataset("done", data=np.zeros(count, dtype="u1"), chunks=(count,))
    root.attrs.update(
        format=FORMAT,
        request=json.dumps(layout.request, sort_keys=True),
        provenance=json.dumps(layout.provenance),
    )


def is_store(path: Path) -> bool:
    """Whether `path` is a store of ours."""
    try:
        return bool(open_zarr(path, "r").attrs.get("format") == FORMAT)
    except InputError:
        return False


# ------------------------------------------------------------------------------------------------------- one reader


class Predictions(Closes):
    """Predictions of a set of genes, read from any of our or Kipoi's outputs; masks one gene at a time.

    Attributes
    ----------
    path : Path
    genes : DataFrame
        One row per complete gene: gene_id, chrom, start, end, tss, strand, expression, known_fraction (NaN where the
        file has none), `observed` if there are labels, and `gene_name` if there are symbols.
    has_mask, has_beta : bool
        Whether `mask` and `concentrations` return arrays.
    provenance : dict
        As stored; for Kipoi's outputs the weights, what was read, and the lengths of the chromosomes.
    """

    def __init__(self, path: Path, root: Any, genes: pd.DataFrame, rows: NDArray[np.int64]) -> None:
        self.path, self.genes = path, genes
        self._root, self._rows = root, rows
        self._arrays: dict[str, Any] = {}
        self.has_mask = holds(root, "preds/element_mask")
        self.has_beta = holds(root, "preds/beta_alpha")
        attributes = dict(root.attrs)
        self.provenance: dict[str, Any] = json.loads(attributes.get("provenance", "{}"))
        made_by = json.loads(attributes.get("made_by", "{}"))
        if made_by.get("reads") and not self.provenance:  # of `kipoi predict`: what the weights read, units and label
            self.provenance = provenance_of_kipoi(made_by)
        self.request: dict[str, Any] = json.loads(attributes.get("request", "{}"))

    def __len__(self) -> int:
        return len(self.genes)

    def close(self) -> None:
        """Close the file."""
        if hasattr(self._root, "close"):
            self._root.close()

    def select(self, gene_ids: Sequence[str]) -> Predictions:
        """Return the predictions of some genes, in the order asked for; they share this open file.

        Raises
        ------
        InputError
            If there is no such gene.
        """
        chosen = [self.index(gene_id) for gene_id in gene_ids]
        return Predictions(self.path, self._root, self.genes.iloc[chosen].reset_index(drop=True), self._rows[chosen])

    def index(self, gene_id: str) -> int:
        """Return the place of a gene in `genes`, by id or, where the file has them, by symbol.

        Raises
        ------
        InputError
            If there is no such gene, or a symbol stands for several.
        """
        return self._names.row(gene_id)

    @functools.cached_property
    def _names(self) -> GeneNames:
        return GeneNames(self.genes, str(self.path))

    @property
    def promoter(self) -> slice:
        """Bases of the window that the model always keeps: the published 2 kb where the file does not say."""
        length = int(self._root["preds/element_mask"].shape[1]) if self.has_mask else 0
        promoter_bp = min(self.provenance.get("inputs", {}).get("promoter_bp", PROMOTER_BP), length)
        start = (length - promoter_bp) // 2
        return slice(start, start + promoter_bp)

    def locus(self, index: int) -> Locus:
        """Return where the window of one gene lies."""
        return self._loci[index]

    @functools.cached_property
    def _loci(self) -> list[Locus]:
        columns = [self.genes[name].tolist() for name in ("gene_id", "chrom", "start", "end", "tss", "strand")]
        return [Locus(*values) for values in zip(*columns, strict=True)]

    def on_chromosome(self, index: int) -> slice:
        """Return the bases of a gene's window that lie on its chromosome; without its length, those from base 0 on."""
        locus = self.locus(index)
        length = self.provenance.get("chrom_lengths", {}).get(locus.chrom, locus.end)
        start, end = Window(locus.chrom, locus.start, locus.end).inside(int(length))
        return slice(start - locus.start, end - locus.start)

    def mask(self, index: int) -> Floats | None:
        """Return the mask of one gene, (L,), 0 where the window reaches beyond its chromosome, or None without one.

        Everything that calls, counts, draws or writes a mask reads it here. Code that runs the network again takes
        `network_mask`.
        """
        mask = self.network_mask(index)
        if mask is not None:
            inside = self.on_chromosome(index)
            mask[: inside.start] = mask[inside.stop :] = 0
        return mask

    def network_mask(self, index: int) -> Floats | None:
        """Return the mask of one gene as the encoder read it, (L,), or None when there is none."""
        return self._bases("preds/element_mask", index) if self.has_mask else None

    def concentrations(self, index: int) -> tuple[Floats, Floats] | None:
        """Return alpha and beta of one gene's z, (L,) each, or None when they were not stored."""
        if not self.has_beta:
            return None
        return self._bases("preds/beta_alpha", index), self._bases("preds/beta_beta", index)

    def _bases(self, name: str, index: int) -> Floats:
        with reading(self.path):
            if name not in self._arrays:
                self._arrays[name] = self._root[name]  # which reads its description again each time
            values: Floats = np.asarray(self._arrays[name][int(self._rows[index])], dtype=np.float32)
        return values


def read_predictions(path: str | Path, genes: pd.DataFrame | None = None) -> Predictions:
    """Open predictions: a results folder, its predictions.zarr, or an .h5/.zarr file of `kipoi predict`.

    Parameters
    ----------
    path : str or Path
    genes : DataFrame, optional
        The gene table that was predicted (gene_id, chrom, tss, strand). Needed only for a Kipoi output without
        metadata; its rows must then be the output's, in the same order. Metadata that is there must agree with it.

    Raises
    ------
    InputError
        If the file is missing or damaged, holds no predictions, or names no genes or other genes than the table.
    """
    path = Path(path)
    if path.is_dir() and (path / STORE_NAME).exists():
        path = path / STORE_NAME
    root = open_arrays(path)
    with reading(path):
        return predictions_of(path, root, genes)


def predictions_of(path: Path, root: Any, genes: pd.DataFrame | None = None) -> Predictions:
    """Return the predictions that open arrays hold; see `read_predictions`."""
    ours = root.attrs.get("format") == FORMAT
    if ours:
        check_arrays(path, root)
    expression = np.asarray(root["preds/expression" if holds(root, "preds/expression") else "preds"][...])
    expression = expression.reshape(len(expression), -1)[:, 0].astype(np.float64)
    table = genes_of(path, root, genes)
    if len(table) != len(expression):
        raise InputError(
            f"{path} holds predictions of {len(expression)} genes but names {len(table)}: the table must list the "
            f"genes that were predicted, in the same order."
        )
    table["expression"] = expression
    known = "stats/known_fraction"
    table["known_fraction"] = np.asarray(root[known][...]) if holds(root, known) else np.nan
    if holds(root, "stats/expression_sd"):
        table["expression_sd"] = np.asarray(root["stats/expression_sd"][...], dtype=np.float64)
    if holds(root, "metadata/observed"):
        table["observed"] = np.asarray(root["metadata/observed"][...], dtype=np.float64)
    done = np.asarray(root["done"][...]) == 1 if holds(root, "done") else np.ones(len(table), dtype=bool)
    rows = np.flatnonzero(done)
    if path.is_dir():
        check_chunks(path, root, rows.tolist())
    if ours and not np.isfinite(expression[rows]).all():
        raise damaged(path, "an expression is not a number")
    return Predictions(path, root, table.iloc[rows].reset_index(drop=True), rows)


def open_arrays(path: Path) -> Any:
    """Open an .h5 or .zarr of predictions; arrays lie under Kipoi's names.

    Raises
    ------
    InputError
        If it is missing or damaged, or holds no predictions.
    """
    root = open_hdf5(path) if path.suffix in (".h5", ".hdf5") else open_zarr(path, "r")
    if not holds(root, "preds"):
        raise InputError(f"{path} holds no predictions: give a results folder, or an .h5 or .zarr of `kipoi predict`.")
    return root
