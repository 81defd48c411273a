"""The results of the known-truth benchmark: a page of tables, JSON, a table of every element, weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from kipoi_seq2exp.data.tables import write_tsv
from kipoi_seq2exp.files import write_text
from kipoi_seq2exp.judge.recovery import OURS, RIVALS, Recipe, Recovery
from kipoi_seq2exp.judge.recovery_genome import GenomeSettings
from kipoi_seq2exp.nn.checkpoint import save_model
from kipoi_seq2exp.settings import to_mapping

PAGE = "recovery.md"
METHODS = {
    "method": "method",
    "distal": "distal variance explained",
    "effect_r": "effects, r",
    "pearson": "expression, r",
    "mse": "MSE",
    "steps": "steps",
    "seconds": "processor s",
}
RANKINGS = {"score": "score", "auprc": "AUPRC"}


def recovery_lines(result: Recovery, settings: GenomeSettings) -> list[str]:
    """Lay out the tables as lines of Markdown."""
    pairs, parts = result.pairs, settings.parts
    held_out = parts.count("test")
    lines = [
        f"Task {settings.task.value}, seed {settings.seed}: {settings.genes} genes, windows of "
        f"{settings.window_bp:,} bp, {settings.chromosomes} chromosomes, {held_out} of them held out. Brackets: 95 % "
        "bootstrap intervals over genes.",
        "",
        *_table(result.methods, METHODS),
        "",
        *_explained(result),
        f"{len(pairs)} elements in the windows of {pairs['gene_id'].nunique()} held-out genes, "
        f"{pairs['regulated'].mean():.0%} of them enhancers:",
        "",
        *_table(result.rankings.sort_values("auprc", ascending=False), RANKINGS),
    ]
    return [*lines, *(f"\n{note}" for note in result.notes)]


def _explained(result: Recovery) -> list[str]:
    """Say what each of the other networks is."""
    trained = [name for name in RIVALS if name in set(result.methods["method"])]
    lines = [f"- {name}: {RIVALS[name]}." for name in trained]
    return [*lines, ""] if lines else []


def _table(table: pd.DataFrame, columns: dict[str, str]) -> list[str]:
    known = {name: title for name, title in columns.items() if name in table}
    lines = [f"| {' | '.join(known.values())} |", f"|{'---|' * len(known)}"]
    for row in table.to_dict("records"):
        lines.append(f"| {' | '.join(_entry(row, name) for name in known)} |")
    return lines


def _entry(row: dict[str, Any], name: str) -> str:
    """Return a number with its interval, where it has one."""
    value = row[name]
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    if name in ("steps", "seconds"):
        return f"{value:,.0f}"
    if f"{name}_low" not in row:
        return f"{value:.4f}"
    return f"{value:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def write_recovery(
    result: Recovery, settings: GenomeSettings, recipe: Recipe, folder: Path, command: str
) -> tuple[Path, ...]:
    """Write recovery.md, recovery.json, recovery_pairs.tsv and, if our network was trained, its weights; return them.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    page, numbers, pairs = (folder / name for name in (PAGE, "recovery.json", "recovery_pairs.tsv"))
    write_text(page, "\n".join([f"`{command}`", "", *recovery_lines(result, settings)]) + "\n")
    content = {
        "command": command,
        "genome": to_mapping(settings),
        "network": dict(recipe.network),
        "lesson": to_mapping(recipe.lesson),
        "methods": _records(result.methods),
        "rankings": _records(result.rankings),
        "notes": list(result.notes),
    }
    write_text(numbers, json.dumps(content, indent=1) + "\n")
    write_tsv(result.pairs, pairs, [command])
    if OURS not in result.networks:
        return page, numbers, pairs
    network, weights = result.networks[OURS], folder / "recovery.safetensors"
    ours = result.methods.set_index("method").loc[OURS]
    network.provenance = replace(
        network.provenance,
        trained_on=f"an invented genome: task {settings.task.value}, seed {settings.seed}",
        source=command,
        scores={name: float(ours[name]) for name in ("pearson", "mse")},
    )
    save_model(network, weights)
    return page, numbers, pairs, weights


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain values; absent ones are left out."""
    return [{k: v for k, v in row.items() if isinstance(v, str) or v == v} for row in table.to_dict("records")]
