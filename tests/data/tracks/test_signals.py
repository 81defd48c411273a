"""Signal tracks equal the arrays they were made from; what is missing, negative or of another build is named."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest
from conftest import LENGTHS, write_bigwig, write_fasta

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.errors import InputError

SPEC = TrackSpec("dnase")


@pytest.mark.parametrize("span", [(0, 1), (100, 4_100), (28_000, 30_000), (-50, 700), (29_900, 30_100), (-9, 30_009)])
@pytest.mark.parametrize("chrom", LENGTHS)
def test_values_equal_what_was_written(tiny, chrom, span):
    with open_signal(tiny.tracks["dnase"], SPEC) as signal:
        values = signal.values(chrom, *span)
    full = np.nan_to_num(tiny.signals["dnase"][chrom])
    expected = [full[base] if 0 <= base < LENGTHS[chrom] else 0 for base in range(*span)]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array(expected, dtype=np.float32))


def test_beyond_the_chromosome_all_is_zero(tiny):
    signal = open_signal(tiny.tracks["dnase"], SPEC)
    assert not signal.values("chr2", 30_000, 30_100).any()
    assert not signal.values("chr2", -100, 0).any()


def test_pickled_and_forked_tracks_read_the_same(tiny):
    signal = open_signal(tiny.tracks["dnase"], SPEC)
    here = signal.values("chr1", 1_000, 5_000)
    copy = pickle.loads(pickle.dumps(signal))
    np.testing.assert_array_equal(copy.values("chr1", 1_000, 5_000), here)
    child = os.fork()
    if not child:
        same = np.array_equal(signal.values("chr1", 1_000, 5_000), here)
        os._exit(0 if same else 1)
    np.testing.assert_array_equal(signal.values("chr1", 1_000, 5_000), here)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_reads_again_after_close(tiny):
    signal = open_signal(tiny.tracks["dnase"], SPEC)
    before = signal.values("chr1", 0, 100)
    signal.close()
    np.testing.assert_array_equal(signal.values("chr1", 0, 100), before)


@pytest.mark.parametrize(("bad", "shown"), [(-0.5, "-0.5"), (np.inf, "inf")])
def test_value_that_is_no_amount_is_named_with_its_place(tmp_path, bad, shown):
    values = np.ones(1_000, dtype=np.float32)
    values[437] = bad
    write_bigwig(tmp_path / "x.bw", {"chr1": values})
    signal = open_signal(tmp_path / "x.bw", SPEC)
    assert signal.values("chr1", 0, 437).all()
    with pytest.raises(InputError, match=rf"track 'dnase' \(.*x\.bw\) has the value {shown} at chr1:438"):
        signal.values("chr1", -10, 500)


def test_negative_values_are_found_beforehand_where_they_would_be_read(tmp_path):
    values = np.ones(1_000, dtype=np.float32)
    values[437] = -2
    write_bigwig(tmp_path / "x.bw", {"chr1": values})
    signal = open_signal(tmp_path / "x.bw", SPEC)
    signal.check_values([Window("chr1", 0, 400), Window("chr1", 500, 900)])
    with pytest.raises(InputError, match="value -2 at chr1:438"):
        signal.check_values([Window("chr1", 0, 400), Window("chr1", 400, 900)])


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"1": 60_000, "2": 30_000}, "has no chromosome 'chr1' .it names it '1'"),
        ({"chr1": 60_001, "chr2": 30_000}, "chr1 is 60,001 bp long but 60,000 bp in the FASTA: .*genome builds"),
        ({"chr2": 30_000}, "has no chromosome 'chr1' .it has chr2"),
    ],
)
def test_other_genome_is_told_apart(tiny, tmp_path, lengths, message):
    write_bigwig(tmp_path / "x.bw", {chrom: np.ones(50, dtype=np.float32) for chrom in lengths}, lengths)
    signal = open_signal(tmp_path / "x.bw", SPEC)
    with pytest.raises(InputError, match=message):
        signal.check_against(Genome(tiny.fasta), ["chr1", "chr2"])
    signal.check_against(Genome(tiny.fasta), ["chr2"] if "chr2" in lengths else [])


def test_chromosome_without_values_is_named(tiny, tmp_path):
    with pytest.raises(InputError, match="has no chromosome 'chrX'"):
        open_signal(tiny.tracks["dnase"], SPEC).values("chrX", 0, 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: a bigWig is needed"),
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "it holds a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "it holds a web page"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b"\xeb\xf2\x89\x87" + bytes(80), "it is a bigBed"),
        (b"chr1\t0\t10\t1.5\n", "is not a bigWig: it starts with 'chr1"),
    ],
)
def test_file_that_is_no_bigwig_is_refused(tmp_path, content, message):
    path = tmp_path / "x.bw"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_signal(path, SPEC)


@pytest.mark.parametrize("keep", [4, 10, 64, 100, 0.1, 0.5, 0.9, -1])
def test_truncated_bigwig_is_refused_before_the_library_reads_it(tiny, tmp_path, keep):
    content = tiny.tracks["dnase"].read_bytes()
    path = tmp_path / "x.bw"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"track 'dnase' \(.*x\.bw\) is truncated at [\d,]+ bytes"):
        open_signal(path, SPEC)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.bw\): no such file"):
        open_signal(tmp_path / "none.bw", SPEC)
    with pytest.raises(InputError, match="cannot be read"):
        open_signal(tmp_path, SPEC)


def test_file_that_vanishes_later_is_named(tiny, tmp_path):
    signal = open_signal(shutil.copy(tiny.tracks["dnase"], tmp_path / "x.bw"), SPEC)
    signal.close()
    (tmp_path / "x.bw").unlink()
    with pytest.raises(InputError, match="cannot be opened as bigWig"):
        signal.values("chr1", 0, 10)


def test_wrong_build_is_a_fault_of_the_fasta_too(tiny, tmp_path):
    write_fasta(tmp_path / "x.fa", {"chr1": tiny.bases["chr1"][:-1]})
    with pytest.raises(InputError, match="60,000 bp long but 59,999 bp in the FASTA"):
        open_signal(tiny.tracks["dnase"], SPEC).check_against(Genome(tmp_path / "x.fa"), ["chr1"])
