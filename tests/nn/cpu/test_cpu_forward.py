from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kipoi_seq2exp import NetworkConfig, Seq2Exp
from kipoi_seq2exp.config import Products
from kipoi_seq2exp.nn.cpu import forward, tiles
from kipoi_seq2exp.nn.mamba import MambaStack


def stack(layers: int = 2, **changes: int) -> MambaStack:
    torch.manual_seed(0)
    return MambaStack(NetworkConfig(d_model=16, **changes), layers).eval()


def both(network: MambaStack, hidden: torch.Tensor, rows: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streamed stack equals the plain one."""
    with torch.no_grad():
        fast = network(hidden, rows)
        monkeypatch.setenv("SEQ2EXP_SCAN", "chunked")
        slow = network(hidden, rows)
    assert fast.shape == slow.shape
    torch.testing.assert_close(fast, slow, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("length", [1, 2, 5, 31, 32, 33, 100])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.usefixtures("either_walk")
def test_streamed_equals_plain(length: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_length", lambda d_inner: 32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        both(stack(), torch.randn(2, length, 16), slice(0, length), monkeypatch)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_two_python_threads_may_predict() -> None:
    network, windows = stack(), [torch.randn(1, 700, 16) for _ in range(8)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def predict(window: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(window)

    try:
        alone = [predict(window) for window in windows]
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(predict, windows))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("rows", [slice(40, 60), slice(0, 10), slice(90, 100), slice(0, 100), slice(49, 50)])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.usefixtures("either_walk")
def test_only_the_wanted_rows(rows: slice, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_length", lambda d_inner: 16)
    both(stack(layers), torch.randn(1, 100, 16), rows, monkeypatch)


@pytest.mark.parametrize("changes", [{"d_state": 4}, {"d_conv": 2}, {"expand": 3}, {"expand": 1}])
def test_other_widths(changes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    both(stack(**changes), torch.randn(1, 50, 16), slice(0, 50), monkeypatch)


def test_what_is_not_streamed() -> None:
    hidden = torch.zeros(1, 4, 16)
    assert forward.can_stream(hidden, 32)
    assert not forward.can_stream(hidden.double(), 32)
    assert not forward.can_stream(hidden, 24)  # half a vector
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not forward.can_stream(hidden, 32)


def test_products_in_bfloat16_move_the_mask_little() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(d_model=32, promoter_bp=100, window_bp=2_000, generator_layers=2, encoder_layers=2)
    model = Seq2Exp(config).eval()
    onehot = torch.nn.functional.one_hot(torch.randint(4, (1, 2_000)), 4)
    inputs = onehot, torch.rand(1, 2_000, 3), torch.randn(1, 9)
    with torch.no_grad():
        exact = model(*inputs)
        model.products = Products.BFLOAT16
        quick = model(*inputs)
    assert not torch.equal(exact.mask_logits, quick.mask_logits)
    torch.testing.assert_close(quick.mask, exact.mask, rtol=0, atol=2e-5)
    torch.testing.assert_close(quick.expression, exact.expression, rtol=0, atol=1e-4)


def test_a_network_has_the_same_bits_for_any_number_of_threads() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        d_model=64, d_state=4, promoter_bp=100, window_bp=1_200, generator_layers=1, encoder_layers=1
    )
    model = Seq2Exp(config).eval()
    inputs = torch.nn.functional.one_hot(torch.randint(4, (2, 1_200)), 4), torch.rand(2, 1_200, 3), torch.randn(2, 9)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            with torch.no_grad():
                results.append(model(*inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other.mask, results[0].mask)
        assert torch.equal(other.expression, results[0].expression)
