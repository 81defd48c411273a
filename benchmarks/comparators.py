"""What the benchmarks compare with: a floor that no scan can go below, other people's layers, the per-base loader."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kipoi_seq2exp.nn.cpu.scan import LOG2_E, channel_ranges, run_parallel
from kipoi_seq2exp.nn.cpu.scan_kernels import compiled
from kipoi_seq2exp.nn.cpu.simd import WIDTH, exp2, fill, load, muladd, store

ONE_HOT = {"A": [1, 0, 0, 0], "C": [0, 1, 0, 0], "G": [0, 0, 1, 0], "T": [0, 0, 0, 1]}
UNKNOWN = [0, 0, 0, 0]


def scan_inputs(length: int, channels: int, states: int, seed: int) -> tuple[Tensor, ...]:
    """Draw u, delta, A, B, C, D of a scan, with Mamba's initial decay rates and step sizes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    delta = torch.nn.functional.softplus(draw(1, length, channels) - 4)
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    B, C = draw(1, length, states), draw(1, length, states)
    return draw(1, length, channels), delta, A, B, C, draw(channels)


@compiled
def floor_kernel(u, delta, A2, out, channels):
    """Do the scan's exponentials and multiply-adds on its own data, with no state, B, C or output to wait for.

    Four sums run side by side, so that the walk waits for the arithmetic units and not for one sum.
    """
    L, N = u.shape[0], A2.shape[0]
    for c in range(channels[0], channels[1], WIDTH):
        a, b, d, e = fill(np.float32(0)), fill(np.float32(0)), fill(np.float32(0)), fill(np.float32(0))
        for t in range(L):
            step, x = load(delta, t, c), load(u, t, c)
            for n in range(0, N, 4):
                a = muladd(exp2(step * load(A2, n, c)), a, x)
                b = muladd(exp2(step * load(A2, n + 1, c)), b, x)
                d = muladd(exp2(step * load(A2, n + 2, c)), d, x)
                e = muladd(exp2(step * load(A2, n + 3, c)), e, x)
        store(out, 0, c, (a + b) + (d + e))


def fused_floor(u: Tensor, delta: Tensor, A: Tensor) -> NDArray[np.float32]:
    """Run `floor_kernel` on one window with as many threads as the scan; N must be a multiple of 4."""
    A2 = (A.t() * LOG2_E).contiguous().numpy()
    out = np.zeros((1, u.shape[2]), np.float32)
    arrays = (u[0].numpy(), delta[0].numpy(), A2, out)
    run_parallel([lambda span=span: floor_kernel(*arrays, span) for span in channel_ranges(u.shape[2])])
    return out


@compiled
def plain_kernel(u, delta, A, B, C, D, y, state, channels):
    """Scan as one writes it for numba without vectors of one's own: three loops and exp; LLVM may do what it can."""
    for t in range(B.shape[0]):
        for c in range(channels[0], channels[1]):
            step, drive, total = delta[t, c], delta[t, c] * u[t, c], D[0, c] * u[t, c]
            for n in range(B.shape[1]):
                state[n, c] = math.exp(step * A[n, c]) * state[n, c] + drive * B[t, n]
                total += state[n, c] * C[t, n]
            y[t, c] = total


def plain_numba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run `plain_kernel` on one window with as many threads as the scan."""
    y = torch.empty_like(u[0])
    tensors = (u[0], delta[0], A.t().contiguous(), B[0], C[0], D[None].contiguous(), y, torch.zeros(A.t().shape))
    arrays = [tensor.numpy() for tensor in tensors]
    run_parallel([lambda span=span: plain_kernel(*arrays, span) for span in channel_ranges(u.shape[2])])
    return y


def plain_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan as reference implementations do it: all decays and inputs first, (B, d_inner, L, N), then a loop over L."""
    x, step = (tensor.transpose(1, 2).contiguous() for tensor in (u, delta))
    decays = torch.exp(step[..., None] * A[:, None])
    terms = (step * x)[..., None] * B[:, None]
    state, outputs = torch.zeros_like(decays[:, :, 0]), []
    for t in range(u.shape[1]):
        state = decays[:, :, t] * state + terms[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, t]))
    return torch.stack(outputs, dim=1) + D * u


def installed(package: str) -> bool:
    """Whether a comparator can be imported."""
    return importlib.util.find_spec(package) is not None


def huggingface_layer(d_model: int, d_state: int) -> Callable[[Tensor], Tensor]:
    """Return one bidirectional layer of HuggingFace's mixers (random weights, the path without CUDA kernels)."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=d_model, state_size=d_state, num_hidden_layers=1, expand=2, conv_kernel=4)
    forward, backward = MambaMixer(config, 0).eval(), MambaMixer(config, 0).eval()
    return lambda hidden: forward(hidden) + backward(hidden.flip(1)).flip(1)


def enformer() -> Callable[[Tensor], Any]:
    """Return enformer-pytorch's network (random weights), any length that is a multiple of 128."""
    from enformer_pytorch import Enformer

    return Enformer.from_hparams(dim=1536, depth=11, heads=8, output_heads={"human": 5313}, target_length=-1).eval()


class PerBaseLoader:
    """The window loader as it is often written: a dict entry a base, bigWig values as lists, the mask base by base."""

    def __init__(self, fasta: Path, bigwigs: list[Path], blacklist: Path) -> None:
        import pyBigWig
        from pyfaidx import Fasta

        self.fasta = Fasta(str(fasta))
        self.bigwigs = [pyBigWig.open(str(path)) for path in bigwigs]
        rows = [line.split("\t") for line in blacklist.read_text().splitlines()]
        self.blacklist = [(row[0], int(row[1]), int(row[2])) for row in rows]

    def load(self, chrom: str, start: int, end: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return one-hot DNA, signals and blacklist of a window that lies in its chromosome."""
        onehot = np.array([ONE_HOT.get(base, UNKNOWN) for base in str(self.fasta[chrom][start:end]).upper()])
        tracks = [[0.0 if value != value else value for value in b.values(chrom, start, end)] for b in self.bigwigs]
        regions = [(first, last) for name, first, last in self.blacklist if name == chrom]
        mask = [any(first <= base < last for first, last in regions) for base in range(start, end)]
        return onehot, np.array(tracks, dtype=np.float32).T, np.array(mask)

    def close(self) -> None:
        """Close the files."""
        self.fasta.close()
        for bigwig in self.bigwigs:
            bigwig.close()
