"""The scan on CUDA: mamba_ssm's kernel where that package is installed.

mamba_ssm needs a CUDA compiler to be built, so it is never required; without it `scan` uses chunked torch on the GPU.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor


@functools.cache
def _has_mamba_ssm() -> bool:
    return importlib.util.find_spec("mamba_ssm") is not None


def is_available(u: Tensor) -> bool:
    """Whether `scan` can run on this tensor."""
    return u.device.type == "cuda" and u.dtype != torch.float64 and _has_mamba_ssm()


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool) -> Tensor:
    """Run mamba_ssm's selective scan on channel-last arrays (shapes as in `scan.selective_scan`)."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if reverse:
        u, delta, B, C = (tensor.flip(1) for tensor in (u, delta, B, C))
    channel_first = [tensor.transpose(1, 2).contiguous() for tensor in (u, delta, B, C)]
    y: Tensor = selective_scan_fn(channel_first[0], channel_first[1], A, channel_first[2], channel_first[3], D)
    y = y.transpose(1, 2)
    return y.flip(1) if reverse else y
