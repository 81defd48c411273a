"""A run on the tiny genome that takes a second or two, as the YAML of the training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kipoi_seq2exp.settings import to_mapping

STEPS, EVERY = 12, 3


def run_settings(tiny: Any, **changes: Any) -> dict[str, Any]:
    """Return the settings of a small run; `changes` replace fields by dotted name, with __ for the dot."""
    inputs = to_mapping(tiny.inputs)
    inputs |= {"window_bp": 1_200, "promoter_bp": 400}
    settings: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "data_root": str(tiny.folder),
        "inputs": inputs,
        "data": [
            {
                "cell_type": "tiny",
                "genes": "genes.tsv",
                "fasta": "tiny.fa",
                "sources": {"h3k27ac": "h3k27ac.bw", "dnase": "dnase.bw", "hic": "powerlaw"},
                "blacklist": "blacklist.bed",
                "label": {"column": "label"},
            }
        ],
        "split": {"scheme": "region", "validation": ["chr2:1-10000"], "test": ["chr2:10000-30000"]},
        "train_window_bp": 800,
        "augment": {"max_shift_bp": 20, "reverse_complement": 0.5},
        "network": {"d_model": 8, "d_state": 4, "generator_layers": 1, "encoder_layers": 1},
        "optimiser": {"max_steps": STEPS, "warmup_steps": 2, "batch_size": 2, "peak_lr": 1e-3},
        "run": {"validate_every": EVERY, "accelerator": "cpu", "progress": False, "tensorboard": False, "cache": True},
    }
    settings["split"]["validation"] = ["chr1:30000-60000"]
    for name, value in changes.items():
        *sections, last = name.split("__")
        place = settings
        for section in sections:
            place = place[int(section)] if isinstance(place, list) else place.setdefault(section, {})
        place[last] = value
    return settings


def write_run(tiny: Any, folder: Path, **changes: Any) -> Path:
    """Write the settings of a small run; return the file."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run_settings(tiny, **changes), sort_keys=False))
    return path
