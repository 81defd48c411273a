"""The kinds of error a user can cause; every message is one sentence: what was found, where, and what to do.

The command line prints the message of a `Seq2ExpError` alone and exits with 1 (a traceback is for faults of ours).
"""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Seq2ExpError(Exception):
    """Base of every error that a user's input, settings, weights or disk can cause."""


class ConfigError(Seq2ExpError, ValueError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class InputError(Seq2ExpError, ValueError):
    """A file or a field of the user's data cannot be used as it is."""


class ShapeError(Seq2ExpError, ValueError):
    """An array does not have the shape or the type that the network needs."""


class WeightsError(Seq2ExpError, ValueError):
    """A weights file is missing, damaged, or made for other inputs."""


class OutputError(Seq2ExpError, OSError):
    """A result cannot be written where the user asked for it."""


class ClusterError(Seq2ExpError, RuntimeError):
    """Other machines cannot be reached, or do not do what they were asked to."""


# what h5py, hictkpy, pyfaidx, zarr, its codecs, JSON and pandas raise on damaged files
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SystemError,  # texts whose characters are numbers outside Unicode
    TypeError,
    ValueError,
    csv.Error,
    struct.error,
    zlib.error,
)


@contextmanager
def damage_as(error_of: Callable[[str], Seq2ExpError]) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file in the block into one sentence.

    Parameters
    ----------
    error_of : callable
        Makes the error, given a short form of the library's message.

    Raises
    ------
    Seq2ExpError
        If the block fails; an error of this package goes through as it is.
    """
    try:
        yield
    except Seq2ExpError:
        raise
    except _DAMAGE as error:
        raise error_of(brief(error)) from None


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 gene", "1,200 genes"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def brief(error: object, most: int = 200) -> str:
    """Return what another package says of an error, in one line, as `excerpt` shortens it."""
    return excerpt(" ".join(str(error).split()).rstrip(".") or type(error).__name__, most)


def excerpt(value: object, most: int = 40) -> str:
    """Return a text for a message: as it is, or whole words of its beginning, "..." and what closes its brackets.

    Parameters
    ----------
    value : object
        What a user gave, or another package said.
    most : int
        Letters from which on it is shortened (a single longer word is cut within).
    """
    text = str(value)
    if len(text) <= most:
        return text
    start = text[: most - 4]
    space = max(map(start.rfind, " \t"))
    if space >= most // 2 and not text[most - 4].isspace():
        start = start[:space]
    start = start.rstrip(" \t,;:")
    return f"{start} ...{left_open(start)}"


def left_open(text: str) -> str:
    """Return what would close the brackets and quotes that a text leaves open, innermost first."""
    ends: list[str] = []
    for before, letter, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if ends and letter == ends[-1] and (letter not in _QUOTES or not after.isalnum()):
            ends.pop()
        elif ends and ends[-1] in _QUOTES:
            continue
        elif letter in _CLOSED_BY:
            ends.append(_CLOSED_BY[letter])
        elif letter in _QUOTES and not before.isalnum():  # after a letter it is an apostrophe
            ends.append(letter)
    return "".join(reversed(ends))


_CLOSED_BY, _QUOTES = {"(": ")", "[": "]", "{": "}"}, "'\""
