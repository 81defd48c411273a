"""The benchmarks of speed run, and report what they measured; their figures at this size say nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_speed(tmp_path: Path) -> None:
    sections = ["scan", "backward", "train", "tokens"]
    run("speed.py", "--tiny", "--out", str(tmp_path), *(f"--only={name}" for name in sections))
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert {row["section"] for row in rows} >= {"Scan", "Scan, backward", "Training step", "Tokens"}
    assert all(row["wall_s"] > 0 for row in rows if row["wall_s"] is not None)
    table = (tmp_path / "speed.md").read_text()
    assert all(f"## {row['section']}" in table and row["what"] in table for row in rows)


@pytest.mark.skipif(importlib.util.find_spec("enformer_pytorch") is not None, reason="the comparators are installed")
def test_absent_comparators_are_an_error_where_they_are_asked_for() -> None:
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--tiny", "--only=predict", "--comparators"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert "enformer_pytorch: not installed; `make bench` installs them" in done.stderr


def test_profiles(tmp_path: Path) -> None:
    printed = run("profiles.py", "--length", "400", "--d-model", "16", "--out", str(tmp_path))
    assert (tmp_path / "profiles.md").read_text().strip() == printed.strip()
    prediction, step = printed.split("## Training step")
    assert "| scan_forward |" in prediction
    assert "| scan_backward |" not in prediction
    assert "| scan_backward |" in step
    shares = [float(line.split("|")[3].split()[0]) for line in step.splitlines() if line.endswith("% |")]
    assert sum(shares) == pytest.approx(100, abs=1)
