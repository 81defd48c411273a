"""`seq2exp fetch`, `train`, `evaluate` and `publish`: from public tracks and a YAML file to served weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import (
    Say,
    Subparsers,
    add_cells_option,
    add_command,
    add_overwrite_option,
    named_entries,
)
from kipoi_seq2exp.errors import ConfigError, InputError, counted
from kipoi_seq2exp.files import check_absent

if TYPE_CHECKING:
    from kipoi_seq2exp.training.config import TrainingConfig

_DATA = "folder that relative paths in the settings refer to (default: data_root of the settings)"
_PARTS = ("train", "validation", "test", "all")


def add_to(subparsers: Subparsers) -> None:
    """Add the four commands to the command line."""
    fetch = add_command(subparsers, "fetch", "download public tracks of a cell type")
    fetch.set_defaults(run=run_fetch)
    fetch.add_argument("cell_type", metavar="CELL", help="cell type, e.g. K562")
    fetch.add_argument("--manifest", type=Path, metavar="YAML", help="tracks, URLs and hashes (default: the package's)")
    fetch.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("tracks"),
        metavar="FOLDER",
        help="folder for the files (default: tracks)",
    )

    train = add_command(subparsers, "train", "train a network as described in a YAML file")
    train.set_defaults(run=run_train)
    train.add_argument("config", type=Path, metavar="CONFIG", help="the run's settings (YAML)")
    train.add_argument("--data", type=Path, metavar="FOLDER", help=_DATA)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint of the run")
    train.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="replace a field of CONFIG (an entry of a list by its number: data.0.peaks=FILE)",
    )
    add_cells_option(train)
    train.add_argument(
        "-o", "--output", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of runs (default: runs)"
    )

    evaluate = add_command(subparsers, "evaluate", "score a network on one part of a run's split")
    evaluate.set_defaults(run=run_evaluate)
    evaluate.add_argument("model", metavar="MODEL", help="a run folder, a served model, or a .safetensors file")
    evaluate.add_argument("--split", choices=_PARTS, default="test", help="which genes (default: test)")
    evaluate.add_argument(
        "--config", type=Path, metavar="YAML", help="settings with data and split (default: those of the run)"
    )
    evaluate.add_argument("--data", type=Path, metavar="FOLDER", help=_DATA)
    add_cells_option(evaluate)
    evaluate.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for predictions, scores and a scatter (default: print the scores alone)",
    )
    add_overwrite_option(evaluate)
    _add_publish(subparsers)


def _add_publish(subparsers: Subparsers) -> None:
    publish = add_command(subparsers, "publish", "publish the weights of a run under a name")
    publish.set_defaults(run=run_publish)
    publish.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder of `seq2exp train`")
    publish.add_argument("--as", dest="name", metavar="NAME", help="e.g. K562 (with --to: by default the cell type)")
    publish.add_argument(
        "--status",
        choices=("trained", "provisional"),
        default="trained",
        help="what outputs say of it (default: trained)",
    )
    publish.add_argument(
        "--drop-others", action="store_true", help="take members that read other tracks or features out of the group"
    )
    publish.add_argument(
        "--cell-type",
        metavar="CELL",
        help="of a run on several cell types, the one to serve the weights for (default: the first)",
    )
    publish.add_argument(
        "--without-dna",
        action="store_true",
        help="serve weights that read every base as N (if validation is better so)",
    )
    own = publish.add_argument_group("a group of your own, instead of this package's")
    own.add_argument("--to", type=Path, metavar="FOLDER", help="make a Kipoi group there, named like the folder")
    own.add_argument(
        "--author", action="append", default=[], metavar="NAME", help="who made the weights; once for each"
    )
    own.add_argument("--licence", metavar="NAME", help="of the weights, e.g. MIT or CC-BY-4.0")
    own.add_argument("--cite", metavar="URL", help="the work to cite")
    add_overwrite_option(own)


def run_fetch(args: argparse.Namespace, say: Say) -> int:
    """Download tracks."""
    from kipoi_seq2exp.training.fetch import fetch

    for file in fetch(args.cell_type, args.output, args.manifest, progress=True):
        known = "as expected" if file.verified else "its hash was not known: recorded for next time"
        say(f"{file.track}: {file.path} (SHA-256 {file.sha256}, {known})")
    return 0


def run_train(args: argparse.Namespace, say: Say) -> int:
    """Train."""
    from kipoi_seq2exp.api import train, training_module

    changes = overrides(args.overrides)
    config = training_module("config").read_training_config(args.config, args.data, changes, args.cells)
    if started := training_module("start").describe_start(config):
        say(started)
    result = train(
        args.config, args.output, data_root=args.data, overrides=changes, cells=args.cells, resume=args.resume
    )
    say(f"written: {result.weights}")
    for name in ("mse", "mae", "pearson", "spearman"):
        if name in result.scores:
            say(f"test {name}: {result.scores[name]:.4f}")
    return 0


def run_evaluate(args: argparse.Namespace, say: Say) -> int:
    """Score a model."""
    from kipoi_seq2exp.api import training_module

    evaluation = training_module("evaluate")
    if args.output is not None:
        check_absent(evaluation.files(args.output, args.split), overwrite=args.overwrite)
    weights, config = _model_and_config(args)
    from kipoi_seq2exp import load_model

    result = evaluation.evaluate(load_model(weights), config, args.split)
    say(f"{args.model}: {counted(len(result.table), 'gene')} of the {args.split} split; {result.label}")
    for name, value in result.scores.items():
        say(f"{name}: {value.value:.4f} [{value.low:.4f}, {value.high:.4f}]")
    if args.output is not None:
        result.save(args.output, args.split)
        say(f"written: {args.output}")
    return 0


def run_publish(args: argparse.Namespace, say: Say) -> int:
    """Publish a run."""
    from kipoi_seq2exp.api import training_module

    if args.to is not None:
        return _publish_folder(args, say)
    if args.name is None:
        raise ConfigError("give the name to publish under (--as NAME), or --to FOLDER for a group of your own.")
    publishing = training_module("publishing.publish")
    choice = publishing.ServedAs(cell_type=args.cell_type, reads_dna=not args.without_dna)
    published, rewritten = publishing.publish_and_refresh(
        args.run_folder, args.name, status=args.status, drop_others=args.drop_others, choice=choice
    )
    say(f"written: {published.weights}, {published.card}")
    say("served as: " + ", ".join(row.model for row in published.rows))
    if rewritten:
        say("rewritten: " + ", ".join(map(str, rewritten)))
    return 0


def _publish_folder(args: argparse.Namespace, say: Say) -> int:
    if not args.author or not args.licence:
        raise ConfigError(
            "give the authors of the weights and the licence to use them under: --author NAME (once for each) and "
            "--licence NAME."
        )
    from kipoi_seq2exp.api import training_module

    folders = training_module("publishing.publish_folder")
    signature = folders.Signature(tuple(args.author), args.licence, args.cite)
    published = folders.publish_folder(
        args.run_folder, args.to, signature, name=args.name, status=args.status, overwrite=args.overwrite
    )
    group = args.to.resolve()
    say(f"written: {group} ({', '.join(row.model for row in published.rows)}; card: {published.card})")
    say(f"next, register it with Kipoi: seq2exp register --from {args.to}")
    served = f"{group.name}/{published.rows[0].model}"
    say(f"then: kipoi test {served}; kipoi predict {served} ...")
    return 0


def overrides(entries: list[str]) -> dict[str, Any]:
    """Read FIELD=VALUE entries; values are YAML.

    Raises
    ------
    ConfigError
        If an entry is not of this form.
    """
    import yaml

    fields: dict[str, Any] = {}
    for name, value in named_entries("--set", entries, "FIELD=VALUE, e.g. --set seed=22").items():
        try:
            fields[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {name}={value}: the value cannot be read.") from None
    return fields


def _model_and_config(args: argparse.Namespace) -> tuple[str | Path, TrainingConfig]:
    from kipoi_seq2exp.training.config import read_training_config

    run = Path(args.model)
    weights: str | Path = run / "best.safetensors" if run.is_dir() else args.model
    if run.is_dir() and not (run / "best.safetensors").is_file():
        raise InputError(f"{run}: holds no best.safetensors: it is not a finished run of 'seq2exp train'.")
    settings = args.config or (run / "config.yaml" if run.is_dir() else None)
    if settings is None:
        raise ConfigError(f"{args.model}: is not a run folder, so --config must say which data and split to use.")
    return weights, read_training_config(settings, args.data, cells=args.cells)
