"""The benchmarks of speed run, and report what they measured; their figures at this size say nothing."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import warm

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of `benchmarks/speed.py`; what it measures in processes of their own runs in warm ones."""

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        return warm.run(command[1:], env=env)

    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("speed")
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=run))
    return module


def test_speed(speed: Any, tmp_path: Path) -> None:
    sections = ["scan", "backward", "train", "tokens"]
    speed.main(["--tiny", "--out", str(tmp_path), *(f"--only={name}" for name in sections)])
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert {row["section"] for row in rows} >= {"Scan", "Scan, backward", "Training step", "Tokens"}
    assert all(row["wall_s"] > 0 for row in rows if row["wall_s"] is not None)
    table = (tmp_path / "speed.md").read_text()
    assert all(f"## {row['section']}" in table and row["what"] in table for row in rows)


@pytest.mark.skipif(importlib.util.find_spec("enformer_pytorch") is not None, reason="the comparators are installed")
def test_absent_comparators_are_an_error_where_they_are_asked_for(
    speed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        speed.main(["--tiny", "--only=predict", "--comparators"])
    assert "enformer_pytorch: not installed; `make bench` installs them" in capsys.readouterr().err


def test_profiles(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    importlib.import_module("profiles").main(["--length", "400", "--d-model", "16", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "profiles.md").read_text().strip() == printed.strip()
    prediction, step = printed.split("## Training step")
    assert "| scan_forward |" in prediction
    assert "| scan_backward |" not in prediction
    assert "| scan_backward |" in step
    shares = [float(line.split("|")[3].split()[0]) for line in step.splitlines() if line.endswith("% |")]
    assert sum(shares) == pytest.approx(100, abs=1)
