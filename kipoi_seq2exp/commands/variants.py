"""`seq2exp variants`: what the variants of a VCF do to expression and masks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kipoi_seq2exp.commands.options import Say, Subparsers, add_command, add_input_options, add_network_options
from kipoi_seq2exp.errors import counted

_DESCRIPTION = """Predict what variants do: per variant and gene within reach, the change of expression and of the mask.

  seq2exp variants variants.vcf K562 --fasta genome.fa --genes genes.tsv --track ... -o out/

writes into out/
  variants.tsv    kipoi-veff2's columns (#CHROM POS ID REF ALT, MODEL/expression/diff), then the gene, the expression of
                  both alleles (log10) and the change of the mask; a row per variant and gene
  variants.vcf    the VCF with the same in its INFO (SEQ2EXP)
  variants.json   what was used, and what was left out

REF is checked against the FASTA; multi-allelic records are split; windows with indels stay centred on the TSS.
"""
TABLE, ANNOTATED, PROVENANCE = "variants.tsv", "variants.vcf", "variants.json"


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "variants", "what variants do to expression and masks", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("vcf", type=Path, metavar="VCF", help="variants, plain or .gz")
    parser.add_argument("model", help="a served model (K562, GM12878) or a .safetensors file")
    parser.add_argument("--skip-mismatch", action="store_true", help="leave out variants whose REF is not in the FASTA")
    add_input_options(parser)
    add_network_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run(args: argparse.Namespace, say: Say) -> int:
    """Predict the effects and write them."""
    from tqdm import tqdm

    from kipoi_seq2exp.commands.predict import request_of
    from kipoi_seq2exp.data.tables import write_lines, write_tsv
    from kipoi_seq2exp.data.variants import matching, read_vcf
    from kipoi_seq2exp.effects.variants import annotated_lines, effects_table, genes_in_reach, variant_effects
    from kipoi_seq2exp.elements.masking import effect_line
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.files import make_folder
    from kipoi_seq2exp.prediction.request import inputs_of, open_dataset, open_model, provenance_of
    from kipoi_seq2exp.prediction.run import batch_size_for

    args.peaks, args.save_beta = None, False
    vcf, request = read_vcf(args.vcf), request_of(args)
    model, weights_sha256 = open_model(request)
    with open_dataset(request, inputs_of(model, request.cell_type)) as dataset:
        variants, mismatches = matching(vcf.variants, dataset.genome, str(args.vcf), skip_mismatch=args.skip_mismatch)
        say(status_line(args.model, model.provenance.status))
        reach = genes_in_reach(dataset, variants)
        if reach:
            make_folder(args.output)
        with tqdm(total=sum(map(len, reach.values())), unit="variant", dynamic_ncols=True) as bar:
            size = batch_size_for(request, model, dataset)
            effects = variant_effects(model, dataset, variants, size, lambda: bar.update() and None)
        provenance = provenance_of(request, model, weights_sha256, dataset)
    reached = effects["variant"].nunique()
    notes = [
        f"{args.vcf}: {counted(len(vcf.variants), 'allele')}, {vcf.no_sequence} more without a plain sequence left out",
        f"{counted(len(mismatches), 'allele')} left out: the FASTA has another REF",
        f"{counted(len(variants) - reached, 'allele')} in no gene's window; {counted(reached, 'allele')} in the "
        f"windows of {counted(effects['gene_id'].nunique(), 'gene')}: {counted(len(effects), 'row')}",
    ]
    files = [args.output / name for name in (TABLE, ANNOTATED, PROVENANCE)]
    write_tsv(effects_table(effects, args.model), files[0])
    write_lines(list(annotated_lines(vcf, variants, effects)), files[1])
    write_lines([json.dumps({**provenance, "vcf": str(args.vcf), "notes": notes}, indent=2)], files[2])
    for line in (*notes, effect_line(effects["delta_expression"].to_numpy(float), "variants")):
        say(line)
    say("written: " + ", ".join(map(str, files)))
    return 0
