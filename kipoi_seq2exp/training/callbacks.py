"""What a run writes to disk while it goes: metrics.csv, and checkpoints that are whole or absent."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.files import make_folder, whole_file

COLUMNS = (
    "step",
    "learning_rate",
    "train_loss",
    "train_prediction",
    "train_kl",
    "validation_mse",
    "validation_mae",
    "validation_pearson",
    "seconds",
)


class MetricsFile(Callback):
    """Keep metrics.csv: one row per validation interval; a resumed run continues from its checkpoint.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._started = time.monotonic()
        self._before = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; a resumed run adds to the time of its rows."""
        self._started = time.monotonic()
        self._before = self.rows[-1]["seconds"] if self.rows else 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row and rewrite the file."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics["step"] = trainer.global_step
        metrics["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        metrics["seconds"] = round(self._before + time.monotonic() - self._started, 1)
        self.rows.append({name: metrics[name] for name in COLUMNS if name in metrics})
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """Write all rows."""
        with whole_file(self.path) as part, part.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows from a checkpoint."""
        self.rows = list(state_dict["rows"])


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint under a temporary name first: a full disk leaves the previous one as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one checkpoint.

        Raises
        ------
        OutputError
            If it cannot be written; the file of that name, if any, is untouched.
        """
        target = Path(path)
        make_folder(target.parent)
        with whole_file(target) as part:
            _save(checkpoint, part, target)


def _save(checkpoint: dict[str, Any], part: Path, target: Path) -> None:
    try:
        with part.open("wb") as handle:
            torch.save(checkpoint, handle)
            handle.flush()
            os.fsync(handle.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(
            f"{target}: the checkpoint cannot be written ({reason}); the previous one is whole: free space, then "
            "carry on with --resume."
        ) from None
