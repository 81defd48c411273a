"""One direction's walk over a window of a narrow network in one compiled call (numba; used by `narrow` alone).

A narrow layer's steps on a few rows all fit in the first two caches, and its products are too small for a library to
be quick. So a call walks a whole range of the window `STEP` rows at a time and does every step of these rows, its own
products included: nothing goes through Python, and of all that is computed on the way only the result is written out.

A row of a product depends on that row alone, summed in one order: so the bits are the same however a window is cut.
Layout and lanes as in `scan_kernels`. What the tuples `shared` and `own` hold: see `tiles.Packed`.
"""

from __future__ import annotations

import numpy as np

from kipoi_seq2exp.nn.cpu.layer_kernels import convolve_silu, gate, rms_normalise, step_sizes
from kipoi_seq2exp.nn.cpu.scan_kernels import CHUNK, compiled, scan_forward
from kipoi_seq2exp.nn.cpu.simd import WIDTH, fill, load, muladd, store

STEP = 64  # rows, a multiple of CHUNK


@compiled
def walk_forward(residual, y, saved, shared, own, carried, room, span, reverse, second):
    """Read rows span[0] to span[1] in one direction, on from what is `carried`.

    residual (L, D); y (L, d_inner); saved (chunks, N, d_inner), written: the states before each chunk, or
    (0, N, d_inner) to keep none. carried: the state (N, d_inner) and the d_conv - 1 rows of x read last, left as they
    are at the end. room: working space, flat (`narrow.room`). The first direction writes its scan to y; the
    `second` adds its own, and the layer's output to the residual.
    """
    norm, eps, in_x, in_z, out_proj, _, _, _ = shared
    conv_weight, conv_bias, to_dt, to_B, to_C, dt_weight, dt_bias, A2, direct, _, _ = own
    state, halo = carried
    D, inner = in_x.shape
    N, rank, left = A2.shape[0], to_dt.shape[1], halo.shape[0]
    R = STEP + left
    normed, low = cut(room, 0, R, D), cut(room, R * D, R, rank)
    B, C = cut(room, R * (D + rank), R, N), cut(room, R * (D + rank + N), R, N)
    wide = room[R * (D + rank + 2 * N) :]
    x, u, delta = cut(wide, 0, R, inner), cut(wide, R * inner, R, inner), cut(wide, 2 * R * inner, R, inner)
    own_y, z = cut(wide, 3 * R * inner, R, inner), cut(wide, 4 * R * inner, R, inner)
    for k in range(-(-(span[1] - span[0]) // STEP)):
        a, b = tile(span, k, reverse)
        T = b - a
        rms_normalise(residual[a:b], norm[0], eps, normed[:T])
        at = 0 if reverse else left  # where the tile begins in x, beside the rows that were read before it
        before = T if reverse else 0
        x[before : before + left] = halo
        product(normed, in_x, x[at : at + T], False)
        halo[:] = x[T - before : T - before + left]
        convolve_silu(x[: T + left], conv_weight, conv_bias, u[:T], at, reverse)
        product(u, to_dt, low[:T], False)
        product(u, to_B, B[:T], False)
        product(u, to_C, C[:T], False)
        step_sizes(low, dt_weight, dt_bias, delta[:T])
        chunk = k * (STEP // CHUNK)
        states = saved[chunk : chunk + -(-T // CHUNK)]  # none of none
        scanned = own_y[:T] if second else y[a:b]
        scan_forward((u[:T], delta[:T], A2, B[:T], C[:T], direct), scanned, state, states, (0, inner), reverse)
        if second:
            product(normed, in_z, z[:T], False)
            gate(own_y[:T], y[a:b], z, u, 0)
            product(u, out_proj, residual[a:b], True)


@compiled
def tile(span, k, reverse):
    """Return the first and last row of the tile that is read k-th of a range."""
    if reverse:
        return max(span[0], span[1] - (k + 1) * STEP), span[1] - k * STEP
    return span[0] + k * STEP, min(span[1], span[0] + (k + 1) * STEP)


@compiled
def cut(flat, start, rows, columns):
    """Return a matrix that lies in `flat` from `start` on."""
    return flat[start : start + rows * columns].reshape(rows, columns)


@compiled
def product(a, weight, out, add):
    """Write out = a @ weight, or `add` it to out; a (>= T, >= K), weight (K, M), out (T, M), M a multiple of 16."""
    T, zero = out.shape[0], fill(np.float32(0))
    whole = T - T % 8
    for c in range(0, weight.shape[1], WIDTH):
        for i in range(0, whole, 8):  # 8 sums side by side: none waits for itself
            s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
            for k in range(weight.shape[0]):
                w = load(weight, k, c)
                s0 = muladd(fill(a[i, k]), w, s0)
                s1 = muladd(fill(a[i + 1, k]), w, s1)
                s2 = muladd(fill(a[i + 2, k]), w, s2)
                s3 = muladd(fill(a[i + 3, k]), w, s3)
                s4 = muladd(fill(a[i + 4, k]), w, s4)
                s5 = muladd(fill(a[i + 5, k]), w, s5)
                s6 = muladd(fill(a[i + 6, k]), w, s6)
                s7 = muladd(fill(a[i + 7, k]), w, s7)
            _put(out, i, c, s0, add)
            _put(out, i + 1, c, s1, add)
            _put(out, i + 2, c, s2, add)
            _put(out, i + 3, c, s3, add)
            _put(out, i + 4, c, s4, add)
            _put(out, i + 5, c, s5, add)
            _put(out, i + 6, c, s6, add)
            _put(out, i + 7, c, s7, add)
        for i in range(whole, T):
            total = zero
            for k in range(weight.shape[0]):
                total = muladd(fill(a[i, k]), load(weight, k, c), total)
            _put(out, i, c, total, add)


@compiled
def _put(out, i, c, value, add):
    store(out, i, c, load(out, i, c) + value if add else value)
