"""Predictions under changed masks: those of the whole network with that mask, at the price of the encoder alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import PROMOTER_BP, small_network

from kipoi_seq2exp.config import MaskMode, Variant
from kipoi_seq2exp.prediction.masking import masked_out, predict_masked
from kipoi_seq2exp.prediction.run import predict_windows

KINDS = {
    "soft": {},
    "top": {"mask_mode": MaskMode.TOP, "top_fraction": 0.7},
    "two layers": {"encoder_layers": 2},
    "hard": {"variant": Variant.HARD, "threshold": 0.45},
}


@pytest.fixture(scope="module")
def window(tiny):
    return tiny.dataset()[2]


def network(tiny, kind):
    return small_network(tiny, **KINDS[kind]).eval()


def whole_network(model, window, start, end, monkeypatch):
    """Return the prediction with the generator run again and an interval of its mask set to 0: the slow twin."""
    read = model.read_mask

    def changed(z, inputs):
        mask = read(z, inputs).clone()
        mask[:, start:end] = 0
        return mask

    with monkeypatch.context() as patch:
        patch.setattr(model, "read_mask", changed)
        return predict_windows(model, [window])[0].expression


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_masked_out_element_is_the_whole_network_with_that_mask(tiny, window, kind, batch_size, monkeypatch):
    model = network(tiny, kind)
    full = predict_windows(model, [window])[0]
    start, end = np.array([0, 900, 1_500, 2_300, 3_990]), np.array([300, 1_400, 1_790, 2_900, 4_000])
    wanted = [whole_network(model, window, *span, monkeypatch) for span in zip(start, end, strict=True)]
    found = predict_masked(model, window, masked_out(full.mask, start, end), batch_size)
    np.testing.assert_array_equal(found, wanted)
    assert np.abs(found - full.expression).max() > 1e-6
    assert 0 < full.mask.mean() < 1


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_generator_does_not_run_and_the_encoder_once_a_mask(tiny, window, kind, monkeypatch):
    model = network(tiny, kind)
    mask = predict_windows(model, [window])[0].mask
    monkeypatch.setattr(model, "generate", None)
    runs = []
    forward = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda *given: runs.append(1) or forward(*given))
    start, end = np.array([100, 1_000, 2_500]), np.array([600, 1_500, 3_300])
    predict_masked(model, window, masked_out(mask, start, end))
    assert len(runs) == 3


def test_equal_masks_are_predicted_once(tiny, window, monkeypatch):
    model = network(tiny, "hard")
    mask = predict_windows(model, [window])[0].mask
    mask[3_000:] = 0  # the last two elements are left out anyway
    start, end = np.array([1_000, 3_000, 3_500]), np.array([1_500, 3_100, 4_000])
    alone = [predict_masked(model, window, [changed])[0] for changed in masked_out(mask, start, end)]
    runs = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda *given: runs.append(1) or encode(*given))
    np.testing.assert_array_equal(predict_masked(model, window, masked_out(mask, start, end), 2), alone)
    assert len(runs) == 2
    assert alone[1] == alone[2] == predict_masked(model, window, [mask])[0]


def test_masks_of_other_number_types_are_the_same_masks(tiny, window):
    model = network(tiny, "soft")
    mask = np.zeros(4_000)
    mask[2_000 - PROMOTER_BP // 2 : 2_000 + PROMOTER_BP // 2] = 1
    kinds = (mask, mask.astype(bool), torch.from_numpy(mask).float().numpy(), mask[::-1])
    assert len(set(predict_masked(model, window, kinds).tolist())) == 1
