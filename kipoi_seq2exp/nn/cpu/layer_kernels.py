"""The elementwise steps of a Mamba layer on the CPU, each one pass over a tile (numba; used by `forward` and `tiles`).

Layout and lanes as in `scan_kernels`. A tile is a few hundred positions, so what one step writes is still in the
second-level cache when the next one reads it.
"""

from __future__ import annotations

import numpy as np

from kipoi_seq2exp.nn.cpu.scan_kernels import compiled
from kipoi_seq2exp.nn.cpu.simd import WIDTH, add_across, fill, load, muladd, sigmoid, softplus, store


@compiled
def convolve_silu(x, weight, bias, u, start, reverse):
    """Depthwise convolution and SiLU of a tile: u[i] from x[start + i] and the rows read before it, zero beyond.

    x (L, >= d_inner), of which the first d_inner columns are read; weight (d_conv, d_inner), the last row for the
    current position; bias (1, d_inner); u (T, d_inner), written.
    """
    L, width = x.shape[0], weight.shape[0]
    toward = 1 if reverse else -1  # from a row to the one that was read before it
    for i in range(u.shape[0]):
        t = start + i
        earlier = L - 1 - t if reverse else t  # rows of the window that were read before this one
        first = max(0, width - 1 - earlier)
        for c in range(0, u.shape[1], WIDTH):
            total = load(bias, 0, c)
            for k in range(first, width):
                total = muladd(load(x, t + toward * (width - 1 - k), c), load(weight, k, c), total)
            store(u, i, c, total * sigmoid(total))


@compiled
def step_sizes(low_rank, weight, bias, delta):
    """Step sizes of a tile: softplus(low_rank[:, :rank] @ weight + bias).

    low_rank (T, >= rank); weight (rank, d_inner); bias (1, d_inner); delta (T, d_inner), written.
    """
    rank = weight.shape[0]
    for i in range(delta.shape[0]):
        for c in range(0, delta.shape[1], WIDTH):
            total = load(bias, 0, c)
            for r in range(rank):
                total = muladd(fill(low_rank[i, r]), load(weight, r, c), total)
            store(delta, i, c, softplus(total))


@compiled
def gate(y, other, z, out, start):
    """Add both directions and gate: out[i] = (y[i] + other[start + i]) * silu(z[i])."""
    for i in range(y.shape[0]):
        for c in range(0, y.shape[1], WIDTH):
            open_ = load(z, i, c)
            store(out, i, c, (load(y, i, c) + load(other, start + i, c)) * (open_ * sigmoid(open_)))


@compiled
def rms_normalise(x, weight, eps, out):
    """RMSNorm of each row: out = x / sqrt(mean(x ** 2) + eps) * weight; x, out (T, D), weight (D,)."""
    D = x.shape[1]
    whole = D - D % WIDTH
    for i in range(x.shape[0]):
        squares = fill(np.float32(0))
        for j in range(0, whole, WIDTH):
            squares = muladd(load(x, i, j), load(x, i, j), squares)
        total = add_across(squares)
        for j in range(whole, D):
            total += x[i, j] * x[i, j]
        scale = np.float32(1) / np.sqrt(total / np.float32(D) + eps)
        for j in range(D):
            out[i, j] = x[i, j] * scale * weight[j]
