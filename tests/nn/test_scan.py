from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import warm

from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.nn.cpu import scan as scan_cpu
from kipoi_seq2exp.nn.cpu import scan_kernels
from kipoi_seq2exp.nn.scan import Backend, chosen_backend, scan_chunked, scan_reference, selective_scan

Scan = tuple[torch.Tensor, ...]


def random_scan(length: int, *, channels: int = 16, states: int = 16, batch: int = 1, seed: int = 0) -> Scan:
    """Inputs u, delta, A, B, C, D with step sizes from slow to fast."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    delta = torch.nn.functional.softplus(2 * draw(batch, length, channels) - 3)
    A = -torch.exp(draw(channels, states) + 1)
    return (
        draw(batch, length, channels),
        delta,
        A,
        draw(batch, length, states),
        draw(batch, length, states),
        draw(channels),
    )


def assert_same(fast: Callable[..., torch.Tensor], inputs: Scan) -> None:
    """Values and every gradient agree with the reference loop, computed in float64."""
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    slow, quick = scan_reference(*exact), fast(*given)
    torch.testing.assert_close(quick.double(), slow, rtol=1e-5, atol=1e-5)
    weight = torch.cos(torch.arange(slow.numel())).reshape(slow.shape)
    wanted = torch.autograd.grad((slow * weight.double()).sum(), exact)
    found = torch.autograd.grad((quick * weight).sum(), given)
    for name, a, b in zip(["u", "delta", "A", "B", "C", "D"], found, wanted, strict=True):
        assert (a.double() - b).abs().max() <= 2e-5 * b.abs().max(), name


@pytest.mark.parametrize("length", [1, 15, 63, 64, 65, 129])
@pytest.mark.parametrize(("channels", "states"), [(16, 16), (32, 16), (24, 3), (5, 1)])
def test_cpu_kernels_equal_the_reference(length: int, channels: int, states: int) -> None:
    inputs = random_scan(length, channels=channels, states=states, batch=2, seed=length)
    assert_same(lambda *x: selective_scan(*x, backend="cpu"), inputs)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("segment", [32, 1000])
def test_chunked_scan_equals_the_reference(length: int, segment: int) -> None:
    assert_same(lambda *x: scan_chunked(*x, chunk=16, segment=segment), random_scan(length, states=4, seed=length))


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
def test_reverse_is_the_scan_of_the_flipped_window(backend: str) -> None:
    u, delta, A, B, C, D = random_scan(70, batch=2)
    flipped = (u.flip(1), delta.flip(1), A, B.flip(1), C.flip(1), D)
    reverse = selective_scan(u, delta, A, B, C, D, reverse=True, backend=backend)
    torch.testing.assert_close(reverse, scan_reference(*flipped).flip(1), rtol=1e-5, atol=1e-5)


def test_gradient_of_the_reverse_scan() -> None:
    inputs = random_scan(70, batch=2, states=5)
    results = []
    for backend in ("cpu", "reference"):
        given = [tensor.clone().requires_grad_() for tensor in inputs]
        y = selective_scan(*given, reverse=True, backend=backend)
        results.append(torch.autograd.grad((y * y.detach().cos()).sum(), given))
    for fast, slow in zip(*results, strict=True):
        assert (fast - slow).abs().max() <= 3e-5 * slow.abs().max()


def test_slow_decay_stays_accurate_over_many_positions() -> None:
    """A state that is multiplied by 1 - 2**-13 a base sums 20,000 inputs: errors of the exponential near 0 add up."""
    length, decay = 20_000, 1 - 2.0**-13
    ones = torch.ones(1, length, 16)
    A, D = torch.full((16, 1), np.log(decay)), torch.zeros(16)
    y = selective_scan(ones, ones, A, ones[..., :1], ones[..., :1], D, backend="cpu")
    assert float(y[0, -1, 0]) == pytest.approx((1 - decay**length) / (1 - decay), rel=2e-5)


def test_threads_do_not_change_a_bit() -> None:
    inputs = random_scan(300, channels=64)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(selective_scan(*inputs, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_choice_of_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQ2EXP_SCAN", raising=False)
    u = torch.zeros(1, 1, 1)
    assert chosen_backend(u) is Backend.CPU
    assert chosen_backend(u.double()) is Backend.CHUNKED
    assert chosen_backend(u, "reference") is Backend.REFERENCE
    monkeypatch.setenv("SEQ2EXP_SCAN", "chunked")
    assert chosen_backend(u) is Backend.CHUNKED
    with pytest.raises(ConfigError, match="did you mean 'chunked'"):
        chosen_backend(u, "chunkd")
    with pytest.raises(ConfigError, match="takes float32"):
        chosen_backend(u.double(), "cpu")
    with pytest.raises(ConfigError, match="CUDA"):
        chosen_backend(u, "cuda")


def test_wrong_shapes_are_named() -> None:
    u, delta, A, B, C, D = random_scan(4)
    with pytest.raises(ShapeError, match=r"B must have shape \(1, 4, 16\)"):
        selective_scan(u, delta, A, B[:, :3], C, D)


def test_float64_goes_to_torch_and_is_exact() -> None:
    inputs = tuple(tensor.double() for tensor in random_scan(50))
    torch.testing.assert_close(selective_scan(*inputs), scan_reference(*inputs), rtol=1e-12, atol=1e-12)


def test_a_forked_process_makes_its_own_threads() -> None:
    code = (
        "import os, torch; from kipoi_seq2exp.nn.scan import selective_scan;"
        "x = torch.ones(1, 50, 32); s = torch.ones(1, 50, 2); a = -torch.ones(32, 2); d = torch.ones(32);"
        "torch.set_num_threads(2);"
        "y = selective_scan(x, x, a, s, s, d); pid = os.fork();"
        "same = torch.equal(selective_scan(x, x, a, s, s, d), y);"
        "(os._exit(0 if same else 1) if pid == 0 else None);"
        "raise SystemExit(os.waitpid(pid, 0)[1] != 0 or not same)"
    )
    result = warm.run(["-c", code])
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(os.name != "posix", reason="folder permissions")
def test_kernels_compile_without_a_place_for_their_cache(tmp_path: Path) -> None:
    code = (
        "import numba.core.caching as caching\n"
        "def nowhere(*_): raise RuntimeError('cannot cache function: no locator available')\n"
        "caching.CacheImpl.__init__ = nowhere\n"
        "import torch; from kipoi_seq2exp.nn.scan import selective_scan\n"
        "x = torch.ones(1, 5, 16); s = torch.ones(1, 5, 2)\n"
        "print(selective_scan(x, x, -torch.ones(16, 2), s, s, torch.ones(16)).shape)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert "[1, 5, 16]" in result.stdout, result.stderr


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    scan_cpu._kept.clear()
    yield
    scan_cpu._kept.clear()


def test_memory_of_a_large_tensor_is_lent_again(nothing_kept: None) -> None:
    """A fresh page costs more than the arithmetic on it; what is still in use, a view even, is not lent."""
    first = scan_cpu.empty(2, scan_cpu.LARGE)
    place, view = first.data_ptr(), first[1, :5]
    assert place % 64 == 0
    del first
    assert scan_cpu.empty(2, scan_cpu.LARGE).data_ptr() != place
    view[:] = 1
    assert scan_cpu.empty(2 * scan_cpu.LARGE).data_ptr() != place
    del view
    again = [scan_cpu.empty(2 * scan_cpu.LARGE - 5, 1) for _ in range(2)]
    assert place in [tensor.data_ptr() for tensor in again]
    assert len({tensor.data_ptr() for tensor in again}) == 2


def test_little_memory_is_kept(nothing_kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_cpu, "KEPT", 3 * scan_cpu.LARGE)
    tensors = [scan_cpu.empty(scan_cpu.LARGE) for _ in range(4)]
    del tensors
    assert len(scan_cpu._kept) == 2
    whole = scan_cpu.empty(2 * scan_cpu.LARGE)  # nothing kept fits
    assert not scan_cpu._kept
    assert whole.shape == (2 * scan_cpu.LARGE,)


def test_scratch_begins_at_a_cache_line() -> None:
    """Vectors that straddle two lines made the walk back slower by half; NumPy's arrays begin anywhere."""
    arrays = [scan_kernels.aligned(rows) for rows in range(1, 40)]
    assert all(array.shape == (rows, 16) for rows, array in enumerate(arrays, 1))
    assert {array.ctypes.data % 64 for array in arrays} == {0}


def test_parts_of_the_scratch_do_not_overlap() -> None:
    block = 4 * scan_kernels.CHUNK
    ends = [
        scan_kernels.LANES_C + block,
        scan_kernels.LANES_B + block,
        scan_kernels.DECAYS + block,
        scan_kernels.STATES_BEFORE + block + 4,
    ]
    starts = [scan_kernels.LANES_B, scan_kernels.DECAYS, scan_kernels.STATES_BEFORE, scan_kernels.ROWS]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))


def test_the_backward_keeps_one_state_in_32() -> None:
    """All states would be L x channels x states numbers."""
    length, channels, states = 1024, 16, 16
    inputs = [tensor.requires_grad_() for tensor in random_scan(length, channels=channels, states=states)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        selective_scan(*inputs, backend="cpu")
    assert scan_kernels.CHUNK == 32
    assert length * channels * states // scan_kernels.CHUNK in kept
    assert sum(kept) < length * channels * states / 2
