"""What elements overlap: the promoters of other genes, and named intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.elements.overlaps import NamedIntervals, overlap_columns, promoters_of, read_named
from kipoi_seq2exp.errors import ConfigError, InputError


def elements(*rows):
    return pd.DataFrame(rows, columns=["chrom", "start", "end", "gene_id"])


@pytest.mark.parametrize("seed", range(3))
def test_names_equal_the_slow_twin(seed):
    random = np.random.default_rng(seed)
    start = random.integers(0, 1_000, 60)
    table = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + random.integers(1, 200, 60)})
    table["name"] = [str(place) for place in range(60)]
    intervals = NamedIntervals(table, "intervals")
    for first in range(0, 1_200, 7):
        near = (table["start"] < first + 30) & (table["end"] > first)
        slow = set(table.loc[near, "name"])
        assert set(intervals.names("chr1", first, first + 30)) == slow
    assert intervals.names("chr2", 0, 10_000) == []


def test_promoters_of_other_genes(tiny):
    found = elements(
        ("chr1", 9_400, 9_600, "GENE01"),  # within 500 bp of the TSS of GENE02 at 9,000
        ("chr1", 9_400, 9_600, "GENE02"),  # its own promoter
        ("chr1", 9_500, 9_600, "GENE01"),  # next to it
        ("chr2", 0, 30_000, "OTHER"),
    )
    columns = overlap_columns(found, promoters_of(tiny.gtf), {})
    assert columns["promoters_of"].tolist() == ["gene02", "", "", "gene05,gene07,gene06"]


def test_named_intervals_of_a_bed_and_of_another_column(tmp_path):
    bed = tmp_path / "ccre.bed"
    bed.write_text("chr1\t100\t200\tE1\tx\tdELS\nchr1\t150\t300\tE2\tx\tpELS\nchr1\t250\t260\t.\tx\tpELS\n")
    found = elements(("chr1", 190, 270, "A"), ("chr1", 300, 400, "A"), ("chr1", 0, 101, "A"))
    columns = overlap_columns(found, None, {"ccre": read_named(str(bed)), "kind": read_named(f"{bed}::6")})
    assert columns["ccre"].tolist() == ["E1,E2,yes", "", "E1"]
    assert columns["kind"].tolist() == ["dELS,pELS", "", "dELS"]


def test_what_does_not_fit_is_one_sentence(tmp_path):
    bed = tmp_path / "ccre.bed"
    bed.write_text("1\t100\t200\n")
    with pytest.raises(InputError, match=r"names chr1 '1' \(it has 1\): use one naming"):
        overlap_columns(elements(("chr1", 0, 10, "A")), None, {"ccre": read_named(str(bed))})
    with pytest.raises(ConfigError, match="--overlaps start: the elements have a column of this name"):
        overlap_columns(elements(("chr1", 0, 10, "A")), None, {"start": read_named(str(bed))})
    with pytest.raises(InputError, match="line 1: it has no column 6"):
        read_named(f"{bed}::6")
    with pytest.raises(ConfigError, match="names begin in column 4"):
        read_named(f"{bed}::2")


def test_the_command_adds_a_column_for_each(tiny, run, tmp_path, capsys):
    bed = tmp_path / "ccre.bed"
    bed.write_text("chr1\t0\t60000\twhole\n")
    words = ["elements", "--from", str(run.store.path), "--threshold", "0.6", "-o", str(tmp_path / "o")]
    assert main([*words, "--gtf", str(tiny.gtf), "--overlaps", f"ccre={bed}"]) == 0
    said = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "o" / "elements.tsv", sep="\t", comment="#", keep_default_na=False)
    assert (table["ccre"] == np.where(table["chrom"] == "chr1", "whole", "")).all()
    assert "promoters_of" in table
    assert f"ccre: {(table['ccre'] != '').sum()} elements of {len(table)} overlap" in said
    assert main([*words, "--overlaps", "ccre"]) == 1
    assert "--overlaps ccre: expected NAME=BED" in capsys.readouterr().err
