"""What the forward and the backward pass over a window share: workers, tiles, weights.

Two workers go through a window in tiles of `tile_length` positions, one worker for each direction. With more than two
threads each worker has helpers, which share the rows of a tile and the channels of its scan. The windows of a batch of
short ones go to one thread each instead, so that no thread waits for another.

How a product of matrices rounds depends on its size. So tiles, and their parts where helpers may share them, are cut by
the network's width alone: the same bits for any number of threads.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kipoi_seq2exp.nn.cpu.scan import LOG2_E, STATES, WIDTH, channel_ranges, empty, run_parallel, run_queue

TILE = 768  # positions, at least
TILE_NUMBERS = 2**17  # positions x d_inner of a tile of a narrow network: what Python costs a tile counts for less
PARTS, SHARED_WIDTH = 4, 128  # of a tile that helpers may share, of networks of that d_inner or more
SHORT = 2**22  # positions x d_inner of windows that lie side by side in memory, one a thread
Array = NDArray[np.float32]
_turn = threading.RLock()  # one window at a time uses all threads, and torch's number of threads is the process's
os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_turn.release)


@contextmanager
def all_threads() -> Iterator[int]:
    """Take the process's threads, and give their number; torch uses one for each call meanwhile."""
    with _turn:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # each of our workers calls torch for one tile at a time
        try:
            yield threads
        finally:
            torch.set_num_threads(threads)


def run_windows(work: Callable[[int, int], None], windows: int, numbers: int) -> None:
    """Run work(window, threads): short windows side by side, one a thread, others one by one on all threads.

    Parameters
    ----------
    work : callable
        Takes a window's index, and how many threads it may use.
    windows : int
        Number of windows.
    numbers : int
        Positions x d_inner of a window.
    """
    with all_threads() as threads:
        if threads > 1 and windows >= threads and numbers <= SHORT:
            run_queue([functools.partial(_without_gradients, work, i, 1) for i in range(windows)], threads, "window")
        else:
            for i in range(windows):
                work(i, threads)


def run_both(work: Callable[[int], None], threads: int) -> None:
    """Run work(0) and work(1), the two directions, side by side where there are threads."""
    tasks = [functools.partial(_in_inference_mode, work, i) for i in (0, 1)]
    if threads > 1:
        run_parallel(tasks, "worker")
    else:
        for task in tasks:
            task()


def _without_gradients(work: Callable[..., None], *arguments: int) -> None:
    with torch.no_grad():  # belongs to a thread
        work(*arguments)


def _in_inference_mode(work: Callable[..., None], *arguments: int) -> None:
    with torch.inference_mode():  # belongs to a thread
        work(*arguments)


def tile_length(d_inner: int) -> int:
    """Return the number of positions of a tile."""
    return max(TILE, TILE_NUMBERS // d_inner)


def tiles(start: int, stop: int, size: int, reverse: bool = False) -> list[tuple[int, int]]:
    """Cut [start, stop) in tiles of that many positions, in the order in which a direction reads."""
    found = [(first, min(first + size, stop)) for first in range(start, stop, size)]
    return found[::-1] if reverse else found


def meeting(length: int, rows: slice) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return what each direction reads before and after it meets the other: two pairs of ranges.

    All rows wanted: they meet in the middle, then each reads what the other has read. Else each reads up to the wanted
    rows, then both read these.
    """
    if rows == slice(0, length):
        halves = [(0, length // 2), (length // 2, length)]
        return halves, halves[::-1]
    return [(0, rows.start), (rows.stop, length)], [(rows.start, rows.stop)] * 2


@dataclass(frozen=True)
class Projections:
    """What both directions of a layer share: norm, in_proj and out_proj."""

    norm_weight: Array  # (D,)
    norm_eps: np.float32
    in_proj: Tensor  # (D, 2 d_inner), in the type of the products
    out_proj: Tensor  # (d_inner, D)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], eps: float, product_type: torch.dtype) -> Projections:
        """Take the parameters of a `mamba.BiMambaLayer`, by name."""
        in_proj, out_proj = (
            weights[f"{name}.weight"].detach().t().to(product_type) for name in ("in_proj", "out_proj")
        )
        return cls(weights["norm.weight"].detach().numpy(), np.float32(eps), in_proj, out_proj)


@dataclass(frozen=True)
class Direction:
    """One direction of a layer: its parameters in the kernels' layout, its worker's helpers, its buffers of one tile.

    `of` has the parameters alone, `begin` adds all else. The states are filled up to a multiple of 4, N, by some that
    stay 0.
    """

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
    u: Tensor  # (tile_length, d_inner)
    delta: Tensor
    low_rank: Tensor  # (tile_length, dt_rank + 2 N)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], *, reverse: bool) -> Direction:
        """Take the parameters of a `mamba.BiMambaLayer`, by name."""
        side = "reverse_scan" if reverse else "forward_scan"

        def own(name: str) -> Tensor:
            return weights[f"{side}.{name}"].detach()

        def array(tensor: Tensor) -> Array:
            return tensor.contiguous().numpy()

        rank, states = own("dt_proj.weight").shape[1], own("A_log").shape[1]
        missing = -states % STATES
        x_proj, A2 = own("x_proj.weight"), -torch.exp(own("A_log").t()) * LOG2_E
        if missing:
            low_rank = x_proj.split([rank, states, states])
            x_proj = torch.cat([low_rank[0], *(functional.pad(part, (0, 0, 0, missing)) for part in low_rank[1:])])
            A2 = functional.pad(A2, (0, 0, 0, missing))
        d_inner = A2.shape[1]
        return cls(
            reverse,
            1,
            array(own("conv_weight").t()),
            array(own("conv_bias")[None]),
            x_proj.t().contiguous(),
            array(own("dt_proj.weight").t()),
            array(own("dt_proj.bias")[None]),
            array(A2),
            array(own("D")[None]),
            np.empty((0, 0), np.float32),
            *(empty(0, width) for width in (d_inner, d_inner, x_proj.shape[1])),
        )

    def begin(self, threads: int) -> Direction:
        """Start before the window, with buffers of its own and that many threads for both directions."""
        size, (states, d_inner) = tile_length(self.A2.shape[1]), self.A2.shape
        return dataclasses.replace(
            self,
            helpers=max(1, threads // 2),
            state=torch.zeros(states, d_inner).numpy(),  # torch's arrays begin at 64 bytes, NumPy's anywhere
            u=empty(size, d_inner),
            delta=empty(size, d_inner),
            low_rank=empty(size, self.x_proj.shape[1]),
        )

    def prepare(self, x: Array, a: int, b: int) -> tuple[Array, ...]:
        """Convolve rows a to b and project them: the inputs of the scan, u, delta, A2, B, C and D."""
        from kipoi_seq2exp.nn.cpu.layer_kernels import convolve_silu, step_sizes

        u, delta, low_rank = (buffer[: b - a] for buffer in (self.u, self.delta, self.low_rank))

        def work(first: int, last: int) -> None:
            rows = slice(first, last)
            convolve_silu(x, self.conv_weight, self.conv_bias, u[rows].numpy(), a + first, self.reverse)
            torch.mm(u[rows], self.x_proj, out=low_rank[rows])
            step_sizes(low_rank[rows].numpy(), self.dt_weight, self.dt_bias, delta[rows].numpy())

        self.share_rows(b - a, work)
        rank, states = self.dt_weight.shape[0], self.A2.shape[0]
        B, C = (low_rank[:, i : i + states].contiguous().numpy() for i in (rank, rank + states))
        return u.numpy(), delta.numpy(), self.A2, B, C, self.D

    def share_rows(self, rows: int, work: Callable[[int, int], None]) -> None:
        """Run work(first, last) over [0, rows), in parts."""
        edges = [rows * i // self._parts for i in range(self._parts + 1)]
        self._share(work, [(a, b) for a, b in itertools.pairwise(edges) if a < b])

    def share_channels(self, work: Callable[[int, int], None], channels: int | None = None) -> None:
        """Run work(first, last) over all channels (default: d_inner), in parts of whole vectors."""
        self._share(work, channel_ranges(channels or self.A2.shape[1], self._parts))

    @property
    def _parts(self) -> int:
        return PARTS if self.A2.shape[1] >= SHARED_WIDTH else 1

    def _share(self, work: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
        if self.helpers == 1:
            for part in parts:
                work(*part)
            return
        name = "reverse-helper" if self.reverse else "forward-helper"
        run_queue([functools.partial(_in_inference_mode, work, *part) for part in parts], self.helpers, name)


@dataclass(frozen=True)
class Packed:
    """The parameters of a narrow layer as `narrow_kernels` reads them: matrices, each in one piece.

    Attributes
    ----------
    shared : tuple
        norm (1, D), its epsilon, in_proj's half of x and that of z (D, d_inner), out_proj (d_inner, D); for the way
        back in_proj (D, 2 d_inner) and its transpose, and the transpose of out_proj.
    own : pair of tuples
        Of a direction: convolution (d_conv, d_inner), its bias (1, d_inner), x_proj's columns of the step sizes, filled
        up to a multiple of 16, those of B and of C (d_inner, N), dt_proj (rank, d_inner), its bias, A2 (N, d_inner) and
        D (1, d_inner); for the way back the transposes of dt_proj, filled up, and of x_proj.
    """

    shared: tuple[Any, ...]
    own: tuple[tuple[Array, ...], tuple[Array, ...]]

    @classmethod
    def of(cls, shared: Projections, directions: tuple[Direction, Direction]) -> Packed | None:
        """Return None for a layer that is wide, has broken vectors, or products in another type than float32."""
        states, d_inner = directions[0].A2.shape
        d_model = len(shared.norm_weight)
        whole = d_model % WIDTH == 0 and states % WIDTH == 0
        if not whole or d_inner >= SHARED_WIDTH or shared.in_proj.dtype != torch.float32:
            return None

        def matrix(tensor: Tensor) -> Array:
            return tensor.clone(memory_format=torch.contiguous_format).numpy()  # torch's begin at 64 bytes

        in_proj, out_proj = shared.in_proj, shared.out_proj
        forward = (in_proj[:, :d_inner], in_proj[:, d_inner:], out_proj)
        back = (in_proj, in_proj.t(), out_proj.t())
        norm = matrix(torch.from_numpy(shared.norm_weight)[None])

        def own(direction: Direction) -> tuple[Array, ...]:
            rank = direction.dt_weight.shape[0]
            to_dt, to_B, to_C = direction.x_proj.split([rank, states, states], dim=1)
            dt_weight, missing = torch.from_numpy(direction.dt_weight), -rank % WIDTH
            return (
                *(direction.conv_weight, direction.conv_bias),
                *map(matrix, (functional.pad(to_dt, (0, missing)), to_B, to_C)),
                *(direction.dt_weight, direction.dt_bias, direction.A2, direction.D),
                *map(matrix, (functional.pad(dt_weight, (0, 0, 0, missing)).t(), direction.x_proj.t())),
            )

        return cls((norm, shared.norm_eps, *map(matrix, (*forward, *back))), (own(directions[0]), own(directions[1])))


@dataclass(frozen=True)
class Layer:
    """The parameters of a `mamba.BiMambaLayer` in the kernels' layout, for all windows of a batch."""

    shared: Projections
    directions: tuple[Direction, Direction]
    packed: Packed | None  # of a narrow layer

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], eps: float, product_type: torch.dtype = torch.float32) -> Layer:
        """Take the parameters by name, and the type of the products with in_proj and out_proj."""
        directions = Direction.of(weights, reverse=False), Direction.of(weights, reverse=True)
        shared = Projections.of(weights, eps, product_type)
        return cls(shared, directions, Packed.of(shared, directions))

    @property
    def d_inner(self) -> int:
        """Channels inside the mixer."""
        d_inner: int = self.directions[0].A2.shape[1]
        return d_inner

    def begin(self, threads: int) -> list[Direction]:
        """Start both directions before a window."""
        return [direction.begin(threads) for direction in self.directions]
