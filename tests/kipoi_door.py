"""What the tests of the Kipoi door share: a group with small random weights, and Kipoi's command line in its process.

The group is the repository's own files, with other weights: the schema's 200,000-bp windows stay, the network is tiny.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch
import warm

from kipoi_seq2exp.config import NetworkConfig, Provenance
from kipoi_seq2exp.nn.checkpoint import save_model
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.zoo import other_models, served
from kipoi_seq2exp.zoo.group import member_inputs
from kipoi_seq2exp.zoo.registry import ServedModel, write_served

REPOSITORY = Path(__file__).parents[1]
KIPOI = Path(sys.executable).with_name("kipoi")
FILES = ("group.yaml", "model.py", "dataloader.py", "dataloader.yaml", "model-template.yaml")
GENES = ("GENE03", "GENE09")  # the window of the second begins before its chromosome
EXAMPLE = {
    "genes_file": "genes.tsv",
    "fasta_file": "genome.fa",
    "h3k27ac_file": "h3k27ac.bw",
    "dnase_file": "dnase.bw",
    "hic_file": "contacts.cool",
    "blacklist_file": "blacklist.bed",
}


def make_group(folder: Path) -> Path:
    """Make the model group `folder`/Seq2Exp with random provisional weights, its table, model.yaml and predictions."""
    group = folder / "Seq2Exp"
    shutil.copytree(_group(), group)
    return group


@functools.cache
def _group() -> Path:
    """Make the group once for a process: K562 reads tokens of 100 bp, as the served weights do, GM12878 each base."""
    holder = tempfile.TemporaryDirectory()
    atexit.register(holder.cleanup)
    group = Path(holder.name)
    (group / "weights").mkdir()
    for name in FILES:
        shutil.copyfile(REPOSITORY / name, group / name)
    (group / "example").mkdir()
    for source in (REPOSITORY / "example").iterdir():
        if source.is_file() and source.suffix != ".fai":
            shutil.copyfile(source, group / "example" / source.name)
    table = (group / "example" / "genes.tsv").read_text().splitlines(keepends=True)
    kept = [line for line in table if line.split("\t")[0] in ("gene_id", *GENES)]
    (group / "example" / "genes.tsv").write_text("".join(kept))
    inputs = member_inputs(REPOSITORY, "K562")  # an editable install puts the repository's own dataloader.py first
    settings = {"d_model": 16, "generator_layers": 1, "encoder_layers": 1, "n_features": len(inputs.features)}
    shares = tuple(-20.0 if track.stand_in else 1.0 for track in inputs.tracks)
    evidence = {"prior_weights": shares, "signal_betas": (1.0,) * len(shares)}
    rows = []
    for seed, (cell, own) in enumerate({"K562": {"token_bp": 100}, "GM12878": {"d_model": 8}}.items()):
        torch.manual_seed(seed)
        config = NetworkConfig(n_tracks=len(shares), **evidence, **{**settings, **own})
        network = Seq2Exp(config, dataclasses.replace(inputs, cell_type=cell), Provenance(status="provisional"))
        sha256 = save_model(network, group / "weights" / f"{cell}.safetensors")
        for suffix, outputs in (("", "expression,element_mask"), ("-expression", "expression")):
            weights = f"weights/{cell}.safetensors"
            rows.append(
                ServedModel(f"{cell}{suffix}", cell, outputs, weights, sha256, "provisional", "nothing: random", "none")
            )
    write_served(rows, group)
    served.refresh(group)
    return group


def make_home(folder: Path, **source: object) -> Path:
    """Make a home whose Kipoi never updates anything, unless told otherwise."""
    (folder / ".kipoi").mkdir(parents=True)
    values = {
        "type": "git",
        "remote_url": (folder / "no-such-zoo").as_uri(),
        "local_path": str(folder / ".kipoi" / "models"),
        "auto_update": False,
        "use_lfs": False,
        **source,
    }
    lines = ["model_sources:", "  kipoi:", *(f"    {name}: {value}" for name, value in values.items())]
    (folder / ".kipoi" / "config.yaml").write_text("\n".join(lines) + "\n")
    return folder


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "KIPOI", "GIT_"))}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def kipoi(*arguments: object, cwd: Path, home: Path, cold: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Kipoi's command line, in a warm process or, as users do, in one that imports everything itself."""
    command = [str(KIPOI), *map(str, arguments)]
    if not cold:
        return warm.run(command, cwd=cwd, env=environment(home))
    return subprocess.run(
        command, cwd=cwd, env=environment(home), capture_output=True, text=True, timeout=300, check=False
    )


def python(code: str, *, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: importing Kipoi warns and reads HOME."""
    return warm.run(["-c", code], cwd=cwd, env=environment(home))


def use_warm_kipoi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what `zoo.other_models` starts run in warm processes."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return warm.run(command[command.index("-c") :])

    monkeypatch.setattr(other_models, "subprocess", types.SimpleNamespace(run=run))


def example_arguments(group: Path, **changes: object) -> dict[str, object]:
    return {**{name: str(group / "example" / file) for name, file in EXAMPLE.items()}, **changes}
