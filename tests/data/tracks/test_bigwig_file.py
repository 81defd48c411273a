"""Damaged bigWigs: refused in one sentence or read as they are, and never the end of the process."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.tracks.bigwig_file import check_bigwig
from kipoi_seq2exp.data.tracks.signals import BigWigTrack
from kipoi_seq2exp.elements.bigwig import BigWigWriter
from kipoi_seq2exp.errors import InputError

LENGTHS = {"chr1": 20_000, "chr2": 12_000}
CHROMS_AT, NUMBER = slice(8, 16), slice(24, 32)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A bigWig with values on its first chromosome alone."""
    path = tmp_path_factory.mktemp("bigwig") / "good.bw"
    values = np.random.default_rng(0).random(20_000).astype(np.float32)
    with path.open("wb") as handle:
        writer = BigWigWriter(handle, LENGTHS)
        writer.add("chr1", 0, values)
        writer.close()
    return path


def track(path):
    return BigWigTrack(path, TrackSpec("dnase"))


def test_a_chromosome_without_values_is_zeros(good, tmp_path):
    with track(good) as opened:
        assert opened.values("chr1", 0, 100).min() > 0
        assert opened.values("chr2", -50, 12_050).tolist() == [0.0] * 12_100
    with (tmp_path / "empty.bw").open("wb") as handle:
        BigWigWriter(handle, LENGTHS).close()
    with track(tmp_path / "empty.bw") as opened:
        assert opened.values("chr1", 0, 9).tolist() == [0.0] * 9
        opened.check_values([])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_a_summary_of_any_value_is_read(good, tmp_path, value):
    """pyBigWig's own `header()` ends the process on such a file."""
    content = bytearray(good.read_bytes())
    at = int.from_bytes(content[44:52], "little")
    for place in range(at + 8, at + 40, 8):
        content[place : place + 8] = np.float64(value).tobytes()
    path = tmp_path / "summary.bw"
    path.write_bytes(content)
    assert check_bigwig(path, "x").may_have_negative == (value != np.inf)
    with track(path) as opened:
        opened.check_values([])
        assert opened.values("chr1", 0, 100).min() > 0


def number_at(content, place):
    return int.from_bytes(content[place], "little")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: {6: b"\xff\xff"}, "65,535 overviews"),
        (lambda c: {52: b"\xff\xff\xff\xff"}, "blocks of 4,294,967,295 bytes"),
        (lambda c: {72: b"\xff" * 8}, "an overview lies beyond its end"),
        (lambda c: {44: b"\xff" * 8}, "something lies at byte 18,446,744,073,709,551,615"),
        (lambda c: {number_at(c, CHROMS_AT): b"\0"}, "its list of chromosomes cannot be"),
        (lambda c: {number_at(c, CHROMS_AT) + 16: b"\xff"}, "its list of 255 chromosomes does not hold each once"),
        (lambda c: {number_at(c, CHROMS_AT) + 36: b"\xff"}, "the name of a chromosome is not text"),
        (lambda c: {number_at(c, CHROMS_AT) + 40: b"\xff"}, "does not hold each once"),
        (lambda c: {number_at(c, NUMBER): b"\0"}, "its index cannot be"),
        (lambda c: {number_at(c, NUMBER) + 50: b"\xff\xff"}, "something lies at byte"),
        (lambda c: {number_at(c, NUMBER) + 76: b"\xff" * 8}, "a block of data lies beyond its end"),
        (lambda c: {number_at(c, NUMBER) + 48: b"\0"}, "."),
    ],
)
def test_what_leads_astray_is_named(good, tmp_path, spoil, words):
    content = bytearray(good.read_bytes())
    for at, data in spoil(content).items():
        content[at : at + len(data)] = data
    path = tmp_path / "spoiled.bw"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"track 'dnase' \(.*spoiled\.bw\) is damaged \(.*({words}).*\): fetch it again"
    ):
        track(path)


def test_an_index_that_leads_back_to_itself(good, tmp_path):
    content = bytearray(good.read_bytes())
    at = number_at(content, NUMBER) + 48
    content[at : at + 4] = b"\0\0\1\0"  # a branch of one
    content[at + 20 : at + 28] = at.to_bytes(8, "little")
    (tmp_path / "loop.bw").write_bytes(content)
    with pytest.raises(InputError, match="an index leads back to itself"):
        track(tmp_path / "loop.bw")


EVERY_BYTE = """
import sys
from pathlib import Path
from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.tracks.signals import BigWigTrack
from kipoi_seq2exp.errors import InputError

good = Path(sys.argv[1]).read_bytes()
refused = 0
skeleton = [*range(0, 420), *range(len(good) - 420, len(good))]
for at in skeleton:
    content = bytearray(good)
    content[at] ^= 0xFF
    Path(sys.argv[2]).write_bytes(content)
    try:
        with BigWigTrack(sys.argv[2], TrackSpec("x")) as track:
            track.check_values([])
            for chrom in track.lengths:
                track.values(chrom, 0, 100)
    except InputError:
        refused += 1
print(refused, len(skeleton))
"""


def test_no_byte_of_the_skeleton_ends_the_process(good, tmp_path):
    command = [sys.executable, "-c", EVERY_BYTE, str(good), str(tmp_path / "flipped.bw")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    refused, tried = map(int, re.findall(r"\d+", done.stdout))
    assert tried == 840
    assert refused > 100
