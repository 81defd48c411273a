"""Check and measure the CUDA paths on a GPU; writes gpu.md beside this file: `python benchmarks/gpu.py`.

Parity: the scan and its gradients against the plain loop in float64. Speed: the scan, alone and with its gradient, and
a whole prediction and training step, by each backend that the machine has, against chunked torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from comparators import installed, scan_inputs
from isolated import random_windows

from kipoi_seq2exp import NetworkConfig, Seq2Exp, seq2exp_loss
from kipoi_seq2exp.nn import scan_cuda
from kipoi_seq2exp.nn.scan import scan_chunked, scan_reference

HERE = Path(__file__).resolve().parent
Scan = Callable[..., torch.Tensor]


def backends() -> dict[str, Scan]:
    """Return the scans of this machine by name, chunked torch first."""
    found: dict[str, Scan] = {"chunked torch": lambda *inputs: scan_chunked(*inputs)}
    if installed("triton"):
        from kipoi_seq2exp.nn import scan_triton

        found["triton"] = lambda *inputs: scan_triton.scan(*inputs, False)
    if installed("mamba_ssm"):
        found["mamba_ssm"] = lambda *inputs: scan_cuda.scan(*inputs, False)
    return found


def largest_error(scan: Scan, length: int) -> float:
    """Return the largest error of values and gradients, relative to the largest number of each."""
    inputs = scan_inputs(length, 64, 16, 0)
    exact = [tensor.double().cuda().requires_grad_() for tensor in inputs]
    given = [tensor.cuda().requires_grad_() for tensor in inputs]
    slow, fast = scan_reference(*exact), scan(*given)
    wanted = [slow, *torch.autograd.grad(slow.square().sum(), exact)]
    found = [fast, *torch.autograd.grad(fast.square().sum(), given)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


def timed(work: Callable[[], object], rounds: int = 10) -> tuple[float, float]:
    """Return the median seconds of `work` and its peak memory in GB."""
    work()
    torch.cuda.reset_peak_memory_stats()
    samples = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples), torch.cuda.max_memory_allocated() / 1e9


def of_the_scan(scan: Scan, length: int) -> dict[str, tuple[float, float]]:
    """Measure the scan alone, forward and with its gradient."""
    inputs = [tensor.cuda().requires_grad_() for tensor in scan_inputs(length, 256, 16, 0)]

    def forward() -> object:
        with torch.no_grad():
            return scan(*inputs)

    def both() -> object:
        y = scan(*inputs)
        return torch.autograd.grad(y, inputs, torch.ones_like(y))

    return {"scan": timed(forward), "scan and gradient": timed(both)}


def of_the_network(length: int) -> dict[str, tuple[float, float]]:
    """Measure the published network with the backend that it chooses by itself, and what torch.compile adds."""
    torch.manual_seed(0)
    model = Seq2Exp(NetworkConfig()).cuda()
    compiled = torch.compile(model)
    inputs = [tensor.cuda() for tensor in random_windows(model.config, length, 0)]

    def predict(network: Callable[..., object] = model) -> object:
        model.eval()
        with torch.inference_mode():
            return network(*inputs)

    def step() -> None:
        assert model.generator is not None
        model.train()
        model.generator.checkpoint_layers = model.encoder.checkpoint_layers = True
        model.zero_grad()
        seq2exp_loss(model(*inputs), torch.ones(1, device="cuda")).total.backward()

    return {
        "prediction": timed(predict, 3),
        "prediction, torch.compile": timed(lambda: predict(compiled), 3),
        "training step": timed(step, 3),
    }


def main() -> None:
    """Measure and write gpu.md."""
    parser = argparse.ArgumentParser(description="Check and measure the CUDA paths.")
    parser.add_argument("--length", type=int, default=200_000, help="bases of the window")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py: torch sees no CUDA device; gpu.md stays as it is.")
    scans, info = backends(), measure.machine()
    lines = [
        "# Speed on a GPU",
        "",
        f"Made by `python benchmarks/gpu.py` on {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; "
        + ", ".join(f"{name} {number}" for name, number in info["versions"].items())
        + ". Largest relative error of values and gradients against the plain loop in float64, 1,003 positions.",
        "",
        f"| backend | what | L = {options.length:,}: s | peak GB | times faster than chunked torch | error |",
        "|---|---|---|---|---|---|",
    ]
    slow: dict[str, tuple[float, float]] = {}
    for name, scan in scans.items():
        error, results = largest_error(scan, 1_003), of_the_scan(scan, options.length)
        slow = slow or results
        for what, (seconds, peak) in results.items():
            ratio = slow[what][0] / seconds
            lines.append(f"| {name} | {what} | {seconds:.4f} | {peak:.2f} | {ratio:.1f} | {error:.1e} |")
    for what, (seconds, peak) in of_the_network(options.length).items():
        lines.append(f"| chosen by itself | {what} | {seconds:.3f} | {peak:.2f} | | |")
    table = "\n".join(lines) + "\n"
    (HERE / "gpu.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
