"""The kernels of the scan on the CPU, forward and backward (numba; imported on first use, by `scan_cpu` alone).

Layout. Arrays are channel-last, so 16 neighbouring channels are 16 neighbouring numbers: one `Lanes` (see `simd`). A
kernel call owns a range of channels and walks along the window for 16 of them at a time, with their N states in an
array that stays in the first-level cache; B and C of a position are single numbers, repeated in every lane. So there is
no sum across lanes, no transposition, and every exponential is one of 16. The reverse direction is the same walk from
the other end. Decay rates come multiplied by log2(e), so that the exponential is a power of two.

Backward. Keeping all states would take L x d_inner x N numbers. The forward keeps the states before every `CHUNK`
positions; the backward takes the chunks last to first, recomputes the states of one chunk into scratch, and walks
it back. The gradients of B and C are sums over channels: they are gathered lane by lane for a chunk and added across
once at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from kipoi_seq2exp.nn.simd import WIDTH, add_across, exp2, fill, load, muladd, store

CHUNK = 64
# numba keys its cache on disk by this file's content alone; a change of `simd` must change this line (a test compares)
SIMD_SHA256 = "14aea2c8e387b9bdbd35ec7f38640be3472706d6a63d11a33074b16adcbc45d8"


def compiled(function: Callable[..., Any]) -> Callable[..., None]:
    """Compile on first call, without Python's lock; kept on disk between processes where a folder can be written."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        result: Callable[..., None] = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no writable place for the cache
        result = numba.njit(function, **options)
    return result


@compiled
def scan_forward(u, delta, A2, B, C, D, y, state, saved, channels, reverse):
    """Scan one window for the channels [channels[0], channels[1]), both multiples of 16.

    u, delta, y (L, d_inner); A2 (N, d_inner), times log2(e); B, C (L, N); D (1, d_inner); state (N, d_inner), read and
    left at its last value; saved (chunks, N, d_inner), the states before each chunk, or (0, N, d_inner) to keep none.
    """
    L, N = B.shape
    keep = saved.shape[0] > 0
    for start in range(0, L, CHUNK):
        stop = min(start + CHUNK, L)
        for c in range(channels[0], channels[1], WIDTH):
            if keep:
                for n in range(N):
                    store(saved[start // CHUNK], n, c, load(state, n, c))
            direct = load(D, 0, c)
            for i in range(start, stop):
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
def scan_backward(u, delta, A2, B, C, D, saved, dy, du, ddelta, dA, dB, dC, dD, channels, reverse):
    """Gradients of `scan_forward` for one window and a range of channels.

    du, ddelta (L, d_inner) are written; dA (N, d_inner), for A itself, dB, dC (L, N) and dD (1, d_inner) are
    added to.
    """
    L, N = B.shape
    decays = np.empty((CHUNK * N, WIDTH), np.float32)
    states = np.empty(((CHUNK + 1) * N, WIDTH), np.float32)
    lanes_dB = np.empty((CHUNK * N, WIDTH), np.float32)
    lanes_dC = np.empty((CHUNK * N, WIDTH), np.float32)
    carried = np.zeros((N, u.shape[1]), np.float32)
    for chunk in range(saved.shape[0] - 1, -1, -1):
        start = chunk * CHUNK
        size = min(CHUNK, L - start)
        lanes_dB[:] = 0
        lanes_dC[:] = 0
        for c in range(channels[0], channels[1], WIDTH):
            _recompute(u, delta, A2, B, saved[chunk], decays, states, start, size, c, reverse)
            direct = load(D, 0, c)
            d_direct = load(dD, 0, c)
            for i in range(size - 1, -1, -1):
                t = L - 1 - (start + i) if reverse else start + i
                step, x, grad = load(delta, t, c), load(u, t, c), load(dy, t, c)
                drive = step * x
                d_drive, d_step = fill(np.float32(0)), fill(np.float32(0))
                for n in range(N):
                    k = i * N + n
                    decay, before, h = load(decays, k, 0), load(states, k, 0), load(states, k + N, 0)
                    g = muladd(grad, fill(C[t, n]), load(carried, n, c))
                    store(lanes_dC, k, 0, muladd(grad, h, load(lanes_dC, k, 0)))
                    store(lanes_dB, k, 0, muladd(g, drive, load(lanes_dB, k, 0)))
                    d_drive = muladd(g, fill(B[t, n]), d_drive)
                    carry = g * decay
                    store(carried, n, c, carry)
                    d_exponent = carry * before
                    d_step = muladd(d_exponent, load(A2, n, c), d_step)
                    store(dA, n, c, muladd(d_exponent, step, load(dA, n, c)))
                d_direct = muladd(grad, x, d_direct)
                store(du, t, c, muladd(d_drive, step, grad * direct))
                store(ddelta, t, c, muladd(d_drive, x, d_step * fill(np.float32(_LN2))))
            store(dD, 0, c, d_direct)
        for i in range(size):
            t = L - 1 - (start + i) if reverse else start + i
            for n in range(N):
                dB[t, n] += add_across(load(lanes_dB, i * N + n, 0))
                dC[t, n] += add_across(load(lanes_dC, i * N + n, 0))


_LN2 = 0.6931471805599453  # A = ln(2) * A2


@compiled
def _recompute(u, delta, A2, B, saved, decays, states, start, size, c, reverse):
    """Fill `decays` (size * N) and `states` ((size + 1) * N, from the state before the chunk) of 16 channels."""
    L, N = B.shape
    for n in range(N):
        store(states, n, 0, load(saved, n, c))
    for i in range(size):
        t = L - 1 - (start + i) if reverse else start + i
        step = load(delta, t, c)
        drive = step * load(u, t, c)
        for n in range(N):
            k = i * N + n
            decay = exp2(step * load(A2, n, c))
            store(decays, k, 0, decay)
            store(states, k + N, 0, muladd(decay, load(states, k, 0), drive * fill(B[t, n])))
