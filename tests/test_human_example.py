"""The real example: its files agree with one another, and with their sources where these are at hand."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.sequence import Genome

EXAMPLE = Path(__file__).resolve().parents[1] / "example" / "human"
CHR22_BP = 51_304_566  # hg19
START, END = 38_970_000, 39_650_000
TRACKS = [f"{cell}.{track}.bw" for cell in ("K562", "GM12878") for track in ("dnase", "h3k27ac")]
TRACKS += ["K562.h3k4me1.bw", "K562.h3k4me3.bw"]
CODONS = {"+": "ATG", "-": "CAT"}


@pytest.fixture(scope="module")
def genes() -> pd.DataFrame:
    return pd.read_csv(EXAMPLE / "genes.tsv", sep="\t")


@pytest.fixture(scope="module")
def gtf() -> pd.DataFrame:
    names = ["chrom", "source", "kind", "start", "end", "score", "strand", "phase", "notes"]
    table = pd.read_csv(EXAMPLE / "genes.gtf.gz", sep="\t", names=names)
    for name in ("gene_id", "transcript_id", "gene_type"):
        table[name] = table["notes"].str.extract(rf'{name} "([^".]+)')
    return table


@pytest.fixture(scope="module")
def piece(tmp_path_factory) -> str:
    """The bases of the piece, one letter each."""
    copy = tmp_path_factory.mktemp("genome") / "genome.fa.gz"  # the index goes beside it
    copy.write_bytes((EXAMPLE / "genome.fa.gz").read_bytes())
    with Genome(copy) as genome:
        assert genome.lengths == {"chr22": CHR22_BP}
    lines = gzip.decompress(copy.read_bytes()).decode().split("\n", 1)[1].replace("\n", "")
    assert set(lines[:START]) == set(lines[END:]) == {"N"}
    assert set(lines[START:END]) == set("ACGT")
    return lines[START:END]


def test_every_window_lies_in_the_known_piece(genes):
    assert 10 <= len(genes) <= 15
    assert (genes["tss"] - 100_000 >= START).all()
    assert (genes["tss"] + 100_000 <= END).all()
    assert not genes.isna().to_numpy().any()


def test_tracks_lie_in_the_piece_and_mark_the_promoters_of_genes_that_are_on(genes):
    for name in TRACKS:
        with pyBigWig.open(str(EXAMPLE / name)) as track:
            assert track.chroms() == {"chr22": CHR22_BP}
            intervals = track.intervals("chr22")
            near = [np.nanmax([0, *track.values("chr22", tss - 500, tss + 500)]) for tss in genes["tss"]]
        assert intervals[0][0] >= START
        assert intervals[-1][1] <= END
        expression = genes[f"{name.split('.')[0]}_log10p1"]
        if "h3k4me1" not in name:  # marks enhancers, and what lies beside a promoter
            assert np.mean(np.array(near)[expression > 1] > 0) > 0.6


def test_gene_models_fit_the_sequence(gtf, piece, genes):
    assert set(genes["gene_id"]) <= set(gtf["gene_id"])
    coding = gtf[gtf["kind"] == "CDS"]
    assert gtf["start"].min() > START
    assert gtf["end"].max() <= END
    codons = []
    for (_, strand), parts in coding.groupby(["transcript_id", "strand"]):
        at = parts["start"].min() - 1 if strand == "+" else parts["end"].max() - 3
        codons.append(piece[at - START : at - START + 3] == CODONS[strand])
    assert len(codons) > 30
    assert np.mean(codons) > 0.95  # a few transcripts begin inside the coding sequence


def test_show_prints_names_predicted_and_observed(genes, tmp_path, capsys):
    table = genes.head(1)
    table.to_csv(tmp_path / "genes.tsv", sep="\t", index=False)
    (tmp_path / "genome.fa.gz").write_bytes((EXAMPLE / "genome.fa.gz").read_bytes())
    files = ["--fasta", f"{tmp_path}/genome.fa.gz", "--genes", f"{tmp_path}/genes.tsv", "--track", "hic=powerlaw"]
    files += ["--track", f"h3k27ac={EXAMPLE}/K562.h3k27ac.bw", "--track", f"dnase={EXAMPLE}/K562.dnase.bw"]
    assert main(["predict", "K562", *files, "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    shown = [str(tmp_path / "out"), "--genes", f"{tmp_path}/genes.tsv", "--label", "K562_log10p1"]
    assert main(["show", *shown]) == 0
    header, row = capsys.readouterr().out.splitlines()[1:3]
    assert header.split()[:5] == ["gene", "name", "TSS", "predicted", "observed"]
    assert row.split()[:2] == ["ENSG00000100216", "TOMM22"]
    assert float(row.split()[5]) == pytest.approx(table["K562_log10p1"].iloc[0], abs=1e-3)


def test_the_script_makes_the_files_that_are_shipped(tmp_path):
    data = os.environ.get("SEQ2EXP_DATA")
    if not data or not (Path(data) / "hg19" / "hg19.parts.fa.gz").exists():
        pytest.skip("SEQ2EXP_DATA names no folder with hg19/")
    subprocess.run([sys.executable, EXAMPLE / "make_human_example.py", "--data", data, "-o", tmp_path], check=True)
    for made in tmp_path.iterdir():
        ours, theirs = made.read_bytes(), (EXAMPLE / made.name).read_bytes()
        if made.suffix == ".gz":  # compressed by this machine's zlib
            ours, theirs = gzip.decompress(ours), gzip.decompress(theirs)
        assert ours == theirs, made.name
    assert {p.name for p in tmp_path.iterdir()} == {*TRACKS, "genome.fa.gz", "genes.tsv", "genes.gtf.gz", "crispri.tsv"}
