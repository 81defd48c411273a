"""Invented DNA, tracks and contacts, written once for the bundled example and for the benchmark with a known truth.

Contract: nothing here comes from any organism. Only `.random()` of a generator is used, whose stream NumPy keeps
stable, so that a seed gives the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.files import whole_file

Bases = NDArray[np.uint8]
Floats = NDArray[np.float64]

BIN_BP, STEP_BP = 5_000, 25
"""Resolution of the contacts, and of the tracks."""

GAMMA = 0.87
ACROSS, LOOP = 0.3, 3.0
"""Exponent of contact with distance; factors of contact across a domain boundary, and in a loop."""

ENHANCER_MOTIFS = ("AGATAAGGAA", "GATGACTCATC")
MOTIF_SPACING_BP = 32
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_LETTERS = np.frombuffer(b"ATGC", dtype=np.uint8)


def random_bases(rng: np.random.Generator, gc: NDArray[Any]) -> Bases:
    """Draw one base for each entry of `gc` (its G+C content), as ASCII bytes."""
    strong, second = rng.random(gc.size) < gc, rng.random(gc.size) < 0.5
    drawn: Bases = _LETTERS[2 * strong + second]
    return drawn


def deplete_cpg(bases: Bases, rng: np.random.Generator) -> Bases:
    """Turn three CpG of four into TpG, in place, as methylated genomes have done."""
    cpg = np.flatnonzero((bases[:-1] == ord("C")) & (bases[1:] == ord("G")))
    bases[cpg[rng.random(cpg.size) < 0.75]] = ord("T")
    return bases


def plant_motifs(bases: Bases, centre: int, motifs: Sequence[str], copies: int, rng: np.random.Generator) -> None:
    """Write copies of motifs, of either strand, one about every 32 bp round the centre of an element, in place."""
    for slot in range(copies):
        motif = motifs[int(len(motifs) * rng.random())]
        if rng.random() < 0.5:
            motif = motif.translate(_COMPLEMENT)[::-1]
        start = centre - 105 + MOTIF_SPACING_BP * slot + int(8 * rng.random())
        bases[start : start + len(motif)] = np.frombuffer(motif.encode(), dtype=np.uint8)


def motif_copies(strength: float) -> int:
    """Return how many motifs an element of that strength has."""
    return 3 + round(2 * strength)


def background(rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
    """Draw DNase and H3K27ac outside elements, a value for each of `size` steps, that change every 500 bp."""
    coarse = rng.random((2, size * STEP_BP // 500 + 1))  # two thirds of DNase's are 0
    dnase = np.repeat(np.maximum(0, 0.18 * (coarse[0] - 0.67)), 500 // STEP_BP)[:size]
    h3k27ac = np.repeat(0.8 * coarse[1] ** 3, 500 // STEP_BP)[:size]
    return dnase, h3k27ac


def dnase_peak(at: Floats, centre: int, strength: float, wobble: float) -> Floats:
    """Return the DNase of an element at the places `at` (bp)."""
    return (0.4 + 5 * strength) * wobble * _bell(at, centre, 130)


def h3k27ac_peaks(at: Floats, centre: int, strength: float, wobble: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the H3K27ac of the nucleosomes on either side of an element at the places `at` (bp)."""
    height = 1.0 + 28 * strength
    left, right = (height * factor * _bell(at, place, 330) for factor, place in _sides(centre, wobble))
    return left, right


def _sides(centre: int, wobble: NDArray[Any]) -> list[tuple[float, int]]:
    return [(wobble[0], centre - 480), (wobble[1], centre + 480)]


def _bell(at: Floats, centre: float, width: float) -> Floats:
    return np.asarray(np.exp(-0.5 * ((at - centre) / width) ** 2))


def contact(a: NDArray[Any], b: int, boundaries: Iterable[int], loops: Iterable[tuple[int, int]]) -> Floats:
    """Return the expected contact of places `a` (bp) with the place `b` of their chromosome: 1 within 5 kb.

    Parameters
    ----------
    a : ndarray, (n,)
    b : int
    boundaries : iterable of int
        Ends of contact domains: contact across one is weakened by `ACROSS`.
    loops : iterable of (int, int)
        Two anchors each: contact of one with the other is raised by `LOOP`.
    """
    value = (np.maximum(np.abs(a - b), BIN_BP) / BIN_BP) ** -GAMMA
    for boundary in boundaries:
        value = np.where((a < boundary) != (b < boundary), ACROSS * value, value)
    for ends in loops:
        for left, right in (ends, ends[::-1]):
            looped = (np.abs(a - left) < BIN_BP) & (abs(b - right) < BIN_BP)
            value = np.where(looped, LOOP * value, value)
    return np.asarray(value)


def write_fasta(path: Path, genome: dict[str, Bases]) -> None:
    """Write one byte per base as FASTA, 60 bases a line, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as out:
        for chrom, bases in genome.items():
            text = bases.tobytes().decode("ascii")
            out.write(f">{chrom}\n")
            out.writelines(text[i : i + 60] + "\n" for i in range(0, len(text), 60))
