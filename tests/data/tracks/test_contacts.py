"""Contact: the power law and the scaling are ABC's; a bin's value reaches each of its bases."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks.contact_sources import open_contacts
from kipoi_seq2exp.data.tracks.contacts import ContactQuery, expand_bins, powerlaw_contact, scale_contact
from kipoi_seq2exp.errors import InputError

SPEC = TrackSpec("hic")


def test_powerlaw_falls_with_its_exponent_and_is_flat_below_5_kb():
    near, far = powerlaw_contact(np.array([0.0, 4_999, 5_000])), powerlaw_contact(np.array([1e5, 1e6]), 1.0)
    assert near[0] == near[1] == near[2] == pytest.approx(0.123436, abs=1e-6)
    assert far[0] / far[1] == pytest.approx(10, rel=1e-4)


def test_scaling_by_hand():
    at_5kb = powerlaw_contact(np.array([5e3]), 1.1, 6.0)[0]
    expected = powerlaw_contact(np.array([5e4]), 1.1, 6.0)[0]
    reference = powerlaw_contact(np.array([5e4]))[0]
    assert expected < at_5kb
    scaled = scale_contact(np.array([0.02, np.nan, 0.0]), np.full(3, 5e4), 1.1, 6.0)
    np.testing.assert_allclose(scaled, [0.02 * reference / expected + expected, reference + expected, expected])


def test_scaling_equals_that_of_abc_on_real_pairs(real_data):
    pairs = pd.read_csv(real_data / "chr22" / "K562" / "abc_pairs_hic.tsv.gz", sep="\t")
    distance = pairs["distance"].to_numpy(float)
    slope, scale = np.polyfit(np.log(np.maximum(distance, 5_000) + 1), np.log(pairs["powerlaw_contact"]), 1)
    np.testing.assert_allclose(powerlaw_contact(distance, -slope, scale), pairs["powerlaw_contact"], atol=1e-6)
    np.testing.assert_allclose(powerlaw_contact(distance), pairs["powerlaw_contact_reference"], atol=1e-6)
    scaled = scale_contact(pairs["hic_contact"].to_numpy(float), distance, -slope, scale)
    # the table is rounded to 6 digits, which the ratio of two of its columns amplifies at large distances
    np.testing.assert_allclose(scaled, pairs["hic_contact_pl_scaled_adj"], rtol=5e-3, atol=2e-6)


@pytest.mark.parametrize("span", [(0, 20), (3, 17), (-7, 9), (12, 31), (-4, 40), (-9, -2), (30, 44)])
def test_each_base_has_the_value_of_its_bin(span):
    start, end = span
    bins = np.arange(start // 5, -(-end // 5))
    values = expand_bins(bins + 100.0, 5, span, 28)
    expected = [base // 5 + 100 if 0 <= base < 28 else 0 for base in range(start, end)]
    np.testing.assert_array_equal(values, np.array(expected, dtype=np.float32))


def test_powerlaw_profile(tiny):
    source = open_contacts("powerlaw", SPEC)
    query = ContactQuery("G", "chr2", 12_345)
    source.check_against(Genome(tiny.fasta), [query])
    profile = source.profile(query, -10_000, 40_000)
    assert profile.dtype == np.float32
    assert not profile[:10_000].any()
    assert not profile[40_000:].any()
    on_chromosome = profile[10_000:40_000]
    assert on_chromosome[10_000:15_000] == pytest.approx(2 * 0.123436, abs=1e-5)
    assert (np.diff(on_chromosome[15_000::5_000]) <= 0).all()
    assert "power law" in source.description


@pytest.mark.parametrize("source", ["contacts.txt.bz2", "powerlaws", "x.bw", ""])
def test_unknown_source_is_named(source):
    with pytest.raises(InputError, match=r"track 'hic': .* is not a source of contacts: give a \.hic"):
        open_contacts(source, SPEC)
