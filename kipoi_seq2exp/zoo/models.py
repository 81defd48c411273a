"""Models by name or file: loading them, and making them from checkpoints of the authors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kipoi_seq2exp import __version__
from kipoi_seq2exp.config import InputSpec, Provenance, Variant
from kipoi_seq2exp.errors import ConfigError, WeightsError, brief
from kipoi_seq2exp.files import file_sha256
from kipoi_seq2exp.nn import authors
from kipoi_seq2exp.nn.checkpoint import fill_parameters, read_model, save_model
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.settings import suggest
from kipoi_seq2exp.zoo.registry import weights_path


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    sha256: str | None = None,
    projections: str | None = None,
) -> Seq2Exp:
    """Load a network in evaluation mode.

    Parameters
    ----------
    path : str or Path
        A .safetensors file written by this package, or the name of a served model, e.g. "K562".
    device : str or torch.device, optional
        Where to put it; by default CUDA where there is one, else the CPU.
    sha256 : str, optional
        Expected hash of the file; a served model's is known and always checked.
    projections : str, optional
        "float32", or "bfloat16" for faster but coarser products in predictions on a CPU (see `config.Products`); by
        default what the environment variable SEQ2EXP_PROJECTIONS says, else float32.

    Returns
    -------
    Seq2Exp
        With the `config`, `inputs` and `provenance` that the file holds.

    Raises
    ------
    ConfigError
        If `projections` is neither.
    WeightsError
        If the file is missing or damaged, its hash differs, or it was not written by this package.
    """
    return read_model(find_weights(path), device, sha256=sha256, projections=projections)


def find_weights(model: str | Path) -> Path:
    """Return the weights file of a model, which is given as that file or as the name of a served model.

    Raises
    ------
    WeightsError
        If it is neither, or a served model's file is not the one whose hash `models.tsv` quotes.
    """
    named = isinstance(model, str) and not model.endswith(".safetensors") and not Path(model).exists()
    return weights_path(str(model)) if named else Path(model)


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    settings: Mapping[str, Any] | None = None,
    variant: str | Variant | None = None,
    inputs: InputSpec | None = None,
) -> str:
    """Turn a checkpoint of the authors into weights of this package.

    Parameters
    ----------
    src : str or Path
        A Lightning checkpoint or a plain state dict; a local path or ``hf://owner/repository/file``.
    dst : str or Path
        The .safetensors file to write.
    settings : Mapping, optional
        Settings under the published names.
    variant : "soft" or "hard", optional
        Which published model this is: settings that are left out follow from it and from the parameters' shapes.
        Without it, they are those of the published soft model.
    inputs : InputSpec, optional
        Names and units of tracks and features, stored beside the weights.

    Returns
    -------
    str
        SHA-256 of the written file.

    Raises
    ------
    WeightsError
        If a parameter is missing, unexpected, of the wrong shape, or a tie does not hold.
    ConfigError
        If neither settings nor variant are given, or they contradict each other or the inputs.
    """
    file = fetch_checkpoint(str(src))
    state = authors.read_state(file)
    wanted = None if variant is None else _published_variant(variant)
    if wanted is not None:
        settings = {**authors.infer_settings(state, wanted), **(settings or {})}
    elif settings is None:
        raise ConfigError("variant: say whether the checkpoint is 'soft' or 'hard', or give its settings.")
    config = authors.config_from_published(settings)
    if wanted is not None and config.variant is not wanted:
        raise ConfigError(
            f"variant: '{wanted.value}' asked for, but the settings are of the '{config.variant.value}' one."
        )
    if inputs is not None and (len(inputs.tracks), len(inputs.features)) != (config.n_tracks, config.n_features):
        raise ConfigError(
            f"inputs: {len(inputs.tracks)} tracks and {len(inputs.features)} features named, the checkpoint reads "
            f"{config.n_tracks} and {config.n_features}."
        )
    provenance = Provenance(
        source=str(src) if str(src).startswith("hf://") else file.name,
        source_sha256=file_sha256(file),
        versions={"kipoi_seq2exp": __version__, "torch": torch.__version__},
    )
    model = Seq2Exp(config, inputs, provenance)
    fill_parameters(model, authors.translate(state, config, str(src)), str(src))
    return save_model(model, dst)


def _published_variant(name: str | Variant) -> Variant:
    try:
        return Variant(name)
    except ValueError:
        raise ConfigError(f"variant: unknown '{name}'{suggest(str(name), [v.value for v in Variant])}.") from None


def fetch_checkpoint(source: str) -> Path:
    """Return a local path for `source`, downloading ``hf://owner/repository/path/in/it`` through huggingface_hub."""
    if not source.startswith("hf://"):
        return Path(source)
    parts = source.removeprefix("hf://").split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise WeightsError(f"{source}: expected hf://owner/repository/path/of/file.")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise WeightsError(f"{source}: needs huggingface_hub: pip install 'kipoi-seq2exp[hub]'.") from None
    try:
        return Path(hf_hub_download(repo_id=f"{parts[0]}/{parts[1]}", filename=parts[2]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise WeightsError(f"{source}: cannot be downloaded ({brief(error)}).") from None
