"""`seq2exp compare`: predictions of several models, of Kipoi's or saved ones, beside the label."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from kipoi_seq2exp.commands.options import Say, Subparsers, add_command
from kipoi_seq2exp.errors import ConfigError, InputError

_DESCRIPTION = """Compare models on the same genes, with paired bootstrap intervals of the differences to the first.

  seq2exp compare Seq2Exp=results/ Xpresso=xpresso.tsv Other=other.h5 --genes genes.tsv --label expression -o out/
  seq2exp compare Seq2Exp=results/ --kipoi Xpresso=xpresso_args.json --genes ... --label ... -o out/

Saved predictions are a results folder, an .h5 or .zarr of `kipoi predict -m`, or a .tsv or .csv (FILE::COLUMN names the
prediction). --kipoi runs `kipoi predict` for a model, whose dataloader's arguments are in the JSON file; models that
need another environment are run there and compared from their files. MSE compares models of the same unit alone.
"""


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "compare", "several models on the same genes", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "predictions", nargs="*", metavar="NAME=FILE", help="saved predictions; the first is compared with"
    )
    parser.add_argument(
        "--kipoi",
        action="append",
        default=[],
        metavar="MODEL=ARGS.json",
        help="a Kipoi model, or a folder with one, to run",
    )
    parser.add_argument("--genes", type=Path, required=True, help="table (gene_id, chrom, tss, strand), BED6 or GTF")
    parser.add_argument("--label", metavar="COLUMN", help="column of the gene table with the observed expression")
    parser.add_argument(
        "--bootstrap", type=int, default=1_000, metavar="N", help="resamples of the genes (default 1000)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run(args: argparse.Namespace, say: Say) -> int:
    """Compare the models."""
    from kipoi_seq2exp.analysis.compare import compare_models, plot_scatter_matrix, read_model_predictions, score_lines
    from kipoi_seq2exp.analysis.files import make_folder
    from kipoi_seq2exp.analysis.request import observed_label
    from kipoi_seq2exp.analysis.tables import write_tsv
    from kipoi_seq2exp.data.genes import read_genes

    saved = [_named(entry, "NAME=FILE, e.g. Xpresso=xpresso.tsv") for entry in args.predictions]
    asked = [_named(entry, "MODEL=ARGS.json") for entry in args.kipoi]
    if not (saved or asked):
        raise ConfigError("nothing to compare: give predictions as NAME=FILE, or a model to run (--kipoi).")
    genes = read_genes(args.genes)
    label, observed = observed_label(genes, args.label)
    if observed is None:
        raise InputError(f"{args.genes} has no label: name its column (--label).")
    models = [read_model_predictions(name, source, genes) for name, source in saved]
    make_folder(args.output)
    for model, arguments in asked:
        models.append(
            read_model_predictions(Path(model).name, str(predict_by_kipoi(model, arguments, args.output)), genes)
        )
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


def predict_by_kipoi(model: str, arguments: str, folder: Path) -> Path:
    """Run `kipoi predict` for a model, in a process of its own; return the .h5 that it wrote.

    Raises
    ------
    InputError
        If the arguments' file is missing or Kipoi fails; the last line that it said is in the message.
    """
    if not Path(arguments).is_file():
        raise InputError(f"{arguments}: no such file; it should hold the arguments of {model}'s dataloader as JSON.")
    out = folder / f"{model.strip('/').replace('/', '_')}.h5"
    out.unlink(missing_ok=True)
    source = ["--source", "dir"] if Path(model).is_dir() else []
    words = ["predict", model, *source, "--dataloader_args", arguments, "--keep_metadata", "-o", str(out)]
    done = subprocess.run([sys.executable, "-m", "kipoi", *words], capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise InputError(f"kipoi predict {model} failed ({said[-1].strip().rstrip('.')}).")
    return out


def _named(entry: str, form: str) -> tuple[str, str]:
    name, separator, value = entry.partition("=")
    if not (name and separator and value):
        raise ConfigError(f"{entry}: expected {form}.")
    return name, value
