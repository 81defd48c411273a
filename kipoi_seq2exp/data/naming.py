"""One sentence for the two ways in which files of different genomes meet: other names ('1', 'chr1'), other lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kipoi_seq2exp.errors import InputError

_SHOWN = 3


def listing(names: Iterable[str]) -> str:
    """Return the first few names and how many there are: "chr1, chr2, chr3, ... 25 in all"."""
    names = list(names)
    if not names:
        return "none"
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ... {len(names)} in all"


def check_chromosomes(
    chroms: Iterable[str], lengths: Mapping[str, int | None], reference: Mapping[str, int], where: str
) -> None:
    """Check that a file has the chromosomes that are needed, under the same names and with the FASTA's lengths.

    Parameters
    ----------
    chroms : iterable of str
        The chromosomes needed (those of the genes).
    lengths : mapping
        Chromosomes of the file with their lengths in bp; None where the format does not hold lengths.
    reference : mapping
        Chromosomes of the FASTA with their lengths in bp.
    where : str
        Name of the file, starts the message.

    Raises
    ------
    InputError
        If a chromosome is missing, named otherwise, or of another length.
    """
    for chrom in sorted(set(chroms)):
        if chrom not in lengths:
            other = other_name(chrom, lengths)
            hint = f"it names it '{other}'" if other else f"it has {listing(lengths)}"
            raise InputError(
                f"{where} has no chromosome '{chrom}' ({hint}): genes, FASTA and tracks must share one naming and "
                f"cover the same chromosomes."
            )
        length = lengths[chrom]
        if length is not None and length != reference[chrom]:
            raise InputError(
                f"{where}: {chrom} is {length:,} bp long but {reference[chrom]:,} bp in the FASTA: they are of "
                f"different genome builds; use files of one build."
            )


def other_name(chrom: str, names: Iterable[str]) -> str | None:
    """Return the name among `names` that means the same chromosome with or without "chr" (M and MT too), if any."""
    wanted = _bare(chrom)
    return next((name for name in names if _bare(name) == wanted), None)


def _bare(chrom: str) -> str:
    bare = chrom.lower().removeprefix("chr")
    return "m" if bare == "mt" else bare
