"""Compare small networks of this working tree with those of an earlier revision: processor time, in turn, in one run.

    python benchmarks/before_after.py REVISION                      # both widths, one thread and two
    python benchmarks/before_after.py predict=REVISION train_tokens=REVISION --threads 1 --rounds 5 --out DIR

A prediction is of 100,000 bases, a token a base; a training step is forward and backward of 16 windows of 2,000 tokens
of 100 bases, of which the encoder reads 400 (the shape of configs/human.yaml). Each measurement is a process of its
own, which takes the median of a few; revisions take turns, and the smallest of the rounds counts: other work on the
machine only ever adds. OpenMP's threads wait without spinning: on a busy machine two that spin for each other take ten
times the processor time of the work. The earlier revision is checked out for the time of the run. Writes
before_after.md into --out, or prints it alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import measure

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WIDTHS = (16, 32)
TASKS = {"predict": "prediction", "train_tokens": "training step"}
ENCODER = {"window_bp": 200_000, "promoter_bp": 2_000}
TOKENS = {
    **ENCODER,
    **{"generator_layers": 1, "encoder_layers": 2, "token_bp": 100, "memory_bp": 40_000, "encoder_bp": 40_000},
    **{"reads_dna": False, "contact_pool": 4, "contact_track": 2},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both revisions in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "revision",
        nargs="+",
        type=of_task,
        metavar="[TASK=]REVISION",
        help=f"what git calls the earlier one, of all tasks or of one ({', '.join(TASKS)})",
    )
    parser.add_argument("--threads", type=int, action="append", help="repeatable (default: 1 and 2)")
    parser.add_argument("--task", action="append", choices=list(TASKS), help="only this one (repeatable)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=100_000, help="bases of a prediction")
    parser.add_argument("--out", type=Path, help="folder of the report")
    args = parser.parse_args(argv)
    revisions = {task: revision for found in args.revision for task, revision in found.items()}
    tasks = args.task or list(revisions)
    if absent := [task for task in tasks if task not in revisions]:
        parser.error(f"no revision for {', '.join(absent)}")
    with contextlib.ExitStack() as stack:
        folders = {revision: stack.enter_context(checked_out(revision)) for revision in set(revisions.values())}
        rows = [
            compared(task, d_model, threads, args, folders[revisions[task]])
            for threads in args.threads or [1, 2]
            for task in tasks
            for d_model in WIDTHS
        ]
    text = markdown(rows, ", ".join(f"{TASKS[task]} of {revisions[task]}" for task in tasks))
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "before_after.md").write_text(text + "\n", encoding="utf-8")
    return 0


def of_task(text: str) -> dict[str, str]:
    """Read [TASK=]REVISION: the revision of each task that it is for."""
    task, equals, revision = text.partition("=")
    if not equals:
        return dict.fromkeys(TASKS, text)
    if task not in TASKS:
        raise argparse.ArgumentTypeError(f"unknown task '{task}': use {' or '.join(TASKS)}")
    return {task: revision}


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check a revision out for a while."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "earlier"
        subprocess.run([*git, "add", "--detach", str(folder), revision], check=True, capture_output=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def compared(task: str, d_model: int, threads: int, args: argparse.Namespace, earlier: Path) -> dict[str, Any]:
    """Measure one task of both revisions, in turn."""
    network = {**(ENCODER if task == "predict" else TOKENS), "d_model": d_model}
    settings = json.dumps({"seed": 0, "network": network, "rounds": args.rounds, "length_bp": args.length})
    taken: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(args.rounds):
        for name, folder in (("before", earlier), ("after", ROOT)):
            own = {"PYTHONPATH": str(folder), "SEQ2EXP_BENCH_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
            environment = {**os.environ, **own}
            command = [sys.executable, str(HERE / "isolated.py"), task, settings]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise RuntimeError(f"{task} of {folder} failed:\n{done.stderr}")
            taken[name].append(json.loads(done.stdout.splitlines()[-1])["cpu_s"])
    row = {"what": TASKS[task], "d_model": d_model, "threads": threads}
    row |= {name: min(values) for name, values in taken.items()}
    measure.note(json.dumps(row))
    return row


def markdown(rows: list[dict[str, Any]], revision: str) -> str:
    """Write the table."""
    lines = [
        f"Processor seconds, smallest of the rounds; before: {revision}. Load average {os.getloadavg()[0]:.1f}.",
        "",
        "| what | d_model | threads | before | after | before / after |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after = row["before"], row["after"]
        ratio = before / max(after, 1e-9)
        lines.append(
            f"| {row['what']} | {row['d_model']} | {row['threads']} | {before:.3g} | {after:.3g} | {ratio:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
