"""What the README and the page of Kipoi show runs as it stands, as does the quickstart: on the example's first gene."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import warm

from kipoi_seq2exp.zoo import register

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KIPOI_PAGE = (ROOT / "docs" / "kipoi.md").read_text(encoding="utf-8")
WITH_THE_PACKAGE, WITH_KIPOI = re.findall(r"^```python\n(.+?)^```", README + KIPOI_PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with `example/human/` in it, of one gene; an empty home."""
    human = tmp_path / "example" / "human"
    human.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    for source in (ROOT / "example" / "human").iterdir():
        if source.suffix in (".bw", ".gz"):
            (human / source.name).write_bytes(source.read_bytes())
    lines = (ROOT / "example" / "human" / "genes.tsv").read_text().splitlines(keepends=True)
    (human / "genes.tsv").write_text("".join(lines[:2]))
    return tmp_path


def python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "HOME": str(folder / "home")}
    done = warm.run(arguments, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_blocks_and_quickstart_agree(folder):
    gene, expression, kept = python(folder, "-c", WITH_THE_PACKAGE).split()
    assert gene == "ENSG00000100216"
    register.register(folder / "home", offline=True)
    genes = str(folder / "example" / "human" / "genes.tsv")
    rows = python(folder, str(ROOT / "example" / "quickstart.py"), "--genes", genes, "--kipoi").splitlines()
    assert rows[-2] == "gene_id\texpression\tkept_fraction"
    again = rows[-1].split("\t")
    assert again[0] == gene
    assert [float(value) for value in again[1:]] == pytest.approx([float(expression), float(kept)], abs=1e-4)
    report = """
assert set(predictions) >= {"expression", "element_mask"}
assert predictions["expression"].shape == (1, 1)
assert predictions["element_mask"].shape == (1, 200_000)
print(batch["metadata"]["gene_id"][0], float(predictions["expression"][0, 0]), predictions["element_mask"].mean())
"""
    last = python(folder, "-c", WITH_KIPOI + report).splitlines()[-1].split()
    assert last[0] == gene
    assert [float(value) for value in last[1:]] == pytest.approx([float(expression), float(kept)], abs=1e-4)


def test_the_quickstart_ends_in_a_sentence_where_genes_lack_features(tiny, weights, monkeypatch, capsys):
    files = {"model": weights, "genes": tiny.bed, "fasta": tiny.fasta, **tiny.tracks}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *words])
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(ROOT / "example" / "quickstart.py"), run_name="__main__")
    said = capsys.readouterr()
    assert said.err.startswith(f"quickstart: {tiny.bed} has no column for the feature 'UTR5LEN'")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_first_screen_is_the_commands_and_what_the_weights_know():
    head = "\n".join(README.splitlines()[:32])
    assert "make predict" in head
    assert "kipoi predict Seq2Exp/K562" in head
    assert "## What the weights know" in head
    assert "read **no DNA**" in head
    assert len(WITH_THE_PACKAGE.strip().splitlines()) <= 10
    assert len(README.split()) <= 600
