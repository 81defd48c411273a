"""Quantiles of Beta distributions: closed forms, sampling, extreme concentrations."""

from __future__ import annotations

import numpy as np
import pytest

from kipoi_seq2exp.elements.credible import beta_quantiles
from kipoi_seq2exp.errors import ShapeError

LEVELS = (0.025, 0.5, 0.975)


def test_closed_forms():
    b = np.array([0.2, 1.0, 3.0, 40.0, 2_000.0])
    found = beta_quantiles(np.ones_like(b), b, LEVELS)
    for row, level in enumerate(LEVELS):
        np.testing.assert_allclose(found[row], 1 - (1 - level) ** (1 / b), atol=1e-9)
    np.testing.assert_allclose(beta_quantiles(b, np.ones_like(b), LEVELS)[1], 0.5 ** (1 / b), atol=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(10, 90), (0.1, 0.12), (25.3, 12.7), (9_000, 30)])
def test_quantiles_agree_with_sampling(alpha, beta):
    draws = np.random.default_rng(0).beta(alpha, beta, size=400_000)
    found = beta_quantiles(np.array([alpha]), np.array([beta]), LEVELS)[:, 0]
    below = [(draws < value).mean() for value in found]
    assert below == pytest.approx(LEVELS, abs=4e-3)


def test_many_bases_equal_each_alone():
    random = np.random.default_rng(1)
    alpha, beta = random.uniform(0.5, 300, size=(2, 5_000))
    whole = beta_quantiles(alpha, beta, LEVELS)
    assert whole.shape == (3, 5_000)
    np.testing.assert_array_equal(whole[:, 4_500:4_501], beta_quantiles(alpha[4_500:4_501], beta[4_500:4_501], LEVELS))
    assert (np.diff(whole, axis=0) > 0).all()


def test_no_bases_and_wrong_concentrations():
    assert beta_quantiles(np.empty(0), np.empty(0), LEVELS).shape == (3, 0)
    with pytest.raises(ShapeError, match="above 0"):
        beta_quantiles(np.array([0.0]), np.array([1.0]), LEVELS)
