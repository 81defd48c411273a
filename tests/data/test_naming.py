"""Chromosomes of two files: same names, same lengths, or one sentence that says which differs and how."""

from __future__ import annotations

import pytest

from kipoi_seq2exp.data.naming import check_chromosomes, check_places, listing, other_name
from kipoi_seq2exp.errors import InputError, counted

FASTA = {"chr1": 1_000, "chrM": 50}


def test_agreeing_files_pass_whatever_else_they_hold():
    check_chromosomes(["chr1"], {"chr1": 1_000, "chrM": 51, "chrUn": 3}, FASTA, "x.bw")
    check_chromosomes(["chr1"], {"chr1": None}, FASTA, "x.bedgraph")


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"1": 1_000}, "x.bw has no chromosome 'chr1' .it names it '1'"),
        ({"chr2": 9, "chr3": 9, "chr4": 9, "chr5": 9}, "it has chr2, chr3, chr4, ... 4 in all"),
        ({"chr1": 999}, "chr1 is 999 bp long but 1,000 bp in the FASTA: .* different genome builds"),
        ({}, "it has none"),
    ],
)
def test_disagreement_is_named(lengths, message):
    with pytest.raises(InputError, match=message):
        check_chromosomes(["chr1"], lengths, FASTA, "x.bw")


def test_other_names_of_a_chromosome():
    assert other_name("chrM", ["1", "MT"]) == "MT"
    assert other_name("x", ["chrX", "chrY"]) == "chrX"
    assert other_name("chr1", ["chr11", "chr10"]) is None


def test_listing_is_short():
    assert listing([]) == "none"
    assert listing("ab") == "a, b"
    assert listing("abcde") == "a, b, c, ... 5 in all"


PLACES = {"A": ("chr1", 1_000_000), "B": ("chr1", 2_000_000), "C": ("chr2", 500_000)}


def moved(bp, genes="ABC"):
    return {gene: (chrom, tss + bp * (gene in genes)) for gene, (chrom, tss) in PLACES.items()}


def test_another_tss_of_a_gene_is_no_other_build():
    check_places(moved(2_000), PLACES, "x.tsv", "y")
    check_places(moved(90_000, "A"), PLACES, "x.tsv", "y")
    check_places({"A": ("chr1", 1_040_000), "Z": ("chr9", 1)}, PLACES, "x.tsv", "y")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            moved(12_500),
            "x.tsv: 3 of the 3 genes that it shares with y lie elsewhere .A starts at chr1:1,012,501 here but",
        ),
        (moved(300_000, "A") | {"D": ("chr1", 1), "B": ("chr7", 2_000_000)}, "different genome builds; lift one over"),
        ({"A": ("chr1", 1_060_000)}, "1 of the 1 genes"),
        ({"A": ("1", 1_000_000)}, "x.tsv names a chromosome '1' that is 'chr1' in y"),
        ({"Z": ("chr1", 5)}, r"none of its 1 gene .Z. is among the 3 of y .A, B, C.: genes are matched by id"),
    ],
)
def test_other_places_are_one_sentence(places, message):
    with pytest.raises(InputError, match=message) as error:
        check_places(places, PLACES, "x.tsv", "y")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("number", "said"), [(0, "0 genes"), (1, "1 gene"), (2, "2 genes"), (18_021, "18,021 genes")])
def test_counted_knows_one_from_many(number, said):
    assert counted(number, "gene") == said
