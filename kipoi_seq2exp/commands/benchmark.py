"""`seq2exp benchmark`: is the mask right, judged by CRISPRi, by called peaks, and by taking distal DNA away."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kipoi_seq2exp.commands.elements import add_source_options, needs_mask, open_predictions, open_run
from kipoi_seq2exp.commands.options import (
    Say,
    Subparsers,
    add_call_options,
    add_command,
    add_input_options,
    add_network_options,
    call_settings,
    track_sources,
)
from kipoi_seq2exp.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.analysis.predict import Run
    from kipoi_seq2exp.analysis.store import Predictions

_CRISPRI = """Judge the mask by the ENCODE CRISPRi benchmark.

  seq2exp benchmark crispri PAIRS.tsv.gz -o out/                     baselines that need no model, on every pair
  seq2exp benchmark crispri PAIRS.tsv.gz --from results/ -o out/     the mask of predicted genes beside them
  seq2exp benchmark crispri PAIRS.tsv.gz --model K562 --fasta ... --perturb -o out/

writes into out/
  crispri.tsv          AUPRC and precision at 70 % recall with bootstrap intervals, by distance and score
  crispri_pairs.tsv    every pair with its scores     crispri_missed.tsv  pairs beyond their gene's window
  crispri_pairs.bed    the tested elements, for `seq2exp plot --elements`
"""

_DISTAL = """Does the model use distal DNA? Every gene again with shorter windows, with elements masked out, with the
mask of the promoter alone, and without distal tracks; nothing is retrained.

  seq2exp benchmark distal K562 --fasta ... --genes ... --label expression --track ... -o out/

writes into out/
  distal.tsv           a row per condition: errors, and the change against the whole window, with intervals
  distal_genes.tsv     every gene under every condition
"""

_PEAKS = """Compare the mask with called peaks: how they overlap, and the error with each swapped in at the same size.

  seq2exp benchmark peaks K562 --peaks DNase.narrowPeak --fasta ... --genes ... --label expression -o out/

writes into out/
  peaks.tsv            a row per mask: errors, and the change against the model's own mask, with intervals
  peaks_genes.tsv      every gene: overlap, and expression under each mask
"""


def add_to(subparsers: Subparsers) -> None:
    """Add the command and its kinds to the command line."""
    parser = add_command(subparsers, "benchmark", "judge the mask: by CRISPRi, by peaks, by taking distal DNA away")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    crispri = add_command(kinds, "crispri", "rank CRISPRi-tested element-gene pairs", _CRISPRI)
    crispri.set_defaults(run=run_crispri)
    crispri.add_argument("pairs", type=Path, metavar="PAIRS", help="pairs in the ENCODE benchmark's format (.tsv, .gz)")
    crispri.add_argument("--pairs-of", metavar="CELL", help="use the pairs of this cell type alone")
    crispri.add_argument("--perturb", action="store_true", help="score by the loss of predicted expression too")
    crispri.add_argument("--bootstrap", type=int, default=1_000, metavar="N", help="resamples (default 1000)")
    add_source_options(crispri, flag=True)
    _add_output(crispri)
    distal = add_command(kinds, "distal", "errors as distal DNA is taken away", _DISTAL)
    distal.set_defaults(run=run_distal)
    distal.add_argument(
        "--windows", type=int, nargs="+", metavar="BP", help="shorter windows (default 100000 ... 2500)"
    )
    peaks = add_command(kinds, "peaks", "the mask beside called peaks", _PEAKS)
    peaks.set_defaults(run=run_peaks)
    peaks.add_argument("--peaks", type=Path, required=True, metavar="BED", help="narrowPeak, broadPeak or BED")
    for parser in (distal, peaks):
        parser.add_argument("model", help="a served model (K562, GM12878) or a .safetensors file")
        add_input_options(parser)
        add_call_options(parser)
        add_network_options(parser)
        parser.add_argument("--bootstrap", type=int, default=1_000, metavar="N", help="resamples (default 1000)")
        parser.add_argument("--overwrite", action="store_true", help="start anew where other results are")
        _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run_crispri(args: argparse.Namespace, say: Say) -> int:
    """Rank pairs by the mask and by baselines."""
    from kipoi_seq2exp.analysis.crispri import judge_pairs, write_judgement
    from kipoi_seq2exp.analysis.crispri_pairs import read_pairs
    from kipoi_seq2exp.analysis.files import make_folder
    from kipoi_seq2exp.analysis.outputs import describe_lines

    if args.perturb and args.model is None:
        raise ConfigError("--perturb runs the network: give --model and its inputs.")
    pairs = read_pairs(args.pairs, args.pairs_of)
    say(f"{args.pairs}: {len(pairs)} pairs, {int(pairs['regulated'].sum())} positive")
    header = [f"pairs: {args.pairs}, cell types {', '.join(sorted(set(pairs['cell_type'])))}"]
    if args.model is None and args.results is None:
        judgement = judge_pairs(pairs, bootstrap=args.bootstrap, where=str(args.pairs))
    else:
        predictions, opened = open_predictions(args, say, needs_mask)
        with predictions:
            opened = opened if args.perturb else None
            sources = track_sources(args)
            judgement = judge_pairs(
                pairs, predictions, sources, opened, bootstrap=args.bootstrap, where=str(args.pairs)
            )
            header = [*describe_lines(predictions.provenance), *header]
    make_folder(args.output)
    files = write_judgement(judgement, args.output, header)
    for line in (*judgement.notes, *score_lines(judgement.table)):
        say(line)
    say("written: " + ", ".join(map(str, files)))
    return 0


def run_distal(args: argparse.Namespace, say: Say) -> int:
    """Take distal DNA away and compare the errors."""
    from tqdm import tqdm

    from kipoi_seq2exp.analysis.distal import checked_windows, distal_predictions
    from kipoi_seq2exp.analysis.store import read_predictions

    def check(run: Run) -> None:
        checked_windows(args.windows, run.model.config.window_bp, run.model.config.promoter_bp)

    calls = call_settings(args)
    opened = open_run(args, say, check)
    with read_predictions(opened.store.path) as predictions:
        with tqdm(total=len(predictions), unit="gene", desc="distal", dynamic_ncols=True) as bar:
            table = distal_predictions(opened, predictions, args.windows, calls, lambda: bar.update() and None)
        _compare(args, predictions, table, [name for name in table.columns if name != "gene_id"], say)
    return 0


def run_peaks(args: argparse.Namespace, say: Say) -> int:
    """Compare mask and peaks."""
    from tqdm import tqdm

    from kipoi_seq2exp.analysis.peaks import CONDITIONS, overlap_lines, peak_comparison
    from kipoi_seq2exp.analysis.store import read_predictions
    from kipoi_seq2exp.data.regions import Regions

    peaks, calls = Regions(args.peaks, "peaks"), call_settings(args)

    def check(run: Run) -> None:
        needs_mask(run)
        peaks.check_against(run.dataset.genome)

    opened = open_run(args, say, check)
    with read_predictions(opened.store.path) as predictions:
        with tqdm(total=len(predictions), unit="gene", desc="peaks", dynamic_ncols=True) as bar:
            table = peak_comparison(opened, predictions, peaks, calls, lambda: bar.update() and None)
        for line in overlap_lines(table):
            say(line)
        _compare(args, predictions, table, list(CONDITIONS), say, overlap_lines(table))
    return 0


def _compare(
    args: argparse.Namespace,
    predictions: Predictions,
    table: pd.DataFrame,
    conditions: list[str],
    say: Say,
    notes: list[str] | None = None,
) -> None:
    """Compare conditions, say it and write it."""
    import numpy as np

    from kipoi_seq2exp.analysis.conditions import compare_conditions, condition_lines
    from kipoi_seq2exp.analysis.outputs import describe_lines
    from kipoi_seq2exp.analysis.tables import write_tsv

    genes = predictions.genes
    observed = genes["observed"].to_numpy(np.float64) if "observed" in genes else None
    compared = compare_conditions({name: table[name].to_numpy(float) for name in conditions}, observed, args.bootstrap)
    if observed is None:
        say("no label: changes of the prediction are told, errors are not (--label names a column of the gene table)")
    for line in condition_lines(compared):
        say(line)
    header = [*describe_lines(predictions.provenance, call_settings(args)), *(notes or [])]
    files = [args.output / f"{args.kind}.tsv", args.output / f"{args.kind}_genes.tsv"]
    write_tsv(compared, files[0], header)
    shown = table if observed is None else table.assign(observed=observed)
    write_tsv(shown, files[1], header)
    say("written: " + ", ".join(map(str, files)))


def score_lines(table: pd.DataFrame) -> list[str]:
    """Lay out the ranking, a block per distance bin."""
    lines = []
    precision = next((name for name in table.columns if name.startswith("precision_at")), "")
    for label, rows in table.groupby("bin", sort=False):
        first = rows.iloc[0]
        lines.append(f"{label}: {first['pairs']} pairs, {first['positives']} positive (floor {first['floor']:.3f})")
        for _, row in rows.sort_values("auprc", ascending=False).iterrows():
            auprc, at_recall = (_with_interval(row, name) for name in ("auprc", precision))
            missed = f", {row['missed']} positives missed" if row["missed"] else ""
            lines.append(f"  {row['score']:<26} AUPRC {auprc}  precision at 70 % recall {at_recall}{missed}")
    return lines


def _with_interval(row: pd.Series[float], name: str) -> str:
    """Return a number with its interval; a precision at a recall that no threshold reaches has none."""
    if row[name] != row[name]:
        return "not reached"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
