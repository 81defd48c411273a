from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEED = ROOT / "benchmarks" / "speed.py"


def run_tiny(out: Path, *sections: str) -> list[dict]:
    if not SPEED.exists():
        pytest.skip("not in this installation")
    only = [word for section in sections for word in ("--only", section)]
    command = [sys.executable, str(SPEED), "--tiny", "--out", str(out), *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "speed.md").read_text(encoding="utf-8") == done.stdout.removesuffix("\n")
    report = json.loads((out / "speed.json").read_text(encoding="utf-8"))
    assert report["seed"] == 0
    assert len(report["before"]["load_average"]) == len(report["after"]["load_average"]) == 3
    assert "torch" in report["before"]["versions"]
    return report["rows"]


def test_tables_of_the_scan_and_the_loader(tmp_path: Path) -> None:
    rows = run_tiny(tmp_path, "scan", "backward", "layer", "loader")
    assert {row["section"] for row in rows} == {"Scan", "Scan, backward", "Layer", "Loader"}
    for row in rows:
        assert row["wall_s"] > 0
        assert row["ratio"] is None or (math.isfinite(row["ratio"]) and row["ratio"] > 0)
    assert {row["what"] for row in rows} >= {"kernels", "chunked torch", "plain loop"}


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_measurements_in_processes_of_their_own(tmp_path: Path) -> None:
    rows = run_tiny(tmp_path, "train", "growth")
    steps = [row for row in rows if row["section"] == "Training step"]
    assert len(steps) == 1
    assert 0.1 < steps[0]["peak_gb"] < 4
    exponents = [row for row in rows if row["against"] == "exponent of L"]
    assert {row["what"] for row in exponents} == {"wall time", "processor time", "memory beyond the start"}
