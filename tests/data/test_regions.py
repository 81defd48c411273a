"""Regions of a BED: masks equal a base-by-base count, merging equals bioframe's, each bad line is named."""

from __future__ import annotations

import gzip
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.data.regions import Regions, merge
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.text import text_lines
from kipoi_seq2exp.errors import InputError


def write(tmp_path, text, name="x.bed"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_merge_equals_bioframe():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bioframe and what it imports
        bioframe = pytest.importorskip("bioframe")
        random = np.random.default_rng(0)
        starts = random.integers(0, 3_000, 200)
        ends = starts + random.integers(1, 40, 200)
        theirs = bioframe.merge(pd.DataFrame({"chrom": "chr1", "start": starts, "end": ends}))
    merged_starts, merged_ends = merge(starts, ends)
    np.testing.assert_array_equal(merged_starts, theirs["start"])
    np.testing.assert_array_equal(merged_ends, theirs["end"])


@pytest.mark.parametrize("span", [(9_000, 10_000), (9_650, 9_660), (9_900, 9_950), (-100, 60), (29_990, 30_040)])
def test_mask_equals_a_count_base_by_base(tiny, span):
    regions = Regions(tiny.blacklist)
    listed = {"chr1": [(9_500, 9_700), (9_600, 9_900)], "chr2": [(0, 50)]}
    for chrom, intervals in listed.items():
        expected = [any(start <= base < end for start, end in intervals) for base in range(*span)]
        np.testing.assert_array_equal(regions.mask(chrom, *span), expected)
    assert not regions.mask("chr3", *span).any()


def test_narrowpeak_gz_and_headers_are_read(tiny, tmp_path):
    path = tmp_path / "peaks.narrowPeak.gz"
    with gzip.open(path, "wt") as handle:
        handle.write("track type=narrowPeak\n#chrom\tstart\n\n" + tiny.peaks.read_text())
    for chrom in ("chr1", "chr2"):
        np.testing.assert_array_equal(Regions(path).mask(chrom, 0, 30_000), Regions(tiny.peaks).mask(chrom, 0, 30_000))


def test_pickled_regions_mask_the_same(tiny):
    regions = pickle.loads(pickle.dumps(Regions(tiny.blacklist)))
    assert regions.mask("chr1", 9_000, 10_000).sum() == 400
    assert regions.chroms == ("chr1", "chr2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "blacklist .*x.bed holds no intervals"),
        ("#only a comment\n", "holds no intervals"),
        ("chr1\t1\t5\nchr1\tone\t5\n", "x.bed, line 2: start .column 2. is 'one', not a whole number"),
        ("chr1\t1\n", "line 1: expected chrom, start, end"),
        ("chr1\t7\t5\n", "line 1: the interval 7-5 is empty, reversed or negative"),
        ("chr1\t-7\t5\n", "line 1: the interval -7-5 is"),
        ("<html>\n", "line 1: expected chrom, start, end, found '<html>'"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        Regions(write(tmp_path, text), "blacklist")


def test_missing_truncated_and_binary_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.bed: no such file"):
        Regions(tmp_path / "none.bed")
    cut = tmp_path / "cut.bed.gz"
    cut.write_bytes(gzip.compress(b"chr1\t1\t5\n" * 1_000)[:-12])
    with pytest.raises(InputError, match="truncated"):
        Regions(cut)
    binary = tmp_path / "binary.bed"
    binary.write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="is not a text file"):
        Regions(binary)
    with pytest.raises(InputError, match="cannot be read"):
        list(text_lines(tmp_path, "folder"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t5\t9\n", r"shares no chromosome with the FASTA \('1' is 'chr1' there\)"),
        ("chrZ\t5\t9\n", r"\(that has chr1, chr2\): it has chrZ"),
        ("chr2\t5\t30001\n", "ends at chr2:30001 but chr2 is 30,000 bp long"),
    ],
)
def test_other_names_and_builds_are_told(tiny, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        Regions(write(tmp_path, text)).check_against(Genome(tiny.fasta))


def test_regions_on_other_chromosomes_are_no_fault(tiny, tmp_path):
    Regions(write(tmp_path, "chr1\t5\t9\nchrUn\t1\t2\n")).check_against(Genome(tiny.fasta))
