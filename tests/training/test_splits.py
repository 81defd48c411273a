"""Splits hold out what they say, and windows that leak from one split into another are found."""

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.settings import from_mapping
from kipoi_seq2exp.training import splits
from kipoi_seq2exp.training.sections import SplitConfig
from kipoi_seq2exp.training.splits import make_split


def gene_table(chroms, tss, **columns):
    return pd.DataFrame({"gene_id": [f"G{i}" for i in range(len(tss))], "chrom": chroms, "tss": tss, **columns})


def whole_genome():
    names = [f"chr{name}" for name in [*range(1, 23), "X"]]
    return gene_table(np.repeat(names, 2), np.tile([1_000_000, 2_000_000], len(names)))


@pytest.mark.parametrize(
    ("fold", "test", "validation"),
    [
        ("1", ["chr2", "chr12"], ["chr1", "chr11"]),
        ("3", ["chr4", "chr14"], ["chr3", "chr13"]),
        ("9", ["chr10", "chr20"], ["chr9", "chr19"]),
        ("10", ["chr11", "chr21"], ["chr10", "chr20"]),
        ("11", ["chr22", "chrX"], ["chr3", "chr21"]),
        ("12", ["chr1"], ["chr2", "chr22"]),
    ],
)
def test_paper_folds_hold_out_the_published_chromosomes(fold, test, validation):
    genes = whole_genome()
    split = splits.split_by_fold(genes, fold)
    assert set(genes["chrom"].iloc[split.test]) == set(test)
    assert set(genes["chrom"].iloc[split.validation]) == set(validation)
    assert len(split.train) + len(split.validation) + len(split.test) == len(genes)


def test_every_chromosome_is_tested_in_exactly_one_fold_or_is_in_fold_eleven_and_twelve():
    tested = [chrom for fold in splits.PAPER_FOLDS.values() for chrom in fold.test]
    assert sorted(set(tested)) == sorted({f"chr{name}" for name in [*range(1, 23), "X"]})


def test_cross_validation_predicts_every_gene_once():
    genes = gene_table(["chr1"] * 6, np.arange(6) * 10, region=["b", "a", "a", "c", "c", "b"])
    folds = splits.cross_validation(genes, "region", validation={"a": "b"})
    assert list(folds) == ["a", "b", "c"]
    assert sorted(np.concatenate([split.test for split in folds.values()])) == list(range(6))
    assert folds["a"].validation.tolist() == [0, 5]
    assert folds["a"].train.tolist() == [3, 4]
    assert folds["b"].train.tolist() == [1, 2, 3, 4]


def test_regions_are_half_open():
    genes = gene_table(["chr1", "chr1", "chr1", "chr2"], [99, 100, 200, 150])
    split = splits.split_by_region(genes, validation=[], test=["chr1:101-200"])
    assert split.test.tolist() == [1]
    assert split.train.tolist() == [0, 2, 3]


def test_column_split_can_leave_genes_out():
    genes = gene_table(["chr1"] * 4, [1, 2, 3, 4], region=["a", "b", "c", "d"])
    split = splits.split_by_column(genes, "region", validation=["a"], test=["b"], train=["c"])
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == ([2], [0], [1])


@pytest.mark.parametrize(("distance", "leaks"), [(999, 1), (1_000, 0)])
def test_windows_that_share_a_base_are_found(distance, leaks):
    genes = gene_table(["chr1", "chr1", "chr2"], [5_000, 5_000 + distance, 5_000])
    split = splits.Split(np.array([0]), np.array([], dtype=np.int64), np.array([1, 2]))
    assert splits.check_overlap(genes, split, 1_000, allow=True) == leaks
    if leaks:
        with pytest.raises(InputError, match=r"G1 \(test\) and G0 \(train\).*allow_overlap"):
            splits.check_overlap(genes, split, 1_000)


def test_overlap_equals_the_plain_count():
    rng = np.random.default_rng(0)
    genes = gene_table(rng.choice(["chr1", "chr2"], 60), rng.integers(0, 50_000, 60))
    part = rng.integers(0, 3, 60)
    split = splits.Split(*(np.flatnonzero(part == i) for i in range(3)))
    plain = 0
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for row in np.flatnonzero(part == second):
            near = (genes["chrom"] == genes["chrom"][row]) & ((genes["tss"] - genes["tss"][row]).abs() < 700)
            plain += bool((near & (part == first)).any())
    assert plain > 0
    assert splits.check_overlap(genes, split, 700, allow=True) == plain


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: splits.split_by_fold(g, "13"), "folds are named '1' to '12'"),
        (lambda g: splits.split_by_chromosome(g, ["chr3"], ["chr1"]), "no gene has the chromosome 'chr3'"),
        (lambda g: splits.split_by_chromosome(g, ["chr1"], ["chr1"]), "in validation and in test at once"),
        (lambda g: splits.split_by_region(g, [], ["chr1-5"]), "is not a region"),
        (lambda g: splits.split_by_region(g, [], ["chr1:9-5"]), "is not a region"),
        (lambda g: splits.split_by_column(g, "regoin", [], ["a"]), "did you mean 'region'"),
        (lambda g: splits.split_by_column(g, "region", [], ["z"]), "no gene has the value of the column 'region' 'z'"),
        (lambda g: splits.keep_all(g).rows("tets"), "unknown split 'tets'.*'test'"),
    ],
)
def test_bad_splits_are_named(call, message):
    genes = gene_table(["chr1", "chr2"], [5, 6], region=["a", "b"])
    with pytest.raises(ConfigError, match=message):
        call(genes)


def test_an_empty_part_and_an_empty_cell_are_named():
    genes = gene_table(["chr1", "chr2"], [5, 6], region=["a", None])
    with pytest.raises(InputError, match="'region' is empty for the gene G1"):
        splits.cross_validation(genes, "region")
    with pytest.raises(InputError, match=r"validation split holds no gene \(train 2, validation 0, test 0\)"):
        splits.check_parts(splits.keep_all(genes), needed=["train", "validation"])
    with pytest.raises(InputError, match="needs two or more"):
        splits.cross_validation(gene_table(["chr1"], [1], region=["a"]), "region")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"scheme": "column", "column": "segment"}, "the scheme 'column' holds out none of the"),
        ({"scheme": "chromosome"}, "the scheme 'chromosome' holds out none of the .* say 'scheme: all'"),
        ({"scheme": "fold", "fold": "9"}, "the scheme 'fold '9'' holds out none"),
        ({"scheme": "region", "test": ["chr1:5-9"]}, "no gene has its TSS in the region 'chr1:5-9'"),
        ({"scheme": "region", "test": ["1:5-9"]}, "no gene has its TSS in the region '1:5-9' .*chr"),
        ({"scheme": "column", "column": "segment", "test": ["z"]}, "no gene has the value of the column 'segment' 'z'"),
    ],
)
def test_a_split_that_holds_nothing_out_is_an_error(split, message):
    genes = pd.DataFrame({"gene_id": list("abc"), "chrom": ["chr1", "chr2", "chr5"], "tss": [500, 600, 700]})
    genes["segment"] = ["x", "x", "y"]
    with pytest.raises(ConfigError, match=message):
        make_split(genes, from_mapping(SplitConfig, split, "split"))
    assert len(make_split(genes, from_mapping(SplitConfig, {"scheme": "all"}, "split")).train) == 3
