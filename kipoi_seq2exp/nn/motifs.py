"""A token stem that starts from words of DNA which are frequent in chosen places, instead of from random weights.

A filter with random weights matches a motif of ten bases no better than any other DNA, so training has nothing to
strengthen until a filter drifts near the motif by chance. Motifs consist of words (k-mers) that occur more often in
open chromatin than expected from its dinucleotides. A filter that matches such a word has a gradient from the first
step. The effect of a motif is left to training: no label is used here.

Contract: the same windows give the same words, strongest first, each with its reverse complement somewhere in the list.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.tokens import TokenStem

Words = NDArray[np.int64]

LONGEST_BP = 10  # a million words
SHIFT_BP = 2  # a word that another one covers but for so many bases is no new one
THRESHOLD = 1.5  # what a filter says of its own word before training; one wrong base takes most of it away


def frequent_words(windows: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]], word_bp: int, count: int) -> Words:
    """Find the words that are over-represented in chosen places, on either strand.

    Parameters
    ----------
    windows : iterable of (ndarray of uint8, (L, 4); ndarray of bool, (L,))
        DNA in A C G T order (N: zeros), and the bases to look at.
    word_bp : int
        Length of a word, in bp, 3 to 10.
    count : int
        Largest number of words to return.

    Returns
    -------
    ndarray of int, (count or fewer, word_bp)
        Bases of each word (A C G T = 0 to 3), the most over-represented first: by (n - e) / sqrt(e), where n is the
        count of the word and e the count expected from the dinucleotides in the same places. Words that are no more
        frequent than expected, or that are another word moved by up to 2 bp, are left out.

    Raises
    ------
    ConfigError
        If the length is out of bounds.
    """
    if not 3 <= word_bp <= LONGEST_BP:
        raise ConfigError(f"word_bp must lie between 3 and {LONGEST_BP}, found {word_bp}.")
    counts = np.zeros(4**word_bp, dtype=np.int64)
    for onehot, chosen in windows:
        counts += np.bincount(_numbers_of_words(onehot, chosen, word_bp), minlength=len(counts))
    bases = np.stack(np.unravel_index(np.arange(len(counts)), (4,) * word_bp), axis=1)
    counts = counts + counts[_numbers(3 - bases[:, ::-1])]
    expected = _expected(counts, bases)
    excess = (counts - expected) / np.sqrt(np.maximum(expected, 1e-9))
    found: list[NDArray[np.int64]] = []
    for number in np.argsort(-excess, kind="stable"):
        if len(found) == count or counts[number] <= expected[number]:
            break
        if not any(_is_moved(bases[number], word) for word in found):
            found.append(bases[number])
    return np.array(found, dtype=np.int64).reshape(-1, word_bp)


def _numbers(words: Words) -> NDArray[np.int64]:
    """Read words (n, k) as numbers to base four."""
    numbers: NDArray[np.int64] = words @ 4 ** np.arange(words.shape[1])[::-1]
    return numbers


def _numbers_of_words(onehot: NDArray[np.uint8], chosen: NDArray[np.bool_], word_bp: int) -> NDArray[np.int64]:
    """Return the numbers of the words of a window whose bases are all known and chosen."""
    usable = chosen & (onehot.sum(1) == 1)
    codes = onehot @ np.arange(4, dtype=np.int64)
    ends = len(codes) - word_bp + 1
    numbers = np.zeros(max(0, ends), dtype=np.int64)
    whole = np.ones(max(0, ends), dtype=np.bool_)
    for place in range(word_bp):
        numbers = 4 * numbers + codes[place : place + len(numbers)]
        whole &= usable[place : place + len(numbers)]
    return numbers[whole]


def _expected(counts: NDArray[np.int64], bases: Words) -> NDArray[np.float64]:
    """Return how often each word is expected, from the pairs of neighbouring bases that the words hold."""
    cube = counts.reshape((4,) * bases.shape[1]).astype(np.float64)
    pairs = cube.sum(axis=tuple(range(2, cube.ndim)))
    first = pairs.sum(axis=1)
    follows = np.divide(pairs, first[:, None], out=np.zeros_like(pairs), where=first[:, None] > 0)
    expected: NDArray[np.float64] = first[bases[:, 0]]
    for place in range(1, bases.shape[1]):
        expected = expected * follows[bases[:, place - 1], bases[:, place]]
    return expected


def _is_moved(word: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    return any(
        np.array_equal(word[shift:], other[: len(word) - shift])
        or np.array_equal(other[shift:], word[: len(word) - shift])
        for shift in range(SHIFT_BP + 1)
    )


def start_stem(stem: TokenStem, words: Words) -> None:
    """Make the first filters of a stem match one word each; the others stay random.

    Parameters
    ----------
    stem : TokenStem
        Changed in place.
    words : ndarray of int, (n, k)
        At most as many as the stem has filters, and no longer than one.

    Raises
    ------
    ConfigError
        If a word is longer than a filter.
    """
    filters, length = stem.motifs.weight, words.shape[1]
    left = (filters.shape[2] - length) // 2
    if left < 0:
        raise ConfigError(f"word_bp ({length}) must not be above stem_bp ({filters.shape[2]}).")
    assert stem.motifs.bias is not None  # for the type checker
    with torch.no_grad():
        for number, word in enumerate(words):
            filters[number] = 0
            filters[number, :, left : left + length] = -1 / 3
            filters[number, torch.from_numpy(word), torch.arange(left, left + length)] = 1
            stem.motifs.bias[number] = THRESHOLD - length
