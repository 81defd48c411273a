"""Contact of a gene's TSS with each base of its window: from Hi-C, from a profile per gene, or from the power law.

Units and formulas are those of the Activity-by-Contact model (ABC; Fulco et al. 2019, Nasser et al. 2021), as the
published track had them. `scale_contact` states them once, for every source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kipoi_seq2exp.data.sequence import Genome

Values = NDArray[np.float32]

BIN_BP = 5_000
"""Width of a bin in the published track, and the resolution that contact is expressed in."""

GAMMA = 0.87
"""Exponent of ABC's reference power law (the published track used it for every cell type)."""

POWERLAW = "powerlaw"
"""The source that stands for the power law instead of a file."""


@dataclass(frozen=True)
class ContactQuery:
    """The gene whose contacts are asked for: its id and its TSS."""

    gene_id: str
    chrom: str
    tss: int


def powerlaw_contact(
    distance_bp: NDArray[np.float64], gamma: float = GAMMA, scale: float | None = None
) -> NDArray[np.float64]:
    """Return the contact that ABC expects at a distance: ``exp(scale - gamma ln(max(distance, 5000) + 1))``.

    Parameters
    ----------
    distance_bp : ndarray, (n,)
        Distance to the TSS in bp; below 5 kb as at 5 kb.
    gamma : float
        Exponent, above 0.
    scale : float, optional
        Intercept; by default ``-4.80 + 11.63 gamma``, ABC's regression over 20 cell types at 5-kb resolution.

    Returns
    -------
    ndarray, (n,)
        Share of the TSS's contacts that a 5-kb bin at that distance gets.
    """
    intercept = -4.80 + 11.63 * gamma if scale is None else scale
    return np.asarray(np.exp(intercept - gamma * np.log(np.maximum(distance_bp, BIN_BP) + 1)), dtype=np.float64)


def scale_contact(
    contact: NDArray[np.float64], distance_bp: NDArray[np.float64], gamma: float = GAMMA, scale: float | None = None
) -> NDArray[np.float64]:
    """Scale measured contact to the reference power law and add the pseudocount, as ABC does (its `predictor.py`).

    ``contact * reference(distance) / expected(distance) + min(expected(distance), expected(5 kb))``, where `expected`
    is the power law of the experiment and `reference` that with gamma 0.87. The published track took 0.87 for the
    experiments too, where the ratio is 1.

    Parameters
    ----------
    contact : ndarray, (n,)
        Share of the TSS bin's contacts per 5-kb bin; NaN, where nothing was measured, reads as the expected contact.
    distance_bp : ndarray, (n,)
    gamma, scale : float
        Power law of the experiment.
    """
    expected = powerlaw_contact(distance_bp, gamma, scale)
    reference = powerlaw_contact(distance_bp)
    measured = np.where(np.isnan(contact), expected, contact)
    at_5kb = powerlaw_contact(np.array([float(BIN_BP)]), gamma, scale)
    return np.asarray(measured * (reference / expected) + np.minimum(expected, at_5kb), dtype=np.float64)


class ContactSource(ABC):
    """Contact of a TSS with the bases round it, in ABC units; picklable, closable."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What is read and how, for the record of a run."""

    @abstractmethod
    def profile(self, query: ContactQuery, start: int, end: int) -> Values:
        """Return the contact of each base of ``[start, end)`` with the TSS: float32 (L,), 0 beyond the chromosome."""

    @abstractmethod
    def check_against(self, genome: Genome, genes: Iterable[ContactQuery]) -> None:
        """Check that the source has the chromosomes, or the genes, that are needed, and that lengths agree."""

    def close(self) -> None:  # noqa: B027 - a source without files has nothing to close
        """Close the file of this process, if one is open."""


class PowerLawContacts(ContactSource):
    """The contact that distance alone predicts, in 5-kb bins as measured contact has; needs no file."""

    def __init__(self) -> None:
        self._lengths: dict[str, int] = {}

    @property
    def description(self) -> str:
        """What is read and how."""
        return f"no Hi-C: ABC power law of distance (gamma {GAMMA}) with pseudocount, in {BIN_BP}-bp bins"

    def check_against(self, genome: Genome, genes: Iterable[ContactQuery]) -> None:
        """Remember where chromosomes end; nothing can disagree."""
        self._lengths = {gene.chrom: genome.length(gene.chrom) for gene in genes}

    def profile(self, query: ContactQuery, start: int, end: int) -> Values:
        """Return the power law's contact of each base with the TSS: float32 (L,), 0 beyond the chromosome."""
        bins = np.arange(start // BIN_BP, -(-end // BIN_BP))
        distance = np.abs(bins - query.tss // BIN_BP) * float(BIN_BP)
        contact = scale_contact(np.full(len(bins), np.nan), distance)
        return expand_bins(contact, BIN_BP, (start, end), self._lengths.get(query.chrom, end))


def expand_bins(contact: NDArray[np.float64], bin_bp: int, span: tuple[int, int], chrom_length: int) -> Values:
    """Give each base the value of its bin.

    Parameters
    ----------
    contact : ndarray, (n,)
        One value per bin, from the bin that holds the span's first base on.
    bin_bp : int
    span : (int, int)
        Start and end of the stretch; bases below 0 or at `chrom_length` and above get 0.
    chrom_length : int

    Returns
    -------
    ndarray of float32, (L,)
    """
    start, end = span
    offset = start - start // bin_bp * bin_bp
    values = np.repeat(contact.astype(np.float32), bin_bp)[offset : offset + end - start]
    if start < 0:
        values[:-start] = 0
    if end > chrom_length:
        values[max(chrom_length - start, 0) :] = 0
    return values
