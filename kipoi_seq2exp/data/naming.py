"""Checks that files belong to one genome: the same names ('1' or 'chr1'), lengths and places, or one clear sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kipoi_seq2exp.errors import InputError, counted

_SHOWN = 3
_NEAR_BP, _FEW, _NEAR_BP_OF_FEW = 5_000, 3, 50_000  # annotations disagree on the TSS of a gene; 95 % by less than 2 kb


def listing(names: Iterable[str], between: str = ", ") -> str:
    """Return the first few names and how many there are: "chr1, chr2, chr3, ... 25 in all"."""
    names = list(names)
    if not names:
        return "none"
    shown = between.join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}{between}... {len(names)} in all"


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
        Chromosomes of the FASTA with their lengths in bp; without one of them only the names are checked.
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
        if length is not None and length != reference.get(chrom, length):
            raise InputError(
                f"{where}: {chrom} is {length:,} bp long but {reference[chrom]:,} bp in the FASTA: they are of "
                f"different genome builds; use files of one build."
            )


def check_places(
    places: Mapping[str, tuple[str, int]], reference: Mapping[str, tuple[str, int]], where: str, there: str
) -> None:
    """Check that two files share genes and place them alike, allowing for alternative TSSs of a gene.

    Parameters
    ----------
    places, reference : mapping of str to (str, int)
        Gene id to the chromosome and TSS in either file.
    where, there : str
        What the two files are, for messages.

    Raises
    ------
    InputError
        If no gene is shared, a chromosome is named otherwise, or most shared genes lie elsewhere (another build).
    """
    shared = [gene_id for gene_id in places if gene_id in reference]
    if not shared:
        raise InputError(
            f"{where}: none of its {counted(len(places), 'gene')} ({listing(places)}) is among the "
            f"{len(reference)} of {there} ({listing(reference)}): genes are matched by id."
        )
    far, near_bp = [], _NEAR_BP if len(shared) >= _FEW else _NEAR_BP_OF_FEW
    for gene_id in shared:
        (chrom, tss), (other_chrom, other_tss) = places[gene_id], reference[gene_id]
        if chrom != other_chrom and other_name(chrom, [other_chrom]):
            raise InputError(
                f"{where} names a chromosome '{chrom}' that is '{other_chrom}' in {there}: use one naming."
            )
        if chrom != other_chrom or abs(tss - other_tss) > near_bp:
            far.append(f"{gene_id} starts at {chrom}:{tss + 1:,} here but at {other_chrom}:{other_tss + 1:,} there")
    if 2 * len(far) > len(shared):
        raise InputError(
            f"{where}: {len(far)} of the {len(shared)} genes that it shares with {there} lie elsewhere ({far[0]}): "
            f"they are of different genome builds; lift one over."
        )


def other_name(chrom: str, names: Iterable[str]) -> str | None:
    """Return the name among `names` that means the same chromosome with or without "chr" (M and MT too), if any."""
    wanted = _bare(chrom)
    return next((name for name in names if _bare(name) == wanted), None)


def _bare(chrom: str) -> str:
    bare = chrom.lower().removeprefix("chr")
    return "m" if bare == "mt" else bare
