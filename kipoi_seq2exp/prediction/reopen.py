"""The run behind a finished result, opened again: its model and inputs, for what the result itself does not hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from kipoi_seq2exp.config import InputSpec, MaskMode
from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.prediction.request import PredictRequest, fingerprint, open_dataset, open_model
from kipoi_seq2exp.prediction.run import Run, open_peaks
from kipoi_seq2exp.prediction.store import Predictions, PredictionStore, is_store
from kipoi_seq2exp.settings import differences, from_mapping


def reopen_run(predictions: Predictions) -> Run:
    """Open the model and the inputs that predictions were made from, as they were.

    Raises
    ------
    InputError, ConfigError, WeightsError
        If the predictions are not a results folder of `seq2exp`, a file is not where it was or cannot be read, or
        something has changed since.
    """
    if not is_store(predictions.path) or not predictions.provenance.get("files"):
        raise InputError(f"{predictions.path} does not say which model and files it was made from.")
    store = PredictionStore.reopen(predictions.path)
    request = _request_of(predictions, store)
    for name, path in request.files().items():
        if not path.exists():
            raise InputError(f"{path} ({name}) is no longer there.")
    model, weights_sha256 = open_model(request)
    inputs = from_mapping(InputSpec, predictions.provenance["inputs"], f"{predictions.path}: inputs")
    dataset = open_dataset(request, inputs)
    changed = differences(store.request, fingerprint(request, model, weights_sha256, dataset))
    if changed:
        raise ConfigError(f"something has changed since {predictions.path} was made ({listing(changed, '; ')}).")
    return Run(request, model, dataset, open_peaks(request.peaks, model, dataset), store)


def _request_of(predictions: Predictions, store: PredictionStore) -> PredictRequest:
    """Return the request of the run, from the origin that the result states."""
    about = predictions.provenance
    files: dict[str, Path] = {name: Path(file["path"]) for name, file in about["files"].items()}
    request = PredictRequest(
        model=about["model"]["name"],
        genes=files["genes"],
        fasta=files["fasta"],
        sources=about["sources"],
        blacklist=files.get("blacklist"),
        peaks=files.get("peaks"),
        missing_features=about["dataset"]["missing_features"],
        gene_ids=store.gene_ids,
        label=about["label"],
        device=store.request["device"],
        projections=about["projections"],
        save_beta=store.request["save beta"],
    )
    changes: dict[str, Any] = {"batch_size": store.batch_size or 1}
    if about["mask"] is not None and request.peaks is None:
        changes["mask_mode"] = MaskMode(about["mask"])
    return dataclasses.replace(request, **changes)
