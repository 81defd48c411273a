"""Whatever is raised ends in one sentence and an exit status; signals end a command as Ctrl-C does."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import kipoi_seq2exp
from kipoi_seq2exp import cli
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.interruption import held, interruptible


def ended_by(error, monkeypatch, capsys):
    """Return the status of a command that ends with an error, and what it says."""

    def run(args, say):
        if callable(error):
            error()
        raise error

    monkeypatch.setattr(cli, "_parsed", lambda _: argparse.Namespace(command="show", run=run))
    status = cli.main([])
    said = capsys.readouterr().err
    assert said.startswith("seq2exp: ")
    assert said.endswith(".\n")
    assert said.count("\n") == 1
    return status, said


def no_memory():
    np.empty(1 << 60, dtype=np.uint8)


def too_deep():
    too_deep()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("a.bed: line 3\nholds nothing."), "a.bed: line 3 holds nothing."),
        (PermissionError(errno.EACCES, "Permission denied", "out/x.tsv"), "out/x.tsv: permission denied: choose a pl"),
        (OSError(errno.EROFS, "Read-only file system", b"out/x"), "out/x: the file system is read-only"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "xxx: the name is too long"),
        (OSError(errno.ENOSPC, "No space left on device", "out"), "out: the disk is full"),
        (OSError(errno.EIO, "Input/output error", 7), "file 7: Input/output error"),
        (OSError(errno.ENOSPC, "No space left on device"), "seq2exp: the disk is full"),
        (no_memory, "the memory of this machine .* is used up"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
        (too_deep, "nested too deeply"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(error, words, monkeypatch, capsys):
    status, said = ended_by(error, monkeypatch, capsys)
    assert status == 1
    assert re.search(words, said), said


@pytest.mark.parametrize("error", [ZeroDivisionError("a\nb"), KeyError("x"), OSError("no number"), ValueError()])
def test_a_fault_of_ours_says_where_its_details_are(error, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    status, said = ended_by(error, monkeypatch, capsys)
    assert status == 70
    assert kipoi_seq2exp.__version__ in said
    assert type(error).__name__ in said
    path = Path(re.search(r"the details are in (\S+)\.\n", said)[1])
    assert path.parent == tmp_path
    assert path.stat().st_mode & 0o077 == 0
    assert "Traceback" in path.read_text()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert "details cannot be written (No such file or directory)" in ended_by(error, monkeypatch, capsys)[1]


@pytest.mark.parametrize(
    ("number", "status", "name"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_every_signal_is_a_ctrl_c(number, status, name, monkeypatch, capsys):
    before = signal.getsignal(number)
    handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, handler)  # also where the tests themselves run under nohup
    try:
        found = ended_by(lambda: signal.raise_signal(number), monkeypatch, capsys)
        assert found == (status, f"seq2exp: 'seq2exp show' was interrupted ({name}) before it was done.\n")
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as seen:
            signal.raise_signal(signal.SIGHUP)
        assert seen.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_can_wait():
    steps = []
    with pytest.raises(KeyboardInterrupt), interruptible() as seen:  # noqa: PT012
        with held():
            signal.raise_signal(signal.SIGTERM)
            steps.append("done")
        steps.append("never")
    assert (steps, seen.status) == (["done"], 143)


def test_a_forked_process_is_ended_as_ever():
    with interruptible():
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


# ------------------------------------------------------------------------------------------------------- the terminal

SAYS = """
import sys
from kipoi_seq2exp import cli
from kipoi_seq2exp.commands import show
def run(args, say):
    print("progress", file=sys.stderr, flush=True)
    with open(sys.argv[1], "w") as result:
        say("na\\u00efve \\U0001f9ec")
        result.write(sys.stderr.name if sys.stderr.isatty() else "done")
    return 0
cli._parsed = lambda _: __import__("argparse").Namespace(command="show", run=run)
sys.exit(cli.main([]))
"""


def in_shell(redirections, tmp_path, **environment):
    words = f'"{sys.executable}" -c "$SAYS" "{tmp_path}/result" {redirections}'
    done = subprocess.run(
        ["sh", "-c", words],
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment, "SAYS": SAYS},
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("redirections", ["2>&-", "1>&-", "0<&- 1>&- 2>&-", "2>/dev/full"])
def test_a_terminal_that_is_gone_ends_no_run(redirections, tmp_path):
    assert in_shell(redirections, tmp_path)[0] == 0
    assert (tmp_path / "result").read_text() == "done"


def test_a_full_disk_behind_the_output(tmp_path):
    status, _, said = in_shell(">/dev/full", tmp_path)
    assert status == 1
    assert said.splitlines()[1:] == [
        b"seq2exp: what this command prints cannot be written (the disk is full: free some space and run the command "
        b"again)."
    ]
    help_text = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m kipoi_seq2exp.cli --help >/dev/full'], capture_output=True, check=False
    )
    assert (help_text.returncode, help_text.stderr.count(b"\n")) == (1, 1)


def test_letters_that_a_terminal_cannot_show(tmp_path):
    status, said, _ = in_shell("", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (status, said) == (0, b"na\\xefve \\U0001f9ec\n")


def test_a_reader_that_has_gone(tmp_path):
    status, _, said = in_shell("| true", tmp_path)
    assert status == 0  # of `true`
    assert b"Traceback" not in said
    assert b"Exception ignored" not in said
