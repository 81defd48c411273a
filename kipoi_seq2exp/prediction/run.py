"""From files to stored predictions: a run that can stop at any gene and go on later.

Contract: `prepare` opens everything that a `PredictRequest` names and the store in the results folder; `fill_store`
predicts every gene that the store does not hold yet, in this process or on a cluster. The
next batch of windows is read in a thread while the network works on this one. Genes are grouped into the same batches
whether a run was interrupted or not, so that the numbers are the same. This process alone writes the store, and each
gene once.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import Variant
from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.genes import NAME_COLUMN
from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.errors import ConfigError, OutputError
from kipoi_seq2exp.files import make_folder, remove_folder, remove_partials
from kipoi_seq2exp.nn.halving import Halving
from kipoi_seq2exp.prediction.batches import cuda_bytes, fitting_batch
from kipoi_seq2exp.prediction.request import (
    PredictRequest,
    fingerprint,
    inputs_of,
    observed_label,
    open_dataset,
    open_model,
    provenance_of,
)
from kipoi_seq2exp.prediction.store import STORE_NAME, Layout, PredictionStore, Row, is_store
from kipoi_seq2exp.prediction.store_files import lock_folder, unlock_folder
from kipoi_seq2exp.settings import differences
from kipoi_seq2exp.zoo.forward import forward, stacked

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from kipoi_seq2exp.nn.network import Seq2Exp


ELSEWHERE = 8  # windows in a task for another machine's GPU, which splits it to fit its own memory
Batch = range  # rows of the gene table


@dataclass(frozen=True)
class Progress:
    """Progress of a run: `done` of `total` genes are complete, `resumed` of them from an earlier run."""

    done: int
    total: int
    resumed: int


@dataclass(frozen=True)
class Run:
    """Everything that a prediction run holds open; made by `prepare`.

    Attributes
    ----------
    request : PredictRequest
        With the batch size that was chosen.
    model : Seq2Exp
    dataset : WindowDataset
    peaks : Regions or None
        The mask given from outside.
    store : PredictionStore
    """

    request: PredictRequest
    model: Seq2Exp
    dataset: WindowDataset
    peaks: Regions | None
    store: PredictionStore


PredictBatches = Callable[[Run, Sequence[Batch]], Generator[tuple[Batch, list[Row]], None, None]]


def prepare(request: PredictRequest, folder: Path, *, overwrite: bool = False, elsewhere: bool = False) -> Run:
    """Open and check the model, every input and the store in the results folder; nothing is computed yet.

    Parameters
    ----------
    request : PredictRequest
    folder : Path
    overwrite : bool
        Start anew where the folder holds other results.
    elsewhere : bool
        Other processes will predict, and the device of the request (by default the CPU) is for them.

    Raises
    ------
    InputError, ConfigError, WeightsError
        If the model or an input cannot be used.
    OutputError
        If the folder cannot be written to, or holds the results of another run and `overwrite` is off.
    """
    if elsewhere:
        request = dataclasses.replace(request, device=request.device or "cpu")
    model, weights_sha256 = open_model(dataclasses.replace(request, device="cpu") if elsewhere else request)
    dataset = open_dataset(request, inputs_of(model, request.cell_type, request.cells))
    peaks = open_peaks(request.peaks, model, dataset)
    layout = Layout(
        gene_rows(dataset, request.label),
        window_bp=model.config.window_bp,
        has_mask=model.config.generates_mask or peaks is not None,
        has_beta=request.save_beta and model.config.generates_mask and peaks is None,
        has_spread=model.config.members > 1,
        request=fingerprint(request, model, weights_sha256, dataset),
        provenance=provenance_of(request, model, weights_sha256, dataset),
    )
    size = request.batch_size
    if request.auto_batch:
        remembered = None if overwrite else remembered_batch_size(folder)
        size = remembered or (_batch_elsewhere(request) if elsewhere else batch_size_for(request, model, dataset))
    store = open_store(folder, layout, overwrite=overwrite)
    store.remember_batch_size(size)
    return Run(dataclasses.replace(request, batch_size=size), model, dataset, peaks, store)


def gene_rows(dataset: WindowDataset, label: str | None = None) -> pd.DataFrame:
    """Return what is stored about the genes of a data set: where their windows lie, their symbols and labels.

    Parameters
    ----------
    dataset : WindowDataset
    label : str, optional
        Column of the observed expression; by default the first usual one (`observed_label`).
    """
    named = [NAME_COLUMN] if NAME_COLUMN in dataset.genes else []
    genes: pd.DataFrame = dataset.genes[["gene_id", "chrom", "strand", *named]].copy()
    half = dataset.inputs.window_bp // 2
    genes["start"], genes["end"] = dataset.genes["tss"] - half, dataset.genes["tss"] + half
    observed = observed_label(dataset.genes, label)[1]
    return genes if observed is None else genes.assign(observed=observed)


def batch_size_for(request: PredictRequest, model: Seq2Exp, dataset: WindowDataset) -> int:
    """Return how many windows go through the network at once here: as asked for, or as many as fit in memory."""
    if not request.auto_batch:
        return request.batch_size
    device = next(model.parameters()).device

    def measure() -> int:
        peaks = open_peaks(request.peaks, model, dataset)
        return cuda_bytes(device, lambda: predict_windows(model, [dataset[0]], peaks, request.save_beta))

    return fitting_batch(model.config, device, measure, request.memory_bytes)


def _batch_elsewhere(request: PredictRequest) -> int:
    import torch

    return 1 if torch.device(request.device or "cpu").type == "cpu" else ELSEWHERE


def predict_here(run: Run, batches: Sequence[Batch]) -> Generator[tuple[Batch, list[Row]], None, None]:
    """Predict batches of genes of a run in this process, in their order."""
    size, save_beta = run.request.batch_size, run.request.save_beta
    yield from predict_batches(run.model, run.dataset, batches, size, peaks=run.peaks, save_beta=save_beta)


def batches_of(total: int, size: int) -> list[Batch]:
    """Cut the rows of a gene table into batches of `size`."""
    return [range(first, min(first + size, total)) for first in range(0, total, size)]


def predict_batches(
    model: Seq2Exp,
    dataset: WindowDataset,
    batches: Sequence[Batch],
    size: int,
    *,
    peaks: Regions | None = None,
    masks: NDArray[np.float32] | None = None,
    save_beta: bool = False,
) -> Generator[tuple[Batch, list[Row]], None, None]:
    """Predict batches of genes in this process, in their order; the next batch is read meanwhile.

    Parameters
    ----------
    model : Seq2Exp
    dataset : WindowDataset
        G genes.
    batches : sequence of range
        Rows of the gene table.
    size : int
        Windows that go through the network at once, at most.
    peaks : Regions, optional
        As in `predict_windows`. masks : ndarray, (G, L), optional As in `predict_windows`, a row per gene.
    save_beta : bool
        As of `predict_windows`.

    Yields
    ------
    range, list of Row
        Each batch with the rows predicted for it.
    """

    def predict(genes: Sequence[tuple[int, WindowInputs]]) -> list[Row]:
        given = None if masks is None else [masks[row] for row, _ in genes]
        return predict_windows(model, [window for _, window in genes], peaks, save_beta, given)

    halving = Halving(predict, size)
    with closing(read_ahead(dataset, batches)) as windows:
        for batch in batches:
            yield batch, halving(list(zip(batch, next(windows), strict=True)))


def fill_store(
    run: Run,
    on_progress: Callable[[Progress], None] | None = None,
    predict: PredictBatches = predict_here,
) -> Progress:
    """Predict every gene that the store does not hold yet; return the run's progress at its end.

    Parameters
    ----------
    run : Run
    on_progress : callable, optional
        Called once at the start and after each gene.
    predict : callable
        Does the prediction: yields batches with their rows, each once, in any order.
    """
    size, total = run.request.batch_size, len(run.dataset)
    done = run.store.done
    resumed = state = Progress(int(done.sum()), total, int(done.sum()))
    report = on_progress or (lambda progress: None)
    report(resumed)
    batches = [batch for batch in batches_of(total, size) if not done[batch.start : batch.stop].all()]
    if not batches:
        return state
    try:
        with run.dataset, closing(predict(run, batches)) as results:
            for batch, rows in results:
                for index, row in zip(batch, rows, strict=True):
                    if not done[index]:
                        run.store.write(index, row)
                        done[index] = True
                        state = dataclasses.replace(state, done=state.done + 1)
                        report(state)
    except BaseException:
        _leave(run.store, empty=state.done == 0 and not run.store.done.any())  # stopped right after its first row
        raise
    return state


def _leave(store: PredictionStore, *, empty: bool) -> None:
    """Unlock the folder of a run that failed, and remove the store if it holds no gene."""
    if empty:
        shutil.rmtree(store.path, ignore_errors=True)  # the first error is the one to report
    unlock_folder(store.path.parent)


# ------------------------------------------------------------------------------------------------------- the numbers


def predict_windows(
    model: Seq2Exp,
    windows: Sequence[WindowInputs],
    peaks: Regions | None = None,
    save_beta: bool = False,
    masks: Sequence[NDArray[np.float32]] | None = None,
) -> list[Row]:
    """Run the network on a batch of windows.

    Parameters
    ----------
    model : Seq2Exp
    windows : sequence of WindowInputs, B
    peaks : Regions, optional
        Use these regions as the mask; the promoter is kept and the blacklist dropped as always.
    save_beta : bool
        Return the concentrations of z too.
    masks : sequence of ndarray, B of (L,), optional
        Used exactly as given, in place of the network's own.
    """
    if peaks is not None:
        masks = [_peak_mask(model, window, peaks) for window in windows]
    output = forward(model, windows, None if masks is None else stacked(masks, model), evidence=save_beta)
    per_base: dict[str, Tensor | None] = {"mask": output.mask}
    if save_beta and output.z is not None:
        per_base |= {"alpha": output.z.alpha, "beta": output.z.beta}
    arrays = {name: value.float().cpu().numpy() for name, value in per_base.items() if value is not None}
    expression = output.expression.float().cpu().numpy()
    spread = None if output.spread is None else output.spread.float().cpu().numpy()
    return [
        Row(
            expression=float(expression[place]),
            spread=None if spread is None else float(spread[place]),
            known_fraction=np.count_nonzero(window.onehot) / len(window.onehot),
            **{name: value[place] for name, value in arrays.items()},
        )
        for place, window in enumerate(windows)
    ]


def open_peaks(path: str | Path | None, model: Seq2Exp, dataset: WindowDataset) -> Regions | None:
    """Open the peaks that are given as the mask, if any are.

    Raises
    ------
    InputError
        If they cannot be read, or are of another genome.
    ConfigError
        If there are none but the model needs some.
    """
    if path is None:
        if model.config.variant is Variant.PEAKS:
            raise ConfigError("these weights read a mask of peaks: give a BED or narrowPeak file (--peaks).")
        return None
    peaks = Regions(path, "peaks")
    peaks.check_against(dataset.genome)
    return peaks


def _peak_mask(model: Seq2Exp, window: WindowInputs, peaks: Regions) -> NDArray[np.float32]:
    mask = peaks.mask(window.chrom, window.start, window.end) & ~window.blacklist
    mask[model.promoter(len(mask))] = True
    return mask.astype(np.float32)


def read_ahead(
    dataset: WindowDataset | Sequence[WindowInputs], batches: Sequence[Sequence[int]]
) -> Generator[list[WindowInputs], None, None]:
    """Yield the windows of each batch of rows; the next batch is read in a thread meanwhile."""

    def read(batch: Sequence[int]) -> list[WindowInputs]:
        return [dataset[index] for index in batch]

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="windows") as pool:
        pending: Future[list[WindowInputs]] | None = None
        try:
            for batch in batches:
                current, pending = pending, pool.submit(read, batch)
                if current is not None:
                    yield current.result()
            if pending is not None:
                yield pending.result()
        finally:
            if pending is not None:
                pending.cancel()


# --------------------------------------------------------------------------------------------------------- the store


def open_store(folder: Path, layout: Layout, *, overwrite: bool = False) -> PredictionStore:
    """Make the store of a run, or reopen that of an interrupted one.

    Raises
    ------
    OutputError
        If the folder cannot be written to, or holds the results of another run.
    """
    make_folder(folder)
    lock_folder(folder)
    path = folder / STORE_NAME
    if path.exists() and not is_store(path):
        raise OutputError(f"{path}: exists but was not made by this command: move it away or choose another folder.")
    if path.exists() and overwrite:
        remove_folder(path)
    if not path.exists():
        return PredictionStore.create(path, layout)
    store = PredictionStore.reopen(path)
    remove_partials(path)
    changed = differences(store.request, layout.request)
    if changed:
        raise OutputError(
            f"{path}: holds predictions of another run ({listing(changed, '; ')}): choose another folder, or start "
            f"anew with --overwrite."
        )
    return store


def remembered_batch_size(folder: Path) -> int | None:
    """Return the batch size of the run that a results folder holds, if it holds one."""
    path = folder / STORE_NAME
    return PredictionStore.reopen(path).batch_size if is_store(path) else None
