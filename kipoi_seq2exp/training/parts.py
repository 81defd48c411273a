"""From the `split` section of a config to rows of the gene table."""

from __future__ import annotations

import pandas as pd

from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.training import splits
from kipoi_seq2exp.training.sections import Scheme, SplitConfig


def make_split(genes: pd.DataFrame, config: SplitConfig) -> splits.Split:
    """Split a gene table as a config says.

    Raises
    ------
    ConfigError
        If a fold, chromosome, region, column or value is unknown, names no gene, or nothing is held out by a scheme
        that is meant to.
    """
    if config.scheme in (Scheme.ALL, Scheme.CROSS_VALIDATION):
        return splits.keep_all(genes)
    if config.scheme is Scheme.FOLD:
        split, said = splits.split_by_fold(genes, config.fold), f"fold '{config.fold}'"
    elif config.scheme is Scheme.CHROMOSOME:
        split, said = splits.split_by_chromosome(genes, config.validation, config.test), "chromosome"
    elif config.scheme is Scheme.REGION:
        split, said = splits.split_by_region(genes, config.validation, config.test), "region"
    else:
        split, said = (
            splits.split_by_column(genes, config.column, config.validation, config.test, config.train),
            "column",
        )
    if not len(split.validation) and not len(split.test):
        raise ConfigError(
            f"split: the scheme '{said}' holds out none of the {len(genes)} genes: name validation or test, or say "
            "'scheme: all' to train on every gene."
        )
    return split
