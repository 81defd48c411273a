"""No command replaces results without --overwrite; every command that writes has it, or says here why not."""

from __future__ import annotations

import argparse

import pytest

from kipoi_seq2exp.cli import build_parser, main

WITHOUT = {
    "plot": "draws a picture anew",
    "show": "draws a picture anew",
    "train": "never writes into the folder of another run; --resume goes on with its own",
    "fetch": "keeps files whose hash is as expected",
}
AT_ONCE = {  # words with inputs that are not there, and the file that they would write
    "perturb": ("perturb K562 --tile chr1:1-2000 --fasta x --genes x -o {out}", "perturb.tsv"),
    "compare": ("compare a=x.tsv --genes x -o {out}", "comparison.tsv"),
    "compare by Kipoi": ("compare Seq2Exp/K562 --args Seq2Exp/K562={{}} --genes x -o {out}", "Seq2Exp_K562.h5"),
    "report": ("report x -o {out}", "report.html"),
    "report beside elements": ("report x -o {out}", "elements.bed"),
    "evaluate": ("evaluate x.safetensors --config x.yaml -o {out}", "test.scores.json"),
    "convert": ("convert x.ckpt -o {out}/w.safetensors", "w.safetensors"),
    "features": ("features x.gtf x.fa -o {out}/genes.tsv", "genes.tsv"),
    "new-cell": ("new-cell {out}/a.yaml --fasta x --genes x --label x --track atac=x", "a.cells.yaml"),
    "benchmark crispri": ("benchmark crispri x.tsv -o {out}", "crispri.tsv"),
    "benchmark recovery": ("benchmark recovery --from-files x -o {out}", "recovery.md"),
    "its genome": ("benchmark recovery --task dna --genes 1 --to-files {out} -o {out}/o", "genome.yaml"),
}


def commands(parser, name=""):
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, {action.dest: action for action in parser._actions}
    for action in below:
        for word, found in action.choices.items():
            yield from commands(found, f"{name} {word}".strip())


def test_every_command_that_writes_has_the_option():
    writing = {
        name: "overwrite" in options
        for name, options in commands(build_parser())
        if options.keys() & {"output", "plot", "to", "to_files"}
    }
    assert len(writing) > 12
    assert {name for name, has_it in writing.items() if not has_it} == set(WITHOUT)


@pytest.mark.parametrize(("words", "name"), AT_ONCE.values(), ids=AT_ONCE)
def test_what_is_there_stays_unless_overwrite_is_given(words, name, tmp_path, capsys):
    there = tmp_path / name
    there.write_text("mine")
    words = words.format(out=tmp_path).split()
    assert main(words) == 1
    assert f"{there}: exists; give --overwrite to replace it, or choose another place." in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 1  # its inputs are not there
    assert "exists" not in capsys.readouterr().err
    assert there.read_text() == "mine"
