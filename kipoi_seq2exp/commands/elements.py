"""`seq2exp elements`: called elements of a gene set, with their evidence, in every format."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands import options
from kipoi_seq2exp.commands.options import Say, Subparsers
from kipoi_seq2exp.commands.work import GetWorkers, fill_units, needs_mask, open_predictions, performer, workers_of
from kipoi_seq2exp.errors import ConfigError, OutputError, counted

if TYPE_CHECKING:
    from kipoi_seq2exp.elements.find import ElementSettings, Found, Results
    from kipoi_seq2exp.elements.overlaps import NamedIntervals
    from kipoi_seq2exp.prediction.run import Run
    from kipoi_seq2exp.prediction.store import Predictions
    from kipoi_seq2exp.prediction.units import Job, Unit

_DESCRIPTION = """Call the elements that drive genes, and report the evidence for each.

  seq2exp elements K562 --fasta genome.fa --genes genes.tsv --track ... --perturb -o out/
  seq2exp elements --from results/ -o out/        (of `seq2exp predict`, or an .h5/.zarr of `kipoi predict`)

writes into out/
  elements.tsv         distance to the TSS, mask (score), regulatory_score (to rank elements by), credible interval,
                       evidence from DNA and each track, effect (--perturb)
  elements.bed         BED6+         elements.narrowPeak   with the q-value (--fdr)
  elements.bedpe       element-gene  elements.interact     the same as arcs, for the UCSC browser
  promoters.tsv        the promoters, which the model always keeps and which are never called
  element_mask.bw      the mask of every base (the maximum where windows overlap)
  predictions.zarr, elements.sqlite   the results gene by gene: an interrupted run continues from them
"""
PROVENANCE, STORE_NAME = "elements.json", "elements.sqlite"


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = options.add_command(
        subparsers, "elements", "call elements, with their evidence, in every format", _DESCRIPTION
    )
    parser.set_defaults(run=run)
    options.add_source_options(parser)
    options.add_cluster_option(parser)
    options.add_call_options(parser)
    null = parser.add_argument_group(
        "threshold by false discovery rate (rotates the tracks within the window and runs the model)"
    )
    null.add_argument(
        "--fdr", type=options.SHARE, metavar="RATE", help="use the lowest threshold with this false discovery rate"
    )
    null.add_argument(
        "--shuffles", type=options.SHUFFLES, default=10, metavar="N", help="shuffles of each window (default: 10)"
    )
    null.add_argument(
        "--block",
        type=options.BASES,
        default=1_000,
        metavar="BP",
        help="length of the blocks that are rotated (default: 1000)",
    )
    null.add_argument("--seed", type=options.SEED, default=0, metavar="N", help="seed of the shuffles (default: 0)")
    parser.add_argument(
        "--perturb", action="store_true", help="predict expression with each element masked out, as CRISPRi would"
    )
    known = parser.add_argument_group("what elements overlap (a column of elements.tsv each)")
    known.add_argument(
        "--gtf", type=Path, metavar="GTF", help="gene models: whose promoters (TSS +- 500 bp) an element overlaps"
    )
    known.add_argument(
        "--overlaps",
        action="append",
        default=[],
        metavar="NAME=BED",
        help="named intervals, e.g. ccre=cCREs.bed; BED::COLUMN takes the names from that column, not the 4th",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run(args: argparse.Namespace, say: Say) -> int:
    """Call the elements."""
    import pandas as pd

    from kipoi_seq2exp.elements.find import find_elements, results_here
    from kipoi_seq2exp.elements.overlaps import overlap_columns

    settings, started, overlapped = settings_of(args), time.time(), _overlapped(args)
    with workers_of(args.cluster) as workers:
        predictions, opened = open_predictions(args, say, needs_mask, workers)
        with predictions, ExitStack() as kept:
            if opened is None:
                _refuse_others(args, predictions)
            opened = opened or _behind(args, predictions, say)
            if opened is None:
                with options.gene_bar(predictions) as on_gene:
                    found = find_elements(predictions, settings, results_here(None, on_gene))
            else:  # the folder stays locked until everything is written
                results = kept.enter_context(_kept_results(args, opened, workers, say))
                found = find_elements(predictions, settings, results)
            columns = overlap_columns(found.elements, *overlapped)
            found = dataclasses.replace(found, elements=pd.concat([found.elements, columns], axis=1))
            _write(args, predictions, found, started, say)
            for name, names in columns.items():
                say(f"{name}: {counted(int((names != '').sum()), 'element')} of {len(names)} overlap")
    return 0


def _refuse_others(args: argparse.Namespace, predictions: Predictions) -> None:
    """Refuse to replace the elements of other predictions; those of the same ones may be called with other settings.

    Raises
    ------
    OutputError
        If the folder holds elements of others, and --overwrite is not given.
    """
    from kipoi_seq2exp.settings import read_json

    there = args.output / PROVENANCE
    if args.overwrite or not there.is_file():
        return
    before, now = read_json(there), json.loads(json.dumps(dict(predictions.provenance)))
    same = all(before.get(name) == value for name, value in now.items())
    if not now:  # a file without metadata: known by its path
        settings = before.get("settings")
        same = isinstance(settings, dict) and settings.get("results") == str(args.results)
    if not same:
        raise OutputError(
            f"{args.output}: holds elements of other predictions; give --overwrite to replace them, or choose another "
            "place."
        )


def _overlapped(args: argparse.Namespace) -> tuple[NamedIntervals | None, dict[str, NamedIntervals]]:
    """Read what elements may overlap, before anything is computed."""
    from kipoi_seq2exp.elements.overlaps import promoters_of, read_named

    files = options.named_entries("--overlaps", args.overlaps, "NAME=BED, e.g. --overlaps ccre=cCREs.bed")
    named = {name: read_named(source) for name, source in files.items()}
    return None if args.gtf is None else promoters_of(args.gtf), named


def _behind(args: argparse.Namespace, predictions: Predictions, say: Say) -> Run | None:
    """Open the run behind given predictions for what they lack, or report which columns are missing, and why.

    Raises
    ------
    ConfigError
        If the network must run again and cannot.
    """
    from kipoi_seq2exp.errors import Seq2ExpError
    from kipoi_seq2exp.prediction.reopen import reopen_run

    runs_again = args.perturb or args.fdr is not None
    if not (predictions.has_beta or runs_again):
        say(
            f"no regulatory_score, no credible intervals and no columns of the DNA and the tracks: {predictions.path} "
            "does not hold the Beta distribution of each base; predict with --save-beta, or give the model and its "
            "inputs in place of --from"
        )
        return None
    try:
        return reopen_run(predictions)
    except Seq2ExpError as error:
        if runs_again:
            raise ConfigError(
                f"--perturb and --fdr run the network again: {error} Give the model and its inputs in place of --from."
            ) from None
        say(f"no columns of the DNA and the tracks: {error} Give the model and its inputs in place of --from for them.")
        return None


@contextmanager
def _kept_results(args: argparse.Namespace, run: Run, workers: GetWorkers | None, say: Say) -> Iterator[Results]:
    """Yield a function that computes jobs here or on a cluster, and keeps finished results in the output folder."""
    from kipoi_seq2exp.files import make_folder
    from kipoi_seq2exp.prediction.units import UnitStore

    make_folder(args.output)
    about = {"holds": "elements"}  # of any run: units name theirs
    store = UnitStore.open(args.output / STORE_NAME, about, overwrite=args.overwrite)

    def results(job: Job, units: Sequence[Unit]) -> Iterator[Any]:
        opened = run.model, run.dataset
        fill_units(store, units, performer(workers, run.request, run.store.request, opened, job), "gene", say)
        for unit in units:
            yield store[unit.key]

    with closing(store):
        yield results


def settings_of(args: argparse.Namespace) -> ElementSettings:
    """Turn the options into settings.

    Raises
    ------
    ConfigError
        If the threshold is asked for in two ways.
    """
    from kipoi_seq2exp.elements.fdr import NullSettings
    from kipoi_seq2exp.elements.find import ElementSettings

    if args.fdr is not None and (args.threshold is not None or args.top_fraction is not None):
        raise ConfigError("--fdr chooses the threshold itself: leave out --threshold and --top-fraction.")
    null = None if args.fdr is None else NullSettings(args.fdr, args.shuffles, args.block, args.seed)
    return ElementSettings(options.call_settings(args), null, args.perturb)


def _write(args: argparse.Namespace, predictions: Predictions, found: Found, started: float, say: Say) -> None:
    from kipoi_seq2exp.data.tables import write_lines
    from kipoi_seq2exp.elements.formats import write_element_files
    from kipoi_seq2exp.elements.mask_track import write_mask_track
    from kipoi_seq2exp.elements.outputs import TRACK, describe_lines
    from kipoi_seq2exp.files import make_folder, whole_files
    from kipoi_seq2exp.settings import to_mapping

    make_folder(args.output)
    header = describe_lines(predictions.provenance, found.calls) or [f"calls from {predictions.path}"]
    null = _null_lines(args, found)
    cell_type = predictions.provenance.get("inputs", {}).get("cell_type", ".")
    has_track = "chrom_lengths" in predictions.provenance
    if not has_track:
        say(f"no {TRACK}: {predictions.path} does not say how long the chromosomes are.")
    about = {
        **predictions.provenance,
        "settings": {name: str(value) for name, value in vars(args).items() if name != "run" and value is not None},
        "elements": to_mapping(found.calls),
        "null": null,
        "n_genes": len(predictions),
        "n_elements": len(found.elements),
        "seconds": round(time.time() - started, 1),
    }
    with whole_files(args.output) as folder:
        made = write_element_files(found.elements, found.promoters, folder, [*header, *null], cell_type)
        if has_track:
            write_mask_track(predictions, folder / TRACK)
        write_lines([json.dumps(about, indent=2)], folder / PROVENANCE)
    names = [*(file.name for file in made), *([TRACK] * has_track), PROVENANCE]
    _report(args, found, [*null, "written: " + ", ".join(str(args.output / name) for name in names)], say)


def _report(args: argparse.Namespace, found: Found, lines: list[str], say: Say) -> None:
    """Report what was called, and that promoters were not."""
    from kipoi_seq2exp.elements.evidence import REGULATORY

    calls, elements = found.calls, found.elements
    rule = calls.rule if found.null is None or calls.threshold is not None else "no threshold"
    say(f"{counted(len(elements), 'element')} of {counted(elements['gene_id'].nunique(), 'gene')} ({rule})")
    if args.perturb and len(elements):
        from kipoi_seq2exp.prediction.masking import effect_line

        say(effect_line(elements["delta_expression"].to_numpy(float), "elements masked out one by one"))
    if REGULATORY in elements:
        say(f"rank elements by {REGULATORY} (evidence x contact / expression), the score that agreed best with CRISPRi")
    say(f"{counted(len(found.promoters), 'promoter')} listed separately: promoters are never called as elements")
    for line in lines:
        say(line)


def _null_lines(args: argparse.Namespace, found: Found) -> list[str]:
    """Return lines on the null and the threshold that it gave."""
    if found.null is None:
        return []
    import numpy as np

    made = (
        f"{args.shuffles} rotations of the tracks by blocks of {args.block:,} bp outside the promoter, seed {args.seed}"
    )
    if found.null.threshold(args.fdr) is None:
        least = np.nanmin(found.null.fdr[1:]) if np.isfinite(found.null.fdr[1:]).any() else float("nan")
        return [f"no threshold has a false discovery rate of {args.fdr:g}: the lowest is {least:.3g} ({made})"]
    return [f"false discovery rate {args.fdr:g} at mask >= {found.calls.threshold:g} ({made})"]
