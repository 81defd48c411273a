from __future__ import annotations

import pytest
import torch

from kipoi_seq2exp import NetworkConfig
from kipoi_seq2exp.nn.fused import can_fuse
from kipoi_seq2exp.nn.mamba import DirectedScan


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 3, 64, 100])
@pytest.mark.parametrize("changes", [{}, {"d_state": 3, "d_conv": 2}, {"expand": 4, "d_conv": 6}])
def test_fused_equals_the_chain_of_torch(
    length: int, reverse: bool, changes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(length)
    direction = DirectedScan(NetworkConfig(d_model=16, **changes), reverse=reverse)
    x = torch.randn(2, length, direction.D.shape[0], requires_grad=True)
    assert can_fuse(x)
    results = []
    for backend in ("cpu", "chunked"):
        monkeypatch.setenv("SEQ2EXP_SCAN", backend)
        y = direction(x)
        gradients = torch.autograd.grad((y * y.detach().cos()).sum(), [x, *direction.parameters()])
        results.append((y, *gradients))
    for fused, plain in zip(*results, strict=True):
        assert fused.shape == plain.shape
        assert (fused - plain).abs().max() <= 3e-5 * plain.abs().max() + 1e-7


def test_what_is_not_fused() -> None:
    assert not can_fuse(torch.zeros(1, 2, 24))  # half a vector
    assert not can_fuse(torch.zeros(1, 2, 16, dtype=torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_fuse(torch.zeros(1, 2, 16))
