"""What a failed command says, and its exit status: one sentence for whatever can be raised.

| raised | status | says |
|---|---|---|
| `Seq2ExpError` | 1 | its own sentence |
| an error of the operating system, of memory, of recursion | 1 | the path, and what to do |
| anything else: a fault of ours | 70 | the version, and where the details were written |
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from pathlib import Path

from kipoi_seq2exp import __version__
from kipoi_seq2exp.errors import Seq2ExpError, brief
from kipoi_seq2exp.files import advice

FAILED, UNEXPECTED = 1, 70  # the second is EX_SOFTWARE of sysexits.h
_NO_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory")


def sentence_of(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error, and the exit status.

    Parameters
    ----------
    error : BaseException
        Whatever ended a command, but for `KeyboardInterrupt` and `SystemExit`.

    Returns
    -------
    str, int
    """
    if isinstance(error, Seq2ExpError):
        return " ".join(str(error).split()), FAILED
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
        return (
            "the memory of this machine (or its limit) is used up: close other programs, or take a larger one.",
            FAILED,
        )
    if isinstance(error, RecursionError):
        return "a file of the input is nested too deeply to be read: look at its YAML or JSON.", FAILED
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{_shown(error.filename)}: " if error.filename else ""
        return f"{where}{advice(error)}.", FAILED
    return _unexpected(error), UNEXPECTED


def _shown(name: object) -> str:
    """Return a path that the system named, whatever bytes it holds."""
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else f"file {name}"


def _unexpected(error: BaseException) -> str:
    """Write the details of a fault of ours to a file; return a sentence that names it."""
    what = brief(f"{type(error).__name__}: {error}")
    said = f"a fault of seq2exp {__version__} ({what})"
    try:
        return f"{said}: please report it; the details are in {_write_details(error)}."
    except OSError as failed:
        return f"{said}: please report it; its details cannot be written ({failed.strerror})."


def _write_details(error: BaseException) -> Path:
    """Write a traceback and what it happened with to a new file that this user alone may read."""
    lines = [
        f"seq2exp {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"{sys.argv}\n\n",
        *traceback.format_exception(error),
    ]
    with tempfile.NamedTemporaryFile("wb", prefix="seq2exp-", suffix=".log", delete=False) as file:
        file.write("".join(lines).encode("utf-8", "backslashreplace"))
    return Path(file.name)
