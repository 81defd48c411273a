"""Which genes train, choose and judge a model: by chromosome, by the paper's folds, by region or by a column.

Contract: a gene table in (columns `chrom`, `tss`), row numbers out. Windows of two parts that overlap would let a model
see the DNA and the tracks it is judged on: `check_overlap` finds them and refuses them unless allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from kipoi_seq2exp.data.windows import parse_region
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.settings import suggest
from kipoi_seq2exp.training.sections import Scheme, SplitConfig

Rows = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fold:
    """Chromosomes held out in one of the paper's twelve cross-validation folds."""

    test: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Row numbers of the gene table for each purpose; rows in none of them are left out.

    Attributes
    ----------
    train, validation, test : int64 array, (n,)
        Sorted row numbers, disjoint.
    """

    train: Rows
    validation: Rows
    test: Rows

    def rows(self, part: str) -> Rows:
        """Return the rows of "train", "validation", "test", or of "all" three together."""
        if part == "all":
            return np.sort(np.concatenate([self.train, self.validation, self.test]))
        if part not in PARTS:
            raise ConfigError(f"unknown split '{part}'{suggest(part, (*PARTS, 'all'))}.")
        rows: Rows = getattr(self, part)
        return rows


PARTS = ("train", "validation", "test")


def _paper_folds() -> dict[str, Fold]:
    folds = {
        str(i): Fold(test=(f"chr{i + 1}", f"chr{i + 11}"), validation=(f"chr{i}", f"chr{i + 10}")) for i in range(1, 11)
    }
    folds["11"] = Fold(test=("chr22", "chrX"), validation=("chr3", "chr21"))
    folds["12"] = Fold(test=("chr1",), validation=("chr2", "chr22"))
    return folds


PAPER_FOLDS = _paper_folds()
"""The twelve folds by name, "1" to "12"; the paper reports fold "11"."""


def split_by_fold(genes: pd.DataFrame, fold: str) -> Split:
    """Split by one of the paper's folds, by name ("1" to "12")."""
    if fold not in PAPER_FOLDS:
        raise ConfigError(f"unknown fold '{fold}': the paper's folds are named '1' to '12'.")
    chosen = PAPER_FOLDS[fold]
    return split_by_chromosome(genes, validation=chosen.validation, test=chosen.test, strict=False)


def split_by_chromosome(
    genes: pd.DataFrame, validation: Sequence[str], test: Sequence[str], *, strict: bool = True
) -> Split:
    """Hold out whole chromosomes; everything else trains.

    Raises
    ------
    ConfigError
        If a chromosome is named twice, or (``strict``) no gene lies on it.
    """
    chroms = genes["chrom"].astype(str).to_numpy()
    if strict:
        _check_known([*validation, *test], set(chroms), "chromosome")
    return _from_masks(np.isin(chroms, list(validation)), np.isin(chroms, list(test)))


def split_by_region(
    genes: pd.DataFrame, validation: Sequence[str], test: Sequence[str], train: Sequence[str] = ()
) -> Split:
    """Hold out genes by regions of their TSS, such as "chr22:16,370,001-18,220,000" (as browsers write).

    ``train`` limits what trains (empty: all genes elsewhere).
    """
    split = _from_masks(_in_regions(genes, validation), _in_regions(genes, test))
    return _limited(split, _in_regions(genes, train)) if train else split


def split_by_column(
    genes: pd.DataFrame, column: str, validation: Sequence[str], test: Sequence[str], train: Sequence[str] = ()
) -> Split:
    """Hold out genes by the value of a column; ``train`` limits what trains (empty: all other values)."""
    values = _column(genes, column)
    _check_known([*validation, *test, *train], set(values), f"value of the column '{column}'")
    split = _from_masks(np.isin(values, list(validation)), np.isin(values, list(test)))
    return _limited(split, np.isin(values, list(train))) if train else split


def cross_validation(genes: pd.DataFrame, column: str, validation: dict[str, str] | None = None) -> dict[str, Split]:
    """Leave out each value of a column once, so that every gene is predicted by a model that never saw its region.

    Parameters
    ----------
    genes : DataFrame
        The gene table.
    column : str
        Column that names the region of each gene.
    validation : dict, optional
        For a region that is tested, the region that validates; without one, no gene validates.

    Returns
    -------
    dict of str to Split
        Region left out to its split, in sorted order; the test rows together are all genes, each once.
    """
    values = _column(genes, column)
    names = sorted(set(values.tolist()))
    if len(names) < 2:
        raise InputError(f"the column '{column}' holds the one value {names}: cross-validation needs two or more.")
    chosen = validation or {}
    return {name: split_by_column(genes, column, [chosen[name]] if name in chosen else [], [name]) for name in names}


def keep_all(genes: pd.DataFrame) -> Split:
    """Train on every gene; nothing is held out."""
    nothing = np.zeros(0, dtype=np.int64)
    return Split(np.arange(len(genes), dtype=np.int64), nothing, nothing)


def check_overlap(genes: pd.DataFrame, split: Split, window_bp: int, *, allow: bool = False) -> int:
    """Count the genes whose window overlaps one of another part of the split; refuse any unless allowed.

    Parameters
    ----------
    genes : DataFrame
        The gene table, with `gene_id`, `chrom` and `tss`.
    split : Split
        Rows of each part.
    window_bp : int
        Length of the window that the network sees.
    allow : bool
        Return the count instead of raising.

    Returns
    -------
    int
        Number of genes of validation and test that share bases with a window of an earlier part.

    Raises
    ------
    InputError
        If windows of two parts overlap and ``allow`` is false.
    """
    total, example = 0, ""
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for row, other in _overlapping(genes, split.rows(first), split.rows(second), window_bp):
            total += 1
            if not example:
                names = genes["gene_id"].iloc[row], genes["gene_id"].iloc[other]
                example = f"{names[0]} ({second}) and {names[1]} ({first})"
    if total and not allow:
        raise InputError(
            f"{total} windows of {window_bp:,} bp overlap a window of another split, for example {example}: "
            "hold out whole regions, or set split.allow_overlap to true and say so beside the scores."
        )
    return total


def check_parts(split: Split, *, needed: Sequence[str]) -> None:
    """Refuse a split in which a required part has no gene."""
    for part in needed:
        if len(split.rows(part)) == 0:
            sizes = ", ".join(f"{name} {len(split.rows(name))}" for name in PARTS)
            raise InputError(
                f"the {part} split holds no gene ({sizes}): check the split's chromosomes, regions or column."
            )


# ------------------------------------------------------------------------------------------------------------ helpers


def _overlapping(genes: pd.DataFrame, known: Rows, judged: Rows, window_bp: int) -> list[tuple[int, int]]:
    """Pair each judged row with one known row whose TSS is less than a window away."""
    found: list[tuple[int, int]] = []
    chroms, tss = genes["chrom"].astype(str).to_numpy(), genes["tss"].to_numpy(dtype=np.int64)
    for chrom in sorted(set(chroms[judged])):
        here = known[chroms[known] == chrom]
        if len(here) == 0:
            continue
        here = here[np.argsort(tss[here], kind="stable")]
        rows = judged[chroms[judged] == chrom]
        right = np.searchsorted(tss[here], tss[rows])
        for row, place in zip(rows.tolist(), right.tolist(), strict=True):
            near = [int(here[i]) for i in (place - 1, place) if 0 <= i < len(here)]
            nearest = min(near, key=lambda other: abs(int(tss[other]) - int(tss[row])))
            if abs(int(tss[nearest]) - int(tss[row])) < window_bp:
                found.append((row, nearest))
    return found


def _from_masks(validation: Chosen, test: Chosen) -> Split:
    both = int((validation & test).sum())
    if both:
        raise ConfigError(f"{both} genes are in validation and in test at once: the two must not share anything.")
    rows = [np.flatnonzero(chosen).astype(np.int64) for chosen in (~(validation | test), validation, test)]
    return Split(*rows)


def _limited(split: Split, chosen: Chosen) -> Split:
    return Split(split.train[chosen[split.train]], split.validation, split.test)


def _column(genes: pd.DataFrame, column: str) -> npt.NDArray[np.str_]:
    if column not in genes.columns:
        raise ConfigError(f"the gene table has no column '{column}'{suggest(column, map(str, genes.columns))}.")
    if genes[column].isna().any():
        row = int(np.flatnonzero(genes[column].isna().to_numpy())[0])
        raise InputError(f"the column '{column}' is empty for the gene {genes['gene_id'].iloc[row]}.")
    values: npt.NDArray[np.str_] = genes[column].astype(str).to_numpy(dtype=np.str_)
    return values


def _check_known(names: Sequence[str], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"no gene has the {what} '{name}'{suggest(name, known)}.")


def _in_regions(genes: pd.DataFrame, regions: Sequence[str]) -> Chosen:
    chroms, tss = genes["chrom"].astype(str).to_numpy(), genes["tss"].to_numpy(dtype=np.int64)
    chosen = np.zeros(len(genes), dtype=bool)
    for region in regions:
        place = parse_region(region)
        inside = (chroms == place.chrom) & (tss >= place.start) & (tss < place.end)
        if not inside.any():
            raise ConfigError(f"no gene has its TSS in the region '{region}'{_chromosomes(place.chrom, chroms)}.")
        chosen |= inside
    return chosen


def _chromosomes(chrom: str, chroms: npt.NDArray[np.str_]) -> str:
    return "" if chrom in chroms else suggest(chrom, set(chroms.tolist()))


def make_split(genes: pd.DataFrame, config: SplitConfig) -> Split:
    """Split a gene table as a config says.

    Raises
    ------
    ConfigError
        If a fold, chromosome, region, column or value is unknown, names no gene, or nothing is held out by a scheme
        that is meant to.
    """
    if config.scheme in (Scheme.ALL, Scheme.CROSS_VALIDATION):
        return keep_all(genes)
    if config.scheme is Scheme.FOLD:
        split, said = split_by_fold(genes, config.fold), f"fold '{config.fold}'"
    elif config.scheme is Scheme.CHROMOSOME:
        split, said = split_by_chromosome(genes, config.validation, config.test), "chromosome"
    elif config.scheme is Scheme.REGION:
        split, said = split_by_region(genes, config.validation, config.test, config.train), "region"
    else:
        split, said = (
            split_by_column(genes, config.column, config.validation, config.test, config.train),
            "column",
        )
    if not len(split.validation) and not len(split.test):
        raise ConfigError(
            f"split: the scheme '{said}' holds out none of the {len(genes)} genes: name validation or test, or say "
            "'scheme: all' to train on every gene."
        )
    return split
