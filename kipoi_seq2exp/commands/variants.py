"""`seq2exp variants`: what the variants of a VCF do to expression and masks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import (
    MODEL,
    Say,
    Subparsers,
    add_cluster_option,
    add_command,
    add_input_options,
    add_network_options,
    add_overwrite_option,
)
from kipoi_seq2exp.commands.work import fill_units, open_inputs, say_without_dna, workers_of
from kipoi_seq2exp.errors import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kipoi_seq2exp.effects.run import EffectStore

_DESCRIPTION = """Predict the effect of variants on expression and mask, for each gene whose window contains them.

  seq2exp variants variants.vcf K562 --fasta genome.fa --genes genes.tsv --track ... -o out/

writes into out/
  variants.tsv    kipoi-veff2's columns (#CHROM POS ID REF ALT, MODEL/expression/diff), then the gene, the expression of
                  both alleles (log10) and the change of the mask; a row per variant and gene
  variants.vcf    the VCF with the same in its INFO (SEQ2EXP)
  variants.json   what was used, and what was left out
  variants.sqlite the results row by row: an interrupted run continues from it

REF is checked against the FASTA; multi-allelic records are split; windows with indels stay centred on the TSS.
"""
TABLE, ANNOTATED, PROVENANCE = "variants.tsv", "variants.vcf", "variants.json"
NO_DNA = (
    "a substitution cannot change their predictions; insertions and deletions change them only by shifting distances"
)


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "variants", "predict the effect of variants on expression and mask", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("vcf", type=Path, metavar="VCF", help="variants, plain or .gz")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--skip-mismatch", action="store_true", help="leave out variants whose REF is not in the FASTA")
    add_input_options(parser)
    add_network_options(parser)
    add_cluster_option(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    add_overwrite_option(parser)


def run(args: argparse.Namespace, say: Say) -> int:
    """Predict the effects, or go on with an interrupted run, and write them."""
    from kipoi_seq2exp.effects.run import STORE_NAME, EffectJob, EffectStore, EffectUnits
    from kipoi_seq2exp.effects.variant_table import VariantTable
    from kipoi_seq2exp.files import file_sha256, make_folder
    from kipoi_seq2exp.prediction.request import provenance_of

    with ExitStack() as opened:
        workers = opened.enter_context(workers_of(args.cluster))
        inputs = opened.enter_context(open_inputs(args, say, workers))
        model, dataset = inputs.model, inputs.dataset
        table = opened.enter_context(VariantTable())
        counts = table.read(args.vcf, dataset.genome, skip_mismatch=args.skip_mismatch)
        say_without_dna(model, say, NO_DNA)
        units = EffectUnits(dataset, table)
        make_folder(args.output)
        about = {**inputs.fingerprint(), "vcf": file_sha256(args.vcf), "variants": len(table)}
        store = EffectStore.open(args.output / STORE_NAME, about, overwrite=args.overwrite)
        opened.callback(store.close)
        fill_units(store, units, inputs.performer(workers, EffectJob()), "row", say)
        rows, reached, genes = store.counts
        notes = [
            f"{args.vcf}: {counted(counts.plain, 'allele')}, {counts.no_sequence} more without a plain sequence left "
            f"out",
            f"{counted(counts.mismatches, 'allele')} left out: the FASTA has another REF",
            f"{counted(len(table) - reached, 'allele')} in no gene's window; {counted(reached, 'allele')} in the "
            f"windows of {counted(genes, 'gene')}: {counted(rows, 'row')}",
        ]
        about_run = {
            **provenance_of(inputs.request, model, inputs.weights_sha256, dataset),
            "vcf": str(args.vcf),
            "notes": notes,
        }
        files = _write(args, store, about_run)
        changes = _range_of_changes(store)
    for line in (*notes, *_judgement(changes, model.provenance.scores)):
        say(line)
    say("written: " + ", ".join(map(str, files)))
    return 0


def _write(args: argparse.Namespace, store: EffectStore, about_run: Mapping[str, Any]) -> list[Path]:
    """Write the results a stretch of rows at a time, together or none."""
    from kipoi_seq2exp.data.tables import tsv_lines, write_lines
    from kipoi_seq2exp.data.variants import vcf_lines
    from kipoi_seq2exp.effects.variants import annotated_lines, effects_table
    from kipoi_seq2exp.files import whole_files

    with whole_files(args.output) as folder:
        write_lines(tsv_lines(effects_table(table, args.model) for table in store.tables()), folder / TABLE)
        write_lines(annotated_lines(vcf_lines(args.vcf), store.tables()), folder / ANNOTATED)
        write_lines([json.dumps(about_run, indent=2)], folder / PROVENANCE)
    return [args.output / name for name in (TABLE, ANNOTATED, PROVENANCE)]


def _range_of_changes(store: EffectStore) -> NDArray[np.float64]:
    """Return the smallest and the largest change of the predictions, or nothing if there is none."""
    import numpy as np

    ends = np.empty(0)
    for table in store.tables():
        changes = np.concatenate([ends, table["delta_expression"].to_numpy(float)])
        ends = np.array([changes.min(), changes.max()])
    return ends


def _judgement(changes: NDArray[np.float64], scores: Mapping[str, float]) -> list[str]:
    """Return a line on how far the predictions moved, and whether the weights resolve that."""
    from kipoi_seq2exp.prediction.masking import effect_line, resolution_line

    return [line for line in (effect_line(changes, "variants"), resolution_line(changes, scores)) if line]
