"""Narrow networks: the compiled walk beside the walk in tiles, and which networks take it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kipoi_seq2exp import NetworkConfig
from kipoi_seq2exp.nn.cpu import narrow, tiles
from kipoi_seq2exp.nn.cpu.narrow_backward_kernels import add_outer
from kipoi_seq2exp.nn.cpu.narrow_kernels import STEP, product
from kipoi_seq2exp.nn.cpu.scan_kernels import CHUNK
from kipoi_seq2exp.nn.mamba import MambaStack


def layer_of(product_type: torch.dtype = torch.float32, **changes: int) -> tiles.Layer:
    (layer,) = MambaStack(NetworkConfig(**changes), 1).layers
    return tiles.Layer.of(dict(layer.named_parameters()), 1e-5, product_type)


@pytest.mark.parametrize("changes", [{"d_model": 16}, {"d_model": 32}, {"d_model": 48}, {"d_model": 32, "d_state": 32}])
def test_narrow_networks_walk_in_compiled_calls(changes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    run = narrow.NarrowWalk.run
    monkeypatch.setattr(narrow.NarrowWalk, "run", lambda *a, **k: walked.append(1) or run(*a, **k))
    with torch.no_grad():
        MambaStack(NetworkConfig(**changes), 2)(torch.randn(1, 70, changes["d_model"]))
    assert len(walked) == 2


@pytest.mark.parametrize("changes", [{"d_model": 64}, {"d_model": 128}, {"d_model": 24}, {"d_model": 16, "d_state": 4}])
def test_others_walk_in_tiles(changes: dict[str, int]) -> None:
    """Too wide, or a row of D or of the states is not whole vectors."""
    assert layer_of(**changes).packed is None


def test_a_tile_is_whole_chunks() -> None:
    assert STEP % CHUNK == 0


def test_products_in_bfloat16_are_those_of_tiles() -> None:
    assert layer_of(torch.bfloat16, d_model=32).packed is None


@pytest.mark.parametrize("d_model", [16, 32])
def test_predictions_equal_those_of_tiles(d_model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, hidden = MambaStack(NetworkConfig(d_model=d_model), 2), torch.randn(2, 333, d_model)
    with torch.no_grad():
        compiled = network(hidden, slice(100, 231))
        monkeypatch.setattr(tiles.Packed, "of", lambda *_: None)
        torch.testing.assert_close(compiled, network(hidden, slice(100, 231)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 8, 19])
@pytest.mark.parametrize("add", [False, True])
def test_products_of_matrices(rows: int, add: bool) -> None:
    """Also where rows are left beside the eights, and matrices that are read in part."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((rows + 1, width), np.float32) for width in (21, 32))
    weight, out = (random.standard_normal((count, 32), np.float32) for count in (19, rows))
    expected = a[:rows, :19].astype(float) @ weight + (out if add else 0)
    product(a, weight, out, add)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    total = random.standard_normal((19, 32), np.float32)
    expected = total + a[:rows, :19].astype(float).T @ b[:rows]
    add_outer(a, b[:rows], total)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)
