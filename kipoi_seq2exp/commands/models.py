"""`seq2exp convert`, `register` and `unregister`: the authors' checkpoints, and registration with Kipoi."""

from __future__ import annotations

import argparse
from pathlib import Path

from kipoi_seq2exp.commands.options import Say, Subparsers, add_cells_option, add_command, add_overwrite_option
from kipoi_seq2exp.settings import read_json


def add_to(subparsers: Subparsers) -> None:
    """Add the three commands to the command line."""
    convert = add_command(subparsers, "convert", "turn a published Lightning checkpoint into weights")
    convert.set_defaults(run=run_convert)
    convert.add_argument("checkpoint", metavar="CHECKPOINT", help="a .ckpt file, or hf://OWNER/REPOSITORY/FILE")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the .safetensors to write")
    convert.add_argument(
        "--variant", choices=("soft", "hard"), help="which published network it is (default: what its settings say)"
    )
    convert.add_argument(
        "--settings",
        type=Path,
        metavar="JSON",
        help="settings under the published names, alone or as `settings` of a larger file",
    )
    convert.add_argument(
        "--cell-type", metavar="CELL", help="row of the table of cell types: names the tracks and features"
    )
    add_cells_option(convert)
    add_overwrite_option(convert)

    register = add_command(subparsers, "register", "register the models with Kipoi")
    register.set_defaults(run=run_register)
    register.add_argument(
        "--from", dest="group", type=Path, metavar="FOLDER", help="a group that `seq2exp publish RUN --to FOLDER` made"
    )
    register.add_argument("--offline", action="store_true", help="do not try to download Kipoi's model zoo")

    unregister = add_command(subparsers, "unregister", "undo the registration with Kipoi")
    unregister.set_defaults(run=run_unregister)
    unregister.add_argument("name", nargs="?", metavar="GROUP", help="name of a group of your own (default: Seq2Exp)")


def run_convert(args: argparse.Namespace, say: Say) -> int:
    """Convert a checkpoint."""
    from kipoi_seq2exp import convert_checkpoint
    from kipoi_seq2exp.data.cells import cell_inputs
    from kipoi_seq2exp.files import check_absent

    check_absent([args.output], overwrite=args.overwrite)
    inputs = None if args.cell_type is None else cell_inputs(args.cell_type, args.cells)
    settings = None if args.settings is None else read_json(args.settings)
    if settings is not None and isinstance(settings.get("settings"), dict):  # a file that says more than the settings
        settings = settings["settings"]
    sha256 = convert_checkpoint(args.checkpoint, args.output, settings, args.variant, inputs)
    say(f"written: {args.output} (SHA-256 {sha256})")
    return 0


def run_register(args: argparse.Namespace, say: Say) -> int:
    """Register with Kipoi."""
    from kipoi_seq2exp.zoo.register import register

    for step in register(offline=args.offline, group=args.group).steps:
        say(step)
    return 0


def run_unregister(args: argparse.Namespace, say: Say) -> int:
    """Undo the registration."""
    from kipoi_seq2exp.zoo.register import unregister

    for step in (unregister() if args.name is None else unregister(name=args.name)).steps:
        say(step)
    return 0
