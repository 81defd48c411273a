"""Genes: the three formats give the same table, and every bad row is named with its file and line."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from conftest import GENES

from kipoi_seq2exp.data.genes import check_positions, place, read_genes
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.errors import InputError

HEADER = "gene_id\tchrom\ttss\tstrand\n"


def write(tmp_path, text, name="genes.tsv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def four_columns(table):
    return list(table[["gene_id", "chrom", "tss", "strand"]].itertuples(index=False, name=None))


def test_the_three_formats_agree(tiny):
    assert four_columns(read_genes(tiny.genes)) == list(GENES)
    assert four_columns(read_genes(tiny.bed)) == list(GENES)
    assert four_columns(read_genes(tiny.gtf)) == [(f"{name}.3", *rest) for name, *rest in GENES]


def test_types_and_other_columns(tiny):
    genes = read_genes(tiny.genes)
    assert genes["tss"].dtype == np.int64
    assert genes["label"].dtype == np.float64
    assert genes["gene_name"].tolist() == [name.lower() for name, *_ in GENES]
    assert list(genes.columns[:4]) == ["gene_id", "chrom", "tss", "strand"]


@pytest.mark.parametrize("ending", [".tsv.gz", ".csv", ".txt"])
def test_other_endings(tiny, tmp_path, ending):
    text = tiny.genes.read_text()
    path = tmp_path / f"genes{ending}"
    if ending == ".tsv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text.replace("\t", ",") if ending == ".csv" else "\n## a comment\n" + text)
    pd.testing.assert_frame_equal(read_genes(path), read_genes(tiny.genes))


def test_gtf_may_be_compressed(tiny, tmp_path):
    path = tmp_path / "genes.gtf.gz"
    path.write_bytes(gzip.compress(tiny.gtf.read_bytes()))
    pd.testing.assert_frame_equal(read_genes(path), read_genes(tiny.gtf))


@pytest.mark.parametrize("header", ["ENSID\tchr\tTSS\tStrand", "#Gene\tseqname\ttss_position\tstrand"])
def test_other_names_of_the_columns(tmp_path, header):
    genes = read_genes(write(tmp_path, f"{header}\nG1\tchr1\t16592810.0\t-1\nG2\tchr1\t7\t1\n"))
    assert four_columns(genes) == [("G1", "chr1", 16_592_810, "-"), ("G2", "chr1", 7, "+")]


def test_first_name_wins_where_there_are_two(tmp_path):
    genes = read_genes(write(tmp_path, "gene\tgene_id\tchrom\ttss\tstrand\nMYC\tENSG1\tchr1\t5\t+\n"))
    assert genes["gene_id"].tolist() == ["ENSG1"]
    assert genes["gene"].tolist() == ["MYC"]


def test_dataframe_is_read_like_a_file(tiny):
    genes = read_genes(tiny.genes)
    again = read_genes(genes)
    pd.testing.assert_frame_equal(again, genes)
    assert place(again, 2) == place(genes, 2) == f"{tiny.genes}, line 4 (gene GENE03)"
    plain = pd.DataFrame({"gene_id": ["A"], "chrom": ["chr1"], "tss": [5], "strand": ["+"]})
    assert place(read_genes(plain), 0) == "gene table, row 1 (gene A)"


def test_missing_numbers_become_nan_and_text_stays(tmp_path):
    text = HEADER[:-1] + "\tUTR5GC\tnote\nA\tchr1\t5\t+\t0.5\t1\nB\tchr1\t6\t+\tNA\tx\nC\tchr1\t7\t+\t\t\n"
    genes = read_genes(write(tmp_path, text))
    np.testing.assert_array_equal(genes["UTR5GC"], [0.5, np.nan, np.nan])
    assert genes["note"].tolist() == ["1", "x", ""]


# ------------------------------------------------------------------------------------------------------- gene ids


def test_genes_are_chosen_in_the_order_asked_for(tiny):
    genes = read_genes(tiny.genes, ["GENE05", "GENE02"])
    assert four_columns(genes) == [GENES[4], GENES[1]]
    assert place(genes, 0).endswith("line 6 (gene GENE05)")


def test_version_of_an_id_may_be_left_out(tiny):
    genes = read_genes(tiny.gtf, ["GENE05", "GENE02.3"])
    assert genes["gene_id"].tolist() == ["GENE05", "GENE02.3"]
    assert genes["tss"].tolist() == [GENES[4][2], GENES[1][2]]


def test_symbols_are_as_good_as_ids_and_results_name_the_id(tiny):
    assert read_genes(tiny.genes, ["gene05", "GENE02"])["gene_id"].tolist() == ["GENE05", "GENE02"]
    assert read_genes(tiny.gtf, ["gene05"])["gene_id"].tolist() == ["GENE05.3"]
    with pytest.raises(InputError, match=r"names the gene 'gene05' twice \(as 'GENE05' too\)"):
        read_genes(tiny.genes, ["GENE05", "gene05"])


def test_a_symbol_of_several_genes_is_refused(tmp_path):
    rows = "A\tchr1\t5\t+\tDUX4\nB\tchr1\t50\t+\tDUX4\nC\tchr1\t60\t+\t\n"
    path = write(tmp_path, HEADER.replace("\n", "\tgene_name\n") + rows)
    with pytest.raises(InputError, match=r"several genes with the symbol 'DUX4' \(A, B\): give the id"):
        read_genes(path, ["DUX4"])
    assert read_genes(path, ["B"])["gene_id"].tolist() == ["B"]


def test_genes_of_one_type(tiny, tmp_path):
    text = tiny.gtf.read_text()
    path = tmp_path / "genes.gtf"
    path.write_text(text.replace('GENE02.3"; gene_type "protein_coding', 'GENE02.3"; gene_type "lncRNA'))
    kept = read_genes(path, gene_type="protein_coding")
    assert len(kept) == len(GENES) - 1
    assert place(kept, 1).endswith("line 6 (gene GENE03.3)")
    with pytest.raises(InputError, match=r"has no gene of type 'protein-coding' \(did you mean 'protein_coding'"):
        read_genes(path, gene_type="protein-coding")
    with pytest.raises(InputError, match="has no column 'gene_type'"):
        read_genes(tiny.bed, gene_type="protein_coding")
    with pytest.raises(InputError, match="has no gene 'GENE02'"):
        read_genes(path, ["GENE02"], gene_type="protein_coding")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["GENE99"], r"has no gene 'GENE99' \(did you mean 'GENE0\d'"),
        (["GENE01", "GENE01"], "names the gene 'GENE01' twice"),
        ([], "list of gene ids is empty"),
    ],
)
def test_bad_choices_are_named(tiny, ids, message):
    with pytest.raises(InputError, match=message):
        read_genes(tiny.genes, ids)


# ------------------------------------------------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "genes.tsv is empty: a table with a header line is needed"),
        (HEADER, "genes.tsv holds no genes"),
        (HEADER + "A\tchr1\t5\t+\nA\tchr1\t6\t+\n", r"line 3 \(gene A\): this gene is already in .*line 2"),
        (HEADER + "A\tchr1\tfive\t+\n", r"line 2 \(gene A\): the TSS 'five' is not a whole number"),
        (HEADER + "A\tchr1\t5.5\t+\n", "the TSS '5.5' is not a whole number"),
        (HEADER + "A\tchr1\t\t+\n", "the TSS '' is not a whole number"),
        (HEADER + "A\tchr1\tinf\t+\n", "the TSS 'inf' is not a whole number"),
        (HEADER + "\n\nA\tchr1\t-5\t+\n", r"line 4 \(gene A\): the TSS -5 is negative"),
        (HEADER + "A\tchr1\t5\t.\n", "the strand '.' is neither"),
        (HEADER + "A\t\t5\t+\n", "line 2 .*: chrom is empty"),
        (HEADER + "\tchr1\t5\t+\n", "line 2: gene_id is empty"),
        (HEADER + "A\tchr1\t5\n", "line 2: found 3 columns where the header has 4"),
        ("gene_id\tchrom\tstrand\nA\tchr1\t+\n", "has no column 'tss'"),
        ("gene_id\tchrom\ttss\tstrand\tx\tx\n", "column 'x' appears twice"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as raised:
        read_genes(write(tmp_path, text))
    assert "genes.tsv" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.bed", "chr1\t5\t9\tA\n", "line 1: found 4 columns where BED6"),
        ("x.bed", "chr1\t9\t5\tA\t0\t+\n", "line 1: the interval 9-5 is empty, reversed"),
        ("x.bed", "chr1\t5\t9\tA\t0\t.\n", "line 1 .gene A.: the strand '.'"),
        ("x.bed", "", "holds no genes"),
        ("x.gff3", "##gff-version 3\n", "GFF3 is not read; give the annotation as GTF"),
        ("x.gtf", "chr1\ttest\tgene\t5\t9\n", "line 1: not a GTF record"),
        ("x.gtf", "chr1\tt\texon\t5\t9\t.\t+\t.\tgene_id 'A';\n", "holds no genes"),
        ("x.gtf", 'chr1\tt\tgene\t5\t9\t.\t+\t.\tgene_name "A";\n', "line 1: gene_id is empty"),
    ],
)
def test_bad_bed_and_gtf_are_named(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_genes(write(tmp_path, text, name))


def test_missing_and_truncated_files_are_named(tiny, tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv: no such file"):
        read_genes(tmp_path / "none.tsv")
    path = tmp_path / "cut.gtf.gz"
    path.write_bytes(gzip.compress(tiny.gtf.read_bytes())[:-20])
    with pytest.raises(InputError, match=r"cut\.gtf\.gz is truncated"):
        read_genes(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("A\t1\t5\t+\n", r"line 2 \(gene A\): unknown chromosome '1' \(the FASTA names it 'chr1'\)"),
        ("A\tchr9\t5\t+\n", r"unknown chromosome 'chr9' \(the FASTA has chr1, chr2\)"),
        ("A\tchr2\t30000\t+\n", "the TSS 30000 lies outside chr2, which is 30,000 bp long"),
    ],
)
def test_positions_outside_the_genome_are_named(tiny, tmp_path, row, message):
    genes = read_genes(write(tmp_path, HEADER + row))
    with pytest.raises(InputError, match=message):
        check_positions(genes, Genome(tiny.fasta))


def test_real_annotation(real_data):
    genes = read_genes(real_data / "chr22" / "gencode.v25.chr22.gtf.gz", ["ENSG00000198445"])
    table = read_genes(real_data / "chr22" / "genes_all_chr22.tsv", ["ENSG00000198445"])
    assert four_columns(table) == [("ENSG00000198445", "chr22", 16_592_810, "-")]
    assert genes["gene_name"].tolist() == ["CCT8L2"]
    assert abs(int(genes["tss"].iloc[0]) - 16_592_810) <= 1
