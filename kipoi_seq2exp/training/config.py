"""Settings of a training run: one YAML file, every field checked, stored beside the weights.

`read_training_config` turns the file into a `TrainingConfig`. The defaults are the published settings of the full-size
runs, so a config for them states only its data. Paths are relative to the data root: `--data DIR`, else `data_root` of the
file (environment variables are expanded), else the file's own folder.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kipoi_seq2exp.config import InputSpec, NetworkConfig, Variant, from_mapping, read_yaml, suggest
from kipoi_seq2exp.data.labels import LabelConfig
from kipoi_seq2exp.errors import ConfigError


class Layout(str, enum.Enum):
    """How the files of a data set are found."""

    FILES = "files"  # each named in the config
    PUBLISHED = "published"  # the authors' data folder: `data_root` is that folder


@dataclass(frozen=True)
class DataConfig:
    """The genes, files and labels of one cell type.

    Attributes
    ----------
    layout : Layout
        With "published", everything below but `cell_type` comes from the authors' folder.
    cell_type : str
        Which cell type of that folder, or a name for messages.
    genes, fasta : str
        Gene table (or GTF) and genome.
    sources : dict of str to str
        Track name to file, or "powerlaw" for contacts without Hi-C.
    blacklist, peaks : str or None
        BED of bases that may not be kept; of peaks that serve as the mask (variant "peaks").
    label : LabelConfig or None
        Where the labels come from.
    missing_features : str
        "error", or "mean" to use the training mean of a missing gene feature.
    """

    layout: Layout = Layout.FILES
    cell_type: str = ""
    genes: str = ""
    fasta: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    blacklist: str | None = None
    peaks: str | None = None
    label: LabelConfig | None = None
    missing_features: str = "error"

    def __post_init__(self) -> None:
        if self.layout is Layout.PUBLISHED:
            if not self.cell_type:
                raise ConfigError("the published layout needs 'cell_type', e.g. K562.")
            return
        for name in ("genes", "fasta", "label"):
            if not getattr(self, name):
                raise ConfigError(f"the field '{name}' is missing.")


class Scheme(str, enum.Enum):
    """How genes are held out."""

    FOLD = "fold"  # one of the paper's folds
    CHROMOSOME = "chromosome"
    REGION = "region"  # chrom:start-end
    COLUMN = "column"  # by the values of a column of the gene table
    ALL = "all"  # nothing is held out
    CROSS_VALIDATION = (
        "cross-validation"  # one run for each value of a column, held out to test it, then one on all genes
    )


@dataclass(frozen=True)
class SplitConfig:
    """Which genes train, choose the best step, and judge.

    Attributes
    ----------
    scheme : Scheme
    fold : str
        Name of the paper's fold, "1" to "12".
    column : str
        Column of the schemes "column" and "cross-validation".
    validation, test, train : tuple of str
        Chromosomes, regions or values held out; `train` limits a column's training values (empty: all others).
    allow_overlap : bool
        Accept windows that share bases with windows of another part.
    """

    scheme: Scheme = Scheme.FOLD
    fold: str = "11"
    column: str = ""
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        if self.scheme in (Scheme.COLUMN, Scheme.CROSS_VALIDATION) and not self.column:
            raise ConfigError(f"the scheme '{self.scheme.value}' needs the field 'column'.")
        if self.train and self.scheme is not Scheme.COLUMN:
            raise ConfigError("the field 'train' belongs to the scheme 'column'.")


@dataclass(frozen=True)
class AugmentConfig:
    """Changes of the training windows that leave the label as it is.

    Attributes
    ----------
    max_shift_bp : int
        The window is shifted by up to this many bases to either side, tracks and all.
    reverse_complement : float
        Probability that a window is read from the other strand.
    """

    max_shift_bp: int = 0
    reverse_complement: float = 0.0

    def __post_init__(self) -> None:
        if self.max_shift_bp < 0 or not 0 <= self.reverse_complement <= 1:
            raise ConfigError("max_shift_bp must be at least 0 and reverse_complement a probability.")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW, the schedule of its learning rate, and the objective.

    Attributes
    ----------
    max_steps, warmup_steps : int
        Optimiser steps in all, and those in which the rate rises linearly from `start_lr` to `peak_lr`; then it falls along a
        cosine to `end_lr`.
    weight_decay : float
        Applied to every parameter, as published.
    clip : float
        Largest norm of the gradient.
    kl_weight : float
        Weight of the information bottleneck.
    batch_size, accumulate : int
        Windows of one forward pass, over all devices; passes whose gradients are summed into one step.
    """

    max_steps: int = 50_000
    warmup_steps: int = 5_000
    start_lr: float = 1e-5
    peak_lr: float = 5e-4
    end_lr: float = 1e-4
    weight_decay: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    kl_weight: float = 0.01
    batch_size: int = 8
    accumulate: int = 1

    def __post_init__(self) -> None:
        for name in ("max_steps", "start_lr", "peak_lr", "end_lr", "clip", "batch_size", "accumulate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")
        for name in ("warmup_steps", "weight_decay", "kl_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, found {getattr(self, name)}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must lie in [0, 1), found {list(self.betas)}.")


class Keep(str, enum.Enum):
    """Which weights a run ends with."""

    BEST = "best"  # lowest mean squared error on the validation genes
    LAST = "last"


class Precision(str, enum.Enum):
    """Number format of the linear layers and mixers; prior, Beta, mask and loss are always float32."""

    FULL = "32"
    BF16 = "bf16"


@dataclass(frozen=True)
class RunConfig:
    """How the run is carried out; nothing here changes what is learned, but for `keep` and `patience`.

    Attributes
    ----------
    validate_every : int
        Optimiser steps between two validations; each writes a checkpoint and a row of metrics.csv.
    patience : int or None
        Stop after this many validations without a better one.
    keep : Keep
        Best by validation error, or the last.
    precision : Precision
    accelerator : str
        "auto", "cpu" or "gpu".
    devices, nodes : int
        More than one process in all: Lightning's DDP.
    workers : int
        Processes that read windows.
    cache : bool
        Keep all windows in memory after the first reading.
    checkpoint_activations : bool
        Recompute each layer in the backward pass: less memory, a third more time.
    tensorboard, progress : bool
        Write TensorBoard logs; show a progress bar.
    """

    validate_every: int = 1_000
    patience: int | None = None
    keep: Keep = Keep.BEST
    precision: Precision = Precision.FULL
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    cache: bool = False
    checkpoint_activations: bool = False
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("validate_every", "devices", "nodes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")
        if self.patience is not None and self.patience <= 0:
            raise ConfigError(f"patience must be above 0, found {self.patience}.")
        if self.workers < 0:
            raise ConfigError(f"workers must not be negative, found {self.workers}.")
        if self.accelerator not in _ACCELERATORS:
            raise ConfigError(f"unknown accelerator '{self.accelerator}'{suggest(self.accelerator, _ACCELERATORS)}.")


_ACCELERATORS = ("auto", "cpu", "gpu")


class Start(str, enum.Enum):
    """Where the weights start."""

    RANDOM = "random"
    LINEAR = "linear"  # random, but the expression head begins as the ridge regression of the labels on the features


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes
    ----------
    name : str
        Name of the run folder.
    inputs : InputSpec
        Tracks and features in the model's order; in the file either all of it, or `cell_type` alone (a row of the table of
        cell types) with what shall differ.
    data : tuple of DataConfig
        Cell types to learn from; the first one is the one that validates, is tested and is served.
    network : NetworkConfig
        In the file without `window_bp`, `promoter_bp`, `n_tracks` and `n_features`: they follow from `inputs`.
    train_window_bp : int or None
        Length of the training windows where it is shorter than the served `window_bp` (not for the hard variant).
    seed : int
        Of weights, order, augmentation and masks.
    start : Start
        Initial weights.
    ridge : float
        Penalty of the regression that "linear" starts from.
    linear_on : tuple of str
        Features in that regression; empty: all. The others start silent.
    mask_from : str or None
        Variant "peaks": weights (name or path) whose mask, its top fraction, is given instead of peaks.
    data_root : str
        Folder that relative paths are relative to.
    about : str
        What the data are, in plain words, for the card of the weights.
    limits : tuple of str
        What the weights must not be used for or trusted with, for the card.
    """

    name: str
    inputs: InputSpec
    data: tuple[DataConfig, ...]
    network: NetworkConfig = NetworkConfig()
    split: SplitConfig = SplitConfig()
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    run: RunConfig = RunConfig()
    train_window_bp: int | None = None
    seed: int = 2
    start: Start = Start.RANDOM
    ridge: float = 1.0
    linear_on: tuple[str, ...] = ()
    mask_from: str | None = None
    data_root: str = ""
    about: str = ""
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ConfigError(f"name must be letters, digits, '.', '-' and '_', found '{self.name}'.")
        if not self.data:
            raise ConfigError("data must list at least one data set.")
        if self.seed < 0 or self.ridge < 0:
            raise ConfigError("seed and ridge must not be negative.")
        if self.train_window_bp is not None:
            self._check_window(self.train_window_bp)
        if self.run.keep is Keep.BEST and self.split.scheme in (Scheme.ALL, Scheme.CROSS_VALIDATION):
            scheme = self.split.scheme.value
            raise ConfigError(
                f"run.keep must be 'last' with the split '{scheme}': no gene is left to choose the best by."
            )
        if self.optimiser.max_steps % self.run.validate_every:
            raise ConfigError(
                f"optimiser.max_steps ({self.optimiser.max_steps:,}) must be a multiple of run.validate_every "
                f"({self.run.validate_every:,}): the run ends with a validation."
            )
        processes = self.run.devices * self.run.nodes
        if self.optimiser.batch_size % processes:
            raise ConfigError(
                f"optimiser.batch_size ({self.optimiser.batch_size}) must be a multiple of the {processes} processes."
            )
        if self.mask_from is not None and self.network.variant is not Variant.PEAKS:
            raise ConfigError("mask_from belongs to the variant 'peaks': the mask of trained weights instead of peaks.")
        if self.start is Start.LINEAR and self.network.n_features == 0:
            raise ConfigError("start 'linear' needs gene features: the head begins as their regression.")
        for name in self.linear_on:
            if name not in self.inputs.feature_names:
                raise ConfigError(f"linear_on: unknown feature '{name}'{suggest(name, self.inputs.feature_names)}.")
        for data in self.data:
            given = data.peaks is not None or self.mask_from is not None
            if self.network.variant is Variant.PEAKS and data.layout is Layout.FILES and not given:
                raise ConfigError("the variant 'peaks' needs 'peaks' (a BED) in each data set, or 'mask_from'.")

    def _check_window(self, length: int) -> None:
        if not self.inputs.promoter_bp <= length <= self.inputs.window_bp or length % 2:
            raise ConfigError(
                f"train_window_bp must be even and lie between promoter_bp ({self.inputs.promoter_bp:,}) and window_bp "
                f"({self.inputs.window_bp:,}), found {length:,}."
            )
        if self.network.variant is Variant.HARD and length != self.inputs.window_bp:
            raise ConfigError(
                "train_window_bp cannot differ from window_bp in the hard variant: its positions are learned."
            )

    @property
    def root(self) -> Path:
        """Folder that relative paths of the data are relative to."""
        return Path(self.data_root)

    @property
    def window_bp(self) -> int:
        """Length of the training windows."""
        return self.train_window_bp or self.inputs.window_bp


def read_training_config(
    path: str | Path, data_root: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Read a run's YAML file.

    Parameters
    ----------
    path : path
        The file.
    data_root : path, optional
        Replaces the file's `data_root` (``--data DIR``).
    overrides : mapping, optional
        Fields that replace those of the file, by dotted name: ``{"seed": 22, "run.devices": 2}``.

    Raises
    ------
    ConfigError
        If a field is unknown, missing or of the wrong type; the message names it and the nearest valid name.
    """
    path = Path(path)
    values = read_yaml(path)
    for name, value in (overrides or {}).items():
        _set(values, name.split("."), value, name)
    root = str(data_root) if data_root is not None else _expand(values.get("data_root"), path)
    return training_config({**values, "data_root": str(Path(root).expanduser().resolve())}, str(path))


def training_config(values: Mapping[str, Any], where: str) -> TrainingConfig:
    """Build the settings from a mapping whose `inputs` may be short and whose `network` follows from them."""
    if "inputs" not in values:
        raise ConfigError(f"{where}: the field 'inputs' is missing (e.g. inputs: {{cell_type: K562}}).")
    inputs = _inputs(values["inputs"], f"{where}: inputs")
    network = dict(_section(values, "network", where))
    derived = {
        "window_bp": inputs.window_bp,
        "promoter_bp": inputs.promoter_bp,
        "n_tracks": len(inputs.tracks),
        "n_features": len(inputs.features),
    }
    for name, value in derived.items():
        if network.setdefault(name, value) != value:
            raise ConfigError(f"{where}: network.{name} is {network[name]}, but inputs give {value}: leave it out.")
    return from_mapping(TrainingConfig, {**values, "inputs": inputs, "network": network}, where)


def _inputs(values: Any, where: str) -> InputSpec:
    """Read the inputs in full, or take the named cell type's row and replace what is given."""
    from kipoi_seq2exp.data.cells import read_cells

    if isinstance(values, InputSpec):
        return values
    if not isinstance(values, Mapping) or "cell_type" not in values:
        raise ConfigError(f"{where}: expected a mapping with 'cell_type', found {values!r}.")
    if "tracks" in values and "features" in values:
        return from_mapping(InputSpec, values, where)
    cells = read_cells()
    name = str(values["cell_type"])
    if name not in cells:
        raise ConfigError(f"{where}: no cell type '{name}' in the table of cell types{suggest(name, cells)}.")
    row = cells[name]
    known = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    return from_mapping(InputSpec, {**known, **values}, where)


def _section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: {name} must be a mapping of fields, found {section!r}.")
    return section


def _set(values: dict[str, Any], names: list[str], value: Any, whole: str) -> None:
    section: Any = values
    for name in names[:-1]:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {whole}: '{name}' is no section of the config.")
    section[names[-1]] = value


def _expand(data_root: Any, path: Path) -> str:
    """Expand environment variables; relative folders are relative to the config file."""
    if data_root is None:
        return str(path.parent)
    missing = [name for name in re.findall(r"\$\{?(\w+)\}?", str(data_root)) if name not in os.environ]
    if missing:
        raise ConfigError(f"{path}: data_root needs the environment variable {missing[0]}: set it, or give --data DIR.")
    return str(path.parent / os.path.expandvars(str(data_root)))
