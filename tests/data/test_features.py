"""Features of genes: from the right column, from tracks, or filled by an explicit choice that is recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.config import FeatureSpec, InputSpec, TrackSpec, Transform
from kipoi_seq2exp.data.features import resolve_features
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.errors import ConfigError, InputError


def table(**columns):
    n = len(next(iter(columns.values())))
    plain = {"gene_id": [f"G{i}" for i in range(n)], "chrom": ["chr1"] * n, "tss": range(n), "strand": ["+"] * n}
    return read_genes(pd.DataFrame({**plain, **columns}))


def inputs(*features):
    return InputSpec("K562", (TrackSpec("a"), TrackSpec("b")), features)


def test_first_of_the_columns_is_read():
    genes = table(LEN=[100.0, 200.0], LEN_z=[-1.0, 1.0])
    resolved = resolve_features(genes, inputs(FeatureSpec("LEN", columns=("LEN_z", "LEN"))))
    np.testing.assert_array_equal(resolved.values, [[-1], [1]])
    assert resolved.sources == {"LEN": "column LEN_z"}
    assert resolved.values.dtype == np.float32


def test_order_is_the_models(tiny):
    genes = read_genes(tiny.genes)
    resolved = resolve_features(genes, tiny.inputs)
    np.testing.assert_allclose(resolved.values[:, 4], genes["UTR5GC"], rtol=1e-6)
    assert resolved.from_tracks == (8,)
    assert np.isnan(resolved.values[:, 8]).all()
    assert not np.isnan(resolved.values[:, :8]).any()


def test_column_is_preferred_to_tracks():
    spec = inputs(FeatureSpec("P", from_tracks=("a", "b")))
    assert resolve_features(table(P=[2.0]), spec).from_tracks == ()
    computed = resolve_features(table(Q=[2.0]), spec)
    assert computed.from_tracks == (0,)
    assert computed.sources["P"] == "computed from the tracks a and b at the TSS +-500 bp"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"GC": ["0.5", "high"]}, r"row 2 \(gene G1\): GC is 'high', not a number"),
        ({"GC": [0.5, np.inf]}, "row 2 .*: GC is 'inf', not a number"),
        (
            {"GC": [0.5, 55.0]},
            r"row 2 .*: GC is 55, which no GC \(fraction\) can be \(at most 1\).*raw lengths or perc",
        ),
        ({"GC": [-1.5, 0.5]}, r"row 1 .*: GC is -1\.5"),
        ({"GC": [0.5, np.nan]}, r"row 2 \(gene G1\): no value for the feature 'GC'"),
        ({"GC": ["0.5", "NA"]}, "row 2 .*: no value for the feature 'GC'"),
        ({"other": [1, 2]}, r"gene table has no column for the feature 'GC' \(column GC\): add it, or choose"),
    ],
)
def test_bad_and_missing_features_are_named(columns, message):
    with pytest.raises(InputError, match=message):
        resolve_features(table(**columns), inputs(FeatureSpec("GC", unit="fraction", limit=1)))


def test_negative_value_of_a_feature_that_is_logged_is_named():
    with pytest.raises(InputError, match=r"row 2 .*: X is -2, but X is read as log10p1 and must not be negative"):
        resolve_features(table(X=[0.0, -2.0]), inputs(FeatureSpec("X", transform=Transform.LOG10P1)))


def test_missing_values_take_the_mean_of_the_training_genes():
    genes = table(GC=[0.5, np.nan])
    resolved = resolve_features(genes, inputs(FeatureSpec("GC", mean=0.25)), "mean")
    np.testing.assert_array_equal(resolved.values[:, 0], [0.5, 0.25])
    assert resolved.sources["GC"] == "column GC; 1 of 2 genes: mean of the training genes (0.25)"
    absent = resolve_features(table(x=[1, 2]), inputs(FeatureSpec("GC", mean=0.25)), "mean")
    np.testing.assert_array_equal(absent.values[:, 0], [0.25, 0.25])
    assert absent.sources["GC"] == "no column; 2 of 2 genes: mean of the training genes (0.25)"


def test_without_a_stated_mean_that_of_the_other_genes_is_taken():
    resolved = resolve_features(table(GC=[0.25, np.nan, 0.75]), inputs(FeatureSpec("GC")), "mean")
    np.testing.assert_array_equal(resolved.values[:, 0], [0.25, 0.5, 0.75])
    assert "mean of the other genes of the table (0.5)" in resolved.sources["GC"]
    with pytest.raises(InputError, match="'GC' cannot be filled by its mean, for no gene has it"):
        resolve_features(table(x=[1]), inputs(FeatureSpec("GC")), "mean")


def test_unknown_policy_is_named():
    with pytest.raises(ConfigError, match=r"unknown choice 'means' .did you mean 'mean'"):
        resolve_features(table(GC=[1.0]), inputs(FeatureSpec("GC")), "means")
