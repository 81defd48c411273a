"""`seq2exp benchmark recovery`: what training finds on an invented genome whose every effect is known."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kipoi_seq2exp.commands import options
from kipoi_seq2exp.commands.options import Say, Subparsers
from kipoi_seq2exp.errors import ConfigError

if TYPE_CHECKING:
    from kipoi_seq2exp.judge.recovery_genome import GenomeSettings
    from kipoi_seq2exp.judge.recovery_rivals import CalledTracks, Genome

_RECOVERY = """Train on a simulated genome in which every effect is known, and evaluate on held-out chromosomes.

  seq2exp benchmark recovery --task tracks -o out/       decoys lack one of the two tracks
  seq2exp benchmark recovery --task dna -o out/          decoys have both tracks and no motif; weak enhancers are faint
  seq2exp benchmark recovery --task far -o out/          most enhancers lie 20 to 100 kb away
  seq2exp benchmark recovery --task dna --to-files invented/ -o out/         write the genome, and train from memory
  seq2exp benchmark recovery --from-files invented/ -o out/                  train from the files: the same numbers

Beside the network with tokens: the same without a mask, with MACS3's peaks as the mask, the published start with our
tokens and with a token a base (for the processor time that ours took), ridge and boosting on binned tracks, and the
formula itself.
Needs the extra 'train'; what needs MACS3 is left out, and said so, where it is not installed.

writes into out/
  recovery.md, recovery.json   both tables: methods, and rankings of the elements
  recovery_pairs.tsv           every element of a held-out window: true effect, predicted effects, masks, tracks
  recovery.safetensors         the weights of our network; every command takes them with the files of --to-files
"""


def add_to(kinds: Subparsers) -> None:
    """Add the command to those of `seq2exp benchmark`."""
    parser = options.add_command(kinds, "recovery", "train on an invented genome with a known truth", _RECOVERY)
    parser.set_defaults(run=run_recovery)
    genome = parser.add_argument_group("the invented genome")
    genome.add_argument("--task", choices=("tracks", "dna", "far"), help="what distinguishes enhancers from decoys")
    genome.add_argument("--seed", type=options.SEED, metavar="N", help="seed of the genome (default: 1)")
    genome.add_argument("--genes", type=options.GENES, metavar="N", help="genes in all (default: 800)")
    genome.add_argument(
        "--window", type=options.BASES, metavar="BP", help="window of a gene (default: what the task needs)"
    )
    genome.add_argument(
        "--chromosomes",
        type=options.bounded(int, 1, 1_000),
        metavar="N",
        help="a fifth of them is held out (default: 20)",
    )
    genome.add_argument(
        "--to-files", type=Path, metavar="DIR", help="also write the files of the genome to this folder"
    )
    genome.add_argument("--from-files", type=Path, metavar="DIR", help="read the genome that --to-files wrote")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--steps",
        type=options.bounded(int, 1, 100_000_000),
        metavar="N",
        help="optimiser steps (default: what the task needs)",
    )
    training.add_argument(
        "--training-seed",
        type=options.SEED,
        default=0,
        metavar="N",
        help="seed of the weights and of the order of genes (default: 0)",
    )
    training.add_argument(
        "--only-ours", action="store_true", help="train only our network, not those that it is compared with"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    options.add_overwrite_option(parser)


def run_recovery(args: argparse.Namespace, say: Say) -> int:
    """Train and judge."""
    from kipoi_seq2exp.files import check_absent, make_folder
    from kipoi_seq2exp.judge.recovery import NETWORKS, OURS, benchmark_recovery, recipe_of
    from kipoi_seq2exp.judge.recovery_genome import near_share
    from kipoi_seq2exp.judge.recovery_report import PAGE, recovery_lines, write_recovery

    check_absent([args.output / PAGE], overwrite=args.overwrite)
    genome = _genome(args)
    settings = genome.settings
    recipe = recipe_of(settings, args.steps)
    make_folder(args.output)
    say(
        f"{settings.genes} genes, {len(genome.elements)} elements; elements within 20 kb explain "
        f"{near_share(genome):.0%} of the variance of expression"
    )
    networks = (OURS,) if args.only_ours else NETWORKS
    result = benchmark_recovery(genome, recipe, networks, seed=args.training_seed, macs3=_macs3(genome, say), say=say)
    for line in recovery_lines(result, settings):
        say(line)
    files = write_recovery(result, settings, recipe, args.output, _command(args, settings))
    say("written: " + ", ".join(map(str, files)))
    return 0


def _genome(args: argparse.Namespace) -> Genome:
    """Invent the genome, or open its files."""
    from kipoi_seq2exp.files import check_absent
    from kipoi_seq2exp.judge.recovery_files import SETTINGS, read_genome, write_genome
    from kipoi_seq2exp.judge.recovery_genome import WINDOWS_BP, GenomeSettings, Task, invent_genome

    given = {"task": args.task, "seed": args.seed, "genes": args.genes, "window_bp": args.window}
    given |= {"chromosomes": args.chromosomes, "to_files": args.to_files}
    chosen = {name: value for name, value in given.items() if value is not None}
    if args.from_files is not None:
        if chosen:
            name = min(chosen).replace("_bp", "").replace("_", "-")
            raise ConfigError(f"--from-files reads a finished genome: leave out --{name}.")
        return read_genome(args.from_files)
    if args.task is None:
        raise ConfigError("give a --task (tracks, dna or far), or the files of a genome (--from-files).")
    if args.to_files is not None:
        check_absent([args.to_files / SETTINGS], overwrite=args.overwrite)
    chosen.pop("to_files", None)
    chosen.setdefault("window_bp", WINDOWS_BP[args.task])
    genome = invent_genome(GenomeSettings(**{**chosen, "task": Task(args.task)}))
    if args.to_files is not None:
        write_genome(genome, args.to_files)
    return genome


def _macs3(genome: Genome, say: Say) -> CalledTracks | None:
    """Call peaks, where MACS3 is installed."""
    from kipoi_seq2exp.judge.macs3 import is_installed
    from kipoi_seq2exp.judge.recovery_rivals import call_macs3

    if not is_installed():
        return None
    called = call_macs3(genome)
    for line in called.lines:
        say(line)
    return called


def _command(args: argparse.Namespace, settings: GenomeSettings) -> str:
    """Return the command that reproduces these numbers."""
    words = ["seq2exp", "benchmark", "recovery", "--task", settings.task.value, "--seed", str(settings.seed)]
    words += ["--genes", str(settings.genes), "--window", str(settings.window_bp)]
    words += ["--chromosomes", str(settings.chromosomes)]
    words += [] if args.steps is None else ["--steps", str(args.steps)]
    words += ["--training-seed", str(args.training_seed), *(["--only-ours"] if args.only_ours else [])]
    return shlex.join(words)
