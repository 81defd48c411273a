"""`seq2exp compare`: predictions of several models, of Kipoi's or saved ones, beside the label."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kipoi_seq2exp.commands.options import Say, Subparsers, add_command
from kipoi_seq2exp.errors import ConfigError, InputError

_DESCRIPTION = """Compare models on the same genes, with paired bootstrap intervals of the differences to the first.

  seq2exp compare Seq2Exp/K562 Xpresso/human_K562 --genes genes.tsv --label expression -o out/ \\
      --args Seq2Exp/K562=k562.json --args Xpresso/human_K562=xpresso.json
  seq2exp compare Seq2Exp=results/ Xpresso=xpresso.tsv Other=other.h5 --genes genes.tsv --label expression -o out/

A model is the name of a Kipoi model or a folder with one; `kipoi predict` runs it with its own dataloader, whose
arguments --args gives as JSON, written out or in a file. Models that need another environment are run there and
compared from their files: a results folder, an .h5 or .zarr of `kipoi predict -m`, or a .tsv or .csv (FILE::COLUMN
names the prediction). Rows are matched by gene id or by range. MSE compares models of the same unit alone.
"""


@dataclass(frozen=True)
class Entry:
    """One model of the command line: a file of predictions, or (`runs`) a model that Kipoi runs."""

    name: str
    source: str
    runs: bool


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "compare", "several models on the same genes", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL-OR-FILE",
        help="Kipoi models and saved predictions; the first is what the others are compared with",
    )
    parser.add_argument(
        "--args",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="arguments of the dataloader of a Kipoi model, as JSON or a file of it",
    )
    parser.add_argument("--genes", type=Path, required=True, help="table (gene_id, chrom, tss, strand), BED6 or GTF")
    parser.add_argument(
        "--label", "--labels", metavar="COLUMN", help="column of the gene table with the observed expression"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1_000, metavar="N", help="resamples of the genes (default 1000)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run(args: argparse.Namespace, say: Say) -> int:
    """Compare the models."""
    from kipoi_seq2exp.data.genes import read_genes
    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.files import make_folder
    from kipoi_seq2exp.judge.compare import compare_models, plot_scatter_matrix, score_lines
    from kipoi_seq2exp.judge.compare_files import read_model_predictions
    from kipoi_seq2exp.prediction.request import observed_label

    entries = [entry_of(text) for text in args.models]
    arguments = arguments_of(args.args, entries)
    genes = read_genes(args.genes)
    label, observed = observed_label(genes, args.label)
    if observed is None:
        raise InputError(f"{args.genes} has no label: name its column (--label).")
    saved = {e.name: read_model_predictions(e.name, e.source, genes) for e in entries if not e.runs}
    make_folder(args.output)
    models = []
    for entry in entries:
        if entry.runs:
            made = predict_by_kipoi(entry, arguments[entry.name], args.output)
            saved[entry.name] = read_model_predictions(entry.name, str(made), genes)
            say(f"{entry.name}: kipoi predict wrote {made}")
        models.append(saved[entry.name])
    found = compare_models(models, genes, observed, args.bootstrap)
    files = [args.output / name for name in ("comparison.tsv", "comparison_genes.tsv", "comparison.png")]
    write_tsv(found.scores, files[0], [f"observed: column '{label}' of {args.genes}", *found.notes])
    write_tsv(found.genes, files[1], found.notes)
    pearson = {row["model"]: f"Pearson {row['pearson']:.3f}" for _, row in found.scores.iterrows()}
    plot_scatter_matrix(found.genes, files[2], pearson)
    for line in (*found.notes, *score_lines(found.scores)):
        say(line)
    say("in brackets: 95 % bootstrap interval; in parentheses: difference to the first model, on the same resamples")
    say("written: " + ", ".join(map(str, files)))
    return 0


def entry_of(text: str) -> Entry:
    """Tell what one argument names: a file of predictions, or a model.

    Raises
    ------
    ConfigError
        If nothing is named.
    """
    from kipoi_seq2exp.judge.compare_files import ARRAYS, TABLES, ending

    name, separator, source = ("", "", text) if Path(text).exists() else text.partition("=")
    if not separator:
        name, source = "", text
    elif not (name and source):
        raise ConfigError(f"{text}: expected a Kipoi model, a file of predictions, or NAME= and one of them.")
    path = Path(source.split("::")[0])
    is_model = (path / "model.yaml").is_file()
    runs = is_model or not (path.exists() or ending(path) in (*TABLES, *ARRAYS))
    if not name:
        name = path.name if is_model else source if runs else path.name.split(".")[0]
    return Entry(name, source, runs)


def arguments_of(texts: list[str], entries: list[Entry]) -> dict[str, str]:
    """Return the dataloader's arguments of each Kipoi model, as JSON.

    Raises
    ------
    ConfigError, InputError
        If a model has none, they belong to no model, or they are no JSON object.
    """
    runs = [entry.name for entry in entries if entry.runs]
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in runs or not value:
            raise ConfigError(
                f"--args {text[:60]}: expected NAME=JSON with the name of a Kipoi model of the comparison "
                f"({', '.join(runs) or 'there is none'})."
            )
        inline = value.lstrip().startswith("{")
        if not inline and not Path(value).is_file():
            raise InputError(f"{value}: no such file; it should hold the arguments of {name}'s dataloader as JSON.")
        source = f"--args {name}" if inline else value
        try:
            read = json.loads(value if inline else Path(value).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{source}: cannot be read as JSON ({error}).") from None
        if not isinstance(read, dict):
            raise InputError(f"{source}: expected a JSON object of arguments, found {type(read).__name__}.")
        found[name] = json.dumps(read)
    missing = [name for name in runs if name not in found]
    if missing:
        raise ConfigError(
            f"{missing[0]}: no such file, so it is taken for a Kipoi model, whose dataloader needs its arguments: "
            f"--args {missing[0]}=ARGS.json."
        )
    return found


def predict_by_kipoi(model: Entry, arguments: str, folder: Path) -> Path:
    """Run `kipoi predict` for a model, in a process of its own; return the .h5 that it wrote.

    Raises
    ------
    InputError
        If Kipoi fails; the last line that it said is in the message.
    """
    out = folder / f"{model.name.strip('/').replace('/', '_')}.h5"
    out.unlink(missing_ok=True)
    source = ["--source", "dir"] if Path(model.source).is_dir() else []
    words = ["predict", model.source, *source, "--dataloader_args", arguments, "--keep_metadata", "-o", str(out)]
    done = subprocess.run([sys.executable, "-m", "kipoi", *words], capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise InputError(f"kipoi predict {model.source} failed ({said[-1].strip().rstrip('.')}).")
    return out
