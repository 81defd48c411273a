"""From one YAML file to a run folder: trained weights, checkpoints, curves and scores.

runs/<name>/config.yaml        the run's settings, every field
runs/<name>/checkpoints/       last.ckpt (resume), best.ckpt
runs/<name>/metrics.csv        one row per validation; curves.png draws it
runs/<name>/best.safetensors   what `publish` takes: the best by validation error, or the last
runs/<name>/test.*             predictions, scores and scatter plot of the held-out genes, where there are any (of each
                               further data set: test.<cell type>.*)
runs/<name>/record.json        data, versions, sizes, times
runs/<name>/folds/<value>/     cross-validation: a run folder for each held-out value
runs/<name>/members/<number>/  an ensemble: a run folder for each member
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import platform
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from kipoi_seq2exp.config import Provenance
from kipoi_seq2exp.errors import ConfigError, counted
from kipoi_seq2exp.files import file_name, write_text
from kipoi_seq2exp.nn.checkpoint import save_model
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.settings import read_json
from kipoi_seq2exp.training.callbacks import MetricsFile, WholeCheckpoints
from kipoi_seq2exp.training.config import TrainingConfig, read_training_config
from kipoi_seq2exp.training.data import (
    CellSet,
    LabelledWindows,
    describe,
    judge_loader,
    open_cells,
    train_loader,
    warn_constant_tracks,
    with_feature_means,
    with_track_ranges,
)
from kipoi_seq2exp.training.evaluate import Evaluation, as_numbers, evaluate, pool
from kipoi_seq2exp.training.figures import draw_curves
from kipoi_seq2exp.training.folder import check_resumable, is_first, make_folder, prepare, read_rows, versions
from kipoi_seq2exp.training.module import TrainingModule, open_teacher
from kipoi_seq2exp.training.sections import Keep, Precision, RunConfig, Scheme
from kipoi_seq2exp.training.splits import cross_validation
from kipoi_seq2exp.training.start import start_network
from kipoi_seq2exp.zoo.models import load_model

log = logging.getLogger(__name__)
EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # the config says how many
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*Mismatch dtype between input and weight.*",  # bf16: the norms' weights stay float32
    ".*LeafSpec.*",  # Lightning 2.6 on torch 2.13
)


@dataclass(frozen=True)
class FitResult:
    """The results of a run.

    Attributes
    ----------
    folder, weights : Path
        The run folder; its best.safetensors.
    scores : dict of str to float
        Test scores with intervals ("pearson", "pearson_low", ...); empty without test genes.
    """

    folder: Path
    weights: Path
    scores: dict[str, float]


def fit(
    config_path: str | Path,
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    cells: str | Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Train as a YAML file says.

    Parameters
    ----------
    config_path : path
        The run's settings.
    out : path
        Folder of run folders.
    data_root : path, optional
        Replaces the config's `data_root`.
    overrides : mapping, optional
        Fields to replace, by dotted name.
    cells : path, optional
        A table of cell types beside the package's.
    resume : bool
        Carry on from checkpoints/last.ckpt of the run folder.

    Raises
    ------
    ConfigError
        If a field is wrong, or the checkpoint to resume from belongs to other settings.
    InputError
        If the data cannot be used, or the loss is not a number.
    OutputError
        If the run folder exists (and ``resume`` is false) or cannot be written.
    """
    config = read_training_config(config_path, data_root, overrides, cells)
    return fit_config(config, Path(out) / config.name, resume=resume)


def fit_config(config: TrainingConfig, folder: Path, *, resume: bool = False) -> FitResult:
    """Train as settings say, into a run folder; see `fit`."""
    if config.split.scheme is Scheme.CROSS_VALIDATION:
        return _cross_validate(config, folder, resume=resume)
    prepare(config, folder, resume=resume)
    cells = open_cells(config)
    result = _fit_cells(config, cells, folder, resume=resume)
    for cell in cells:
        cell.windows.close()
    return result


def _fit_cells(config: TrainingConfig, cells: list[CellSet], folder: Path, *, resume: bool) -> FitResult:
    """Train on open data sets, test and leave the run folder."""
    make_folder(config, folder)
    started = time.monotonic()
    if config.members > 1:
        network = _train_members(config, cells, folder, resume=resume)
    else:
        network = _train(config, cells, folder, resume=resume)
        training = LabelledWindows(cells, "train", config)
        network.inputs = with_track_ranges(with_feature_means(config.inputs, training), training)
    record = {
        "seconds": round(_seconds(config, folder, time.monotonic() - started), 1),
        "genes": {part: len(LabelledWindows(cells, part, config)) for part in ("train", "validation", "test")},
        "data": describe(cells, config.root),
        "versions": versions(),
        "machine": platform.machine(),
    }
    tested = None
    if is_first() and len(cells[0].split.test) > 1:
        each = [evaluate(network, config, "test", cells=[cell]) for cell in cells]
        tested = each[0]
        names = [data.cell_type or config.inputs.cell_type for data in config.data]
        record["scores"] = {name: as_numbers(one.scores) for name, one in zip(names, each, strict=True)}
        for name, one in zip(names[1:], each[1:], strict=True):
            one.save(folder, file_name(f"test.{name}"))
    return _finish(config, folder, network, record, tested)


def _seconds(config: TrainingConfig, folder: Path, elapsed: float) -> float:
    """Return how long training took; members trained before a resume count with the time in their own records."""
    if config.members == 1:
        return elapsed
    records = [folder / "members" / str(number) / "record.json" for number in range(1, config.members + 1)]
    return sum(float(read_json(record)["seconds"]) for record in records)


def _train_members(config: TrainingConfig, cells: list[CellSet], folder: Path, *, resume: bool) -> Seq2Exp:
    """Train the members of an ensemble one after the other, each a run of its own, and join them.

    The windows that are kept in memory serve all of them. With ``resume``, finished members are not trained again.
    """
    members = []
    for number in range(1, config.members + 1):
        member = dataclasses.replace(config, members=1, seed=config.seed + number - 1, name=f"{config.name}-{number}")
        place = folder / "members" / str(number)
        if not (place / "best.safetensors").is_file():
            log.info("member %d of %d, seed %d", number, config.members, member.seed)
            again = resume and place.exists()
            prepare(member, place, resume=again)
            _fit_cells(member, cells, place, resume=again)
        members.append(load_model(place / "best.safetensors", "cpu"))
    return Seq2Exp.of_members(members)


def _cross_validate(config: TrainingConfig, folder: Path, *, resume: bool) -> FitResult:
    """Train once without each value of the column and test on it; then train on all genes, with the pooled scores."""
    prepare(config, folder, resume=resume)
    tested = cross_validate(config, folder, resume=resume)
    tested.save(folder, "test")
    everything = dataclasses.replace(config, split=dataclasses.replace(config.split, scheme=Scheme.ALL))
    final = folder / "all"
    if not (final / "best.safetensors").is_file():
        fit_config(everything, final, resume=resume and final.exists())
    record = read_json(final / "record.json")
    record["cross_validation"] = {"column": config.split.column, "values": sorted(set(tested.table["fold"]))}
    return _finish(config, folder, load_model(final / "best.safetensors", "cpu"), record, tested)


def cross_validate(config: TrainingConfig, folder: Path, *, resume: bool = False) -> Evaluation:
    """Predict every gene once by a network that never saw its value of the column (`split.column`).

    Parameters
    ----------
    config : TrainingConfig
        A run with the split "cross-validation".
    folder : Path
        Gets a run folder for each value, under folds/; with ``resume``, finished ones are not trained again.

    Raises
    ------
    ConfigError
        If the run asks for several devices: each fold is a run of its own.
    """
    if config.run.devices * config.run.nodes > 1:
        raise ConfigError("cross-validation runs on one device: give each fold its own run, or set run.devices to 1.")
    if resume:
        check_resumable(config, folder)
    cells = open_cells(dataclasses.replace(config, split=dataclasses.replace(config.split, scheme=Scheme.ALL)))
    values = list(cross_validation(cells[0].genes, config.split.column))
    for cell in cells:
        cell.windows.close()
    make_folder(config, folder)
    tested: dict[str, Evaluation] = {}
    for value in values:
        fold = fold_config(config, value)
        log.info("cross-validation: holding out '%s' (%d of %d)", value, len(tested) + 1, len(values))
        place = folder / "folds" / value
        if not (place / "best.safetensors").is_file():
            fit_config(fold, place, resume=resume and place.exists())
        tested[value] = evaluate(load_model(place / "best.safetensors", "cpu"), fold, "test")
    return pool(tested)


def fold_config(config: TrainingConfig, value: str) -> TrainingConfig:
    """Return the settings of the fold that holds out one value of the column."""
    split = dataclasses.replace(config.split, scheme=Scheme.COLUMN, test=(value,))
    return dataclasses.replace(config, split=split, name=f"{config.name}-{value}")


# -------------------------------------------------------------------------------------------------------- the steps


def _train(config: TrainingConfig, cells: list[CellSet], folder: Path, *, resume: bool) -> Seq2Exp:
    """Run Lightning and return the network to keep, on the CPU in evaluation mode."""
    train, validation = (LabelledWindows(cells, part, config) for part in ("train", "validation"))
    validation.cells, validation.places = cells[:1], [place for place in validation.places if place[0] == 0]
    warn_constant_tracks(train, config.inputs)
    module = TrainingModule(config, start_network(config, train), open_teacher(config))
    with _quiet():
        trainer = _trainer(config, folder, with_validation=len(validation) > 0)
    last = folder / "checkpoints" / "last.ckpt"
    loader = train_loader(train, config, trainer.global_rank, trainer.world_size)
    with _quiet():
        try:
            trainer.fit(
                module,
                loader,
                judge_loader(validation, config) if len(validation) else [],
                ckpt_path=str(last) if resume and last.is_file() else None,
                weights_only=True,
            )
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt(f"{folder}: stopped; the last checkpoint is whole: go on with --resume.") from None
    chosen = folder / "checkpoints" / ("best.ckpt" if config.run.keep is Keep.BEST else "last.ckpt")
    state = torch.load(chosen, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    return module.network.cpu().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning prints at every run; its warnings about anything unexpected pass."""
    lightning, handler = logging.getLogger("lightning.pytorch"), signal.getsignal(signal.SIGINT)
    before = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        lightning.setLevel(before)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # Lightning's shutdown leaves Ctrl-C switched off
            signal.signal(signal.SIGINT, handler)


def _trainer(config: TrainingConfig, folder: Path, *, with_validation: bool) -> pl.Trainer:
    run, optimiser = config.run, config.optimiser
    several = run.devices * run.nodes > 1
    return pl.Trainer(
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy="ddp" if several else "auto",
        precision="bf16-mixed" if run.precision is Precision.BF16 else "32-true",
        max_epochs=optimiser.max_steps // run.validate_every,
        accumulate_grad_batches=optimiser.accumulate,
        gradient_clip_val=optimiser.clip,
        callbacks=_callbacks(config, folder, with_validation=with_validation),
        logger=TensorBoardLogger(folder, name="tensorboard", version="") if run.tensorboard else False,
        plugins=[WholeCheckpoints()],
        use_distributed_sampler=False,  # ours knows its place in the stream
        enable_progress_bar=_watched(run),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if with_validation else 0,
        log_every_n_steps=1,
        default_root_dir=str(folder),
    )


def _watched(run: RunConfig) -> bool:
    """Whether a progress bar is wanted and visible: a log holds none."""
    return run.progress and sys.stdout.isatty()


def _callbacks(config: TrainingConfig, folder: Path, *, with_validation: bool) -> list[Callback]:
    where = str(folder / "checkpoints")
    shared: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False, "save_top_k": 1}
    callbacks: list[Callback] = [MetricsFile(folder / "metrics.csv")]
    if with_validation:
        callbacks.append(ModelCheckpoint(where, "best", monitor="validation_mse", mode="min", **shared))
        if config.run.patience is not None:
            callbacks.append(EarlyStopping("validation_mse", patience=config.run.patience, check_finite=True))
    callbacks.append(ModelCheckpoint(where, "last", **shared))
    if _watched(config.run):
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    return callbacks


def _finish(
    config: TrainingConfig, folder: Path, network: Seq2Exp, record: dict[str, Any], tested: Evaluation | None
) -> FitResult:
    """Write weights with their provenance, curves, scores and the record."""
    weights = folder / "best.safetensors"
    scores = as_numbers(tested.scores) if tested else {}
    if not is_first():
        return FitResult(folder, weights, scores)
    if tested is not None:
        tested.save(folder, "test")
    seeds = f", {config.members} members with the seeds from {config.seed} on" if config.members > 1 else ""
    network.provenance = Provenance(
        status="trained",
        trained_on=_trained_on(config, record["genes"]),
        source=f"seq2exp train, run '{config.name}'{seeds}",
        scores=scores,
        seed=config.seed,
        versions=record["versions"],
    )
    record["weights_sha256"] = save_model(network, weights)
    write_text(folder / "record.json", json.dumps(record, indent=1) + "\n")
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        draw_curves(read_rows(metrics), folder / "curves.png")
    return FitResult(folder, weights, scores)


def _trained_on(config: TrainingConfig, genes: Mapping[str, int]) -> str:
    cells = ", ".join(data.cell_type or config.inputs.cell_type for data in config.data)
    split = config.split
    held = {
        Scheme.ALL: "no gene held out",
        Scheme.CROSS_VALIDATION: f"scores by cross-validation over '{split.column}', weights from all genes",
        Scheme.FOLD: f"the paper's fold {split.fold} held out",
    }.get(split.scheme, f"held out: {', '.join((*split.validation, *split.test))}")
    what = "gene" if len(config.data) == 1 else "window"
    each = "" if len(config.data) == 1 else "one for each gene and cell type: "
    return f"{counted(genes['train'], what)} ({each}{cells}); {held}"
