"""Files that each process opens for itself: lazily, once per process, never across a fork or a pickle.

A handle opened before a fork shares its file position with the parent, and the C libraries behind bigWig and HDF5 share
their state too; so a handle belongs to the process id that opened it, and another process opens its own.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.files import check_regular

if TYPE_CHECKING:
    from typing_extensions import Self

Handle = TypeVar("Handle")


class Closes(ABC):
    """Base of classes that hold files: a context manager whose end calls `close`."""

    @abstractmethod
    def close(self) -> None:
        """Close them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def file_ends(path: Path, where: str, needed: str, size: tuple[int, int]) -> tuple[int, bytes, bytes]:
    """Return a file's length and its first and last bytes, which tell what kind of file it is.

    Parameters
    ----------
    path : Path
    where, needed : str
        Name of the file and what it should be, for messages.
    size : (int, int)
        Bytes wanted from the start and from the end; a shorter file gives fewer.

    Raises
    ------
    InputError
        If it is missing, empty or cannot be read.
    """
    check_regular(path, where)
    try:
        length = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(size[0])
            handle.seek(-min(length, size[1]), os.SEEK_END)
            tail = handle.read()
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror}): {needed} is needed.") from None
    if not length:
        raise InputError(f"{where} is empty: {needed} is needed.")
    return length, head, tail


class LazyFile(Closes, Generic[Handle]):
    """Base of the readers: opened at first use in each process; after `close` the next use opens it again."""

    def __init__(self) -> None:
        self._handle: Handle | None = None
        self._pid = -1
        self._inherited: list[Handle] = []  # belongs to the parent process: neither used nor closed here

    @abstractmethod
    def _open(self) -> Handle:
        """Open the file; called at most once per process between two `close`."""

    @property
    def handle(self) -> Handle:
        """The open file of this process."""
        if self._handle is not None and self._pid != os.getpid():
            self._inherited.append(self._handle)
            self._handle = None
        if self._handle is None:
            self._handle = self._open()
            self._pid = os.getpid()
        return self._handle

    def close(self) -> None:
        """Close the file of this process, if it is open."""
        handle, self._handle = self._handle, None
        if handle is not None and self._pid == os.getpid() and hasattr(handle, "close"):
            handle.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_pid": -1, "_inherited": []}
