"""Variant effects on a cluster: units go to the workers' seats (see `prediction.cluster`), their rows come back.

Contract: each worker opens the model and the files once, and only if they are those of the run. The command's process
alone writes the store.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from kipoi_seq2exp.effects.run import Effects, Perform, Unit
from kipoi_seq2exp.effects.variants import gene_effects
from kipoi_seq2exp.prediction.cluster import Workers
from kipoi_seq2exp.prediction.cluster_worker import Seat
from kipoi_seq2exp.prediction.request import PredictRequest


class EffectSeat(Seat):
    """A run of `seq2exp variants` at one worker; a task is a `Unit`."""

    def perform(self, unit: Unit) -> list[Any]:  # type: ignore[override]
        """Predict a gene with some variants."""
        dataset = self.dataset()
        with self.computing():
            return gene_effects(self.model, dataset, unit.gene, unit.numbers, unit.variants, self.batch_size)


def perform_on(workers: Workers, request: PredictRequest, expected: Mapping[str, Any]) -> Perform:
    """Return what computes units on a cluster.

    Parameters
    ----------
    workers : Workers
    request : PredictRequest
    expected : Mapping
        The run's fingerprint (`prediction.request.fingerprint`), which every worker must see.
    """

    def describe(unit: Unit) -> str:
        return f"the variants {unit.variants[0]} to {unit.variants[-1]} in row {unit.gene + 1} of the gene table"

    def perform(units: Sequence[Unit]) -> Generator[tuple[Unit, Effects], None, None]:
        return workers.work(EffectSeat(request, expected), units, describe)

    return perform
