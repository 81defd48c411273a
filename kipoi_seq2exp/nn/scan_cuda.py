"""The scan on CUDA: mamba_ssm's kernels where that package is installed, else our Triton kernels.

mamba_ssm needs a CUDA compiler to be built, so it is never required; triton comes with the CUDA builds of torch for
Linux. Without either, `scan` uses chunked torch on the GPU. Not run on a GPU yet: see benchmarks/gpu.md.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def is_available(u: Tensor) -> bool:
    """Whether `scan` can run on this tensor."""
    installed = _is_installed("mamba_ssm") or _is_installed("triton")
    return u.device.type == "cuda" and u.dtype != torch.float64 and installed


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool) -> Tensor:
    """Run the selective scan on channel-last arrays (shapes as in `scan.selective_scan`)."""
    if _is_installed("mamba_ssm"):
        return _mamba_ssm_scan(u, delta, A, B, C, D, reverse)
    from kipoi_seq2exp.nn import scan_triton

    with torch.cuda.device(u.device):  # Triton starts its kernels on the current device
        return scan_triton.scan(u, delta, A, B, C, D, reverse)


def _mamba_ssm_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool) -> Tensor:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if reverse:
        u, delta, B, C = (tensor.flip(1) for tensor in (u, delta, B, C))
    channel_first = [tensor.transpose(1, 2).contiguous() for tensor in (u, delta, B, C)]
    y: Tensor = selective_scan_fn(channel_first[0], channel_first[1], A, channel_first[2], channel_first[3], D)
    y = y.transpose(1, 2)
    return y.flip(1) if reverse else y
