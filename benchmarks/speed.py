"""Measure the speed of everything that has a target.

    make bench                                  the same as the next line
    python benchmarks/speed.py                  ten minutes; what is slow is extrapolated and says so
    python benchmarks/speed.py --full           nothing is extrapolated; half an hour, 16 GB
    python benchmarks/speed.py --only scan      one section (--only may be repeated)

It writes speed.json and speed.md beside this file (--out names another folder). How it measures: see measure.py. The
comparators transformers and enformer-pytorch (requirements-bench.txt) are measured where they are installed, with
random weights; with --comparators, as `make bench` has it, it is an error if they are not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from comparators import PerBaseLoader, fused_floor, huggingface_layer, installed, plain_loop, plain_numba, scan_inputs
from measure import Row, Timing, in_turn, note, timed_row, times

from kipoi_seq2exp import InputSpec, NetworkConfig, WindowDataset
from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.nn.mamba import MambaStack
from kipoi_seq2exp.nn.scan import selective_scan

HERE = Path(__file__).resolve().parent
SEED = 0


@dataclass(frozen=True)
class Sizes:
    """How large a run is; lengths in bases."""

    scan: tuple[int, ...] = (2_000, 10_000, 50_000, 200_000)
    reference_up_to: int = 50_000
    chunked_up_to: int = 50_000
    backward: tuple[int, ...] = (20_000, 200_000)
    layer: tuple[int, ...] = (20_000, 200_000)
    huggingface_up_to: int = 20_000
    predict: int = 200_000
    enformer: int = 196_608
    train: tuple[int, ...] = (20_000, 200_000)
    growth: tuple[int, ...] = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
    loader: int = 200_000
    tokens: tuple[tuple[int, int], ...] = ((16, 32), (32, 32), (64, 32), (16, 128), (32, 128), (64, 128))
    rounds: int = 3
    network: dict[str, Any] = field(default_factory=lambda: {"d_model": 128, "promoter_bp": 2_000})


FULL = Sizes(
    reference_up_to=200_000,
    chunked_up_to=200_000,
    huggingface_up_to=200_000,
    rounds=5,
)
TINY = Sizes(
    scan=(300,),
    backward=(300,),
    layer=(300,),
    huggingface_up_to=300,
    predict=400,
    enformer=256,
    train=(400,),
    growth=(400, 800),
    loader=20_000,
    tokens=((10, 16),),
    rounds=1,
    network={"d_model": 16, "promoter_bp": 100, "generator_layers": 1, "encoder_layers": 1},
)


def isolated(task: str, settings: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Run one task of isolated.py in a fresh process."""
    threads = {"SEQ2EXP_BENCH_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(HERE / "isolated.py"), task, json.dumps({"seed": SEED, **settings})]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **threads, **environment}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def scan(sizes: Sizes) -> Iterator[Row]:
    """Kernels, fused floor, plain numba, chunked torch and the plain loop; same numbers, d_inner 256, 16 states."""
    slowest: Timing | None = None
    for length in sizes.scan:
        inputs = scan_inputs(length, 256, 16, SEED)
        variants: dict[str, Callable[[], object]] = {
            "cpu": lambda inputs=inputs: selective_scan(*inputs, backend="cpu"),
            "floor": lambda inputs=inputs: fused_floor(*inputs[:3]),
        }
        if length <= sizes.chunked_up_to:
            variants["numba"] = lambda inputs=inputs: plain_numba(*inputs)
            variants["chunked"] = lambda inputs=inputs: selective_scan(*inputs, backend="chunked")
        loop = {"reference": lambda inputs=inputs: plain_loop(*inputs)}
        with torch.inference_mode():
            taken = in_turn(variants, sizes.rounds)
            if length <= sizes.reference_up_to:  # slow, and the same each time: once is enough
                taken |= in_turn(loop, 1, warm_up=False)
        kernels = taken["cpu"]
        against = {"against": "kernels / floor", "target": "<= 1.5"}
        yield timed_row("Scan", "kernels", length, kernels, **against, **times(kernels, taken["floor"]))
        yield timed_row("Scan", "fused floor (exponentials and multiply-adds alone)", length, taken["floor"])
        for name, what in {"numba": "numba without explicit vectors", "chunked": "chunked torch"}.items():
            if name in taken:
                ratio = times(taken[name], kernels)
                yield timed_row("Scan", what, length, taken[name], against="this / kernels", **ratio)
        if "reference" in taken:
            slowest, per_base = taken["reference"], length
            against = {"against": "this / kernels", "target": ">= 100" if length <= 50_000 else ">= 250"}
            yield timed_row("Scan", "plain loop", length, slowest, **against, **times(slowest, kernels))
        elif slowest is not None:
            factor = length / per_base
            row = Row("Scan", "plain loop", length, against="this / kernels", **times(slowest, kernels, factor))
            yield dataclasses.replace(
                row, target=">= 100" if length <= 50_000 else ">= 250", note=f"extrapolated from {per_base:,} by length"
            )


def backward(sizes: Sizes) -> Iterator[Row]:
    """Forward and backward of the scan against its forward."""
    for length in sizes.backward:
        inputs = [tensor.requires_grad_() for tensor in scan_inputs(length, 256, 16, SEED)]

        def forward(inputs: list[torch.Tensor] = inputs) -> torch.Tensor:
            with torch.no_grad():
                return selective_scan(*inputs, backend="cpu")

        dy = torch.ones_like(inputs[0])

        def both(inputs: list[torch.Tensor] = inputs, dy: torch.Tensor = dy) -> object:
            return torch.autograd.grad(selective_scan(*inputs, backend="cpu"), inputs, dy)

        taken = in_turn({"forward": forward, "both": both}, sizes.rounds)
        yield timed_row("Scan, backward", "forward", length, taken["forward"])
        ratio = times(taken["both"], taken["forward"])
        against = {"against": "this / forward", "target": "<= 3.3"}
        yield timed_row("Scan, backward", "forward and backward", length, taken["both"], **against, **ratio)


def layer(sizes: Sizes) -> Iterator[Row]:
    """One bidirectional layer, streamed, against the plain torch modules and against HuggingFace's mixers."""
    d_model = sizes.network["d_model"]
    torch.manual_seed(SEED)
    stack = MambaStack(NetworkConfig(d_model=d_model), 1).eval()
    other = huggingface_layer(d_model, 16) if installed("transformers") else None
    slowest: Timing | None = None
    for length in sizes.layer:
        hidden = torch.randn(1, length, d_model)
        variants: dict[str, Callable[[], object]] = {"ours": lambda hidden=hidden: stack(hidden)}
        if other is not None and length <= max(sizes.huggingface_up_to, 0):
            variants["theirs"] = lambda hidden=hidden: other(hidden)
        with torch.inference_mode():
            taken = in_turn(variants, sizes.rounds if length <= 20_000 else 1)
            if other is not None and slowest is None and "theirs" not in taken:
                short = torch.randn(1, sizes.huggingface_up_to, d_model)
                slowest, base = in_turn({"theirs": lambda short=short: other(short)}, 1)["theirs"], short.shape[1]
        yield timed_row("Layer", f"our bidirectional layer, d_model {d_model}", length, taken["ours"])
        if "theirs" in taken:
            slowest, base = taken["theirs"], length
        if slowest is not None:
            row = Row(
                "Layer",
                "two MambaMixers of transformers, one a direction",
                length,
                against="this / ours",
                target=">= 35" if length < 100_000 else ">= 80",
                note="" if base == length else f"extrapolated from {base:,} by length",
                **times(slowest, taken["ours"], length / base),
            )
            measured = {"wall_s": slowest.wall_s, "cpu_s": slowest.cpu_s, "rounds": slowest.rounds}
            yield dataclasses.replace(row, **measured) if base == length else row


def predict(sizes: Sizes) -> Iterator[Row]:
    """Prediction of one window by the published network, alone in a process, and Enformer's."""
    common = {"network": sizes.network, "rounds": min(sizes.rounds, 3)}
    ours = isolated("predict", {**common, "length_bp": sizes.predict})
    yield _isolated_row("Prediction", "one window", sizes.predict, ours, target="<= 4.5 s, <= 2 GB")
    half = isolated("half", {**common, "length_bp": sizes.predict})
    moved = f"the mask moves by at most {half['change']:.1e} (target 2e-5)"
    row = _isolated_row("Prediction", "the same, products in bfloat16", sizes.predict, half)
    yield dataclasses.replace(row, against="this / float32", note=moved, **_ratio(half, ours))
    if not installed("enformer_pytorch"):
        return
    for what, task, precision, target in (
        ("one window", "predict", "fp32", ">= 7.5"),
        ("one window, products in bfloat16", "half", "bf16", ">= 4.5"),
    ):
        same = isolated(task, {**common, "length_bp": sizes.enformer})
        theirs = isolated("enformer", {**common, "length_bp": sizes.enformer, "precision": precision})
        yield _isolated_row("Prediction", what, sizes.enformer, same)
        row = _isolated_row("Prediction", f"enformer-pytorch, {precision}", sizes.enformer, theirs)
        yield dataclasses.replace(row, against="this / ours", target=target, **_ratio(theirs, same))


def _ratio(slow: dict[str, Any], fast: dict[str, Any]) -> dict[str, float]:
    return {"ratio": slow["wall_s"] / fast["wall_s"], "cpu_ratio": slow["cpu_s"] / fast["cpu_s"]}


def _isolated_row(section: str, what: str, length: int, result: dict[str, Any], **rest: Any) -> Row:
    timing = Timing(result["wall_s"], result["cpu_s"], result["rounds"])
    return timed_row(section, what, length, timing, peak_gb=result["peak_bytes"] / 1e9, **rest)


def train(sizes: Sizes) -> Iterator[Row]:
    """One training step on one window, alone in a process."""
    for length in sizes.train:
        result = isolated("train", {"network": sizes.network, "rounds": 1, "length_bp": length})
        target = "<= 25 s, <= 6 GB" if length > 100_000 else "<= 2.5 s"
        yield _isolated_row("Training step", "forward, backward, AdamW", length, result, target=target)


def tokens(sizes: Sizes) -> Iterator[Row]:
    """Prediction and training step of token networks, by bases a token and d_model, each alone in a process."""
    for token_bp, d_model in sizes.tokens:
        promoter_bp = -(-sizes.network["promoter_bp"] // (2 * token_bp)) * 2 * token_bp  # a whole number of tokens
        network = {**sizes.network, "token_bp": token_bp, "d_model": d_model, "promoter_bp": promoter_bp}
        settings = {"network": network, "rounds": sizes.rounds, "length_bp": sizes.predict}
        for task, what in (("predict", "prediction"), ("train", "training step")):
            result = isolated(task, settings)
            yield _isolated_row("Tokens", f"{what}, {token_bp} bases a token, d_model {d_model}", sizes.predict, result)


def growth(sizes: Sizes) -> Iterator[Row]:
    """Time and memory of a prediction by length; the exponents of both."""
    results = []
    for length in sizes.growth:
        rounds = sizes.rounds if length < 100_000 else 1
        result = isolated("predict", {"network": sizes.network, "rounds": rounds, "length_bp": length})
        results.append(result)
        yield _isolated_row("Growth", "one window", length, result)
    for what, values in (
        ("wall time", [result["wall_s"] for result in results]),
        ("processor time", [result["cpu_s"] for result in results]),
        ("memory beyond the start", [result["peak_bytes"] - result["before_bytes"] for result in results]),
    ):
        exponent = float(np.polyfit(np.log(sizes.growth), np.log(np.maximum(values, 1e-9)), 1)[0])
        span = f"fit over {sizes.growth[0]:,} to {sizes.growth[-1]:,}"
        yield Row("Growth", what, against="exponent of L", ratio=exponent, target="1.00 +- .03", note=span)


def loader(sizes: Sizes) -> Iterator[Row]:
    """Load the windows of the example that lie in their chromosome, three bigWigs and a blacklist each."""
    example = HERE.parent / "example"
    names = ("h3k27ac", "dnase", "again")
    paths = {"h3k27ac": example / "h3k27ac.bw", "dnase": example / "dnase.bw", "again": example / "dnase.bw"}
    inputs = InputSpec("benchmark", tuple(TrackSpec(name) for name in names), (), window_bp=sizes.loader)
    fasta, blacklist = example / "genome.fa", example / "blacklist.bed"
    slow = PerBaseLoader(fasta, list(paths.values()), blacklist)
    with WindowDataset(inputs, example / "genes.tsv", fasta, paths, blacklist) as dataset:
        windows = [Window.around(c, int(t), sizes.loader) for c, t in dataset.genes[["chrom", "tss"]].to_numpy()]
        inside = [(i, w) for i, w in enumerate(windows) if w.start >= 0 and w.end <= dataset.genome.lengths[w.chrom]]
        for index, window in inside:
            ours, theirs = dataset[index], slow.load(window.chrom, window.start, window.end)
            same = zip((ours.onehot, ours.signals, ours.blacklist), theirs, strict=True)
            assert all(np.array_equal(a, b) for a, b in same), "the two loaders disagree"
        taken = in_turn(
            {
                "ours": lambda: [dataset[i] for i, _ in inside],
                "theirs": lambda: [slow.load(w.chrom, w.start, w.end) for _, w in inside],
            },
            sizes.rounds,
        )
    slow.close()
    each = {name: Timing(t.wall_s / len(inside), t.cpu_s / len(inside), t.rounds) for name, t in taken.items()}
    what = "one window, 3 bigWigs, blacklist"
    yield timed_row("Loader", f"WindowDataset: {what}", sizes.loader, each["ours"])
    against = {"against": "this / ours", "target": ">= 25"}
    ratio = times(each["theirs"], each["ours"])
    yield timed_row("Loader", "a dict entry a base, lists", sizes.loader, each["theirs"], **against, **ratio)


def start(sizes: Sizes) -> Iterator[Row]:
    """Import, and the first prediction of a process with and without compiled kernels on disk."""
    taken = [isolated("imports", {}) for _ in range(max(sizes.rounds, 2))][1:]
    for what, key, target in (
        ("import torch", "torch_s", ""),
        ("import kipoi_seq2exp after torch", "package_s", "<= 0.3 s"),
        ("the class Seq2Exp after that", "network_s", "<= 0.3 s"),
    ):
        yield Row("Start", what, wall_s=float(np.median([t[key] for t in taken])), rounds=len(taken), target=target)
    with tempfile.TemporaryDirectory() as folder:
        for what in ("first prediction, kernels compiled", "first prediction, kernels from disk"):
            settings = {"network": sizes.network, "length_bp": 2 * sizes.network["promoter_bp"]}
            result = isolated("first", settings, NUMBA_CACHE_DIR=folder)
            later = f"second one in the same process: {result['second']['wall_s']:.2f} s"
            wall, cpu = result["first"]["wall_s"], result["first"]["cpu_s"]
            yield Row("Start", what, settings["length_bp"], wall, cpu, note=later)


SECTIONS = {
    "scan": scan,
    "backward": backward,
    "layer": layer,
    "predict": predict,
    "train": train,
    "tokens": tokens,
    "growth": growth,
    "loader": loader,
    "start": start,
}


def missing(sections: list[str]) -> list[str]:
    """Return the comparators of some sections that are not installed."""
    comparators = {"transformers": "layer", "enformer_pytorch": "predict"}
    return [name for name, section in comparators.items() if section in sections and not installed(name)]


def run(sections: list[str], sizes: Sizes) -> tuple[list[Row], dict[str, Any]]:
    """Measure; return the rows and what the report says of the run."""
    started, before = time.perf_counter(), measure.machine()
    rows: list[Row] = []
    for name in sections:
        since = time.perf_counter()
        rows += SECTIONS[name](sizes)
        note(f"{name}: {time.perf_counter() - since:.0f} s, load {os.getloadavg()[0]:.1f}")
    skipped = [f"{name}: not installed" for name in missing(sections)]
    skipped.append("GPU: see gpu.md")
    return rows, {
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "before": before,
        "after": measure.machine(),
        "seconds": time.perf_counter() - started,
        "skipped": skipped,
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, write both files."""
    parser = argparse.ArgumentParser(description="Measure the speed of Seq2Exp.")
    parser.add_argument("--full", action="store_true", help="full lengths, more rounds")
    parser.add_argument("--tiny", action="store_true", help="a few hundred bases: tests the benchmark, says nothing")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="measure this section (repeatable)")
    parser.add_argument("--threads", type=int, help="threads (default: torch's)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for speed.json and speed.md")
    parser.add_argument("--comparators", action="store_true", help="stop where a comparator is not installed")
    options = parser.parse_args(arguments)
    absent = missing(options.only or list(SECTIONS))
    if options.comparators and absent:
        parser.error(f"{', '.join(absent)}: not installed; `make bench` installs them in an environment of their own.")
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = FULL if options.full else TINY if options.tiny else Sizes()
    rows, report = run(options.only or list(SECTIONS), sizes)
    report["command"] = " ".join(["python benchmarks/speed.py", *(arguments or sys.argv[1:])])
    report["sizes"] = dataclasses.asdict(sizes)
    table = measure.markdown(rows, report)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.md").write_text(table, encoding="utf-8")
    body = {**report, "rows": measure.as_mappings(rows)}
    (options.out / "speed.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
