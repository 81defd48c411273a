"""The command line `seq2exp`: finds the command, prints what it says, and turns its failure into an exit status.

What a user causes is one sentence on stderr and status 1; a misspelled option 2; Ctrl-C 130, with how to go on. A fault
of ours keeps its traceback. This is the only module that prints.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from kipoi_seq2exp import __version__
from kipoi_seq2exp.commands import (
    benchmark,
    compare,
    contributions,
    elements,
    models,
    new_cell,
    perturb,
    predict,
    report,
    show,
    train,
    variants,
)
from kipoi_seq2exp.errors import Seq2ExpError
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
        new_cell,
        train,
    ):
        group.add_to(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands = [args.command, *([args.kind] if hasattr(args, "kind") else [])]
        parser.error(f"{' '.join(commands)} does not know {unknown[0]}{_nearest(parser, commands, unknown[0])}")
    try:
        status: int = args.run(args, _say)
        return status
    except Seq2ExpError as error:
        print(f"seq2exp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"seq2exp: {stop or 'interrupted.'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _say(line: str) -> None:
    print(line, flush=True)


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
