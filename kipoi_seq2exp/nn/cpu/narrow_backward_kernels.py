"""The walk back of one direction over a window of a narrow network, in one compiled call (numba; used by `narrow`).

As `narrow_kernels`; what is computed again and what is left for the other direction: see `backward`.
"""

from __future__ import annotations

import numpy as np

from kipoi_seq2exp.nn.cpu.backward_kernels import (
    convolve_silu_backward,
    gate_backward,
    rms_normalise_backward,
    step_sizes_backward,
    ungate,
)
from kipoi_seq2exp.nn.cpu.layer_kernels import convolve_silu, rms_normalise, step_sizes
from kipoi_seq2exp.nn.cpu.narrow_kernels import STEP, cut, product, tile
from kipoi_seq2exp.nn.cpu.scan_kernels import CHUNK, compiled, scan_backward
from kipoi_seq2exp.nn.cpu.simd import WIDTH, fill, load, muladd, store

FIRST, SECOND, ALONE = 0, 1, 2  # to visit a row; alone: only this direction's state was used


@compiled
def walk_back(arrays, saved, shared, own, gradients, carried, room, span, reverse, visit):
    """Walk a range of the window from the row read last to that read first.

    arrays: the layer's input (L, D), the gradient of its output, which becomes that of its input (L, D), and y and dx
    of the first visitor (L, d_inner). saved: as `walk_forward` left it for this range. gradients: flat, added to, in
    the order of `gradient_views`. carried: the gradients of the state (N, d_inner) and of the convolution's results in
    the d_conv - 1 rows visited last. room: working space, flat.
    """
    residual, d_residual, y, dx = arrays
    norm, eps, in_x, _, _, _, in_t, out_t = shared
    conv_weight, conv_bias, to_dt, _, _, dt_weight, dt_bias, A2, direct, dt_t, x_t = own
    d_state, border = carried
    D, inner = in_x.shape
    N, wide_rank, rank, left = A2.shape[0], to_dt.shape[1], dt_weight.shape[0], border.shape[0]
    g_norm, g_in, g_out, g_conv, g_conv_bias, g_x, g_dt, g_dt_bias, g_A, g_D = gradient_views(
        gradients, D, inner, N, rank, left + 1
    )
    L, R = residual.shape[0], STEP + left
    narrow, wide = _working_space(room, (R, D, wide_rank, N, inner))
    normed, d_normed, low, d_low, B, C, dB, dC = narrow
    xz, dxz, u, delta, own_y, d_gated, dy, du, ddelta, dv = wide
    all_channels, at = (0, inner), 0 if reverse else left  # where a tile begins in xz, beside the rows read before it
    for k in range(-(-(span[1] - span[0]) // STEP) - 1, -1, -1):
        a, b = tile(span, k, reverse)
        T = b - a
        first, last = (a, min(L, b + left)) if reverse else (max(0, a - left), b)
        missing = 0 if reverse else left - (a - first)  # rows before the window
        _compute_again(residual[first:last], shared, own, (narrow, wide), T, missing, reverse)
        if visit == ALONE:
            dy[:T] = 0
        else:
            product(d_residual[a:b], out_t, d_gated[:T], False)
            ungate(d_gated, xz[at : at + T], dy[:T], 0)
        dB[:T] = 0
        dC[:T] = 0
        chunk = k * (STEP // CHUNK)
        states = saved[chunk : chunk + -(-T // CHUNK)]
        scanned = own_y[: 0 if visit == ALONE else T]
        inputs = (u[:T], delta[:T], A2, B[:T], C[:T], direct)
        own_gradients = (du[:T], ddelta[:T], g_A, dB[:T], dC[:T], g_D)
        scan_backward(inputs, states, dy[:T], own_gradients, d_state, scanned, all_channels, reverse)
        step_sizes_backward(low, dt_weight, dt_bias, ddelta[:T], g_dt_bias, all_channels)
        product(ddelta, dt_t, d_low[:T], False)
        add_outer(low, ddelta[:T], g_dt)
        add_outer(d_low, u[:T], g_x[:rank])
        add_outer(dB, u[:T], g_x[rank : rank + N])
        add_outer(dC, u[:T], g_x[rank + N :])
        product(d_low, x_t[:rank], du[:T], True)
        product(dB, x_t[rank : rank + N], du[:T], True)
        product(dC, x_t[rank + N :], du[:T], True)

        after = 0 if reverse else T  # where the rows read after the tile lie in dv
        dv[after : after + left] = border
        own_dv = (dv[: T + left], dxz[:T], g_conv, g_conv_bias)
        convolve_silu_backward(xz[: T + left], conv_weight, conv_bias, du[:T], own_dv, at, all_channels, reverse)
        border[:] = dv[T - after : T - after + left]

        if visit == FIRST:
            y[a:b] = own_y[:T]
            dx[a:b] = dxz[:T, :inner]
            continue
        width = 2 * inner if visit == SECOND else inner
        if visit == SECOND:
            gate_backward(own_y[:T], (y[a:b], dx[a:b], xz[at : at + T], d_gated[:T]), dy, dxz, 0)
            add_outer(d_residual[a:b], dy[:T], g_out)
        add_outer(dxz, normed[a - first : a - first + T], g_in[:width])
        product(dxz, in_t[:width], d_normed[:T], False)
        rms_normalise_backward(residual[a:b], norm[0], eps, d_normed, g_norm, d_residual[a:b])


@compiled
def _compute_again(residual, shared, own, space, T, missing, reverse):
    """Fill normed, xz, u, low, B, C and delta of a tile of T rows.

    residual: the tile's rows and those read before it, of which so many are `missing`: they lie before the window.
    """
    conv_weight, conv_bias, to_dt, to_B, to_C, dt_weight, dt_bias, _, _, _, _ = own
    normed, _, low, _, B, C, _, _ = space[0]
    xz, _, u, delta, _, _, _, _, _, _ = space[1]
    count, left = residual.shape[0], conv_weight.shape[0] - 1
    xz[:missing] = 0
    xz[missing + count : T + left] = 0
    rms_normalise(residual, shared[0][0], shared[1], normed[:count])
    product(normed, shared[5], xz[missing : missing + count], False)
    convolve_silu(xz[: T + left], conv_weight, conv_bias, u[:T], 0 if reverse else left, reverse)
    product(u, to_dt, low[:T], False)
    product(u, to_B, B[:T], False)
    product(u, to_C, C[:T], False)
    step_sizes(low, dt_weight, dt_bias, delta[:T])


@compiled
def _working_space(room, sizes):
    """Cut the matrices of a tile: those of D, x_proj's and N columns, and those of 2 d_inner and d_inner."""
    R, D, rank, N, inner = sizes
    normed, d_normed, room = cut(room, 0, R, D), cut(room, R * D, R, D), room[2 * R * D :]
    low, d_low, room = cut(room, 0, R, rank), cut(room, R * rank, R, rank), room[2 * R * rank :]
    B, C, room = cut(room, 0, R, N), cut(room, R * N, R, N), room[2 * R * N :]
    dB, dC, room = cut(room, 0, R, N), cut(room, R * N, R, N), room[2 * R * N :]
    place = R * inner
    xz, dxz, room = cut(room, 0, R, 2 * inner), cut(room, 2 * place, R, 2 * inner), room[4 * place :]
    u, delta, own_y, d_gated = (
        cut(room, 0, R, inner),
        cut(room, place, R, inner),
        cut(room, 2 * place, R, inner),
        cut(room, 3 * place, R, inner),
    )
    dy, du, ddelta, dv = (
        cut(room, 4 * place, R, inner),
        cut(room, 5 * place, R, inner),
        cut(room, 6 * place, R, inner),
        cut(room, 7 * place, R, inner),
    )
    return (normed, d_normed, low, d_low, B, C, dB, dC), (xz, dxz, u, delta, own_y, d_gated, dy, du, ddelta, dv)


@compiled
def gradient_views(flat, D, inner, N, rank, d_conv):
    """Cut the gradients of norm, in_proj, out_proj, convolution, its bias, x_proj, dt_proj, its bias, A and D.

    All but that of the norm (D,) have d_inner columns, in_proj's (2 d_inner, D) excepted.
    """
    norm, flat = flat[:D], flat[D:]
    in_proj, flat = cut(flat, 0, 2 * inner, D), flat[2 * inner * D :]
    out_proj, flat = cut(flat, 0, D, inner), flat[D * inner :]
    conv, conv_bias = cut(flat, 0, d_conv, inner), cut(flat, d_conv * inner, 1, inner)
    flat = flat[(d_conv + 1) * inner :]
    x_proj, flat = cut(flat, 0, rank + 2 * N, inner), flat[(rank + 2 * N) * inner :]
    dt, dt_bias = cut(flat, 0, rank, inner), cut(flat, rank * inner, 1, inner)
    flat = flat[(rank + 1) * inner :]
    A, direct = cut(flat, 0, N, inner), cut(flat, N * inner, 1, inner)
    return norm, in_proj, out_proj, conv, conv_bias, x_proj, dt, dt_bias, A, direct


@compiled
def add_outer(a, b, total):
    """Add a.T @ b to `total`; a (>= T, >= K), b (T, M), total (K, M), M a multiple of 16."""
    T, K, zero = b.shape[0], total.shape[0], fill(np.float32(0))
    whole = K - K % 8
    for c in range(0, b.shape[1], WIDTH):
        for k in range(0, whole, 8):
            s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
            for i in range(T):
                row = load(b, i, c)
                s0 = muladd(fill(a[i, k]), row, s0)
                s1 = muladd(fill(a[i, k + 1]), row, s1)
                s2 = muladd(fill(a[i, k + 2]), row, s2)
                s3 = muladd(fill(a[i, k + 3]), row, s3)
                s4 = muladd(fill(a[i, k + 4]), row, s4)
                s5 = muladd(fill(a[i, k + 5]), row, s5)
                s6 = muladd(fill(a[i, k + 6]), row, s6)
                s7 = muladd(fill(a[i, k + 7]), row, s7)
            _add(total, k, c, s0)
            _add(total, k + 1, c, s1)
            _add(total, k + 2, c, s2)
            _add(total, k + 3, c, s3)
            _add(total, k + 4, c, s4)
            _add(total, k + 5, c, s5)
            _add(total, k + 6, c, s6)
            _add(total, k + 7, c, s7)
        for k in range(whole, K):
            sums = zero
            for i in range(T):
                sums = muladd(fill(a[i, k]), load(b, i, c), sums)
            _add(total, k, c, sums)


@compiled
def _add(total, k, c, value):
    store(total, k, c, load(total, k, c) + value)
