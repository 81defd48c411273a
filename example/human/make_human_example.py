"""Cut the real example out of public human data: 15 genes round the APOBEC3 cluster on chr22, hg19.

    SEQ2EXP_DATA=DIR python example/human/make_human_example.py        # or --data DIR

The piece is chr22:38,970,000-39,650,000. It was chosen for its genes, before anything was predicted: seven APOBEC3
genes, several of them on in B cells and off in K562, between housekeeping genes (TOMM22, GTPBP1, SUN2) and genes that
are nearly silent in one cell type (NPTXR, APOBEC3H).

| file | made from |
|---|---|
| genome.fa.gz | UCSC's human sequence, chr22 at its full hg19 length with N outside the piece, compressed by bgzip |
| *.dnase.bw | ENCODE, UW/Duke uniform DNase narrowPeaks (hg19): the signal value at every base of a peak |
| *.h3k27ac.bw, K562.h3k4me1.bw, K562.h3k4me3.bw | ENCODE, Broad histone broadPeaks (hg19): the same |
| genes.tsv | TSS and mRNA features of Xpresso; log10(RPKM + 1) of ENCODE RNA-seq in both cell types |
| genes.gtf.gz | GENCODE v25, the basic transcripts of genes that lie in the piece, shifted from hg38 to hg19 |
| crispri.tsv | the ENCODE CRISPRi benchmark (K562): the pairs whose gene and element lie in the piece |

`DIR` holds the sources: `hg19/` (hg19.parts.fa.gz, six bigWigs, genes.tsv, crispri_K562_training.hg19.tsv.gz),
`chr22x/` (hg38.chr22.fa.gz, genes.tsv) and `chr22/` (gencode.v25.chr22.gtf.gz). In the piece hg19 and hg38 are one
ungapped block, 396,005 bases apart, and the script checks that the two sequences are equal base by base. The bases come
from the hg38 assembly, so single bases can differ from UCSC's own hg19 file.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
from pathlib import Path

import pandas as pd
import pyBigWig
import pyfaidx
from Bio import bgzf

CHROM, START, END = "chr22", 38_970_000, 39_650_000  # hg19, 0-based half-open
HG38_SHIFT_BP = 396_005  # hg19 position minus hg38 position, the same for every base of the piece
WINDOW_BP = 200_000
LINE_BP = 60
CELLS = ("K562", "GM12878")
TRACKS = [f"{cell}.{track}" for cell in CELLS for track in ("dnase", "h3k27ac")] + ["K562.h3k4me1", "K562.h3k4me3"]
FEATURES = [f"{name}_log10zscore" for name in ("UTR5LEN", "CDSLEN", "INTRONLEN", "UTR3LEN")]
FEATURES += ["UTR5GC", "CDSGC", "UTR3GC", "ORFEXONDENSITY"]
ATTRIBUTES = ("gene_id", "gene_name", "gene_type", "transcript_id", "transcript_type", "exon_number")
CRISPRI_COLUMNS = ["chrom", "chromStart", "chromEnd", "name", "EffectSize", "chrTSS", "startTSS", "endTSS"]
CRISPRI_COLUMNS += ["measuredGeneSymbol", "measuredGeneEnsemblId", "Significant", "pValueAdjusted", "Regulated"]
CRISPRI_COLUMNS += ["CellType", "Reference"]


def read_piece(data: Path) -> tuple[str, int]:
    """Return the bases of the piece and the length of the chromosome in hg19; fail if hg38 has other bases there."""
    with pyfaidx.Fasta(str(data / "hg19" / "hg19.parts.fa.gz")) as genome:
        length = len(genome[CHROM])
        bases = str(genome[CHROM][START:END]).upper()
    with pyfaidx.Fasta(str(data / "chr22x" / "hg38.chr22.fa.gz")) as genome:
        elsewhere = str(genome[CHROM][START - HG38_SHIFT_BP : END - HG38_SHIFT_BP]).upper()
    if bases != elsewhere or set(bases) != set("ACGT"):
        raise SystemExit(f"{data}: {CHROM}:{START:,}-{END:,} of hg19 and its counterpart in hg38 differ, or hold N.")
    return bases, length


def write_genome(path: Path, bases: str, length: int) -> None:
    """Write the chromosome, N outside the piece, as a FASTA compressed by bgzip."""
    whole = "N" * START + bases + "N" * (length - END)
    with bgzf.BgzfWriter(str(path), "wb", compresslevel=9) as out:
        out.write(f">{CHROM}\n".encode())
        for start in range(0, length, LINE_BP):
            out.write(f"{whole[start : start + LINE_BP]}\n".encode())


def write_track(source: Path, target: Path, length: int) -> None:
    """Copy the intervals of a bigWig that touch the piece, cut at its ends."""
    with pyBigWig.open(str(source)) as track:
        rows = [(max(s, START), min(e, END), value) for s, e, value in track.intervals(CHROM, START, END)]
    starts, ends, values = (list(column) for column in zip(*rows, strict=True))
    with pyBigWig.open(str(target), "w") as out:
        out.addHeader([(CHROM, length)])
        out.addEntries([CHROM] * len(rows), starts, ends=ends, values=values)


def choose_genes(data: Path) -> pd.DataFrame:
    """Return the genes whose whole window lies in the piece, with features and the expression in both cell types."""
    genes = pd.read_csv(data / "hg19" / "genes.tsv", sep="\t")
    half = WINDOW_BP // 2
    genes = genes[(genes["chrom"] == CHROM) & (genes["tss"] - half >= START) & (genes["tss"] + half <= END)]
    features = pd.read_csv(data / "chr22x" / "genes.tsv", sep="\t").rename(
        columns={"ENSID": "gene_id", "TSS": "tss_38"}
    )
    genes = genes.merge(features[["gene_id", "tss_38", *FEATURES]], on="gene_id", how="left", validate="1:1")
    if not (genes["tss"] - genes["tss_38"] == HG38_SHIFT_BP).all() or genes[FEATURES].isna().to_numpy().any():
        raise SystemExit(f"{data}: a gene of the piece has no features, or another TSS in chr22x/genes.tsv.")
    labels = [f"{cell}_log10p1" for cell in CELLS]
    return genes.sort_values("tss")[["gene_id", "gene_name", "chrom", "tss", "strand", *FEATURES, *labels]].round(4)


def gene_models(data: Path) -> str:
    """Return the GTF lines of genes that lie in the piece: genes, and the basic transcripts with exons and CDS."""
    kept: dict[str, list[tuple[str, int, int, str]]] = {}
    with gzip.open(data / "chr22" / "gencode.v25.chr22.gtf.gz", "rt", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("#"):
                continue
            fields = line.rstrip("\n").split("\t")
            start, end = (int(value) + HG38_SHIFT_BP for value in fields[3:5])
            gene = re.findall(r'gene_id "([^".]+)', fields[8])[0]
            if fields[2] in ("gene", "transcript", "exon", "CDS") and (fields[2] == "gene" or 'tag "basic"' in line):
                notes = re.findall(r'(\w+) "?([^";]+)"?;', fields[8])
                text = " ".join(f'{key} "{value}";' for key, value in notes if key in ATTRIBUTES)
                row = [*fields[:3], str(start), str(end), *fields[5:8], text]
                kept.setdefault(gene, []).append((fields[2], start, end, "\t".join(row)))
    inside = [rows for rows in kept.values() if rows[0][0] == "gene" and rows[0][1] > START and rows[0][2] <= END]
    return "".join(f"{text}\n" for rows in inside for _, _, _, text in rows)


def tested_pairs(data: Path) -> pd.DataFrame:
    """Return the CRISPRi-tested pairs of element and gene that lie in the piece."""
    pairs = pd.read_csv(data / "hg19" / "crispri_K562_training.hg19.tsv.gz", sep="\t", low_memory=False)
    inside = (pairs["chrom"] == CHROM) & (pairs["chromStart"] >= START) & (pairs["chromEnd"] <= END)
    inside &= (pairs["startTSS"] >= START) & (pairs["endTSS"] <= END)
    return pairs.loc[inside, CRISPRI_COLUMNS]


def make_example(data: Path, folder: Path) -> None:
    """Write every file of the example into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    bases, length = read_piece(data)
    write_genome(folder / "genome.fa.gz", bases, length)
    for track in TRACKS:
        write_track(data / "hg19" / f"{track}.bw", folder / f"{track}.bw", length)
    choose_genes(data).to_csv(folder / "genes.tsv", sep="\t", index=False, lineterminator="\n")
    (folder / "genes.gtf.gz").write_bytes(gzip.compress(gene_models(data).encode("ascii"), mtime=0))
    tested_pairs(data).to_csv(folder / "crispri.tsv", sep="\t", index=False, lineterminator="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the sources (default: SEQ2EXP_DATA)")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    arguments = parser.parse_args()
    source = arguments.data or Path(os.environ.get("SEQ2EXP_DATA") or parser.error("give --data or set SEQ2EXP_DATA"))
    make_example(source, arguments.out)
