"""The sections of a training run's settings: data, split, augmentation, optimiser, and how the run is carried out.

The defaults are the published settings of the full-size runs. `config.TrainingConfig` puts the sections together.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.losses import ErrorLoss
from kipoi_seq2exp.settings import check_largest, suggest
from kipoi_seq2exp.training.labels import LabelConfig

_LARGEST_SHIFT = {"max_shift_bp": 10_000_000}
_LARGEST_STEPS = {
    "max_steps": 100_000_000,
    "warmup_steps": 100_000_000,
    "start_lr": 10.0,
    "peak_lr": 10.0,
    "end_lr": 10.0,
    "weight_decay": 100.0,
    "clip": 1e9,
    "kl_weight": 1e6,
    "batch_size": 100_000,
    "accumulate": 100_000,
}
_LARGEST_RUN = {
    "validate_every": 100_000_000,
    "patience": 1_000_000,
    "devices": 1_024,
    "nodes": 10_000,
    "workers": 1_024,
}


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
        The cell type in that folder, or else a name for messages.
    genes, fasta : str
        Gene table (or GTF) and genome.
    sources : dict of str to str
        Track name to file, or "powerlaw" for contacts without Hi-C.
    blacklist, peaks : str or None
        BED of bases that may not be kept; BED, or bigWig with values above 0, of peaks that serve as the mask (variant
        "peaks").
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
        How genes are held out: one of the paper's folds, whole chromosomes, regions (chrom:start-end), values of a
        column, nothing at all, or one run for each value of a column and then one on all genes.
    fold : str
        Name of the paper's fold, "1" to "12".
    column : str
        Column of the schemes "column" and "cross-validation".
    validation, test, train : tuple of str
        Chromosomes, regions or values held out; `train` limits the regions or values that train (empty: all others).
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
        if self.train and self.scheme not in (Scheme.COLUMN, Scheme.REGION):
            raise ConfigError("the field 'train' belongs to the schemes 'column' and 'region'.")


@dataclass(frozen=True)
class AugmentConfig:
    """Changes of the training windows that leave the label as it is.

    Attributes
    ----------
    max_shift_bp : int
        The window is shifted by up to this many bases to either side, tracks and all.
    reverse_complement : float
        Probability that a window is read from the other strand.
    drop_dna : float
        Probability that a window's DNA is replaced by N, so that the network also predicts without it.
    stand_in : float
        Probability that some of the tracks with a stand-in, a random number of them, are replaced by it, and the
        features computed from them likewise, so that the network also predicts without them.
    """

    max_shift_bp: int = 0
    reverse_complement: float = 0.0
    drop_dna: float = 0.0
    stand_in: float = 0.0

    def __post_init__(self) -> None:
        check_largest(self, _LARGEST_SHIFT)
        if self.max_shift_bp < 0 or not 0 <= self.reverse_complement <= 1:
            raise ConfigError("max_shift_bp must be at least 0 and reverse_complement a probability.")
        for name in ("drop_dna", "stand_in"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be a probability, found {getattr(self, name)}.")


class Learns(str, enum.Enum):
    """Which parameters training changes."""

    ALL = "all"
    HEAD = "head"  # the layers that turn what was read into the expression


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW, the schedule of its learning rate, and the objective.

    Attributes
    ----------
    max_steps, warmup_steps : int
        Optimiser steps in all, and those in which the rate rises linearly from `start_lr` to `peak_lr`; then it falls
        along a cosine to `end_lr`.
    start_lr, peak_lr, end_lr : float
        Learning rate at the first step, after the warm-up, and at the last step.
    betas : tuple of float
        AdamW's decay rates of the averages of the gradient and of its square.
    weight_decay : float
        Applied to every parameter, as published.
    clip : float
        Largest norm of the gradient.
    learns : Learns
        "all", or "head": only a fresh head. Everything else stays as in the weights of `start`, and the mask is read as
        its mean, as in predictions. This stage takes minutes after the training of the whole network.
    error : ErrorLoss
        How errors of the expression count: "smooth_l1" as published, or "squared".
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
    learns: Learns = Learns.ALL
    error: ErrorLoss = ErrorLoss.SMOOTH_L1
    kl_weight: float = 0.01
    batch_size: int = 8
    accumulate: int = 1

    def __post_init__(self) -> None:
        check_largest(self, _LARGEST_STEPS)
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
        Number format of the linear layers and mixers; prior, mask and loss are always float32.
    accelerator : str
        "auto", "cpu" or "gpu".
    devices, nodes : int
        More than one process in all: Lightning's DDP.
    workers : int
        Processes that read windows.
    cache : bool
        Keep all windows in memory after the first reading; as tokens where the network reads tokens and windows are
        not shifted (0.04 MB each at 200 kb and tokens of 64 bases, instead of 3 MB; known DNA comes on top).
    checkpoint_activations : bool
        Recompute each layer in the backward pass: less memory, a third more time. In float32 on the CPU layers are
        streamed, and recomputed in any case.
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
        check_largest(self, _LARGEST_RUN)
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
