"""Windows: full and centred for any TSS, padded with zeros beyond a chromosome."""

from __future__ import annotations

import numpy as np
import pytest

from kipoi_seq2exp.data.windows import Window, pad, parse_region, written
from kipoi_seq2exp.errors import ConfigError


@pytest.mark.parametrize("tss", [0, 3, 500, 999])
@pytest.mark.parametrize("length_bp", [2, 100, 5_000])
def test_window_is_full_and_centred_for_any_tss(tss, length_bp):
    window = Window.around("chr1", tss, length_bp)
    assert len(window) == length_bp
    assert tss - window.start == window.end - tss


@pytest.mark.parametrize("length_bp", [0, -2, 7])
def test_length_must_be_even_and_positive(length_bp):
    with pytest.raises(ConfigError, match=f"even and above 0, found {length_bp}"):
        Window.around("chr1", 5, length_bp)


def test_window_must_end_after_its_start():
    with pytest.raises(ConfigError, match="chr1 5 to 5"):
        Window("chr1", 5, 5)


@pytest.mark.parametrize("span", [(-20, 5), (3, 9), (90, 120), (-5, 130), (-20, -3), (100, 110)])
def test_padding_puts_each_base_in_its_place(span):
    chromosome = np.arange(1, 101)
    window = Window("chr1", *span)
    start, end = window.inside(100)
    padded = pad(chromosome[start:end], window, start) if end > start else np.zeros(len(window), dtype=int)
    expected = [chromosome[i] if 0 <= i < 100 else 0 for i in range(*span)]
    np.testing.assert_array_equal(padded, expected)
    assert 0 <= start <= end <= 100


def test_a_region_is_read_and_written_as_browsers_do():
    region = parse_region("chr22:1,001-2,000")
    assert (region.chrom, region.start, region.end, len(region)) == ("chr22", 1_000, 2_000, 1_000)
    assert str(region) == "chr22:1,001-2,000"
    assert parse_region(str(region)) == region
    assert written("chr22", 1_000) == "chr22:1,001"


@pytest.mark.parametrize("text", ["chr22", "chr22:5", "chr22:0-5", "chr22:6-5", "chr22:a-b"])
def test_no_region_is_one_sentence(text):
    with pytest.raises(ConfigError, match=f"'{text}' is not a region: write CHR:FIRST-LAST"):
        parse_region(text)
