"""`seq2exp compare`: predictions of several models, run by Kipoi or saved in files, beside the label."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kipoi_seq2exp.commands.options import (
    RESAMPLES,
    Say,
    Subparsers,
    add_command,
    add_overwrite_option,
    named_entries,
    optional_name,
)
from kipoi_seq2exp.errors import ConfigError, InputError, brief
from kipoi_seq2exp.files import check_regular

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.judge.compare import Comparison, Label
    from kipoi_seq2exp.judge.compare_files import ModelPredictions
    from kipoi_seq2exp.judge.many_outputs import BinRule, Columns

_DESCRIPTION = """Compare models on the same genes, with paired bootstrap intervals of the differences to the first.

  seq2exp compare Seq2Exp/K562 Xpresso/human_K562 --genes genes.tsv --label expression -o out/ \\
      --args Seq2Exp/K562=k562.json --args Xpresso/human_K562=xpresso.json
  seq2exp compare Seq2Exp=results/ Xpresso=xpresso.tsv Other=other.h5 --genes genes.tsv --label expression -o out/
  seq2exp compare S.K562=k562/ S.GM12878=gm12878/ E.K562=enformer.h5::4828 E.GM12878=enformer.h5::5110 \\
      --genes genes.tsv --label S.K562=K562 --label S.GM12878=GM12878 --label E.K562=K562 --label E.GM12878=GM12878 \\
      --method Seq2Exp=S.K562,S.GM12878 --method Enformer=E.K562,E.GM12878 -o out/

A model is the name of a Kipoi model or a folder with one; `kipoi predict` runs it with its own dataloader, whose
arguments --args gives as JSON, written out or in a file. Models that need another environment are run there and
compared from their files: a results folder, an .h5 or .zarr of `kipoi predict --keep_metadata`, or a .tsv or .csv
(FILE::COLUMN names the prediction). Rows are matched by gene id or by range. MSE compares models of the same unit
alone.

Of a model with many outputs, MODEL::COLUMN or FILE::COLUMN takes one, by its number from 0 or by its label (of the
model's description, or of --columns). Where it lies in bins along the window (Basenji, Enformer), the bins lie round
the middle of the window, and the bin that holds the TSS and one on either side are summed; log10(x + 1) is taken.
"""
TABLE = "comparison.tsv"
METHOD = "NAME=MODEL,MODEL, e.g. --method Seq2Exp=S.K562,S.GM12878"


@dataclass(frozen=True)
class Entry:
    """One model of the command line: a file of predictions, or (`runs`) a model that Kipoi runs.

    Attributes
    ----------
    name : str
    source : str
        The file or the model.
    column : str
        Which of many outputs; empty where there is no choice.
    runs : bool
    """

    name: str
    source: str
    column: str
    runs: bool

    def reads(self, source: str | Path) -> str:
        """Return what is read from a file of the model."""
        return f"{source}::{self.column}" if self.column else str(source)


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "compare", "compare several models on the same genes", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL-OR-FILE",
        help="Kipoi models and saved predictions; the first is what the others are compared with",
    )
    for options, metavar, text in (
        (("--args",), "NAME=JSON", "arguments of the dataloader of a Kipoi model, as JSON or a file of it"),
        (
            ("--columns",),
            "NAME=FILE",
            "labels of a model's many outputs: one per line, or a table of targets",
        ),
        (
            ("--bins",),
            "NAME=BP,N,SCALE",
            "bins of a model: their length, how many are summed round the TSS, and log10p1 or plain (default: "
            "128,3,log10p1)",
        ),
        (
            ("--method",),
            "NAME=MODEL,MODEL",
            "models that are one method in several cell types: also judge the predicted differences between these",
        ),
        (
            ("--label", "--labels"),
            "[MODEL=]COLUMN",
            "column of the gene table with the observed expression, of all models or of one",
        ),
    ):
        parser.add_argument(*options, action="append", default=[], metavar=metavar, help=text)
    parser.add_argument(
        "--genes", type=Path, required=True, metavar="GENES", help="table (gene_id, chrom, tss, strand), BED6 or GTF"
    )
    parser.add_argument(
        "--bootstrap", type=RESAMPLES, default=1_000, metavar="N", help="resamples of the genes (default: 1000)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    add_overwrite_option(parser)


def run(args: argparse.Namespace, say: Say) -> int:
    """Compare the models."""
    from kipoi_seq2exp.data.genes import read_genes
    from kipoi_seq2exp.files import check_absent, make_folder
    from kipoi_seq2exp.judge.compare import compare_models, score_lines
    from kipoi_seq2exp.zoo.other_models import predict_by_kipoi

    entries = [entry_of(text) for text in args.models]
    names = [entry.name for entry in entries]
    by_kipoi = {entry.name: args.output / f"{_file(entry.name)}.h5" for entry in entries if entry.runs}
    check_absent([args.output / TABLE, *by_kipoi.values()], overwrite=args.overwrite)
    arguments = arguments_of(args.args, entries)
    methods = {name: text.split(",") for name, text in named_entries("--method", args.method, METHOD).items()}
    genes = read_genes(args.genes)
    labels = labels_of(args.label, names, genes, args.genes)
    reading = Reading.of(args, names)
    saved = {e.name: reading.read(e, e.source, genes) for e in entries if not e.runs}
    make_folder(args.output)
    made: dict[tuple[str, str], Path] = {}
    for entry in entries:
        if entry.runs:
            key = entry.source, arguments[entry.name]
            if key not in made:
                made[key] = predict_by_kipoi(*key, by_kipoi[entry.name])
                say(f"{entry.name}: kipoi predict wrote {made[key]}")
            saved[entry.name] = reading.read(entry, made[key], genes)
    found = compare_models([saved[name] for name in names], genes, labels, args.bootstrap)
    for line in (*found.notes, *score_lines(found.scores)):
        say(line)
    files = write_comparison(found, args.output, sorted({f"{label.name}" for label in labels.values()}), args.genes)
    if methods:
        files += write_cells(found, methods, args.output, args.bootstrap, say)
    say("in brackets: 95 % bootstrap interval; in parentheses: difference to the first model, on the same resamples")
    say("written: " + ", ".join(map(str, files)))
    return 0


def _file(name: str) -> str:
    """Return a plain file name for the name of a model: Seq2Exp_K562 for Seq2Exp/K562."""
    from kipoi_seq2exp.files import file_name

    return file_name(name.strip("/").replace("/", "_"))


def write_comparison(found: Comparison, folder: Path, labels: list[str], genes: Path) -> list[Path]:
    """Write the scores, the genes and their picture."""
    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.view.compare_plots import plot_scatter_matrix

    files = [folder / name for name in (TABLE, "comparison_genes.tsv", "comparison.png")]
    columns = ", ".join(f"'{label}'" for label in labels)
    write_tsv(found.scores, files[0], [f"observed: {columns} of {genes}", *found.notes])
    write_tsv(found.genes, files[1], found.notes)
    pearson = {row["model"]: f"Pearson {row['pearson']:.3f}" for _, row in found.scores.iterrows()}
    plot_scatter_matrix(found.genes, files[2], pearson)
    return files


def write_cells(
    found: Comparison, methods: Mapping[str, list[str]], folder: Path, bootstrap: int, say: Say
) -> list[Path]:
    """Write how the methods predict differences between cell types, and its picture."""
    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.judge.compare import ACROSS_CELLS, MIN_CELLS, cell_lines, compare_cells
    from kipoi_seq2exp.view.compare_plots import plot_differences

    scores, differences = compare_cells(found, methods, bootstrap)
    say("predicted against observed differences between cell types:")
    for line in cell_lines(scores):
        say(f"  {line}")
    few = [method for method, models in methods.items() if len(models) < MIN_CELLS]
    if few:
        say(f"  {', '.join(few)}: a correlation across cell types needs at least {MIN_CELLS} of them")
    files = [folder / "comparison_cells.tsv", folder / "comparison_cells.png"]
    write_tsv(scores, files[0], [*(f"{name}: {', '.join(models)}" for name, models in methods.items()), *found.notes])
    pairs = scores[scores["between"] != ACROSS_CELLS]
    plot_differences(differences, files[1], [f"Pearson {value:.3f}" for value in pairs["pearson"]])
    return files


@dataclass(frozen=True)
class Reading:
    """How the outputs of models are named and binned, by the name of the model.

    Attributes
    ----------
    columns : mapping of str to sequence of tuples of str
    rules : mapping of str to BinRule
    """

    columns: Mapping[str, Columns]
    rules: Mapping[str, BinRule]

    @classmethod
    def of(cls, args: argparse.Namespace, names: list[str]) -> Reading:
        """Read --columns and --bins."""
        from kipoi_seq2exp.judge.many_outputs import read_labels

        columns = {name: read_labels(Path(text)) for name, text in _named("--columns", args.columns, names).items()}
        return cls(columns, {name: _bin_rule(text) for name, text in _named("--bins", args.bins, names).items()})

    def read(self, entry: Entry, source: str | Path, genes: pd.DataFrame) -> ModelPredictions:
        """Read the predictions of a model; the labels of its outputs are those of its description, if need be."""
        from kipoi_seq2exp.judge.compare_files import read_model_predictions
        from kipoi_seq2exp.zoo.other_models import described_labels

        labels = self.columns.get(entry.name)
        if entry.runs and labels is None and entry.column and not entry.column.split("/")[-1].isdecimal():
            labels = described_labels(entry.source)
        rule = self.rules.get(entry.name)
        return read_model_predictions(entry.name, entry.reads(source), genes, columns=labels, rule=rule)


def _named(option: str, texts: list[str], names: list[str]) -> dict[str, str]:
    """Read NAME=VALUE; the name must be one of `names`."""
    among = f"NAME=VALUE with the name of a model of the comparison ({', '.join(names)})"
    return named_entries(option, texts, among, names)


def _bin_rule(text: str) -> BinRule:
    """Read BP,COUNT,SCALE; parts that are left out keep their defaults."""
    from kipoi_seq2exp.judge.many_outputs import BinRule

    parts = [part.strip() for part in text.split(",")]
    default = BinRule()
    numbers, scale = [part for part in parts if part.isdecimal()], [part for part in parts if not part.isdecimal()]
    if parts != numbers + scale or len(numbers) > 2 or len(scale) > 1 or not set(scale) <= {"log10p1", "plain"}:
        raise ConfigError(f"--bins {text}: expected BP,N,SCALE, e.g. 128,3,log10p1 (or plain).")
    length, count = (*map(int, numbers), *(default.bin_bp, default.count)[len(numbers) :])
    return BinRule(length, count, scale != ["plain"])


def labels_of(texts: list[str], names: list[str], genes: pd.DataFrame, path: Path) -> dict[str, Label]:
    """Return what each model is judged on: its own column, the one for all models, or the usual one.

    Raises
    ------
    InputError
        If a column is missing, or there is none.
    """
    from kipoi_seq2exp.judge.compare import Label
    from kipoi_seq2exp.prediction.request import observed_label

    chosen: dict[str | None, str] = {}
    for text in texts:
        name, column = optional_name(text)
        own = name in names and text not in genes
        chosen[name if own else None] = column if own else text
    labels = {}
    for name in names:
        label, observed = observed_label(genes, chosen.get(name, chosen.get(None)))
        if label is None or observed is None:
            raise InputError(f"{path} has no label: name its column (--label).")
        labels[name] = Label(label, observed)
    return labels


def entry_of(text: str) -> Entry:
    """Return what one argument names: a file of predictions, or a model.

    Raises
    ------
    ConfigError
        If nothing is named.
    """
    from kipoi_seq2exp.judge.compare_files import ARRAYS, TABLES, ending

    name, source = ("", text) if Path(text).exists() else optional_name(text)
    if not source or (not name and source != text):
        raise ConfigError(f"{text}: expected a Kipoi model, a file of predictions, or NAME= and one of them.")
    source, _, column = source.partition("::")
    path = Path(source)
    is_model = (path / "model.yaml").is_file()
    runs = is_model or not (path.exists() or ending(path) in (*TABLES, *ARRAYS))
    if not name:
        name = path.name if is_model else source if runs else path.name.split(".")[0]
    return Entry(name, source, column, runs)


def arguments_of(texts: list[str], entries: list[Entry]) -> dict[str, str]:
    """Return the dataloader's arguments of each Kipoi model, as JSON; those of a model serve all of its columns.

    Raises
    ------
    ConfigError, InputError
        If a model has none, they belong to no model, or they are not a JSON object.
    """
    runs = [entry.name for entry in entries if entry.runs]
    sources = {entry.source for entry in entries if entry.runs}
    found: dict[str, str] = {}
    expected = f"NAME=JSON with the name of a Kipoi model of the comparison ({', '.join(runs) or 'there is none'})"
    for name, value in named_entries("--args", texts, expected, {*runs, *sources}).items():
        inline = value.lstrip().startswith("{")
        if not inline and not Path(value).exists():
            raise InputError(f"{value}: no such file; it should hold the arguments of {name}'s dataloader as JSON.")
        if not inline:
            check_regular(Path(value), value)
        source = f"--args {name}" if inline else value
        try:
            read = json.loads(value if inline else Path(value).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{source}: cannot be read as JSON ({brief(error)}).") from None
        if not isinstance(read, dict):
            raise InputError(f"{source}: expected a JSON object of arguments, found {type(read).__name__}.")
        found[name] = json.dumps(read)
    found = {e.name: found[key] for e in entries for key in (e.source, e.name) if e.runs and key in found}
    missing = [name for name in runs if name not in found]
    if missing:
        raise ConfigError(
            f"{missing[0]}: no such file, so it is taken for a Kipoi model, whose dataloader needs its arguments: "
            f"--args {missing[0]}=ARGS.json."
        )
    return found
