"""A stem that starts from words: planted motifs are found, and a filter says yes to its own word alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kipoi_seq2exp.config import NetworkConfig
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.motifs import THRESHOLD, frequent_words, start_stem
from kipoi_seq2exp.nn.tokens import TokenStem

MOTIF = "AGATAAGG"
CODES = {base: code for code, base in enumerate("ACGT")}


def window(seed: int, motif: str, at: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Random DNA with a motif in the middle of ten stretches of 20 bases, and those stretches."""
    codes = np.random.default_rng(seed).integers(0, 4, 4_000)
    chosen = np.zeros(len(codes), dtype=bool)
    for start in range(at, len(codes) - 20, 400):
        codes[start : start + len(motif)] = [CODES[base] for base in motif]
        chosen[start - 6 : start + len(motif) + 6] = True
    return np.eye(4, dtype=np.uint8)[codes], chosen


def spelled(words: np.ndarray) -> list[str]:
    return ["".join("ACGT"[code] for code in word) for word in words]


def test_a_planted_motif_and_its_complement_come_first():
    found = spelled(frequent_words([window(seed, MOTIF) for seed in range(10)], 8, 6))
    assert set(found[:2]) == {MOTIF, "CCTTATCT"}
    assert "GATAAGGA" not in found  # the same word, moved


def test_words_are_looked_for_in_chosen_and_known_places_alone():
    windows = [window(seed, MOTIF) for seed in range(10)]
    elsewhere = spelled(frequent_words([(onehot, ~chosen) for onehot, chosen in windows], 8, 6))
    assert MOTIF not in elsewhere
    unknown = [(onehot * (~chosen)[:, None], np.ones_like(chosen)) for onehot, chosen in windows]
    assert MOTIF not in spelled(frequent_words(unknown, 8, 6))
    assert frequent_words([(np.zeros((50, 4), np.uint8), np.ones(50, bool))], 8, 6).shape == (0, 8)


@pytest.mark.parametrize("word_bp", [2, 11])
def test_a_length_out_of_bounds_is_refused(word_bp):
    with pytest.raises(ConfigError, match=f"word_bp must lie between 3 and 10, found {word_bp}"):
        frequent_words([], word_bp, 4)


def stem(**changes: int) -> TokenStem:
    return TokenStem(NetworkConfig(**{"d_model": 4, "token_bp": 50, "stem_bp": 15, "promoter_bp": 100, **changes}))


def test_a_filter_answers_its_own_word_alone():
    torch.manual_seed(0)
    network = stem()
    before = network.motifs.weight.detach().clone()
    start_stem(network, np.array([[CODES[base] for base in MOTIF]]))

    def answer(word: str) -> float:
        onehot = torch.zeros(1, 4, 40)
        onehot[0, [CODES[base] for base in word], torch.arange(12, 12 + len(word))] = 1
        return float(network.motifs(onehot)[0, 0].detach().max())

    assert answer(MOTIF) == pytest.approx(THRESHOLD)
    assert answer("AGATCAGG") == pytest.approx(THRESHOLD - 4 / 3, abs=1e-5)  # one base is wrong
    assert answer("CCCCCCCC") < 0
    assert torch.equal(network.motifs.weight[1:], before[1:])


def test_a_word_longer_than_a_filter_is_refused():
    with pytest.raises(ConfigError, match=r"word_bp \(8\) must not be above stem_bp \(7\)"):
        start_stem(stem(stem_bp=7), np.zeros((1, 8), dtype=np.int64))
