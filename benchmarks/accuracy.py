"""Held-out accuracy on chr22: Seq2Exp against simple baselines; no model has seen the region of a gene it predicts.

    SEQ2EXP_DATA=... python benchmarks/accuracy.py [--cells K562 GM12878] [--runs runs/accuracy] [--fast]

Trains what is not trained yet under --runs (a rerun goes on where it stopped) and writes accuracy.md, accuracy.json and
accuracy.png beside this script. `--fast` leaves out the networks other than Seq2Exp and the windows above 10 kb.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from kipoi_seq2exp import load_model
from kipoi_seq2exp.data.regions import Regions, read_intervals
from kipoi_seq2exp.metrics import score
from kipoi_seq2exp.training.config import TrainingConfig, read_training_config
from kipoi_seq2exp.training.data import LabelledWindows, open_cells
from kipoi_seq2exp.training.evaluate import Evaluation, as_numbers, evaluate, pool, write_text
from kipoi_seq2exp.training.fit import cross_validate, fold_config
from kipoi_seq2exp.training.sections import AugmentConfig, Scheme
from kipoi_seq2exp.training.splits import cross_validation

HERE = Path(__file__).parent
CONFIGS = {"K562": "k562", "GM12878": "gm12878"}
PEAKS = {"K562": "chr22/K562/dnase.macs2.narrowPeak"}  # strongest first by column 8 (-log10 p)
WINDOWS_BP = (2_500, 10_000, 50_000, 200_000)
FROM_SCRATCH = {  # a network that does not start as a regression needs more and larger steps
    "start": "random",
    "linear_on": [],
    "optimiser.peak_lr": 2e-3,
    "optimiser.end_lr": 1e-4,
    "optimiser.warmup_steps": 20,
    "optimiser.max_steps": 200,
    "run.validate_every": 50,
}
BIN_BP, BINS = 250, 16  # of the tracks that boosting sees: TSS +- 2 kb


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=sorted(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--fast", action="store_true", help="only Seq2Exp and the simple baselines, short windows")
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "accuracy.py: set SEQ2EXP_DATA to the folder that holds chr22/.\n")
    known = HERE / "accuracy.json"
    results = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    for cell in args.cells:
        for rows in measure(cell, args.runs / cell, fast=args.fast):
            write({**results, cell: rows})
        results[cell] = rows


def measure(cell: str, runs: Path, *, fast: bool) -> Iterator[dict[str, dict[str, float]]]:
    """Yield the scores of the methods for one cell type, more of them each time."""
    config = read_training_config(HERE.parent / "configs" / f"{CONFIGS[cell]}.yaml")
    rows = simple_baselines(config)
    for name in rows:
        report(cell, {name: rows[name]})
    whole = cross_validate(config, runs / "seq2exp", resume=True)
    rows[f"Seq2Exp-soft, {config.window_bp:,} bp (as trained)"] = as_numbers(whole.scores)
    report(cell, rows)
    yield rows
    for window_bp in WINDOWS_BP[:2] if fast else WINDOWS_BP:
        rows[f"Seq2Exp-soft, cut to {window_bp:,} bp"] = as_numbers(at_window(config, runs, window_bp).scores)
        report(cell, rows)
        yield rows
    if fast:
        return
    for name, overrides in networks(config, cell, runs).items():
        changed = read_training_config(HERE.parent / "configs" / f"{CONFIGS[cell]}.yaml", overrides=overrides)
        place = runs / name.replace(",", "").replace(" ", "-").lower()
        rows[name] = as_numbers(cross_validate(changed, place, resume=True).scores)
        report(cell, rows)
        yield rows


def networks(config: TrainingConfig, cell: str, runs: Path) -> dict[str, dict[str, Any]]:
    """Return what the other networks of the table change in the config."""
    features = [dataclasses.asdict(feature) for feature in config.inputs.features if not feature.from_tracks]
    rows: dict[str, dict[str, Any]] = {"No mask, with signals, linear start": {"network.variant": "plain"}}
    if cell in PEAKS:
        bed = peaks_of_fraction(config, runs, config.root / PEAKS[cell])
        rows["MACS2 peaks as the mask, same fraction kept, linear start"] = {
            "network.variant": "peaks",
            "data": [{**_plain(config.data[0]), "peaks": str(bed.resolve())}],
        }
    rows["No mask, DNA and mRNA features alone, random start"] = {
        **FROM_SCRATCH,
        "network.variant": "plain",
        "inputs.tracks": [],
        "inputs.features": features,
        "data": [{**_plain(config.data[0]), "sources": {}}],
    }
    return rows


def at_window(config: TrainingConfig, runs: Path, window_bp: int) -> Evaluation:
    """Predict the held-out genes of each fold with windows of another length than in training."""
    saved = runs / "cut" / f"{window_bp}.predictions.tsv"
    if saved.is_file():
        table = pd.read_csv(saved, sep="\t")
        return Evaluation(table, score(table["observed"], table["predicted"]), config.inputs.label)
    parts = {}
    for folder in sorted((runs / "seq2exp" / "folds").iterdir()):
        fold = dataclasses.replace(
            fold_config(config, folder.name),
            train_window_bp=window_bp,
            augment=AugmentConfig(),
            optimiser=dataclasses.replace(config.optimiser, batch_size=1),
            run=dataclasses.replace(config.run, cache=False),
            split=dataclasses.replace(fold_config(config, folder.name).split, allow_overlap=True),
        )
        parts[folder.name] = evaluate(load_model(folder / "best.safetensors", "cpu"), fold, "test")
    pooled = pool(parts)
    pooled.save(saved.parent, str(window_bp))
    return pooled


def peaks_of_fraction(config: TrainingConfig, runs: Path, path: Path) -> Path:
    """Write the strongest peaks that cover the share of the windows that Seq2Exp's mask keeps; return the BED."""
    model = load_model(runs / "seq2exp" / "folds" / "22q13" / "best.safetensors", "cpu")
    everything = dataclasses.replace(config, split=dataclasses.replace(config.split, scheme=Scheme.ALL))
    windows = LabelledWindows(open_cells(everything), "all", everything)
    from kipoi_seq2exp.training.data import collate
    from kipoi_seq2exp.training.module import TrainingModule

    module = TrainingModule(everything, model).eval()
    kept = float(np.mean([float(module(collate([windows[i]])).mask.mean()) for i in range(len(windows))]))
    peaks = read_intervals(path, "peaks", value_column=7).sort_values("value", ascending=False, kind="stable")
    low, high = 0, len(peaks)
    bed = runs / "peaks.bed"
    while high - low > 1:  # the more peaks, the more is covered
        middle = (low + high) // 2
        peaks.iloc[:middle][["chrom", "start", "end"]].to_csv(bed, sep="\t", header=False, index=False)
        regions = Regions(bed, "peaks")
        covered = []
        for cell, place in windows.places:
            row = windows.cells[cell].genes.iloc[place]
            half = config.window_bp // 2
            mask = regions.mask(str(row["chrom"]), int(row["tss"]) - half, int(row["tss"]) + half)
            mask[half - config.inputs.promoter_bp // 2 : half + config.inputs.promoter_bp // 2] = True
            covered.append(mask.mean())
        low, high = (middle, high) if np.mean(covered) < kept else (low, middle)
    return bed


# ------------------------------------------------------------------------------------------------ the simple baselines


def simple_baselines(config: TrainingConfig) -> dict[str, dict[str, float]]:
    """Return the scores of the mean, of linear regressions and of boosting, on the same folds."""
    everything = dataclasses.replace(
        config, split=dataclasses.replace(config.split, scheme=Scheme.ALL), train_window_bp=BIN_BP * BINS
    )
    cells = open_cells(dataclasses.replace(everything, augment=AugmentConfig()))
    windows = LabelledWindows(cells, "all", dataclasses.replace(everything, augment=AugmentConfig()))
    labels, folds = cells[0].labels.astype(float), cross_validation(cells[0].genes, config.split.column)
    signals = np.stack([np.expm1(windows[i]["signals"][:, :2].astype(float)) for i in range(len(windows))])
    features = np.stack([windows[i]["features"] for i in range(len(windows))]).astype(float)
    centre = BIN_BP * BINS // 2
    tracks = np.log1p(signals[:, centre - 500 : centre + 500].mean(1))
    binned = np.log1p(signals.reshape(len(signals), BINS, BIN_BP, 2).mean(2)).reshape(len(signals), -1)
    activity = features[:, [config.inputs.feature_names.index("PROMOTER_ACTIVITY")]]
    rna = np.delete(features, config.inputs.feature_names.index("PROMOTER_ACTIVITY"), axis=1)

    def boosting() -> Any:
        return GradientBoostingRegressor(
            n_estimators=200, max_depth=2, learning_rate=0.05, subsample=0.7, random_state=0
        )

    methods: dict[str, tuple[Callable[[], Any], Any]] = {
        "Mean of the training genes": (LinearRegression, np.zeros((len(labels), 1))),
        "Linear: log track means at the TSS (1 kb)": (LinearRegression, tracks),
        "Linear: log track means (1 kb) + mRNA features": (LinearRegression, np.hstack([tracks, rna])),
        "Linear: promoter activity alone (Seq2Exp's start)": (LinearRegression, activity),
        f"Gradient boosting: tracks in {BIN_BP}-bp bins + features": (boosting, np.hstack([binned, features])),
    }
    rows = {}
    for name, (make, inputs) in methods.items():
        predicted = np.zeros(len(labels))
        for split in folds.values():
            predicted[split.test] = make().fit(inputs[split.train], labels[split.train]).predict(inputs[split.test])
        rows[name] = as_numbers(score(labels, predicted))
    return rows


# ---------------------------------------------------------------------------------------------------------- the report


def report(cell: str, rows: dict[str, dict[str, float]]) -> None:
    """Print the newest row."""
    name, values = list(rows.items())[-1]
    found = f"Pearson {values.get('pearson', float('nan')):.3f}, MSE {values['mse']:.3f}"
    print(f"{cell}: {name}: {found}", flush=True)


def write(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Write accuracy.json, accuracy.md and accuracy.png."""
    write_text(HERE / "accuracy.json", json.dumps(results, indent=1) + "\n")
    lines = [
        "# Held-out accuracy on chr22",
        "",
        "    make accuracy        # SEQ2EXP_DATA=... python benchmarks/accuracy.py",
        "",
        "121 genes of chr22, log10(PRO-cap + 1). Four folds by region of the chromosome (22q11a 13 genes, 22q11b 46,",
        "22q12 2, 22q13 60): every gene is predicted once by a model that never saw its region. Brackets: 95 %",
        "bootstrap interval over genes. They overlap widely: with 121 genes, differences of a few hundredths are not",
        "told apart.",
        "",
    ]
    for cell, rows in results.items():
        lines += [f"## {cell}", "", "| method | Pearson | Spearman | MSE | MAE |", "|---|---|---|---|---|"]
        for name, values in rows.items():
            cells = [_cell(values, metric) for metric in ("pearson", "spearman", "mse", "mae")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["![scores](accuracy.png)", ""]
    notes = HERE / "accuracy_notes.md"
    if notes.is_file():
        lines += [notes.read_text(encoding="utf-8").rstrip(), ""]
    write_text(HERE / "accuracy.md", "\n".join(lines))
    draw(results)


def _cell(values: dict[str, float], metric: str) -> str:
    if metric not in values:
        return "-"
    return f"{values[metric]:.3f} [{values[f'{metric}_low']:.3f}, {values[f'{metric}_high']:.3f}]"


def draw(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Draw Pearson and MSE of every method with intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1 + 3.2 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(results), 2, squeeze=False)
    for line, (cell, rows) in enumerate(results.items()):
        names = list(rows)[::-1]
        for axis, metric in zip(axes[line], ("pearson", "mse"), strict=True):
            for height, name in enumerate(names):
                values = rows[name]
                if metric in values:
                    axis.plot([values[f"{metric}_low"], values[f"{metric}_high"]], [height, height], color="grey")
                    axis.plot(
                        values[metric], height, "o", color="tab:red" if name.startswith("Seq2Exp") else "tab:blue"
                    )
            axis.set_yticks(range(len(names)), names if metric == "pearson" else [""] * len(names), fontsize=7)
            axis.set(title=f"{cell}: {metric}")
    figure.savefig(HERE / "accuracy.png", dpi=120)


def _plain(settings: Any) -> dict[str, Any]:
    from kipoi_seq2exp.config import to_mapping

    return {name: value for name, value in to_mapping(settings).items() if value is not None}


if __name__ == "__main__":
    main()
