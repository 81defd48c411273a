"""Which genes `new-cell` holds out: whole chromosomes, stretches of the only one, or an error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.settings import from_mapping
from kipoi_seq2exp.training.new_cell import choose_split
from kipoi_seq2exp.training.sections import SplitConfig
from kipoi_seq2exp.training.splits import check_overlap, make_split

WINDOW = 200_000


def genes_at(tss):
    return pd.DataFrame({"gene_id": [f"G{i}" for i in range(len(tss))], "chrom": "chr9", "tss": tss})


@pytest.mark.parametrize(
    ("tss", "sizes"),
    [
        (np.arange(100) * 50_000, (74, 10, 10)),  # a window is four genes wide: three are left out at either border
        (np.concatenate([np.arange(70), np.arange(16) + 1_000, np.arange(14) + 2_000]) * 1_000, (70, 16, 14)),
        (np.arange(12) * 40_000 + 1, (7, 0, 1)),  # too few for two parts
    ],
)
def test_stretches_of_the_only_chromosome_are_held_out(tss, sizes):
    shuffled = genes_at(np.random.default_rng(0).permutation(tss))
    text, said = choose_split(shuffled, WINDOW)
    split = make_split(shuffled, from_mapping(SplitConfig, yaml.safe_load(text), "split"))
    assert (len(split.train), len(split.validation), len(split.test)) == sizes
    assert check_overlap(shuffled, split, WINDOW) == 0
    assert "the genes lie on one chromosome; train: chr9:" in said
    unused = len(tss) - sum(sizes)
    assert (f"{unused} genes between them left out" in said) == (unused > 0)


def test_genes_of_one_neighbourhood_cannot_be_held_out():
    with pytest.raises(ConfigError, match=r"all 30 genes lie on chr9, too near each other .* --train-on-all"):
        choose_split(genes_at(np.arange(30) * 10_000), WINDOW)
