"""Variants of a VCF: read line by line, split by allele, checked against the genome.

Contract: positions are 0-based here, as everywhere in this package (a VCF counts from 1); letters are upper case. An
allele that is not a plain sequence ('*', '<DEL>', breakends, '.') cannot be put into a window: it is counted and left
out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.text import text_lines, whole_number
from kipoi_seq2exp.errors import InputError, counted, excerpt

_BASES = re.compile(r"[ACGTN]+\Z")


@dataclass(frozen=True)
class Variant:
    """One alternative allele of one record.

    Attributes
    ----------
    chrom : str
    pos : int
        0-based position of the first base of `ref`.
    ident, ref, alt : str
        As in the file, letters in upper case.
    line : int
        Line of the file, from 1.
    """

    chrom: str
    pos: int
    ident: str
    ref: str
    alt: str
    line: int

    def __str__(self) -> str:
        """Return e.g. "chr22:1000 A>G" (1-based, as in the file)."""
        return f"{self.chrom}:{self.pos + 1} {self.ref}>{self.alt}"

    def core(self) -> tuple[int, str, str]:
        """Return the position, the deleted and the inserted letters, without the ends that `ref` and `alt` share."""
        ref, alt, pos = self.ref, self.alt, self.pos
        while ref and alt and ref[-1] == alt[-1]:
            ref, alt = ref[:-1], alt[:-1]
        while ref and alt and ref[0] == alt[0]:
            ref, alt, pos = ref[1:], alt[1:], pos + 1
        return pos, ref, alt


def vcf_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a VCF, plain or compressed, without their ends; numbers from 1."""
    yield from text_lines(path, str(path))


def vcf_alleles(path: Path) -> Iterator[Variant | None]:
    """Yield the alternative alleles of a VCF line by line; None for one that is not a plain sequence.

    Raises
    ------
    InputError
        If the file is missing or damaged, or a line is not a VCF record (the line is named). At the end, if the file
        holds no variants.
    """
    count, no_sequence, named = 0, 0, False
    for number, text in vcf_lines(path):
        named = named or text.startswith("#CHROM\t")
        if text.startswith("#") or not text.strip():
            continue
        fields = text.split("\t", 5)
        if len(fields) < 5:
            raise InputError(
                f"{path}, line {number}: expected a VCF record (CHROM, POS, ID, REF, ALT, ..., separated by tabs), "
                f"found {excerpt(text, 60)!r}."
            )
        if not named:
            raise InputError(
                f"{path}, line {number}: a record comes before the line that names the columns (#CHROM, POS, ID, ...): "
                f"give the VCF with its header."
            )
        for allele in _alleles(path, number, fields):
            count, no_sequence = count + (allele is not None), no_sequence + (allele is None)
            yield allele
    if not count:
        why = f" with plain sequences ({counted(no_sequence, 'allele')}, symbolic or absent)" if no_sequence else ""
        raise InputError(f"{path} holds no variants{why}.")


def _alleles(path: Path, number: int, fields: Sequence[str]) -> Iterator[Variant | None]:
    """Split one record."""
    chrom, pos, ident, ref = fields[0], _position(fields[1], f"{path}, line {number}"), fields[2], fields[3].upper()
    if not _BASES.match(ref):
        raise InputError(f"{path}, line {number}: REF is '{excerpt(fields[3])}', which is not DNA.")
    for alt in fields[4].upper().split(","):
        if not alt:
            raise InputError(f"{path}, line {number}: ALT is '{excerpt(fields[4])}', which has an empty allele.")
        plain = _BASES.match(alt) and alt != ref
        yield Variant(chrom, pos, ident, ref, alt, number) if plain else None


def _position(text: str, where: str) -> int:
    """Return the 0-based position that a record names."""
    position = whole_number(text, where, "POS (column 2)")
    if position < 1:
        raise InputError(f"{where}: POS is {position}, but a VCF counts from 1.")
    return position - 1


def compared(
    variants: Iterable[Variant], genome: Genome, where: str, *, skip_mismatch: bool = False
) -> Iterator[tuple[Variant, bool]]:
    """Compare each variant's REF with the genome; case does not matter, and N matches N only.

    Parameters
    ----------
    variants : iterable of Variant
    genome : Genome
    where : str
        The file, for messages.
    skip_mismatch : bool
        A REF that differs is not an error.

    Yields
    ------
    Variant, bool
        Whether its REF is what the genome has there.

    Raises
    ------
    InputError
        If a chromosome is unknown, a position lies beyond its end, or a REF differs and `skip_mismatch` is off. At the
        end, if no REF fits.
    """
    good = bad = 0
    for variant in variants:
        place = f"{where}, line {variant.line}"
        if variant.chrom not in genome.lengths:
            other = other_name(variant.chrom, genome.lengths)
            hint = f"the FASTA names it '{other}'" if other else f"the FASTA has {listing(genome.lengths)}"
            raise InputError(f"{place}: unknown chromosome '{variant.chrom}' ({hint}): use one naming.")
        end = variant.pos + len(variant.ref)
        if end > genome.lengths[variant.chrom]:
            raise InputError(
                f"{place}: {variant} lies beyond the end of {variant.chrom} ({genome.lengths[variant.chrom]:,} bp): is "
                f"the file of another genome build?"
            )
        found = genome.bases(variant.chrom, variant.pos, end).decode().upper()
        fits = found == variant.ref
        good, bad = good + fits, bad + (not fits)
        if bad and not skip_mismatch:
            raise InputError(
                f"{place}: REF of {variant} is not what the FASTA has there ({found}): is the file of another genome "
                f"build? (--skip-mismatch leaves such variants out.)"
            )
        yield variant, fits
    if not good:
        raise InputError(
            f"{where}: no REF agrees with the FASTA ({counted(bad, 'variant')}): is it of another genome build?"
        )
