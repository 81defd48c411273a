"""What each worker of a Dask cluster keeps for a run: the model and the open files that its tasks need.

Contract: the weights are loaded and the files opened once per process, by its first batch, and only if they are those
of the run. A worker predicts one batch at a time with as many threads as Dask gave it, and reads the next one meanwhile
if it was given two or more. An error that a user can cause comes back as a value, so that no worker logs a traceback.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin, get_worker

from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.errors import InputError, Seq2ExpError
from kipoi_seq2exp.nn.halving import Halving
from kipoi_seq2exp.prediction.request import PredictRequest, fingerprint, inputs_of, open_dataset, open_model
from kipoi_seq2exp.prediction.run import batch_size_for, open_peaks, predict_windows
from kipoi_seq2exp.prediction.store import Row
from kipoi_seq2exp.prediction.units import Bench, Job
from kipoi_seq2exp.settings import differences

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs


class Seat(WorkerPlugin):  # type: ignore[misc]
    """One run on one worker.

    Parameters
    ----------
    request : PredictRequest
    expected : Mapping
        The run's fingerprint: what the numbers depend on.
    """

    def __init__(self, request: PredictRequest, expected: Mapping[str, Any]) -> None:
        self.name = f"seq2exp-{uuid.uuid4().hex}"  # unlike any other run's
        self.request, self.expected = request, expected

    def setup(self, worker: Any) -> None:
        """Register the run on the worker; nothing is opened yet."""
        self._worker = worker
        self._reading, self._computing = threading.Lock(), threading.Lock()
        self._dataset: WindowDataset | None = None

    def teardown(self, worker: Any) -> None:
        """Close the files."""
        if self._dataset is not None:
            self._dataset.close()

    def perform(self, genes: Sequence[int]) -> list[Any]:
        """Predict some rows of the gene table: a `Row` for each."""
        dataset = self.dataset()
        with self._reading:
            windows = [dataset[index] for index in genes]
        with self.computing():
            rows: list[Row] = self._predict(windows)
            return rows

    def dataset(self) -> WindowDataset:
        """Return the run's windows, opened by the first call."""
        with self._reading:
            if self._dataset is None:
                self._open()
            assert self._dataset is not None
            return self._dataset

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Reserve the worker's threads for one task."""
        import torch

        with self._computing:
            torch.set_num_threads(self._worker.state.nthreads)
            yield

    def _open(self) -> None:
        """Open the model and the files as the run did, and compare them with those that the run saw."""
        try:
            model, weights_sha256 = open_model(self.request)
            dataset = open_dataset(self.request, inputs_of(model, self.request.cell_type, self.request.cells))
            peaks = open_peaks(self.request.peaks, model, dataset)
        except Seq2ExpError as error:
            raise type(error)(f"{str(error).rstrip('.')}: workers need the run's files under the same paths.") from None
        changed = differences(self.expected, fingerprint(self.request, model, weights_sha256, dataset))
        if changed:
            raise InputError(
                f"its files differ from those of the run ({listing(changed, '; ')}): workers need the run's files "
                f"under the same paths, and the same version of the package."
            )

        def predict(windows: Sequence[WindowInputs]) -> list[Row]:
            return predict_windows(model, windows, peaks, self.request.save_beta)

        with self._computing:
            self.batch_size = batch_size_for(self.request, model, dataset)
            self._predict = Halving(predict, self.batch_size)
        self.model, self._dataset = model, dataset


class UnitSeat(Seat):
    """A run whose tasks are the units of `prediction.units`, as loaded.

    Parameters
    ----------
    request : PredictRequest
    expected : Mapping
        The run's fingerprint.
    job : callable
    """

    def __init__(self, request: PredictRequest, expected: Mapping[str, Any], job: Job) -> None:
        super().__init__(request, expected)
        self.job = job
        self._bench: Bench | None = None

    def perform(self, loaded: Any) -> Any:
        """Do the job."""
        dataset = self.dataset()
        with self.computing():
            if self._bench is None:
                self._bench = Bench(self.model, dataset, self.batch_size)
            return self.job(self._bench, loaded)


def perform_at(seat: str, task: Any) -> list[Any] | Seq2ExpError:
    """Do a task with this worker's seat; this is the function that the cluster runs."""
    worker = get_worker()
    try:
        rows: list[Any] = worker.plugins[seat].perform(task)
        return rows
    except Seq2ExpError as error:
        return type(error)(f"worker {worker.address} on {socket.gethostname()}: {error}")
