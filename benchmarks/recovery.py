"""Measure what training finds on invented genomes whose every effect is known; writes recovery.md beside this file.

    python benchmarks/recovery.py                         # tasks tracks, dna and far on the two kept seeds
    python benchmarks/recovery.py --seeds 1 --tasks dna   # a trial on another seed

The seeds 101 and 102 are kept for this table: nothing is chosen by them. Each run is `seq2exp benchmark recovery` with
its defaults, and its folder holds the numbers as JSON and every element with its scores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kipoi_seq2exp.cli import main as seq2exp
from kipoi_seq2exp.judge.recovery import NETWORKS, OURS

HERE = Path(__file__).parent
KEPT_SEEDS = (101, 102)
TASKS = ("tracks", "dna", "far")
GOALS = {"tracks": (0.9, 0.95), "dna": (None, 0.9), "far": (0.9, 0.95)}
MASK_GAIN = 0.15  # task dna: AUPRC of the mask above MACS3's and that of activity x contact
HEAD = """# Known truth: what training finds

Written by `benchmarks/recovery.py`. An invented genome follows from its seed; chromosomes are held out; every effect is
known. Explained distal variance is 0 for the promoter alone and 1 for the formula itself; an effect is the fall of the
prediction when an element is masked out. The seeds were kept for this table. Goals: tracks and far at least 0.9 of the
distal variance and effects r of 0.95; dna effects r of 0.9 and the mask's AUPRC 0.15 above that of MACS3 and of
activity x contact. The recipes were chosen on other seeds: in far and dna the encoder reads the promoter and what is
near, and elements act by activity x contact x mask alone; in far no DNA is read; in dna half of the filters start at
words of DNA that are frequent where the tracks are high. "Best of tracks" is the best AUPRC of activity x contact and
of the peaks of MACS3, by their scores on either track or on both.
"""
BESIDE = """Share of the distal variance that each network explains on the same genes, and in brackets its steps. Far
below 0: a few steps, at the rate of the recipe, made it worse than its start, the regression on the promoter."""


def main() -> None:
    """Run every task on every seed and write the page as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(KEPT_SEEDS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--runs", type=Path, default=Path("runs/recovery"), help="folder of the runs")
    parser.add_argument("--only-ours", action="store_true", help="leave out the networks that are compared with")
    parser.add_argument("--keep", action="store_true", help="take finished runs in --runs as they are")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "recovery.md")
    args = parser.parse_args()
    pages, verdicts = [], table("distal variance", "effects, r", "mask AUPRC", "best of tracks", "goals met")
    networks = table(*NETWORKS)
    for seed in args.seeds:
        for task in args.tasks:
            folder = args.runs / f"{task}-{seed}"
            words = ["benchmark", "recovery", "--task", task, "--seed", str(seed), "-o", str(folder), "--overwrite"]
            finished = args.keep and (folder / "recovery.json").is_file()
            if not finished and seq2exp([*words, *(["--only-ours"] if args.only_ours else [])]):
                raise SystemExit(f"seq2exp {' '.join(words)} failed.")
            page = (folder / "recovery.md").read_text(encoding="utf-8")
            pages.append(f"## {task}, seed {seed}\n\n{page.strip()}")
            numbers = json.loads((folder / "recovery.json").read_text(encoding="utf-8"))
            verdicts.append(verdict(task, seed, numbers))
            networks.append(shares(task, seed, numbers))
            tables = ["\n".join(verdicts), BESIDE, "\n".join(networks)]
            args.output.write_text("\n\n".join([HEAD.strip(), *tables, *pages]) + "\n", encoding="utf-8")
    print(f"written: {args.output}")


def table(*columns: str) -> list[str]:
    """Return the first lines of a table of runs."""
    return [f"| task | seed | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]


def shares(task: str, seed: int, numbers: dict[str, list[dict[str, float]]]) -> str:
    """Return a row of what each network explains; empty where it was not trained."""
    rows = {row["method"]: row for row in numbers["methods"]}
    told = [f"{rows[name]['distal']:.3f} ({rows[name]['steps']:.0f})" if name in rows else "" for name in NETWORKS]
    return f"| {task} | {seed} | {' | '.join(told)} |"


def verdict(task: str, seed: int, numbers: dict[str, list[dict[str, float]]]) -> str:
    """Return a row that says whether a run met the goals of its task."""
    ours = next(row for row in numbers["methods"] if row["method"] == OURS)
    auprc = {row["score"]: row["auprc"] for row in numbers["rankings"]}
    mask = auprc[f"mask of {OURS}"]
    tracks = max(value for name, value in auprc.items() if name.startswith("MACS3") or name == "activity x contact")
    distal, effects = GOALS[task]
    met = ours["effect_r"] >= effects and (distal is None or ours["distal"] >= distal)
    met = met and (task != "dna" or mask >= tracks + MASK_GAIN)
    figures = " | ".join(f"{value:.3f}" for value in (ours["distal"], ours["effect_r"], mask, tracks))
    return f"| {task} | {seed} | {figures} | {'yes' if met else 'no'} |"


if __name__ == "__main__":
    main()
