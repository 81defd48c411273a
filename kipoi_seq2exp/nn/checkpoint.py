"""Weights on disk: safetensors with everything needed to rebuild the network in the file's own header.

The header holds one JSON text, ``seq2exp``: ``format`` (this layout's version), ``network`` (`NetworkConfig`),
``inputs`` (`InputSpec`, or null), ``provenance`` and ``digest``, the SHA-256 of the tensors, checked whenever a file is
loaded (the first files have none). It is one text because safetensors stores several in random order, and the same
weights must have the same hash. There is no pickle. A file is written to a temporary name, then renamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kipoi_seq2exp.config import InputSpec, NetworkConfig, Products, Provenance
from kipoi_seq2exp.errors import WeightsError
from kipoi_seq2exp.files import file_sha256, make_folder, verify_sha256, whole_file
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.settings import from_mapping, to_mapping

FORMAT = "kipoi-seq2exp 1"
HEADER = "seq2exp"


def save_model(model: Seq2Exp, path: str | Path) -> str:
    """Write a network with its settings and provenance.

    Parameters
    ----------
    model : Seq2Exp
        Its `config`, `inputs` and `provenance` go into the file's header.
    path : str or Path
        The .safetensors to write; missing folders are made.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    OutputError
        If the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    header = {
        "format": FORMAT,
        "network": to_mapping(model.config),
        "inputs": to_mapping(model.inputs) if model.inputs else None,
        "provenance": to_mapping(model.provenance),
        "digest": tensor_digest(state),
    }
    make_folder(path.parent)
    with whole_file(path) as part:
        part.write_bytes(save(state, {HEADER: json.dumps(header)}))
    return file_sha256(path)


def read_model(
    file: Path,
    device: str | torch.device | None = None,
    *,
    sha256: str | None = None,
    projections: str | None = None,
) -> Seq2Exp:
    """Read a network from a file, in evaluation mode; `zoo.models.load_model` takes names too and says more."""
    products = Products.chosen(projections)
    if sha256 is not None:
        verify_sha256(file, sha256)
    if not file.is_file():
        raise WeightsError(
            f"{file}: {'it is a folder: give a file in it' if file.is_dir() else 'no such weights file'}."
        )
    config, inputs, provenance, state = _read(file)
    model = Seq2Exp(config, inputs, provenance)
    fill_parameters(model, state, str(file))
    model.products = products
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def read_inputs(file: Path) -> InputSpec | None:
    """Return what the weights in a file read, without loading them.

    Raises
    ------
    WeightsError
        If the file cannot be read or was not written by this package.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: not a readable safetensors file ({' '.join(str(error).split())}).") from None
    return _settings(file, metadata)[1]


def _read(file: Path) -> tuple[NetworkConfig, InputSpec | None, Provenance, dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: not a readable safetensors file ({' '.join(str(error).split())}).") from None
    settings = _settings(file, metadata)
    digest = json.loads(metadata[HEADER]).get("digest")
    if digest is not None and digest != tensor_digest(state):
        raise WeightsError(
            f"{file}: the weights are damaged or were changed (the digest in the file's header is not that of its "
            "tensors): restore the file from where it came."
        )
    return *settings, state


def tensor_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _settings(file: Path, metadata: Mapping[str, str]) -> tuple[NetworkConfig, InputSpec | None, Provenance]:
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
    except WeightsError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file}: its settings cannot be read ({error}).") from None
    return config, inputs, provenance


def fill_parameters(model: Seq2Exp, state: Mapping[str, Tensor], where: str) -> None:
    """Copy parameters into the model; refuse names, shapes and types that do not fit, and infinite values or NaN."""
    expected = model.state_dict()
    for name in {*expected, *state}:
        if name not in state:
            raise WeightsError(f"{where}: lacks the parameter '{name}'.")
        if name not in expected:
            raise WeightsError(f"{where}: has the unexpected parameter '{name}'.")
        if state[name].shape != expected[name].shape:
            found, wanted = tuple(state[name].shape), tuple(expected[name].shape)
            raise WeightsError(f"{where}: '{name}' has shape {found}, but its settings ask for {wanted}.")
        if state[name].is_floating_point() != expected[name].is_floating_point():
            raise WeightsError(
                f"{where}: '{name}' is stored as {_type(state[name])}, expected {_type(expected[name])}: the file is "
                "damaged."
            )
        if not bool(torch.isfinite(state[name].to(expected[name].dtype)).all()):
            raise WeightsError(f"{where}: '{name}' holds a value that is not a finite number.")
    model.load_state_dict(dict(state))


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
