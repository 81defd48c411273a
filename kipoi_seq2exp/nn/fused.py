"""One direction of a Mamba mixer on the CPU with its gradient: the training twin of `streamed`.

`mamba.DirectedScan` is a chain of a convolution, a SiLU, two projections, a softplus and a scan. Left to torch, the
chain keeps ten arrays of (L, d_inner) for the backward and passes over each several times. Here it is one step: numba
kernels for everything elementwise, torch for the two matrix products, and for the backward only the input, the small
projection (L, dt_rank + 2 N) and one state in 64; what else the backward needs is computed again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kipoi_seq2exp.nn.scan_cpu import LOG2_E, WIDTH, channel_ranges, run_parallel

Array = NDArray[np.float32]


def can_fuse(x: Tensor) -> bool:
    """Whether `directed_scan` computes this: float32 on the CPU, whole vectors of channels."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and x.shape[2] % WIDTH == 0


def directed_scan(
    x: Tensor, convolution: tuple[Tensor, Tensor], x_proj: Tensor, dt_proj: tuple[Tensor, Tensor], A: Tensor, D: Tensor,
    reverse: bool,
) -> Tensor:  # fmt: skip
    """Run convolution, SiLU, projections, softplus and scan, differentiably.

    Parameters
    ----------
    x : Tensor, (B, L, d_inner)
    convolution : tuple of Tensor
        Weight (d_inner, d_conv) and bias (d_inner,).
    x_proj : Tensor, (dt_rank + 2 N, d_inner)
    dt_proj : tuple of Tensor
        Weight (d_inner, dt_rank) and bias (d_inner,).
    A, D : Tensor, (d_inner, N) and (d_inner,)
        As in `scan.selective_scan`.
    reverse : bool
        Read the window from its end to its start.

    Returns
    -------
    Tensor, (B, L, d_inner)
    """
    y: Tensor = _Fused.apply(x, *convolution, x_proj, *dt_proj, A, D, reverse)  # type: ignore[no-untyped-call]
    return y


@dataclass(frozen=True)
class _Parameters:
    """Parameters of a direction in the kernels' layout."""

    conv_weight: Array  # (d_conv, d_inner)
    conv_bias: Array  # (1, d_inner)
    x_proj: Tensor  # (dt_rank + 2 N, d_inner)
    dt_weight: Array  # (dt_rank, d_inner)
    dt_bias: Array  # (1, d_inner)
    A2: Array  # (N, d_inner), times log2(e)
    D: Array  # (1, d_inner)
    reverse: bool

    @classmethod
    def of(cls, parameters: tuple[Tensor, ...], reverse: bool) -> _Parameters:
        conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D = (tensor.detach() for tensor in parameters)

        def array(tensor: Tensor) -> Array:
            return tensor.contiguous().numpy()

        return cls(
            array(conv_weight.t()), array(conv_bias[None]), x_proj, array(dt_weight.t()), array(dt_bias[None]),
            array(A.t() * LOG2_E), array(D[None]), reverse,
        )  # fmt: skip

    def convolved(self, x: Array) -> Tensor:
        """Convolution and SiLU of one window, (L, d_inner)."""
        from kipoi_seq2exp.nn.layer_kernels import convolve_silu

        u = np.empty_like(x)
        _by_rows(x.shape[0], lambda a, b: convolve_silu(x, self.conv_weight, self.conv_bias, u[a:b], a, self.reverse))
        return torch.from_numpy(u)

    def steps(self, low_rank: Array) -> Array:
        """Step sizes of one window, (L, d_inner)."""
        from kipoi_seq2exp.nn.layer_kernels import step_sizes

        delta = np.empty((low_rank.shape[0], self.D.shape[1]), np.float32)
        _by_rows(low_rank.shape[0], lambda a, b: step_sizes(low_rank[a:b], self.dt_weight, self.dt_bias, delta[a:b]))
        return delta

    def maps(self, low_rank: Tensor) -> tuple[Array, Array]:
        """B and C of one window, (L, N) each."""
        rank, states = self.dt_weight.shape[0], self.A2.shape[0]
        B, C = (low_rank[:, i : i + states].contiguous().numpy() for i in (rank, rank + states))
        return B, C


def _by_rows(length: int, work: Callable[[int, int], None]) -> None:
    """Run work(a, b) on one range of rows a thread."""
    threads = min(torch.get_num_threads(), length)
    edges = [length * i // threads for i in range(threads + 1)]
    run_parallel([lambda a=a, b=b: work(a, b) for a, b in itertools.pairwise(edges)])  # type: ignore[misc]


def _by_channels(channels: int, work: Callable[[int, tuple[int, int]], None]) -> None:
    """Run work(thread, range) on one range of channels a thread."""
    ranges = channel_ranges(channels)
    run_parallel([lambda i=i, span=span: work(i, span) for i, span in enumerate(ranges)])  # type: ignore[misc]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        from kipoi_seq2exp.nn.scan_kernels import CHUNK, scan_forward

        *parameters, reverse = arguments
        p = _Parameters.of(tuple(parameters), reverse)
        x = x.detach().contiguous()
        batch, length, channels = x.shape
        chunks = -(-length // CHUNK) if any(ctx.needs_input_grad) else 0
        y, saved = torch.empty_like(x), torch.empty(batch, chunks, *p.A2.shape)
        low_ranks = torch.empty(batch, length, p.x_proj.shape[0])
        for b in range(batch):
            u = p.convolved(x[b].numpy())
            torch.mm(u, p.x_proj.t(), out=low_ranks[b])
            delta, (B, C) = p.steps(low_ranks[b].numpy()), p.maps(low_ranks[b])
            state = np.zeros(p.A2.shape, np.float32)
            arrays = (u.numpy(), delta, p.A2, B, C, p.D, y[b].numpy(), state, saved[b].numpy())
            _by_channels(channels, lambda _, span, arrays=arrays: scan_forward(*arrays, span, reverse))  # type: ignore[misc]
        ctx.save_for_backward(x, low_ranks, saved, *parameters)
        ctx.reverse = reverse
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, low_ranks, saved, *parameters = ctx.saved_tensors
        p = _Parameters.of(tuple(parameters), ctx.reverse)
        total = _Gradients.zeros(p)
        dx = torch.empty_like(x)
        dy = gradients[0].contiguous()
        for b in range(x.shape[0]):
            total.add_window(p, x[b], low_ranks[b], saved[b].numpy(), dy[b].numpy(), dx[b].numpy())
        return dx, *total.in_torch(), None


@dataclass(frozen=True)
class _Gradients:
    """Gradients of a direction's parameters, in the kernels' layout, summed over windows."""

    conv_weight: Array
    conv_bias: Array
    x_proj: Tensor
    dt_weight: Tensor  # (d_inner, dt_rank), torch's layout
    dt_bias: Array
    A: Array  # (N, d_inner)
    D: Array

    @classmethod
    def zeros(cls, p: _Parameters) -> _Gradients:
        like = [np.zeros_like(array) for array in (p.conv_weight, p.conv_bias, p.dt_bias, p.A2, p.D)]
        dt_weight = torch.zeros(p.dt_weight.shape[1], p.dt_weight.shape[0])
        return cls(like[0], like[1], torch.zeros_like(p.x_proj), dt_weight, *like[2:])

    def in_torch(self) -> tuple[Tensor, ...]:
        """Return the gradients in the order and layout of the parameters."""
        conv = torch.from_numpy(self.conv_weight).t(), torch.from_numpy(self.conv_bias)[0]
        scan = torch.from_numpy(self.A).t(), torch.from_numpy(self.D)[0]
        return *conv, self.x_proj, self.dt_weight, torch.from_numpy(self.dt_bias)[0], *scan

    def add_window(self, p: _Parameters, x: Tensor, low_rank: Tensor, saved: Array, dy: Array, dx: Array) -> None:
        """Walk one window back; write the gradient of its input to `dx`."""
        from kipoi_seq2exp.nn.backward_kernels import convolve_silu_backward, step_sizes_backward
        from kipoi_seq2exp.nn.scan_kernels import scan_backward

        u, delta, (B, C) = p.convolved(x.numpy()), p.steps(low_rank.numpy()), p.maps(low_rank)
        channels, rank = x.shape[1], p.dt_weight.shape[0]
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        threads = len(channel_ranges(channels))
        dB, dC = (np.zeros((threads, *B.shape), np.float32) for _ in range(2))

        def scan_and_steps(thread: int, span: tuple[int, int]) -> None:
            own = (du.numpy(), ddelta.numpy(), self.A, dB[thread], dC[thread], self.D)
            scan_backward(u.numpy(), delta, p.A2, B, C, p.D, saved, dy, *own, span, p.reverse)
            step_sizes_backward(low_rank.numpy(), p.dt_weight, p.dt_bias, ddelta.numpy(), self.dt_bias, span)

        _by_channels(channels, scan_and_steps)
        d_steps = ddelta @ torch.from_numpy(p.dt_weight).t()
        d_low_rank = torch.cat([d_steps, torch.from_numpy(dB.sum(0)), torch.from_numpy(dC.sum(0))], dim=1)
        self.dt_weight.addmm_(ddelta.t(), low_rank[:, :rank])
        self.x_proj.addmm_(d_low_rank.t(), u)
        du.addmm_(d_low_rank, p.x_proj)

        def convolution(_: int, span: tuple[int, int]) -> None:
            own = (dx, self.conv_weight, self.conv_bias)
            convolve_silu_backward(x.numpy(), p.conv_weight, p.conv_bias, du.numpy(), *own, span, p.reverse)

        _by_channels(channels, convolution)
