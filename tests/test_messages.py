"""What people are told: whole words, and a folder is called one."""

from __future__ import annotations

import ast
import re

import pytest
from kipoi_door import REPOSITORY
from small_runs import command_line

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.commands.models import read_json
from kipoi_seq2exp.config import TrackKind, TrackSpec
from kipoi_seq2exp.data.tracks.contact_files import HicContacts
from kipoi_seq2exp.errors import Seq2ExpError, brief, excerpt, left_open
from kipoi_seq2exp.nn.pickled import read_pickled
from kipoi_seq2exp.prediction.store import read_predictions


def test_what_another_package_says_is_cut_between_words():
    long = ConnectionError(
        "HTTPSConnectionPool(host='www.encodeproject.org', port=443):\n  Max retries " + "exceeded " * 40
    )
    text = brief(long)
    assert text.startswith("HTTPSConnectionPool(host='www.encodeproject.org', port=443): Max retries exceeded")
    assert text.endswith("exceeded ...")
    assert len(text) <= 200
    assert brief(ValueError("short.")) == "short"
    assert brief(ValueError()) == "ValueError"
    assert brief("x" * 300) == "x" * 196 + " ..."


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("f(a, [b]) 'c'", ""),
        ("cannot read Hi-C as (x [y", "])"),
        ("HTTPSConnectionPool(host='www.e", "')"),
        ("the users' file isn't \"a (b", '"'),
        ("{'a': (1, 2)", "}"),
    ],
)
def test_what_a_cut_text_leaves_open_is_known(text, ends):
    assert left_open(text) == ends
    assert left_open(text + ends) == ""
    long = f"{'x ' * 30}{text} {'y ' * 30}"
    assert excerpt(long, 60 + len(text) + 5).endswith(f" ...{ends}")


LONG = " ".join(f"word{number:04}" for number in range(60))


def cut_within(message):
    """Whether a message ends a word of `LONG` early, or leaves a bracket or a quote open."""
    return [word for word in re.findall(r"word\w*", message) if not re.fullmatch(r"word\d{4}", word)] or left_open(
        message
    )


SAID = {
    "--track": ["--track", f"dnase={LONG}"],
    "--track twice": ["--track", f"dnase={LONG}"] * 2,
    "--track without =": ["--track", LONG],
    "--tracks": ["--tracks", LONG],
    "--genes": ["--genes", "{place}/genes.tsv"],
    "--blacklist": ["--blacklist", "{place}/b.bed"],
    "--gene-ids": ["--gene-ids", LONG],
    "--cluster": ["--cluster", LONG],
    "--label": ["--label", LONG],
    "contacts": ["hic={place}/contacts.tsv"],
    "values": ["dnase={place}/d.bedGraph"],
    "--cells": ["--cells", "{place}/cells.yaml"],
}


@pytest.mark.parametrize("name", SAID)
def test_no_message_ends_within_a_word_or_a_bracket(name, tiny, weights, tmp_path, capsys):
    """Long values in every place of a prediction that takes some."""
    header, first = tiny.genes.read_text().splitlines()[:2]
    cells = first.split("\t")
    (tmp_path / "genes.tsv").write_text("\n".join([header, "\t".join([*cells[:2], LONG, *cells[3:]]), ""]))
    (tmp_path / "b.bed").write_text(f"chr1\t{LONG}\t9\n")
    (tmp_path / "d.bedGraph").write_text(f"chr1\t5\t9\t{LONG}\n")
    (tmp_path / "contacts.tsv").write_text(f"gene_id\tstart\tend\tcontact\n{cells[0]}\t1\t9\t{LONG}\n")
    (tmp_path / "cells.yaml").write_text(f"cells: {{x: {{{LONG}: [(]}}}}\n")
    given = [word.format(place=tmp_path) for word in SAID[name]]
    words = command_line(tiny, weights, tmp_path / "out")
    if not given[0].startswith("--"):  # in place of the good file
        track = given.pop().partition("=")
        words = ["".join(track) if word.startswith(f"{track[0]}=") else word for word in words]
    try:
        status = main([*words, *given])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status in (1, 2), said
    assert "word0000" in said
    assert not cut_within(said.replace(str(tmp_path), ""))


def test_texts_of_messages_are_shortened_by_one_function():
    """A slice in a message ends where it ends: `excerpt` says that something is left out."""
    found = []
    for path in sorted((REPOSITORY / "kipoi_seq2exp").rglob("*.py")):
        values = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FormattedValue))
        for part in (part for value in values for part in ast.walk(value.value)):
            if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Slice) and part.slice.upper is not None:
                shown = ast.unparse(part)
                known = "hexdigest()" in shown or re.fullmatch(r"(found|sha256|head|ID_COLUMNS)\[:\d+\]", shown)
                found += [] if known or path.name in _CUTS_ITSELF else [f"{path.name}, line {part.lineno}: {shown}"]
    assert not found


_CUTS_ITSELF = ("margins.py", "settings.py", "files.py", "writers.py")  # with a sign, or no text at all


@pytest.mark.parametrize(
    "read",
    [
        read_json,
        read_pickled,
        read_predictions,
        lambda path: HicContacts(str(path), TrackSpec("hic", TrackKind.CONTACT)),
    ],
)
def test_a_folder_is_not_called_missing(tmp_path, read):
    folder = tmp_path / "x.h5"
    folder.mkdir()
    with pytest.raises(Seq2ExpError, match="it is a folder"):
        read(folder)


@pytest.mark.parametrize("option", ["weights", "--cells", "results", "--fasta", "--genes", "--blacklist", "--tracks"])
def test_a_command_tells_a_folder_from_what_is_missing(option, tiny, weights, tmp_path, capsys):
    folder = tmp_path / "a.folder"
    folder.mkdir()
    words = command_line(tiny, folder if option == "weights" else weights, tmp_path / "out")
    if option == "results":
        words = ["show", str(folder)]
    elif option in words:
        words[words.index(option) + 1] = str(folder)
    elif option != "weights":
        words += [option, str(folder)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "a.folder" in said
    assert "folder" in said.replace("a.folder", "")
    assert "no such" not in said
