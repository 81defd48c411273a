"""A Mamba stack on the CPU without gradients, tile by tile: the numbers of `mamba.MambaStack`, several times faster.

A layer is one walk over the window in tiles of `TILE` positions. Each direction has a worker; both start at their end
of the window and meet in the middle:

    phase 1   a worker reaches a tile first: norm and in_proj (shared by both directions), its own scan; both kept
    phase 2   a worker reaches a tile second: its own scan, added to the other's, gated, out_proj, added to the residual

so the tied projections are computed once, nothing is flipped or copied, and every step works on a tile that is in the
cache. Products of matrices are torch's (MKL is faster on tiles than on the whole window), the rest are numba kernels.
When only some `rows` of the result are wanted (the promoter), the last layer is run up to them from both sides, and
outside them only the state is computed. At 200 kb and d_model 128 the stack keeps about 0.7 GB beyond its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kipoi_seq2exp.nn.scan_cpu import LOG2_E, WIDTH, run_parallel

TILE = 512
Array = NDArray[np.float32]


def can_stream(hidden: Tensor, d_inner: int) -> bool:
    """Whether `stream_stack` computes this: float32 on the CPU, no gradients, whole vectors of channels."""
    plain = hidden.device.type == "cpu" and hidden.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled() and d_inner % WIDTH == 0


def stream_stack(layers: Any, final_norm: Any, hidden: Tensor, rows: slice) -> Tensor:
    """Run the layers on one window.

    Parameters
    ----------
    layers : sequence of mamba.BiMambaLayer
    final_norm : nn.RMSNorm
    hidden : Tensor, (L, D)
        float32, on the CPU; not changed.
    rows : slice
        Rows of the result that are wanted.

    Returns
    -------
    Tensor, (len(rows), D)
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each of our two workers calls torch for one tile at a time
    try:
        stream = _Stream(hidden, layers[0])
        for i, layer in enumerate(layers):
            stream.run_layer(layer, rows if i == len(layers) - 1 else slice(0, hidden.shape[0]), parallel=threads > 1)
    finally:
        torch.set_num_threads(threads)
    result: Tensor = final_norm(stream.residual[rows])
    return result


@dataclass(frozen=True)
class _Direction:
    """One direction's parameters in the kernels' layout, and its buffers of one tile."""

    reverse: bool
    conv_weight: Array  # (d_conv, d_inner)
    conv_bias: Array  # (1, d_inner)
    x_proj: Tensor  # (d_inner, dt_rank + 2 N)
    dt_weight: Array  # (dt_rank, d_inner)
    dt_bias: Array  # (1, d_inner)
    A2: Array  # (N, d_inner), times log2(e)
    D: Array  # (1, d_inner)
    state: Array  # (N, d_inner), carried from tile to tile
    u: Tensor  # (TILE, d_inner)
    delta: Tensor
    y: Tensor

    @classmethod
    def of(cls, scan: Any) -> _Direction:
        """Take the parameters of a `mamba.DirectedScan`."""

        def array(tensor: Tensor) -> Array:
            return tensor.detach().contiguous().numpy()

        A2 = -torch.exp(scan.A_log.detach().t()) * LOG2_E
        buffers = [torch.empty(TILE, A2.shape[1]) for _ in range(3)]
        return cls(
            scan.reverse,
            array(scan.conv_weight.t()),
            array(scan.conv_bias[None]),
            scan.x_proj.weight.detach().t().contiguous(),
            array(scan.dt_proj.weight.t()),
            array(scan.dt_proj.bias[None]),
            array(A2),
            array(scan.D[None]),
            np.zeros(A2.shape, np.float32),
            *buffers,
        )


class _Stream:
    """The residual stream of one window and what the two workers share."""

    def __init__(self, hidden: Tensor, layer: Any) -> None:
        self.length = hidden.shape[0]
        self.d_inner = layer.out_proj.weight.shape[1]
        self.residual = hidden.detach().clone(memory_format=torch.contiguous_format)
        self.xz = torch.empty(self.length, 2 * self.d_inner)  # in_proj of every position: x, then the gate z
        self.y = torch.empty(self.length, self.d_inner)  # the scan of the worker that came first

    def run_layer(self, layer: Any, rows: slice, *, parallel: bool) -> None:
        """Add one layer to the residual, at `rows`."""
        self.layer = layer
        both = [_Direction.of(layer.forward_scan), _Direction.of(layer.reverse_scan)]
        whole = rows == slice(0, self.length)
        middle = self.length // 2
        left, right = (middle, middle) if whole else (rows.start, rows.stop)
        outer = [(0, left), (right, self.length)]  # what each worker reaches first
        inner = [(right, self.length), (0, left)] if whole else [(left, right)] * 2
        _both(parallel, lambda i: self._first_visit(both[i], *outer[i], keep_output=whole))
        if whole:
            _both(parallel, lambda i: self._second_visit(both[i], *inner[i]))
        else:
            self._meet(both, rows, parallel=parallel)

    def _first_visit(self, direction: _Direction, start: int, stop: int, *, keep_output: bool) -> None:
        for a, b in _tiles(start, stop, direction.reverse):
            self._project(a, b)
            y = self._scan(direction, a, b)
            if keep_output:
                self.y[a:b] = y

    def _second_visit(self, direction: _Direction, start: int, stop: int) -> None:
        for a, b in _tiles(start, stop, direction.reverse):
            self._finish(self._scan(direction, a, b), a, b)

    def _meet(self, both: list[_Direction], rows: slice, *, parallel: bool) -> None:
        """Last layer: both directions arrive at the wanted rows with their states."""
        for a, b in _tiles(rows.start, rows.stop, reverse=False):
            self._project(a, b)
        outputs = [torch.empty(rows.stop - rows.start, self.d_inner) for _ in both]

        def arrive(i: int) -> None:
            for a, b in _tiles(rows.start, rows.stop, both[i].reverse):
                outputs[i][a - rows.start : b - rows.start] = self._scan(both[i], a, b)

        _both(parallel, arrive)
        self.y[rows] = outputs[1]
        for a, b in _tiles(rows.start, rows.stop, reverse=False):
            self._finish(outputs[0][a - rows.start : b - rows.start], a, b)

    def _project(self, a: int, b: int) -> None:
        """Norm and in_proj of rows a to b."""
        from kipoi_seq2exp.nn.layer_kernels import rms_normalise

        norm, residual = self.layer.norm, self.residual[a:b]
        normed = torch.empty_like(residual)
        rms_normalise(residual.numpy(), norm.weight.detach().numpy(), np.float32(norm.eps), normed.numpy())
        torch.mm(normed, self.layer.in_proj.weight.detach().t(), out=self.xz[a:b])

    def _scan(self, direction: _Direction, a: int, b: int) -> Tensor:
        """Convolution, step sizes and scan of rows a to b, on from the direction's state; (b - a, d_inner)."""
        from kipoi_seq2exp.nn.layer_kernels import convolve_silu, step_sizes
        from kipoi_seq2exp.nn.scan_kernels import scan_forward

        d, size = direction, b - a
        u, delta, y = (buffer[:size] for buffer in (d.u, d.delta, d.y))
        convolve_silu(self.xz.numpy(), d.conv_weight, d.conv_bias, u.numpy(), a, d.reverse)
        low_rank = torch.mm(u, d.x_proj)
        rank, states = d.dt_weight.shape[0], d.A2.shape[0]
        step_sizes(low_rank.numpy(), d.dt_weight, d.dt_bias, delta.numpy())
        B, C = (low_rank[:, i : i + states].contiguous().numpy() for i in (rank, rank + states))
        none_saved = np.empty((0, *d.A2.shape), np.float32)
        span = (0, self.d_inner)
        scan_forward(u.numpy(), delta.numpy(), d.A2, B, C, d.D, y.numpy(), d.state, none_saved, span, d.reverse)
        return y

    def _finish(self, y: Tensor, a: int, b: int) -> None:
        """Gate both directions and add their projection to the residual."""
        from kipoi_seq2exp.nn.layer_kernels import gate

        gated = torch.empty_like(y)
        gate(y.numpy(), self.y.numpy(), self.xz.numpy(), gated.numpy(), a)
        self.residual[a:b].addmm_(gated, self.layer.out_proj.weight.detach().t())


def _tiles(start: int, stop: int, reverse: bool) -> list[tuple[int, int]]:
    """Cut [start, stop) in tiles, in the order of the walk."""
    count = math.ceil((stop - start) / TILE)
    tiles = [(start + i * TILE, min(start + (i + 1) * TILE, stop)) for i in range(count)]
    return tiles[::-1] if reverse else tiles


def _both(parallel: bool, work: Any) -> None:
    """Run work(0) and work(1), side by side where there are threads."""

    def quietly(i: int) -> None:
        with torch.inference_mode():  # belongs to a thread
            work(i)

    if parallel:
        run_parallel([lambda: quietly(0), lambda: quietly(1)])
    else:
        quietly(0)
        quietly(1)
