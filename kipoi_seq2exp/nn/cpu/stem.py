"""The token stem on the CPU: the strongest match of each motif in each token, differentiable in the motifs.

The numbers of a convolution over one-hot DNA and a maximum over each token, many times faster (see `stem_kernels`).
Each token is worked out by itself, and the windows' gradients are added in their order: the same bits for any number of
threads.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from kipoi_seq2exp.nn.cpu.scan import WIDTH, empty, run_queue

Codes = NDArray[np.uint8]


def read_codes(onehot: Tensor, before: int, after: int) -> Codes | None:
    """Turn DNA into one code a base, with unknown bases before and after it.

    Parameters
    ----------
    onehot : Tensor, (B, L, 4)
    before, after : int
        Number of bases beyond the window on each side.

    Returns
    -------
    NDArray of uint8, (B, before + L + after), or None
        None if it cannot be read as codes: not float32 on the CPU, a gradient is wanted, or a base is not a plain A, C,
        G, T or N.
    """
    plain = onehot.device.type == "cpu" and onehot.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not plain or (onehot.requires_grad and torch.is_grad_enabled()):
        return None
    from kipoi_seq2exp.nn.cpu.stem_kernels import MIXED, UNKNOWN, base_codes

    codes = np.full((onehot.shape[0], before + onehot.shape[1] + after), UNKNOWN, np.uint8)
    bases = onehot.detach().contiguous().numpy()
    tasks = [functools.partial(base_codes, window, row, before) for window, row in zip(bases, codes, strict=True)]
    run_queue(tasks, torch.get_num_threads())
    return None if (codes == MIXED).any() else codes


def strongest_matches(codes: Codes, weight: Tensor, bias: Tensor, n_tokens: int) -> Tensor:
    """Return the strongest match of each motif in each token.

    Parameters
    ----------
    codes : NDArray of uint8, (B, T * token_bp + K - 1)
    weight : Tensor, (D, 4, K)
        That of the convolution.
    bias : Tensor, (D,)
    n_tokens : int
        Number of tokens, T.

    Returns
    -------
    Tensor, (B, T, D)
    """
    matches: Tensor = _Matches.apply(codes, weight, bias, n_tokens)  # type: ignore[no-untyped-call]
    return matches


class _Matches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Codes, weight: Tensor, bias: Tensor, n_tokens: int) -> Tensor:
        from kipoi_seq2exp.nn.cpu.stem_kernels import strongest_matches

        missing = -weight.shape[0] % WIDTH
        table = functional.pad(weight.detach().permute(2, 1, 0), (0, missing, 0, 1)).flatten(0, 1).contiguous()
        biases = functional.pad(bias.detach(), (0, missing))[None].contiguous()
        strongest, where = (empty(len(codes), n_tokens, table.shape[1]) for _ in range(2))
        arrays = table.numpy(), biases.numpy()
        middle = n_tokens // 2
        tasks = [
            functools.partial(strongest_matches, row, *arrays, best.numpy(), place.numpy(), span)
            for row, best, place in zip(codes, strongest, where, strict=True)
            for span in itertools.pairwise((0, middle, n_tokens))
        ]
        run_queue(tasks, torch.get_num_threads())
        ctx.codes = codes
        ctx.save_for_backward(weight, where)
        return strongest[..., : weight.shape[0]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        from kipoi_seq2exp.nn.cpu.stem_kernels import strongest_matches_backward

        weight, where = ctx.saved_tensors
        D, _, K = weight.shape
        d_table, d_bias = np.zeros((len(where), 5 * K, D)), np.zeros((len(where), 1, D))
        arrays = zip(ctx.codes, where.numpy(), gradient.contiguous().numpy(), d_table, d_bias, strict=True)
        tasks = [functools.partial(strongest_matches_backward, *window) for window in arrays]
        run_queue(tasks, torch.get_num_threads())
        d_weight = torch.from_numpy(d_table.sum(0)).unflatten(0, (K, 5))[:, :4].permute(2, 1, 0)
        return None, d_weight.to(weight.dtype), torch.from_numpy(d_bias.sum(0)[0]).to(weight.dtype), None
