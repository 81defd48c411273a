"""Steps that several commands share: open a model with its inputs, predict, and fill a store under a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import Say, progress_bar, request_of
from kipoi_seq2exp.errors import ConfigError

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.nn.network import Seq2Exp
    from kipoi_seq2exp.prediction.cluster import Workers
    from kipoi_seq2exp.prediction.request import PredictRequest
    from kipoi_seq2exp.prediction.run import Progress, Run
    from kipoi_seq2exp.prediction.store import Predictions
    from kipoi_seq2exp.prediction.units import Job, Perform, Unit, UnitStore

GetWorkers = Callable[[], "Workers"]  # starts or joins them when it is called first


@contextmanager
def workers_of(where: str | None) -> Iterator[GetWorkers | None]:
    """Read --cluster at once; yield a function that starts or joins the workers, or None without the option."""
    if where is None:
        yield None
        return
    from kipoi_seq2exp.prediction.cluster import parse_cluster

    with parse_cluster(where).when_needed() as workers:
        yield workers


@dataclass(frozen=True)
class Opened:
    """The model and the windows of a command, open.

    Attributes
    ----------
    request : PredictRequest
    model : Seq2Exp
    weights_sha256 : str
    dataset : WindowDataset
    """

    request: PredictRequest
    model: Seq2Exp
    weights_sha256: str
    dataset: WindowDataset

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that the numbers depend on."""
        from kipoi_seq2exp.prediction.request import fingerprint

        return fingerprint(self.request, self.model, self.weights_sha256, self.dataset)

    def performer(self, workers: GetWorkers | None, job: Job) -> Perform:
        """Return what computes units: in this process with the open model and windows, or on a cluster."""
        return performer(workers, self.request, self.fingerprint(), (self.model, self.dataset), job)


@contextmanager
def open_inputs(
    args: argparse.Namespace, say: Say, workers: GetWorkers | None = None, **changes: Any
) -> Iterator[Opened]:
    """Open the model and the windows that options name; report the status of the weights, and what inputs lack.

    `changes` are those of `request_of`; the files are closed at the end.
    """
    from kipoi_seq2exp.data.track_ranges import warn_of_inputs
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.prediction.request import inputs_of, open_dataset

    request, model, weights_sha256 = _open_model(request_of(args, **changes), workers)
    with open_dataset(request, inputs_of(model, request.cell_type, request.cells)) as dataset:
        say(status_line(args.model, model.provenance.status))
        warn_of_inputs(dataset)
        yield Opened(request, model, weights_sha256, dataset)


def say_without_dna(model: Seq2Exp, say: Say, follows: str) -> None:
    """Say of weights that read no DNA what follows from that."""
    if not model.config.reads_dna:
        say(f"these weights read no DNA: {follows}")


def _open_model(request: PredictRequest, workers: GetWorkers | None) -> tuple[PredictRequest, Seq2Exp, str]:
    """Open the model of a request; on the CPU if workers compute, for which the request's device is then meant."""
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
    """Moves a progress bar: by the steps of the unit that is computed here, then to the unit's end."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._steps = 0

    def attach(self, bar: Any) -> None:
        """Use this bar from now on."""
        self._bar, self._steps = bar, 0

    def step(self) -> None:
        """Note that a step of a unit is done."""
        self._bar.update()
        self._steps += 1

    def finish(self, unit: Unit) -> None:
        """Note that a unit is done."""
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
        Result of `performer`.
    noun : str
        What the sizes of the units count.
    say : callable
    keep : callable, optional
        As in `fill_store`.
    ticks : Ticks, optional
        Gets the bar; for jobs that report their steps.
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


def fill(run: Run, say: Say, workers: GetWorkers | None = None) -> Progress:
    """Predict under a progress bar, here or on a cluster; an interruption says what is kept and how to go on."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from kipoi_seq2exp.prediction.run import fill_store, predict_here

    resumed, total = int(run.store.done.sum()), len(run.dataset)
    if resumed:
        say(f"resuming: {resumed} of {total} genes are already in {run.store.path}")
    try:
        with ExitStack() as opened:
            predict = predict_here if workers is None or resumed == total else workers()
            opened.enter_context(logging_redirect_tqdm())
            bar = opened.enter_context(progress_bar(total, resumed, "gene"))
            return fill_store(run, lambda progress: bar.update(progress.done - bar.n) and None, predict)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {int(run.store.done.sum())} of {total} genes are complete in {run.store.path}; "
            f"run the same command again to go on."
        ) from None


def needs_mask(run: Run) -> None:
    """Refuse a network that makes no mask, before anything is computed."""
    if not run.model.config.generates_mask:
        raise ConfigError(f"{run.request.model} makes no element mask (variant '{run.model.config.variant.value}').")


def open_predictions(
    args: argparse.Namespace,
    say: Say,
    check: Callable[[Run], object] | None = None,
    workers: GetWorkers | None = None,
) -> tuple[Predictions, Run | None]:
    """Open given predictions, or make them in the output folder and return the run beside them.

    `check` is called once everything is open, before anything is computed; `workers` predict where they are given.

    Raises
    ------
    ConfigError
        If neither predictions nor a model with its genome and genes are given.
    """
    from kipoi_seq2exp.api import read_results
    from kipoi_seq2exp.elements.outputs import status_line

    if (args.results is None) == (args.model is None):
        raise ConfigError("give a model with its inputs, or predictions that are there already (--from), not both.")
    if args.results is not None:
        _refuse_run_options(args)
        predictions = read_results(args.results, args.genes)
        if "model" in predictions.provenance:
            model = predictions.provenance["model"]
            say(status_line(model["name"], model["provenance"]["status"]))
        return predictions if args.gene_ids is None else predictions.select(args.gene_ids), None
    opened = open_run(args, say, check, workers)
    return read_results(opened.store.path), opened


def _refuse_run_options(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect on predictions that are there already."""
    names = ("fasta", "blacklist", "label", "cell_type", "device", "mask_mode", "gene_type", "cluster")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name, None) not in (None, False)]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: the model is not run with --from, so that they have no effect; leave them out."
        )


def open_run(
    args: argparse.Namespace,
    say: Say,
    check: Callable[[Run], object] | None = None,
    workers: GetWorkers | None = None,
) -> Run:
    """Predict in the output folder, with the Beta of each base, or go on with what is there.

    `check` is called once everything is open, before anything is computed.
    """
    from kipoi_seq2exp.data.track_ranges import warn_of_inputs
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.prediction.run import prepare

    for option in ("fasta", "genes"):
        if getattr(args, option) is None:
            raise ConfigError(f"--{option} is needed to run the model {args.model}.")
    request = request_of(args, peaks=None, save_beta=True)
    opened = prepare(request, args.output, overwrite=args.overwrite, elsewhere=workers is not None)
    say(status_line(args.model, opened.model.provenance.status))
    warn_of_inputs(opened.dataset)
    if check is not None:
        check(opened)
    fill(opened, say, workers)
    return opened
