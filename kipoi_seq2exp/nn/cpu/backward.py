"""The walk back: gradients of a Mamba stack on the CPU, tile by tile.

Nothing of a layer is kept but its input (L, D) and, for each direction, the states before every 32 positions; all else
is computed again, in tiles that stay in the cache. The workers of `forward` walk their way back: each direction from
the last position it read to the first, so that they start where they met and part.

    project     norm and in_proj of the whole window again; the gradient of the gated output, d_gated = d_out out_proj
    visit       one direction, one tile: dy = d_gated silu(z); back through scan, step sizes, x_proj and convolution;
                gives dx, and the scan's result y, which the gradients of gate and out_proj need
    first       the tile's first visitor leaves y and dx
    second      adds its own, and goes on through gate, out_proj, in_proj and norm to the residual

Of the last layer only some rows may have been read. There both directions visit these rows first; outside them one
direction alone was read, without a gate. One layer of the window takes (L, 5 d_inner) numbers of working space.

A narrow network (see `narrow`) walks back in compiled calls: in_proj and d_gated of a tile are computed again at each
visit, and y and dx of the first visitor, (L, 2 d_inner), are all that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kipoi_seq2exp.nn.cpu import tiles as walk
from kipoi_seq2exp.nn.cpu.forward import Stream, Trace
from kipoi_seq2exp.nn.cpu.narrow import NarrowWalkBack, gradient_numbers, named_gradients
from kipoi_seq2exp.nn.cpu.scan import LOG2_E, empty
from kipoi_seq2exp.nn.cpu.tiles import Array, Direction, Layer, Projections, meeting, run_both, run_windows, tiles


def train_stack(layers: Any, hidden: Tensor, rows: slice) -> Tensor:
    """Run the layers on a batch of windows, differentiably.

    Parameters
    ----------
    layers : sequence of mamba.BiMambaLayer
    hidden : Tensor, (B, L, D)
        float32, on the CPU.
    rows : slice
        Rows of the result that are wanted.

    Returns
    -------
    Tensor, (B, len(rows), D)
        The residual stream after the last layer, before the final norm.
    """
    named = [dict(layer.named_parameters()) for layer in layers]
    names = [tuple(parameters) for parameters in named]
    flat = [tensor for parameters in named for tensor in parameters.values()]
    result: Tensor = _Stack.apply(hidden, rows, [layer.norm.eps for layer in layers], names, *flat)  # type: ignore[no-untyped-call]
    return result


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, rows: slice, eps: list[float], names: list[tuple[str, ...]], *flat: Tensor
    ) -> Tensor:
        layers, keep = _prepare(_by_name(names, flat), eps), any(ctx.needs_input_grad)
        ctx.rows, ctx.eps, ctx.names = rows, eps, names
        windows, length, d_model = hidden.shape
        result = empty(windows, rows.stop - rows.start, d_model)
        kept: list[list[Trace]] = [[] for _ in range(windows)]

        def work(window: int, threads: int) -> None:
            stream = Stream(hidden[window], layers, threads, keep=keep)
            stream.run(rows)
            result[window], kept[window] = stream.residual[rows], stream.traces

        run_windows(work, windows, length * layers[0].d_inner)
        traces = [trace for window in kept for trace in window]
        ctx.visits = [trace.visits for trace in traces]
        ctx.save_for_backward(*flat, *(tensor for trace in traces for tensor in (trace.residual, *trace.states)))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weights = _by_name(ctx.names, ctx.saved_tensors)
        kept = ctx.saved_tensors[sum(map(len, weights)) :]
        traces = [Trace(kept[3 * i], (kept[3 * i + 1], kept[3 * i + 2]), v) for i, v in enumerate(ctx.visits)]
        layers, (length, d_model), windows = _prepare(weights, ctx.eps), traces[0].residual.shape, len(gradients[0])
        d_hidden = torch.zeros(windows, length, d_model)
        d_hidden[:, ctx.rows] = gradients[0]
        walk_back = _narrow_back if all(layer.packed for layer in layers) else _tiles_back
        totals = walk_back(layers, traces, d_hidden, ctx.rows, weights)
        return d_hidden, None, None, None, *(total for layer in totals for total in layer.values())


Weights = Sequence[dict[str, Tensor]]  # of each layer, by name: its parameters, or their gradients


def _tiles_back(
    layers: Sequence[Layer], traces: Sequence[Trace], d_hidden: Tensor, rows: slice, weights: Weights
) -> Weights:
    """Walk back over all windows; turn the gradient of their outputs into that of their inputs."""
    windows, length, _ = d_hidden.shape
    totals = [[{name: torch.zeros_like(w) for name, w in layer.items()} for layer in weights] for _ in range(windows)]

    def work(window: int, threads: int) -> None:
        space = _Space.of(d_hidden[window], layers[0].d_inner)
        for i in range(len(layers) - 1, -1, -1):
            wanted = rows if i == len(layers) - 1 else slice(0, length)
            trace = traces[window * len(layers) + i]
            _LayerBack(layers[i], trace, space, threads).run(wanted, totals[window][i])

    run_windows(work, windows, length * layers[0].d_inner)
    for other in totals[1:]:  # in one order, for the same bits
        for total, more in zip(totals[0], other, strict=True):
            for name in total:
                total[name] += more[name]
    return totals[0]


def _narrow_back(
    layers: Sequence[Layer], traces: Sequence[Trace], d_hidden: Tensor, rows: slice, weights: Weights
) -> Weights:
    """Walk back over all windows of a narrow network, as `_tiles_back`."""
    windows, length, _ = d_hidden.shape
    gradients = torch.zeros(len(layers), windows, 2, gradient_numbers(layers[0]))

    def work(window: int, threads: int) -> None:
        walk = NarrowWalkBack(d_hidden[window], layers[0], threads)
        for i in range(len(layers) - 1, -1, -1):
            wanted = rows if i == len(layers) - 1 else slice(0, length)
            trace = traces[window * len(layers) + i]
            walk.run(layers[i], trace.residual, trace.states, wanted, gradients[i, window])

    run_windows(work, windows, length * layers[0].d_inner)
    totals = [{name: torch.zeros_like(w) for name, w in layer.items()} for layer in weights]
    for layer, own, total in zip(layers, gradients.numpy(), totals, strict=True):
        summed = own.sum(0)  # NumPy adds the windows in one order, for the same bits
        for direction, named in zip(layer.directions, named_gradients(layer, summed), strict=True):
            add_gradients(direction, named, total)
    return totals


def _prepare(weights: Sequence[Mapping[str, Tensor]], eps: Sequence[float]) -> list[Layer]:
    return [Layer.of(layer, own) for layer, own in zip(weights, eps, strict=True)]


def _by_name(names: Sequence[Sequence[str]], flat: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    tensors = iter(flat)
    return [{name: next(tensors) for name in layer} for layer in names]


@dataclass(frozen=True)
class _Space:
    """Arrays of the whole window, used by one layer after the other."""

    residual: Tensor  # (L, D), the gradient of the residual stream: of a layer's output, then of its input
    xz: Tensor  # (L, 2 d_inner), in_proj of every position
    d_gated: Tensor  # (L, d_inner)
    y: Tensor  # (L, d_inner), of a tile's first visitor
    dx: Tensor  # (L, d_inner), of a tile's first visitor

    @classmethod
    def of(cls, residual: Tensor, d_inner: int) -> _Space:
        length = residual.shape[0]
        return cls(residual, empty(length, 2 * d_inner), *(empty(length, d_inner) for _ in range(3)))


class _Back:
    """One direction on its way back: its buffers of a tile, and the gradients of its weights and of the shared ones."""

    def __init__(self, direction: Direction, shared: Projections) -> None:
        d_inner, d_model = shared.out_proj.shape
        N, width, self.left = direction.A2.shape[0], direction.x_proj.shape[1], direction.conv_weight.shape[0] - 1
        self.direction, self.d_inner = direction, d_inner
        size = walk.tile_length(d_inner)
        self.y, self.dy, self.du, self.ddelta = (empty(size, d_inner) for _ in range(4))
        self.d_convolved = empty(size + self.left, d_inner)
        self.dxz, self.normed = empty(size, 2 * d_inner), empty(size, d_model)
        self.low_rank = empty(size, width)
        self.carried = torch.zeros(N, d_inner).numpy()  # from tile to tile: the gradient of the state,
        self.border = torch.zeros(self.left, d_inner)  # and that of the convolution's result in the last tile's rows
        self.dA, self.dD, self.dt_bias, self.conv_bias, self.conv_weight = (
            torch.zeros(rows, d_inner).numpy() for rows in (N, 1, 1, 1, self.left + 1)
        )
        self.x_proj, self.dt_weight = torch.zeros(width, d_inner), torch.zeros(direction.dt_weight.shape[0], d_inner)
        self.in_proj, self.out_proj = torch.zeros(2 * d_inner, d_model), torch.zeros(d_model, d_inner)
        self.norm_weight = np.zeros(d_model, np.float32)

    def through_direction(self, xz: Array, a: int, b: int, saved: Array, *, with_output: bool) -> None:
        """From `dy` of rows a to b to dx, in the first half of `dxz`; `with_output` leaves the scan's result in `y`."""
        inputs = self.direction.prepare(xz, a, b)
        self._through_scan(inputs, saved, with_output)
        self._through_projections(torch.from_numpy(inputs[0]))
        self._through_convolution(xz, a, b)

    def _through_scan(self, inputs: tuple[Array, ...], saved: Array, with_output: bool) -> None:
        """From `dy` to `du`, `ddelta` and the columns of B and C of `low_rank`."""
        from kipoi_seq2exp.nn.cpu.backward_kernels import step_sizes_backward
        from kipoi_seq2exp.nn.cpu.scan_kernels import scan_backward

        d, (rows, states) = self.direction, inputs[3].shape
        du, ddelta, dy = (buffer[:rows].numpy() for buffer in (self.du, self.ddelta, self.dy))
        y, low_rank = self.y[: rows if with_output else 0].numpy(), d.low_rank[:rows].numpy()
        parts: dict[int, Array] = {}

        def work(first: int, last: int) -> None:
            d_maps = np.zeros((2, rows, states), np.float32)
            own = (du, ddelta, self.dA, d_maps[0], d_maps[1], self.dD)
            scan_backward(inputs, saved, dy, own, self.carried, y, (first, last), d.reverse)
            step_sizes_backward(low_rank, d.dt_weight, d.dt_bias, ddelta, self.dt_bias, (first, last))
            parts[first] = d_maps

        d.share_channels(work)
        # summed in one order, for the same bits
        both = torch.from_numpy(np.sum([parts[first] for first in sorted(parts)], axis=0))
        rank = d.dt_weight.shape[0]
        self.low_rank[:rows, rank : rank + states], self.low_rank[:rows, rank + states :] = both

    def _through_projections(self, u: Tensor) -> None:
        """From `ddelta` and `low_rank` on to `du`, and the gradients of dt_proj and x_proj."""
        d, rows, rank = self.direction, len(u), self.dt_weight.shape[0]
        du, ddelta, gradient, low_rank = self.du[:rows], self.ddelta[:rows], self.low_rank[:rows], d.low_rank[:rows]
        torch.mm(ddelta, torch.from_numpy(d.dt_weight).t(), out=gradient[:, :rank])

        def work(first: int, last: int) -> None:
            span = slice(first, last)
            self.dt_weight[:, span].addmm_(low_rank[:, :rank].t(), ddelta[:, span])
            self.x_proj[:, span].addmm_(gradient.t(), u[:, span])
            du[:, span].addmm_(gradient, d.x_proj.t()[:, span])

        d.share_channels(work)

    def _through_convolution(self, xz: Array, a: int, b: int) -> None:
        """From `du` to dx. The convolution reads back, so its gradient needs rows of the tile that was here before."""
        from kipoi_seq2exp.nn.cpu.backward_kernels import convolve_silu_backward

        d, rows, left = self.direction, b - a, self.left
        buffer = self.d_convolved[: rows + left]
        buffer[slice(0, left) if d.reverse else slice(rows, rows + left)] = self.border
        du, dx = self.du[:rows].numpy(), self.dxz[:rows].numpy()

        def work(first: int, last: int) -> None:
            own = (buffer.numpy(), dx, self.conv_weight, self.conv_bias)
            convolve_silu_backward(xz, d.conv_weight, d.conv_bias, du, own, a, (first, last), d.reverse)

        d.share_channels(work)
        self.border.copy_(buffer[rows:] if d.reverse else buffer[:left])

    def add_to(self, totals: Mapping[str, Tensor]) -> None:
        """Add the gradients to those of the layer, by the names of its parameters."""
        arrays = (self.norm_weight, self.conv_weight, self.conv_bias, self.dt_bias, self.dA, self.dD)
        names = ("norm_weight", "conv_weight", "conv_bias", "dt_bias", "A", "D")
        named = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}
        named |= {name: getattr(self, name) for name in ("in_proj", "out_proj", "x_proj", "dt_weight")}
        add_gradients(self.direction, named, totals)


def add_gradients(direction: Direction, named: Mapping[str, Tensor], totals: Mapping[str, Tensor]) -> None:
    """Add what the walk back of a direction gives to the gradients of the layer, by the names of its parameters."""
    side = "reverse_scan" if direction.reverse else "forward_scan"
    states, rank, N = totals[f"{side}.A_log"].shape[1], direction.dt_weight.shape[0], direction.A2.shape[0]
    used = [*range(rank + states), *range(rank + N, rank + N + states)]  # all but the states that fill up
    shared = {
        "norm.weight": named["norm_weight"].flatten(),
        "in_proj.weight": named["in_proj"],
        "out_proj.weight": named["out_proj"],
    }
    own = {
        "conv_weight": named["conv_weight"].t(),
        "conv_bias": named["conv_bias"][0],
        "x_proj.weight": named["x_proj"][used],
        "dt_proj.weight": named["dt_weight"].t(),
        "dt_proj.bias": named["dt_bias"][0],
        "A_log": (named["A"] * torch.from_numpy(direction.A2) / LOG2_E)[:states].t(),
        "D": named["D"][0],
    }
    for name, gradient in (shared | {f"{side}.{name}": gradient for name, gradient in own.items()}).items():
        totals[name] += gradient


class _LayerBack:
    """The walk back over one layer of one window."""

    def __init__(self, layer: Layer, trace: Trace, space: _Space, threads: int) -> None:
        self.trace, self.space, self.threads, self.shared = trace, space, threads, layer.shared
        self.size = walk.tile_length(layer.d_inner)
        self.both = [_Back(direction, self.shared) for direction in layer.begin(threads)]

    def run(self, rows: slice, totals: Mapping[str, Tensor]) -> None:
        """Turn the gradient of the layer's output at `rows` into that of its input; add those of its weights."""
        length = self.space.residual.shape[0]
        halves = meeting(length, slice(0, length))[0]
        run_both(lambda i: self._project(self.both[i], *halves[i], rows), self.threads)
        visits = [self.trace.tiles(i) for i in (0, 1)]
        counts = [len(tiles(*span, self.size)) for span in meeting(length, rows)[0]]  # visits before the two met
        if rows == slice(0, length):
            run_both(lambda i: self._walk(i, visits[i][counts[i] :], second=False), self.threads)
            run_both(lambda i: self._walk(i, visits[i][: counts[i]], second=True), self.threads)
        else:
            run_both(lambda i: self._walk(i, visits[i][counts[i] :], second=bool(i)), 1)  # one after the other
            run_both(lambda i: self._walk_alone(i, visits[i][: counts[i]]), self.threads)
        for back in self.both:
            back.add_to(totals)

    def _project(self, back: _Back, start: int, stop: int, rows: slice) -> None:
        """Norm and in_proj again; the gradient of what out_proj was multiplied with, at `rows`."""
        for a, b in tiles(start, stop, self.size):
            self._normalise(back, a, b)

            def work(first: int, last: int, a: int = a) -> None:
                here = slice(a + first, a + last)
                torch.mm(back.normed[first:last], self.shared.in_proj, out=self.space.xz[here])
                if a + last > rows.start and a + first < rows.stop:
                    torch.mm(self.space.residual[here], self.shared.out_proj.t(), out=self.space.d_gated[here])

            back.direction.share_rows(b - a, work)

    def _normalise(self, back: _Back, a: int, b: int) -> None:
        from kipoi_seq2exp.nn.cpu.layer_kernels import rms_normalise

        residual, normed = self.trace.residual[a:b].numpy(), back.normed[: b - a].numpy()
        rms_normalise(residual, self.shared.norm_weight, self.shared.norm_eps, normed)

    def _walk(self, i: int, visits: Sequence[tuple[int, int, Array]], *, second: bool) -> None:
        """Visit tiles, last to first, at rows that both directions have read."""
        from kipoi_seq2exp.nn.cpu.backward_kernels import ungate

        back, space = self.both[i], self.space
        for a, b, saved in reversed(visits):
            ungate(space.d_gated.numpy(), space.xz.numpy(), back.dy[: b - a].numpy(), a)
            back.through_direction(space.xz.numpy(), a, b, saved, with_output=True)
            if second:
                self._finish(back, a, b)
            else:
                space.y[a:b], space.dx[a:b] = back.y[: b - a], back.dxz[: b - a, : back.d_inner]

    def _walk_alone(self, i: int, visits: Sequence[tuple[int, int, Array]]) -> None:
        """Visit tiles, last to first, of which only this direction's state was used."""
        back = self.both[i]
        for a, b, saved in reversed(visits):
            back.dy[: b - a] = 0
            back.through_direction(self.space.xz.numpy(), a, b, saved, with_output=False)
            self._through_norm(back, a, b, back.d_inner)

    def _finish(self, back: _Back, a: int, b: int) -> None:
        """Join both directions and go on through gate and out_proj."""
        from kipoi_seq2exp.nn.cpu.backward_kernels import gate_backward

        space, rows = self.space, b - a
        gated, dxz = back.dy[:rows], back.dxz[:rows]  # dy is free by now

        def gate(first: int, last: int) -> None:
            y = back.y[first:last].numpy()
            arrays = (space.y.numpy(), space.dx.numpy(), space.xz.numpy(), space.d_gated.numpy())
            gate_backward(y, arrays, gated[first:last].numpy(), dxz[first:last].numpy(), a + first)

        def out_proj(first: int, last: int) -> None:
            back.out_proj[:, first:last].addmm_(space.residual[a:b].t(), gated[:, first:last])

        back.direction.share_rows(rows, gate)
        back.direction.share_channels(out_proj)
        self._through_norm(back, a, b, 2 * back.d_inner)

    def _through_norm(self, back: _Back, a: int, b: int, width: int) -> None:
        """From `width` columns of `dxz` through in_proj and the norm to the residual."""
        from kipoi_seq2exp.nn.cpu.backward_kernels import rms_normalise_backward

        dxz, in_proj = back.dxz[: b - a, :width], self.shared.in_proj.t()[:width]
        self._normalise(back, a, b)
        normed = back.normed[: b - a]

        def weight(first: int, last: int) -> None:
            back.in_proj[first:last].addmm_(dxz[:, first:last].t(), normed)

        def gradient(first: int, last: int) -> None:
            torch.mm(dxz[first:last], in_proj, out=normed[first:last])

        back.direction.share_channels(weight, width)
        back.direction.share_rows(b - a, gradient)
        shared, x, total = self.shared, self.trace.residual[a:b].numpy(), self.space.residual[a:b].numpy()
        rms_normalise_backward(x, shared.norm_weight, shared.norm_eps, normed.numpy(), back.norm_weight, total)
