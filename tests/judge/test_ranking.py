"""Average precision and precision at a recall against scikit-learn and counting by hand; misses; bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.judge.ranking import auprc_difference, rank_scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [4, 1_000_000])
def test_average_precision_is_scikit_learns(seed, levels):
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    labels = random.random(200) < 0.3
    scores = np.round(random.random(200) * levels) / levels + labels * 0.2
    ranking = rank_scores(labels, {"s": scores}, bootstrap=0)["s"]
    assert ranking.auprc.value == pytest.approx(metrics.average_precision_score(labels, scores))
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    assert ranking.precision.value == pytest.approx(precision[np.flatnonzero(recall >= 0.7)[-1]])


def test_by_hand_with_a_tie_and_a_miss():
    labels = np.array([True, False, True, True, False])
    scores = np.array([0.9, 0.8, 0.8, -np.inf, -np.inf])
    ranking = rank_scores(labels, {"s": scores}, bootstrap=0)["s"]
    assert ranking.auprc.value == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert np.isnan(ranking.precision.value)  # only two of three are ever recalled
    everything = rank_scores(labels, {"s": np.full(5, -np.inf)}, bootstrap=10)["s"]
    assert everything.auprc.value == 0


def test_bootstrap_resamples_pairs_together_and_repeats():
    random = np.random.default_rng(1)
    labels = random.random(150) < 0.4
    score = random.random(150) + 0.4 * labels
    rankings = rank_scores(labels, {"a": score, "same": score * 2, "b": random.random(150)}, bootstrap=300)
    assert rankings["a"] == rankings["same"]
    assert rankings == rank_scores(labels, {"a": score, "same": score * 2, "b": rankings_b(1)}, bootstrap=300)
    assert rankings["a"].auprc.low < rankings["a"].auprc.value < rankings["a"].auprc.high
    slow = []
    for _ in range(300):
        chosen = random.integers(0, 150, 150)
        slow.append(rank_scores(labels[chosen], {"a": score[chosen]}, bootstrap=0)["a"].auprc.value)
    assert rankings["a"].auprc.low == pytest.approx(np.quantile(slow, 0.025), abs=0.03)
    assert rankings["a"].auprc.high == pytest.approx(np.quantile(slow, 0.975), abs=0.03)


def rankings_b(seed):
    random = np.random.default_rng(seed)
    random.random(300)
    return random.random(150)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(InputError, match=r"no pair is positive \(3 pairs\)"):
        rank_scores(np.zeros(3, bool), {"s": np.zeros(3)})
    for wrong in (np.zeros(2), np.array([0, np.nan, 1])):
        with pytest.raises(InputError, match="one number for each of the 3 pairs"):
            rank_scores(np.array([True, False, True]), {"s": wrong})


def test_groups_are_resampled_whole_and_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.4
    good, poor = labels + rng.normal(size=60), labels + 3 * rng.normal(size=60)
    single = rank_scores(labels, {"good": good}, seed=2)["good"].auprc
    twice = np.repeat(labels, 2)
    grouped = rank_scores(twice, {"good": np.repeat(good, 2)}, seed=2, groups=np.repeat(np.arange(60), 2))["good"].auprc
    assert grouped.value == pytest.approx(single.value)
    assert (grouped.low, grouped.high) == pytest.approx((single.low, single.high))
    difference = auprc_difference(labels, poor, good)
    assert difference.value == pytest.approx(
        rank_scores(labels, {"good": good})["good"].auprc.value - rank_scores(labels, {"p": poor})["p"].auprc.value
    )
    same = auprc_difference(labels, good, 2 * good)
    assert (same.value, same.low, same.high) == (0, 0, 0)
