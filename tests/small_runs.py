"""A small network in a weights file, and prediction requests on the tiny genome, for the tests that predict."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from kipoi_seq2exp import NetworkConfig, Provenance, Seq2Exp, save_model
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.prediction.request import PredictRequest
from kipoi_seq2exp.prediction.run import Run, fill_store, prepare
from kipoi_seq2exp.prediction.store import STORE_NAME, PredictionStore

PROMOTER_BP = 400


def small_network(tiny: Any, status: str = "provisional", **changes: Any) -> Seq2Exp:
    """Return a network with random weights for the tiny genome's windows."""
    inputs = dataclasses.replace(tiny.inputs, promoter_bp=PROMOTER_BP)
    settings = {"window_bp": inputs.window_bp, "promoter_bp": PROMOTER_BP, "d_model": 16, "d_state": 4}
    config = NetworkConfig(**{**settings, "generator_layers": 1, "encoder_layers": 1, **changes})
    torch.manual_seed(3)
    return Seq2Exp(config, inputs, Provenance(status=status, trained_on="nothing: random numbers"))


def small_weights(tiny: Any, folder: Path, name: str = "small", **changes: Any) -> Path:
    """Write the weights of `small_network`; return the file."""
    path = folder / f"{name}.safetensors"
    save_model(small_network(tiny, **changes), path)
    return path


def small_request(tiny: Any, weights: Path, **changes: Any) -> PredictRequest:
    """Return the request to predict every gene of the tiny genome."""
    fields = {
        "model": str(weights),
        "genes": tiny.genes,
        "fasta": tiny.fasta,
        "sources": {name: str(source) for name, source in tiny.sources.items()},
        "blacklist": tiny.blacklist,
        "device": "cpu",
    }
    return PredictRequest(**{**fields, **changes})


def finished_run(tiny: Any, weights: Path, folder: Path, **changes: Any) -> Run:
    """Predict with a small network, with the Beta of each base; `changes` replace fields of the request."""
    run = prepare(small_request(tiny, weights, save_beta=True, **changes), folder)
    fill_store(run)
    return run


def genes_done(folder: Path) -> int:
    """Return how many genes of a results folder are complete; 0 where there is no store yet."""
    try:
        return int(PredictionStore.reopen(folder / STORE_NAME).done.sum())
    except InputError:
        return 0


def command_line(tiny: Any, weights: Path, output: Path, *more: str, command: str = "predict") -> list[str]:
    """Return the arguments of `seq2exp COMMAND` (several words if need be) for every gene of the tiny genome."""
    tracks = [word for name, source in tiny.sources.items() for word in ("--track", f"{name}={source}")]
    files = ["--fasta", str(tiny.fasta), "--genes", str(tiny.genes), "--blacklist", str(tiny.blacklist)]
    return [*command.split(), str(weights), *files, *tracks, "--device", "cpu", "-o", str(output), *more]
