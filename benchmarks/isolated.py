"""One measurement in a process of its own, for peak memory, imports and first calls: prints one JSON object.

python benchmarks/isolated.py TASK '{"length_bp": 200000}'      (called by speed.py; TASK is a name in TASKS)
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from measure import peak_bytes

Settings = dict[str, Any]


def measured(work: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Run `work`; return median seconds and the memory before and at the peak."""
    before = peak_bytes()
    samples = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        samples.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*samples, strict=True)
    return {
        "wall_s": statistics.median(walls),
        "cpu_s": statistics.median(cpus),
        "rounds": rounds,
        "before_bytes": before,
        "peak_bytes": peak_bytes(),
    }


def random_windows(config: Any, length: int, seed: int) -> tuple[Any, ...]:
    """Draw one window of `length` bases: one-hot DNA, tracks, features."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    bases = torch.randint(4, (1, length), generator=generator)
    onehot = torch.nn.functional.one_hot(bases, 4).to(torch.uint8)
    signals = torch.rand(1, length, config.n_tracks, generator=generator)
    return onehot, signals, torch.randn(1, config.n_features, generator=generator)


def network(settings: Settings) -> Any:
    """Build the published network (or a smaller one) with random weights."""
    import torch

    from kipoi_seq2exp import NetworkConfig, Seq2Exp

    torch.manual_seed(settings["seed"])
    return Seq2Exp(NetworkConfig(**settings["network"]))


def predict(settings: Settings) -> dict[str, Any]:
    """Predict one window, kernels compiled before."""
    import torch

    model = network(settings).eval()
    with torch.inference_mode():
        model(*random_windows(model.config, settings["network"]["promoter_bp"], 0))
        inputs = random_windows(model.config, settings["length_bp"], settings["seed"])
        return measured(lambda: model(*inputs), settings["rounds"])


def half_projections(settings: Settings) -> dict[str, Any]:
    """Predict one window with products in bfloat16; tell the largest change of the mask as well."""
    import torch

    from kipoi_seq2exp.config import Products

    model = network(settings).eval()
    inputs = random_windows(model.config, settings["length_bp"], settings["seed"])
    with torch.inference_mode():
        exact = model(*inputs).mask
        model.products = Products.BFLOAT16
        change = float((model(*inputs).mask - exact).abs().max())
        return {**measured(lambda: model(*inputs), settings["rounds"]), "change": change}


def train(settings: Settings) -> dict[str, Any]:
    """Take one training step on one window: forward, loss, backward, optimiser."""
    import torch

    from kipoi_seq2exp import seq2exp_loss

    model = network(settings).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(inputs: tuple[Any, ...]) -> None:
        optimiser.zero_grad()
        seq2exp_loss(model(*inputs), torch.ones(1)).total.backward()
        optimiser.step()

    step(random_windows(model.config, settings["network"]["promoter_bp"], 0))
    inputs = random_windows(model.config, settings["length_bp"], settings["seed"])
    return measured(lambda: step(inputs), settings["rounds"])


def train_tokens(settings: Settings) -> dict[str, Any]:
    """Forward and backward of 16 windows that lie in memory as tokens, as training has them."""
    import torch

    from kipoi_seq2exp import seq2exp_loss
    from kipoi_seq2exp.nn.tokens import Tokens

    model = network(settings).train()
    config, windows = model.config, 16
    positions = model.grid(config.window_bp).length
    numbers = torch.rand(windows, positions, config.n_tracks), torch.randn(windows, config.n_features)
    tokens = Tokens(torch.zeros(0, config.window_bp, 4), True, torch.zeros(windows, dtype=torch.long), *numbers)

    def step() -> None:
        model.zero_grad()
        seq2exp_loss(model.forward_tokens(tokens, config.window_bp), torch.ones(windows)).total.backward()

    step()
    return measured(step, settings["rounds"])


def enformer_forward(settings: Settings) -> dict[str, Any]:
    """Run Enformer (random weights) on one window, in float32 or under bfloat16 autocast."""
    import torch
    from comparators import enformer

    torch.manual_seed(settings["seed"])
    model = enformer()
    onehot = random_windows(network(settings).config, settings["length_bp"], settings["seed"])[0].float()
    half = settings["precision"] == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return measured(lambda: model(onehot), settings["rounds"])


def imports(settings: Settings) -> dict[str, Any]:
    """Time the import of torch, then that of the package beyond it, with the class of the network."""
    start = time.perf_counter()
    import torch  # noqa: F401

    middle = time.perf_counter()
    import kipoi_seq2exp

    package = time.perf_counter()
    _ = kipoi_seq2exp.Seq2Exp
    return {
        "torch_s": middle - start,
        "package_s": package - middle,
        "network_s": time.perf_counter() - package,
    }


def first(settings: Settings) -> dict[str, Any]:
    """Predict a short window in a process that has run nothing before; imports are not counted."""
    import torch

    model = network(settings).eval()
    inputs = random_windows(model.config, settings["length_bp"], settings["seed"])
    with torch.inference_mode():
        return {"first": measured(lambda: model(*inputs), 1), "second": measured(lambda: model(*inputs), 1)}


TASKS = {
    "predict": predict,
    "half": half_projections,
    "train": train,
    "train_tokens": train_tokens,
    "enformer": enformer_forward,
    "imports": imports,
    "first": first,
}

if __name__ == "__main__":
    if "SEQ2EXP_BENCH_THREADS" in os.environ and sys.argv[1] != "imports":
        import torch

        torch.set_num_threads(int(os.environ["SEQ2EXP_BENCH_THREADS"]))
    print(json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))))
