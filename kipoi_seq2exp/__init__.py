"""Seq2Exp for Kipoi: gene expression from DNA and epigenomic tracks, and the DNA that drives it.

Importing the package does no work: the names below are loaded on first use.

    model = kipoi_seq2exp.load_model("K562")
    output = model(onehot, signals, features)        # output.expression, output.mask, output.z, ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kipoi_seq2exp.api import (
        Explained,
        call_elements,
        compare,
        contributions,
        predict,
        read_results,
        train,
        variant_effects,
    )
    from kipoi_seq2exp.config import InputSpec, MaskMode, NetworkConfig, Provenance, Variant
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.elements.calls import CallSettings
    from kipoi_seq2exp.elements.fdr import NullSettings
    from kipoi_seq2exp.errors import Seq2ExpError
    from kipoi_seq2exp.nn.checkpoint import save_model
    from kipoi_seq2exp.nn.losses import seq2exp_loss
    from kipoi_seq2exp.nn.network import Seq2Exp, Seq2ExpOutput
    from kipoi_seq2exp.prediction.store import Predictions
    from kipoi_seq2exp.zoo.models import convert_checkpoint, load_model

__version__ = "0.1.0"

_HOMES = {
    "CallSettings": "elements.calls",
    "Explained": "api",
    "InputSpec": "config",
    "MaskMode": "config",
    "NetworkConfig": "config",
    "NullSettings": "elements.fdr",
    "Predictions": "prediction.store",
    "Provenance": "config",
    "Seq2Exp": "nn.network",
    "Seq2ExpError": "errors",
    "Seq2ExpOutput": "nn.network",
    "Variant": "config",
    "WindowDataset": "data.dataset",
    "call_elements": "api",
    "compare": "api",
    "contributions": "api",
    "convert_checkpoint": "zoo.models",
    "load_model": "zoo.models",
    "predict": "api",
    "read_results": "api",
    "save_model": "nn.checkpoint",
    "seq2exp_loss": "nn.losses",
    "train": "api",
    "variant_effects": "api",
}
__all__ = [
    "CallSettings",
    "Explained",
    "InputSpec",
    "MaskMode",
    "NetworkConfig",
    "NullSettings",
    "Predictions",
    "Provenance",
    "Seq2Exp",
    "Seq2ExpError",
    "Seq2ExpOutput",
    "Variant",
    "WindowDataset",
    "__version__",
    "call_elements",
    "compare",
    "contributions",
    "convert_checkpoint",
    "load_model",
    "predict",
    "read_results",
    "save_model",
    "seq2exp_loss",
    "train",
    "variant_effects",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kipoi_seq2exp' has no attribute '{name}'")
    return getattr(importlib.import_module(f"kipoi_seq2exp.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})
