"""`seq2exp benchmark`: is the mask right? Judged by CRISPRi, by called peaks, and by removing distal DNA."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kipoi_seq2exp.commands import benchmark_recovery, options
from kipoi_seq2exp.commands.options import Say, Subparsers
from kipoi_seq2exp.commands.work import needs_mask, open_predictions, open_run
from kipoi_seq2exp.errors import ConfigError, counted

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.prediction.run import Run
    from kipoi_seq2exp.prediction.store import Predictions

_CRISPRI = """Judge the mask by the ENCODE CRISPRi benchmark.

  seq2exp benchmark crispri PAIRS.tsv.gz -o out/                     baselines that need no model, on every pair
  seq2exp benchmark crispri PAIRS.tsv.gz --from results/ -o out/     the mask of predicted genes beside them
  seq2exp benchmark crispri PAIRS.tsv.gz --model K562 --fasta ... --perturb -o out/

writes into out/
  crispri.tsv          AUPRC and precision at 70 % recall with bootstrap intervals, by distance and score
  crispri_pairs.tsv    every pair with its scores     crispri_missed.tsv  pairs beyond their gene's window
  crispri_pairs.bed    the tested elements, for `seq2exp plot --elements`
"""

_DISTAL = """Test whether the model uses distal DNA: predict every gene again with shorter windows, with elements masked
out, with the promoter alone, and without distal tracks. Nothing is retrained.

  seq2exp benchmark distal K562 --fasta ... --genes ... --label expression --track ... -o out/

writes into out/
  distal.tsv           a row per condition: errors, and the change against the whole window, with intervals
  distal_genes.tsv     every gene under every condition
"""

_PEAKS = """Compare the mask with called peaks: how they overlap, and the error with each swapped in at the same size.

  seq2exp benchmark peaks K562 --macs3 dnase --fasta ... --genes ... --track ... --label expression -o out/
  seq2exp benchmark peaks K562 --peaks DNase.narrowPeak --fasta ... --genes ... --track ... -o out/

--macs3 runs `macs3 bdgpeakcall` on a track of the model, over the chromosomes of the genes. (`macs3 callpeak` starts
from aligned reads, which a track no longer holds: give its narrowPeak by --peaks.) Several of each may be given.

writes into out/
  peaks.tsv              a row per set of peaks and mask: errors, and the change against the model's own mask
  peaks_overlap.tsv      a row per set: bases kept, precision, recall, Jaccard index of called elements and peaks
  peaks_genes.tsv        every gene: overlap, and expression under each mask
  macs3_TRACK.narrowPeak what MACS3 called; its version and command are in the tables
"""


def add_to(subparsers: Subparsers) -> None:
    """Add the command and its kinds to the command line."""
    parser = options.add_command(
        subparsers, "benchmark", "judge the mask by CRISPRi, by called peaks and by removing distal DNA"
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    crispri = options.add_command(kinds, "crispri", "rank CRISPRi-tested element-gene pairs", _CRISPRI)
    crispri.set_defaults(run=run_crispri)
    crispri.add_argument("pairs", type=Path, metavar="PAIRS", help="pairs in the ENCODE benchmark's format (.tsv, .gz)")
    crispri.add_argument("--pairs-of", metavar="CELL", help="use only the pairs of this cell type")
    crispri.add_argument("--perturb", action="store_true", help="also score pairs by the loss of predicted expression")
    crispri.add_argument(
        "--bootstrap", type=options.RESAMPLES, default=1_000, metavar="N", help="resamples of the genes (default: 1000)"
    )
    options.add_source_options(crispri, flag=True)
    _add_output(crispri)
    distal = options.add_command(kinds, "distal", "errors as distal DNA is removed", _DISTAL)
    distal.set_defaults(run=run_distal)
    distal.add_argument(
        "--windows", type=options.BASES, nargs="+", metavar="BP", help="shorter windows (default: 100000 ... 2500)"
    )
    peaks = options.add_command(kinds, "peaks", "the mask beside called peaks", _PEAKS)
    peaks.set_defaults(run=run_peaks)
    _add_peak_options(peaks)
    benchmark_recovery.add_to(kinds)
    for parser in (distal, peaks):
        parser.add_argument("model", metavar="MODEL", help=options.MODEL)
        options.add_input_options(parser)
        options.add_call_options(parser)
        options.add_network_options(parser)
        parser.add_argument(
            "--bootstrap",
            type=options.RESAMPLES,
            default=1_000,
            metavar="N",
            help="resamples of the genes (default: 1000)",
        )
        options.add_overwrite_option(parser)
        _add_output(parser)


def _add_peak_options(parser: argparse.ArgumentParser) -> None:
    peaks = parser.add_argument_group("peaks (at least one of --peaks and --macs3)")
    peaks.add_argument(
        "--peaks", type=Path, nargs="+", default=[], metavar="BED", help="called peaks: narrowPeak, broadPeak or BED"
    )
    peaks.add_argument(
        "--macs3", nargs="+", default=[], metavar="TRACK", help="call the peaks of these tracks with MACS3"
    )
    peaks.add_argument(
        "--macs3-cutoff",
        type=options.bounded(float, 0, 1e12),
        metavar="VALUE",
        help="least value of a peak (default: 5 times the track's mean)",
    )
    peaks.add_argument(
        "--macs3-min-length", type=options.BASES, default=200, metavar="BP", help="drop shorter peaks (default: 200)"
    )
    peaks.add_argument(
        "--macs3-max-gap",
        type=options.GAP,
        default=30,
        metavar="BP",
        help="join peaks at most this far apart (default: 30)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run_crispri(args: argparse.Namespace, say: Say) -> int:
    """Rank pairs by the mask and by baselines."""
    from kipoi_seq2exp.data.pairs import read_pairs
    from kipoi_seq2exp.elements.outputs import describe_lines
    from kipoi_seq2exp.files import check_absent, make_folder
    from kipoi_seq2exp.judge.crispri import TABLE, judge_pairs, write_judgement
    from kipoi_seq2exp.judge.ranking import ranking_lines

    if args.perturb and args.model is None:
        raise ConfigError("--perturb runs the network: give --model and its inputs.")
    if args.model is None:  # else the folder's predictions say whether it is the same run
        check_absent([args.output / TABLE], overwrite=args.overwrite)
    pairs = read_pairs(args.pairs, args.pairs_of)
    say(f"{args.pairs}: {counted(len(pairs), 'pair')}, {int(pairs['regulated'].sum())} positive")
    header = [f"pairs: {args.pairs}, cell types {', '.join(sorted(set(pairs['cell_type'])))}"]
    if args.model is None and args.results is None:
        judgement = judge_pairs(pairs, bootstrap=args.bootstrap, where=str(args.pairs))
    else:
        predictions, opened = open_predictions(args, say, needs_mask)
        with predictions:
            opened = opened if args.perturb else None
            sources = options.track_sources(args)
            judgement = judge_pairs(
                pairs, predictions, sources, opened, bootstrap=args.bootstrap, where=str(args.pairs)
            )
            header = [*describe_lines(predictions.provenance), *header]
    make_folder(args.output)
    files = write_judgement(judgement, args.output, header)
    for line in (*judgement.notes, *ranking_lines(judgement.table)):
        say(line)
    say("written: " + ", ".join(map(str, files)))
    return 0


def run_distal(args: argparse.Namespace, say: Say) -> int:
    """Remove distal DNA and compare the errors."""
    from kipoi_seq2exp.api import read_results
    from kipoi_seq2exp.judge.conditions import over_genes
    from kipoi_seq2exp.judge.distal import checked_windows, distal_rows

    def check(run: Run) -> None:
        checked_windows(args.windows, run.model.config.window_bp, run.model.config.promoter_bp)

    calls = options.call_settings(args)
    opened = open_run(args, say, check)
    with read_results(opened.store.path) as predictions:
        with options.gene_bar(predictions) as on_gene:
            rows_of = distal_rows(opened, predictions, args.windows, calls)
            table = over_genes(opened, predictions, rows_of, on_gene)
        conditions = [name for name in table.columns if name != "gene_id"]
        compared = _compare(args, predictions, table, conditions, say)
        _write(args, predictions, {"": compared, "_genes": table}, [], say)
    return 0


def run_peaks(args: argparse.Namespace, say: Say) -> int:
    """Compare mask and peaks."""
    import pandas as pd

    from kipoi_seq2exp.api import read_results
    from kipoi_seq2exp.data.regions import Regions
    from kipoi_seq2exp.judge.conditions import over_genes
    from kipoi_seq2exp.judge.macs3 import PeakSettings, call_tracks
    from kipoi_seq2exp.judge.peaks import CONDITIONS, check_peaks, overlap_lines, overlap_table, peak_rows

    if not (args.peaks or args.macs3):
        raise ConfigError("give peaks to compare with: a file (--peaks), or a track to call them on (--macs3).")
    calls = options.call_settings(args)
    settings = PeakSettings(args.macs3_cutoff, args.macs3_min_length, args.macs3_max_gap)
    one_name = len({path.name for path in args.peaks}) < len(args.peaks)
    peaks = {str(path) if one_name else path.name: Regions(path, "peaks") for path in args.peaks}
    notes = []

    def check(run: Run) -> None:
        needs_mask(run)
        for regions in peaks.values():
            check_peaks(run, regions)
        macs3 = call_tracks(run, args.macs3, settings, args.output) if args.macs3 else {}
        for track, called in macs3.items():
            peaks[f"MACS3 on {track}"] = Regions(called.path, "peaks")
            notes.append(f"MACS3 on {track}: {called.line}")
            say(notes[-1])

    opened = open_run(args, say, check)
    with read_results(opened.store.path) as predictions:
        with options.gene_bar(predictions) as on_gene:
            table = over_genes(opened, predictions, peak_rows(opened, predictions, peaks, calls), on_gene)
        overlap = overlap_table(table, args.bootstrap)
        for line in overlap_lines(overlap):
            say(line)
        compared = []
        for name, rows in table.groupby("set", sort=False):
            say(f"masks swapped in, {name}:")
            of_set = _compare(args, predictions, rows, list(CONDITIONS), say)
            of_set.insert(0, "set", name)
            compared.append(of_set)
        tables = {"": pd.concat(compared, ignore_index=True), "_overlap": overlap, "_genes": table}
        _write(args, predictions, tables, notes, say)
    return 0


def _compare(
    args: argparse.Namespace, predictions: Predictions, table: pd.DataFrame, conditions: list[str], say: Say
) -> pd.DataFrame:
    """Compare conditions over the genes, and report the result."""
    import numpy as np

    from kipoi_seq2exp.judge.conditions import compare_conditions, condition_lines

    genes = predictions.genes
    observed = genes["observed"].to_numpy(np.float64) if "observed" in genes else None
    compared = compare_conditions({name: table[name].to_numpy(float) for name in conditions}, observed, args.bootstrap)
    if observed is None:
        say("no label: only changes of the prediction are given, no errors (--label names a column of the gene table)")
    for line in condition_lines(compared):
        say(line)
    return compared


def _write(
    args: argparse.Namespace, predictions: Predictions, tables: dict[str, pd.DataFrame], notes: list[str], say: Say
) -> None:
    """Write the tables of a benchmark, each under what follows its name; rows of genes get their label."""
    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.elements.outputs import describe_lines

    genes, files = predictions.genes, []
    header = [*describe_lines(predictions.provenance, options.call_settings(args)), *notes]
    for ending, table in tables.items():
        if "gene_id" in table and "observed" in genes:
            table = table.assign(
                observed=table["gene_id"].map(dict(zip(genes["gene_id"], genes["observed"], strict=True)))
            )
        files.append(args.output / f"{args.kind}{ending}.tsv")
        write_tsv(table, files[-1], header)
    say("written: " + ", ".join(map(str, files)))
