from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kipoi_seq2exp import NetworkConfig
from kipoi_seq2exp.nn.cpu.stem import read_codes
from kipoi_seq2exp.nn.tokens import TokenGrid, TokenStem


def dna(windows: int, length: int) -> torch.Tensor:
    """Invented DNA, a tenth of it unknown."""
    torch.manual_seed(0)
    onehot = functional.one_hot(torch.randint(0, 4, (windows, length)), 4).float()
    onehot[torch.rand(windows, length) < 0.1] = 0
    return onehot


def stem_of(d_model: int, token_bp: int, stem_bp: int) -> TokenStem:
    torch.manual_seed(1)
    return TokenStem(NetworkConfig(d_model=d_model, token_bp=token_bp, promoter_bp=2 * token_bp, stem_bp=stem_bp))


@pytest.mark.parametrize(
    ("d_model", "token_bp", "stem_bp", "length"), [(8, 4, 3, 30), (32, 16, 15, 200), (24, 8, 4, 96)]
)
def test_stem_by_codes_is_the_convolution(d_model: int, token_bp: int, stem_bp: int, length: int) -> None:
    """Values and gradients are those of the convolution in float64; rows of equal bases make no difference."""
    stem, onehot = stem_of(d_model, token_bp, stem_bp), dna(3, length)
    onehot[1, :40] = onehot[1, 0]  # many equal matches: the first one counts, as in torch
    grid = TokenGrid(length, 2 * token_bp, token_bp)
    exact = stem_of(d_model, token_bp, stem_bp).double()
    found, expected = stem(onehot, grid), exact(onehot.double(), grid)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    way = torch.randn_like(expected)
    found.backward(way.float())
    expected.backward(way)
    for (name, mine), theirs in zip(stem.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_stem_has_the_same_bits_for_any_number_of_threads() -> None:
    results, before, onehot = [], torch.get_num_threads(), dna(5, 200)
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            stem = stem_of(16, 8, 5)
            out = stem(onehot, TokenGrid(200, 16, 8))
            out.square().sum().backward()
            results.append([out.detach(), stem.motifs.weight.grad, stem.motifs.bias.grad])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_dna_that_is_no_code_takes_the_convolution() -> None:
    """Soft bases, wanted gradients and other number types are read as they are, with the same numbers."""
    onehot, grid, stem = dna(2, 96), TokenGrid(96, 16, 8), stem_of(16, 8, 5)
    assert read_codes(onehot, 2, 2) is not None
    soft = onehot.clone()
    soft[1, 7] = 0.25
    double = onehot.clone()
    double[0, 3, :2] = 1
    for other in (soft, double, onehot.clone().requires_grad_(), onehot.double()):
        assert read_codes(other, 2, 2) is None
    wanted = onehot.clone().requires_grad_()
    stem(wanted, grid).sum().backward()
    assert wanted.grad.abs().sum() > 0
    torch.testing.assert_close(stem(wanted, grid), stem(onehot, grid), rtol=1e-5, atol=1e-6)


def test_a_weight_that_is_no_number_shows_in_the_result() -> None:
    stem = stem_of(16, 8, 5)
    with torch.no_grad():
        stem.motifs.weight[3, :, 2] = torch.nan
    assert stem(dna(1, 96), TokenGrid(96, 16, 8)).isnan().any()


def test_who_listens_to_the_convolution_hears_it() -> None:
    stem, heard, grid = stem_of(16, 8, 5), [], TokenGrid(96, 16, 8)
    silent = stem(dna(1, 96), grid)
    stem.motifs.register_forward_hook(lambda _module, _inputs, output: heard.append(output.shape))
    torch.testing.assert_close(stem(dna(1, 96), grid), silent, rtol=1e-5, atol=1e-6)
    assert heard == [(1, 16, 96)]
