"""Contacts from files: Hi-C matrices (.hic, .mcool, .cool) through one reader, and ready-made profiles per gene."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.handles import LazyFile
from kipoi_seq2exp.data.naming import check_chromosomes
from kipoi_seq2exp.data.tables import table_rows
from kipoi_seq2exp.data.text import as_whole, whole_number
from kipoi_seq2exp.data.tracks.bedgraph import Steps
from kipoi_seq2exp.data.tracks.contacts import (
    BIN_BP,
    GAMMA,
    ContactQuery,
    ContactSource,
    Values,
    expand_bins,
    scale_contact,
)
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.errors import InputError, damage_as, excerpt
from kipoi_seq2exp.files import check_regular
from kipoi_seq2exp.settings import suggest

if TYPE_CHECKING:
    from kipoi_seq2exp.data.sequence import Genome

_LOG = logging.getLogger(__name__)

NORMALISATIONS = ("VC", "KR", "SCALE", "ICE", "weight")
"""Normalisations in the order of preference (the published track was VC-normalised); ICE is called weight in .cool."""

_CELLS_AT_ONCE = 4_000_000  # of a matrix held in memory while its rows are added up (8 bytes each)

RAW = "NONE"
"""The normalisation name that stands for raw counts."""


def import_hictkpy() -> Any:
    """Import hictkpy with its log off and without its fork handlers.

    The log runs in a thread, which a forked process lacks; hictkpy 1.4 makes that process wait for the log's lock. If
    the thread held it at that moment (one fork in nine in a test), it waits for ever: a data loader's worker would
    hang.
    """
    if "hictkpy" not in sys.modules:
        register = os.register_at_fork

        def register_others(**handlers: Any) -> None:
            others = {when: call for when, call in handlers.items() if type(call).__module__ != "nanobind"}
            if others:
                register(**others)

        os.register_at_fork = register_others
        try:
            import hictkpy
        finally:
            os.register_at_fork = register
    import hictkpy

    hictkpy.logging.setLevel("CRITICAL")
    warnings.filterwarnings("ignore", message="hictkpy: detected a call to fork", category=UserWarning)
    return hictkpy


class HicContacts(LazyFile[Any], ContactSource):
    """Contact of the TSS bin with each bin of a Hi-C matrix, read through hictkpy.

    As in ABC: counts are normalised as stored, the diagonal is replaced by its larger neighbour, the row of the TSS bin
    is divided by its total over the chromosome (so that it holds shares of that bin's contacts) and scaled by
    `scale_contact`. Shares are expressed per 5 kb whatever the resolution. Bins without a value, and every bin for a
    TSS whose own bin has none, take the contact of the power law. The totals need one pass over the chromosomes of the
    genes, made by `check_against`.

    Parameters
    ----------
    source : str
        "FILE[::RESOLUTION[::NORMALISATION]]", see `open_contacts`.
    spec : TrackSpec
    """

    def __init__(self, source: str, spec: TrackSpec) -> None:
        super().__init__()
        parts = source.split("::")
        self.path, self.spec = Path(parts[0]), spec
        self.where = f"track '{spec.name}' ({self.path})"
        self.resolution_bp = self._pick_resolution(parts[1] if len(parts) > 1 else "")
        self.normalisation = self._pick_normalisation(parts[2] if len(parts) > 2 else "")
        with damage_as(self._unreadable):
            chromosomes = self.handle.chromosomes(include_ALL=False)
            self.lengths: dict[str, int] = {str(name): int(length) for name, length in chromosomes.items()}
        self._totals: dict[str, NDArray[np.float64]] = {}
        self._without: tuple[str, ...] = ()
        self._n_genes = 0

    @property
    def description(self) -> str:
        """What is read and how, and for which genes the power law is used instead."""
        normalisation = "raw counts" if self.normalisation == RAW else f"normalisation {self.normalisation}"
        text = (
            f"{self.path}: {self.resolution_bp}-bp bins, {normalisation}, share of the TSS bin's contacts per "
            f"{BIN_BP} bp, ABC power-law scaling (gamma {GAMMA}) with pseudocount"
        )
        if self._without:
            shown = ", ".join(self._without[:3]) + (", ..." if len(self._without) > 3 else "")
            text += (
                f"; power law for {len(self._without)} of {self._n_genes} genes, whose TSS bin has no value ({shown})"
            )
        return text

    def check_against(self, genome: Genome, genes: Iterable[ContactQuery]) -> None:
        """Check chromosomes and lengths, add up their rows, and note the genes whose TSS bin has no value."""
        genes = list(genes)
        chroms = sorted({gene.chrom for gene in genes})
        check_chromosomes(chroms, self.lengths, genome.lengths, self.where)
        for chrom in chroms:
            _LOG.info("%s: adding up the contacts of %s", self.where, chrom)
            self._totals[chrom] = self._add_up(chrom)
        self._without = tuple(g.gene_id for g in genes if self._totals[g.chrom][g.tss // self.resolution_bp] == 0)
        self._n_genes = len(genes)
        if self._without:
            _LOG.warning("%s", self.description)

    def profile(self, query: ContactQuery, start: int, end: int) -> Values:
        """Return the contact of each base of ``[start, end)`` with the TSS: float32 (L,), 0 beyond the chromosome."""
        bin_bp, row = self.resolution_bp, query.tss // self.resolution_bp
        first, last = start // bin_bp, -(-end // bin_bp)
        contact = np.full(last - first, np.nan)
        inside = slice(max(first, 0), max(min(last, -(-self.lengths[query.chrom] // bin_bp)), 0))
        if inside.start < inside.stop:
            contact[inside.start - first : inside.stop - first] = self._shares(query.chrom, row, inside)
        distance = np.abs(np.arange(first, last) - row) * float(bin_bp)
        return expand_bins(scale_contact(contact, distance), bin_bp, (start, end), self.lengths[query.chrom])

    def _open(self) -> Any:
        with damage_as(self._unreadable):
            return import_hictkpy().File(self.path, self.resolution_bp)

    def _unreadable(self, what: str) -> InputError:
        return InputError(f"{self.where} cannot be read as Hi-C ({what}).")

    def _pick_resolution(self, asked: str) -> int:
        """Return the resolution asked for, or 5 kb, or that of a .cool, after checking that the file has it."""
        hictkpy = import_hictkpy()
        check_regular(self.path, self.where)
        text = asked.rstrip("/").removeprefix("/resolutions/")
        wanted = as_whole(text) if text else None
        if text and wanted is None:
            raise InputError(f"{self.where}: the resolution '{asked}' is not a whole number of base pairs.")
        with damage_as(self._unreadable):
            single = hictkpy.is_cooler(self.path)
            if single:
                present = [int(hictkpy.File(self.path).resolution())]
            elif hictkpy.is_hic(self.path) or hictkpy.is_mcool_file(self.path):
                present = sorted(int(resolution) for resolution in hictkpy.MultiResFile(self.path).resolutions())
            else:
                present = []
        if not present or present == [0]:
            raise InputError(f"{self.where} is not a .hic, .mcool or .cool file with bins of one width, or truncated.")
        if wanted is None:
            wanted = present[0] if single else BIN_BP
        if wanted not in present:
            listed = ", ".join(map(str, present))
            raise InputError(
                f"{self.where} has no resolution of {wanted} bp (it has {listed}): choose one, as in "
                f"'{self.path.name}::{present[0]}'."
            )
        return wanted

    def _pick_normalisation(self, asked: str) -> str:
        with damage_as(self._unreadable):
            present = [str(name) for name in self.handle.avail_normalizations()]
        if asked and asked != RAW and asked not in present:
            raise InputError(f"{self.where}: no normalisation '{asked}' is stored{suggest(asked, [*present, RAW])}.")
        return asked or next((name for name in NORMALISATIONS if name in present), RAW)

    def _shares(self, chrom: str, row: int, bins: slice) -> NDArray[np.float64]:
        """Return the share of a bin's contacts that each of `bins` gets, per 5 kb; NaN where there is no value."""
        if chrom not in self._totals:
            self._totals[chrom] = self._add_up(chrom)
        totals = self._totals[chrom]
        first, last = max(min(bins.start, row - 1), 0), min(max(bins.stop, row + 2), len(totals))
        block = self._read(chrom, slice(first, last), slice(first, last))
        contact = block[row - first]
        neighbours = contact[[i - first for i in (row - 1, row + 1) if first <= i < last]]
        if contact[row - first] > 0:
            contact[row - first] = np.nanmax(neighbours, initial=0)
        known = (totals[first:last] > 0) & (totals[row] > 0)
        shares = np.divide(contact, totals[row], out=np.full(len(contact), np.nan), where=known)
        return np.asarray(shares[bins.start - first : bins.stop - first] * (BIN_BP / self.resolution_bp), np.float64)

    def _add_up(self, chrom: str) -> NDArray[np.float64]:
        """Return the sum of each row of a chromosome's matrix, its diagonal corrected; 0 for a bin without a value."""
        n = -(-self.lengths[chrom] // self.resolution_bp)
        totals, diagonal, beside = np.zeros(n), np.zeros(n), np.zeros(n + 1)  # beside[i + 1]: contact of i with i + 1
        step = max(1, _CELLS_AT_ONCE // n)
        for first in range(0, n, step):
            last = min(first + step, n)
            block = self._read(chrom, slice(first, last), slice(first, n))
            block[np.isnan(block)] = 0
            totals[first:last] += block.sum(axis=1)
            totals[last:] += block[:, last - first :].sum(axis=0)
            rows = np.arange(last - first)
            diagonal[first:last] = block[rows, rows]
            rows = rows[: n - 1 - first]
            beside[first + 1 + rows] = block[rows, rows + 1]
        return np.asarray(
            totals - diagonal + np.where(diagonal > 0, np.maximum(beside[:-1], beside[1:]), 0), np.float64
        )

    def _read(self, chrom: str, rows: slice, columns: slice) -> NDArray[np.float64]:
        """Return a block of the matrix, normalised; the columns must begin where the rows do."""
        ranges = [
            f"{chrom}:{part.start * self.resolution_bp}-{min(part.stop * self.resolution_bp, self.lengths[chrom])}"
            for part in (rows, columns)
        ]
        normalisation = None if self.normalisation == RAW else self.normalisation
        with damage_as(lambda what: InputError(f"{self.where}: the contacts of {ranges[0]} cannot be read ({what}).")):
            selected = self.handle.fetch(*ranges, normalization=normalisation, count_type="float64")
            block = np.require(selected.to_numpy(), np.float64, "W")
        if np.fmin.reduce(block, axis=None) < 0:
            raise InputError(f"{self.where} has negative contacts in {ranges[0]}; observed contacts are needed.")
        block[block == np.inf] = np.nan  # divided by a weight of 0
        return block


class GeneFileContacts(ContactSource):
    """A bigWig or bedGraph per gene, at a path with {gene_id} in it; contact in ABC units, read as it is."""

    def __init__(self, template: str, spec: TrackSpec) -> None:
        self.template, self.spec = template, spec

    @property
    def description(self) -> str:
        """What is read."""
        return f"{self.template}: a profile per gene, as given"

    def check_against(self, genome: Genome, genes: Iterable[ContactQuery]) -> None:
        """Check that each gene has a file, with the gene's chromosome in it."""
        for gene in genes:
            with open_signal(gene_file(self.template, gene.gene_id), self.spec) as signal:
                signal.check_against(genome, [gene.chrom])

    def profile(self, query: ContactQuery, start: int, end: int) -> Values:
        """Return the gene's profile over ``[start, end)``: float32 (L,)."""
        with open_signal(gene_file(self.template, query.gene_id), self.spec) as signal:
            return signal.values(query.chrom, start, end)


def gene_file(template: str, gene_id: str) -> str:
    """Return the file of a gene.

    Raises
    ------
    InputError
        If the id cannot be part of a file name, or would lead to another folder.
    """
    if gene_id in (".", "..") or not {"/", "\0"}.isdisjoint(gene_id):
        raise InputError(
            f"{template}: the gene id {excerpt(gene_id, 60)!r} cannot be part of a file name: give contacts as one "
            "table (columns gene_id, start, end, contact)."
        )
    return template.replace("{gene_id}", gene_id)


class GeneTableContacts(LazyFile[dict[str, Steps]], ContactSource):
    """A table of intervals per gene (gene_id, start, end, contact); contact in ABC units as it is, 0 elsewhere."""

    COLUMNS = ("gene_id", "start", "end", "contact")

    def __init__(self, path: str, spec: TrackSpec) -> None:
        super().__init__()
        self.path, self.spec = Path(path), spec
        self.where = f"track '{spec.name}' ({self.path})"

    @property
    def description(self) -> str:
        """What is read."""
        return f"{self.path}: a profile per gene, as given"

    def check_against(self, genome: Genome, genes: Iterable[ContactQuery]) -> None:
        """Check that each gene has a profile that ends within its chromosome."""
        for gene in genes:
            if gene.gene_id not in self.handle:
                raise InputError(f"{self.where} has no gene '{gene.gene_id}': a profile of every gene is needed.")
            last = int(self.handle[gene.gene_id].ends[-1])
            if last > genome.length(gene.chrom):
                raise InputError(
                    f"{self.where}: the profile of {gene.gene_id} ends at {gene.chrom}:{last}, beyond the chromosome's "
                    f"{genome.length(gene.chrom):,} bp."
                )

    def profile(self, query: ContactQuery, start: int, end: int) -> Values:
        """Return the gene's profile over ``[start, end)``: float32 (L,)."""
        return self.handle[query.gene_id].expand(start, end)

    def _open(self) -> dict[str, Steps]:
        profiles: dict[str, list[tuple[int, int, float]]] = {}
        columns, rows = table_rows(self.path, self.where, self.COLUMNS)
        places = [columns.index(name) for name in self.COLUMNS]
        for number, fields in rows:
            gene_id, start, end, contact = (fields[place] for place in places)
            profiles.setdefault(gene_id, []).append(self._entry(start, end, contact, f"{self.where}, line {number}"))
        if not profiles:
            raise InputError(f"{self.where} holds no profiles.")
        return {gene_id: self._steps(gene_id, entries) for gene_id, entries in profiles.items()}

    def _entry(self, start: str, end: str, contact: str, here: str) -> tuple[int, int, float]:
        first, last = whole_number(start, here, "start"), whole_number(end, here, "end")
        try:
            value = float(contact)
        except ValueError:
            raise InputError(f"{here}: contact is {excerpt(contact)!r}, not a number.") from None
        if not (0 <= first < last and 0 <= value < np.inf):
            raise InputError(f"{here}: {start}-{end} must be an interval and the contact {contact} at least 0.")
        return first, last, value

    def _steps(self, gene_id: str, entries: list[tuple[int, int, float]]) -> Steps:
        entries.sort()
        starts, ends = (np.array([entry[i] for entry in entries], dtype=np.int64) for i in (0, 1))
        if (starts[1:] < ends[:-1]).any():
            raise InputError(f"{self.where}: intervals of {gene_id} overlap.")
        return Steps(starts, ends, np.array([entry[2] for entry in entries], dtype=np.float32))


class PublishedContacts(LazyFile[dict[str, Any]], ContactSource):
    """Contact of each base of a gene's window, from hic_feat_chrN.h5.

    Parameters
    ----------
    folder : Path
        Folder of the cell type, with one file per chromosome.
    spec : TrackSpec
        The track, for messages.
    """

    def __init__(self, folder: str | Path, spec: TrackSpec) -> None:
        super().__init__()
        self.folder, self.spec = Path(folder), spec
        self.files = {path.stem.removeprefix("hic_feat_"): path for path in sorted(self.folder.glob("hic_feat_*.h5"))}
        if not self.files:
            raise InputError(f"track '{spec.name}': {self.folder} holds no hic_feat_chrN.h5.")

    @property
    def description(self) -> str:
        """What is read and how."""
        return f"{self.folder}: published contacts per gene and base"

    def check_against(self, genome: Genome, genes: Iterable[ContactQuery]) -> None:
        """Check that every gene has its data set."""
        missing = [gene for gene in genes if not self._holds(gene)]
        self.close()
        if missing:
            gene = missing[0]
            raise InputError(
                f"track '{self.spec.name}': {self.folder} has no data set '{_data_set(gene)}' for {gene.gene_id} "
                f"({len(missing)} genes have none): the TSS must be the one that the contacts were made for."
            )

    def profile(self, query: ContactQuery, start: int, end: int) -> Values:
        """Return the contact of each base of [start, end): float32 (L,), 0 beyond the published window."""
        values = np.zeros(end - start, dtype=np.float32)
        with damage_as(lambda what: self._unreadable(query.chrom, what)):
            data = self._chrom(query.chrom)[_data_set(query)]
            first = query.tss - len(data) // 2
            low, high = max(start, first), min(end, first + len(data))
            if low < high:
                values[low - start : high - start] = np.nan_to_num(data[low - first : high - first])
        return values

    def _holds(self, gene: ContactQuery) -> bool:
        if gene.chrom not in self.files:
            return False
        with damage_as(lambda what: self._unreadable(gene.chrom, what)):
            return _data_set(gene) in self._chrom(gene.chrom)

    def _unreadable(self, chrom: str, what: str) -> InputError:
        return InputError(f"track '{self.spec.name}': {self.files[chrom]} is not an HDF5 file of contacts ({what}).")

    def _open(self) -> dict[str, Any]:
        return {}

    def _chrom(self, chrom: str) -> Any:
        import h5py

        if chrom not in self.handle:
            check_regular(self.files[chrom], f"track '{self.spec.name}' ({self.files[chrom]})")
            self.handle[chrom] = h5py.File(self.files[chrom], "r")
        return self.handle[chrom]

    def close(self) -> None:
        """Close the files of this process."""
        if self._handle is not None:
            for file in self._handle.values():
                file.close()
        super().close()


def _data_set(query: ContactQuery) -> str:
    return f"{query.chrom}_{query.tss}"
