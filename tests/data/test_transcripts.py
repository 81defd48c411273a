"""Features of genes from a GTF and a FASTA: against a hand-made transcript, and against Xpresso's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.features import resolve_features
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.transcripts import GC, Z_SCORES, Choice, feature_row, gene_features, read_transcripts
from kipoi_seq2exp.errors import InputError

EXONS = {"T1": [(1_000, 1_200), (1_500, 1_700)], "T2": [(1_100, 1_900)], "T3": [(1_000, 1_060)]}
CODING = {"T1": [(1_150, 1_200), (1_500, 1_600)], "T2": [(1_200, 1_290)]}  # T3 makes no protein
MANE = 'tag "basic"; tag "MANE_Select";'


def gtf(strand="+", chrom="chr1", shift=0, gene_id="G1.2"):
    """Return the records of a gene with two coding transcripts, of which the shorter one is MANE's, and another."""
    lines = []
    for name, exons in EXONS.items():
        blocks = [("transcript", exons[0][0], exons[-1][1]), *(("exon", *block) for block in exons)]
        blocks += [("CDS", *block) for block in CODING.get(name, [])]
        for feature, start, end in blocks:
            more = (
                f'gene_id "{gene_id}"; transcript_id "{gene_id}_{name}"; gene_name "ONE"; gene_type "protein_coding";'
            )
            tags = MANE if name == "T2" and feature == "transcript" else ""
            place = f"{start + shift + 1}\t{end + shift}\t.\t{strand}\t.\t"
            lines.append(f"{chrom}\ttest\t{feature}\t{place}{more} {tags}\n")
    return "".join(lines)


def write(tmp_path, text):
    path = tmp_path / "genes.gtf"
    path.write_text(text)
    return path


def share_of_gc(bases, *blocks):
    letters = b"".join(bases[start:end] for start, end in blocks).upper()
    known = sum(letters.count(letter) for letter in (b"A", b"C", b"G", b"T"))
    return (letters.count(b"G") + letters.count(b"C")) / known


@pytest.mark.parametrize("strand", ["+", "-"])
def test_lengths_gc_and_density_of_the_longest(tiny, tmp_path, strand):
    with Genome(tiny.fasta) as genome:
        table, notes = gene_features(write(tmp_path, gtf(strand)), genome)
    assert notes == []
    (row,) = table.to_dict("records")
    assert (row["gene_id"], row["gene_name"], row["chrom"], row["strand"]) == ("G1.2", "ONE", "chr1", strand)
    assert (row["transcript_id"], row["transcript_rule"]) == ("G1.2_T1", "longest")
    assert row["tss"] == (1_000 if strand == "+" else 1_699)
    left, right = [(1_000, 1_150)], [(1_600, 1_700)]
    five, three = (left, right) if strand == "+" else (right, left)
    lengths = {
        "UTR5LEN": five[0][1] - five[0][0],
        "CDSLEN": 150,
        "INTRONLEN": 300,
        "UTR3LEN": three[0][1] - three[0][0],
    }
    for name, length in lengths.items():
        mean, deviation = Z_SCORES[name]
        assert row[f"{name}_log10zscore"] == pytest.approx((np.log10(length + 0.1) - mean) / deviation)
    for name, blocks in zip(GC, (five, CODING["T1"], three), strict=True):
        assert row[name] == pytest.approx(share_of_gc(tiny.bases["chr1"], *blocks))
    assert row["ORFEXONDENSITY"] == pytest.approx(1 / 0.15)


def test_a_tagged_transcript_is_taken_and_genes_without_it_say_so(tiny, tmp_path):
    untagged = gtf(shift=5_000, gene_id="G2").replace(MANE, "")
    path = write(tmp_path, gtf() + untagged)
    with Genome(tiny.fasta) as genome:
        table, notes = gene_features(path, genome, Choice.MANE)
    assert table["transcript_id"].tolist() == ["G1.2_T2", "G2_T1"]
    assert table["transcript_rule"].tolist() == ["mane", "longest"]
    assert table["tss"].tolist() == [1_100, 6_000]
    assert notes == ["1 gene without the tag MANE_Select: the longest transcript is taken"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (gtf().replace("\tCDS\t", "\tother\t"), "has no transcript with exon and CDS records"),
        (gtf(chrom="1"), r"shares no chromosome with the FASTA: it has 1, the FASTA names 1 'chr1'"),
        (gtf(shift=59_000), "ends at chr1:60,700, but chr1 is 60,000 bp long in the FASTA"),
        (gtf().replace("transcript_id", "transcript"), "line 1: the transcript names no transcript_id and gene_id"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(tiny, tmp_path, text, message):
    with Genome(tiny.fasta) as genome, pytest.raises(InputError, match=message):
        gene_features(write(tmp_path, text), genome)


def test_the_command_makes_a_table_that_lacks_nothing(tiny, tmp_path, capsys):
    path = write(tmp_path, gtf() + gtf(chrom="chrUn", gene_id="G2"))
    words = ["features", str(path), str(tiny.fasta), "--gene-type", "protein_coding", "-o", str(tmp_path / "genes.tsv")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 gene on chromosomes that the FASTA lacks: left out" in said
    assert "1 gene written" in said
    found = resolve_features(read_genes(tmp_path / "genes.tsv", ["ONE"]), tiny.inputs)
    assert found.filled == {}
    assert np.isnan(found.values[0]).tolist() == [False] * 8 + [True]  # the last one is computed from the tracks
    assert main(words) == 1
    assert "exists; give --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--gene-type", "protein-coding"]) == 1
    assert "has no coding gene of type 'protein-coding' (did you mean 'protein_coding'?)" in capsys.readouterr().err


def test_real_transcripts_have_the_features_of_xpresso(real_data):
    """Lengths, G+C and densities of 121 genes, of the transcripts that the table names; constants of the z-scores."""
    known = pd.read_csv(real_data / "chr22" / "genes.tsv", sep="\t").set_index("transcript_id")
    transcripts = read_transcripts(real_data / "chr22" / "gencode.v25.chr22.gtf.gz")
    found = {one.transcript_id: one for several in transcripts.values() for one in several}
    with Genome(real_data / "chr22" / "hg38.chr22.fa") as genome:
        rows = [feature_row(found[name], Choice.LONGEST, genome, "the GTF") for name in known.index]
    table = pd.DataFrame(rows).set_index("transcript_id")
    for name in (*(f"{length}_log10zscore" for length in Z_SCORES), "ORFEXONDENSITY"):
        np.testing.assert_allclose(table[name], known[name], atol=1e-6)
    for name in GC:  # some of the DNA is not known here
        assert (table[name] - known[name]).abs().median() < 1e-6
