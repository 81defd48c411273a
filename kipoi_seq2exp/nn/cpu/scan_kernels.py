"""The kernels of the scan on the CPU, forward and backward (numba; imported on first use).

Layout. Arrays are channel-last, so 16 neighbouring channels are 16 neighbouring numbers: one `Lanes` (see `simd`). A
kernel call owns a range of channels and walks along the window for 16 of them at a time, with their N states in an
array that stays in the first-level cache; B and C of a position are single numbers, repeated in every lane. So there is
no sum across lanes, no transposition, and every exponential is one of 16. The reverse direction is the same walk from
the other end. Decay rates come multiplied by log2(e), so that the exponential is a power of two.

Backward. Keeping all states would take L x d_inner x N numbers. The forward keeps the states before every `CHUNK`
positions; the backward takes the chunks last to first and does each twice: it recomputes the chunk's states and
decays into scratch, then walks them back. For 16 channels it takes 4 states at a time, a `Block`: what is carried from
position to position then stays in registers. States come before channels, so that what is a sum over channels (the
gradients of B and C), gathered lane by lane and added across once, stays in the first-level cache; what is a sum over
states (those of u and delta) is gathered in rows that are read once for 4 states. The chunk's inputs lie in these rows
too, side by side: in the window they are d_inner numbers apart, and lines at such distances push each other out.

    scratch        rows of 16    holds
    LANES_C, _B    4 x 32        per position: the gradients of C and B of 4 states, of all channels so far
    DECAYS         4 x 32        exp2(delta A2) of 4 states and 16 channels
    STATES_BEFORE  4 x 33        the states before each position; the last rows those after the chunk
    ROWS           6 x 32 x      per position of 16 channels: delta, delta * u, dy, and the sums over states of what
                   channels/16   reaches delta * u, of what reaches delta, and of y
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
import numpy as np

from kipoi_seq2exp.nn.cpu.kernel_cache import KernelCache
from kipoi_seq2exp.nn.cpu.simd import (
    STATES,
    WIDTH,
    add_states,
    add_sums,
    exp2,
    fill,
    load,
    load_block,
    load_states,
    muladd,
    prefetch,
    repeat,
    spread,
    store,
    store_states,
)

CHUNK = 32
# Where the scratch's parts begin. Addresses that agree modulo 4096 bytes, 64 rows, wait for each other: what is written
# at one position lies away from what the next ones read.
LANES_C, LANES_B, DECAYS, STATES_BEFORE, ROWS = 0, 160, 316, 504, 640
ROW = 6  # of a position and 16 channels
STRETCH = 64  # positions that 16 channels are walked along before the next 16, whose lines are asked for meanwhile


def compiled(function: Callable[..., Any]) -> Callable[..., None]:
    """Compile on first call, without Python's lock; kept on disk between processes where a folder can be written."""
    result: Callable[..., None] = numba.njit(function, nogil=True, error_model="numpy", boundscheck=False)
    with suppress(RuntimeError):  # no writable place for the cache
        result._cache = KernelCache(function)  # type: ignore[attr-defined]  # what numba's `cache=True` sets
    return result


@compiled
def scan_forward(inputs, y, state, saved, channels, reverse):
    """Scan one window for the channels [channels[0], channels[1]), both multiples of 16.

    inputs: u, delta (L, d_inner), A2 (N, d_inner), times log2(e), B, C (L, N), D (1, d_inner); y (L, d_inner), written;
    state (N, d_inner), read and left at its last value; saved (chunks, N, d_inner), written: the states before each
    chunk, or (0, N, d_inner) to keep none.
    """
    u, delta, A2, B, C, D = inputs
    L, N = B.shape
    keep = saved.shape[0] > 0
    for start in range(0, L, STRETCH):
        stop = min(start + STRETCH, L)
        for c in range(channels[0], channels[1], WIDTH):
            direct = load(D, 0, c)
            for i in range(start, stop):
                if keep and i % CHUNK == 0:
                    for n in range(N):
                        store(saved[i // CHUNK], n, c, load(state, n, c))
                t = L - 1 - i if reverse else i
                ahead = t - STRETCH if reverse else t + STRETCH
                prefetch(u, ahead, c)
                prefetch(delta, ahead, c)
                prefetch(y, ahead, c)
                step = load(delta, t, c)
                x = load(u, t, c)
                drive = step * x
                total = direct * x
                for n in range(N):
                    h = muladd(exp2(step * load(A2, n, c)), load(state, n, c), drive * fill(B[t, n]))
                    store(state, n, c, h)
                    total = muladd(h, fill(C[t, n]), total)
                store(y, t, c, total)


@compiled
def scan_backward(inputs, saved, dy, gradients, carried, y, channels, reverse):
    """Gradients of `scan_forward` for one window and a range of channels; N is a multiple of 4.

    inputs, saved: as of the forward; dy (L, d_inner). gradients: du, ddelta (L, d_inner), written, dA (N, d_inner), for
    A itself, dB, dC (L, N) and dD (1, d_inner), added to. carried (N, d_inner): the gradient of the state after the
    window, left at that of the state before it. y (L, d_inner): the scan's result, written again, or (0, d_inner).
    """
    L, N = inputs[3].shape
    scratch = aligned(ROWS + ROW * CHUNK * ((channels[1] - channels[0]) // WIDTH))
    for k in range(DECAYS):
        store(scratch, k, 0, fill(np.float32(0)))
    before = saved.reshape(saved.shape[0] * N, saved.shape[2])
    toward = -1 if reverse else 1
    for chunk in range((L - 1) // CHUNK, -1, -1):
        start = CHUNK * chunk
        walk = (L - 1 - start if reverse else start, toward, min(CHUNK, L - start))
        _begin_chunk(inputs, dy, scratch, gradients, y, walk, channels)
        for n in range(0, N, STATES):
            for c in range(channels[0], channels[1], WIDTH):
                row = ROWS + ROW * CHUNK * ((c - channels[0]) // WIDTH)
                for i in range(STATES):
                    prefetch(before, (chunk - 1) * N + n + i, c)
                h = load_states(before, chunk * N + n, c)
                _recompute(inputs, h, scratch, row, walk, (n, c), y.shape[0] > 0)
                _walk_back(inputs, scratch, row, gradients, carried, walk, (n, c))
            _add_lanes(scratch, gradients, walk, n)
        _end_chunk(inputs, scratch, gradients, y, walk, channels)


@compiled
def aligned(rows):
    """Make an array (rows, 16) that begins at 64 bytes: no vector of it straddles two cache lines."""
    room = np.empty((rows + 1) * WIDTH, np.float32)
    skipped = -room.ctypes.data % (4 * WIDTH) // 4
    return room[skipped : skipped + rows * WIDTH].reshape(rows, WIDTH)


@compiled
def _begin_chunk(inputs, dy, scratch, gradients, y, walk, channels):
    """Copy the channels of a chunk to their rows; start the sums there."""
    u, delta, _, _, _, D = inputs
    du, ddelta = gradients[:2]
    first, toward, size = walk
    nothing = fill(np.float32(0))
    for i in range(size):
        t = first + toward * i
        for c in range(channels[0], channels[1], WIDTH):
            for array in (u, delta, dy):
                prefetch(array, t - toward * CHUNK, c)
            k = ROWS + ROW * (CHUNK * ((c - channels[0]) // WIDTH) + i)
            step, x = load(delta, t, c), load(u, t, c)
            store(scratch, k, 0, step)
            store(scratch, k + 1, 0, step * x)
            store(scratch, k + 2, 0, load(dy, t, c))
            store(scratch, k + 3, 0, nothing)
            store(scratch, k + 4, 0, nothing)
            prefetch(du, t, c)
            prefetch(ddelta, t, c)
            if y.shape[0] > 0:
                prefetch(y, t, c)
                store(scratch, k + 5, 0, load(D, 0, c) * x)


@compiled
def _recompute(inputs, h, scratch, row, walk, place, with_output):
    """Fill decays and states of 4 states of 16 channels, from their states before the chunk; add to the output."""
    _, _, A2, B, C, _ = inputs
    first, toward, size = walk
    n, c = place
    rate = load_states(A2, n, c)
    store(scratch, STATES_BEFORE, 0, h)
    for i in range(size):
        k, t = row + ROW * i, first + toward * i
        decay = exp2(repeat(load(scratch, k, 0)) * rate)
        h = muladd(decay, h, repeat(load(scratch, k + 1, 0)) * spread(B, t, n))
        store(scratch, DECAYS + STATES * i, 0, decay)
        store(scratch, STATES_BEFORE + STATES * (i + 1), 0, h)
        if with_output:
            store(scratch, k + 5, 0, load(scratch, k + 5, 0) + add_states(h * spread(C, t, n)))


@compiled
def _walk_back(inputs, scratch, row, gradients, carried, walk, place):
    """Carry the gradient of 4 states of 16 channels from the chunk's end to its start."""
    _, _, A2, B, C, _ = inputs
    first, toward, size = walk
    dA = gradients[2]
    n, c = place
    rate, d_rate, carry = load_states(A2, n, c), load_states(dA, n, c), load_states(carried, n, c)
    h = load_block(scratch, STATES_BEFORE + STATES * size)
    for i in range(size - 1, -1, -1):
        k, t, b = row + ROW * i, first + toward * i, STATES * i
        grad = repeat(load(scratch, k + 2, 0))
        g = muladd(grad, spread(C, t, n), carry)
        drive = repeat(load(scratch, k + 1, 0))
        store(scratch, LANES_C + b, 0, muladd(grad, h, load_block(scratch, LANES_C + b)))
        store(scratch, LANES_B + b, 0, muladd(g, drive, load_block(scratch, LANES_B + b)))
        carry = g * load_block(scratch, DECAYS + b)
        h = load_block(scratch, STATES_BEFORE + b)
        d_exponent = carry * h
        d_rate = muladd(d_exponent, repeat(load(scratch, k, 0)), d_rate)
        store(scratch, k + 3, 0, load(scratch, k + 3, 0) + add_states(g * spread(B, t, n)))
        store(scratch, k + 4, 0, load(scratch, k + 4, 0) + add_states(d_exponent * rate))
    store_states(carried, n, c, carry)
    store_states(dA, n, c, d_rate)


@compiled
def _add_lanes(scratch, gradients, walk, n):
    """Add the gradients of 4 columns of B and C, summed over this call's channels; begin anew."""
    first, toward, size = walk
    nothing = repeat(fill(np.float32(0)))
    for i in range(size):
        add_sums(gradients[3], first + toward * i, n, load_block(scratch, LANES_B + STATES * i))
        add_sums(gradients[4], first + toward * i, n, load_block(scratch, LANES_C + STATES * i))
        store(scratch, LANES_B + STATES * i, 0, nothing)
        store(scratch, LANES_C + STATES * i, 0, nothing)


_LN2 = 0.6931471805599453  # A = ln(2) * A2


@compiled
def _end_chunk(inputs, scratch, gradients, y, walk, channels):
    """Turn the sums over states into the gradients of u, delta and D, and into the output."""
    u, _, _, _, _, D = inputs
    du, ddelta, _, _, _, dD = gradients
    first, toward, size = walk
    for i in range(size):
        t = first + toward * i
        for c in range(channels[0], channels[1], WIDTH):
            k = ROWS + ROW * (CHUNK * ((c - channels[0]) // WIDTH) + i)
            x, grad, d_drive = load(u, t, c), load(scratch, k + 2, 0), load(scratch, k + 3, 0)
            store(dD, 0, c, muladd(grad, x, load(dD, 0, c)))
            store(du, t, c, muladd(d_drive, load(scratch, k, 0), grad * load(D, 0, c)))
            store(ddelta, t, c, muladd(d_drive, x, load(scratch, k + 4, 0) * fill(np.float32(_LN2))))
            if y.shape[0] > 0:
                store(y, t, c, load(scratch, k + 5, 0))
