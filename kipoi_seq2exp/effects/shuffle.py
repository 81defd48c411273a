"""DNA shuffled with every dinucleotide kept: what DNA of the same composition does by chance.

Written here because the packages that offer it accept known bases only and bring a deep-learning stack of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bases = NDArray[np.uint8]


def shuffle_dinucleotides(onehot: Bases, random: np.random.Generator) -> Bases:
    """Shuffle DNA, keeping its first and last base and the number of each dinucleotide (Altschul and Erickson 1985).

    Parameters
    ----------
    onehot : ndarray of uint8, (n, 4)
        Unknown bases (zeros) stay where they are; the stretches between them are shuffled one by one.
    random : Generator

    Returns
    -------
    ndarray of uint8, (n, 4)
    """
    known = onehot.any(axis=1)
    edges = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    shuffled = onehot.copy()
    for start, end in edges:
        letters = _shuffle_letters(onehot[start:end].argmax(axis=1), random)
        shuffled[start:end] = np.eye(4, dtype=onehot.dtype)[letters]
    return shuffled


def _shuffle_letters(letters: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Walk over all dinucleotides in a random order that ends where the stretch ends."""
    if len(letters) < 4:
        return letters
    followers = [letters[1:][letters[:-1] == letter] for letter in range(4)]
    last = int(letters[-1])
    while True:  # the last exits of the letters must lead to the last base: one in four draws does at the least
        exits = {
            letter: int(random.integers(len(f))) for letter, f in enumerate(followers) if len(f) and letter != last
        }
        if _all_lead_to(last, {letter: int(followers[letter][place]) for letter, place in exits.items()}):
            break
    order = []
    for letter, found in enumerate(followers):
        if letter in exits:
            rest = np.delete(found, exits[letter])
            order.append(iter([*random.permutation(rest), found[exits[letter]]]))
        else:
            order.append(iter(random.permutation(found)))
    walk = [int(letters[0])]
    for _ in range(len(letters) - 1):
        walk.append(int(next(order[walk[-1]])))
    return np.array(walk)


def _all_lead_to(last: int, exits: dict[int, int]) -> bool:
    for letter in exits:
        seen = {letter}
        while letter != last:
            letter = exits[letter]
            if letter in seen:
                return False
            seen.add(letter)
    return True
