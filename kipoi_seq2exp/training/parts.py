"""From the `split` section of a config to rows of the gene table."""

from __future__ import annotations

import pandas as pd

from kipoi_seq2exp.training import splits
from kipoi_seq2exp.training.sections import Scheme, SplitConfig


def make_split(genes: pd.DataFrame, config: SplitConfig) -> splits.Split:
    """Split a gene table as a config says.

    Raises
    ------
    ConfigError
        If a fold, chromosome, region, column or value is unknown.
    """
    if config.scheme is Scheme.FOLD:
        return splits.split_by_fold(genes, config.fold)
    if config.scheme is Scheme.CHROMOSOME:
        return splits.split_by_chromosome(genes, config.validation, config.test)
    if config.scheme is Scheme.REGION:
        return splits.split_by_region(genes, config.validation, config.test)
    if config.scheme is Scheme.COLUMN:
        return splits.split_by_column(genes, config.column, config.validation, config.test, config.train)
    return splits.keep_all(genes)
