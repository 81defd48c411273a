"""What a user gets from the package index: a wheel that carries the model group and works outside a checkout."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import kipoi_seq2exp
from kipoi_seq2exp.zoo.registry import GROUP_ENTRIES

ROOT = Path(__file__).resolve().parents[1]
GROUP = "kipoi_seq2exp/group/"


def build(what: str, source: Path, into: Path) -> Path:
    """Build the sdist or the wheel of a source tree with the installed hatchling (no network)."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel of the sdist, as an index serves it: what git ignores cannot slip in."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        if sys.version_info >= (3, 12):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    (source,) = folder.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def tracked(*below: str) -> set[str]:
    """Names of the project's files, without what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *below]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_holds_the_package_and_the_group_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == tracked("kipoi_seq2exp") | {GROUP + name for name in tracked(*GROUP_ENTRIES)}


def test_every_entry_of_the_group_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        present = {name.removeprefix(GROUP).split("/")[0] for name in archive.namelist() if name.startswith(GROUP)}
    assert present == set(GROUP_ENTRIES)


def test_the_sdist_is_enough_to_test_and_to_build(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml", "tests/test_wheel.py"} <= names
    assert names <= tracked() | {"PKG-INFO"}


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        (points,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert "seq2exp = kipoi_seq2exp.cli:main" in archive.read(points).decode()
    assert metadata["Version"] == kipoi_seq2exp.__version__
    assert metadata["License-Expression"] == "MIT"
    assert {"train", "hub", "parquet", "dev"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata.get_payload().strip().startswith("# ")  # the README is the description


def test_the_wheel_serves_its_models_outside_a_checkout(wheel, tmp_path):
    """Unpacked on PYTHONPATH, before this environment's own copy: the group is found, its weights verified."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """
from kipoi_seq2exp import WindowDataset, load_model
from kipoi_seq2exp.zoo.registry import example_dir, group_dir, read_served
print(group_dir())
example = example_dir()
sources = {"h3k27ac": example / "h3k27ac.bw", "dnase": example / "dnase.bw", "hic": example / "contacts.cool"}
for name in read_served():
    model = load_model(name)
    with WindowDataset(model.inputs, example / "genes.tsv", example / "genome.fa", sources) as windows:
        print(name, len(windows), windows[0].signals.shape[1] == model.config.n_tracks)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "site" / GROUP.rstrip("/"))
    assert {line.split()[0] for line in lines[1:]} >= {"K562", "GM12878"}
    assert all(line.endswith("12 True") for line in lines[1:])


@pytest.mark.wheel
def test_a_fresh_environment_predicts_through_kipoi(wheel, tmp_path):
    """An empty environment and an empty home: install, register, the literal `kipoi predict`, unregister."""
    home, venv = tmp_path / "home", tmp_path / "venv"
    home.mkdir()
    environment = {"PATH": f"{venv / 'bin'}:/usr/bin:/bin", "HOME": str(home), "MPLBACKEND": "Agg"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(sys.executable, "-m", "venv", str(venv))
    pip = (str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, *os.environ["TORCH"].split(), "-c", str(ROOT / "requirements.txt"))
    run(*pip, "-c", str(ROOT / "requirements.txt"), str(wheel))
    seq2exp, kipoi = str(venv / "bin" / "seq2exp"), str(venv / "bin" / "kipoi")
    run(seq2exp, "register")
    folder = run(
        str(venv / "bin" / "python"), "-c", "from kipoi_seq2exp.zoo.registry import *; print(example_dir())"
    ).strip()
    assert folder.startswith(str(venv))
    names = {
        "genes_file": "genes.tsv",
        "fasta_file": "genome.fa",
        "h3k27ac_file": "h3k27ac.bw",
        "dnase_file": "dnase.bw",
    }
    files = ", ".join(f'"{argument}": "{folder}/{name}"' for argument, name in names.items())
    arguments = f'{{{files}, "hic_file": "powerlaw", "gene_ids": ["GENE09"]}}'
    run(kipoi, "predict", "Seq2Exp/K562-expression", f"--dataloader_args={arguments}", "-m", "-o", "out.tsv")
    header, row = (tmp_path / "out.tsv").read_text().splitlines()
    assert "GENE09" in row
    assert len(header.split("\t")) == len(row.split("\t"))
    run(seq2exp, "unregister")
