"""The windows of genes: what a model reads equals the files, whoever reads them, and what cannot be read is named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from kipoi_seq2exp.errors import ConfigError, InputError


def test_window_holds_what_the_files_hold(tiny):
    with tiny.dataset() as dataset:
        window = dataset[1]
    assert (window.gene_id, window.chrom, window.tss, window.strand) == ("GENE02", "chr1", 9_000, "-")
    assert (window.start, window.end) == (7_000, 11_000)
    letters = np.frombuffer(tiny.bases["chr1"][7_000:11_000].upper(), dtype=np.uint8)
    for column, base in enumerate(b"ACGT"):
        np.testing.assert_array_equal(window.onehot[:, column], letters == base)
    for column, name in enumerate(("h3k27ac", "dnase")):
        np.testing.assert_array_equal(
            window.signals[:, column], np.nan_to_num(tiny.signals[name]["chr1"][7_000:11_000])
        )
    np.testing.assert_array_equal(np.flatnonzero(window.blacklist), np.arange(2_500, 2_900))
