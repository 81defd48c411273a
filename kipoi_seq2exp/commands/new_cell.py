"""`seq2exp new-cell`: from the files of your own cell type to the YAML of a training run."""

from __future__ import annotations

import argparse
from pathlib import Path

from kipoi_seq2exp.commands.options import (
    Say,
    Subparsers,
    add_command,
    add_overwrite_option,
    add_track_options,
    named_entries,
    track_sources,
)
from kipoi_seq2exp.errors import ConfigError

_DESCRIPTION = """Write the YAML of a training run for a cell type of your own, and its row of a table of cell types.

  seq2exp new-cell mycell.yaml --fasta genome.fa --genes genes.tsv --label expression --track atac=atac.bw
  seq2exp train mycell.yaml
  seq2exp publish runs/mycell --to MyCell --author "Your Name" --licence CC-BY-4.0
  seq2exp register --from MyCell
  kipoi predict MyCell/mycell --dataloader_args='{"genes_file": "genes.tsv", ..., "atac_file": "atac.bw"}' -o out.h5

You can use any tracks under any names. What the run needs to know about them is measured from the files.
"""


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "new-cell", "prepare the training of your own cell type", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("output", type=Path, metavar="RUN.yaml", help="the file to write; its name is the cell type's")
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--fasta", type=Path, required=True, metavar="FASTA", help="the genome, plain or bgzipped")
    inputs.add_argument(
        "--genes",
        type=Path,
        required=True,
        metavar="GENES",
        help="table (gene_id, chrom, tss, strand, features, label)",
    )
    inputs.add_argument("--label", required=True, metavar="COLUMN", help="column of the gene table to learn")
    add_track_options(inputs)
    inputs.add_argument(
        "--unit", action="append", default=[], metavar="TRACK=TEXT", help="what the values of a track are, for the card"
    )
    inputs.add_argument("--blacklist", type=Path, metavar="BED", help="bases that the mask may not keep")
    inputs.add_argument("--assembly", default="hg38", metavar="NAME", help="genome assembly (default: hg38)")
    parser.add_argument(
        "--train-on-all", action="store_true", help="hold no gene out; nothing then tells how good the weights are"
    )
    add_overwrite_option(parser)


def run(args: argparse.Namespace, say: Say) -> int:
    """Write both files."""
    from kipoi_seq2exp.files import check_absent, make_folder, write_text
    from kipoi_seq2exp.training.new_cell import NewCell, new_cell

    if args.output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{args.output}: name the run's file with the ending .yaml.")
    table = args.output.with_name(f"{args.output.stem}.cells.yaml")
    check_absent([args.output, table], overwrite=args.overwrite)
    cell = NewCell(
        name=args.output.stem,
        genes=args.genes,
        fasta=args.fasta,
        sources=track_sources(args),
        label=args.label,
        blacklist=args.blacklist,
        assembly=args.assembly,
        units=named_entries("--unit", args.unit, "TRACK=TEXT, e.g. --unit 'atac=reads per kb'"),
        train_on_all=args.train_on_all,
    )
    texts = new_cell(cell, args.output.parent, table.name)
    make_folder(args.output.parent)
    write_text(table, texts.cells)
    write_text(args.output, texts.run)
    for line in texts.said:
        say(line)
    say(f"written: {args.output}, {table}")
    say(f"next: seq2exp train {args.output}")
    return 0
