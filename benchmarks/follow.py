"""Run a command and follow it: wall and processor time, and the memory of all of its processes over time."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLES = 12  # of the memory, kept for the report


@dataclass(frozen=True)
class Followed:
    """What a command took.

    Attributes
    ----------
    wall_s, processor_s : float
        The latter with that of the processes it started.
    memory_mb : list of int
        Memory of all its processes together without what they share (proportional set size), at equal times from
        start to end, 1e6 bytes.
    peak_mb : int
        The largest of all samples.
    """

    wall_s: float
    processor_s: float
    memory_mb: list[int]
    peak_mb: int


def follow_command(command: Sequence[str], every_s: float = 1.0, errors: Path | None = None) -> Followed:
    """Run a command to its end; its errors go to a file, or are shown.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    samples = []
    with (errors or Path("/dev/stderr")).open("w") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            samples.append(_memory(process.pid))
            time.sleep(every_s)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    samples = samples[:-1] or samples  # the last one may be of a process that has let go of its memory
    shown = [samples[place * (len(samples) - 1) // (SAMPLES - 1)] for place in range(SAMPLES)]
    return Followed(wall, processor, [round(size / 1e6) for size in shown], round(max(samples) / 1e6))


def _memory(pid: int) -> int:
    """Return the bytes of a process and of those that it started."""
    total = 0
    try:
        every = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in every:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
