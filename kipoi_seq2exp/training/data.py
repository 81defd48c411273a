"""Windows with labels for training: which genes, in what order, and how they are shifted and reversed.

Contract: everything random about a window follows from (seed, position in the endless stream of training windows), not
from a generator's state. So a resumed run sees what the uninterrupted one would have, on any number of workers.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kipoi_seq2exp.config import InputSpec
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.data.track_ranges import noted_ranges
from kipoi_seq2exp.data.tracks.bigwig_file import ENDINGS
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.tokens import TokenGrid, known_rows
from kipoi_seq2exp.training.config import TrainingConfig
from kipoi_seq2exp.training.labels import Labels, read_labels
from kipoi_seq2exp.training.paper_data import PeakTrack, open_published
from kipoi_seq2exp.training.sections import AugmentConfig, DataConfig, Keep, Layout
from kipoi_seq2exp.training.splits import Split, check_overlap, check_parts, make_split

log = logging.getLogger(__name__)
CONSTANT_CHECKED = 256  # windows looked at for a track that never changes


class Draw(NamedTuple):
    """One window asked for: its row, and its place in the endless stream (-1: as it is, no augmentation)."""

    row: int
    position: int


@dataclass(frozen=True)
class CellSet:
    """The genes, labels, split and windows of one cell type.

    Attributes
    ----------
    genes : DataFrame
        One row per gene.
    labels : float32 array, (G,)
    split : Split
        Rows of `genes`.
    windows : WindowDataset
        Windows in the order of `genes`, `max_shift_bp` longer on either side than the network's.
    peaks : Regions, PeakTrack or None
        Mask of the variant "peaks".
    kept : dict
        Windows kept in memory, by row, shared by all readers of these genes with the same settings.
    """

    genes: pd.DataFrame
    labels: Labels
    split: Split
    windows: WindowDataset
    peaks: Regions | PeakTrack | None = None
    kept: dict[int, dict[str, Any]] = field(default_factory=dict)


def open_cells(config: TrainingConfig) -> list[CellSet]:
    """Open every data set of a run, split it, and check that nothing leaks from one part into another.

    Raises
    ------
    InputError
        If a file is unusable, a label is missing, a needed part of the split is empty, or windows of two parts overlap.
    """
    cells = [_open_cell(config, data) for data in config.data]
    needed = ["train"] if config.run.keep is Keep.LAST else ["train", "validation"]
    check_parts(cells[0].split, needed=needed)
    sizes = np.cumsum([0, *(len(cell.genes) for cell in cells)])
    together = pd.concat([cell.genes[["gene_id", "chrom", "tss"]] for cell in cells], ignore_index=True)
    parts = [
        np.concatenate([cell.split.rows(part) + size for cell, size in zip(cells, sizes, strict=False)])
        for part in ("train", "validation", "test")
    ]
    reach = config.window_bp + 2 * config.augment.max_shift_bp
    shared = check_overlap(together, Split(*parts), reach, allow=config.split.allow_overlap)
    if shared:
        log.warning("%d windows overlap a window of another split, as split.allow_overlap permits.", shared)
    return cells


def _open_cell(config: TrainingConfig, data: DataConfig) -> CellSet:
    root = config.root
    length = config.window_bp + 2 * config.augment.max_shift_bp
    inputs = dataclasses.replace(config.inputs, window_bp=length)
    if data.layout is Layout.PUBLISHED:
        published = open_published(root, data.cell_type, inputs, missing_features=data.missing_features)
        split = make_split(published.genes, config.split)
        return CellSet(published.genes, published.labels, split, published.windows, published.peaks)
    assert data.label is not None  # the config has checked it
    genes = read_genes(root / data.genes)
    windows = WindowDataset(
        inputs,
        genes,
        root / data.fasta,
        {name: source if source == "powerlaw" else str(root / source) for name, source in data.sources.items()},
        blacklist=None if data.blacklist is None else root / data.blacklist,
        missing_features=data.missing_features,
    )
    labels = read_labels(genes, data.label, root, windows.genome)
    peaks: Regions | PeakTrack | None = None
    if data.peaks is not None and data.peaks.lower().endswith(ENDINGS):
        peaks = PeakTrack(root / data.peaks)
    elif data.peaks is not None:
        peaks = Regions(root / data.peaks, "peaks")
        peaks.check_against(windows.genome)
    return CellSet(genes, labels, make_split(genes, config.split), windows, peaks)


@dataclass(frozen=True)
class StandIns:
    """What replaces tracks that have a stand-in, and the features computed from them.

    Attributes
    ----------
    groups : list of (dict, dict)
        Columns of tracks, and of features, with those to read instead. Tracks from which one feature is computed are
        of one group, and replaced together.
    n_tracks, n_features : int
    """

    groups: list[tuple[dict[int, int], dict[int, int]]]
    n_tracks: int
    n_features: int

    @classmethod
    def of(cls, inputs: InputSpec) -> StandIns:
        """Find them by name, and a feature by the tracks that it is computed from.

        Raises
        ------
        ConfigError
            If a feature is computed from a track with a stand-in, and none is computed alike from the stand-in.
        """
        stands = {track.name: track.stand_in for track in inputs.tracks if track.stand_in}
        made = [(f.from_tracks, f.flank_bp, f.transform) for f in inputs.features]
        groups: list[tuple[set[str], dict[int, int]]] = [({name}, {}) for name in stands]
        for place, feature in enumerate(inputs.features):
            read = set(feature.from_tracks) & set(stands)
            if not read:
                continue
            alike = (tuple(stands.get(name, name) for name in feature.from_tracks), feature.flank_bp, feature.transform)
            if alike not in made:
                raise ConfigError(
                    f"feature '{feature.name}' is computed from {' and '.join(feature.from_tracks)}: list one that is "
                    f"computed alike from {' and '.join(alike[0])}, which may stand in."
                )
            together = [group for group in groups if group[0] & read]
            joined: tuple[set[str], dict[int, int]] = (set(), {place: made.index(alike)})
            for names, columns in together:
                joined[0].update(names)
                joined[1].update(columns)
            groups = [group for group in groups if group not in together] + [joined]
        place_of = inputs.track_names.index
        columns_of = [({place_of(name): place_of(stands[name]) for name in names}, f) for names, f in groups]
        return cls(columns_of, len(inputs.tracks), len(inputs.features))

    def replaced(self, groups: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the columns of tracks and of features to read where these groups are left out."""
        tracks, features = list(range(self.n_tracks)), list(range(self.n_features))
        for group in groups:
            for columns, changes in zip((tracks, features), self.groups[group], strict=True):
                for ours, theirs in changes.items():
                    columns[ours] = theirs
        return tracks, features

    def draw(self, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Leave out a random number of groups, at least one, each number equally likely."""
        number = rng.integers(1, len(self.groups) + 1)
        return self.replaced(rng.choice(len(self.groups), number, replace=False).tolist())


class LabelledWindows(Dataset[dict[str, Any]]):
    """Windows of one part of the split, all cell types together, as the network takes them.

    Parameters
    ----------
    cells : sequence of CellSet
        Opened data sets.
    part : str
        "train", "validation" or "test".
    config : TrainingConfig
        Gives window, augmentation, seed and caching.
    """

    def __init__(self, cells: Sequence[CellSet], part: str, config: TrainingConfig) -> None:
        self.cells = list(cells)
        self.places = [(c, int(row)) for c, cell in enumerate(self.cells) for row in cell.split.rows(part)]
        self.window_bp, self.augment, self.seed = config.window_bp, config.augment, config.seed
        self.keeps = config.run.cache
        network = config.network
        as_tokens = (
            config.run.cache and network.token_bp > 1 and not config.augment.max_shift_bp and not config.mask_from
        )
        stand_ins = StandIns.of(config.inputs) if config.augment.stand_in else None
        self.stand_ins = stand_ins if stand_ins is not None and stand_ins.groups else None
        self.grid = TokenGrid(self.window_bp, network.promoter_bp, network.token_bp) if as_tokens else None

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.places)

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        """Return one window: onehot (L, 4), signals (L, S), features (F,), blacklist (L,), label (), gene_id.

        Cached as tokens: `tracks` (T, S) and `kept` (T,) for signals and blacklist, and an empty onehot where no base
        is known.
        """
        draw = draw if isinstance(draw, Draw) else Draw(int(draw), -1)
        window = self.read(draw.row)
        if draw.position < 0:
            return window if self.grid is not None else crop(window, self.augment.max_shift_bp, self.window_bp)
        rng = np.random.default_rng([self.seed, draw.position])
        changed = augment_window(window, self.augment, self.window_bp, rng)
        if self.stand_ins is not None and rng.random() < self.augment.stand_in:
            tracks, features = self.stand_ins.draw(rng)
            name = "tracks" if "tracks" in changed else "signals"
            changed = {**changed, name: changed[name][:, tracks], "features": changed["features"][features]}
        return changed

    def read(self, row: int) -> dict[str, Any]:
        """Return the window of a row with its margins, from memory if it is kept there."""
        number, place = self.places[row]
        cell = self.cells[number]
        if self.keeps and place in cell.kept:
            return cell.kept[place]
        window = cell.windows[place]
        arrays = {
            "onehot": window.onehot,
            "signals": window.signals,
            "features": window.features,
            "blacklist": window.blacklist,
            "label": np.float32(cell.labels[place]),
            "gene_id": window.gene_id,
        }
        if cell.peaks is not None:
            arrays["peaks"] = cell.peaks.mask(window.chrom, window.start, window.end)
        if self.grid is not None:
            arrays = tokenise(arrays, self.grid)
        if self.keeps:
            cell.kept[place] = arrays
        return arrays


NO_DNA = np.zeros((0, 4), dtype=np.uint8)  # of a window as tokens without any known base: no view, which keeps a window
PER_BASE = ("onehot", "signals", "blacklist", "peaks", "tracks", "kept")  # or per token


def tokenise(window: dict[str, Any], grid: TokenGrid) -> dict[str, Any]:
    """Reduce a window's tracks, blacklist and peaks to tokens, and its DNA to nothing where no base is known."""
    turned = dict(window)
    names = {"signals": "tracks", "blacklist": "kept", "peaks": "peaks"}
    for name in names.keys() & window.keys():
        bases = torch.from_numpy(~turned.pop(name) if name == "blacklist" else turned.pop(name)).float()
        turned[names[name]] = grid.to_tokens(bases[None])[0].numpy()
    if not window["onehot"].any():
        turned["onehot"] = NO_DNA
    return turned


def augment_window(
    window: dict[str, Any], augment: AugmentConfig, window_bp: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Shift a window that has margins, then read it from the other strand with the probability given."""
    shift = int(rng.integers(-augment.max_shift_bp, augment.max_shift_bp + 1)) if augment.max_shift_bp else 0
    moved = crop(window, augment.max_shift_bp + shift, window_bp) if augment.max_shift_bp else window
    if augment.drop_dna and rng.random() < augment.drop_dna:
        onehot = moved["onehot"]
        moved = {**moved, "onehot": NO_DNA if "tracks" in moved else np.zeros_like(onehot)}
    return reverse_complement(moved) if rng.random() < augment.reverse_complement else moved


def crop(window: dict[str, Any], start: int, length: int) -> dict[str, Any]:
    """Cut every per-base array to [start, start + length)."""
    return {name: v[start : start + length] if name in PER_BASE else v for name, v in window.items()}


def reverse_complement(window: dict[str, Any]) -> dict[str, Any]:
    """Read a window from the other strand: all per-base arrays reversed, A and T, C and G swapped."""
    turned = {name: v[::-1] if name in PER_BASE else v for name, v in window.items()}
    turned["onehot"] = turned["onehot"][:, ::-1]
    return turned


def collate(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack windows into a batch of tensors; gene ids stay a list.

    For windows as tokens, `onehot` holds only those with known bases; `rows` tells which one each window has (see
    `nn.tokens.Tokens`).
    """
    batch: dict[str, Any] = {}
    for name in windows[0]:
        values = [window[name] for window in windows]
        if name == "onehot" and "tracks" in windows[0]:
            known = [value for value in values if len(value)]
            batch["onehot"] = _stack(known) if known else torch.zeros(0, 0, 4, dtype=torch.uint8)
            batch["rows"] = known_rows(torch.tensor([len(value) > 0 for value in values]))
        else:
            batch[name] = values if name == "gene_id" else _stack(values)
    return batch


def _stack(values: list[npt.NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(values)))


class StreamSampler(Sampler[Draw]):
    """Endless shuffled passes over the training genes, cut into Lightning epochs of the same number of windows.

    Position p of the stream is gene p % n of the pass p // n, whatever the epoch and the number of processes, so the
    order can be taken up anywhere.

    Parameters
    ----------
    n : int
        Number of training windows.
    per_epoch : int
        Windows of one epoch, over all processes; a multiple of `world`.
    seed : int
        Of the shuffling.
    rank, world : int
        This process, and how many there are.
    """

    def __init__(self, n: int, per_epoch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.per_epoch, self.seed, self.rank, self.world = n, per_epoch, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Move to an epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the windows of this process in an epoch."""
        return self.per_epoch // self.world

    def __iter__(self) -> Iterator[Draw]:
        """Yield this process's windows of the epoch."""
        first = self.epoch * self.per_epoch
        current, order = -1, np.zeros(0, dtype=np.int64)
        for position in range(first + self.rank, first + self.per_epoch, self.world):
            turn, place = divmod(position, self.n)
            if turn != current:
                current, order = turn, np.random.default_rng([self.seed, turn]).permutation(self.n)
            yield Draw(int(order[place]), position)


def train_loader(windows: LabelledWindows, config: TrainingConfig, rank: int = 0, world: int = 1) -> DataLoader[Any]:
    """Load training batches; `batch_size` counts the windows of all processes together."""
    optimiser = config.optimiser
    per_epoch = config.run.validate_every * optimiser.batch_size * optimiser.accumulate
    sampler = StreamSampler(len(windows), per_epoch, config.seed, rank, world)
    return _loader(windows, config, optimiser.batch_size // world, sampler)


def judge_loader(windows: LabelledWindows, config: TrainingConfig) -> DataLoader[Any]:
    """Load windows for validation or test: in order, as they are; every process sees all of them."""
    return _loader(windows, config, config.optimiser.batch_size, None)


def _loader(
    windows: LabelledWindows, config: TrainingConfig, size: int, sampler: StreamSampler | None
) -> DataLoader[Any]:
    workers = config.run.workers
    return DataLoader(
        windows, size, sampler=sampler, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
    )


def warn_constant_tracks(windows: LabelledWindows, inputs: InputSpec) -> list[str]:
    """Warn about tracks that have the same value over all genes looked at; return their names."""
    rows = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), CONSTANT_CHECKED)).astype(int))
    low, high = np.full(len(inputs.tracks), np.inf), np.full(len(inputs.tracks), -np.inf)
    for row in rows:
        window = windows.read(int(row))
        signals = window["signals"] if "signals" in window else window["tracks"]
        low, high = np.minimum(low, signals.min(0)), np.maximum(high, signals.max(0))
        if (low < high).all():
            return []
    constant = [name for name, same in zip(inputs.track_names, low == high, strict=True) if same]
    for name in constant:
        log.warning("the track '%s' has the same value over all %d genes looked at: it says nothing.", name, len(rows))
    return constant


def with_feature_means(inputs: InputSpec, windows: LabelledWindows) -> InputSpec:
    """Note the mean of each feature over the training genes that have it, for users without that feature.

    Features computed from tracks are never lacking and get none; a mean that `inputs` gives already is kept.
    """
    cells = sorted({cell for cell, _ in windows.places})
    rows = [[place for cell, place in windows.places if cell == number] for number in cells]
    tables = [windows.cells[number].windows.features.values[place] for number, place in zip(cells, rows, strict=True)]
    values = np.concatenate(tables).astype(np.float64)
    features = [
        dataclasses.replace(spec, mean=round(float(column[known].mean()), 6))
        if spec.mean is None and known.any()
        else spec
        for spec, column, known in zip(inputs.features, values.T, ~np.isnan(values.T), strict=True)
    ]
    return dataclasses.replace(inputs, features=tuple(features))


def with_track_ranges(inputs: InputSpec, windows: LabelledWindows) -> InputSpec:
    """Note what each signal track looks like over the training genes, so that a warning can tell unlike files."""
    places = [(windows.cells[cell].windows, place) for cell, place in windows.places]
    return dataclasses.replace(inputs, tracks=noted_ranges(inputs.tracks, places, inputs.window_bp))


def feature_table(windows: LabelledWindows) -> npt.NDArray[np.float32]:
    """Return the features of every window, (n, F), reading each once."""
    return np.stack([windows.read(row)["features"] for row in range(len(windows))])


def describe(cells: Sequence[CellSet], root: Path) -> list[dict[str, Any]]:
    """Describe the files of each data set, with paths relative to the data root where they lie in it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, str | Path) and str(value).startswith(f"{root}/"):
            return str(Path(value).relative_to(root))
        return value

    return [plain(cell.windows.describe()) for cell in cells]
