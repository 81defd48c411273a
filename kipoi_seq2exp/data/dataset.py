"""The windows of genes as a model reads them: DNA, tracks, features and blacklist, checked once, then read by index.

Everything that can be checked without reading the windows is checked when the data set is made: names and lengths of
chromosomes in every file, every row of the gene table, every feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import InputSpec, TrackKind, Transform
from kipoi_seq2exp.data.features import parse_missing, resolve_features
from kipoi_seq2exp.data.genes import check_positions, read_genes
from kipoi_seq2exp.data.handles import Closes
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks.contact_sources import open_contacts
from kipoi_seq2exp.data.tracks.contacts import ContactQuery, ContactSource
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.tracks.track import SignalTrack
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.settings import suggest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class WindowInputs:
    """What a model reads for one gene.

    Attributes
    ----------
    gene_id, chrom, strand : str
    tss, start, end : int
        0-based; the window is ``[start, end)`` and may reach beyond the chromosome.
    onehot : ndarray of uint8, (L, 4)
        DNA in A, C, G, T order; zeros for unknown bases.
    signals : ndarray of float32, (L, S)
        Tracks in the model's order, after their transform.
    features : ndarray of float32, (F,)
    blacklist : ndarray of bool, (L,)
        Bases that the mask may not keep.
    """

    gene_id: str
    chrom: str
    tss: int
    strand: str
    start: int
    end: int
    onehot: NDArray[np.uint8]
    signals: NDArray[np.float32]
    features: NDArray[np.float32]
    blacklist: NDArray[np.bool_]


class WindowDataset(Closes):
    """The windows of a gene table; files are opened lazily by each process, so it may be forked, pickled and closed.

    Parameters
    ----------
    inputs : InputSpec
        What the model reads.
    genes : str, Path or DataFrame
        See `read_genes`.
    fasta : str or Path
    sources : mapping of str to str or Path
        The file of each track by its name; 'powerlaw' for a contact track without Hi-C (see `open_contacts`). A track
        with a stand-in may be left out.
    blacklist : str or Path, optional
        BED of bases that the mask may not keep.
    missing_features : {"error", "mean"}
        What to do about a feature that the table does not hold.
    gene_ids : iterable of str, optional
        Keep these genes, in this order.

    Raises
    ------
    InputError, ConfigError
        If a file or a row cannot be used; see the readers.
    """

    def __init__(
        self,
        inputs: InputSpec,
        genes: str | Path | pd.DataFrame,
        fasta: str | Path,
        sources: Mapping[str, str | Path],
        blacklist: str | Path | None = None,
        missing_features: str = "error",
        gene_ids: Iterable[str] | None = None,
    ) -> None:
        self.inputs = inputs
        self.genes = read_genes(genes, gene_ids)
        self.genome = Genome(fasta)
        self.missing_features = parse_missing(missing_features)
        self.features = resolve_features(self.genes, inputs, self.missing_features)
        self.blacklist = None if blacklist is None else Regions(blacklist, "blacklist")
        self.tracks = _open_tracks(inputs, sources)
        self._queries = [
            ContactQuery(str(gene_id), str(chrom), int(tss))
            for gene_id, chrom, tss in zip(self.genes["gene_id"], self.genes["chrom"], self.genes["tss"], strict=True)
        ]
        self._strands = [str(strand) for strand in self.genes["strand"]]
        self._check()

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, index: int) -> WindowInputs:
        """Read the window of the gene in row `index` (negative: from the end)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"gene {index} of {len(self)}")
        index = int(index) % len(self)
        query = self._queries[index]
        window = self.window(index)
        values = self._window_values(query, window)
        blacklist = self._blacklisted(window)
        return WindowInputs(
            gene_id=query.gene_id,
            chrom=query.chrom,
            tss=query.tss,
            strand=self._strands[index],
            start=window.start,
            end=window.end,
            onehot=self.genome.onehot(window.chrom, window.start, window.end),
            signals=self._signals(values, len(window)),
            features=self._features(index, window, values),
            blacklist=blacklist,
        )

    def window(self, index: int) -> Window:
        """Return where the window of the gene in row `index` lies."""
        query = self._queries[index]
        return Window.around(query.chrom, query.tss, self.inputs.window_bp)

    def read(
        self, index: int, start: int, end: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
        """Return DNA (L, 4), tracks (L, S) and blacklist (L,) of any stretch round the gene in row `index`.

        The stretch may reach beyond the chromosome; the tracks are those of the gene, after their transforms.
        """
        query = self._queries[index]
        window = Window(query.chrom, start, end)
        signals = self._signals(self._window_values(query, window), len(window))
        return self.genome.onehot(window.chrom, start, end), signals, self._blacklisted(window)

    def track_values(self, index: int, name: str, start: int, end: int) -> NDArray[np.float32]:
        """Return a track of the gene in row `index` over any stretch round it, in its own unit: float32 (L,)."""
        query = self._queries[index]
        return self._values(name, query, Window(query.chrom, start, end))

    def __iter__(self) -> Iterator[WindowInputs]:
        return (self[index] for index in range(len(self)))

    def describe(self) -> dict[str, Any]:
        """Return a description of the inputs as plain texts and numbers, for the record of a run."""
        tracks = {}
        for spec in self.inputs.tracks:
            track = self.tracks[spec.name]
            tracks[spec.name] = {"source": track.description, "transform": spec.transform.value, "unit": spec.unit}
        return {
            "cell_type": self.inputs.cell_type,
            "assembly": self.inputs.assembly,
            "window_bp": self.inputs.window_bp,
            "genes": str(self.genes.attrs.get("source", "gene table")),
            "n_genes": len(self),
            "fasta": str(self.genome.path),
            "tracks": tracks,
            "blacklist": None if self.blacklist is None else str(self.blacklist.path),
            "missing_features": self.missing_features.value,
            "features": dict(self.features.sources),
        }

    @property
    def chrom_lengths(self) -> dict[str, int]:
        """Lengths in bp of the chromosomes that have a gene, in the order of the FASTA."""
        used = set(self.genes["chrom"])
        return {chrom: length for chrom, length in self.genome.lengths.items() if chrom in used}

    def close(self) -> None:
        """Close the files of this process; they are opened again when read again."""
        self.genome.close()
        for track in self.tracks.values():
            track.close()

    def _check(self) -> None:
        """Compare the genes and every file with the FASTA."""
        check_positions(self.genes, self.genome)
        chroms = sorted(set(self.genes["chrom"]))
        for track in self.tracks.values():
            if isinstance(track, ContactSource):
                track.check_against(self.genome, self._queries)
            else:
                track.check_against(self.genome, chroms)
                track.check_values(Window.around(q.chrom, q.tss, self.inputs.window_bp) for q in self._queries)
        if self.blacklist is not None:
            self.blacklist.check_against(self.genome)

    def _values(self, name: str, query: ContactQuery, window: Window) -> NDArray[np.float32]:
        """Return a track in its own unit."""
        track = self.tracks[name]
        if isinstance(track, ContactSource):
            return track.profile(query, window.start, window.end)
        values: NDArray[np.float32] = track.values(window.chrom, window.start, window.end)
        return values

    def _window_values(self, query: ContactQuery, window: Window) -> dict[str, NDArray[np.float32]]:
        """Return every track in its own unit."""
        return {spec.name: self._values(spec.name, query, window) for spec in self.inputs.tracks}

    def _blacklisted(self, window: Window) -> NDArray[np.bool_]:
        if self.blacklist is None:
            return np.zeros(len(window), dtype=np.bool_)
        return self.blacklist.mask(window.chrom, window.start, window.end)

    def _signals(self, values: Mapping[str, NDArray[np.float32]], length: int) -> NDArray[np.float32]:
        """Return the tracks of a window side by side, (L, S), after their transforms."""
        columns = [transformed(values[spec.name], spec.transform) for spec in self.inputs.tracks]
        return np.stack(columns, axis=1) if columns else np.empty((length, 0), dtype=np.float32)

    def _features(self, index: int, window: Window, values: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the features of the gene in row `index`; those computed from tracks use the values of its window."""
        query = self._queries[index]
        features: NDArray[np.float32] = self.features.values[index].copy()
        for column in self.features.from_tracks:
            spec = self.inputs.features[column]
            promoter = Window.around(query.chrom, query.tss, 2 * spec.flank_bp)
            means = [
                float(self._stretch(name, query, promoter, window, values).mean(dtype=np.float64))
                for name in spec.from_tracks
            ]
            features[column] = np.prod(means) ** (1 / len(means))
        for column, spec in enumerate(self.inputs.features):
            features[column : column + 1] = transformed(features[column : column + 1], spec.transform)
        return features

    def _stretch(
        self,
        name: str,
        query: ContactQuery,
        stretch: Window,
        window: Window,
        values: Mapping[str, NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Return a track over a stretch, from the values of the window that holds it or from the file."""
        if window.start <= stretch.start and stretch.end <= window.end:
            return values[name][stretch.start - window.start : stretch.end - window.start]
        return self._values(name, query, stretch)


def transformed(values: NDArray[np.float32], transform: Transform) -> NDArray[np.float32]:
    """Apply the transform of a track or a feature to its values: float32, the same shape."""
    return _TRANSFORMS[transform](values)


def _log10p1(values: NDArray[np.float32]) -> NDArray[np.float32]:
    logs: NDArray[np.float32] = np.log10(values + np.float32(1))
    return logs


_TRANSFORMS: dict[Transform, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    Transform.NONE: lambda values: values,
    Transform.LOG10P1: _log10p1,
    Transform.LOG1P: np.log1p,
}


def _open_tracks(inputs: InputSpec, sources: Mapping[str, str | Path]) -> dict[str, SignalTrack[Any] | ContactSource]:
    """Return the reader of each track; refuse a track without a file and a name that is not a track."""
    for name in sources:
        if name not in inputs.track_names:
            raise InputError(f"unknown track '{name}'{suggest(str(name), inputs.track_names)}.")
    tracks: dict[str, SignalTrack[Any] | ContactSource] = {}
    for spec in inputs.tracks:
        source = sources.get(spec.name) or sources.get(spec.stand_in)
        if source is None or str(source) == "":
            hint = " or 'powerlaw' where there is no Hi-C" if spec.kind is TrackKind.CONTACT else ""
            raise InputError(f"no file is given for the track '{spec.name}': give one{hint}.")
        tracks[spec.name] = open_contacts(source, spec) if spec.kind is TrackKind.CONTACT else open_signal(source, spec)
    return tracks
