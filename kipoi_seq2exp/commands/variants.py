"""`seq2exp variants`: what the variants of a VCF do to expression and masks."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
    progress_bar,
)
from kipoi_seq2exp.errors import counted

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.effects.run import EffectStore, Perform, Unit
    from kipoi_seq2exp.nn.network import Seq2Exp
    from kipoi_seq2exp.prediction.cluster import Cluster
    from kipoi_seq2exp.prediction.request import PredictRequest

_DESCRIPTION = """Predict what variants do: per variant and gene within reach, the change of expression and of the mask.

  seq2exp variants variants.vcf K562 --fasta genome.fa --genes genes.tsv --track ... -o out/

writes into out/
  variants.tsv    kipoi-veff2's columns (#CHROM POS ID REF ALT, MODEL/expression/diff), then the gene, the expression of
                  both alleles (log10) and the change of the mask; a row per variant and gene
  variants.vcf    the VCF with the same in its INFO (SEQ2EXP)
  variants.json   what was used, and what was left out
  variants.sqlite every row as it is done: an interrupted run goes on from it

REF is checked against the FASTA; multi-allelic records are split; windows with indels stay centred on the TSS.
"""
TABLE, ANNOTATED, PROVENANCE = "variants.tsv", "variants.vcf", "variants.json"


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "variants", "what variants do to expression and masks", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("vcf", type=Path, metavar="VCF", help="variants, plain or .gz")
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--skip-mismatch", action="store_true", help="leave out variants whose REF is not in the FASTA")
    add_input_options(parser)
    add_network_options(parser)
    add_cluster_option(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="start anew where other results are")


def run(args: argparse.Namespace, say: Say) -> int:
    """Predict the effects, or go on with an interrupted run, and write them."""
    import numpy as np

    from kipoi_seq2exp.commands.predict import request_of
    from kipoi_seq2exp.data.tables import tsv_lines, write_lines
    from kipoi_seq2exp.data.tracks.ranges import warn_of_inputs
    from kipoi_seq2exp.data.variants import matching, read_vcf
    from kipoi_seq2exp.effects.run import STORE_NAME, EffectStore, units_of
    from kipoi_seq2exp.effects.variants import annotated_lines, effects_table
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.files import file_sha256, make_folder
    from kipoi_seq2exp.prediction.cluster import parse_cluster
    from kipoi_seq2exp.prediction.masking import effect_line
    from kipoi_seq2exp.prediction.request import fingerprint, inputs_of, open_dataset, open_model, provenance_of

    args.peaks, args.save_beta = None, False
    cluster = None if args.cluster is None else parse_cluster(args.cluster)
    vcf, request = read_vcf(args.vcf), request_of(args)
    if cluster is not None:
        request = dataclasses.replace(request, device=request.device or "cpu")
    model, weights_sha256 = open_model(request if cluster is None else dataclasses.replace(request, device="cpu"))
    with open_dataset(request, inputs_of(model, request.cell_type, request.cells)) as dataset, ExitStack() as opened:
        variants, mismatches = matching(vcf.variants, dataset.genome, str(args.vcf), skip_mismatch=args.skip_mismatch)
        say(status_line(args.model, model.provenance.status))
        warn_of_inputs(dataset)
        units = units_of(dataset, variants)
        make_folder(args.output)
        expected = fingerprint(request, model, weights_sha256, dataset)
        about = {**expected, "vcf": file_sha256(args.vcf), "variants": len(variants)}
        store = EffectStore.open(args.output / STORE_NAME, about, overwrite=args.overwrite)
        opened.callback(store.close)
        _fill(store, units, _performer(cluster, request, model, dataset, expected), say)
        provenance = provenance_of(request, model, weights_sha256, dataset)
        rows, reached, genes = store.counts
        notes = [
            f"{args.vcf}: {counted(len(vcf.variants), 'allele')}, {vcf.no_sequence} more without a plain sequence left "
            f"out",
            f"{counted(len(mismatches), 'allele')} left out: the FASTA has another REF",
            f"{counted(len(variants) - reached, 'allele')} in no gene's window; {counted(reached, 'allele')} in the "
            f"windows of {counted(genes, 'gene')}: {counted(rows, 'row')}",
        ]
        files = [args.output / name for name in (TABLE, ANNOTATED, PROVENANCE)]
        write_lines(tsv_lines(effects_table(table, args.model) for table in store.tables()), files[0])
        write_lines(annotated_lines(vcf, variants, store.tables()), files[1])
        write_lines([json.dumps({**provenance, "vcf": str(args.vcf), "notes": notes}, indent=2)], files[2])
        changes = np.concatenate([table["delta_expression"].to_numpy(float) for table in store.tables()])
    for line in (*notes, effect_line(changes, "variants")):
        say(line)
    say("written: " + ", ".join(map(str, files)))
    return 0


def _performer(
    cluster: Cluster | None,
    request: PredictRequest,
    model: Seq2Exp,
    dataset: WindowDataset,
    expected: Mapping[str, Any],
) -> AbstractContextManager[Perform]:
    """Return a context with what computes units, here or on a cluster."""
    from kipoi_seq2exp.effects.run import perform_here
    from kipoi_seq2exp.prediction.run import batch_size_for

    if cluster is None:
        return nullcontext(perform_here(model, dataset, batch_size_for(request, model, dataset)))

    @contextmanager
    def elsewhere() -> Iterator[Perform]:
        from kipoi_seq2exp.effects.cluster import perform_on

        with cluster.open() as workers:
            yield perform_on(workers, request, expected)

    return elsewhere()


def _fill(store: EffectStore, units: Sequence[Unit], performer: AbstractContextManager[Perform], say: Say) -> None:
    """Compute under a progress bar; an interruption says what is kept and how to go on."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from kipoi_seq2exp.effects.run import fill_store

    done, total = store.done, sum(len(unit.numbers) for unit in units)
    resumed = sum(len(unit.numbers) for place, unit in enumerate(units) if place in done)
    if resumed:
        say(f"resuming: {resumed} of {total} rows are already in {store.path}")
    if resumed == total:
        return
    try:
        with performer as perform, logging_redirect_tqdm(), progress_bar(total, resumed, "variant") as bar:
            fill_store(store, units, perform, lambda count: bar.update(count) and None)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {store.counts[0]} of {total} rows are complete in {store.path}; run the same command again "
            f"to go on."
        ) from None
