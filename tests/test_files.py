"""Output files: whole or absent, and what goes wrong on the disk in one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kipoi_seq2exp import files
from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.files import file_name, make_folder, output_error, remove_folder, whole_file


def test_a_whole_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_and_cleaned_up_alike(tmp_path):
    with pytest.raises(OutputError, match="disk is full"), whole_file(tmp_path / "a.zarr") as temporary:  # noqa: PT012
        temporary.mkdir()
        (temporary / "chunk").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_on_which_nothing_can_even_be_removed(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(OutputError, match="read-only"), whole_file(tmp_path / "a") as temporary:
        temporary.write_text("x")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EFBIG, "limit"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_reasons_are_said_in_words(tmp_path, code, words):
    message = str(output_error(tmp_path / "a", OSError(code, os.strerror(code))))
    assert words in message
    assert message.startswith(f"{tmp_path / 'a'}: cannot be written (")


def test_make_folder(tmp_path):
    make_folder(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file: is a file; give a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        make_folder(tmp_path / "file" / "inside")


def test_a_folder_that_may_not_be_written(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(OutputError, match="permission denied"):
        make_folder(closed)


def test_remove_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    with pytest.raises(OutputError, match="cannot be removed"):
        remove_folder(tmp_path / "a")


def test_a_link_placed_where_a_temporary_goes_is_not_followed(tmp_path: Path) -> None:
    """Whatever name someone guessed before: the target of the link stays as it is."""
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("mine")
    out.mkdir()
    pid = os.getpid()
    for name in (f".result.tsv.{pid}.tmp", f".writable.{pid}", f".{pid}.result.tsv", f".result.tsv.{pid}.part"):
        (out / name).symlink_to(victim)
    files.make_folder(out)
    files.write_text(out / "result.tsv", "new")
    assert (out / "result.tsv").read_text() == "new"
    assert victim.read_text() == "mine"


def test_staging_is_private_and_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".result.tsv.{files._HERE}-{gone.pid}.abcdefgh.tmp"
    left.mkdir()
    (left / "result.tsv").write_text("half")
    kept = tmp_path / f".result.tsv.{files._HERE}-1.abcdefgh.tmp"  # process 1 lives
    kept.mkdir()
    elsewhere = tmp_path / f".result.tsv.0badc0de-{gone.pid}.abcdefgh.tmp"  # of another machine
    elsewhere.mkdir()
    mine = tmp_path / ".notes.tmp"
    mine.mkdir()
    with files.whole_file(tmp_path / "result.tsv") as part:
        assert part.parent.stat().st_mode & 0o777 == 0o700
        part.write_text("whole")
    assert {entry.name for entry in tmp_path.iterdir()} == {kept.name, elsewhere.name, mine.name, "result.tsv"}


@pytest.mark.parametrize(
    "text",
    [
        "../../EVIL",
        "/tmp/EVIL",
        "",
        ".",
        "..",
        ".hidden",
        "-o",
        "a/b",
        "a\0b",
        "a\nb",
        "x" * 5_000,
        "\u00e9" * 300,
        "a b",
    ],
)
def test_any_id_makes_a_plain_bounded_name(tmp_path, text):
    name = file_name(text)
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= 120
    (tmp_path / f"{name}.mutagenesis.tsv").write_text("")
    assert [path.parent for path in tmp_path.rglob("*")] == [tmp_path]


def test_names_of_files_keep_ids_apart_and_plain_ones_as_they_are():
    assert [file_name(text) for text in ("ENSG00000100342.21", "HLA-A", "h3k27ac")] == [
        "ENSG00000100342.21", "HLA-A", "h3k27ac",
    ]  # fmt: skip
    near = ["a/b", "a\\b", "a:b", "a_b", "x" * 200, "x" * 201]
    assert len({file_name(text) for text in near}) == len(near)


@pytest.mark.parametrize("error", [None, OSError(28, "No space left on device"), ValueError("ours")])
def test_several_files_are_there_together_or_none(tmp_path, error):
    (tmp_path / "a.tsv").write_text("old")

    def write():
        with files.whole_files(tmp_path) as folder:
            files.write_text(folder / "a.tsv", "new")
            if error is not None:
                with files.whole_file(folder / "b.bw"):
                    raise error
            files.write_text(folder / "b.bw", "new")

    if error is None:
        write()
    else:
        with pytest.raises((OutputError, ValueError)) as raised:
            write()
        assert str(raised.value) in (
            f"{tmp_path / 'b.bw'}: cannot be written ({files.advice(error) if isinstance(error, OSError) else ''}).",
            "ours",
        )
    assert state_of(tmp_path) == ({"a.tsv": "old"} if error else {"a.tsv": "new", "b.bw": "new"})
    assert not list(tmp_path.glob(".*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from kipoi_seq2exp.files import changed_together
folder = Path(sys.argv[1])
with changed_together([folder / "table.tsv", folder / "sub" / "new.bin", folder / "old.md"]):
    (folder / "table.tsv").write_text("half")
    (folder / "sub" / "new.bin").write_text("half")
    (folder / "old.md").unlink()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def state_of(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def several(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "table.tsv").write_text("table")
    (tmp_path / "old.md").write_text("old")
    return tmp_path


def test_what_a_killed_process_changed_in_part_is_undone_by_the_next(several):
    before = state_of(several)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(several)], check=False)
    assert killed.returncode == -9
    assert state_of(several)["table.tsv"] == "half"
    undone = files.undo_leftovers(several)
    assert {path.name for path in undone} == {"table.tsv", "new.bin", "old.md"}
    assert state_of(several) == before
    assert files.undo_leftovers(several) == []


@pytest.mark.parametrize("notes", ['[["../evil.txt", "0"]]', '[["ABSOLUTE", "0"]]', '[["x", "1"]]', "[[1]]", "{", "7"])
def test_notes_of_other_people_change_nothing(tmp_path, monkeypatch, notes):
    folder = tmp_path / "group"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    undo = files._owned_folder(folder / "group", "undo")
    (undo / "0").write_text("evil")
    (undo / "1").symlink_to(tmp_path / "secret.txt")
    (undo / "undo.json").write_text(notes.replace("ABSOLUTE", str(tmp_path / "evil.txt")))
    monkeypatch.setattr(files, "_alive", lambda pid: False)
    assert files.undo_leftovers(folder) == []
    assert state_of(tmp_path) == {"secret.txt": "secret"}


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), None])
def test_several_files_change_together_or_not_at_all(several, error):
    before = state_of(several)

    def change():
        with files.changed_together([several / "table.tsv", several / "sub" / "new.bin", several / "old.md"]):
            (several / "table.tsv").write_text("new")
            (several / "old.md").unlink()
            (several / "sub" / "new.bin").write_text("new")
            if error is not None:
                raise error

    if error is None:
        change()
        assert state_of(several) == {"table.tsv": "new", "sub/new.bin": "new"}
    else:
        with pytest.raises(type(error)):
            change()
        assert state_of(several) == before
    assert not list(several.glob(".*"))


def test_unfinished_chunks_are_removed(tmp_path):
    (tmp_path / "preds").mkdir()
    (tmp_path / "preds" / "1.0").write_text("whole")
    (tmp_path / "preds" / "2.0.0123abcd.partial").write_text("ha")
    files.remove_partials(tmp_path)
    assert state_of(tmp_path) == {"preds/1.0": "whole"}
