"""The Triton kernels in Triton's interpreter on the CPU, against the plain loop.

The interpreter must be chosen before triton is imported: one test runs this file again in a process that chose it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kipoi_seq2exp.nn import scan_cuda
from kipoi_seq2exp.nn.scan import scan_reference

ROOT = Path(__file__).resolve().parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SHAPES = [  # length, channels, states, batch, reverse, chunk (the carry takes `chunk` chunks at a time)
    (1, 1, 1, 1, False, 8),
    (1, 8, 16, 2, True, 8),
    (7, 3, 2, 1, False, 8),
    (8, 4, 16, 1, True, 8),
    (9, 5, 5, 2, False, 8),
    (19, 5, 3, 1, False, 4),
    (19, 5, 3, 2, True, 4),
    (33, 2, 1, 1, True, 4),
    (65, 3, 2, 1, False, 64),
    (16, 32, 16, 1, True, 8),  # d_model 16, whole chunks: no number is masked
]


def test_kernels_in_the_interpreter() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if INTERPRETED:
        pytest.skip("this is the inner run")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"{len(SHAPES) + 3} passed" in done.stdout.splitlines()[-1]


def test_no_cuda_tensor_no_cuda_scan() -> None:
    assert not scan_cuda.is_available(torch.zeros(1))


if INTERPRETED:

    @pytest.mark.parametrize(("length", "channels", "states", "batch", "reverse", "chunk"), SHAPES)
    def test_kernels_equal_the_reference(
        length: int, channels: int, states: int, batch: int, reverse: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from kipoi_seq2exp.nn import scan_triton

        monkeypatch.setattr(scan_triton, "CHUNK", chunk)
        monkeypatch.setattr(scan_triton, "CHANNELS", 4)
        check(length, channels, states, batch, reverse)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_bfloat16_comes_back_as_bfloat16(reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Values and gradients are those of the rounded inputs in float32, rounded once, at the end."""
        from kipoi_seq2exp.nn import scan_triton

        monkeypatch.setattr(scan_triton, "CHUNK", 4)
        generator = torch.Generator().manual_seed(5)
        u, delta = torch.randn(1, 9, 4, generator=generator), torch.rand(1, 9, 4, generator=generator)
        A, B, C = -torch.ones(4, 2), *torch.randn(2, 1, 9, 2, generator=generator)
        half = [tensor.bfloat16().requires_grad_() for tensor in (u, delta, A, B, C, torch.ones(4))]
        whole = [tensor.detach().float().requires_grad_() for tensor in half]
        y, wanted = scan_triton.scan(*half, reverse), scan_reference(*whole, reverse=reverse)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), wanted, rtol=2**-8, atol=1e-6)
        found = torch.autograd.grad(y.float().sum(), half)
        for a, b in zip(found, torch.autograd.grad(wanted.sum(), whole), strict=True):
            assert a.dtype == torch.bfloat16
            torch.testing.assert_close(a.float(), b, rtol=2**-7, atol=1e-5)


def check(length: int, channels: int, states: int, batch: int, reverse: bool) -> None:
    """Values and every gradient agree with the plain loop in float64."""
    from kipoi_seq2exp.nn import scan_triton

    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    delta = torch.nn.functional.softplus(2 * draw(batch, length, channels) - 3)
    A, B, C = -torch.exp(draw(channels, states) + 1), draw(batch, length, states), draw(batch, length, states)
    inputs = [draw(batch, length, channels), delta, A, B, C, draw(channels)]
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    slow, fast = scan_reference(*exact, reverse=reverse), scan_triton.scan(*given, reverse)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=1e-5)
    weight = torch.cos(torch.arange(slow.numel())).reshape(slow.shape)
    wanted = torch.autograd.grad((slow * weight.double()).sum(), exact)
    found = torch.autograd.grad((fast * weight).sum(), given)
    for name, a, b in zip(["u", "delta", "A", "B", "C", "D"], found, wanted, strict=True):
        assert (a.double() - b).abs().max() <= 3e-5 * b.abs().max() + 1e-7, name
