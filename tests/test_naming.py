"""Chromosomes of two files: same names, same lengths, or one sentence that says which differs and how."""

from __future__ import annotations

import pytest

from kipoi_seq2exp.data.naming import check_chromosomes, listing, other_name
from kipoi_seq2exp.errors import InputError

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
