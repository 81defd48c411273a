"""Reading goldens: inputs, weights and outputs of a reference implementation, one .npz and one .json a case.

`SEQ2EXP_GOLDEN` names a folder of such files; without it only the project's own small golden is compared.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

OWN = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Golden:
    name: str
    settings: dict[str, Any]
    facts: dict[str, Any]
    weights: Path
    arrays: dict[str, np.ndarray]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """onehot, signals, features and blacklist, as the network takes them."""
        return {
            "onehot": self.tensor("in_seqs"),
            "signals": self.tensor("in_signals"),
            "features": self.tensor("in_rna_feat"),
            "blacklist": self.tensor("in_mask_regions")[..., 1],
        }


def read_golden(path: Path) -> Golden:
    """Read PATH.json and PATH.npz."""
    card = json.loads(path.with_suffix(".json").read_text())
    facts = card["facts"]
    with np.load(path.with_suffix(".npz")) as arrays:
        return Golden(
            name=card["name"],
            settings=card["settings"],
            facts=facts,
            weights=path.parent / facts.get("weights", facts.get("checkpoint", "")),
            arrays=dict(arrays),
        )


def golden_paths(prefix: str = "") -> list[Any]:
    """List the goldens at hand whose name starts with `prefix`, as pytest parameters; a skip when there is none."""
    folders = [OWN, *([Path(os.environ["SEQ2EXP_GOLDEN"])] if os.environ.get("SEQ2EXP_GOLDEN") else [])]
    paths = [path.with_suffix("") for folder in folders for path in sorted(folder.glob(f"{prefix}*.npz"))]
    if paths:
        return [pytest.param(path, id=f"{path.parent.name}-{path.name}") for path in paths]
    return [pytest.param(None, marks=pytest.mark.skip(reason=f"no golden '{prefix}*': set SEQ2EXP_GOLDEN"))]
