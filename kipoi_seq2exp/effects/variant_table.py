"""The variants of a VCF by place, on disk: a million of them take no more memory than a thousand.

Contract: a temporary SQLite file that disappears with the process. A variant's number is its row, from 0, in the order
of addition; its place is that of the bases it changes (`Variant.core`), at least one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kipoi_seq2exp.data.handles import Closes
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.variants import Variant, compared, vcf_alleles
from kipoi_seq2exp.errors import OutputError

_TABLE = """CREATE TABLE variant (number INTEGER PRIMARY KEY, first INTEGER, last INTEGER,
    chrom TEXT, pos INTEGER, ident TEXT, ref TEXT, alt TEXT, line INTEGER)"""
_REACHING = "FROM variant WHERE chrom = ? AND first > ? AND first < ? AND last > ?"


@dataclass
class Counts:
    """Numbers of alleles of a VCF.

    Attributes
    ----------
    plain, no_sequence : int
        Alleles with a plain sequence, and without one.
    mismatches : int
        Alleles whose REF is not what the genome has.
    """

    plain: int = 0
    no_sequence: int = 0
    mismatches: int = 0


class VariantTable(Closes):
    """Variants by place; a context manager that removes their file at its end.

    Parameters
    ----------
    variants : iterable of Variant
        Variants to start with.
    """

    def __init__(self, variants: Iterable[Variant] = ()) -> None:
        self._connection = sqlite3.connect("")  # a file of SQLite's own, which nobody else sees
        self._connection.execute(_TABLE)
        self._longest = 0
        self.add(variants)

    def close(self) -> None:
        """Remove the file."""
        self._connection.close()

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM variant").fetchone()[0])

    def add(self, variants: Iterable[Variant]) -> None:
        """Add variants, one by one.

        Raises
        ------
        OutputError
            If the disk has no room for them.
        """
        try:
            with self._connection:
                self._connection.execute("DROP INDEX IF EXISTS place")
                self._connection.executemany(
                    "INSERT INTO variant VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", map(self._row, variants)
                )
                self._connection.execute("CREATE INDEX place ON variant (chrom, first, last)")
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"the variants cannot be kept in a temporary file ({error}): free some space, or name another "
                f"folder for it (SQLITE_TMPDIR)."
            ) from None

    def read(self, path: Path, genome: Genome, *, skip_mismatch: bool = False) -> Counts:
        """Add the variants of a VCF whose REF matches the genome; errors as in `vcf_alleles` and `compared`."""
        counts = Counts()

        def plain() -> Iterable[Variant]:
            for allele in vcf_alleles(path):
                if allele is None:
                    counts.no_sequence += 1
                else:
                    counts.plain += 1
                    yield allele

        counts.mismatches = self.add_fitting(plain(), genome, str(path), skip_mismatch=skip_mismatch)
        return counts

    def add_fitting(
        self, variants: Iterable[Variant], genome: Genome, where: str, *, skip_mismatch: bool = False
    ) -> int:
        """Add the variants whose REF matches the genome; return the number of the others.

        Arguments and errors are those of `compared`.
        """
        mismatches = 0

        def fitting() -> Iterable[Variant]:
            nonlocal mismatches
            for variant, fits in compared(variants, genome, where, skip_mismatch=skip_mismatch):
                if fits:
                    yield variant
                else:
                    mismatches += 1

        self.add(fitting())
        return mismatches

    def count(self, chrom: str, start: int, end: int) -> int:
        """Return how many variants change a base of an interval."""
        query = f"SELECT count(*) {_REACHING}"
        return int(self._connection.execute(query, self._where(chrom, start, end)).fetchone()[0])

    def numbers(self, chrom: str, start: int, end: int, skip: int = 0, most: int = -1) -> list[int]:
        """Return the sorted numbers of variants that change a base of an interval: `most` after the first `skip`."""
        query = f"SELECT number {_REACHING} ORDER BY number LIMIT ? OFFSET ?"
        found = self._connection.execute(query, (*self._where(chrom, start, end), most, skip))
        return [number - 1 for (number,) in found]

    def __getitem__(self, number: int) -> Variant:
        query = "SELECT chrom, pos, ident, ref, alt, line FROM variant WHERE number = ?"
        return Variant(*self._connection.execute(query, [number + 1]).fetchone())

    def _row(self, variant: Variant) -> tuple[object, ...]:
        first, ref, _ = variant.core()
        length = max(len(ref), 1)
        self._longest = max(self._longest, length)
        named = (variant.chrom, variant.pos, variant.ident, variant.ref, variant.alt, variant.line)
        return (first, first + length, *named)

    def _where(self, chrom: str, start: int, end: int) -> tuple[object, ...]:
        return chrom, start - self._longest, end, start
