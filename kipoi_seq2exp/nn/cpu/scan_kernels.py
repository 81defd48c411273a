"""The kernels of the scan on the CPU, forward and backward (numba; imported on first use).

Layout. Arrays are channel-last, so 16 neighbouring channels are 16 neighbouring numbers: one `Lanes` (see `simd`). A
kernel call owns a range of channels and walks along the window for 16 of them at a time, with their N states in an
array that stays in the first-level cache; B and C of a position are single numbers, repeated in every lane. So there is
no sum across lanes, no transposition, and every exponential is one of 16. The reverse direction is the same walk from
the other end. Decay rates come multiplied by log2(e), so that the exponential is a power of two.

Backward. Keeping all states would take L x d_inner x N numbers. The forward keeps the states before every `CHUNK`
positions; the backward takes the chunks last to first and does each twice: it recomputes the chunk's states and
decays into scratch, then walks them back. For 16 channels it takes 4 states at a time, a `Block`: what is carried from
position to position then stays in registers, and the scratch (32 positions, 16 kB of states and decays) in the
first-level cache. What is a sum over states (the gradients of u and delta) is gathered in scratch too; what is a sum
over channels (those of B and C) lane by lane, and added across once at the chunk's end.

    scratch     row of         holds
    decays      32 x 64        one Block a position: exp2(delta A2)
    states      33 x 64        one Block a position: the states before it; the last row those after the chunk
    rows        4 x 32 x 16    per position: delta, delta * u, and the sums over states of what reaches both
    lanes_dB/C  N/4 x 32 x 64  per 4 states and position: the gradients of B and C of all channels so far
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
    add_across,
    add_states,
    exp2,
    fill,
    load,
    load_block,
    load_states,
    muladd,
    repeat,
    spread,
    store,
    store_states,
)

CHUNK = 32
STRETCH = 64  # positions that 16 channels are walked along before the next 16: memory likes it longer, caches shorter
# numba keys its cache on disk by this file's content alone; a change of `simd` must change this line (a test compares)
SIMD_SHA256 = "e5d78c7b62d90174c2e87253df41e9029d0f63eeee1e9f3cd07e58e348310809"


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
    decays = np.empty((CHUNK, STATES * WIDTH), np.float32)
    states = np.empty((CHUNK + 1, STATES * WIDTH), np.float32)
    rows = np.empty((4 * CHUNK, WIDTH), np.float32)
    lanes_dB = np.empty((STRETCH * N // STATES, STATES * WIDTH), np.float32)
    lanes_dC = np.empty((STRETCH * N // STATES, STATES * WIDTH), np.float32)
    toward = -1 if reverse else 1
    for stretch in range((L - 1) // STRETCH * STRETCH, -1, -STRETCH):
        stop = min(stretch + STRETCH, L)
        lanes_dB[:] = 0
        lanes_dC[:] = 0
        for c in range(channels[0], channels[1], WIDTH):
            for start in range((stop - 1) // CHUNK * CHUNK, stretch - 1, -CHUNK):
                first, size = L - 1 - start if reverse else start, min(CHUNK, stop - start)
                _begin_chunk(inputs, rows, y, first, toward, size, c)
                for n in range(0, N, STATES):
                    before = load_states(saved[start // CHUNK], n, c)
                    scratch = (rows, decays, states)
                    _recompute(inputs, before, scratch, first, toward, size, (n, c))
                    lanes = (lanes_dB[(start - stretch) * N // STATES :], lanes_dC[(start - stretch) * N // STATES :])
                    _walk_back(inputs, dy, scratch, lanes, gradients, carried, first, toward, size, (n, c))
                    if y.shape[0] > 0:
                        _add_output(inputs, states, y, first, toward, size, (n, c))
                _end_chunk(inputs, dy, rows, gradients, first, toward, size, c)
        first = L - 1 - stretch if reverse else stretch
        _add_lanes(lanes_dB, gradients[3], first, toward, stop - stretch)
        _add_lanes(lanes_dC, gradients[4], first, toward, stop - stretch)


@compiled
def _begin_chunk(inputs, rows, y, first, toward, size, c):
    """Copy 16 channels of a chunk, a row each position, side by side; start their sums at 0."""
    u, delta, _, _, _, D = inputs
    for i in range(size):
        t = first + toward * i
        step, x = load(delta, t, c), load(u, t, c)
        store(rows, 4 * i, 0, step)
        store(rows, 4 * i + 1, 0, step * x)
        store(rows, 4 * i + 2, 0, fill(np.float32(0)))
        store(rows, 4 * i + 3, 0, fill(np.float32(0)))
        if y.shape[0] > 0:
            store(y, t, c, load(D, 0, c) * x)


@compiled
def _recompute(inputs, h, scratch, first, toward, size, place):
    """Fill `decays` and `states` of 4 states of 16 channels, from their states before the chunk."""
    _, _, A2, B, _, _ = inputs
    rows, decays, states = scratch
    n, c = place
    rate = load_states(A2, n, c)
    store(states, 0, 0, h)
    for i in range(size):
        decay = exp2(repeat(load(rows, 4 * i, 0)) * rate)
        store(decays, i, 0, decay)
        h = muladd(decay, h, repeat(load(rows, 4 * i + 1, 0)) * spread(B, first + toward * i, n))
        store(states, i + 1, 0, h)


@compiled
def _walk_back(inputs, dy, scratch, lanes, gradients, carried, first, toward, size, place):
    """Carry the gradient of 4 states of 16 channels from the chunk's end to its start."""
    _, _, A2, B, C, _ = inputs
    rows, decays, states = scratch
    lanes_dB, lanes_dC = lanes
    dA = gradients[2]
    n, c = place
    groups, group = B.shape[1] // STATES, n // STATES
    rate, d_rate, carry = load_states(A2, n, c), load_states(dA, n, c), load_states(carried, n, c)
    for i in range(size - 1, -1, -1):
        t, k = first + toward * i, i * groups + group
        grad = repeat(load(dy, t, c))
        g = muladd(grad, spread(C, t, n), carry)
        store(lanes_dC, k, 0, muladd(grad, load_block(states, i + 1), load_block(lanes_dC, k)))
        store(lanes_dB, k, 0, muladd(g, repeat(load(rows, 4 * i + 1, 0)), load_block(lanes_dB, k)))
        carry = g * load_block(decays, i)
        d_exponent = carry * load_block(states, i)
        d_rate = muladd(d_exponent, repeat(load(rows, 4 * i, 0)), d_rate)
        store(rows, 4 * i + 2, 0, load(rows, 4 * i + 2, 0) + add_states(g * spread(B, t, n)))
        store(rows, 4 * i + 3, 0, load(rows, 4 * i + 3, 0) + add_states(d_exponent * rate))
    store_states(carried, n, c, carry)
    store_states(dA, n, c, d_rate)


@compiled
def _add_output(inputs, states, y, first, toward, size, place):
    """Add what 4 states give to the scan's result."""
    C = inputs[4]
    n, c = place
    for i in range(size):
        t = first + toward * i
        store(y, t, c, load(y, t, c) + add_states(load_block(states, i + 1) * spread(C, t, n)))


_LN2 = 0.6931471805599453  # A = ln(2) * A2


@compiled
def _end_chunk(inputs, dy, rows, gradients, first, toward, size, c):
    """Turn the sums over states into the gradients of u, delta and D."""
    u, _, _, _, _, D = inputs
    du, ddelta, _, _, _, dD = gradients
    direct, d_direct = load(D, 0, c), load(dD, 0, c)
    for i in range(size):
        t = first + toward * i
        x, grad, d_drive = load(u, t, c), load(dy, t, c), load(rows, 4 * i + 2, 0)
        d_direct = muladd(grad, x, d_direct)
        store(du, t, c, muladd(d_drive, load(rows, 4 * i, 0), grad * direct))
        store(ddelta, t, c, muladd(d_drive, x, load(rows, 4 * i + 3, 0) * fill(np.float32(_LN2))))
    store(dD, 0, c, d_direct)


@compiled
def _add_lanes(lanes, total, first, toward, size):
    """Add the chunk's gradient of B or C, summed over this call's channels, to `total` (L, N)."""
    groups = total.shape[1] // STATES
    for i in range(size):
        for group in range(groups):
            sums = add_across(load_block(lanes, i * groups + group))
            for n in range(STATES):
                total[first + toward * i, group * STATES + n] += sums[n]
