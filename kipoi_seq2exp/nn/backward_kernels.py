"""The gradients of the elementwise steps of a Mamba direction on the CPU (numba; used by `fused` alone).

Layout and lanes as in `scan_kernels`. Every kernel owns a range of channels, so threads share nothing.
"""

from __future__ import annotations

import numpy as np

from kipoi_seq2exp.nn.scan_kernels import compiled
from kipoi_seq2exp.nn.simd import WIDTH, fill, load, muladd, sigmoid, store

# numba keys its cache on disk by this file's content alone: see scan_kernels.SIMD_SHA256
SIMD_SHA256 = "14aea2c8e387b9bdbd35ec7f38640be3472706d6a63d11a33074b16adcbc45d8"
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
def convolve_silu_backward(x, weight, bias, du, dx, dweight, dbias, channels, reverse):
    """Through `layer_kernels.convolve_silu`: du becomes the gradient before the SiLU, dx that of x.

    x, du, dx (L, d_inner); weight, dweight (d_conv, d_inner); bias, dbias (1, d_inner); dweight, dbias are added to.
    """
    L, width = x.shape[0], weight.shape[0]
    one = fill(_ONE)
    for c in range(channels[0], channels[1], WIDTH):
        total_bias = load(dbias, 0, c)
        for t in range(L):
            total = load(bias, 0, c)
            for k in range(width):
                s = t + (width - 1 - k) if reverse else t - (width - 1 - k)
                if 0 <= s < L:
                    total = muladd(load(x, s, c), load(weight, k, c), total)
            gate = sigmoid(total)
            slope = gate * muladd(total, one + fill(_MINUS_ONE) * gate, one)  # d silu(v) / dv
            gradient = load(du, t, c) * slope
            store(du, t, c, gradient)
            total_bias = total_bias + gradient
            for k in range(width):
                s = t + (width - 1 - k) if reverse else t - (width - 1 - k)
                if 0 <= s < L:
                    store(dweight, k, c, muladd(gradient, load(x, s, c), load(dweight, k, c)))
        store(dbias, 0, c, total_bias)
        for s in range(L):
            total = fill(_ZERO)
            for k in range(width):
                t = s - (width - 1 - k) if reverse else s + (width - 1 - k)
                if 0 <= t < L:
                    total = muladd(load(du, t, c), load(weight, k, c), total)
            store(dx, s, c, total)
