"""How many windows go through the network at once.

Contract: on the CPU the network computes the windows of a batch one after the other, with the same bits in any batch;
larger batches gain nothing there, so the choice is 1. On CUDA it is as many as fit: one window is predicted, its memory
is measured, and a batch may take most of what is free (`nn.halving` says what happens if it does not fit).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kipoi_seq2exp.errors import ConfigError, excerpt

if TYPE_CHECKING:
    import torch

    from kipoi_seq2exp.config import NetworkConfig

SHARE = 0.8  # of the free memory that a batch may take; the rest is for fragments and for others
LARGEST = 64  # windows; more gain nothing
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # control groups, and which are ours
logger = logging.getLogger(__name__)


def parse_bytes(text: str) -> int:
    """Read an amount of memory: 8GB, 500 MB, 1.5GiB, or plain bytes.

    Raises
    ------
    ConfigError
        If the text is not an amount of memory, or it is not above 0.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]I?)?B?\s*", text.upper())
    amount = 0 if found is None else int(float(found[1]) * _UNITS[found[2] or ""])
    if amount < 1:
        raise ConfigError(f"'{excerpt(text)}' is not an amount of memory: give one such as 8GB or 500MB.")
    return amount


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free for this process on a device, within the limits of its control groups."""
    import torch

    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *_cgroup_room(_CGROUPS, _MEMBERSHIP)])


def _cgroup_room(mounted: Path, membership: Path) -> list[int]:
    """Return what each control group above this process leaves it, in bytes; cached files count as free."""
    rooms = []
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        old = controllers == "memory"
        limit, used = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
        folder = (mounted / "memory" if old else mounted) / name.lstrip("/")
        for group in [folder, *folder.parents]:
            if (group / f"memory.{limit}").is_file() and (text := (group / f"memory.{limit}").read_text().strip()):
                statistics = dict(entry.split() for entry in (group / "memory.stat").read_text().splitlines())
                inactive = int(statistics.get("total_inactive_file" if old else "inactive_file", 0))
                taken = int((group / f"memory.{used}").read_text()) - inactive
                rooms += [] if text == "max" else [max(0, int(text) - taken)]
            if group == mounted:
                break
    return rooms


def cpu_bytes(config: NetworkConfig) -> int:
    """Return the memory that one window takes on the CPU, beyond the weights (`nn.cpu.forward` says what it keeps).

    The embeddings of the window and the result of a stack are (T, d_model) four times over, the residual once more,
    and each position of a layer keeps x and one scan, (T, 2 d_inner); all in float32. The convolution of a stem of
    tokens gives (L, d_model).
    """
    per_position = 5 * config.d_model + 2 * config.d_inner
    per_base = per_position / config.token_bp + 8 * (config.n_tracks + 3) + config.d_model * (config.token_bp > 1)
    return int(4 * config.window_bp * per_base)


def fitting_batch(config: NetworkConfig, device: torch.device, measure: Callable[[], int], most: int | None) -> int:
    """Choose how many windows go through the network at once.

    Parameters
    ----------
    config : NetworkConfig
    device : torch.device
        Where the network runs.
    measure : callable
        Predicts one window on a CUDA device and returns the bytes it took (`cuda_bytes`).
    most : int or None
        Bytes that a batch may take; by default most of what is free.

    Raises
    ------
    ConfigError
        If `most` is too little for a single window.
    """
    free = free_memory(device)
    cost = measure() if device.type == "cuda" else cpu_bytes(config)
    if most is not None and cost > most:
        raise ConfigError(
            f"one window of this network takes {cost / 1e9:.2g} GB, more than --memory allows: allow more."
        )
    if cost > free:
        logger.warning("one window takes about %.2g GB, and only %.2g GB are free", cost / 1e9, free / 1e9)
    if device.type != "cuda":
        return 1
    room = min(SHARE * free, free if most is None else most)
    return max(1, min(LARGEST, int(room / max(1, cost))))


def cuda_bytes(device: torch.device, predict: Callable[[], object]) -> int:
    """Return the memory that a prediction takes at its peak on a CUDA device, in bytes."""
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    predict()
    return int(torch.cuda.max_memory_allocated(device) - before)
