"""What networks do off the CPU's own kernels, run on the CPU: what the CUDA scan is given, in every number type.

The layers run module by module there, and the scan goes to `scan_cuda.scan`; here chunked torch stands in for it, after
a look at shapes, types and strides. On the meta device the same is asked of windows of full length.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from kipoi_seq2exp.config import NetworkConfig, Variant
from kipoi_seq2exp.nn import mamba, scan, scan_cuda
from kipoi_seq2exp.nn.mamba import MambaStack, recomputed_layers
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.nn.scan import Backend, scan_chunked

PLAIN = NetworkConfig(
    window_bp=256, promoter_bp=32, n_features=1, d_model=16, d_state=4, generator_layers=1, encoder_layers=2
)
TOKENS = dataclasses.replace(PLAIN, token_bp=16, memory_bp=256, contact_pool=2, contact_track=2)
NETWORKS = {
    "bases": PLAIN,
    "tokens": TOKENS,
    "hard": dataclasses.replace(PLAIN, variant=Variant.HARD, generator_layers=2),
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Have every scan go to the CUDA one; return what each call was given."""
    calls: list[dict[str, Any]] = []

    def looked_at(*arrays: torch.Tensor, **_: Any) -> torch.Tensor:
        *tensors, reverse = arrays
        u, delta, A, B, C, D = tensors
        batch, length, channels = u.shape
        assert delta.shape == u.shape
        assert B.shape == C.shape == (batch, length, A.shape[1])
        assert A.shape[0] == D.shape[0] == channels
        assert {tensor.dtype for tensor in tensors} == {torch.float32}  # whatever runs round it
        assert len({tensor.device for tensor in tensors}) == 1
        assert all(tensor.stride(-1) == 1 or 1 in tensor.shape for tensor in (A, D))
        calls.append({"length": length, "batch": batch, "reverse": reverse, "grad": u.requires_grad})
        if u.device.type == "meta":
            return u + delta + B.sum(-1, keepdim=True) + C.sum(-1, keepdim=True) + A.sum(1) + D
        return scan_chunked(u, delta, A, B, C, D, reverse=reverse)

    monkeypatch.setattr(scan_cuda, "is_available", lambda u: True)
    monkeypatch.setattr(scan_cuda, "scan", looked_at)
    for module in (scan, mamba):
        monkeypatch.setattr(module, "chosen_backend", lambda u, backend=None: Backend.CUDA)
    return calls


def inputs(config: NetworkConfig, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    letters = torch.randint(0, 4, (batch, config.window_bp), generator=generator)
    return {
        "onehot": torch.nn.functional.one_hot(letters, 4).float(),
        "signals": torch.rand(batch, config.window_bp, config.n_tracks, generator=generator),
        "features": torch.randn(batch, config.n_features, generator=generator),
    }


def network(config: NetworkConfig) -> Seq2Exp:
    torch.manual_seed(1)
    return Seq2Exp(config).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_modules_one_by_one_are_the_cpus_kernels(name: str, given: list[dict[str, Any]]) -> None:
    config = NETWORKS[name]
    model, x = network(config), inputs(config)
    with torch.inference_mode():
        found = model(**x).expression
    assert {call["reverse"] for call in given} == {False, True}
    with pytest.MonkeyPatch.context() as patch:
        for module in (scan, mamba):
            patch.setattr(module, "chosen_backend", lambda u, backend=None: Backend.CPU)
        with torch.inference_mode():
            wanted = model(**x).expression
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch: this norm is not fused
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_training_step_in_bfloat16(name: str, recomputed: bool, given: list[dict[str, Any]]) -> None:
    """Under autocast the scan gets float32, every parameter gets a gradient of float32, near that without autocast."""
    config = NETWORKS[name]
    gradients = {}
    for half in (False, True):
        model, x = network(config).train(), inputs(config)
        sample = torch.full((2, config.window_bp), 0.7)
        given.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if recomputed:
                with recomputed_layers(model):
                    loss = model(**x, sample=sample).expression.float().square().sum()
                    loss.backward()  # type: ignore[no-untyped-call]
            else:
                loss = model(**x, sample=sample).expression.float().square().sum()
                loss.backward()  # type: ignore[no-untyped-call]
        assert all(call["grad"] for call in given if call["length"] > 1)
        gradients[half] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients[True].keys() == gradients[False].keys()
    for key, exact in gradients[False].items():
        assert gradients[True][key].dtype == torch.float32
        assert torch.isfinite(gradients[True][key]).all(), key
        whole = max(float(value.abs().max()) for value in gradients[False].values())
        assert float((gradients[True][key] - exact).abs().max()) < 0.1 * whole, key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [2_000, 200_000])
def test_shapes_and_types_of_a_stack_at_full_length(
    dtype: torch.dtype, length: int, given: list[dict[str, Any]]
) -> None:
    """Nothing is computed on the meta device: forward and backward of the published width, at the published length."""
    config = NetworkConfig(d_model=128)
    stack = MambaStack(config, 2).to("meta", dtype)
    hidden = torch.empty(2, length, config.d_model, device="meta", dtype=dtype, requires_grad=True)
    rows = slice(length // 2 - 1_000, length // 2 + 1_000)
    out = stack(hidden, rows)
    assert out.shape == (2, 2_000, config.d_model)
    assert out.dtype == dtype
    (gradient,) = torch.autograd.grad(out.float().sum(), [hidden])
    assert gradient.shape == hidden.shape
    assert gradient.dtype == dtype
    assert [call["length"] for call in given] == [length] * 4  # two layers, both directions
