"""`seq2exp benchmark`: is the mask right, judged by CRISPRi, by called peaks, and by taking distal DNA away."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kipoi_seq2exp.commands.elements import add_source_options, open_predictions
from kipoi_seq2exp.commands.options import Say, Subparsers, add_command, track_sources
from kipoi_seq2exp.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

_CRISPRI = """Judge the mask by the ENCODE CRISPRi benchmark.

  seq2exp benchmark crispri PAIRS.tsv.gz -o out/                     baselines that need no model, on every pair
  seq2exp benchmark crispri PAIRS.tsv.gz --from results/ -o out/     the mask of predicted genes beside them
  seq2exp benchmark crispri PAIRS.tsv.gz --model K562 --fasta ... --perturb -o out/

writes into out/
  crispri.tsv          AUPRC and precision at 70 % recall with bootstrap intervals, by distance and score
  crispri_pairs.tsv    every pair with its scores     crispri_missed.tsv  pairs beyond their gene's window
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
        predictions, opened = open_predictions(args, say)
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


def score_lines(table: pd.DataFrame) -> list[str]:
    """Lay out the ranking, a block per distance bin."""
    lines = []
    precision = next((name for name in table.columns if name.startswith("precision_at")), "")
    for label, rows in table.groupby("bin", sort=False):
        first = rows.iloc[0]
        lines.append(f"{label}: {first['pairs']} pairs, {first['positives']} positive (floor {first['floor']:.3f})")
        for _, row in rows.sort_values("auprc", ascending=False).iterrows():
            auprc, at_recall = (
                f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
                for name in ("auprc", precision)
            )
            missed = f", {row['missed']} positives missed" if row["missed"] else ""
            lines.append(f"  {row['score']:<26} AUPRC {auprc}  precision at 70 % recall {at_recall}{missed}")
    return lines
