"""A cell type of one's own: its row in a table of cell types and the YAML of a run, made from the user's files.

Contract: everything that a run needs is written out with a comment on what it is; nothing has to be guessed. What can
be read from the data is read from them: which features the gene table holds, which genes can be held out, and from
which value on a track is evidence for keeping a base.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.config import FeatureSpec, InputSpec, TrackKind, TrackSpec, Transform
from kipoi_seq2exp.data.cells import cell_inputs
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.data.tracks.contact_sources import is_contacts
from kipoi_seq2exp.data.tracks.contacts import POWERLAW
from kipoi_seq2exp.data.windows import written
from kipoi_seq2exp.errors import ConfigError, counted
from kipoi_seq2exp.training.labels import LabelConfig, LabelScale, read_labels

MEASURED_GENES = 64  # genes whose windows are read to measure the tracks
EVIDENCE_SHARE = 0.1  # of the bases lie above a track's `signal_beta`: the share that the bottleneck expects to be kept
LEAST_BETA = 0.05
MANY_GENES = 1_000  # from here on the network reads the whole window, as tokens
LARGEST_LOG10 = 12.0  # no log10 of reads is above this: the column then holds counts
VALIDATE_EVERY = 50  # steps
HELD_OUT = 0.1  # share of the genes that validates, and that tests
MOST_HELD_OUT = 0.2  # of the genes of one chromosome, where a larger share needs fewer genes left out beside it
LEAST_TRAINED = 0.5  # share of the genes that must be left to train


@dataclass(frozen=True)
class NewCell:
    """The files of a cell type.

    Attributes
    ----------
    name : str
        Name of the cell type and of the run.
    genes, fasta : Path
    sources : mapping of str to str
        File of each track, in the model's order; "powerlaw" for contacts without Hi-C.
    label : str
        Column of the gene table to learn.
    blacklist : Path or None
    assembly : str
    units : mapping of str to str
        Unit of a track's values, where it is known.
    train_on_all : bool
        Hold nothing out.
    """

    name: str
    genes: Path
    fasta: Path
    sources: Mapping[str, str]
    label: str
    blacklist: Path | None = None
    assembly: str = "hg38"
    units: Mapping[str, str] = field(default_factory=dict)
    train_on_all: bool = False


@dataclass(frozen=True)
class NewCellTexts:
    """The two files to write, and a sentence for each finding in the data."""

    cells: str
    run: str
    said: tuple[str, ...]


def new_cell(cell: NewCell, folder: Path, table: str) -> NewCellTexts:
    """Write the texts of a cell type's row and of its run.

    Parameters
    ----------
    cell : NewCell
    folder : Path
        Where both files will lie: paths in the run are relative to it.
    table : str
        Name of the file of the table, as the run names it.

    Raises
    ------
    ConfigError, InputError
        If a file cannot be used, there is no track, or no gene can be held out and `train_on_all` is false.
    """
    if not cell.sources:
        raise ConfigError("a cell type needs at least one track: --track NAME=FILE, e.g. --track atac=atac.bw.")
    for name in cell.units:
        if name not in cell.sources:
            raise ConfigError(f"--unit {name}: there is no track of that name ({', '.join(cell.sources)}).")
    genes = read_genes(cell.genes)
    label = _label(genes, cell.label)
    inputs = _inputs(cell, genes, label)
    with WindowDataset(inputs, genes, cell.fasta, cell.sources, cell.blacklist, "mean") as windows:
        betas = measure_betas(windows)
    split, held = ("{scheme: all}", _ALL) if cell.train_on_all else choose_split(genes, inputs.window_bp)
    said = (
        f"{counted(len(genes), 'gene')}; label: {inputs.label}",
        f"features of the gene table: {', '.join(inputs.feature_names) or 'none'}",
        f"a track is evidence for keeping a base above these values: {', '.join(_betas_text(inputs, betas))}",
        f"split: {held}",
    )
    head = _data_lines(cell, label, table, folder)
    run = _run_text(head, split, _recipe(inputs, len(genes), betas))
    return NewCellTexts(_cells_text(cell, inputs), run, said)


def _label(genes: pd.DataFrame, column: str) -> LabelConfig:
    """Return how a column of labels is read: as log10 values, or as counts where it is too large for those."""
    label = LabelConfig(column=column)
    largest = float(read_labels(genes, label).max())
    return label if largest <= LARGEST_LOG10 else LabelConfig(column=column, scale=LabelScale.COUNT)


def _plain_label(label: LabelConfig) -> dict[str, str]:
    return {"column": str(label.column), "scale": label.scale.value}


def _inputs(cell: NewCell, genes: pd.DataFrame, label: LabelConfig) -> InputSpec:
    tracks = tuple(_track(name, source, cell.units.get(name, "")) for name, source in cell.sources.items())
    values = tuple(track.name for track in tracks if track.kind is TrackKind.BIGWIG)
    known = cell_inputs("K562").features
    features = [f for f in known if not f.from_tracks and any(c in genes for c in f.columns or (f.name,))]
    if values:
        features.append(
            FeatureSpec(
                name="PROMOTER_ACTIVITY",
                columns=("PROMOTER_ACTIVITY",),
                from_tracks=values,
                transform=Transform.LOG1P,
                unit="that of the tracks, as ln(x + 1)",
                description=f"{'geometric mean of ' if len(values) > 1 else ''}{' and '.join(values)}, means over the "
                "TSS +- 500 bp",
            )
        )
    what = f"log10(x + 1), x the column {label.column}" if label.scale is LabelScale.COUNT else f"column {label.column}"
    promoter = 2_048 if len(genes) >= MANY_GENES else 2_000
    return InputSpec(cell.name, tracks, tuple(features), assembly=cell.assembly, promoter_bp=promoter, label=what)


def _track(name: str, source: str, unit: str) -> TrackSpec:
    if is_contacts(source):
        unit = unit or "ABC contact (share of the TSS bin's contacts per 5-kb bin)"
        return TrackSpec(
            name, TrackKind.CONTACT, Transform.LOG10P1, unit, "contact of each bin with the bin of the TSS"
        )
    return TrackSpec(name, TrackKind.BIGWIG, Transform.LOG1P, unit or "that of the file", f"signal of {name}")


def measure_betas(windows: WindowDataset) -> list[float]:
    """Return for each track the value, after its transform, that `EVIDENCE_SHARE` of the bases round genes exceed."""
    rows = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), MEASURED_GENES)).astype(int))
    signals = np.concatenate([windows[int(row)].signals[::16] for row in rows])
    values = np.quantile(signals, 1 - EVIDENCE_SHARE, axis=0)
    return [round(max(float(value), LEAST_BETA), 3) for value in values]


def choose_split(genes: pd.DataFrame, window_bp: int) -> tuple[str, str]:
    """Return the split of a run as YAML and in words: whole chromosomes, or stretches of the only one.

    Parameters
    ----------
    genes : DataFrame
        The gene table, with `chrom` and `tss`.
    window_bp : int
        Windows of this length (base pairs) of two parts must not overlap.

    Raises
    ------
    ConfigError
        If the genes lie on one chromosome, so near each other that too few would be left to train.
    """
    counts = genes["chrom"].value_counts()
    if len(counts) < 2:
        return _stretches(str(counts.index[0]), np.sort(genes["tss"].to_numpy(dtype=np.int64)), window_bp)
    if len(counts) == 2:
        test = str(counts.index[-1])
        return (
            f"{{scheme: chromosome, test: [{json.dumps(test)}]}}",
            f"test: {test} ({counted(int(counts.iloc[-1]), 'gene')})",
        )
    rest = [str(chrom) for chrom in reversed(counts.index)]  # the smallest first, so that little is lost for training
    parts: dict[str, list[str]] = {"validation": [], "test": []}
    for chroms in parts.values():
        while len(rest) > 1 and (not chroms or counts[chroms].sum() < HELD_OUT * len(genes)):
            chroms.append(rest.pop(0))
            if len(rest) == 2 and chroms is parts["validation"]:
                break  # one is left for the test
    named = ", ".join(f"{name}: {json.dumps(chroms)}" for name, chroms in parts.items())
    said = [
        f"{name}: {', '.join(chroms)} ({counted(int(counts[chroms].sum()), 'gene')})" for name, chroms in parts.items()
    ]
    return f"{{scheme: chromosome, {named}}}", "; ".join(said)


_ALL = "none: all genes train, so no score of the weights on genes that they have not seen can be given"


def _stretches(chrom: str, tss: NDArray[np.int64], window_bp: int) -> tuple[str, str]:
    """Hold out stretches of one chromosome: its last genes test; those before them validate, if enough are left."""
    for names in (("test", "validation"), ("test",)):
        parts, left = {}, tss
        for name in names:
            end, start = _cut(left, len(tss), window_bp)
            parts[name], left = left[start:], left[:end]
        if len(left) >= LEAST_TRAINED * len(tss):
            parts["train"] = left
            break
    else:
        raise ConfigError(
            f"all {counted(len(tss), 'gene')} lie on {chrom}, too near each other to hold some out (windows of "
            f"{window_bp:,} bp overlap): give genes from further away, or --train-on-all to go without any test."
        )
    places = {name: written(chrom, int(rows[0]), int(rows[-1]) + 1) for name, rows in reversed(parts.items())}
    unused = len(tss) - sum(map(len, parts.values()))
    beside = f"; {counted(unused, 'gene')} between them left out, as their windows overlap two parts" if unused else ""
    named = ", ".join(f"{name}: {json.dumps([place])}" for name, place in places.items())
    said = [f"{name}: {place} ({counted(len(parts[name]), 'gene')})" for name, place in places.items()]
    return f"{{scheme: region, {named}}}", f"the genes lie on one chromosome; {'; '.join(said)}{beside}"


def _cut(tss: NDArray[np.int64], genes: int, window_bp: int) -> tuple[int, int]:
    """Return (end, start): genes before `end` are a window away from those from `start` on, which are held out.

    Of the shares between `HELD_OUT` and `MOST_HELD_OUT` of all `genes` the one that leaves the fewest between.
    """
    least = max(1, round(HELD_OUT * genes))
    starts = [len(tss) - held for held in range(least, max(least, int(MOST_HELD_OUT * genes)) + 1) if held < len(tss)]
    cuts = [(int(np.searchsorted(tss, tss[start] - window_bp, side="right")), start) for start in starts]
    return min(cuts, key=lambda cut: cut[1] - cut[0], default=(0, 0))


def _betas_text(inputs: InputSpec, betas: list[float]) -> list[str]:
    return [
        f"{track.name} {beta:g} (as {track.transform.value})" for track, beta in zip(inputs.tracks, betas, strict=True)
    ]


def _cells_text(cell: NewCell, inputs: InputSpec) -> str:
    lines = [
        "# A table of cell types with one row: what the model of this cell type reads, in the model's order. Every",
        "# command takes it as --cells FILE; further rows may follow under `cells`.",
        "cells:",
        f"  {json.dumps(cell.name)}:",
        f"    cell_type: {json.dumps(cell.name)}",
        f"    assembly: {json.dumps(inputs.assembly)}  # recorded; chromosome lengths are what is checked",
        f"    window_bp: {inputs.window_bp}  # bases round the TSS",
        f"    promoter_bp: {inputs.promoter_bp}  # in their middle, always read",
        f"    label: {json.dumps(inputs.label)}  # what 'expression' means; say it with its unit",
        "    tracks:  # kind: bigwig (also bedGraph and peak files) or contact; transform: none, log1p or log10p1",
    ]
    lines += [f"      - {_flow(_plain(track))}" for track in inputs.tracks]
    lines.append(
        f"    features:{'' if inputs.features else ' []'}  # columns of the gene table, or computed from_tracks"
    )
    lines += [f"      - {_flow(_plain(feature))}" for feature in inputs.features]
    return "\n".join(lines) + "\n"


def _plain(spec: TrackSpec | FeatureSpec) -> dict[str, object]:
    """Return the fields of a row that differ from the defaults."""
    fields = {}
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if f.name == "name" or value != f.default:
            fields[f.name] = list(value) if isinstance(value, tuple) else getattr(value, "value", value)
    return fields


def _flow(values: Mapping[str, object]) -> str:
    """Return a mapping as one line of YAML."""
    return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()) + "}"


def _data_lines(cell: NewCell, label: LabelConfig, table: str, folder: Path) -> list[str]:
    sources = {name: source if source == POWERLAW else _placed(source, folder) for name, source in cell.sources.items()}
    return [
        f"# A training run for the cell type {cell.name}, written by `seq2exp new-cell`.",
        f"name: {json.dumps(cell.name)}",
        'about: ""  # what the data are, in plain words, for the card of the weights',
        f"cells: {json.dumps(table)}  # the table of cell types; the next line names its row",
        f"inputs: {{cell_type: {json.dumps(cell.name)}}}",
        "data:",
        f"  - cell_type: {json.dumps(cell.name)}",
        f"    genes: {json.dumps(_placed(cell.genes, folder))}  # paths are relative to this file",
        f"    fasta: {json.dumps(_placed(cell.fasta, folder))}",
        f"    sources: {_flow(sources)}",
        *([f"    blacklist: {json.dumps(_placed(cell.blacklist, folder))}"] if cell.blacklist else []),
        f"    label: {_flow(_plain_label(label))}  # scale: log10p1 (log10(x + 1) already) or count",
        "    missing_features: mean  # a feature that a gene lacks becomes the mean of the others",
    ]


def _run_text(data: list[str], split: str, recipe: list[str]) -> str:
    lines = [
        *data,
        "# Which genes train, choose the best step (validation) and judge it (test). Windows of two parts must not",
        "# overlap: whole chromosomes, regions far apart (scheme: region, test: ['chr1:1-50000000']), or the values of",
        "# a column of the gene table (scheme: column). `train` limits what trains; without it, all other genes do.",
        f"split: {split}",
        *recipe,
        f"run: {{validate_every: {VALIDATE_EVERY}, keep: {'best' if 'validation:' in split else 'last'}, cache: true}}",
    ]
    return "\n".join(lines) + "\n"


LINEAR = """start: linear  # the head begins as a regression on this feature; few genes learn little more
linear_on: [{}]"""


def _recipe(inputs: InputSpec, n_genes: int, betas: list[float]) -> list[str]:
    """Return the settings of network and optimiser: a small start from a regression, or tokens where genes are many."""
    weights = [2.0 if track.kind is TrackKind.BIGWIG else 1.0 for track in inputs.tracks]
    evidence = f"prior_weights: {weights}, signal_betas: {betas}"
    comment = (
        "# prior_weights: share of each track in the evidence (before a softmax); signal_betas: the value, measured"
    )
    second = f"# on these data, above which a track speaks for keeping a base ({EVIDENCE_SHARE:.0%} of the bases do)."
    if n_genes >= MANY_GENES:
        contacts = any(track.kind is TrackKind.CONTACT for track in inputs.tracks)
        return [
            "augment: {reverse_complement: 0.5, drop_dna: 0.3}",
            comment,
            second,
            "network:",
            "  {d_model: 32, generator_layers: 1, encoder_layers: 2, token_bp: 64, memory_bp: 200000, "
            + ("contact_pool: 4, " if contacts else "")
            + f"{evidence}}}",
            f"optimiser: {{max_steps: {80 * VALIDATE_EVERY}, warmup_steps: 200, peak_lr: 3.0e-3, end_lr: 1.0e-5, "
            "weight_decay: 0.01, batch_size: 16}",
        ]
    steps = min(20, max(2, round(n_genes * 6 / 8 / VALIDATE_EVERY))) * VALIDATE_EVERY
    return [
        *([LINEAR.format(inputs.feature_names[-1])] if inputs.features else []),
        "train_window_bp: 4000  # few genes: training sees the surroundings of the promoter",
        "augment: {max_shift_bp: 100, reverse_complement: 0.5}",
        comment,
        second,
        f"network: {{d_model: 16, generator_layers: 1, encoder_layers: 1, {evidence}}}",
        f"optimiser: {{max_steps: {steps}, warmup_steps: {steps // 10}, start_lr: 1.0e-4, peak_lr: 1.0e-3, "
        "end_lr: 1.0e-4, weight_decay: 0.01, batch_size: 8}",
    ]


def _placed(path: str | Path, folder: Path) -> str:
    """Return a path as the run's file names it: absolute ones as they are, others relative to the file."""
    text = str(path)
    return text if Path(text).is_absolute() else os.path.relpath(text, folder)
