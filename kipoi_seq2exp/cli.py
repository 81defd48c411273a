"""The command line `seq2exp`: finds the command, prints what it says, and turns its failure into an exit status.

A user's error is one sentence on stderr with status 1; a misspelled option has status 2; Ctrl-C has 130 and a sentence
on how to go on (SIGTERM and SIGHUP likewise, 143 and 129). A fault of ours is one sentence too, with status 70 and its
traceback in a file (see `failures`). This is the only module that prints.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO, cast

from kipoi_seq2exp import __version__
from kipoi_seq2exp.commands import (
    benchmark,
    compare,
    contributions,
    elements,
    features,
    models,
    new_cell,
    perturb,
    predict,
    report,
    show,
    train,
    variants,
)
from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.failures import FAILED, sentence_of
from kipoi_seq2exp.files import advice
from kipoi_seq2exp.interruption import interruptible
from kipoi_seq2exp.settings import suggest

INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="seq2exp",
        description="Gene expression from DNA and epigenomic tracks, and the DNA that drives it.",
        epilog="`seq2exp COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"seq2exp {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (
        predict,
        elements,
        perturb,
        benchmark,
        variants,
        contributions,
        compare,
        report,
        show,
        models,
        features,
        new_cell,
        train,
    ):
        group.add_to(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    with _forgiving_terminal(), interruptible() as interruptions:
        command = "seq2exp"
        try:
            args = _parsed(arguments)
            command = f"seq2exp {args.command}"
            status: int = args.run(args, _say)
            return status
        except KeyboardInterrupt as stop:
            _complain(str(stop) or f"'{command}' was interrupted ({interruptions.cause}) before it was done.")
            return interruptions.status
        except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
            _silence(sys.stdout)
            return FAILED
        except Exception as error:
            sentence, status = sentence_of(error)
            _complain(sentence)
            return status


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; the error for an unknown option names the one that was probably meant."""
    parser = build_parser()
    try:
        args, unknown = parser.parse_known_args(arguments)
    finally:
        with _printing():  # help and version are
            print(end="", flush=True)
    if unknown:
        commands = [args.command, *([args.kind] if hasattr(args, "kind") else [])]
        parser.error(f"{' '.join(commands)} does not know {unknown[0]}{_nearest(parser, commands, unknown[0])}")
    return args


def _say(line: str) -> None:
    with _printing():
        print(line, flush=True)


@contextmanager
def _printing() -> Iterator[None]:
    """Turn a failure to print into one sentence; a reader that has gone is not a failure (see `main`)."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(sys.stdout)
        raise OutputError(f"what this command prints cannot be written ({advice(error)}).") from None


def _silence(output: TextIO) -> None:
    """Discard what is still to be printed: Python would complain about it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def _complain(sentence: str) -> None:
    print(f"seq2exp: {sentence}", file=sys.stderr)


class _Unfailing:
    """A text file whose writes never fail: progress and messages must not end a run whose terminal is gone."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        with suppress(OSError, ValueError, AttributeError):
            self._file.write(text)  # type: ignore[union-attr]
        return len(text)

    def flush(self) -> None:
        """Flush what was written, or lose it."""
        with suppress(OSError, ValueError, AttributeError):
            self._file.flush()  # type: ignore[union-attr]

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with suppress(OSError, ValueError, AttributeError):
            return self._file.isatty()  # type: ignore[union-attr]
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def _forgiving_terminal() -> Iterator[None]:
    """Make both outputs safe: never closed, no character that they cannot show, no error from stderr."""
    for number in range(3):  # else the next file opened would become the output
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    errors = sys.stderr
    try:
        with redirect_stderr(cast(TextIO, _Unfailing(errors))):
            yield
    finally:
        try:
            if errors is not None:  # it was closed before Python started
                errors.flush()
        except OSError:  # what is left in it would fail once more when Python ends, as status 120
            _silence(errors)


def _nearest(parser: argparse.ArgumentParser, commands: Sequence[str], unknown: str) -> str:
    """Return a hint at the option that was meant."""
    if not unknown.startswith("-"):
        return ""
    for command in commands:
        groups = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = next(groups).choices[command]
    return suggest(unknown.split("=")[0], [option for action in parser._actions for option in action.option_strings])


if __name__ == "__main__":
    sys.exit(main())
