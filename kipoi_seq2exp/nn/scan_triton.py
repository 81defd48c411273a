"""The scan in Triton, forward and backward, for CUDA tensors (imported on first use, by `scan_cuda` alone).

It was tested in Triton's interpreter on CPUs; it was not run on a GPU when this version was made (benchmarks/gpu.md).

Layout. Arrays are channel-last. The window is cut in chunks of `CHUNK` positions; one program holds one chunk of
`CHANNELS` channels and all states, a block (CHUNK, CHANNELS, N), and never writes it. A batch of one window gives
thousands of programs, which a walk along the window channel by channel would not. Three steps, each one kernel:

    summaries   the state that a chunk would leave behind if it began with none
    carry       a scan over the chunks' summaries: the state before each chunk; these L / CHUNK states are kept
    outputs     an associative scan in each chunk from the state before it

The backward is the same from the other end: with g_t = dL/dh_t the recurrence is g_t = dy_t C_t + decay_(t+1) g_(t+1),
so the adjoints have summaries and a carry too, and `gradients` forms all six gradients of a chunk from its states,
computed again, and its adjoints. Sums over channels (dB, dC) stay in one program, sums over chunks (dA, dD) are added
by torch: no atomics, so the same inputs give the same bits.

The state is float32. d_state and d_inner may be any number; i counts positions in reading order, t in the window.
"""
# mypy: ignore-errors

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 64  # positions of one block
CHANNELS = 8  # channels of one block: 32 bytes side by side
WARPS = 8


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool) -> Tensor:
    """Run the scan (shapes as in `scan.selective_scan`), differentiably; float32 inside, the type of `u` outside."""
    inputs = [tensor.float().contiguous() for tensor in (u, delta, A, B, C, D)]
    y: Tensor = _Scan.apply(*inputs, reverse)
    return y.to(u.dtype)


class _Scan(torch.autograd.Function):
    """Joins the kernels; keeps the inputs and the state before each chunk."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool
    ) -> Tensor:
        shape = _Shape(u, A, reverse)
        elapsed, left = shape.sums(), shape.states()
        _summaries[shape.per_chunk](u, delta, A, B, elapsed, left, *shape.numbers, **shape.constants)
        before = shape.carry(elapsed, left, A, backward=False)
        y = torch.empty_like(u)
        _outputs[shape.per_chunk](u, delta, A, B, C, D, before, y, *shape.numbers, **shape.constants)
        ctx.save_for_backward(u, delta, A, B, C, D, elapsed, before)
        ctx.reverse = reverse
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        u, delta, A, B, C, D, elapsed, before = ctx.saved_tensors
        shape = _Shape(u, A, ctx.reverse)
        dy = dy.contiguous()
        left = shape.states()
        _adjoint_summaries[shape.per_chunk](delta, dy, A, C, left, *shape.numbers, **shape.constants)
        after = shape.carry(elapsed, left, A, backward=True)
        du, ddelta, dB, dC = (torch.empty_like(tensor) for tensor in (u, delta, B, C))
        dA, dD = shape.states(), shape.sums()
        arrays = (u, delta, A, B, C, D, before, after, dy, du, ddelta, dA, dB, dC, dD)
        _gradients[(shape.chunks, shape.batch)](*arrays, *shape.numbers, **shape.constants)
        return du, ddelta, dA.sum((0, 1)), dB, dC, dD.sum((0, 1)), None


class _Shape:
    """Sizes and launch grids of one scan."""

    def __init__(self, u: Tensor, A: Tensor, reverse: bool) -> None:
        self.device = u.device
        self.batch, self.length, self.channels = u.shape
        self.n = A.shape[1]
        self.chunks = triton.cdiv(self.length, CHUNK)
        self.blocks = triton.cdiv(self.channels, CHANNELS)
        self.per_chunk = (self.chunks, self.blocks, self.batch)
        self.numbers = (self.length, self.channels, self.n, self.chunks)
        self.sizes = {"T": CHUNK, "W": CHANNELS, "S": triton.next_power_of_2(self.n), "num_warps": WARPS}
        self.constants = {**self.sizes, "REVERSE": reverse}

    def sums(self) -> Tensor:
        """Make an array of one number a chunk and channel."""
        return torch.empty(self.batch, self.chunks, self.channels, device=self.device)

    def states(self) -> Tensor:
        """Make an array of one state a chunk and channel."""
        return torch.empty(self.batch, self.chunks, self.channels, self.n, device=self.device)

    def carry(self, elapsed: Tensor, left: Tensor, A: Tensor, *, backward: bool) -> Tensor:
        """Return what comes into each chunk, given what each leaves behind on its own."""
        incoming = self.states()
        grid = (self.blocks, self.batch)
        _carry[grid](elapsed, left, A, incoming, *self.numbers[1:], **self.sizes, BACKWARD=backward)
        return incoming


@triton.jit
def _append(decay_1, input_1, decay_2, input_2):
    """Join two stretches of h -> decay * h + input, the second one later."""
    return decay_1 * decay_2, input_1 * decay_2 + input_2


@triton.jit
def _positions(chunk, L, T: tl.constexpr, REVERSE: tl.constexpr):
    """Positions t (T,) of a chunk in reading order, and whether they lie in the window."""
    i = chunk * T + tl.arange(0, T)
    t = L - 1 - i if REVERSE else i
    return t.to(tl.int64), i < L


@triton.jit
def _rows(pointer, b, t, valid, columns, column, L):
    """Read rows t of (B, L, columns) at `column` (a vector); zero beyond the window and the last column."""
    place = (b * L + t)[:, None] * columns + column[None, :]
    return tl.load(pointer + place, mask=valid[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
def _write_rows(pointer, value, b, t, valid, columns, column, L):
    place = (b * L + t)[:, None] * columns + column[None, :]
    tl.store(pointer + place, value, mask=valid[:, None] & (column < columns)[None, :])


@triton.jit
def _state_places(first, c, n, D, N):
    """Offsets (W, S) of one state of (..., D, N) whose first number lies at `first`, and which of them exist."""
    return first + c[:, None] * N + n[None, :], (c < D)[:, None] & (n < N)[None, :]


@triton.jit
def _read_state(pointer, first, c, n, D, N):
    place, exists = _state_places(first, c, n, D, N)
    return tl.load(pointer + place, mask=exists, other=0.0)


@triton.jit
def _summaries(
    u, delta, A, B, elapsed, left, L, D, N, chunks,
    T: tl.constexpr, W: tl.constexpr, S: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Write the sum of step sizes of each chunk, and the state that it leaves behind when it begins with none."""
    chunk, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c, n = tl.program_id(1) * W + tl.arange(0, W), tl.arange(0, S)
    t, valid = _positions(chunk, L, T, REVERSE)
    step = _rows(delta, b, t, valid, D, c, L)
    drive = step * _rows(u, b, t, valid, D, c, L)
    total = tl.sum(step, axis=0)
    remaining = total[None, :] - tl.cumsum(step, axis=0)
    rates = _read_state(A, 0, c, n, D, N)
    inputs = drive[:, :, None] * _rows(B, b, t, valid, N, n, L)[:, None, :]
    state = tl.sum(tl.exp(remaining[:, :, None] * rates[None, :, :]) * inputs, axis=0)
    row = (b * chunks + chunk) * D
    tl.store(elapsed + row + c, total, mask=c < D)
    place, exists = _state_places(row * N, c, n, D, N)
    tl.store(left + place, state, mask=exists)


@triton.jit
def _adjoint_summaries(
    delta, dy, A, C, left, L, D, N, chunks,
    T: tl.constexpr, W: tl.constexpr, S: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Write the adjoint of the state before each chunk when the chunks after it add nothing."""
    chunk, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c, n = tl.program_id(1) * W + tl.arange(0, W), tl.arange(0, S)
    t, valid = _positions(chunk, L, T, REVERSE)
    so_far = tl.cumsum(_rows(delta, b, t, valid, D, c, L), axis=0)
    rates = _read_state(A, 0, c, n, D, N)
    inputs = _rows(dy, b, t, valid, D, c, L)[:, :, None] * _rows(C, b, t, valid, N, n, L)[:, None, :]
    state = tl.sum(tl.exp(so_far[:, :, None] * rates[None, :, :]) * inputs, axis=0)
    place, exists = _state_places((b * chunks + chunk) * D * N, c, n, D, N)
    tl.store(left + place, state, mask=exists)


@triton.jit
def _carry(
    elapsed, left, A, incoming, D, N, chunks,
    T: tl.constexpr, W: tl.constexpr, S: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Scan over the chunks, `T` of them at a time: write what comes into each from all before (or after) it."""
    b = tl.program_id(1).to(tl.int64)
    c, n = tl.program_id(0) * W + tl.arange(0, W), tl.arange(0, S)
    rates = _read_state(A, 0, c, n, D, N)
    carried = tl.zeros((W, S), tl.float32)
    exists = ((c < D)[:, None] & (n < N)[None, :])[None, :, :]
    inside = (c[:, None] * N + n[None, :])[None, :, :]
    for first in range(0, chunks, T):
        i = first + tl.arange(0, T)
        row = (b * chunks + (chunks - 1 - i if BACKWARD else i)) * D
        passed = tl.load(elapsed + row[:, None] + c[None, :], mask=(i < chunks)[:, None] & (c < D)[None, :], other=0.0)
        places = (row * N)[:, None, None] + inside
        present = (i < chunks)[:, None, None] & exists
        inputs = tl.load(left + places, mask=present, other=0.0)
        decay = tl.exp(passed[:, :, None] * rates[None, :, :])
        decays, states = tl.associative_scan((decay, inputs), 0, _append)
        states += decays * carried[None, :, :]
        begins = (i == first)[:, None, None]
        tl.store(incoming + places, tl.broadcast_to(carried[None, :, :], (T, W, S)), mask=present & begins)
        following = (i + 1 < chunks)[:, None, None] & (i + 1 < first + T)[:, None, None] & exists
        step = -D * N if BACKWARD else D * N
        tl.store(incoming + places + step, states, mask=following)
        carried = tl.sum(tl.where((i == first + T - 1)[:, None, None], states, 0.0), axis=0)


@triton.jit
def _chunk_states(step, rates, before, inputs):
    """States (T, W, S) after each position of a chunk, from the state `before` it."""
    decay = tl.exp(step[:, :, None] * rates[None, :, :])
    decays, states = tl.associative_scan((decay, inputs), 0, _append)
    return states + decays * before[None, :, :]


@triton.jit
def _outputs(
    u, delta, A, B, C, D_, before, y, L, D, N, chunks,
    T: tl.constexpr, W: tl.constexpr, S: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Write y of a chunk."""
    chunk, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c, n = tl.program_id(1) * W + tl.arange(0, W), tl.arange(0, S)
    t, valid = _positions(chunk, L, T, REVERSE)
    x, step = _rows(u, b, t, valid, D, c, L), _rows(delta, b, t, valid, D, c, L)
    inputs = (step * x)[:, :, None] * _rows(B, b, t, valid, N, n, L)[:, None, :]
    rates = _read_state(A, 0, c, n, D, N)
    start = _read_state(before, (b * chunks + chunk) * D * N, c, n, D, N)
    states = _chunk_states(step, rates, start, inputs)
    direct = tl.load(D_ + c, mask=c < D, other=0.0)
    total = tl.sum(states * _rows(C, b, t, valid, N, n, L)[:, None, :], axis=2) + direct[None, :] * x
    _write_rows(y, total, b, t, valid, D, c, L)


@triton.jit
def _gradients(
    u, delta, A, B, C, D_, before, after, dy, du, ddelta, dA, dB, dC, dD, L, D, N, chunks,
    T: tl.constexpr, W: tl.constexpr, S: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Write all gradients of a chunk, channel block by channel block; dA and dD are this chunk's share."""
    chunk, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    n = tl.arange(0, S)
    t, valid = _positions(chunk, L, T, REVERSE)
    i = chunk * T + tl.arange(0, T)
    following = t - 1 if REVERSE else t + 1
    has_following = (i + 1 < L) & (i + 1 < (chunk + 1) * T)
    B_t, C_t = _rows(B, b, t, valid, N, n, L), _rows(C, b, t, valid, N, n, L)
    sum_dB, sum_dC = tl.zeros((T, S), tl.float32), tl.zeros((T, S), tl.float32)
    for first in range(0, D, W):
        c = first + tl.arange(0, W)
        x, step, grad = (
            _rows(u, b, t, valid, D, c, L),
            _rows(delta, b, t, valid, D, c, L),
            _rows(dy, b, t, valid, D, c, L),
        )
        next_step = _rows(delta, b, following, has_following, D, c, L)
        row = (b * chunks + chunk) * D
        rates = _read_state(A, 0, c, n, D, N)
        drive = step * x
        inputs = drive[:, :, None] * B_t[:, None, :]
        states = _chunk_states(step, rates, _read_state(before, row * N, c, n, D, N), inputs)
        next_decay = tl.exp(next_step[:, :, None] * rates[None, :, :])  # 1 for the last: `after` holds its own decay
        decays, adjoints = tl.associative_scan(
            (next_decay, grad[:, :, None] * C_t[:, None, :]), 0, _append, reverse=True
        )
        adjoints += decays * _read_state(after, row * N, c, n, D, N)[None, :, :]
        sum_dC += tl.sum(grad[:, :, None] * states, axis=1)
        sum_dB += tl.sum(adjoints * drive[:, :, None], axis=1)
        d_drive = tl.sum(adjoints * B_t[:, None, :], axis=2)
        d_exponent = adjoints * (states - inputs)  # adjoint x decay x state before
        direct = tl.load(D_ + c, mask=c < D, other=0.0)
        _write_rows(du, d_drive * step + grad * direct[None, :], b, t, valid, D, c, L)
        d_step = d_drive * x + tl.sum(d_exponent * rates[None, :, :], axis=2)
        _write_rows(ddelta, d_step, b, t, valid, D, c, L)
        place, exists = _state_places(row * N, c, n, D, N)
        tl.store(dA + place, tl.sum(d_exponent * step[:, :, None], axis=0), mask=exists)
        tl.store(dD + row + c, tl.sum(grad * x, axis=0), mask=c < D)
    _write_rows(dB, sum_dB, b, t, valid, N, n, L)
    _write_rows(dC, sum_dC, b, t, valid, N, n, L)
