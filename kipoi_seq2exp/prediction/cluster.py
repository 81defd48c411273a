"""Prediction on several processes and machines, by Dask.

Contract: `parse_cluster` reads where to compute ("local:2", the address of a Dask scheduler, or a YAML file of SLURM
settings) and fails at once if it is none of these; `Cluster.open` starts or joins the workers and gives a `Workers`,
which `run.fill_store` takes in place of `predict_here`.

A task is a batch of genes, the same batches as in one process, or a unit of another command (`Workers.work`). Its rows
come back to the process of the command, which alone writes the store. So only this process needs the results folder, no
two processes write the same gene, and a gene is counted once, however many workers computed it. Dask runs the tasks of
a lost worker again. Each worker has only a few tasks waiting for it: finished rows cannot pile up, and workers that
join late get their share.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kipoi_seq2exp.errors import ClusterError, ConfigError, Seq2ExpError
from kipoi_seq2exp.interruption import held
from kipoi_seq2exp.prediction.cluster_access import (
    CONNECT_S,
    check_address,
    check_scheduler,
    keys_folder,
    keys_of_a_run,
)
from kipoi_seq2exp.prediction.run import Batch, Run
from kipoi_seq2exp.prediction.slurm import FREE_PORT, SlurmSettings
from kipoi_seq2exp.prediction.store import Row
from kipoi_seq2exp.prediction.units import Job, Perform, Unit
from kipoi_seq2exp.settings import from_mapping, read_yaml

if TYPE_CHECKING:
    from kipoi_seq2exp.prediction.cluster_worker import Seat
    from kipoi_seq2exp.prediction.request import PredictRequest

Task = TypeVar("Task")
AHEAD = 2  # tasks given to each worker: it computes one while the other waits
MAX_LOCAL = 1_024  # workers on this machine
LOOK_S = 1.0  # how often the list of workers is checked
REPLACE_S = 30.0  # how often lost jobs are replaced
SILENCE_S = 60.0  # the user is told after this long without any worker
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """Where to predict: one of `local` workers on this machine, the `address` of a scheduler, `slurm` jobs."""

    local: int | None = None
    address: str | None = None
    slurm: SlurmSettings | None = None

    @contextmanager
    def open(self) -> Iterator[Workers]:
        """Start or join the workers; those that were started end with the block.

        Raises
        ------
        ClusterError
            If the scheduler does not answer, or jobs cannot be submitted.
        """
        import distributed

        if self.address is not None:
            check_scheduler(self.address)
        with ExitStack() as opened:
            try:
                with _ctrl_c_held():
                    own = self._start(opened)
                security = None if own is None else own.security
                client = distributed.Client(
                    own or self.address, timeout=CONNECT_S, set_as_default=False, security=security
                )
            except Seq2ExpError:
                raise
            except (OSError, RuntimeError, ValueError) as error:
                raise ClusterError(self._unreachable(error)) from None
            opened.callback(_leave, client)
            yield Workers(client, own, self)

    @contextmanager
    def when_needed(self) -> Iterator[Callable[[], Workers]]:
        """Yield a function that returns the workers; its first call starts or joins them."""
        with ExitStack() as opened:
            yield cache(lambda: opened.enter_context(self.open()))

    def _start(self, opened: ExitStack) -> Any:
        """Start the workers, if they are ours to start; `opened` closes what is started, whatever happens next."""
        import distributed

        if self.slurm is not None:
            keys = opened.enter_context(keys_folder(self.slurm.keys_directory))
            cluster = self.slurm.start(keys_of_a_run(keys))
            opened.callback(_close, cluster)
            self.slurm.check(cluster.job_script())
            cluster.scale(jobs=self.slurm.jobs)
            return cluster
        if self.local is None:
            return None
        cluster = distributed.LocalCluster(
            n_workers=self.local,
            threads_per_worker=max(1, len(os.sched_getaffinity(0)) // self.local),
            processes=True,
            host="127.0.0.1",
            dashboard_address=FREE_PORT,
            silence_logs=logging.CRITICAL,  # what matters of a lost worker is told by `Workers`
            security=keys_of_a_run(),
        )
        opened.callback(_close, cluster)
        return cluster

    def _unreachable(self, error: Exception) -> str:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if self.address is not None:
            return f"--cluster {self.address}: the Dask scheduler there cannot be joined ({reason})."
        return f"the workers cannot be started ({reason})."


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C until the end of the block; threads and processes that start in it never get it: masks are inherited.

    So Ctrl-C reaches the command alone: no worker dies of it or writes to the terminal. SIGTERM and SIGHUP wait too,
    but do reach those processes and end them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # when it starts, multiprocessing unblocks the signal
    with held():
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _close(own: Any) -> None:
    """End the workers that were started; a busy machine may not see their end in time, which is no fault of the run."""
    with suppress(TimeoutError):
        own.close(timeout=CONNECT_S)


def _leave(client: Any) -> None:
    with suppress(OSError):  # the loss of a scheduler was reported already
        client.close(timeout=CONNECT_S)


def parse_cluster(text: str) -> Cluster:
    """Read where to predict: local:N, the address of a Dask scheduler, or a YAML file of SLURM settings.

    Raises
    ------
    ConfigError, InputError
        If it is none of these, the file does not hold what it should, or Dask is not installed.
    """
    name, _, rest = text.partition(":")
    if rest.startswith("//"):
        cluster = Cluster(address=check_address(text))
    elif name == "local" and re.fullmatch("[0-9]{1,4}", rest) and 0 < int(rest) <= MAX_LOCAL:
        cluster = Cluster(local=int(rest))
    elif Path(text).suffix in (".yaml", ".yml"):
        cluster = Cluster(slurm=from_mapping(SlurmSettings, read_yaml(text), text))
    else:
        raise ConfigError(
            f"--cluster {text}: expected local:N for N processes on this machine (at most {MAX_LOCAL:,}), the address "
            f"of a Dask scheduler "
            f"(tcp://HOST:PORT), or a YAML file of SLURM settings."
        )
    for module in ("distributed", *(["dask_jobqueue"] if cluster.slurm else [])):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"--cluster needs Dask ({error}): pip install 'kipoi-seq2exp[cluster]'.") from None
    return cluster


class Workers:
    """Workers that predict batches of genes; made by `Cluster.open`."""

    def __init__(self, client: Any, own: Any, cluster: Cluster) -> None:
        self.client, self._own, self._cluster = client, own, cluster
        self._present: set[str] = set()
        self._looked = self._replaced = self._seen = time.monotonic()

    def __call__(self, run: Run, batches: Sequence[Batch]) -> Generator[tuple[Batch, list[Row]], None, None]:
        """Predict batches of genes; yield each one with its rows when it is done, in any order.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or a batch ends every worker that takes it.
        Seq2ExpError
            If a worker cannot use the model or the files.
        """
        from kipoi_seq2exp.prediction.cluster_worker import Seat

        def describe(batch: Batch) -> str:
            return f"the genes in rows {batch.start + 1} to {batch.stop} of the table"

        return self.work(Seat(run.request, run.store.request), batches, describe)

    def work(
        self,
        seat: Seat,
        tasks: Iterable[Task],
        describe: Callable[[Task], str],
        load: Callable[[Task], Any] | None = None,
    ) -> Generator[tuple[Task, Any], None, None]:
        """Give tasks to the workers' seats; yield each one with its result when it is done, in any order.

        Parameters
        ----------
        seat : Seat
            What each worker gets; its `perform` takes a task.
        tasks : iterable
            Taken one by one, whenever a worker is about to be free.
        describe : callable
            Names a task in an error.
        load : callable, optional
            Turns a task into what is sent to the worker.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or a task ends every worker that takes it.
        Seq2ExpError
            If a worker cannot use the model or the files.
        """
        from kipoi_seq2exp.prediction.cluster_worker import perform_at

        self.client.register_plugin(seat)
        waiting, done = enumerate(tasks), queue.SimpleQueue[Any]()
        flying: dict[str, tuple[Task, Any]] = {}
        self._look()
        try:
            while True:
                for place, task in islice(waiting, max(0, AHEAD * max(1, len(self._present)) - len(flying))):
                    key, sent = f"{seat.name}-{place}", task if load is None else load(task)
                    future = self.client.submit(perform_at, seat.name, sent, key=key, pure=False)
                    flying[key] = (task, future)
                    future.add_done_callback(done.put)
                if not flying:
                    break
                self._look()
                with suppress(queue.Empty):
                    task, future = flying.pop(done.get(timeout=LOOK_S).key)
                    while (rows := _rows(future, describe(task))) is None:
                        self._look()  # which replaces workers: without one the task is never computed again
                    yield task, rows
            self._look(at_once=True)
        finally:
            with suppress(Exception):  # the scheduler may be what was lost; its workers forget what nobody waits for
                self.client.cancel([future for _, future in flying.values()], force=True)
                self.client.unregister_worker_plugin(seat.name)

    def _look(self, at_once: bool = False) -> None:
        """Check the workers, now and then or `at_once`; report those that were lost, and have lost jobs replaced."""
        now = time.monotonic()
        if not at_once and self._present and now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            present = set(self.client.nthreads())
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"the Dask scheduler was lost ({error}): run the same command again to go on.") from None
        for address in sorted(self._present - present):
            logger.warning("worker %s was lost: its genes are predicted again", address)
        self._present = present
        if present:
            self._seen = now
        elif now - self._seen > SILENCE_S:
            self._seen = now
            logger.warning("still waiting for a first worker")
        slurm = self._cluster.slurm
        if slurm and len(present) < slurm.jobs * slurm.processes and now - self._replaced > REPLACE_S:
            self._replaced = now
            self._own.scale(jobs=slurm.jobs)  # submits again what was lost, and nothing that still waits in the queue


def perform_on(
    workers: Callable[[], Workers], request: PredictRequest, expected: Mapping[str, Any], job: Job
) -> Perform:
    """Return a function that computes units on a cluster.

    Parameters
    ----------
    workers : callable
        The function of `Cluster.when_needed`.
    request : PredictRequest
    expected : Mapping
        The run's fingerprint (`request.fingerprint`), which every worker must see.
    job : callable
    """

    def perform(units: Iterable[Unit]) -> Generator[tuple[Unit, Any], None, None]:
        from kipoi_seq2exp.prediction.cluster_worker import UnitSeat

        seat = UnitSeat(request, expected, job)
        yield from workers().work(seat, units, lambda unit: unit.what, lambda unit: unit.load())

    return perform


def _rows(future: Any, what: str) -> list[Any] | None:
    """Take the rows of a task, or raise what prevented them; None where they were lost with their worker, for now."""
    import distributed

    try:
        found = future.result(timeout=LOOK_S)
    except (TimeoutError, distributed.TimeoutError):
        return None
    except distributed.scheduler.KilledWorker as error:
        raise ClusterError(
            f"{what} ended {error.allowed_failures + 1} workers, one after the other: they probably need more memory."
        ) from None
    except (distributed.client.FutureCancelledError, OSError) as error:
        raise ClusterError(f"the Dask scheduler was lost ({error}): run the same command again to go on.") from None
    except ImportError as error:
        raise ClusterError(
            f"a worker cannot load this package ({error}): install the same version on the scheduler and every worker."
        ) from None
    if isinstance(found, Seq2ExpError):
        raise found
    rows: list[Any] = found
    return rows
