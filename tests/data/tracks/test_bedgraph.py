"""bedGraph tracks equal a base-by-base reading, overlapping intervals included."""

from __future__ import annotations

import gzip
import pickle

import numpy as np
import pytest

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks.bedgraph import BedGraphTrack, flatten
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.errors import InputError

SPEC = TrackSpec("h3k27ac")


def slowly(intervals, start, end):
    values = np.zeros(end - start, dtype=np.float32)
    for base in range(start, end):
        values[base - start] = max((v for s, e, v in intervals if s <= base < e), default=0)
    return values


def write(path, intervals, chrom="chr1"):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as handle:
        handle.write("track type=bedGraph\n")
        handle.writelines(f"{chrom}\t{start}\t{end}\t{value}\n" for start, end, value in intervals)
    return path


@pytest.mark.parametrize("name", ["x.bedgraph", "x.bg", "x.bdg.gz", "x.bedGraph.gz"])
@pytest.mark.parametrize("overlapping", [False, True])
def test_values_equal_a_reading_base_by_base(tmp_path, name, overlapping):
    random = np.random.default_rng(3)
    edges = np.sort(random.choice(2_000, 80, replace=False)).tolist()
    intervals = [(s, e, float(v)) for s, e, v in zip(edges[::2], edges[1::2], random.integers(1, 9, 40), strict=True)]
    if overlapping:
        intervals += [(s, s + 90, float(v)) for s, v in zip(random.integers(0, 1_900, 30), range(30), strict=True)]
    random.shuffle(intervals)
    signal = open_signal(write(tmp_path / name, intervals), SPEC)
    assert isinstance(signal, BedGraphTrack)
    for start, end in [(0, 2_000), (-50, 300), (555, 556), (1_800, 2_500), (edges[0], edges[1])]:
        np.testing.assert_array_equal(signal.values("chr1", start, end), slowly(intervals, start, end))


def test_flatten_gives_disjoint_sorted_steps():
    steps = flatten(np.array([5, 0, 8]), np.array([10, 7, 9]), np.array([1, 3, 2], dtype=np.float32))
    assert steps.starts.tolist() == [0, 5, 7, 8, 9]
    assert steps.ends.tolist() == [5, 7, 8, 9, 10]
    assert steps.values.tolist() == [3, 3, 1, 2, 1]


def test_pickled_track_reads_the_same(tmp_path):
    signal = open_signal(write(tmp_path / "x.bg", [(5, 9, 2.5)]), SPEC)
    copy = pickle.loads(pickle.dumps(signal))
    np.testing.assert_array_equal(copy.values("chr1", 0, 20), signal.values("chr1", 0, 20))


@pytest.mark.parametrize(
    ("chrom", "interval", "message"),
    [
        ("1", (0, 5, 1), "has no chromosome 'chr1' .it names it '1'"),
        ("chr1", (59_990, 60_001, 1), "an interval ends at chr1:60001 but chr1 is 60,000 bp long in the FASTA"),
    ],
)
def test_other_genome_is_told_apart(tiny, tmp_path, chrom, interval, message):
    signal = open_signal(write(tmp_path / "x.bg", [interval], chrom), SPEC)
    with pytest.raises(InputError, match=message):
        signal.check_against(Genome(tiny.fasta), ["chr1"])


def test_negative_value_is_named_where_it_would_be_read(tmp_path):
    signal = open_signal(write(tmp_path / "x.bg", [(0, 5, 1.0), (10, 12, -3.0)]), SPEC)
    signal.check_values([Window("chr1", 0, 10)])
    with pytest.raises(InputError, match=r"track 'h3k27ac' \(.*x\.bg\) has the value -3 at chr1:11"):
        signal.check_values([Window("chr1", 0, 20)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t0\t5\n", "line 1: expected chrom, start, end, value"),
        ("chr1\t0\t5\thigh\n", "line 1: the value .column 4. is 'high', not a number"),
        ("", "holds no intervals"),
    ],
)
def test_bad_file_is_named(tmp_path, text, message):
    (tmp_path / "x.bg").write_text(text)
    with pytest.raises(InputError, match=message):
        open_signal(tmp_path / "x.bg", SPEC).values("chr1", 0, 5)
