"""What the benchmark of DNA reads and fits, against the same by hand and on planted answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import dna

from kipoi_seq2exp.data.sequence import encode_bases

GENES, SEGMENTS = 120, 6


def test_words_are_counted_between_two_distances():
    sequence = "A" * dna.FLANK_BP + "GTGTN" + "A" * (dna.FLANK_BP - 5)  # the TSS is the first G
    one_strand = dna.words(2, 0, 5, either_strand=False)(sequence)
    assert sorted(np.expm1(one_strand).round(6))[-2:] == [1, 2]  # TG once, GT twice; what holds an N is no word
    assert len(one_strand) == 16
    both = dna.words(2, 0, 5)(sequence)  # AC is GT of the other strand, CA is TG
    assert len(both) == 10
    assert np.expm1(both).sum() == pytest.approx(3)


def test_composition_is_of_the_interval():
    gc, cpg, ratio = dna.composition("A" * (dna.FLANK_BP - 250) + "CG" * 250 + "A" * (dna.FLANK_BP - 250))[:3]
    assert (gc, cpg, ratio) == (1.0, 0.5, 2.0)


def planted(strength: float) -> pd.DataFrame:
    """Return genes on six segments whose left-over follows how often CG stands at the TSS."""
    random = np.random.default_rng(0)
    counts = random.integers(0, 60, GENES)
    middle = ["".join(random.permutation(["CG"] * n + ["AT"] * (100 - n))) for n in counts]
    flank = "A" * (dna.FLANK_BP - 100)
    left = strength * (counts - counts.mean()) / counts.std() + random.normal(size=GENES)
    segment = np.repeat([f"s{i}" for i in range(SEGMENTS)], GENES // SEGMENTS)
    return pd.DataFrame(
        {"chrom": segment, "tss": np.arange(GENES) * 300_000, "segment": segment, "left": left}
        | {"dna": [flank + bases + flank for bases in middle]}
    )


def test_a_planted_word_is_found_in_segments_left_out_and_noise_is_not():
    reading = dna.words(2, -100, 100, either_strand=False)
    table, noise = planted(2.0), planted(0.0)
    found = dna.share(table, np.array([reading(bases) for bases in table["dna"]]))
    assert 0.5 < found.low < found.value < found.high < 1
    nothing = dna.share(noise, np.array([reading(bases) for bases in noise["dna"]]))
    assert nothing.low < 0.02
    assert nothing.value < 0.1


def test_dna_is_read_5_to_3():
    letters = b"N" * dna.FLANK_BP + b"ACG" + b"T" * (dna.FLANK_BP - 3)
    onehot = encode_bases(letters)
    assert dna.bases(onehot, "+") == letters.decode()
    assert dna.bases(onehot, "-") == "A" * (dna.FLANK_BP - 3) + "CGT" + "N" * dna.FLANK_BP
