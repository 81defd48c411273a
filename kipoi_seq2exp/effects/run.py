"""Variant effects as units of work (see `prediction.units`): a gene with some of the variants that reach it.

Contract: a gene's own window is predicted once for all of its units that are computed one after the other. Rows are
kept in the order of the variants, then of the genes, whoever computed them, and are read in stretches: memory does not
grow with the number of variants.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from kipoi_seq2exp.data.variants import Variant
from kipoi_seq2exp.effects.variants import COLUMNS, Reference, gene_effects, predict_reference, spans_in_reach
from kipoi_seq2exp.prediction.units import Bench, Unit, UnitStore, reading_units

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.effects.variant_table import VariantTable

STORE_NAME = "variants.sqlite"
UNIT = 32  # variants of a unit, at most
STRETCH = 10_000  # rows that are read together
Span = tuple[str, int, int]


@dataclass(frozen=True)
class GeneVariants:
    """A row of the gene table, and some of the variants in its reach with their rows in the list of all variants."""

    gene: int
    numbers: tuple[int, ...]
    variants: tuple[Variant, ...]


class EffectUnits:
    """The units of a run: every gene with the variants in its reach, `UNIT` at a time; can be iterated repeatedly.

    Parameters
    ----------
    dataset : WindowDataset
    table : VariantTable

    Raises
    ------
    InputError
        If no variant lies in the window of any gene.
    """

    def __init__(self, dataset: WindowDataset, table: VariantTable) -> None:
        self._table, self._spans = table, spans_in_reach(dataset, table)

    def __iter__(self) -> Iterator[Unit]:
        for gene, span in self._spans:
            count = self._table.count(*span)
            for first in range(0, count, UNIT):
                size = min(UNIT, count - first)
                what = f"variants {first + 1} to {first + size} of the gene in row {gene + 1} of the table"
                yield Unit(f"{gene}:{first}+{size}", what, size, partial(self._load, gene, span, first, size))

    def _load(self, gene: int, span: Span, first: int, size: int) -> GeneVariants:
        numbers = tuple(self._table.numbers(*span, first, size))
        return GeneVariants(gene, numbers, tuple(self._table[number] for number in numbers))


class EffectJob:
    """Predicts a unit; the reference of the last gene is kept."""

    def __init__(self) -> None:
        self._reference: Reference | None = None

    def __call__(self, bench: Bench, unit: GeneVariants) -> list[dict[str, Any]]:
        """Return the rows of `gene_effects`."""
        if self._reference is None or self._reference.gene != unit.gene:
            self._reference = predict_reference(bench.model, bench.dataset, unit.gene)
        return gene_effects(bench.model, bench.dataset, self._reference, unit.numbers, unit.variants, bench.batch_size)


def variant_effects(bench: Bench, table: VariantTable) -> pd.DataFrame:
    """Predict every gene with every variant within its reach, in this process and in memory.

    Parameters
    ----------
    bench : Bench
    table : VariantTable
        Variants whose REF is that of the data set's genome.

    Returns
    -------
    DataFrame
        A row per variant and gene, in the order of the variants, then of the genes: `COLUMNS` (POS as in the VCF,
        distance_to_tss in bp along the gene, expressions in the unit of the prediction; mask_ref is the mean mask
        within `variants.FLANK_BP` of the variant, delta_mask its change, delta_mask_max the largest change of any base
        of the window), then variant, its number in the table. The promoter, which is forced into the mask, has no part
        in the mask's columns: they are NaN for a variant inside it and for a network without a mask. Only bases that
        both alleles have are compared.

    Raises
    ------
    InputError
        If no variant lies in the window of any gene.
    """
    job, rows = EffectJob(), []
    for unit in EffectUnits(bench.dataset, table):
        loaded = unit.load()
        rows += [{**row, "gene": loaded.gene} for row in job(bench, loaded)]
    found = pd.DataFrame(rows).sort_values(["variant", "gene"], ignore_index=True)
    return found.drop(columns=["gene", "line"])


class EffectStore(UnitStore):
    """Keeps effects row by row."""

    TABLES: ClassVar[tuple[str, ...]] = (
        *UnitStore.TABLES,
        "CREATE TABLE effect (variant INTEGER, gene INTEGER, line INTEGER, row TEXT NOT NULL, "
        "PRIMARY KEY (variant, gene)) WITHOUT ROWID",
    )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of rows, of variants and of genes."""
        query = "SELECT count(*), count(DISTINCT variant), count(DISTINCT gene) FROM effect"
        with reading_units(self.path):
            rows, variants, genes = self._connection.execute(query).fetchone()
        return rows, variants, genes

    def _insert(self, key: str, result: Sequence[dict[str, Any]]) -> None:
        gene = int(key.partition(":")[0])
        self._connection.execute("INSERT INTO done VALUES (?, NULL)", [key])
        rows = [(row["variant"], gene, row["line"], json.dumps([row[name] for name in COLUMNS])) for row in result]
        self._connection.executemany("INSERT INTO effect VALUES (?, ?, ?, ?)", rows)

    def tables(self) -> Iterator[pd.DataFrame]:
        """Yield all rows in the order of the variants, then of the genes, `STRETCH` at a time.

        Columns: `COLUMNS`, then variant, the row of the list of all variants, and line, that of the VCF.
        """
        with reading_units(self.path):
            cursor = self._connection.execute("SELECT variant, line, row FROM effect ORDER BY variant, gene")
            while rows := cursor.fetchmany(STRETCH):
                table = pd.DataFrame([json.loads(row) for *_, row in rows], columns=list(COLUMNS))
                yield table.assign(variant=[row[0] for row in rows], line=[row[1] for row in rows])
