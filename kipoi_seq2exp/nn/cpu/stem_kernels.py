"""The kernels of the token stem on the CPU (numba; used by `stem` alone).

The DNA of a window is one code a base: 0 to 3 for A C G T, `UNKNOWN` for N and beyond the window. A convolution over
one-hot DNA is then a sum of rows of a table, one row for each base that a motif covers, and the multiplications by 0
and 1 are left out. Only the strongest match of a token is kept, and where it was: of a convolution that would fill
gigabytes a batch, the gradient reads those positions alone.

Layout and lanes as in `scan_kernels`; channels are filled up to a multiple of 16 by some that stay 0.
"""

from __future__ import annotations

import numpy as np

from kipoi_seq2exp.nn.cpu.scan_kernels import compiled
from kipoi_seq2exp.nn.cpu.simd import WIDTH, fill, load, store, take_greater

UNKNOWN, MIXED = 4, 5  # codes of a base that is not known, and of a row that is not one-hot


@compiled
def base_codes(onehot, codes, start):
    """Write codes[start + i] from the rows of onehot (L, 4); codes has room for more."""
    for i in range(onehot.shape[0]):
        code, ones = UNKNOWN, 0
        for base in range(4):
            value = onehot[i, base]
            if value == 1:
                code, ones = base, ones + 1
            elif value != 0:
                ones = 2
        codes[start + i] = code if ones < 2 else MIXED


@compiled
def strongest_matches(codes, table, bias, strongest, where, tokens):
    """Find the strongest match of each motif in the tokens [tokens[0], tokens[1]), and its place in the token.

    codes (T * token_bp + K - 1,); table (5 K, D), row 5 k + code for base k of the motif; bias (1, D); strongest, where
    (T, D), written: the match, and the place as a whole number, the first of equal ones.
    """
    K = table.shape[0] // 5
    token_bp = (codes.shape[0] - K + 1) // strongest.shape[0]
    for t in range(tokens[0], tokens[1]):
        for c in range(0, table.shape[1], WIDTH):
            best, place = fill(np.float32(-np.inf)), fill(np.float32(0))
            for i in range(token_bp):
                first = t * token_bp + i
                match = load(bias, 0, c)
                for k in range(K):
                    match = match + load(table, 5 * k + codes[first + k], c)
                place = take_greater(match, best, fill(np.float32(i)), place)
                best = take_greater(match, best, match, best)
            store(strongest, t, c, best)
            store(where, t, c, place)


@compiled
def strongest_matches_backward(codes, where, gradient, d_table, d_bias):
    """Add the gradients of the table (5 K, D) and of the bias (1, D), float64, from that of `strongest` (T, D)."""
    K = d_table.shape[0] // 5
    token_bp = (codes.shape[0] - K + 1) // gradient.shape[0]
    for t in range(gradient.shape[0]):
        for c in range(gradient.shape[1]):
            first = t * token_bp + int(where[t, c])
            d_bias[0, c] += gradient[t, c]
            for k in range(K):
                d_table[5 * k + codes[first + k], c] += gradient[t, c]
