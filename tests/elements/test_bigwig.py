"""The bigWig writer: what pyBigWig reads back, overviews included."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyBigWig
import pytest

from kipoi_seq2exp.elements import bigwig
from kipoi_seq2exp.elements.bigwig import BigWigWriter

LENGTHS = {"chr2": 700_000, "chr10": 50_000, "chr1": 3_000_000}  # neither sorted nor equally long names


def write(path, pieces, lengths=LENGTHS):
    with path.open("wb") as handle:
        writer = BigWigWriter(handle, lengths)
        for piece in pieces:
            writer.add(*piece)
        writer.close()
    return pyBigWig.open(str(path))


def some_pieces(seed=0):
    """Return noisy and piecewise constant pieces, adjacent and apart, and the arrays they make."""
    random = np.random.default_rng(seed)
    arrays = {chrom: np.full(length, np.nan, dtype=np.float32) for chrom, length in LENGTHS.items()}
    pieces = []
    for chrom, start, length, noisy in (
        ("chr2", 0, 1, True),
        ("chr2", 1, 300, True),
        ("chr2", 301, 100_000, False),
        ("chr2", 600_000, 100_000, True),  # to the chromosome's end
        ("chr10", 777, 5_000, False),
        ("chr1", 1_000_000, 200_000, True),
        ("chr1", 1_200_000, 17, True),
        ("chr1", 2_000_000, 50_000, False),
    ):
        values = random.random(length) if noisy else np.repeat(random.random(-(-length // 700)), 700)[:length]
        pieces.append((chrom, start, values.astype(np.float32)))
        arrays[chrom][start : start + length] = values
    return pieces, arrays


@pytest.mark.parametrize("fanout", [2, 3, 256])
def test_every_base_comes_back(tmp_path, monkeypatch, fanout):
    monkeypatch.setattr(bigwig, "_FANOUT", fanout)  # a small one makes deep indices
    pieces, arrays = some_pieces()
    with write(tmp_path / "a.bw", pieces) as track:
        assert track.isBigWig()
        assert track.chroms() == LENGTHS
        for chrom, values in arrays.items():
            np.testing.assert_array_equal(track.values(chrom, 0, len(values), numpy=True), values)
        part = track.values("chr1", 1_199_000, 1_200_020, numpy=True)
        np.testing.assert_array_equal(part, arrays["chr1"][1_199_000:1_200_020])


def test_the_summary_and_the_overviews_agree_with_the_values(tmp_path):
    pieces, arrays = some_pieces(1)
    every = np.concatenate([values[np.isfinite(values)] for values in arrays.values()]).astype(np.float64)
    with write(tmp_path / "a.bw", pieces) as track:
        header = track.header()
        assert header["nLevels"] == len(bigwig.ZOOM_BP)
        assert header["nBasesCovered"] == len(every)
        assert header["sumData"] == int(every.sum())
        for chrom, end, bins in (
            ("chr1", 2 << 20, 2),
            ("chr1", 2 << 20, 32),
            ("chr2", 1 << 19, 1),
            ("chr2", 1 << 19, 512),
        ):
            parts = arrays[chrom][:end].astype(np.float64).reshape(bins, -1)  # so wide that overviews' bins fill them
            filled = np.isfinite(parts).any(axis=1)
            for kind, reduce in (("max", np.nanmax), ("min", np.nanmin), ("mean", np.nanmean)):
                seen = track.stats(chrom, 0, end, nBins=bins, type=kind)
                assert [value is not None for value in seen] == filled.tolist()
                exact = reduce(parts[filled], axis=1)
                np.testing.assert_allclose([value for value in seen if value is not None], exact, rtol=1e-5)


def test_bins_that_two_pieces_share_are_joined(tmp_path):
    values = np.arange(600, dtype=np.float32)
    whole = [("chr10", 100, values)]
    cut = [("chr10", 100, values[:10]), ("chr10", 110, values[10:400]), ("chr10", 500, values[400:])]
    for track in (write(tmp_path / "whole.bw", whole), write(tmp_path / "cut.bw", cut)):
        with track:
            assert track.stats("chr10", 0, 51_200 - 1_200, type="max") == [599.0]
            assert track.stats("chr10", 0, 50_000, type="coverage")[0] == pytest.approx(600 / 50_000)
            assert track.stats("chr10", 0, 50_000, type="mean")[0] == pytest.approx(values.mean())


def test_constant_values_take_little_room(tmp_path):
    write(tmp_path / "runs.bw", [("chr1", 0, np.ones(1_000_000, dtype=np.float32))]).close()
    noise = np.random.default_rng(0).random(1_000_000).astype(np.float32)
    write(tmp_path / "noise.bw", [("chr1", 0, noise)]).close()
    assert (tmp_path / "runs.bw").stat().st_size * 20 < (tmp_path / "noise.bw").stat().st_size < 4.5e6


def test_nothing_at_all_is_a_bigwig_too(tmp_path):
    with write(tmp_path / "a.bw", [("chr1", 5, np.empty(0, dtype=np.float32))]) as track:
        assert track.isBigWig()
        assert track.chroms() == LENGTHS
        assert track.header()["nBasesCovered"] == 0


class Full:
    """A file on a disk that is full after some bytes."""

    def __init__(self, room):
        self.room = room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")

    def tell(self):
        return 0


@pytest.mark.parametrize("room", [100, 5_000])
def test_a_full_disk_is_an_error_of_the_operating_system(room):
    writer = None
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012
        writer = BigWigWriter(Full(room), LENGTHS)
        writer.add("chr1", 0, np.random.default_rng(0).random(50_000).astype(np.float32))
    assert (writer is None) == (room == 100)


def test_no_array_of_a_piece_stays_behind(tmp_path):
    with (tmp_path / "x.bw").open("wb") as handle:
        writer = BigWigWriter(handle, {"chr1": 1_000_000})
        tracemalloc.start()
        for piece in range(40):
            writer.add("chr1", 20_000 * piece, np.repeat(np.linspace(0, 1, 200, dtype=np.float32), 100))
        arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
        kept = tracemalloc.take_snapshot().filter_traces([arrays]).statistics("filename")
        tracemalloc.stop()
        writer.close()
    assert sum(kind.count for kind in kept) < 40  # a genome's pieces would split up the heap between them: gigabytes
