"""Show where the time of a prediction and of a training step goes, and how their memory grows.

    python benchmarks/profiles.py                one window of 200,000 bases, the published network, random weights
    python benchmarks/profiles.py --length 20000

It writes profiles.md beside this file (--out names another folder). The steps are timed from outside, by processor time
of the thread that takes them; `the rest` is everything between them (Python, copies, memory that is touched first).
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
import torch
from isolated import network, random_windows

from kipoi_seq2exp import seq2exp_loss
from kipoi_seq2exp.nn.cpu import backward_kernels, layer_kernels, narrow_backward_kernels, narrow_kernels, scan_kernels

HERE = Path(__file__).resolve().parent
STEPS = {
    layer_kernels: ("convolve_silu", "step_sizes", "gate", "rms_normalise"),
    scan_kernels: ("scan_forward", "scan_backward"),
    backward_kernels: (
        *("step_sizes_backward", "convolve_silu_backward", "ungate", "gate_backward", "rms_normalise_backward"),
    ),
    narrow_kernels: ("walk_forward",),  # a narrow network's steps, all in one
    narrow_backward_kernels: ("walk_back",),
}
PRODUCTS = ((torch, "mm"), (torch.Tensor, "addmm_"))
INTERVAL_S = 0.05


@contextmanager
def timed_steps() -> Iterator[collections.Counter[str]]:
    """Collect processor seconds by step while the block runs."""
    seconds: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def timed(work: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(work)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                taken = time.thread_time() - start
                with lock:
                    seconds[name] += taken

        return wrapper

    places = [(module, name, name) for module, names in STEPS.items() for name in names]
    places += [(owner, name, "products of matrices") for owner, name in PRODUCTS]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    try:
        for owner, name, label in places:
            setattr(owner, name, timed(getattr(owner, name), label))
        yield seconds
    finally:
        for owner, name, work in before:
            setattr(owner, name, work)


@contextmanager
def memory_trace() -> Iterator[list[tuple[float, float]]]:
    """Sample (seconds, resident GB) while the block runs."""
    samples: list[tuple[float, float]] = []
    stop, start = threading.Event(), time.perf_counter()

    def watch() -> None:
        while not stop.wait(INTERVAL_S):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            samples.append((time.perf_counter() - start, pages * os.sysconf("SC_PAGE_SIZE") / 1e9))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def profile(what: str, work: Callable[[], object]) -> list[str]:
    """Run `work` once for its memory and once for its time; return a section of the report."""
    with memory_trace() as samples:
        work()
    with timed_steps() as seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seconds["the rest"] = cpu - sum(seconds.values())
    lines = [f"## {what}", "", f"{wall:.2f} s, {cpu:.2f} s of processor time.", ""]
    lines += ["| step | processor s | share |", "|---|---|---|"]
    lines += [f"| {name} | {value:.3f} | {100 * value / cpu:.1f} % |" for name, value in seconds.most_common()]
    lines += ["", "| at s | resident GB |", "|---|---|"]
    chosen = samples[:: max(1, len(samples) // 20)]
    peak = max(samples, key=lambda sample: sample[1], default=(0.0, 0.0))
    lines += [f"| {at:.2f} | {size:.2f} |" for at, size in chosen]
    return [*lines, "", f"Peak {peak[1]:.2f} GB at {peak[0]:.2f} s.", ""]


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, profile, write the report."""
    parser = argparse.ArgumentParser(description="Show where time and memory go.")
    parser.add_argument("--length", type=int, default=200_000, help="bases of the window")
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for profiles.md")
    options = parser.parse_args(arguments)
    sizes = {"d_model": options.d_model, "promoter_bp": min(2_000, options.length // 4)}
    model = network({"network": sizes, "seed": 0})
    inputs = random_windows(model.config, options.length, 0)
    short = random_windows(model.config, 2 * sizes["promoter_bp"], 0)

    def predict(window: tuple[Any, ...]) -> None:
        with torch.inference_mode():
            model.eval()(*window)

    def step(window: tuple[Any, ...]) -> None:
        model.train().zero_grad()
        seq2exp_loss(model(*window), torch.ones(1)).total.backward()

    machine = measure.machine()
    lines = [
        "# Where time and memory go",
        "",
        f"One window of {options.length:,} bases, d_model {options.d_model}, 4 + 4 layers, random weights, seed 0, "
        f"float32; {machine['processor']}, {torch.get_num_threads()} threads, load average "
        f"{machine['load_average'][0]}. `python benchmarks/profiles.py --length {options.length}`",
        "",
    ]
    for what, work in (("Prediction", predict), ("Training step (forward, loss, backward)", step)):
        work(short)  # compiles
        lines += profile(what, functools.partial(work, inputs))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "profiles.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
