from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kipoi_seq2exp import NetworkConfig
from kipoi_seq2exp.nn.cpu import tiles
from kipoi_seq2exp.nn.mamba import MambaStack


def stack(layers: int = 2, **changes: int) -> MambaStack:
    torch.manual_seed(0)
    network = MambaStack(NetworkConfig(d_model=changes.pop("d_model", 16), **changes), layers)
    with torch.no_grad():
        for parameter in network.parameters():  # also those that begin at 0 or 1
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def gradients(network: MambaStack, hidden: torch.Tensor, rows: slice | None) -> list[torch.Tensor]:
    """The result, then its gradients with respect to the input and every parameter."""
    hidden = hidden.clone().requires_grad_()
    result = network(hidden, rows)
    weight = torch.cos(torch.arange(result.numel(), dtype=result.dtype)).reshape(result.shape)
    return [result.detach(), *torch.autograd.grad((result * weight).sum(), [hidden, *network.parameters()])]


def assert_same(network: MambaStack, hidden: torch.Tensor, rows: slice | None = None) -> None:
    """The streamed stack has the values and gradients of the plain one in float64."""
    fast = gradients(network, hidden, rows)
    exact = gradients(network.double(), hidden.double(), rows)
    for name, a, b in zip(["result", "hidden", *dict(network.named_parameters())], fast, exact, strict=True):
        assert a.shape == b.shape, name
        assert (a.double() - b).abs().max() <= 3e-5 * b.abs().max() + 1e-7, name


@pytest.mark.parametrize("length", [1, 2, 5, 63, 64, 65, 200])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.usefixtures("either_walk")
def test_gradients_equal_those_of_the_plain_stack(length: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_length", lambda d_inner: 64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(stack(), torch.randn(2, length, 16))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [slice(40, 60), slice(0, 10), slice(90, 100), slice(0, 100), slice(49, 50)])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.usefixtures("either_walk")
def test_only_the_wanted_rows(rows: slice, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_length", lambda d_inner: 16)
    assert_same(stack(layers), torch.randn(1, 100, 16), rows)


@pytest.mark.parametrize(
    "changes", [{"d_state": 3}, {"d_state": 8, "d_conv": 2}, {"expand": 3, "d_conv": 6}, {"d_conv": 1}, {"d_model": 48}]
)
@pytest.mark.usefixtures("either_walk")
def test_other_widths(changes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_length", lambda d_inner: 32)
    assert_same(stack(**changes), torch.randn(1, 70, changes.get("d_model", 16)))


def test_training_and_prediction_see_the_same_numbers() -> None:
    network, hidden = stack(), torch.randn(1, 700, 16)
    trained = network(hidden, slice(300, 400)).detach()
    with torch.no_grad():
        predicted = network(hidden, slice(300, 400))
    torch.testing.assert_close(predicted, trained, rtol=1e-6, atol=1e-6)  # the final norm is torch's in training


def test_weights_changed_before_the_backward_are_an_error() -> None:
    network = stack()
    result = network(torch.randn(1, 20, 16)).sum()
    with torch.no_grad():
        network.layers[0].in_proj.weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_what_is_kept_does_not_grow_with_the_states() -> None:
    """A layer keeps its input and one state in 32: all states would be L x d_inner x N numbers."""
    network, length = stack(3), 640
    own = {id(parameter) for parameter in network.parameters()}
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: id(t) in own or kept.append(t.numel()) or t, lambda t: t):
        network(torch.randn(1, length, 16, requires_grad=True))
    assert sum(kept) <= 3 * (length * 16 + 2 * (length // 32) * 16 * 32) + 4 * length * 16  # the last: the final norm


def test_what_is_kept_is_freed_by_the_backward() -> None:
    network, hidden = stack(), torch.randn(1, 64, 16)
    result = network(hidden).sum()
    first = torch.autograd.grad(result, list(network.parameters()), retain_graph=True)
    second = torch.autograd.grad(result, list(network.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        result.backward()


def test_two_python_threads_may_train() -> None:
    networks, hidden = [stack(), stack()], torch.randn(1, 300, 16)
    alone = gradients(stack(), hidden, None)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda network: gradients(network, hidden, None), networks))
    assert all(torch.equal(a, b) for result in both for a, b in zip(result, alone, strict=True))


@pytest.mark.parametrize(
    ("d_model", "d_state"), [(16, 4), (16, 16), (64, 4)]
)  # windows shared by the threads, and tiles
@pytest.mark.parametrize("windows", [1, 3])
def test_the_same_bits_for_any_number_of_threads(d_model: int, d_state: int, windows: int) -> None:
    network, hidden = stack(d_model=d_model, d_state=d_state), torch.randn(windows, 90, d_model)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 4, 9):
            torch.set_num_threads(threads)
            results.append(gradients(network, hidden, slice(20, 70)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
