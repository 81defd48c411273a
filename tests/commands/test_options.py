"""Options that commands share: batch sizes as text, and progress bars on a terminal and in a file."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

import pytest

from kipoi_seq2exp.cli import build_parser
from kipoi_seq2exp.commands import options
from kipoi_seq2exp.commands.options import progress_bar

WORDS = ["predict", "K562", "--fasta", "f", "--genes", "g", "-o", "o"]


def test_batch_sizes(capsys):
    parse = build_parser().parse_args
    assert parse(WORDS).batch_size is None
    assert parse([*WORDS, "--batch-size", "auto"]).batch_size is None
    assert parse([*WORDS, "--batch-size", "4"]).batch_size == 4
    for wrong in ("many", "0", "1000000000"):
        with pytest.raises(SystemExit):
            parse([*WORDS, "--batch-size", wrong])
        said = capsys.readouterr().err
        assert f"--batch-size: expected a whole number from 1 to 100,000, found '{wrong}'; or auto" in said


def actions(parser):
    """Yield every option and argument of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
        else:
            yield action


NUMBERS = [action for action in actions(build_parser()) if action.type not in (None, Path)]


def test_every_number_of_the_command_line_has_bounds():
    assert len(NUMBERS) > 30
    assert {action.type for action in NUMBERS}.isdisjoint((int, float))


@pytest.mark.parametrize("text", ["-1", "1" + 18 * "0", "9" * 5_000, "inf", "nan", "", "x", "1_0", "²", "٣"])
def test_what_lies_beyond_the_bounds_is_refused(text):
    for read in {action.type for action in NUMBERS}:
        with pytest.raises(
            argparse.ArgumentTypeError, match=r"expected a (whole )?number from [\d,.]+ to [\d,.]+, fou"
        ):
            read(text)


def test_numbers_between_the_bounds_are_read():
    assert [options.SEED("0"), options.SEED("4294967295"), options.SHARE("0.05"), options.SHARE("1")] == [
        0, 4294967295, 0.05, 1.0,
    ]  # fmt: skip


def test_files_of_many_genes_are_counted():
    table, few, many = [Path("o/t.tsv")], [Path("o/A.bw"), Path("o/B.bw")], [Path(f"o/{i}.bw") for i in range(640)]
    assert options.written_files(table, few) == "o/t.tsv, o/A.bw, o/B.bw"
    assert options.written_files(table, many) == "o/t.tsv, and 640 files of single genes beside them"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, file):
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr(options, "LINE_S", 0.0)
    with progress_bar(10, 4, "gene") as bar:
        for _ in range(6):
            bar.update()
    return file.getvalue()


def test_a_file_gets_lines_with_rate_and_time_left(monkeypatch):
    text = shown(monkeypatch, io.StringIO())
    assert "\r" not in text
    assert "|" not in text  # no bar in a log
    lines = text.splitlines()
    assert "4/10" in lines[0]
    assert "10/10" in lines[-1]
    assert len(lines) == 8  # the start, six genes, the end
    assert all(re.search(r"\d+/10 \[\d\d:\d\d<\d\d:\d\d, .*gene", line) for line in lines[1:])


def test_a_terminal_gets_a_bar_that_moves(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert text.count("\r") > 1
    assert text.count("\n") == 1
    assert "10/10" in text


def test_lines_are_not_more_often_than_every_few_seconds(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with progress_bar(1_000, 0, "gene") as bar:
        for _ in range(1_000):
            bar.update()
    assert len(file.getvalue().splitlines()) == 2  # the start and the end
