"""The run folder: made once, never written over, resumed only with the settings it began with."""

from __future__ import annotations

import csv
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

from kipoi_seq2exp import __version__, files
from kipoi_seq2exp.errors import ConfigError, InputError, OutputError, WeightsError, brief
from kipoi_seq2exp.nn.checkpoint import fill_parameters
from kipoi_seq2exp.settings import changed, read_yaml, to_mapping
from kipoi_seq2exp.training.config import TrainingConfig
from kipoi_seq2exp.training.module import build_network

MECHANICS = ("accelerator", "workers", "cache", "tensorboard", "progress")  # of `run`: free to change at a resume
DESCRIPTIONS = ("data_root", "about", "limits")  # free to change as well: where the data are, and words for the card


def is_first() -> bool:
    """Tell whether this is the process that writes (the only one, unless Lightning started several)."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def prepare(config: TrainingConfig, folder: Path, *, resume: bool) -> None:
    """Refuse a run folder that exists or, when resuming, one that began with other settings.

    Raises
    ------
    OutputError
        If the folder holds something and ``resume`` is false.
    ConfigError, InputError
        If what it holds cannot be resumed with these settings, or the accelerator is not there.
    """
    check_accelerator(config)
    if resume:
        check_resumable(config, folder)
    elif is_first() and folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder}: this run exists; carry on with --resume, or choose another name or folder.")


def check_accelerator(config: TrainingConfig) -> None:
    """Check that this machine has the devices that a run asks for.

    Raises
    ------
    ConfigError
        If it lacks them.
    """
    if config.run.accelerator != "gpu" or torch.backends.mps.is_available():
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < config.run.devices:
        raise ConfigError(
            f"run.accelerator is 'gpu' and run.devices {config.run.devices}, but torch finds {found} here: set "
            "run.accelerator to cpu or auto (--set run.accelerator=cpu), or fewer devices."
        )


def make_folder(config: TrainingConfig, folder: Path) -> None:
    """Make the run folder with its settings; only once the data are known to be usable."""
    if not is_first():
        return
    files.make_folder(folder)
    files.write_text(folder / "config.yaml", yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True))


def check_resumable(config: TrainingConfig, folder: Path) -> None:
    """Compare the settings with those in the folder's config.yaml and in its last checkpoint, where there are any.

    Raises
    ------
    ConfigError
        If a setting that changes what is learned differs; it is named.
    InputError
        If the checkpoint was not made by this package, or holds a network of another architecture.
    """
    settings, checkpoint = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if settings.is_file():
        _compare(config, read_yaml(settings), settings)
    if not checkpoint.is_file():
        return
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        settings_then, state = saved["seq2exp_config"], saved["state_dict"]
    except Exception as error:
        raise InputError(f"{checkpoint}: is not a checkpoint of this package ({brief(error)}).") from None
    _compare(config, settings_then, checkpoint)
    prefix = "network."
    parameters = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    try:
        fill_parameters(build_network(config), parameters, str(checkpoint))
    except WeightsError as error:
        raise InputError(f"{str(error).removesuffix('.')}: start a run of another name.") from None


def _compare(config: TrainingConfig, saved: dict[str, Any], path: Path) -> None:
    free = {*DESCRIPTIONS, *(f"run.{name}" for name in MECHANICS)}
    for place, before, now in changed(saved, to_mapping(config)):
        if (name := ".".join(place)) not in free:
            raise ConfigError(
                f"{path}: was written with {name} = {before}, the config now says {now}: resume with the settings it "
                f"began with, or start a run of another name."
            )


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read a metrics.csv; a field without a value is left out of its row."""
    with path.open(newline="", encoding="utf-8") as handle:
        return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(handle)]


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"kipoi_seq2exp": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "lightning", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
