"""Scores against plain definitions, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.training.scores import METRICS, score, spearman


def test_scores_of_known_numbers():
    found = score([0, 1, 2, 3], [0, 1, 2, 5])
    assert found["mse"].value == 1.0
    assert found["mae"].value == 0.5
    assert found["pearson"].value == pytest.approx(np.corrcoef([0, 1, 2, 3], [0, 1, 2, 5])[0, 1])
    assert found["spearman"].value == 1.0


def test_tied_ranks_share_their_mean():
    pandas = pytest.importorskip("pandas")
    a, b = np.array([3.0, 1, 1, 2, 2, 2]), np.array([1.0, 2, 3, 3, 0, 0])
    assert spearman(a, b) == pytest.approx(pandas.Series(a).rank().corr(pandas.Series(b).rank()))


def test_intervals_hold_the_score_and_narrow_with_more_genes():
    rng = np.random.default_rng(0)
    widths = []
    for n in (20, 500):
        truth = rng.normal(size=n)
        found = score(truth, truth + rng.normal(size=n), seed=1)
        for value in found.values():
            assert value.low <= value.value <= value.high
        widths.append(found["pearson"].high - found["pearson"].low)
    assert widths[1] < widths[0] / 2


def test_intervals_follow_from_the_seed():
    truth, guess = np.arange(9.0), np.arange(9.0)[::-1] ** 2
    assert score(truth, guess, seed=3) == score(truth, guess, seed=3)
    assert score(truth, guess, seed=3) != score(truth, guess, seed=4)


def test_a_constant_has_no_correlation_and_single_genes_no_scores():
    assert np.isnan(METRICS["pearson"](np.ones(3), np.arange(3.0)))
    with pytest.raises(InputError, match="two or more genes"):
        score([1.0], [1.0])
    with pytest.raises(InputError, match="two or more genes"):
        score([1.0, 2.0], [1.0, 2.0, 3.0])


def test_mse_is_torch_s():
    a, b = np.random.default_rng(1).normal(size=(2, 8))
    assert METRICS["mse"](a, b) == pytest.approx(float(nn.functional.mse_loss(torch.tensor(a), torch.tensor(b))))
