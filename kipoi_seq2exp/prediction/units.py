"""Work on genes that can stop at any moment and go on later, here or on a cluster.

Contract: work is cut into units. A job, the same function in this process and at a worker, turns the data that a unit
loads into its result. Results are kept in a SQLite file in the results folder, a unit at a time, whole or not at all:
each unit is computed once, and gives the same bytes whoever computed it and however often the command was stopped.
Units are taken one by one and loaded just before they are computed, so memory does not grow with their number.
`cluster.perform_on` takes the place of `perform_here` on a cluster.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.errors import OutputError, brief, damage_as
from kipoi_seq2exp.prediction.store_files import lock_folder, unlock_folder
from kipoi_seq2exp.settings import differences

if TYPE_CHECKING:
    from typing_extensions import Self

    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.nn.network import Seq2Exp


@dataclass(frozen=True)
class Bench:
    """The model and the data that a job works with.

    Attributes
    ----------
    model : Seq2Exp
    dataset : WindowDataset
    batch_size : int
        Windows that go through the network together; changes memory and speed only.
    """

    model: Seq2Exp
    dataset: WindowDataset
    batch_size: int = 1

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of the gene table of each gene id."""
        return {str(gene_id): row for row, gene_id in enumerate(self.dataset.genes["gene_id"])}


@dataclass(frozen=True)
class Unit:
    """A piece of work.

    Attributes
    ----------
    key : str
        Unique in the store: names everything that the store's request does not.
    what : str
        Words that name it in a message.
    size : int
        How far the progress bar moves when it is done.
    load : callable
        Returns what the job gets.
    """

    key: str
    what: str
    size: int
    load: Callable[[], Any]


Job = Callable[[Bench, Any], Any]  # can be pickled: each worker gets its own copy
Perform = Callable[[Iterable[Unit]], Generator[tuple[Unit, Any], None, None]]


def perform_here(bench: Bench, job: Job) -> Perform:
    """Return a function that computes units in this process, in their order."""

    def perform(units: Iterable[Unit]) -> Generator[tuple[Unit, Any], None, None]:
        for unit in units:
            yield unit, job(bench, unit.load())

    return perform


class UnitStore:
    """The file that keeps the finished units; made by `open`. Its folder is locked like that of predictions.

    Parameters
    ----------
    path : Path
    connection : sqlite3.Connection
    locked : bool
        Whether the folder is to be unlocked when the file is closed.
    """

    TABLES: ClassVar[tuple[str, ...]] = (
        "CREATE TABLE about (request TEXT NOT NULL)",
        "CREATE TABLE done (unit TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    )

    def __init__(self, path: Path, connection: sqlite3.Connection, locked: bool) -> None:
        self.path, self._connection, self._locked = path, connection, locked

    @classmethod
    def open(cls, path: Path, request: Mapping[str, Any], *, overwrite: bool = False) -> Self:
        """Make the file, or reopen that of an interrupted run.

        Parameters
        ----------
        path : Path
        request : Mapping
            Everything that the numbers of every unit depend on, as JSON.
        overwrite : bool
            Start anew where there are other results.

        Raises
        ------
        OutputError
            If it cannot be written, is not such a file, holds the results of another run, or another process writes to
            the folder.
        """
        locked = lock_folder(path.parent)
        try:
            connection = cls._connect(path, json.loads(json.dumps(request)), overwrite)
        except BaseException:
            if locked:
                unlock_folder(path.parent)
            raise
        return cls(path, connection, locked)

    @classmethod
    def _connect(cls, path: Path, wanted: dict[str, Any], overwrite: bool) -> sqlite3.Connection:
        """Make or open the file."""
        if overwrite:
            for name in (path, path.with_name(f"{path.name}-journal")):
                name.unlink(missing_ok=True)
        connection = None
        try:
            with reading_units(path, _unusable):
                connection = sqlite3.connect(path)
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    if not connection.execute("SELECT name FROM sqlite_master").fetchone():
                        for statement in cls.TABLES:
                            connection.execute(statement)
                        connection.execute("INSERT INTO about VALUES (?)", [json.dumps(wanted)])
                    found = dict(json.loads(connection.execute("SELECT request FROM about").fetchone()[0]))
        except OutputError:
            if connection is not None:
                connection.close()
            raise
        if changed := differences(found, wanted):
            connection.close()
            raise OutputError(
                f"{path}: holds results of other inputs or settings ({listing(changed, '; ')}): choose another folder, "
                f"or start anew with --overwrite."
            )
        return connection

    def close(self) -> None:
        """Close the file; let other processes write to its folder."""
        self._connection.close()
        if self._locked:
            unlock_folder(self.path.parent)

    def __contains__(self, key: str) -> bool:
        """Whether a unit is done."""
        with reading_units(self.path):
            return self._connection.execute("SELECT 1 FROM done WHERE unit = ?", [key]).fetchone() is not None

    def __getitem__(self, key: str) -> Any:
        """Return the result of a unit that is done."""
        with reading_units(self.path):
            return json.loads(self._connection.execute("SELECT value FROM done WHERE unit = ?", [key]).fetchone()[0])

    def forget(self, key: str) -> None:
        """Forget a unit, so that it is computed again."""
        with self._connection:
            self._connection.execute("DELETE FROM done WHERE unit = ?", [key])

    def write(self, key: str, result: Any) -> None:
        """Keep the result of a unit, whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        try:
            with self._connection:
                self._insert(key, result)
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}): free disk space and run the command again."
            ) from None
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, brief(error)) from None

    def _insert(self, key: str, result: Any) -> None:
        """Insert a unit with its result, which JSON can hold."""
        self._connection.execute("INSERT INTO done VALUES (?, ?)", [key, json.dumps(result)])


def _damaged(path: Path, what: str) -> OutputError:
    return OutputError(f"{path} is damaged ({what}): start anew with --overwrite.")


def _unusable(path: Path, what: str) -> OutputError:
    return OutputError(
        f"{path}: cannot be used as this command's store ({what}): move it away, or choose another folder."
    )


@contextmanager
def reading_units(path: Path, error_of: Callable[[Path, str], OutputError] = _damaged) -> Iterator[None]:
    """Turn whatever a damaged store of units raises in the block into one sentence.

    Raises
    ------
    OutputError
        If the block fails otherwise than by an error of this package.
    """
    try:
        with damage_as(lambda what: error_of(path, what)):
            yield
    except sqlite3.Error as error:
        raise error_of(path, brief(error)) from None


def fill_store(
    store: UnitStore,
    units: Iterable[Unit],
    perform: Perform,
    on_unit: Callable[[Unit], None] | None = None,
    keep: Callable[[Unit, Any], Any] | None = None,
) -> None:
    """Compute every unit that the store does not hold yet.

    Parameters
    ----------
    store : UnitStore
    units : iterable of Unit
    perform : callable
        Yields units with their results, in any order, each one once; not called where nothing is left to do.
    on_unit : callable, optional
        Called with each unit when it is done.
    keep : callable, optional
        Turns a unit and its result into what the store holds; called in this process, where it may write files.
    """
    waiting = (unit for unit in units if unit.key not in store)
    first = next(waiting, None)
    if first is None:
        return
    with closing(perform(chain([first], waiting))) as results:
        for unit, result in results:
            store.write(unit.key, result if keep is None else keep(unit, result))
            if on_unit is not None:
                on_unit(unit)
