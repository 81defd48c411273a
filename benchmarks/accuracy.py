"""Held-out accuracy on human genes: the served networks, simple baselines, and the networks with less to read.

    SEQ2EXP_DATA=... python benchmarks/accuracy.py [--config configs/human.yaml] [--weights K562=K562 GM12878=GM12878]

Predicts the test genes of the config's split (chr22 and chrX) in each cell type, and writes accuracy.md and
accuracy.json beside this script. The baselines are fitted on the config's training genes; their features are kept in
--work. No network and no baseline has seen a test gene. Intervals: 95 %, 1,000 bootstrap resamples of 1-Mb blocks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from torch import Tensor

from kipoi_seq2exp import load_model
from kipoi_seq2exp.files import file_sha256
from kipoi_seq2exp.metrics import Score, genome_blocks, paired_differences, score
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.training.config import TrainingConfig, read_training_config
from kipoi_seq2exp.training.data import CellSet, LabelledWindows, open_cells
from kipoi_seq2exp.training.evaluate import write_text
from kipoi_seq2exp.zoo.registry import weights_path

HERE = Path(__file__).parent
FLANKS_BP = (500, 1_000, 5_000)  # of the means at the TSS
BIN_BP = 5_000
WINDOWS_BP = (2_500, 10_000, 50_000)
KNOWN_DNA = 0.95  # share of a window that must be known for the genes "with DNA"
SHUFFLE_SEED = 0

Batch = dict[str, Tensor]
Condition = Callable[[Seq2Exp, Batch], Batch]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "human.yaml")
    parser.add_argument("--weights", nargs="+", default=["K562=K562", "GM12878=GM12878"], metavar="CELL=NAME_OR_FILE")
    parser.add_argument("--work", type=Path, default=Path("runs/accuracy"), help="folder of kept features")
    parser.add_argument("--part", default="test", help="part of the split that is judged")
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "accuracy.py: set SEQ2EXP_DATA to the folder with hg19/ in it.\n")
    args.work.mkdir(parents=True, exist_ok=True)
    weights = dict(entry.split("=", 1) for entry in args.weights)
    config = read_training_config(args.config)
    cells = {data.cell_type: cell for data, cell in zip(config.data, open_cells(config), strict=True)}
    results: dict[str, Any] = {"part": args.part, "weights": {}, "cells": {}, "load": os.getloadavg()}
    tables = {}
    for name, source in weights.items():
        file = weights_path(source) if not source.endswith(".safetensors") else Path(source)
        results["weights"][name] = {"source": source, "sha256": file_sha256(file)}
        tables[name] = predictions(load_model(source, "cpu"), cells[name], config, args.part, args.work / name)
        results["cells"][name] = judged(tables[name])
    results["difference"] = difference(tables) if len(tables) == 2 else {}
    write_text(args.output / "accuracy.json", json.dumps(results, indent=1) + "\n")
    write_text(args.output / "accuracy.md", render(results, args))


# ------------------------------------------------------------------------------------------------------- predictions


def predictions(model: Seq2Exp, cell: CellSet, config: TrainingConfig, part: str, work: Path) -> pd.DataFrame:
    """Return a row per gene of the part: place, label, and a column per network and baseline."""
    one = dataclasses.replace(config, run=dataclasses.replace(config.run, cache=True))
    windows = LabelledWindows([cell], part, one)
    rows = [row for _, row in windows.places]
    table = cell.genes.iloc[rows][["gene_id", "chrom", "tss"]].reset_index(drop=True)
    table["dna_known"] = cell.genes.iloc[rows]["dna_known"].to_numpy() if "dna_known" in cell.genes else 0.0
    table["observed"] = [float(cell.labels[row]) for row in rows]
    started = time.perf_counter()
    for name, condition in conditions(model).items():
        with torch.inference_mode():
            table[name] = [float(predict(model, condition(model, batch))) for batch in batches(windows)]
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    for name, values in baselines(cell, config, rows, work).items():
        table[name] = values
    return table


def batches(windows: LabelledWindows) -> Iterator[Batch]:
    """Yield one window at a time, per base, from the files."""
    for number, place in windows.places:
        window = windows.cells[number].windows[place]
        yield {
            "onehot": torch.from_numpy(window.onehot)[None],
            "signals": torch.from_numpy(window.signals)[None],
            "features": torch.from_numpy(window.features)[None],
            "blacklist": torch.from_numpy(window.blacklist)[None],
        }


def predict(model: Seq2Exp, batch: Batch) -> Tensor:
    """Return the expression of one window."""
    return model(**batch).expression[0]


def conditions(model: Seq2Exp) -> dict[str, Condition]:
    """Name what the network is given: all, or less than all."""
    found: dict[str, Condition] = {
        "network": lambda _, batch: batch,
        "network, promoter alone": masked(lambda _, mask, promoter: promoter),
        "network, no mask": masked(lambda _, mask, promoter: torch.ones_like(mask)),
        "network, DNase peaks as mask": masked(peaks_mask),
    }
    for length in WINDOWS_BP:
        found[f"network, window cut to {length / 1000:g} kb"] = cut(length)
    found["network, DNA shuffled"] = shuffled
    found["network, DNA set to N"] = lambda _, batch: {**batch, "onehot": torch.zeros_like(batch["onehot"])}
    names = model.inputs.track_names if model.inputs else ()
    for column, name in enumerate(names):
        found[f"network, {name} at zero"] = without_track(column)
    return found


def masked(make: Callable[[Batch, Tensor, Tensor], Tensor]) -> Condition:
    """Give the network a mask made from its own one (1, L) and the promoter's (1, L)."""

    def condition(model: Seq2Exp, batch: Batch) -> Batch:
        mask = model(**batch).mask
        assert mask is not None
        promoter = torch.zeros_like(mask)
        promoter[:, model.promoter(mask.shape[1])] = 1
        given = {name: value for name, value in batch.items() if name != "blacklist"}
        return {**given, "mask": make(batch, mask, promoter)}

    return condition


def peaks_mask(batch: Batch, mask: Tensor, promoter: Tensor) -> Tensor:
    """Keep the bases in DNase peaks (the track is made of peaks), and the promoter."""
    return torch.maximum((batch["signals"][..., 1] > 0).to(mask.dtype), promoter)


def cut(length: int) -> Condition:
    """Set tracks to 0 and DNA to N further than half the length from the TSS."""

    def condition(model: Seq2Exp, batch: Batch) -> Batch:
        L = batch["onehot"].shape[1]
        far = torch.ones(L, dtype=torch.bool)
        far[(L - length) // 2 : (L + length) // 2] = False
        columns = [i for i, spec in enumerate(model.inputs.tracks) if spec.kind.value != "contact"]
        signals = batch["signals"].clone()
        signals[:, far] = signals[:, far].index_fill(2, torch.tensor(columns), 0.0)
        return {**batch, "signals": signals, "onehot": batch["onehot"].masked_fill(far[None, :, None], 0)}

    return condition


def shuffled(_: Seq2Exp, batch: Batch) -> Batch:
    """Put the bases of the whole window in random order."""
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    return {**batch, "onehot": batch["onehot"][:, torch.randperm(batch["onehot"].shape[1], generator=generator)]}


def without_track(column: int) -> Condition:
    """Set one track to 0."""

    def condition(_: Seq2Exp, batch: Batch) -> Batch:
        signals = batch["signals"].clone()
        signals[..., column] = 0
        return {**batch, "signals": signals}

    return condition


# --------------------------------------------------------------------------------------------------------- baselines


def baselines(cell: CellSet, config: TrainingConfig, rows: list[int], work: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Fit the simple models on the training genes; return their predictions of the rows."""
    train = LabelledWindows([cell], "train", config).places
    chosen = [row for _, row in train]
    features = promoter_and_bins(cell, work.with_suffix(".npz"))
    y = np.array([float(cell.labels[row]) for row in chosen])
    n = len(FLANKS_BP)
    promoter = [*range(n), *range(features.shape[1] // 2, features.shape[1] // 2 + n)]
    near = [promoter[1], promoter[n + 1]]
    found = {"mean of the training genes": np.full(len(rows), y.mean())}
    ridge = RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(features[chosen][:, near], y)
    found["ridge, TSS +-1 kb"] = ridge.predict(features[rows][:, near])
    for name, columns in (("boosting, promoter", promoter), ("boosting, promoter and bins", slice(None))):
        trees = HistGradientBoostingRegressor(random_state=0).fit(features[chosen][:, columns], y)
        found[name] = trees.predict(features[rows][:, columns])
    return found


def promoter_and_bins(cell: CellSet, kept: Path) -> np.ndarray[Any, Any]:
    """Return ln(x + 1) of each signal track's means at the TSS and in bins, 5' to 3' of the gene, (G, F)."""
    if kept.is_file():
        known: np.ndarray[Any, Any] = np.load(kept)["features"]
        return known
    tracks = [cell.windows.tracks[spec.name] for spec in cell.windows.inputs.tracks if spec.kind.value != "contact"]
    half, rows = cell.windows.inputs.window_bp // 2, []
    for chrom, tss, strand in cell.genes[["chrom", "tss", "strand"]].itertuples(index=False):
        row: list[float] = []
        for track in tracks:
            values = track.values(chrom, tss - half, tss + half)
            row += [float(np.log1p(values[half - flank : half + flank].mean())) for flank in FLANKS_BP]
            bins = np.log1p(values.reshape(-1, BIN_BP).mean(1))
            row += list(bins[::-1] if strand == "-" else bins)
        rows.append(row)
    features = np.array(rows, dtype=np.float32)
    np.savez_compressed(kept, features=features)
    return features


# ------------------------------------------------------------------------------------------------------------ scores


def judged(table: pd.DataFrame) -> dict[str, Any]:
    """Score every column on all genes and on those with DNA, each against the network and the best baseline."""
    found: dict[str, Any] = {}
    for group, chosen in (("all", table.index >= 0), ("with DNA", table["dna_known"] >= KNOWN_DNA)):
        part = table[chosen]
        if len(part) < 2:
            continue
        blocks = genome_blocks(list(part["chrom"]), part["tss"])
        rows = {}
        for name in [c for c in table.columns if c.startswith(("network", "ridge", "boosting", "mean"))]:
            own = score(part["observed"], part[name], blocks=blocks)
            against = paired_differences(part["observed"], part["network"], part[name], blocks=blocks)
            bar = paired_differences(part["observed"], part["boosting, promoter and bins"], part[name], blocks=blocks)
            rows[name] = {
                **{metric: numbers(own[metric]) for metric in ("mse", "pearson")},
                "mse_minus_network": numbers(against["mse"]),
                "mse_minus_boosting": numbers(bar["mse"]),
            }
        found[group] = {"genes": len(part), "variance": float(part["observed"].var(ddof=0)), "rows": rows}
    return found


def difference(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Score the predicted difference between the two cell types."""
    (one, first), (two, second) = tables.items()
    observed = first["observed"] - second["observed"]
    blocks = genome_blocks(list(first["chrom"]), first["tss"])
    rows = {}
    bar = first["boosting, promoter and bins"] - second["boosting, promoter and bins"]
    for name in ("network", "boosting, promoter", "boosting, promoter and bins"):
        predicted = first[name] - second[name]
        own = score(observed, predicted, blocks=blocks)
        rows[name] = {metric: numbers(own[metric]) for metric in ("mse", "pearson")}
        rows[name]["mse_minus_boosting"] = numbers(paired_differences(observed, bar, predicted, blocks=blocks)["mse"])
    return {"cells": [one, two], "variance": float(observed.var(ddof=0)), "rows": rows}


def numbers(value: Score) -> list[float]:
    """Return value, low and high, to four digits."""
    return [round(float(number), 4) for number in (value.value, value.low, value.high)]


# -------------------------------------------------------------------------------------------------------------- text


def render(results: dict[str, Any], args: argparse.Namespace) -> str:
    """Lay the results out as Markdown."""
    weights = " ".join(args.weights)
    lines = [
        "# Accuracy on held-out genes",
        "",
        f"Written by `SEQ2EXP_DATA=... python benchmarks/accuracy.py --weights {weights}`; load of the machine "
        f"{results['load'][0]:.1f}. Judged: the {results['part']} genes of the config's split, which neither networks "
        "nor baselines were trained on. MSE and Pearson correlation of the label; in brackets 95 % intervals, 1,000 "
        "bootstrap resamples of 1-Mb blocks. Baselines: ridge regression and boosted trees (scikit-learn's "
        "HistGradientBoosting) on ln(x + 1) of the track means at the TSS +-0.5, 1 and 5 kb (promoter) and in 5-kb "
        "bins over 200 kb, 5' to 3' of the gene. 'DNase peaks as mask' keeps the bases with a DNase peak and the "
        "promoter. "
        "A cut window has no signal and no DNA beyond the cut.",
        "",
    ]
    for name, groups in results["cells"].items():
        source = results["weights"][name]
        lines += [f"## {name}", "", f"Weights: `{source['source']}`, SHA-256 `{source['sha256']}`.", ""]
        for group, values in groups.items():
            what = "all genes" if group == "all" else f"genes with at least {KNOWN_DNA:.0%} of their DNA known"
            lines += [
                f"{values['genes']:,} {what}, variance {values['variance']:.3f}:",
                "",
                "| | MSE | Pearson | MSE minus the network's | MSE minus boosting's on promoter and bins |",
                "|---|---|---|---|---|",
            ]
            for label, row in values["rows"].items():
                keys = ("mse", "pearson", "mse_minus_network", "mse_minus_boosting")
                lines.append(f"| {label} | {' | '.join(interval(row[key]) for key in keys)} |")
            lines.append("")
    if results["difference"]:
        one, two = results["difference"]["cells"]
        lines += [
            f"## {one} minus {two}",
            "",
            f"Predicted against observed difference of each gene, variance {results['difference']['variance']:.3f}:",
            "",
            "| | MSE | Pearson | MSE minus boosting's on promoter and bins |",
            "|---|---|---|---|",
        ]
        for label, row in results["difference"]["rows"].items():
            lines.append(
                f"| {label} | {' | '.join(interval(row[k]) for k in ('mse', 'pearson', 'mse_minus_boosting'))} |"
            )
        lines.append("")
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Write a number with its interval; one without (a constant) alone."""
    value, low, high = values
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
