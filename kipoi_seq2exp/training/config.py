"""Settings of a training run: one YAML file, every field checked, stored beside the weights.

`read_training_config` turns the file into a `TrainingConfig`. Paths are relative to the data root: ``--data DIR``, else
`data_root` of the file (environment variables are expanded), else the file's own folder.
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

from kipoi_seq2exp.config import InputSpec, NetworkConfig, TrackKind, Variant
from kipoi_seq2exp.data.cells import cell_inputs
from kipoi_seq2exp.data.text import as_whole
from kipoi_seq2exp.errors import ConfigError, excerpt
from kipoi_seq2exp.files import is_plain_name
from kipoi_seq2exp.settings import from_mapping, read_yaml, suggest, to_mapping
from kipoi_seq2exp.training.sections import (
    AugmentConfig,
    DataConfig,
    Keep,
    Layout,
    Learns,
    OptimiserConfig,
    RunConfig,
    Scheme,
    SplitConfig,
)


class Start(str, enum.Enum):
    """Where the weights start, unless at trained ones."""

    RANDOM = "random"
    LINEAR = "linear"  # random, but the expression head begins as the ridge regression of the labels on the features


MOST_MEMBERS = 100


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes
    ----------
    name : str
        Name of the run folder.
    inputs : InputSpec
        Tracks and features in the model's order; in the file either all of it, or `cell_type` (a row of the table of
        cell types) with the fields that differ.
    data : tuple of DataConfig
        Cell types to learn from; the first one is used for validation and test, and is served.
    network : NetworkConfig
        The file leaves out `window_bp`, `promoter_bp`, `n_tracks` and `n_features`, which follow from `inputs`.
    split : SplitConfig
        Section: which genes are held out.
    augment : AugmentConfig
        Section: changes of the training windows.
    optimiser : OptimiserConfig
        Section: steps, learning rate, batch.
    run : RunConfig
        Section: how the run is carried out.
    train_window_bp : int or None
        Length of the training windows where it is shorter than the served `window_bp` (not for the hard variant).
    seed : int
        Seed of weights, order, augmentation and masks.
    members : int
        Networks to train one after the other, with the seeds that follow; together they are served as an ensemble.
    start : str
        Initial weights: "random", "linear" (see `Start`), or trained ones to start from: the name of a served model or
        a .safetensors file (`training.start`). The network's settings then follow from them.
    ridge : float
        Penalty of the regression that "linear" starts from.
    linear_on : tuple of str
        Features in that regression; if empty, all. The others start with weights of 0.
    mask_from : str or None
        Variant "peaks": weights (name or path) whose mask, cut to its top fraction, takes the place of peaks.
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
    network: NetworkConfig = field(default_factory=NetworkConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)
    train_window_bp: int | None = None
    seed: int = 2
    members: int = 1
    start: str = Start.RANDOM.value
    ridge: float = 1.0
    linear_on: tuple[str, ...] = ()
    mask_from: str | None = None
    data_root: str = ""
    about: str = ""
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_plain_name(self.name):
            raise ConfigError(
                f"name must be at most 120 letters, digits, '.', '-', '+' and '_', the first no '.' or '-', found "
                f"'{excerpt(self.name, 130)}'."
            )
        if not self.data:
            raise ConfigError("data must list at least one data set.")
        if not 1 <= self.members <= MOST_MEMBERS:
            raise ConfigError(f"members must lie between 1 and {MOST_MEMBERS}, found {self.members}.")
        if self.network.members > 1:
            raise ConfigError("network.members follows from 'members', the networks that the run trains: set that.")
        if self.members > 1 and self.split.scheme is Scheme.CROSS_VALIDATION:
            raise ConfigError(
                "members must be 1 with the split 'cross-validation', which trains many networks as it is."
            )
        if self.seed < 0 or self.ridge < 0:
            raise ConfigError("seed and ridge must not be negative.")
        if self.train_window_bp is not None:
            self._check_window(self.train_window_bp)
        self._check_run()
        self._check_start()
        self._check_mask()

    def _check_run(self) -> None:
        scheme = self.split.scheme
        if self.run.keep is Keep.BEST and scheme in (Scheme.ALL, Scheme.CROSS_VALIDATION):
            raise ConfigError(
                f"run.keep must be 'last' with the split '{scheme.value}': no gene is left to choose the best by."
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

        if self.network.strand_feature is not None and self.augment.reverse_complement:
            raise ConfigError(
                "augment.reverse_complement must be 0 with network.strand_feature: windows are read 5' to 3'."
            )

    def _check_start(self) -> None:
        if self.start == Start.LINEAR.value and self.network.n_features == 0:
            raise ConfigError("start 'linear' needs gene features: the head begins as their regression.")
        if self.optimiser.learns is Learns.HEAD and self.start_weights is None:
            raise ConfigError("optimiser.learns 'head' needs trained weights in 'start': nothing else is trained.")
        for name in self.linear_on:
            if name not in self.inputs.feature_names:
                raise ConfigError(f"linear_on: unknown feature '{name}'{suggest(name, self.inputs.feature_names)}.")

    def _check_mask(self) -> None:
        given = self.network.variant is Variant.PEAKS
        if self.mask_from is not None and not given:
            raise ConfigError("mask_from belongs to the variant 'peaks': the mask of trained weights instead of peaks.")
        for data in self.data:
            absent = data.peaks is None and self.mask_from is None
            if given and data.layout is Layout.FILES and absent:
                raise ConfigError("the variant 'peaks' needs 'peaks' (BED or bigWig) in each data set, or mask_from.")

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
    def start_weights(self) -> str | None:
        """Trained weights that the run starts from, by name or path."""
        return None if self.start in [start.value for start in Start] else self.start

    @property
    def root(self) -> Path:
        """Folder that relative paths of the data are relative to."""
        return Path(self.data_root)

    @property
    def window_bp(self) -> int:
        """Length of the training windows."""
        return self.train_window_bp or self.inputs.window_bp


def read_training_config(
    path: str | Path,
    data_root: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    cells: str | Path | None = None,
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
    cells : path, optional
        Table of cell types that `inputs` may name a row of, beside the package's own; replaces the file's `cells`,
        which is relative to the file.

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
    table = values.pop("cells", None)
    if table is not None and not isinstance(table, str):
        raise ConfigError(f"{path}: cells must be the path of a table of cell types, found {table!r}.")
    cells = cells if cells is not None or table is None else path.parent / table
    values = {**values, "data_root": str(Path(root).expanduser().resolve())}
    return training_config(values, str(path), cells)


def training_config(values: Mapping[str, Any], where: str, cells: str | Path | None = None) -> TrainingConfig:
    """Build the settings from a mapping whose `inputs` may be short and whose `network` follows from them."""
    if "inputs" not in values:
        raise ConfigError(f"{where}: the field 'inputs' is missing (e.g. inputs: {{cell_type: K562}}).")
    inputs = _inputs(values["inputs"], f"{where}: inputs", cells)
    network = {**_started_from(values, inputs), **_section(values, "network", where)}
    derived = {
        "window_bp": inputs.window_bp,
        "promoter_bp": inputs.promoter_bp,
        "n_tracks": len(inputs.tracks),
        "n_features": len(inputs.features),
    }
    for name, value in derived.items():
        if network.setdefault(name, value) != value:
            raise ConfigError(f"{where}: network.{name} is {network[name]}, but inputs give {value}: leave it out.")
    network = {**_track_settings(inputs), **network}
    contacts = [number for number, track in enumerate(inputs.tracks) if track.kind is TrackKind.CONTACT]
    if network.get("contact_pool") and contacts:
        network.setdefault("contact_track", contacts[0])
    return from_mapping(TrainingConfig, {**values, "inputs": inputs, "network": network}, where)


def _track_settings(inputs: InputSpec) -> dict[str, list[float]]:
    """Return the share and the evidence of each track for a config that states none: the published ones, by name.

    A track with a stand-in, that of another cell type, is no evidence of this one's elements.
    """
    default = NetworkConfig()
    weights = dict(zip(PUBLISHED_TRACKS, default.prior_weights, strict=True))
    betas = dict(zip(PUBLISHED_TRACKS, default.signal_betas, strict=True))
    other = {TrackKind.BIGWIG: weights["dnase"], TrackKind.CONTACT: weights["hic"]}
    return {
        "prior_weights": [
            NO_SHARE if track.stand_in else weights.get(track.name, other[track.kind]) for track in inputs.tracks
        ],
        "signal_betas": [betas.get(track.name, 1.0) for track in inputs.tracks],
    }


NO_SHARE = -20.0  # of a track in the evidence of the mask, before the softmax: 2e-9 or less
PUBLISHED_TRACKS = ("h3k27ac", "dnase", "hic")
"""Tracks whose share and evidence are the defaults of `NetworkConfig`."""


def _started_from(values: Mapping[str, Any], inputs: InputSpec) -> Mapping[str, Any]:
    """Return the settings of the network that follow from the weights a run starts from.

    The feature that says which strand a gene is read from is found by its name.
    """
    start = values.get("start", Start.RANDOM.value)
    if not isinstance(start, str) or start in [known.value for known in Start]:
        return {}
    from kipoi_seq2exp.zoo.models import load_model

    source = load_model(start, "cpu")
    settings = to_mapping(source.config)
    found = {name: value for name, value in settings.items() if name not in (*FREE, "promoter_bp")}
    if source.config.strand_feature is not None and source.inputs is not None:
        strand = source.inputs.feature_names[source.config.strand_feature]
        if strand not in inputs.feature_names:
            raise ConfigError(
                f"start: the weights '{start}' read each gene from its own strand, which their feature '{strand}' "
                "tells: list it in inputs.features."
            )
        found["strand_feature"] = inputs.feature_names.index(strand)
    return found


FREE = (
    *("window_bp", "n_tracks", "n_features", "prior_weights", "signal_betas", "contact_track", "strand_feature"),
    "members",
)
"""Settings of the network that may differ from those of the weights, or follow from the run's tracks and features."""


def _inputs(values: Any, where: str, cells: str | Path | None) -> InputSpec:
    """Read the inputs in full, or take the named cell type's row and replace what is given."""
    if isinstance(values, InputSpec):
        return values
    if not isinstance(values, Mapping) or "cell_type" not in values:
        raise ConfigError(f"{where}: expected a mapping with 'cell_type', found {values!r}.")
    if "tracks" in values and "features" in values:
        return from_mapping(InputSpec, values, where)
    try:
        row = cell_inputs(str(values["cell_type"]), cells)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    known = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    return from_mapping(InputSpec, {**known, **values}, where)


def _section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: {name} must be a mapping of fields, found {section!r}.")
    return section


def _set(values: dict[str, Any], names: list[str], value: Any, whole: str) -> None:
    """Replace one field; an entry of a list is named by its number, from 0."""
    section: Any = values
    for name in names[:-1]:
        is_list = isinstance(section, list)
        section = section[_entry(section, name, whole)] if is_list else section.setdefault(name, {})
        if not isinstance(section, dict | list):
            raise ConfigError(f"--set {whole}: '{name}' is not a section of the config.")
    section[_entry(section, names[-1], whole) if isinstance(section, list) else names[-1]] = value


def _entry(entries: list[Any], name: str, whole: str) -> int:
    number = as_whole(name)
    if number is None or not 0 <= number < len(entries):
        raise ConfigError(f"--set {whole}: '{name}' names no entry: they are counted from 0 to {len(entries) - 1}.")
    return number


def _expand(data_root: Any, path: Path) -> str:
    """Expand environment variables; relative folders are relative to the config file."""
    if data_root is None:
        return str(path.parent)
    missing = [name for name in re.findall(r"\$\{?(\w+)\}?", str(data_root)) if name not in os.environ]
    if missing:
        raise ConfigError(f"{path}: data_root needs the environment variable {missing[0]}: set it, or give --data DIR.")
    return str(path.parent / os.path.expandvars(str(data_root)))
