"""A Mamba stack on the CPU, tile by tile: the numbers of `mamba.MambaStack`, several times faster.

A layer is one walk over the window in tiles of `tiles.tile_length` positions. Each direction has a worker; both start
at their end of the window and meet in the middle:

    phase 1   a worker reaches a tile first: norm, x = in_proj (shared by both directions), its own scan; both kept
    phase 2   a worker reaches a tile second: its own scan, added to the other's; norm again, the gate z = in_proj;
              gated, out_proj, added to the residual

so the tied projections are computed once, nothing is flipped or copied, and every step works on a tile that is in the
cache; the gate, half of what in_proj gives, never leaves it. Products of matrices are torch's (MKL is faster on tiles
than on the whole window), the rest are numba kernels. When only some `rows` of the result are wanted (the promoter),
the last layer is run up to them from both sides, and outside them only the state is computed. At 200 kb and d_model 128
the stack keeps about 0.5 GB beyond its input.

A narrow network's ranges are each walked in one compiled call instead: see `narrow`.

With gradients the walk is the same and leaves a `Trace` of each layer for the walk back, see `backward`.

`config.Products.BFLOAT16` multiplies by in_proj and out_proj in bfloat16, all else in float32: faster where the
processor has instructions for it (AVX-512 BF16, AMX), slower elsewhere. x_proj stays exact, step sizes are sensitive;
and the last layer, whose errors no other layer evens out.
`benchmarks/speed.py` measures the gain and how far the mask moves. Gradients are always float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kipoi_seq2exp.config import Products
from kipoi_seq2exp.nn.cpu import tiles as walk
from kipoi_seq2exp.nn.cpu.narrow import NarrowWalk
from kipoi_seq2exp.nn.cpu.scan import WIDTH, empty
from kipoi_seq2exp.nn.cpu.tiles import Array, Direction, Layer, meeting, run_both, run_windows, tiles


def can_stream(hidden: Tensor, d_inner: int) -> bool:
    """Whether the stack can be streamed: float32 on the CPU, whole vectors of channels."""
    plain = hidden.device.type == "cpu" and hidden.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and d_inner % WIDTH == 0


def stream_stack(
    layers: Any, final_norm: Any, hidden: Tensor, rows: slice, products: Products = Products.FLOAT32
) -> Tensor:
    """Run the layers on a batch of windows, without gradients.

    Parameters
    ----------
    layers : sequence of mamba.BiMambaLayer
    final_norm : nn.RMSNorm
    hidden : Tensor, (B, L, D)
        float32, on the CPU; not changed.
    rows : slice
        Rows of the result that are wanted.
    products : Products
        Type of the products with in_proj and out_proj.

    Returns
    -------
    Tensor, (B, len(rows), D)
    """
    types = [getattr(torch, products.value)] * (len(layers) - 1) + [torch.float32]  # no other layer evens out the last
    prepared = [
        Layer.of(dict(layer.named_parameters()), layer.norm.eps, product_type)
        for layer, product_type in zip(layers, types, strict=True)
    ]
    windows, length, d_model = hidden.shape
    result = empty(windows, rows.stop - rows.start, d_model)

    def work(window: int, threads: int) -> None:
        stream = Stream(hidden[window], prepared, threads)
        stream.run(rows)
        stream.normalise(rows, final_norm, result[window])

    run_windows(work, windows, length * prepared[0].d_inner)
    return result


@dataclass(frozen=True)
class Trace:
    """What the walk back needs of a layer: its input, and each direction's tiles in the order in which they were read.

    Attributes
    ----------
    residual : Tensor, (L, D)
    states : pair of Tensor, (chunks, N, d_inner)
        A direction's states before each chunk of each tile.
    visits : pair of lists of (a, b)
        A direction's tiles; none of a narrow layer, whose walk back cuts its own.
    """

    residual: Tensor
    states: tuple[Tensor, Tensor]
    visits: tuple[list[tuple[int, int]], list[tuple[int, int]]]

    def tiles(self, i: int) -> list[tuple[int, int, Array]]:
        """Return the tiles of a direction with the states of each, (chunks, N, d_inner)."""
        found, first = [], 0
        for a, b in self.visits[i]:
            last = first + _chunks(a, b)
            found.append((a, b, self.states[i][first:last].numpy()))
            first = last
        return found


class Stream:
    """The residual stream of one window and what the two workers share.

    Parameters
    ----------
    hidden : Tensor, (L, D)
    layers : sequence of Layer
    threads : int
    keep : bool
        Leave a trace of each layer.
    """

    def __init__(self, hidden: Tensor, layers: Sequence[Layer], threads: int, *, keep: bool = False) -> None:
        self.length, d_model = hidden.shape
        self.layers, self.threads, self.d_inner = layers, threads, layers[0].d_inner
        self.size = walk.tile_length(self.d_inner)
        self.residual = empty(self.length, d_model)
        self.residual.copy_(hidden.detach())
        self.keep = keep
        self.traces: list[Trace] = []
        self.narrow: NarrowWalk | None = None
        if all(layer.packed for layer in layers):
            self.narrow = NarrowWalk(self.residual, layers[0], threads)
            return
        self.x = empty(self.length, self.d_inner)  # of every position
        self.y = empty(self.length, self.d_inner)  # the scan of the worker that came first
        self.buffers = [(empty(self.size, d_model), empty(self.size, self.d_inner)) for _ in range(2)]

    def run(self, rows: slice) -> None:
        """Add all layers to the residual, the last one at `rows` alone."""
        for layer in self.layers[:-1]:
            self._run_layer(layer, slice(0, self.length))
        self._run_layer(self.layers[-1], rows)

    def normalise(self, rows: slice, norm: Any, result: Tensor) -> None:
        """Write the norm of the residual's rows to `result`, (len(rows), D)."""
        from kipoi_seq2exp.nn.cpu.layer_kernels import rms_normalise

        residual, weight = self.residual[rows], norm.weight.detach().numpy()
        middle = len(residual) // 2
        halves = [slice(0, middle), slice(middle, None)]

        def work(i: int) -> None:
            rms_normalise(residual[halves[i]].numpy(), weight, np.float32(norm.eps), result[halves[i]].numpy())

        run_both(work, self.threads)

    def _run_layer(self, layer: Layer, rows: slice) -> None:
        if self.narrow is not None:
            before = empty(*self.residual.shape).copy_(self.residual) if self.keep else self.residual
            states = self.narrow.run(layer, rows, keep=self.keep)
            if self.keep:
                self.traces.append(Trace(before, states, ([], [])))
            return
        self.shared, both = layer.shared, layer.begin(self.threads)
        outer, inner = meeting(self.length, rows)
        whole = rows == slice(0, self.length)
        if self.keep:
            forward, reverse = (_room(both[i], [outer[i], inner[i]]) for i in (0, 1))
            self.room = [forward.numpy(), reverse.numpy()]
            before = empty(*self.residual.shape).copy_(self.residual)
            self.traces.append(Trace(before, (forward, reverse), ([], [])))
        run_both(lambda i: self._first_visit(both[i], *outer[i], keep_output=whole), self.threads)
        if whole:
            run_both(lambda i: self._second_visit(both[i], *inner[i]), self.threads)
        else:
            self._meet(both, rows)

    def _first_visit(self, direction: Direction, start: int, stop: int, *, keep_output: bool) -> None:
        for a, b in tiles(start, stop, self.size, direction.reverse):
            self._project(direction, a, b)
            y = self._scan(direction, a, b)
            if keep_output:
                self.y[a:b] = y  # the scan writes columns of 16: quicker into the cache, then this copy

    def _second_visit(self, direction: Direction, start: int, stop: int) -> None:
        for a, b in tiles(start, stop, self.size, direction.reverse):
            self._finish(direction, self._scan(direction, a, b), a, b)

    def _meet(self, both: list[Direction], rows: slice) -> None:
        """Last layer: both directions arrive at the wanted rows with their states."""
        for a, b in tiles(rows.start, rows.stop, self.size):
            self._project(both[0], a, b)
        outputs = [empty(rows.stop - rows.start, self.d_inner), self.y[rows]]

        def arrive(i: int) -> None:
            for a, b in tiles(rows.start, rows.stop, self.size, both[i].reverse):
                outputs[i][a - rows.start : b - rows.start] = self._scan(both[i], a, b)

        run_both(arrive, self.threads)
        for a, b in tiles(rows.start, rows.stop, self.size):
            self._finish(both[0], outputs[0][a - rows.start : b - rows.start], a, b)

    def _project(self, direction: Direction, a: int, b: int) -> None:
        """Find x of rows a to b."""
        columns = slice(0, self.d_inner)
        direction.share_rows(b - a, lambda *part: self._in_proj(direction, a, part, columns, self.x[a:b]))

    def _in_proj(self, direction: Direction, a: int, part: tuple[int, int], columns: slice, out: Tensor) -> None:
        """Norm and these columns of in_proj for a part of the tile that begins at `a`, into the tile `out`."""
        from kipoi_seq2exp.nn.cpu.layer_kernels import rms_normalise

        first, last = part
        normed, matrix = self.buffers[direction.reverse][0][first:last], self.shared.in_proj[:, columns]
        residual = self.residual[a + first : a + last].numpy()
        rms_normalise(residual, self.shared.norm_weight, self.shared.norm_eps, normed.numpy())
        if matrix.dtype == normed.dtype:
            torch.mm(normed, matrix, out=out[first:last])
        else:
            out[first:last] = torch.mm(normed.to(matrix.dtype), matrix)

    def _scan(self, direction: Direction, a: int, b: int) -> Tensor:
        """Convolution, step sizes and scan of rows a to b, on from the direction's state; (b - a, d_inner)."""
        from kipoi_seq2exp.nn.cpu.scan_kernels import scan_forward

        inputs = direction.prepare(self.x.numpy(), a, b)
        y = self.buffers[direction.reverse][1][: b - a]
        saved = np.empty((0, *direction.A2.shape), np.float32)
        if self.keep:
            room, chunks = self.room[direction.reverse], _chunks(a, b)
            saved, self.room[direction.reverse] = room[:chunks], room[chunks:]
            self.traces[-1].visits[direction.reverse].append((a, b))

        def scan(first: int, last: int) -> None:
            scan_forward(inputs, y.numpy(), direction.state, saved, (first, last), direction.reverse)

        direction.share_channels(scan)
        return y

    def _finish(self, direction: Direction, y: Tensor, a: int, b: int) -> None:
        """Gate both directions and add their projection to the residual."""
        from kipoi_seq2exp.nn.cpu.layer_kernels import gate

        def work(first: int, last: int) -> None:
            self._in_proj(direction, a, (first, last), slice(self.d_inner, None), direction.delta)
            gated, z = direction.u[first:last], direction.delta[first:last]  # free by now
            gate(y[first:last].numpy(), self.y.numpy(), z.numpy(), gated.numpy(), a + first)
            residual, out_proj = self.residual[a + first : a + last], self.shared.out_proj
            if out_proj.dtype == gated.dtype:
                residual.addmm_(gated, out_proj)
            else:
                residual += torch.mm(gated.to(out_proj.dtype), out_proj)

        direction.share_rows(b - a, work)


def _chunks(a: int, b: int) -> int:
    """Count the chunks of a tile."""
    from kipoi_seq2exp.nn.cpu.scan_kernels import CHUNK

    return -(-(b - a) // CHUNK)


def _room(direction: Direction, ranges: list[tuple[int, int]]) -> Tensor:
    """Make a tensor for a direction's states before each chunk of each tile: (chunks, N, d_inner)."""
    size = walk.tile_length(direction.A2.shape[1])
    return empty(sum(_chunks(*tile) for span in ranges for tile in tiles(*span, size)), *direction.A2.shape)
