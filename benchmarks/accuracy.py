"""Held-out accuracy on human genes: networks, simple baselines, and the networks with less to read.

    SEQ2EXP_DATA=... python benchmarks/accuracy.py [--config configs/human_head.yaml]
        [--weights K562=K562 GM12878=GM12878] [--beside "no mask, trained=runs/human_plain/best.safetensors" ...]

Predicts the test genes of the config's split (chr22 and chrX) in each cell type, and writes accuracy.md and
accuracy.json beside this script. Several weights of one cell type, as CELL=A,B,C, are an ensemble: the mean of their
predictions. Those of --beside are judged on the same genes of every cell type, and all are compared with its first.
The baselines are fitted on the config's training genes; their features are kept in --work. Intervals are 95 %, 1,000
bootstrap resamples of 1-Mb blocks, seed 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import baselines
import less_input
import numpy as np
import pandas as pd
import torch

from kipoi_seq2exp import load_model
from kipoi_seq2exp.commands.options import named_entries
from kipoi_seq2exp.files import file_sha256, make_folder, write_text
from kipoi_seq2exp.metrics import Score, genome_blocks, paired_differences, score
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.training.config import read_training_config
from kipoi_seq2exp.training.data import CellSet, open_cells
from kipoi_seq2exp.zoo.models import find_weights

HERE = Path(__file__).parent
KNOWN_DNA = 0.95  # share of a window that must be known for the genes "with DNA"
PLACE = ("gene_id", "chrom", "tss", "dna_known", "observed")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "human_head.yaml")
    parser.add_argument("--weights", nargs="+", default=["K562=K562", "GM12878=GM12878"], metavar="CELL=NAME_OR_FILE")
    parser.add_argument("--beside", nargs="+", default=[], metavar="LABEL=FILES", help="networks trained otherwise")
    parser.add_argument("--work", type=Path, default=Path("runs/accuracy"), help="folder of kept features")
    parser.add_argument("--part", default="test", help="part of the split that is judged")
    parser.add_argument("--genes", type=int, metavar="N", help="only N genes, evenly chosen, for a trial")
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "accuracy.py: set SEQ2EXP_DATA to the folder with hg19/ in it.\n")
    for folder in (args.work, args.output):
        make_folder(folder)
    started, load = time.process_time(), os.getloadavg()[0]
    weights = named_entries("--weights", args.weights, "CELL=NAME_OR_FILE")
    judged_first = next(iter(weights.values())).split(",")[0]
    config = read_training_config(args.config, overrides={"start": judged_first})  # settings follow from those weights
    cells = {data.cell_type: cell for data, cell in zip(config.data, open_cells(config), strict=True)}
    results: dict[str, Any] = {"command": shlex.join(sys.argv), "part": args.part, "load": load, "cells": {}}
    against = {"minus_network": less_input.NETWORK, "minus_boosting": baselines.BEST}
    beside = {label: open_all(files) for label, files in named_entries("--beside", args.beside, "LABEL=FILES").items()}
    if beside:
        against["minus_beside"] = results["beside"] = next(iter(beside))
    tables = {}
    for name, sources in weights.items():
        if name not in cells:
            parser.exit(2, f"accuracy.py: {args.config} has no cell type '{name}': it has {', '.join(cells)}.\n")
        models = open_all(sources)
        tables[name] = predictions(name, models, cells[name], beside, args)
        results["cells"][name] = {"weights": described(sources, models), **judged(tables[name], against)}
        print(f"{name}: {len(tables[name])} genes, {time.process_time() - started:.0f} s of processor time", flush=True)
    results["difference"] = difference(tables, against) if len(tables) == 2 else {}
    results["processor_seconds"] = round(time.process_time() - started)
    results["versions"] = {"numpy": np.__version__, "torch": torch.__version__}
    write_text(args.output / "accuracy.json", json.dumps(results, indent=1) + "\n")
    write_text(args.output / "accuracy.md", render(results))


def open_all(sources: str) -> list[Seq2Exp]:
    """Open the networks of a list with commas."""
    return [load_model(source, "cpu") for source in sources.split(",")]


def described(sources: str, models: list[Seq2Exp]) -> list[dict[str, str]]:
    """Say of each network which file it is and what it was trained on."""
    return [
        {"source": source, "sha256": file_sha256(find_weights(source)), "trained_on": model.provenance.trained_on}
        for source, model in zip(sources.split(","), models, strict=True)
    ]


def predictions(
    name: str, models: list[Seq2Exp], cell: CellSet, beside: Mapping[str, list[Seq2Exp]], args: argparse.Namespace
) -> pd.DataFrame:
    """Return a row per gene of the part: place, label, and a column per condition and baseline."""
    rows = cell.split.rows(args.part)
    if args.genes is not None:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, args.genes).astype(int))]
    table = cell.genes.iloc[rows][["gene_id", "chrom", "tss", "dna_known"]].reset_index(drop=True)
    table["observed"] = cell.labels[rows].astype(np.float64)
    with_dna = (table["dna_known"] >= KNOWN_DNA).to_numpy(bool)
    columns = less_input.predict_conditions(models, cell, rows, with_dna, beside)
    columns |= baselines.predict_baselines(cell, rows, args.work / f"{name}.npz")
    return table.assign(**columns)


# ------------------------------------------------------------------------------------------------------------ scores


def judged(table: pd.DataFrame, against: Mapping[str, str]) -> dict[str, Any]:
    """Score every column on all genes and on those with DNA, each against some of the columns."""
    found: dict[str, Any] = {}
    for group, part in (("all", table), ("with DNA", table[table["dna_known"] >= KNOWN_DNA])):
        if len(part) < 2:
            continue
        observed, blocks = part["observed"], genome_blocks(list(part["chrom"]), part["tss"])
        rows = {}
        for name in table.columns.drop(list(PLACE)):
            if part[name].isna().any():  # DNA is taken away from the genes that have it alone
                continue
            own = score(observed, part[name], blocks=blocks)
            rows[name] = {metric: numbers(own[metric]) for metric in ("mse", "pearson")}
            for key, other in against.items():
                rows[name][key] = numbers(paired_differences(observed, part[other], part[name], blocks=blocks)["mse"])
        found[group] = {"genes": len(part), "variance": float(observed.var(ddof=0)), "rows": rows}
    return found


def difference(tables: Mapping[str, pd.DataFrame], against: Mapping[str, str]) -> dict[str, Any]:
    """Score the predicted difference between the two cell types on the genes of both."""
    (one, first), (two, second) = ((name, table.set_index("gene_id")) for name, table in tables.items())
    shared = first.index.intersection(second.index)
    first, second = first.loc[shared], second.loc[shared]
    observed = first["observed"] - second["observed"]
    blocks = genome_blocks(list(first["chrom"]), first["tss"])
    changes = {name: first[name] - second[name] for name in first.columns.drop(list(PLACE[1:]))}
    rows = {}
    for name, predicted in changes.items():
        if predicted.isna().any():
            continue
        own = score(observed, predicted, blocks=blocks)
        rows[name] = {metric: numbers(own[metric]) for metric in ("mse", "pearson")}
        for key, other in against.items():
            rows[name][key] = numbers(paired_differences(observed, changes[other], predicted, blocks=blocks)["mse"])
    return {
        "cells": [one, two],
        "all": {"genes": len(shared), "variance": float(observed.var(ddof=0)), "rows": rows},
    }


def numbers(value: Score) -> list[float]:
    """Return value, low and high, to four digits."""
    return [round(float(number), 4) for number in (value.value, value.low, value.high)]


# -------------------------------------------------------------------------------------------------------------- text


def render(results: dict[str, Any]) -> str:
    """Lay the results out as Markdown."""
    heads = {"minus_network": "MSE minus the network's", "minus_boosting": "MSE minus boosting's on P and bins"}
    if "beside" in results:
        heads["minus_beside"] = f"MSE minus that of '{results['beside']}'"
    lines = [HEAD.format(**results), ""]
    for name, found in results["cells"].items():
        lines += [f"## {name}", ""]
        for weights in found["weights"]:
            lines.append(f"- weights `{weights['source']}`, SHA-256 `{weights['sha256']}`; {weights['trained_on']}")
        lines += ["", *tables_of(found, heads)]
    if results["difference"]:
        one, two = results["difference"]["cells"]
        lines += [f"## {one} minus {two}", "", "Each gene's difference of the two labels.", ""]
        lines += tables_of(results["difference"], heads)
    return "\n".join(lines)


HEAD = f"""# Accuracy on held-out genes

Written by `SEQ2EXP_DATA=... python {{command}}` ({{processor_seconds}} s of processor time on one core; load
{{load:.1f}}). Judged: the {{part}} genes of the config's split (test: chr22 and chrX), on which no baseline was fitted;
what the networks were trained on is said with them. MSE and Pearson correlation of the label, and MSE minus that of the
network and of the best baseline; in brackets 95 % intervals, 1,000 bootstrap resamples of 1-Mb blocks (seed 0), paired
in differences.

- *promoter alone*, *no mask*: a mask of ones in the promoter, or everywhere, in place of the network's own.
- *DNase peaks as mask*: tokens half covered by the DNase track's peaks (called by the ENCODE uniform pipeline), and the
  promoter, are 1, all others 0. *Its best tokens*: as many of the network's highest mask instead. *Rotated peaks*: the
  peaks turned through half the window: chance.
- *trained*: networks of the same settings, data and steps, trained without a mask, or with a mask of DNase peaks.
- *window cut*: signal tracks 0 and DNA N beyond the cut; the networks are not trained again.
- *DNA shuffled*, *DNA set to N*: genes with at least {KNOWN_DNA:.0%} of their DNA known alone (shuffles of seed
  {less_input.SHUFFLE_SEED}).
- *a track at zero*: with the features that are computed from it. *Left out*: an optional track is not given, as by a
  user who has none, and its stand-in is read in its place; `reference` tracks are those of the other cell type, and of
  GM12878 there is no H3K4me1 and H3K4me3 here.
- *ridge*, *boosting*: scikit-learn's RidgeCV and HistGradientBoosting on ln(x + 1) of the track means at the TSS
  (P: +-0.5, 1 and 5 kb) and in 5-kb bins over 200 kb, of H3K27ac and DNase of the own cell type or, where that is
  said, of all tracks that the network reads there, fitted on the training genes."""


def tables_of(found: dict[str, Any], heads: Mapping[str, str]) -> list[str]:
    """Lay out the groups of genes of one section."""
    lines = []
    for group, what in (("all", "genes"), ("with DNA", f"genes with at least {KNOWN_DNA:.0%} of their DNA known")):
        if group not in found:
            continue
        values = found[group]
        lines += [
            f"{values['genes']:,} {what}, variance {values['variance']:.3f}:",
            "",
            f"| | MSE | Pearson | {' | '.join(heads.values())} |",
            "|---" * (3 + len(heads)) + "|",
        ]
        for label, row in values["rows"].items():
            differences = [interval(row[key], signed=True) for key in heads]
            lines.append(
                f"| {label} | {interval(row['mse'])} | {interval(row['pearson'])} | {' | '.join(differences)} |"
            )
        lines.append("")
    return lines


def interval(values: list[float], *, signed: bool = False) -> str:
    """Write a number with its interval; one that is not defined (the correlation of a constant) as a dash."""
    value, low, high = values
    sign = "+" if signed else ""
    return "-" if np.isnan(value) else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
