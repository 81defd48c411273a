"""Scores: known values, invariants, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.commands.predict import _report
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.metrics import METRICS, Score, genome_blocks, ranks, resampled_counts, score, score_columns


def test_known_values():
    scores = score([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 5.0], bootstrap=0)
    assert tuple(scores) == METRICS
    assert scores["mse"].value == 1.0
    assert scores["mae"].value == 0.5
    assert scores["spearman"].value == 1.0
    assert scores["pearson"].value == pytest.approx(np.corrcoef([0, 1, 2, 3], [0, 1, 2, 5])[0, 1])
    assert np.isnan(scores["mse"].low)


def test_ties_share_their_mean_rank():
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])


def test_spearman_ignores_a_monotone_change_and_pearson_a_linear_one():
    random = np.random.default_rng(0)
    truth, guess = random.normal(size=50), random.normal(size=50)
    plain = score(truth, guess, bootstrap=50)
    assert score(truth, np.exp(guess), bootstrap=0)["spearman"].value == pytest.approx(plain["spearman"].value)
    assert score(truth, 3 * guess - 7, bootstrap=0)["pearson"].value == pytest.approx(plain["pearson"].value)


def test_interval_holds_the_score_narrows_with_genes_and_repeats_with_the_seed():
    random = np.random.default_rng(1)

    def noisy(genes: int):
        truth = random.normal(size=genes)
        return truth, truth + random.normal(scale=0.5, size=genes)

    few, many = noisy(30), noisy(3_000)
    wide, narrow = score(*few, bootstrap=300)["pearson"], score(*many, bootstrap=300)["pearson"]
    assert wide.low < wide.value < wide.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3
    assert score(*few, bootstrap=300)["pearson"] == wide
    assert score(*few, bootstrap=300, seed=1)["pearson"] != wide


def test_level_widens_the_interval():
    random = np.random.default_rng(2)
    truth, guess = random.normal(size=(2, 100))
    ninety, half = (score(truth, guess, bootstrap=300, level=level)["mse"] for level in (0.9, 0.5))
    assert ninety.low < half.low < half.high < ninety.high


def test_many_genes_are_resampled_in_blocks(monkeypatch):
    random = np.random.default_rng(3)
    truth, guess = random.normal(size=(2, 1_500_000))  # one resample a block
    result = score(truth, guess, bootstrap=2)["mse"]
    assert result.low <= result.high
    assert result.value == pytest.approx(2, rel=0.01)


def test_a_constant_side_has_no_correlation():
    scores = score([1.0, 1.0, 1.0], [0.0, 1.0, 2.0], bootstrap=20)
    assert np.isnan(scores["pearson"].value)
    assert np.isnan(scores["spearman"].high)
    assert scores["mse"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("observed", "predicted", "message"),
    [
        ([1.0], [1.0], "at least two genes"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "must be the same genes"),
        ([1.0, np.nan], [1.0, 2.0], "observed must hold one finite number"),
        ([[1.0, 2.0]], [1.0, 2.0], "observed must hold one finite number"),
    ],
)
def test_refused(observed, predicted, message):
    with pytest.raises(InputError, match=message):
        score(observed, predicted)


def test_intervals_narrow_with_more_genes():
    rng = np.random.default_rng(0)
    widths = []
    for genes in (20, 500):
        truth = rng.normal(size=genes)
        found = score(truth, truth + rng.normal(size=genes), seed=1)
        assert all(value.low <= value.value <= value.high for value in found.values())
        widths.append(found["pearson"].high - found["pearson"].low)
    assert widths[1] < widths[0] / 2


def test_blocks_are_resampled_whole() -> None:
    """Genes that come in identical pairs hold half the information: the interval is that of one of each pair."""
    rng = np.random.default_rng(0)
    observed = rng.normal(size=100)
    predicted = observed + rng.normal(size=100)
    single = score(observed, predicted, seed=1)
    twice = score(np.repeat(observed, 2), np.repeat(predicted, 2), seed=1, blocks=np.repeat(np.arange(100), 2))
    wrong = score(np.repeat(observed, 2), np.repeat(predicted, 2), seed=1)
    for name in METRICS:
        assert twice[name].value == pytest.approx(single[name].value)
        width = single[name].high - single[name].low
        assert twice[name].high - twice[name].low == pytest.approx(width, rel=0.15)
        assert wrong[name].high - wrong[name].low < 0.85 * width


def test_intervals_leave_undefined_resamples_out() -> None:
    found = Score.of(2.0, [1.0, np.nan, 3.0], level=0.5)
    assert (found.value, found.low, found.high) == (2.0, 1.5, 2.5)
    for empty in (Score.of(2.0, []), Score.of(2.0, [np.nan]), Score.of(np.nan, [1.0])):
        assert np.isnan([empty.low, empty.high]).all()
    columns = score_columns({"r": found})
    assert columns == {"r": 2.0, "r_low": 1.5, "r_high": 2.5}


def test_counts_of_resamples_do_not_depend_on_how_many_are_made_at_once() -> None:
    whole, pieces = (np.concatenate(list(resampled_counts(5, 7, 1, size))) for size in (None, 3))
    np.testing.assert_array_equal(whole, pieces)
    assert (whole.sum(axis=1) == 5).all()
    assert list(resampled_counts(5, 0)) == []


def test_blocks_of_the_genome() -> None:
    blocks = genome_blocks(["chr1", "chr1", "chr2", "chr1"], [10, 999_999, 10, 1_000_000])
    assert blocks[0] == blocks[1]
    assert len({blocks[0], blocks[2], blocks[3]}) == 3


@pytest.mark.parametrize(
    ("genes", "said"),
    [(9, "; 9 genes are too few for an interval (at least 10 are needed)"), (10, "] (95 % bootstrap intervals)")],
)
def test_predictions_of_few_genes_are_scored_without_an_interval(genes: int, said: str) -> None:
    observed = np.linspace(0, 2, genes)
    table = pd.DataFrame({"observed": observed, "expression": observed**2})
    lines: list[str] = []
    _report(SimpleNamespace(genes=table, elements=[], files=()), lines.append)  # type: ignore[arg-type]
    scores = lines[1]
    assert scores.startswith("against the observed label: Pearson 0.")
    assert scores.endswith(said)
    assert ("[" in scores) == (genes == 10)
