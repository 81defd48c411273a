"""`seq2exp features`: a gene table with the features that models read, from a GTF and a FASTA."""

from __future__ import annotations

import argparse
from pathlib import Path

from kipoi_seq2exp.commands.options import Say, Subparsers, add_command, add_overwrite_option
from kipoi_seq2exp.errors import counted

_DESCRIPTION = """Make a gene table with the features that models read, from gene models and a genome.

  seq2exp features gencode.gtf.gz genome.fa --gene-type protein_coding --transcript mane -o genes.tsv
  seq2exp predict K562 --fasta genome.fa --genes genes.tsv --track ... -o results/

For each gene with a coding transcript: the TSS (0-based, of the chosen transcript), the lengths of UTRs, coding
sequence and introns (log10, as z-scores with Xpresso's constants for human genes), their G+C content, and the exon
junctions per kb of coding sequence. PROMOTER_ACTIVITY, the ninth feature of the published model, is computed from the
tracks when you predict.
"""
CHOICES = ("longest", "mane", "canonical")


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "features", "make a gene table with features from a GTF and a FASTA", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("gtf", type=Path, metavar="GTF", help="gene models with exon and CDS records, plain or .gz")
    parser.add_argument("fasta", type=Path, metavar="FASTA", help="the genome, plain or bgzipped")
    parser.add_argument(
        "--transcript",
        choices=CHOICES,
        default=CHOICES[0],
        help="whose features: the longest coding sequence (default), MANE Select, or Ensembl's canonical; genes "
        "without the tag take the longest",
    )
    parser.add_argument("--gene-type", metavar="TYPE", help="only the genes of this type, e.g. protein_coding")
    add_overwrite_option(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="TSV", help="the table to write")


def run(args: argparse.Namespace, say: Say) -> int:
    """Write the table."""
    from kipoi_seq2exp.data.sequence import Genome
    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.data.transcripts import Choice, gene_features
    from kipoi_seq2exp.files import check_absent, make_folder

    check_absent([args.output], overwrite=args.overwrite)
    with Genome(args.fasta) as genome:
        table, notes = gene_features(args.gtf, genome, Choice(args.transcript), args.gene_type)
    make_folder(args.output.parent)
    write_tsv(table, args.output)
    for note in notes:
        say(note)
    say(f"{counted(len(table), 'gene')} written: {args.output}")
    return 0
