"""Narrow networks on the CPU: the walks of `forward` and `backward`, each range of a window in one compiled call.

At a d_model of 16 or 32 the steps of a tile are so small that a walk in Python spends most of its time between them,
and products of matrices are too small for MKL to be quick. See `narrow_kernels`; d_inner below `tiles.SHARED_WIDTH`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kipoi_seq2exp.nn.cpu.scan import empty
from kipoi_seq2exp.nn.cpu.tiles import Array, Layer, meeting, run_both

Pair = tuple[Tensor, Tensor]


def _chunks(span: tuple[int, int]) -> int:
    from kipoi_seq2exp.nn.cpu.scan_kernels import CHUNK

    return -(-(span[1] - span[0]) // CHUNK)


def _room(layer: Layer, narrow: int, wide: int) -> Array:
    """Make the working space of one worker: so many matrices of a tile's rows, of D, and of d_inner columns.

    Two of those of B and C and one of the step sizes come to each of D.
    """
    from kipoi_seq2exp.nn.cpu.narrow_kernels import STEP

    assert layer.packed is not None  # for the type checker
    _, d_inner = layer.packed.shared[2].shape
    halo = layer.packed.own[0][0].shape[0] - 1
    d_model, low, states = layer.packed.shared[0].shape[1], layer.packed.own[0][2].shape[1], len(layer.packed.own[0][7])
    return empty((STEP + halo) * (narrow * (d_model + low + 2 * states) + wide * d_inner)).numpy()


class NarrowWalk:
    """One window's residual stream through narrow layers, and what the two workers share.

    Parameters
    ----------
    residual : Tensor, (L, D)
        Each layer's output is added to it.
    layer : Layer
        Any: all have the same widths.
    threads : int
    """

    def __init__(self, residual: Tensor, layer: Layer, threads: int) -> None:
        self.residual, self.threads = residual.numpy(), threads
        self.y = empty(len(residual), layer.d_inner).numpy()  # the scan of the worker that came first
        self.rooms = [_room(layer, 1, 5) for _ in range(2)]

    def run(self, layer: Layer, rows: slice, *, keep: bool) -> Pair:
        """Add a layer to the residual at `rows`; return each direction's states before each chunk, to `keep`.

        Returns
        -------
        pair of Tensor, (chunks, N, d_inner)
            Of the rows that a direction reads before it meets the other, then of those after; no chunks unless kept.
        """
        from kipoi_seq2exp.nn.cpu.narrow_kernels import walk_forward

        assert layer.packed is not None  # for the type checker
        shared, own = layer.packed.shared, layer.packed.own
        outer, inner = meeting(len(self.residual), rows)
        sizes = layer.directions[0].A2.shape
        counts = [(_chunks(outer[i]), _chunks(inner[i])) if keep else (0, 0) for i in (0, 1)]
        saved = empty(sum(counts[0]), *sizes), empty(sum(counts[1]), *sizes)
        carried = [_zeros(len(own[i][0]) - 1, sizes) for i in (0, 1)]

        def walk(i: int, span: tuple[int, int], states: Tensor, *, second: bool) -> None:
            arrays = (self.residual, self.y, states.numpy(), shared, own[i], carried[i], self.rooms[i])
            walk_forward(*arrays, span, bool(i), second)

        run_both(lambda i: walk(i, outer[i], saved[i][: counts[i][0]], second=False), self.threads)
        whole = rows == slice(0, len(self.residual))
        # of wanted rows both read the same, one after the other
        run_both(
            lambda i: walk(i, inner[i], saved[i][counts[i][0] :], second=whole or bool(i)), self.threads if whole else 1
        )
        return saved


def _zeros(left: int, sizes: Sequence[int]) -> tuple[Array, Array]:
    """Make what a direction carries at the window's end: its state and the rows beside a tile."""
    return torch.zeros(*sizes).numpy(), torch.zeros(left, sizes[1]).numpy()


class NarrowWalkBack:
    """The walk back of one window through narrow layers.

    Parameters
    ----------
    d_residual : Tensor, (L, D)
        The gradient of a layer's output, which becomes that of its input.
    layer : Layer
        Any: all have the same widths.
    threads : int
    """

    def __init__(self, d_residual: Tensor, layer: Layer, threads: int) -> None:
        self.d_residual, self.threads = d_residual.numpy(), threads
        self.left = [empty(len(d_residual), layer.d_inner).numpy() for _ in range(2)]  # y and dx of the first visitor
        self.rooms = [_room(layer, 2, 12) for _ in range(2)]

    def run(self, layer: Layer, residual: Tensor, states: Pair, rows: slice, gradients: Tensor) -> None:
        """Go back through a layer.

        Parameters
        ----------
        layer : Layer
        residual : Tensor, (L, D)
            The layer's input.
        states : pair of Tensor, (chunks, N, d_inner)
            As `NarrowWalk.run` returned them.
        rows : slice
            Rows of the output that were wanted.
        gradients : Tensor, (2, `gradient_numbers`)
            Those of the weights, a row each direction: added to.
        """
        from kipoi_seq2exp.nn.cpu.narrow_backward_kernels import ALONE, FIRST, SECOND, walk_back

        assert layer.packed is not None  # for the type checker
        shared, own, length = layer.packed.shared, layer.packed.own, len(residual)
        outer, inner = meeting(length, rows)
        carried = [_zeros(len(own[i][0]) - 1, layer.directions[0].A2.shape) for i in (0, 1)]
        arrays = (residual.numpy(), self.d_residual, *self.left)
        numbers, counts = gradients.numpy(), [_chunks(span) for span in outer]
        saved = [(states[i][: counts[i]].numpy(), states[i][counts[i] :].numpy()) for i in (0, 1)]

        def walk(i: int, span: tuple[int, int], kept: Array, visit: int) -> None:
            walk_back(arrays, kept, shared, own[i], numbers[i], carried[i], self.rooms[i], span, bool(i), visit)

        if rows == slice(0, length):
            run_both(lambda i: walk(i, inner[i], saved[i][1], FIRST), self.threads)
            run_both(lambda i: walk(i, outer[i], saved[i][0], SECOND), self.threads)
        else:
            run_both(lambda i: walk(i, inner[i], saved[i][1], (FIRST, SECOND)[i]), 1)  # one after the other
            run_both(lambda i: walk(i, outer[i], saved[i][0], ALONE), self.threads)


def gradient_numbers(layer: Layer) -> int:
    """Count the gradients of a direction's weights, and of the shared ones."""
    return sum(rows * columns for rows, columns in _gradient_shapes(layer).values())


def _gradient_shapes(layer: Layer) -> dict[str, tuple[int, int]]:
    d = layer.directions[0]
    (states, d_inner), d_model, rank = d.A2.shape, len(layer.shared.norm_weight), d.dt_weight.shape[0]
    return {
        "norm_weight": (1, d_model),
        "in_proj": (2 * d_inner, d_model),
        "out_proj": (d_model, d_inner),
        "conv_weight": (len(d.conv_weight), d_inner),
        "conv_bias": (1, d_inner),
        "x_proj": (rank + 2 * states, d_inner),
        "dt_weight": (rank, d_inner),
        "dt_bias": (1, d_inner),
        "A": (states, d_inner),
        "D": (1, d_inner),
    }


def named_gradients(layer: Layer, gradients: Array) -> list[dict[str, Tensor]]:
    """Cut the gradients of both directions, (2, `gradient_numbers`), by the names of `backward.add_gradients`."""
    shapes, found = _gradient_shapes(layer), []
    edges = np.cumsum([rows * columns for rows, columns in shapes.values()])[:-1]
    for row in gradients:
        parts = zip(shapes.items(), np.split(row, edges), strict=True)
        found.append({name: torch.from_numpy(part.reshape(shape)) for (name, shape), part in parts})
    return found
