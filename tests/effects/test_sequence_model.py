"""The wrapper for other packages: the network's own numbers, and the real tangermeme and captum on it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_runs import small_network

from kipoi_seq2exp.effects.contributions import gradient_times_input, mutagenesis
from kipoi_seq2exp.effects.sequence_model import SequenceModel
from kipoi_seq2exp.effects.track_features import FeatureRules
from kipoi_seq2exp.errors import ShapeError
from kipoi_seq2exp.prediction.run import predict_windows

TOKENS = {"token_bp": 16, "memory_bp": 4_000, "contact_pool": 2, "contact_track": 2}


@pytest.fixture(scope="module")
def window(tiny):
    return tiny.dataset()[2]


@pytest.fixture(scope="module", params=[{}, TOKENS], ids=["bases", "tokens"])
def network(tiny, request):
    return small_network(tiny, **request.param).eval()


def dna(window):
    return torch.from_numpy(window.onehot.T.copy())[None].float()


def test_it_predicts_what_the_network_does(tiny, window, network):
    dataset = tiny.dataset()
    model = SequenceModel(network, window, FeatureRules.of(dataset))
    wanted = predict_windows(network, [window])[0].expression
    with torch.inference_mode():
        assert float(model(dna(window))) == pytest.approx(wanted, abs=1e-6)
        assert model(dna(window).expand(2, -1, -1)).shape == (2, 1)
        louder = window.signals * np.float32([1, 2, 1])
        features = FeatureRules.of(dataset).features_of(window.features, louder)
        changed = predict_windows(network, [dataclasses.replace(window, signals=louder, features=features)])[0]
        got = float(model(dna(window), torch.from_numpy(louder)[None]))
        assert got == pytest.approx(changed.expression, abs=1e-6)
        assert got != pytest.approx(wanted, abs=1e-4)
    with pytest.raises(ShapeError, match=r"DNA must have shape \(B, 4, 4000\)"):
        model(dna(window).transpose(1, 2))


def test_captum_on_it_gives_our_gradients(window, network):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed (the extra interpret)")
    found = attr.InputXGradient(SequenceModel(network, window)).attribute(dna(window).requires_grad_())
    wanted = gradient_times_input(network, window).dna
    np.testing.assert_allclose(found[0].sum(0).detach(), wanted, atol=1e-6 * np.abs(wanted).max())
    assert np.abs(wanted).max() > 0


def test_tangermeme_on_it_mutates_as_we_do(window, network):
    pytest.importorskip("tangermeme", reason="tangermeme is not installed (the extra interpret)")
    from tangermeme.predict import predict
    from tangermeme.saturation_mutagenesis import saturation_mutagenesis

    model = SequenceModel(network, window)
    before = float(predict(model, dna(window), device="cpu"))
    assert before == pytest.approx(predict_windows(network, [window])[0].expression, abs=1e-6)
    span = {"start": 1_990, "end": 1_993}
    raw = saturation_mutagenesis(model, dna(window), device="cpu", raw_outputs=True, batch_size=4, fast=False, **span)
    change = raw.y_hat.reshape(4, 3).T.numpy() - before
    np.testing.assert_allclose(change, mutagenesis(network, window, slice(1_990, 1_993)), atol=1e-6)
    assert np.abs(change).max() > 0
