"""Draw the pictures of the README and the pages with the served weights: `make pictures`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kipoi_seq2exp.cli import main

ROOT = Path(__file__).resolve().parents[1]
HUMAN = ROOT / "example" / "human"
APOBEC3G = "ENSG00000239713"


def draw() -> None:
    tracks = ["--track", f"h3k27ac={HUMAN}/K562.h3k27ac.bw", "--track", f"dnase={HUMAN}/K562.dnase.bw"]
    other = ["--track", f"h3k27ac_reference={HUMAN}/GM12878.h3k27ac.bw"]
    other += ["--track", f"dnase_reference={HUMAN}/GM12878.dnase.bw"]
    other += ["--track", f"h3k4me3={HUMAN}/K562.h3k4me3.bw", "--track", f"h3k4me1={HUMAN}/K562.h3k4me1.bw"]
    genes = ["--genes", f"{HUMAN}/genes.tsv", "--label", "K562_log10p1"]
    tracks += ["--track", "hic=powerlaw"]
    inputs = ["--fasta", f"{HUMAN}/genome.fa.gz", *genes, *tracks, *other]
    with tempfile.TemporaryDirectory() as folder:
        predicted = main(["predict", "K562", *inputs, "--gene-ids", APOBEC3G, "-o", folder])
        locus = ["plot", APOBEC3G, "--from", folder, *genes, *tracks, "--gtf", f"{HUMAN}/genes.gtf.gz"]
        drawn = main([*locus, "-o", str(ROOT / "docs" / "images" / "locus.png")])
    if predicted or drawn:
        raise SystemExit("the pictures could not be drawn")


if __name__ == "__main__":
    draw()
