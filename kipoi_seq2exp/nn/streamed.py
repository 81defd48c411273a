"""A Mamba stack on the CPU without gradients, tile by tile: the numbers of `mamba.MambaStack`, several times faster.

A layer is one walk over the window in tiles of `TILE` positions. Each direction has a worker; both start at their end
of the window and meet in the middle:

    phase 1   a worker reaches a tile first: norm and in_proj (shared by both directions), its own scan; both kept
    phase 2   a worker reaches a tile second: its own scan, added to the other's, gated, out_proj, added to the residual

so the tied projections are computed once, nothing is flipped or copied, and every step works on a tile that is in the
cache. Products of matrices are torch's (MKL is faster on tiles than on the whole window), the rest are numba kernels.
With more than two threads, each worker has helpers: they share a tile by rows, and its scan by channels.
When only some `rows` of the result are wanted (the promoter), the last layer is run up to them from both sides, and
outside them only the state is computed. At 200 kb and d_model 128 the stack keeps about 0.7 GB beyond its input.

``SEQ2EXP_PROJECTIONS=bfloat16`` multiplies by in_proj and out_proj in bfloat16, all else in float32: faster where the
processor has instructions for it (AVX-512 BF16, AMX), slower elsewhere. x_proj stays exact: step sizes are sensitive.
`benchmarks/speed.py` measures the gain and how far the mask moves.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kipoi_seq2exp.config import suggest
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.scan_cpu import LOG2_E, WIDTH, channel_ranges, empty, run_parallel

TILE = 512
_turn = threading.RLock()  # one window at a time uses all threads, and torch's number of threads is the process's
os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_turn.release)
Array = NDArray[np.float32]


def projection_type() -> torch.dtype:
    """Return the type of the products with in_proj and out_proj: float32, or what ``SEQ2EXP_PROJECTIONS`` says."""
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    name = os.environ.get("SEQ2EXP_PROJECTIONS") or "float32"
    if name not in types:
        raise ConfigError(f"SEQ2EXP_PROJECTIONS: unknown type '{name}'{suggest(name, list(types))}.")
    return types[name]


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Compute out = a @ b in the type of `b`."""
    if b.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(torch.mm(a.to(b.dtype), b))


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
    projections = projection_type()
    with _turn:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # each of our two workers calls torch for one tile at a time
        try:
            stream = _Stream(hidden, layers[0], threads, projections)
            for i, layer in enumerate(layers):
                stream.run_layer(layer, rows if i == len(layers) - 1 else slice(0, hidden.shape[0]))
        finally:
            torch.set_num_threads(threads)
    result: Tensor = final_norm(stream.residual[rows])
    return result


@dataclass(frozen=True)
class _Direction:
    """One direction's parameters in the kernels' layout, its worker's helpers, and its buffers of one tile."""

    reverse: bool
    helpers: int  # threads that share a tile
    conv_weight: Array  # (d_conv, d_inner)
    conv_bias: Array  # (1, d_inner)
    x_proj: Tensor  # (d_inner, dt_rank + 2 N)
    dt_weight: Array  # (dt_rank, d_inner)
    dt_bias: Array  # (1, d_inner)
    A2: Array  # (N, d_inner), times log2(e)
    D: Array  # (1, d_inner)
    state: Array  # (N, d_inner), carried from tile to tile
    normed: Tensor  # (TILE, D)
    u: Tensor  # (TILE, d_inner)
    delta: Tensor
    y: Tensor
    low_rank: Tensor  # (TILE, dt_rank + 2 N)

    @classmethod
    def of(cls, scan: Any, d_model: int, helpers: int) -> _Direction:
        """Take the parameters of a `mamba.DirectedScan`."""

        def array(tensor: Tensor) -> Array:
            return tensor.detach().contiguous().numpy()

        A2 = -torch.exp(scan.A_log.detach().t()) * LOG2_E
        d_inner = A2.shape[1]
        x_proj = scan.x_proj.weight.detach().t().contiguous()
        return cls(
            scan.reverse,
            helpers,
            array(scan.conv_weight.t()),
            array(scan.conv_bias[None]),
            x_proj,
            array(scan.dt_proj.weight.t()),
            array(scan.dt_proj.bias[None]),
            array(A2),
            array(scan.D[None]),
            torch.zeros(A2.shape).numpy(),  # torch's arrays begin at 64 bytes, NumPy's anywhere
            *(empty(TILE, width) for width in (d_model, d_inner, d_inner, d_inner, x_proj.shape[1])),
        )

    def share_rows(self, rows: int, work: Callable[[int, int], None]) -> None:
        """Run work(first, last) over [0, rows), in one part a helper."""
        edges = [rows * i // self.helpers for i in range(self.helpers + 1)]
        self._share(work, [(a, b) for a, b in itertools.pairwise(edges) if a < b])

    def share_channels(self, work: Callable[[int, int], None]) -> None:
        """Run work(first, last) over all channels, in parts of whole vectors."""
        self._share(work, channel_ranges(self.A2.shape[1], self.helpers))

    def _share(self, work: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
        def part(first: int, last: int) -> None:
            with torch.inference_mode():  # belongs to a thread
                work(first, last)

        name = "reverse-helper" if self.reverse else "forward-helper"
        run_parallel([functools.partial(part, *span) for span in parts], name)


class _Stream:
    """The residual stream of one window and what the two workers share."""

    def __init__(self, hidden: Tensor, layer: Any, threads: int, projections: torch.dtype) -> None:
        self.length, self.d_model = hidden.shape
        self.d_inner = layer.out_proj.weight.shape[1]
        self.projections = projections
        self.parallel, self.helpers = threads > 1, max(1, threads // 2)
        self.residual = empty(self.length, self.d_model)
        self.residual.copy_(hidden.detach())
        self.xz = empty(self.length, 2 * self.d_inner)  # in_proj of every position: x, then the gate z
        self.y = empty(self.length, self.d_inner)  # the scan of the worker that came first

    def run_layer(self, layer: Any, rows: slice) -> None:
        """Add one layer to the residual, at `rows`."""
        self.in_proj, self.out_proj = (self._matrix(p) for p in (layer.in_proj, layer.out_proj))
        self.norm_weight, self.norm_eps = layer.norm.weight.detach().numpy(), np.float32(layer.norm.eps)
        both = [_Direction.of(scan, self.d_model, self.helpers) for scan in (layer.forward_scan, layer.reverse_scan)]
        whole = rows == slice(0, self.length)
        middle = self.length // 2
        left, right = (middle, middle) if whole else (rows.start, rows.stop)
        outer = [(0, left), (right, self.length)]  # what each worker reaches first
        inner = [(right, self.length), (0, left)] if whole else [(left, right)] * 2
        self._both(lambda i: self._first_visit(both[i], *outer[i], keep_output=whole))
        if whole:
            self._both(lambda i: self._second_visit(both[i], *inner[i]))
        else:
            self._meet(both, rows)

    def _matrix(self, linear: Any) -> Tensor:
        """Return the matrix that rows are multiplied by, (inputs, outputs), in the type of the products."""
        matrix: Tensor = linear.weight.detach().t().to(self.projections)
        return matrix

    def _first_visit(self, direction: _Direction, start: int, stop: int, *, keep_output: bool) -> None:
        for a, b in _tiles(start, stop, direction.reverse):
            self._project(direction, a, b)
            y = self._scan(direction, a, b)
            if keep_output:
                self.y[a:b] = y  # the scan writes columns of 16: quicker into the cache, then this copy

    def _second_visit(self, direction: _Direction, start: int, stop: int) -> None:
        for a, b in _tiles(start, stop, direction.reverse):
            self._finish(direction, self._scan(direction, a, b), a, b)

    def _meet(self, both: list[_Direction], rows: slice) -> None:
        """Last layer: both directions arrive at the wanted rows with their states."""
        for a, b in _tiles(rows.start, rows.stop, reverse=False):
            self._project(both[0], a, b)
        outputs = [empty(rows.stop - rows.start, self.d_inner), self.y[rows]]

        def arrive(i: int) -> None:
            for a, b in _tiles(rows.start, rows.stop, both[i].reverse):
                outputs[i][a - rows.start : b - rows.start] = self._scan(both[i], a, b)

        self._both(arrive)
        for a, b in _tiles(rows.start, rows.stop, reverse=False):
            self._finish(both[0], outputs[0][a - rows.start : b - rows.start], a, b)

    def _project(self, direction: _Direction, a: int, b: int) -> None:
        """Norm and in_proj of rows a to b."""
        from kipoi_seq2exp.nn.layer_kernels import rms_normalise

        def work(first: int, last: int) -> None:
            normed, here = direction.normed[first:last], slice(a + first, a + last)
            rms_normalise(self.residual[here].numpy(), self.norm_weight, self.norm_eps, normed.numpy())
            _multiply(normed, self.in_proj, self.xz[here])

        direction.share_rows(b - a, work)

    def _scan(self, direction: _Direction, a: int, b: int) -> Tensor:
        """Convolution, step sizes and scan of rows a to b, on from the direction's state; (b - a, d_inner)."""
        from kipoi_seq2exp.nn.layer_kernels import convolve_silu, step_sizes
        from kipoi_seq2exp.nn.scan_kernels import scan_forward

        d = direction
        u, delta, y, low_rank = (buffer[: b - a] for buffer in (d.u, d.delta, d.y, d.low_rank))
        rank, states = d.dt_weight.shape[0], d.A2.shape[0]
        none_saved = np.empty((0, *d.A2.shape), np.float32)
        xz, arrays = self.xz.numpy(), (u.numpy(), delta.numpy())

        def prepare(first: int, last: int) -> None:
            rows = slice(first, last)
            convolve_silu(xz, d.conv_weight, d.conv_bias, arrays[0][rows], a + first, d.reverse)
            torch.mm(u[rows], d.x_proj, out=low_rank[rows])
            step_sizes(low_rank[rows].numpy(), d.dt_weight, d.dt_bias, arrays[1][rows])

        def scan(first: int, last: int) -> None:
            span = (first, last)
            scan_forward(*arrays, d.A2, B, C, d.D, y.numpy(), d.state, none_saved, span, d.reverse)

        d.share_rows(b - a, prepare)
        B, C = (low_rank[:, i : i + states].contiguous().numpy() for i in (rank, rank + states))
        d.share_channels(scan)
        return y

    def _finish(self, direction: _Direction, y: Tensor, a: int, b: int) -> None:
        """Gate both directions and add their projection to the residual."""
        from kipoi_seq2exp.nn.layer_kernels import gate

        def work(first: int, last: int) -> None:
            gated = direction.u[first:last]  # free by now
            gate(y[first:last].numpy(), self.y.numpy(), self.xz.numpy(), gated.numpy(), a + first)
            change = direction.normed[first:last]  # free, too
            _multiply(gated, self.out_proj, change)
            self.residual[a + first : a + last] += change

        direction.share_rows(b - a, work)

    def _both(self, work: Callable[[int], None]) -> None:
        """Run work(0) and work(1), side by side where there are threads."""

        def quietly(i: int) -> None:
            with torch.inference_mode():
                work(i)

        tasks = [functools.partial(quietly, i) for i in (0, 1)]
        if self.parallel:
            run_parallel(tasks, "worker")
        else:
            for task in tasks:
                task()


def _tiles(start: int, stop: int, reverse: bool) -> list[tuple[int, int]]:
    """Cut [start, stop) in tiles, in the order of the walk."""
    count = math.ceil((stop - start) / TILE)
    tiles = [(start + i * TILE, min(start + (i + 1) * TILE, stop)) for i in range(count)]
    return tiles[::-1] if reverse else tiles
