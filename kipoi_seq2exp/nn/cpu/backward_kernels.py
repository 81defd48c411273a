"""The gradients of the elementwise steps of a Mamba direction on the CPU (numba; used by `streamed_backward` alone).

Layout and lanes as in `scan_kernels`. A kernel owns a range of channels or of rows, so threads share nothing.
"""

from __future__ import annotations

import numpy as np

from kipoi_seq2exp.nn.cpu.scan_kernels import compiled
from kipoi_seq2exp.nn.cpu.simd import WIDTH, fill, load, muladd, sigmoid, store

_ZERO, _ONE, _MINUS_ONE = np.float32(0), np.float32(1), np.float32(-1)


@compiled
def step_sizes_backward(low_rank, weight, bias, ddelta, dbias, channels):
    """Through the softplus: ddelta *= sigmoid(low_rank[:, :rank] @ weight + bias), and its sum over rows into dbias.

    low_rank (L, >= rank); weight (rank, d_inner); bias, dbias (1, d_inner); ddelta (L, d_inner), changed.
    """
    rank = weight.shape[0]
    for c in range(channels[0], channels[1], WIDTH):
        total_bias = load(dbias, 0, c)
        for t in range(ddelta.shape[0]):
            total = load(bias, 0, c)
            for r in range(rank):
                total = muladd(fill(low_rank[t, r]), load(weight, r, c), total)
            gradient = load(ddelta, t, c) * sigmoid(total)
            store(ddelta, t, c, gradient)
            total_bias = total_bias + gradient
        store(dbias, 0, c, total_bias)


@compiled
def convolve_silu_backward(xz, weight, bias, du, own, start, channels, reverse):
    """Through `layer_kernels.convolve_silu`, for a tile and a range of channels.

    xz (L, 2 d_inner) and the rows du (T, d_inner) from `start` on. own: dv (T + d_conv - 1, d_inner), the gradient
    before the SiLU, written for the tile, given for the d_conv - 1 rows that are read after it (they lie behind, in
    reverse before); dx (T, 2 d_inner), written in its first half; dweight (d_conv, d_inner), dbias (1, d_inner), added
    to.
    """
    dv, dx, dweight, dbias = own
    L, T, width = xz.shape[0], du.shape[0], weight.shape[0]
    toward, tile = (1, width - 1) if reverse else (-1, 0)  # to the row read before; where the tile begins in dv
    for c in range(channels[0], channels[1], WIDTH):
        total_bias = load(dbias, 0, c)
        for i in range(T):
            gradient = load(du, i, c) * _slope(xz, weight, bias, start + i, toward, c)
            store(dv, tile + i, c, gradient)
            total_bias = total_bias + gradient
        store(dbias, 0, c, total_bias)
        for k in range(width):
            shift = toward * (width - 1 - k)
            total = load(dweight, k, c)
            for i in range(max(0, -start - shift), min(T, L - start - shift)):
                total = muladd(load(dv, tile + i, c), load(xz, start + i + shift, c), total)
            store(dweight, k, c, total)
        for i in range(T):
            total = fill(_ZERO)
            for k in range(width):
                total = muladd(load(dv, tile + i - toward * (width - 1 - k), c), load(weight, k, c), total)
            store(dx, i, c, total)


@compiled
def _slope(xz, weight, bias, t, toward, c):
    """Slope of the SiLU, d silu(v) / dv, at the convolution's result v."""
    width, one = weight.shape[0], fill(_ONE)
    v = load(bias, 0, c)
    for k in range(width):
        s = t + toward * (width - 1 - k)
        if 0 <= s < xz.shape[0]:
            v = muladd(load(xz, s, c), load(weight, k, c), v)
    gate = sigmoid(v)
    return gate * muladd(v, one + fill(_MINUS_ONE) * gate, one)


@compiled
def ungate(d_gated, xz, dy, start):
    """Through the gate to the scans: dy[i] = d_gated * silu(z), at start + i; z: second half of xz."""
    channels = dy.shape[1]
    for i in range(dy.shape[0]):
        t = start + i
        for c in range(0, channels, WIDTH):
            z = load(xz, t, channels + c)
            store(dy, i, c, load(d_gated, t, c) * (z * sigmoid(z)))


@compiled
def gate_backward(y, others, gated, dxz, start):
    """Join what the two directions give, and go through `layer_kernels.gate`.

    y, gated (T, d_inner); others, of the whole window: y and dx of the tile's other visitor, xz, d_gated. gated[i] is
    written; of dxz (T, 2 d_inner), the first half is added to (dx), the second written (dz).
    """
    other_y, other_dx, xz, d_gated = others
    channels, one = y.shape[1], fill(_ONE)
    for i in range(y.shape[0]):
        t = start + i
        for c in range(0, channels, WIDTH):
            both, z = load(y, i, c) + load(other_y, t, c), load(xz, t, channels + c)
            open_ = sigmoid(z)
            slope = open_ * muladd(z, one + fill(_MINUS_ONE) * open_, one)
            store(gated, i, c, both * (z * open_))
            store(dxz, i, channels + c, load(d_gated, t, c) * both * slope)
            store(dxz, i, c, load(dxz, i, c) + load(other_dx, t, c))


@compiled
def rms_normalise_backward(x, weight, eps, gradient, dweight, dx):
    """Through `layer_kernels.rms_normalise`; x, gradient, dx (T, D), weight, dweight (D,); adds to dx and dweight."""
    D = x.shape[1]
    for i in range(x.shape[0]):
        squares, along = _ZERO, _ZERO
        for j in range(D):
            squares += x[i, j] * x[i, j]
            along += gradient[i, j] * weight[j] * x[i, j]
        scale = _ONE / np.sqrt(squares / np.float32(D) + eps)
        along *= scale * scale / np.float32(D)
        for j in range(D):
            dweight[j] += gradient[i, j] * x[i, j] * scale
            dx[i, j] += scale * (gradient[i, j] * weight[j] - x[i, j] * along)
