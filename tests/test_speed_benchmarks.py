"""The benchmarks of speed run, and report what they measured; their figures at this size say nothing."""

from __future__ import annotations

import argparse
import contextlib
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


@pytest.mark.parametrize(
    ("d_model", "forth", "back"), [(64, "scan_forward", "scan_backward"), (16, "walk_forward", "walk_back")]
)
def test_profiles(
    d_model: int,
    forth: str,
    back: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    profiles = importlib.import_module("profiles")
    profiles.main(["--length", "400", "--d-model", str(d_model), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "profiles.md").read_text().strip() == printed.strip()
    prediction, step = printed.split("## Training step")
    assert f"| {forth} |" in prediction
    assert f"| {back} |" not in prediction
    assert f"| {back} |" in step
    shares = [float(line.split("|")[3].split()[0]) for line in step.splitlines() if line.endswith("% |")]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_before_and_after_are_the_least_of_their_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before_after, isolated = (importlib.import_module(name) for name in ("before_after", "isolated"))
    small = {**before_after.TOKENS, "window_bp": 6_000, "encoder_bp": 4_000, "d_model": 16}
    assert isolated.train_tokens({"seed": 0, "network": small, "rounds": 1})["cpu_s"] > 0
    taken = iter([4.0, 1.0, 2.0, 3.0])  # before, after, before, after

    def measured(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        assert env["OMP_WAIT_POLICY"] == "passive"
        return subprocess.CompletedProcess(command, 0, json.dumps({"cpu_s": next(taken)}), "")

    monkeypatch.setattr(subprocess, "run", measured)
    row = before_after.compared("predict", 16, 1, argparse.Namespace(rounds=2, length=400), tmp_path)
    assert (row["before"], row["after"]) == (2.0, 1.0)
    assert "| prediction | 16 | 1 | 2 | 1 | 2.00 |" in before_after.markdown([row], "HEAD~1")


def test_each_task_is_compared_with_its_own_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before_after = importlib.import_module("before_after")
    seen: list[tuple[str, str]] = []

    def compared(task: str, d_model: int, threads: int, args: object, earlier: Path) -> dict[str, Any]:
        seen.append((task, earlier.name))
        return {"what": task, "d_model": d_model, "threads": threads, "before": 2.0, "after": 1.0}

    monkeypatch.setattr(before_after, "compared", compared)
    monkeypatch.setattr(before_after, "checked_out", lambda revision: contextlib.nullcontext(tmp_path / revision))
    before_after.main(["predict=older", "train_tokens=newer", "--threads=1"])
    assert set(seen) == {("predict", "older"), ("train_tokens", "newer")}
    assert "before: prediction of older, training step of newer" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        before_after.main(["predict=older", "--task=train_tokens"])
    with pytest.raises(SystemExit, match="2"):
        before_after.main(["predicted=older"])
