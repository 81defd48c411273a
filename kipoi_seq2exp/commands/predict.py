"""`seq2exp predict`: expression and elements of a set of genes, from files to files."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import (
    MODEL,
    Say,
    Subparsers,
    add_call_options,
    add_cluster_option,
    add_command,
    add_input_options,
    add_network_options,
    add_overwrite_option,
    call_settings,
    request_of,
)
from kipoi_seq2exp.commands.work import fill, workers_of
from kipoi_seq2exp.errors import counted

if TYPE_CHECKING:
    from kipoi_seq2exp.elements.outputs import Summary
    from kipoi_seq2exp.prediction.run import Progress, Run

_DESCRIPTION = """Predict the expression of genes and the DNA that drives it.

  seq2exp predict K562 --fasta genome.fa --genes genes.tsv \\
      --track h3k27ac=h3k27ac.bw --track dnase=dnase.bw --track hic=powerlaw -o results/

writes into results/
  predictions.tsv    a row per gene: expression in the weights' unit, fraction of the window kept, ...
  elements.bed       intervals that the mask keeps outside the promoter, with scores (BED6+)
  element_mask.bw    the mask of every base (the maximum where windows overlap)
  provenance.json    command, versions, checksums, inputs
  predictions.zarr   all results, a chunk per gene: an interrupted run continues from it
"""


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "predict", "predict expression and elements of genes", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    inputs = add_input_options(parser)
    inputs.add_argument(
        "--peaks", type=Path, metavar="BED", help="use these peaks as the mask instead of the model's own"
    )
    add_call_options(parser)
    add_network_options(parser)
    add_cluster_option(parser)
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    output.add_argument(
        "--save-beta", action="store_true", help="store the Beta distribution of each base, for credible intervals"
    )
    add_overwrite_option(output)


def run(args: argparse.Namespace, say: Say) -> int:
    """Predict, or go on with an interrupted prediction, and write the results."""
    from kipoi_seq2exp.api import read_results
    from kipoi_seq2exp.data.track_ranges import warn_of_inputs
    from kipoi_seq2exp.elements.outputs import status_line, write_results
    from kipoi_seq2exp.prediction.run import prepare

    calls, started = call_settings(args), time.time()
    with workers_of(args.cluster) as workers:
        prepared = prepare(request_of(args), args.output, overwrite=args.overwrite, elsewhere=workers is not None)
        provenance = prepared.model.provenance
        say(status_line(args.model, provenance.status))
        say(
            f"mask: {'peaks from outside' if prepared.peaks else prepared.model.config.mask_mode.value}; inputs: "
            f"{_sources_text(prepared)}"
        )
        warn_of_inputs(prepared.dataset)
        progress = fill(prepared, say, workers)
    with read_results(prepared.store.path) as predictions:
        summary = write_results(predictions, args.output, calls, about_run(args, progress, prepared, started))
    _report(summary, say)
    return 0


def about_run(args: argparse.Namespace, progress: Progress, run: Run, started: float) -> dict[str, Any]:
    """Return the facts about this run alone for provenance.json."""
    import numpy
    import pandas
    import torch

    return {
        "command": sys.argv,
        "settings": {name: str(value) for name, value in vars(args).items() if name != "run" and value is not None},
        "device": run.store.request["device"],
        "batch_size": run.request.batch_size,
        "versions": {
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "pandas": pandas.__version__,
            "torch": torch.__version__,
            "platform": platform.platform(),
        },
        "genes_resumed": progress.resumed,
        "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
    }


def _sources_text(run: Run) -> str:
    tracks = run.dataset.describe()["tracks"]
    return ", ".join(f"{name} = {track['source']}" for name, track in tracks.items())


def _report(summary: Summary, say: Say) -> None:
    from kipoi_seq2exp.metrics import score, too_few_genes

    genes = summary.genes
    line = counted(len(genes), "gene")
    if "n_elements" in genes:
        kept = genes["kept_fraction"].mean()
        line += f", {counted(len(summary.elements), 'element')} outside promoters, {kept:.2%} of the bases kept"
    say(line)
    if "observed" in genes and genes["observed"].notna().sum() > 1:
        known = genes[genes["observed"].notna()]
        few = too_few_genes(len(known))
        scores = score(known["observed"], known["expression"], bootstrap=0 if few else 1_000)
        shown = [f"{scores[name].value:.4f}" if few else str(scores[name]) for name in ("pearson", "mse")]
        intervals = f"; {few}" if few else " (95 % bootstrap intervals)"
        say(f"against the observed label: Pearson {shown[0]}, MSE {shown[1]}{intervals}")
    say("written: " + ", ".join(str(path) for path in summary.files))
