"""How the benchmarks measure: variants in turn within one run, wall and processor time, medians, one row a result.

Other work on the machine moves wall times by far more than the differences of interest. So variants that are compared
run in turn (a, b, c, a, b, c, ...), ratios are of medians within one run, the processor time of the whole process is
kept beside the wall time, and the load is written down.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("kipoi-seq2exp", "torch", "numpy", "numba", "llvmlite", "transformers", "enformer-pytorch")


@dataclass(frozen=True)
class Timing:
    """Median seconds of one variant: by the clock, and of processor time over all threads."""

    wall_s: float
    cpu_s: float
    rounds: int


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    section, what : str
    length_bp : int or None
        Positions of the window.
    wall_s, cpu_s : float or None
        Median seconds.
    rounds : int
        Measurements behind the medians.
    against : str
        What `ratio` compares with.
    ratio, cpu_ratio : float or None
        Of wall and of processor time; the direction is told by `against`.
    peak_gb : float or None
        Largest resident memory of the process that did it alone, 1e9 bytes.
    target, note : str
    """

    section: str
    what: str
    length_bp: int | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    rounds: int = 1
    against: str = ""
    ratio: float | None = None
    cpu_ratio: float | None = None
    peak_gb: float | None = None
    target: str = ""
    note: str = ""


def in_turn(variants: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True) -> dict[str, Timing]:
    """Measure the variants one after the other, `rounds` times round."""
    if warm_up:
        for work in variants.values():
            work()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            samples[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Timing(statistics.median(w for w, _ in taken), statistics.median(c for _, c in taken), rounds)
        for name, taken in samples.items()
    }


def timed_row(section: str, what: str, length_bp: int, timing: Timing, **rest: Any) -> Row:
    """Return the row of one variant."""
    return Row(section, what, length_bp, timing.wall_s, timing.cpu_s, timing.rounds, **rest)


def times(slow: Timing, fast: Timing, factor: float = 1.0) -> dict[str, float]:
    """Return how many times longer `slow` takes, as the fields of a row; `factor` multiplies it (extrapolation)."""
    return {"ratio": factor * slow.wall_s / fast.wall_s, "cpu_ratio": factor * slow.cpu_s / max(fast.cpu_s, 1e-9)}


def peak_bytes() -> int:
    """Largest resident memory of this process so far (its parent's is not counted, as getrusage would)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no line VmHWM: peak memory is measured on Linux alone.")


def machine() -> dict[str, Any]:
    """Describe the machine, its load now and the versions of what runs."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "platform": platform.platform(),
        "versions": versions,
    }


def _processor() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def markdown(rows: list[Row], report: Mapping[str, Any]) -> str:
    """Write the report as a table for people."""
    before, after = report["before"], report["after"]
    lines = [
        "# Speed",
        "",
        f"Made by `{report['command']}` in {report['seconds']:.0f} s; seed {report['seed']}. {before['processor']}, "
        f"{before['cores']} cores, {report['threads']} threads; load average before and after "
        f"{before['load_average'][0]} and {after['load_average'][0]} (a quiet machine shows at most its cores: "
        "above, trust ratios alone).",
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in before["versions"].items()) + ".",
        "",
    ]
    for section in dict.fromkeys(row.section for row in rows):
        lines += [f"## {section}", "", *_table([row for row in rows if row.section == section]), ""]
    if report["skipped"]:
        lines += ["## Not run", "", *(f"- {what}" for what in report["skipped"]), ""]
    return "\n".join(lines)


_HEADINGS = {
    "what": "what",
    "length_bp": "L",
    "wall_s": "wall s",
    "cpu_s": "processor s",
    "rounds": "n",
    "against": "ratio of",
    "ratio": "wall",
    "cpu_ratio": "processor",
    "peak_gb": "peak GB",
    "target": "target",
    "note": "note",
}


def _table(rows: list[Row]) -> list[str]:
    """Write rows as markdown, without the columns that are empty."""
    used = [name for name in _HEADINGS if any(getattr(row, name) not in (None, "") for row in rows)]
    head = ["| " + " | ".join(_HEADINGS[name] for name in used) + " |", "|" + "---|" * len(used)]
    return head + ["| " + " | ".join(_cell(getattr(row, name)) for name in used) + " |" for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def as_mappings(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain mappings, for JSON."""
    return [dataclasses.asdict(row) for row in rows]


def note(text: str) -> None:
    """Say on the terminal what is going on."""
    print(text, file=sys.stderr, flush=True)
