"""What a prediction run is asked for, and the model and windows that this opens.

Contract: a `PredictRequest` is checked piece by piece before anything is computed or written; `fingerprint` is
everything that the resulting numbers depend on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp import __version__
from kipoi_seq2exp.config import MOST_BATCH, InputSpec, MaskMode
from kipoi_seq2exp.data.cells import cell_inputs, read_cells
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.data.tracks.contact_files import gene_file
from kipoi_seq2exp.data.tracks.contacts import POWERLAW
from kipoi_seq2exp.data.tracks.signals import signal_file
from kipoi_seq2exp.errors import ConfigError, InputError, WeightsError
from kipoi_seq2exp.files import file_sha256, input_mark
from kipoi_seq2exp.settings import suggest, to_mapping

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp

LABEL_COLUMNS = ("observed", "label", "expression")
"""Columns of a gene table that are taken for the label when none is named."""


@dataclass(frozen=True)
class PredictRequest:
    """What to predict, from what, with which model.

    Attributes
    ----------
    model : str
        Name of a served model, or a .safetensors file.
    genes, fasta : Path
    sources : Mapping
        Track name to file, or to "powerlaw" for contacts without Hi-C.
    blacklist : Path or None
        BED of bases that the mask may not keep.
    peaks : Path or None
        BED or narrowPeak to use as the mask instead of the model's own.
    missing_features : str
        "error" or "mean".
    gene_ids : tuple of str or None
        Predict only these genes, in this order: ids, or symbols where the gene table has them.
    gene_type : str or None
        Predict only the genes of this type ("protein_coding"), as stated in a GTF.
    label : str or None
        Column of the gene table with the observed expression; by default the first of `LABEL_COLUMNS` there is.
    cell_type : str or None
        Row of the table of cell types, for weights that do not name their inputs.
    cells : Path or None
        Table of cell types of the user's own, beside the package's.
    mask_mode : MaskMode or None
        How the mask is read from the model's probabilities; by default as the model was made.
    device : str or None
        E.g. "cpu" or "cuda"; by default CUDA where there is one.
    batch_size : int
        Windows that go through the network together; changes memory and speed only.
    auto_batch : bool
        Let `run.prepare` choose the batch size instead (`batches`); a resumed run keeps the choice.
    memory_bytes : int or None
        Memory that such a batch may take; by default most of the free memory.
    projections : str or None
        As in `load_model`.
    save_beta : bool
        Store the concentrations of every base too (twice the size of the masks), for credible bands.
    """

    model: str
    genes: Path
    fasta: Path
    sources: Mapping[str, str] = field(default_factory=dict)
    blacklist: Path | None = None
    peaks: Path | None = None
    missing_features: str = "error"
    gene_ids: tuple[str, ...] | None = None
    gene_type: str | None = None
    label: str | None = None
    cell_type: str | None = None
    cells: Path | None = None
    mask_mode: MaskMode | None = None
    device: str | None = None
    batch_size: int = 1
    auto_batch: bool = False
    memory_bytes: int | None = None
    projections: str | None = None
    save_beta: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MOST_BATCH:
            raise ConfigError(
                f"the batch size must be at least 1 and at most {MOST_BATCH:,}, found {self.batch_size:,}."
            )

    def files(self) -> dict[str, Path]:
        """Return every input file by its purpose."""
        named = {"genes": self.genes, "fasta": self.fasta, "blacklist": self.blacklist, "peaks": self.peaks}
        tracks = {f"track {name}": Path(source.split("::")[0]) for name, source in self.sources.items()}
        tracks = {name: path for name, path in tracks.items() if str(path) != POWERLAW and "{gene_id}" not in str(path)}
        return {name: path for name, path in {**named, **tracks}.items() if path is not None}


def open_model(request: PredictRequest) -> tuple[Seq2Exp, str]:
    """Load the model of a request, with the mask mode it asks for; return it and the SHA-256 of its weights."""
    from kipoi_seq2exp.zoo.models import find_weights, load_model

    file = find_weights(request.model)
    model = load_model(file, checked_device(request.device), projections=request.projections)
    if request.mask_mode is not None:
        if not model.config.generates_mask or request.peaks is not None:
            raise ConfigError(f"mask mode '{request.mask_mode.value}': the model makes no mask in this run.")
        model.config = dataclasses.replace(model.config, mask_mode=request.mask_mode)
    return model, file_sha256(file)


def checked_device(name: str | None) -> str | None:
    """Return the device's name if torch can compute on it here; refuse it otherwise."""
    if name is None:
        return None
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"device '{name}' cannot be used here ({reason}): try cpu.") from None
    return name


def inputs_of(model: Seq2Exp, cell_type: str | None, cells: Path | None = None) -> InputSpec:
    """Return what the model reads, from its weights or from the table of cell types.

    Raises
    ------
    WeightsError
        If neither states it, or what is stated does not fit the network.
    """
    inputs = model.inputs
    if cells is not None:
        read_cells(cells)  # a wrong file is told, even where the weights say all
    if cell_type is not None:
        row = cell_inputs(cell_type, cells)
        if inputs is not None and inputs.track_names != row.track_names:
            raise WeightsError(
                f"these weights read the tracks {', '.join(inputs.track_names)}, the cell type '{cell_type}' has "
                f"{', '.join(row.track_names)}."
            )
        inputs = row if inputs is None else inputs
    if inputs is None:
        raise WeightsError("these weights do not name their tracks and features: give a cell type (--cell-type).")
    config = model.config
    inputs = dataclasses.replace(inputs, window_bp=config.window_bp, promoter_bp=config.promoter_bp)
    for what, needed, found in (
        ("tracks", config.n_tracks, inputs.track_names),
        ("features", config.n_features, inputs.feature_names),
    ):
        if needed != len(found):
            raise WeightsError(f"these weights read {needed} {what}, but {len(found)} are named: {', '.join(found)}.")
    return inputs


def open_dataset(request: PredictRequest, inputs: InputSpec) -> WindowDataset:
    """Open the windows of a request."""
    genes = request.genes if request.gene_type is None else read_genes(request.genes, gene_type=request.gene_type)
    return WindowDataset(
        inputs,
        genes,
        request.fasta,
        request.sources,
        blacklist=request.blacklist,
        missing_features=request.missing_features,
        gene_ids=request.gene_ids,
    )


def observed_label(genes: pd.DataFrame, column: str | None) -> tuple[str | None, NDArray[np.float64] | None]:
    """Return the label's column and values, (G,), or (None, None) if the table has no label.

    Raises
    ------
    InputError
        If the named column is missing or holds no numbers.
    """
    if column is None:
        present = [name for name in LABEL_COLUMNS if name in genes and pd.api.types.is_numeric_dtype(genes[name])]
        if not present:
            return None, None
        column = present[0]
    elif column not in genes:
        raise InputError(f"the gene table has no label column '{column}'{suggest(column, map(str, genes.columns))}.")
    elif not pd.api.types.is_numeric_dtype(genes[column]):
        raise InputError(f"the label column '{column}' of the gene table holds text; numbers are needed.")
    return column, genes[column].to_numpy(dtype=np.float64)


def fingerprint(request: PredictRequest, model: Seq2Exp, weights_sha256: str, dataset: WindowDataset) -> dict[str, Any]:
    """Return everything that the numbers of a run depend on; a run resumes only where this is the same."""
    digest = hashlib.sha256()
    genes = dataset.genes
    for column in ("gene_id", "chrom", "strand", "tss"):
        digest.update("\n".join(map(str, genes[column])).encode())
    digest.update(np.ascontiguousarray(dataset.features.values).tobytes())
    label, observed = observed_label(genes, request.label)
    digest.update(b"" if observed is None else observed.tobytes())
    files = {}
    for name, path in request.files().items():
        if name == "genes":  # what is used of it is hashed above
            continue
        files[name] = f"{path.resolve()} ({input_mark(path)})"
    files |= {f"track {name}": mark for name, mark in _gene_files(request, dataset).items()}
    return {
        "package version": __version__,
        "weights": weights_sha256,
        "network": to_mapping(model.config),
        "tracks": {track.name: to_mapping(track) for track in dataset.inputs.tracks},
        "track options": {name: _options(source) for name, source in request.sources.items()},
        "genes": f"{len(genes)} genes (SHA-256 {digest.hexdigest()[:16]})",
        "label": label,
        "missing features": dataset.missing_features.value,
        "files": files,
        "device": _device_kind(request, model),
        "projections": model.products.value,
        "save beta": request.save_beta,
    }


def _gene_files(request: PredictRequest, dataset: WindowDataset) -> dict[str, str]:
    """Return one mark for all the files of each track that has a file per gene."""
    marks = {}
    for name, source in request.sources.items():
        if "{gene_id}" in source:
            digest = hashlib.sha256()
            for gene_id in map(str, dataset.genes["gene_id"]):
                digest.update(input_mark(signal_file(gene_file(source, gene_id))[0]).encode())
            marks[name] = f"{source} ({len(dataset)} files, SHA-256 of their marks {digest.hexdigest()[:16]})"
    return marks


def _device_kind(request: PredictRequest, model: Seq2Exp) -> str:
    """Return the kind of device that predicts, which may differ from that of a model that is only inspected here."""
    import torch

    return torch.device(request.device).type if request.device else next(model.parameters()).device.type


def _options(source: str) -> str:
    """Return what a source states besides its file: the power law, a file per gene, or what is read of a Hi-C file."""
    whole = source == POWERLAW or "{gene_id}" in source
    return source if whole else source.partition("::")[2]


def provenance_of(
    request: PredictRequest, model: Seq2Exp, weights_sha256: str, dataset: WindowDataset
) -> dict[str, Any]:
    """Return what a result states about its origin, as plain texts and numbers without time stamps."""
    sources = {name: source if source == POWERLAW else _absolute(source) for name, source in request.sources.items()}
    files = {name: {"path": _absolute(path), "bytes": path.stat().st_size} for name, path in request.files().items()}
    mask = (
        "peaks" if request.peaks is not None else model.config.mask_mode.value if model.config.generates_mask else None
    )
    label = observed_label(dataset.genes, request.label)[0]
    origin = origin_of(model, request.model, weights_sha256, dataset)
    return {**origin, "mask": mask, "sources": sources, "files": files, "label": label}


def origin_of(model: Seq2Exp, name: str, weights_sha256: str | None, dataset: WindowDataset) -> dict[str, Any]:
    """Return what every result states about the model and the windows that made it."""
    return {
        "package": __version__,
        "model": {
            "name": name,
            "weights_sha256": weights_sha256,
            "network": to_mapping(model.config),
            "provenance": to_mapping(model.provenance),
        },
        "projections": model.products.value,
        "inputs": to_mapping(dataset.inputs),
        "dataset": dataset.describe(),
        "chrom_lengths": dataset.chrom_lengths,
    }


def _absolute(source: str | Path) -> str:
    file, separator, inside = str(source).partition("::")
    return f"{Path(file).resolve()}{separator}{inside}"
