"""Weights on disk: safetensors with everything needed to rebuild the network in the file's own header.

The header holds one JSON text, ``seq2exp``: ``format`` (this layout's version), ``network`` (`NetworkConfig`),
``inputs`` (`InputSpec`, or null) and ``provenance``. (One text, since safetensors stores several in random order: the
same weights shall have the same hash.) No pickle anywhere. A file is written to a temporary name, then renamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kipoi_seq2exp import __version__
from kipoi_seq2exp.config import (
    InputSpec,
    NetworkConfig,
    Products,
    Provenance,
    Variant,
    from_mapping,
    suggest,
    to_mapping,
)
from kipoi_seq2exp.errors import ConfigError, WeightsError
from kipoi_seq2exp.files import make_folder, whole_file
from kipoi_seq2exp.nn import authors
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.zoo.registry import file_sha256, verify_sha256, weights_path

FORMAT = "kipoi-seq2exp 1"
HEADER = "seq2exp"


def save_model(model: Seq2Exp, path: str | Path) -> str:
    """Write a network with its settings and provenance; return the file's SHA-256.

    Parameters
    ----------
    model : Seq2Exp
        Its `config`, `inputs` and `provenance` go into the file's header.
    path : str or Path
        The .safetensors to write; folders on the way are made.

    Raises
    ------
    OutputError
        If the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "network": to_mapping(model.config),
        "inputs": to_mapping(model.inputs) if model.inputs else None,
        "provenance": to_mapping(model.provenance),
    }
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    make_folder(path.parent)
    with whole_file(path) as part:
        part.write_bytes(save(state, {HEADER: json.dumps(header)}))
    return file_sha256(path)


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
        "float32", or "bfloat16" for quicker and coarser products in predictions on a CPU (see `config.Products`); by
        default what the environment variable SEQ2EXP_PROJECTIONS says, else float32.

    Raises
    ------
    ConfigError
        If `projections` is neither.
    WeightsError
        If the file is missing or damaged, its hash differs, or it was not written by this package.
    """
    products = Products.chosen(projections)
    named = isinstance(path, str) and not path.endswith(".safetensors") and not Path(path).exists()
    file = weights_path(str(path)) if named else Path(path)
    if sha256 is not None:
        verify_sha256(file, sha256)
    if not file.is_file():
        raise WeightsError(f"{file}: no such weights file.")
    config, inputs, provenance, state = _read(file)
    model = Seq2Exp(config, inputs, provenance)
    _fill(model, state, str(file))
    model.products = products
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def _read(file: Path) -> tuple[NetworkConfig, InputSpec | None, Provenance, dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: not a readable safetensors file ({' '.join(str(error).split())}).") from None
    try:
        header = json.loads(metadata.get(HEADER, "{}"))
        if header.get("format") != FORMAT:
            raise WeightsError(
                f"{file}: not weights of this package (format {header.get('format')!r}, expected '{FORMAT}'): "
                "convert a published checkpoint with 'seq2exp convert'."
            )
        config = from_mapping(NetworkConfig, header["network"], f"{file}: network")
        inputs = from_mapping(InputSpec, header["inputs"], f"{file}: inputs") if header["inputs"] else None
        provenance = from_mapping(Provenance, header["provenance"], f"{file}: provenance")
    except (KeyError, json.JSONDecodeError, ConfigError) as error:
        raise WeightsError(f"{file}: its settings cannot be read ({error}).") from None
    return config, inputs, provenance, state


def _fill(model: Seq2Exp, state: Mapping[str, Tensor], where: str) -> None:
    """Copy parameters into the model, refusing any name or shape that does not fit."""
    expected = model.state_dict()
    for name in {*expected, *state}:
        if name not in state:
            raise WeightsError(f"{where}: lacks the parameter '{name}'.")
        if name not in expected:
            raise WeightsError(f"{where}: has the unexpected parameter '{name}'.")
        if state[name].shape != expected[name].shape:
            found, wanted = tuple(state[name].shape), tuple(expected[name].shape)
            raise WeightsError(f"{where}: '{name}' has shape {found}, its settings say {wanted}.")
        if not bool(torch.isfinite(state[name]).all()):
            raise WeightsError(f"{where}: '{name}' holds a value that is not a finite number.")
    model.load_state_dict(dict(state))


# -------------------------------------------------------------------------------------------------------- conversion


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
        Which published model this is: what `settings` leave out follows from it and from the parameters' shapes.
        Without it, what they leave out is as in the published soft model.
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
    _fill(model, authors.translate(state, config, str(src)), str(src))
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
        raise WeightsError(f"{source}: cannot be downloaded ({' '.join(str(error).split())[:200]}).") from None
