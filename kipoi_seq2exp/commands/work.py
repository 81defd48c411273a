"""Units of work under a progress bar, here or on a cluster; what several commands do alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import Say, progress_bar

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.nn.network import Seq2Exp
    from kipoi_seq2exp.prediction.cluster import Workers
    from kipoi_seq2exp.prediction.request import PredictRequest
    from kipoi_seq2exp.prediction.units import Job, Perform, Unit, UnitStore

GetWorkers = Callable[[], "Workers"]  # starts or joins them when it is called first


@contextmanager
def workers_of(where: str | None) -> Iterator[GetWorkers | None]:
    """Read --cluster at once; give a function that starts or joins the workers, or None without the option."""
    if where is None:
        yield None
        return
    from kipoi_seq2exp.prediction.cluster import parse_cluster

    with parse_cluster(where).when_needed() as workers:
        yield workers


def open_for(request: PredictRequest, workers: GetWorkers | None) -> tuple[PredictRequest, Seq2Exp, str]:
    """Open the model of a request; on the CPU where workers compute, for whom the request's device then is.

    Returns
    -------
    PredictRequest, Seq2Exp, str
        The request, the model, and the SHA-256 of its weights.
    """
    import dataclasses

    from kipoi_seq2exp.prediction.request import open_model

    if workers is None:
        return request, *open_model(request)
    request = dataclasses.replace(request, device=request.device or "cpu")
    return request, *open_model(dataclasses.replace(request, device="cpu"))


def performer(
    workers: GetWorkers | None,
    request: PredictRequest,
    expected: Mapping[str, Any],
    opened: tuple[Seq2Exp, WindowDataset],
    job: Job,
) -> Perform:
    """Return what computes units: in this process with the open model and windows, or on a cluster."""
    from kipoi_seq2exp.prediction.run import batch_size_for
    from kipoi_seq2exp.prediction.units import Bench, perform_here

    if workers is None:
        return perform_here(Bench(*opened, batch_size_for(request, *opened)), job)
    from kipoi_seq2exp.prediction.cluster import perform_on

    return perform_on(workers, request, expected, job)


class Ticks:
    """Moves a progress bar: by steps of the unit that is being computed here, then to the unit's end."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._steps = 0

    def attach(self, bar: Any) -> None:
        """Move this bar from now on."""
        self._bar, self._steps = bar, 0

    def step(self) -> None:
        """Say that a step of a unit is done."""
        self._bar.update()
        self._steps += 1

    def finish(self, unit: Unit) -> None:
        """Say that a unit is done."""
        self._bar.update(unit.size - self._steps)
        self._steps = 0


def fill_units(
    store: UnitStore,
    units: Iterable[Unit],
    perform: Perform,
    noun: str,
    say: Say,
    *,
    keep: Callable[[Unit, Any], Any] | None = None,
    ticks: Ticks | None = None,
) -> None:
    """Compute what the store lacks, under a progress bar; an interruption says what is kept and how to go on.

    Parameters
    ----------
    store : UnitStore
    units : iterable of Unit
        Iterated twice.
    perform : callable
        Of `performer`.
    noun : str
        What the sizes of the units count.
    say : callable
    keep : callable, optional
        As of `fill_store`.
    ticks : Ticks, optional
        Gets the bar; for jobs that tell of their steps.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm

    from kipoi_seq2exp.prediction.units import fill_store

    done = total = waiting = 0
    for unit in units:
        kept = unit.key in store
        total, done, waiting = total + unit.size, done + unit.size * kept, waiting + (not kept)
    if done:
        say(f"resuming: {done} of {total} {noun}s are already in {store.path}")
    if not waiting:
        return
    ticks = ticks or Ticks()
    complete = [done]

    def on_unit(unit: Unit) -> None:
        complete[0] += unit.size
        ticks.finish(unit)

    try:
        with logging_redirect_tqdm(), progress_bar(total, done, noun) as bar:
            ticks.attach(bar)
            fill_store(store, units, perform, on_unit, keep)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {complete[0]} of {total} {noun}s are complete in {store.path}; run the same command again "
            f"to go on."
        ) from None
