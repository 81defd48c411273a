"""Predict the genes of a split and score the predictions: table, JSON and scatter plot.

`cli.py` offers this as ``seq2exp evaluate``; `fit` uses it at the end of a run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kipoi_seq2exp.data.tables import write_tsv
from kipoi_seq2exp.errors import InputError, WeightsError, counted
from kipoi_seq2exp.files import make_folder, write_text
from kipoi_seq2exp.metrics import Score, score, score_columns
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.settings import read_json
from kipoi_seq2exp.training.config import TrainingConfig
from kipoi_seq2exp.training.data import CellSet, LabelledWindows, judge_loader, open_cells
from kipoi_seq2exp.training.figures import draw_scatter
from kipoi_seq2exp.training.module import TrainingModule, open_teacher


@dataclass(frozen=True)
class Evaluation:
    """Predictions of held-out genes and their scores.

    Attributes
    ----------
    table : DataFrame
        Columns gene_id, observed, predicted (both in the label's unit), and where known `fold`.
    scores : dict of str to Score
        "mse", "mae", "pearson", "spearman", each with a 95 % bootstrap interval over genes.
    label : str
        What is predicted, with its unit.
    """

    table: pd.DataFrame
    scores: dict[str, Score]
    label: str

    def save(self, folder: Path, name: str) -> None:
        """Write <name>.predictions.tsv, <name>.scores.json and <name>.scatter.png.

        Raises
        ------
        OutputError
            If the folder cannot be written.
        """
        make_folder(folder)
        predictions, scores, scatter = files(folder, name)
        write_tsv(self.table, predictions)
        values = {"genes": len(self.table), "label": self.label}
        rows = {metric: dataclasses.asdict(value) for metric, value in self.scores.items()}
        write_text(scores, json.dumps({**values, **rows}, indent=1) + "\n")
        observed, predicted = (self.table[column].to_numpy() for column in ("observed", "predicted"))
        draw_scatter(observed, predicted, self.scores, scatter, self.label)


def files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Return the files of `Evaluation.save`: predictions, scores, and the picture of both."""
    return folder / f"{name}.predictions.tsv", folder / f"{name}.scores.json", folder / f"{name}.scatter.png"


def evaluate(
    model: Seq2Exp, config: TrainingConfig, part: str = "test", *, cells: Sequence[CellSet] | None = None
) -> Evaluation:
    """Predict one part of the split of a run's first data set, and score it.

    Parameters
    ----------
    model : Seq2Exp
        Trained network; it must read the tracks and features that the config names.
    config : TrainingConfig
        Gives data, split and window.
    part : str
        "train", "validation", "test" or "all".
    cells : sequence of CellSet, optional
        Data sets that are open already.

    Raises
    ------
    InputError
        If the part holds fewer than two genes.
    WeightsError
        If the model reads other inputs.
    """
    if model.inputs is not None and model.inputs.track_names != config.inputs.track_names:
        raise WeightsError(
            f"the weights read the tracks {', '.join(model.inputs.track_names)}, the config names "
            f"{', '.join(config.inputs.track_names)}."
        )
    cells = open_cells(config) if cells is None else cells
    windows = LabelledWindows(cells[:1], part, config)
    if len(windows) < 2:
        raise InputError(f"the {part} split holds {counted(len(windows), 'gene')}: scores need two or more.")
    table = predict_table(model, windows, config)
    return Evaluation(table, score(table["observed"], table["predicted"]), config.inputs.label)


def predict_table(model: Seq2Exp, windows: LabelledWindows, config: TrainingConfig) -> pd.DataFrame:
    """Predict every window once, as it is: columns gene_id, observed, predicted."""
    module = TrainingModule(config, model, open_teacher(config)).eval()
    device = next(model.parameters()).device
    rows: list[pd.DataFrame] = []
    with torch.inference_mode():
        for batch in judge_loader(windows, config):
            moved = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
            predicted = module(moved).expression.float().cpu().numpy()
            rows.append(
                pd.DataFrame({"gene_id": batch["gene_id"], "observed": batch["label"].numpy(), "predicted": predicted})
            )
    return pd.concat(rows, ignore_index=True)


def pool(parts: dict[str, Evaluation]) -> Evaluation:
    """Put the test genes of all folds together, with the fold's name beside each."""
    table = pd.concat([part.table.assign(fold=name) for name, part in parts.items()], ignore_index=True)
    if table["gene_id"].duplicated().any():
        raise InputError("a gene is tested in two folds: each must be predicted once.")
    label = next(iter(parts.values())).label
    return Evaluation(table, score(table["observed"], table["predicted"]), label)


def read_scores(path: Path) -> dict[str, Any]:
    """Read a scores.json."""
    return read_json(path)


def as_numbers(scores: dict[str, Score]) -> dict[str, float]:
    """Flatten scores to plain numbers, for provenance: "mse", "mse_low", "mse_high", ..."""
    return {name: float(np.round(value, 4)) for name, value in score_columns(scores).items() if np.isfinite(value)}
