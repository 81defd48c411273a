"""Variant effects that can stop at any moment and go on later, here or on a cluster.

Contract: a `Unit` is one gene with some of the variants that reach it; the gene's own window is predicted once for all
of them. What is done is kept in a SQLite file in the results folder, a unit at a time, whole or not at all, so that
each row is there once and in the same order whoever computed it, and however often the command was stopped. Rows are
read from it in stretches: memory does not grow with their number.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kipoi_seq2exp.data.variants import Variant
from kipoi_seq2exp.effects.variants import COLUMNS, gene_effects, genes_in_reach
from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.prediction.run import differences

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.nn.network import Seq2Exp

STORE_NAME = "variants.sqlite"
UNIT = 32  # variants of a unit, at most
STRETCH = 10_000  # rows that are read together
_TABLES = """
    CREATE TABLE about (request TEXT NOT NULL);
    CREATE TABLE done (unit INTEGER PRIMARY KEY);
    CREATE TABLE effect (variant INTEGER, gene INTEGER, row TEXT NOT NULL, PRIMARY KEY (variant, gene)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Unit:
    """A row of the gene table, and some variants in its reach with their rows in the list of all variants."""

    gene: int
    numbers: tuple[int, ...]
    variants: tuple[Variant, ...]


Effects = list[dict[str, Any]]  # of a unit: the rows of `gene_effects`
Perform = Callable[[Sequence[Unit]], Generator[tuple[Unit, Effects], None, None]]


def units_of(dataset: WindowDataset, variants: Sequence[Variant]) -> list[Unit]:
    """Cut the work: every gene with the variants in its reach, `UNIT` at a time."""
    return [
        Unit(gene, chosen, tuple(variants[number] for number in chosen))
        for gene, numbers in genes_in_reach(dataset, variants).items()
        for first in range(0, len(numbers), UNIT)
        for chosen in [tuple(numbers[first : first + UNIT])]
    ]


def perform_here(model: Seq2Exp, dataset: WindowDataset, batch_size: int) -> Perform:
    """Return what computes units in this process, in their order; a gene's own window is predicted once."""

    def perform(units: Sequence[Unit]) -> Generator[tuple[Unit, Effects], None, None]:
        for unit in units:
            yield unit, gene_effects(model, dataset, unit.gene, unit.numbers, unit.variants, batch_size)

    return perform


class EffectStore:
    """The file that keeps what is done; made by `open`.

    Parameters
    ----------
    path : Path
    connection : sqlite3.Connection
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection

    @classmethod
    def open(cls, path: Path, request: Mapping[str, Any], *, overwrite: bool = False) -> EffectStore:
        """Make the file, or reopen that of an interrupted run.

        Parameters
        ----------
        path : Path
        request : Mapping
            What the numbers depend on, as JSON has it.
        overwrite : bool
            Start anew where the effects of another run are.

        Raises
        ------
        OutputError
            If it cannot be written, is no such file, or holds the effects of another run.
        """
        if overwrite:
            for name in (path, path.with_name(f"{path.name}-journal")):
                name.unlink(missing_ok=True)
        wanted = json.loads(json.dumps(request))
        connection = None
        try:
            connection = sqlite3.connect(path)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if not connection.execute("SELECT name FROM sqlite_master").fetchone():
                    for statement in _TABLES.split(";")[:-1]:
                        connection.execute(statement)
                    connection.execute("INSERT INTO about VALUES (?)", [json.dumps(wanted)])
                found = json.loads(connection.execute("SELECT request FROM about").fetchone()[0])
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise OutputError(
                f"{path}: cannot be used as this command's store ({error}): move it away, or choose another folder."
            ) from None
        if changed := differences(found, wanted):
            connection.close()
            raise OutputError(
                f"{path}: holds effects computed otherwise ({'; '.join(changed[:3])}): choose another folder, or start "
                f"anew with --overwrite."
            )
        return cls(path, connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def done(self) -> set[int]:
        """Places in the list of units of those that are done."""
        return {unit for (unit,) in self._connection.execute("SELECT unit FROM done")}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of rows, of variants and of genes."""
        query = "SELECT count(*), count(DISTINCT variant), count(DISTINCT gene) FROM effect"
        rows, variants, genes = self._connection.execute(query).fetchone()
        return rows, variants, genes

    def write(self, place: int, unit: Unit, effects: Effects) -> None:
        """Keep a unit, whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        rows = [(row["variant"], unit.gene, json.dumps([row[name] for name in COLUMNS])) for row in effects]
        try:
            with self._connection:
                self._connection.execute("INSERT INTO done VALUES (?)", [place])
                self._connection.executemany("INSERT INTO effect VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}): make room and run the command again."
            ) from None

    def tables(self) -> Iterator[pd.DataFrame]:
        """Yield all rows in the order of the variants, then of the genes, `STRETCH` at a time; columns as `COLUMNS`."""
        cursor = self._connection.execute("SELECT variant, row FROM effect ORDER BY variant, gene")
        while rows := cursor.fetchmany(STRETCH):
            table = pd.DataFrame([json.loads(row) for _, row in rows], columns=list(COLUMNS))
            yield table.assign(variant=[variant for variant, _ in rows])


def fill_store(
    store: EffectStore, units: Sequence[Unit], perform: Perform, on_variants: Callable[[int], None] | None = None
) -> None:
    """Compute every unit that the store does not hold yet.

    Parameters
    ----------
    store : EffectStore
    units : sequence of Unit
    perform : callable
        Yields units with their effects, in any order, each one once.
    on_variants : callable, optional
        Called with the number of variants of each unit when it is done.
    """
    done = store.done
    places = {(unit.gene, unit.numbers[0]): place for place, unit in enumerate(units)}
    waiting = [unit for place, unit in enumerate(units) if place not in done]
    if not waiting:
        return
    with closing(perform(waiting)) as results:
        for unit, effects in results:
            store.write(places[unit.gene, unit.numbers[0]], unit, effects)
            if on_variants is not None:
                on_variants(len(unit.numbers))
