"""Predict many genes by every way there is: rate, memory over time, size of what is written, time to open it.

    python benchmarks/many_genes.py                                       # the bundled example
    SEQ2EXP_DATA=... python benchmarks/many_genes.py --hg19 --genes 500   # genes of hg19, evenly chosen; 0: all

Each way is a process of its own, one after the other: `seq2exp predict` alone and with `--cluster local:2`, and `kipoi
predict` to .zarr and .parquet. Writes many_genes.md and many_genes.json into --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
import pandas as pd
from follow import Followed, follow_command

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("seq2exp", "local:2", "kipoi .zarr", "kipoi .parquet")
NOT_A_ZOO = """model_sources:
  kipoi:
    type: local
    local_path: {home}
"""


@dataclass(frozen=True)
class Inputs:
    """Files that every way reads."""

    genes: Path
    fasta: Path
    h3k27ac: Path
    dnase: Path
    h3k27ac_reference: Path
    dnase_reference: Path

    def options(self) -> list[str]:
        """Return them as options of `seq2exp predict`."""
        words = ["--fasta", str(self.fasta), "--genes", str(self.genes), "--track", "hic=powerlaw"]
        for name in ("h3k27ac", "dnase", "h3k27ac_reference", "dnase_reference"):
            words += ["--track", f"{name}={getattr(self, name)}"]
        return words

    def arguments(self) -> str:
        """Return them as arguments of Kipoi's data loader."""
        files = {f"{name}_file": str(path.resolve()) for name, path in asdict(self).items()}
        return json.dumps({**files, "hic_file": "powerlaw"})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every way and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hg19", action="store_true", help="the genes of SEQ2EXP_DATA")
    parser.add_argument("--genes", type=int, default=0, help="only so many, evenly chosen (0: all)")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this one (repeatable)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder of the report")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        inputs = chosen_inputs(args.hg19, args.genes, Path(scratch))
        count = len(pd.read_csv(inputs.genes, sep="\t"))
        for way in args.way or WAYS:
            rows.append({"way": way, "genes": count, **measured(way, inputs, Path(scratch))})
            measure.note(json.dumps(rows[-1]))
    about = {
        "command": " ".join(["python benchmarks/many_genes.py", *(argv or sys.argv[1:])]),
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
        **{name: measure.machine()[name] for name in ("processor", "cores", "versions")},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "many_genes.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    (args.out / "many_genes.md").write_text(markdown(rows, about), encoding="utf-8")
    return 0


def chosen_inputs(hg19: bool, count: int, scratch: Path) -> Inputs:
    """Return the files; of the genes those that were asked for."""
    folder = ROOT / "example" / "human"
    fasta = folder / "genome.fa.gz"
    if hg19:
        folder = Path(os.environ["SEQ2EXP_DATA"]) / "hg19"
        fasta = folder / "hg19.parts.fa.gz"
    table = pd.read_csv(folder / "genes.tsv", sep="\t", dtype=str, keep_default_na=False)
    if count:
        table = table.iloc[[place * len(table) // count for place in range(count)]]
    table.to_csv(scratch / "genes.tsv", sep="\t", index=False)
    tracks = [folder / f"{cell}.{mark}.bw" for cell in ("K562", "GM12878") for mark in ("h3k27ac", "dnase")]
    return Inputs(scratch / "genes.tsv", fasta, *tracks)


def measured(way: str, inputs: Inputs, scratch: Path) -> dict[str, Any]:
    """Predict in one way."""
    name = way.replace(" ", "").replace(":", "")
    if way.startswith("kipoi"):
        written = scratch / f"out.{way.rpartition('.')[2]}"
        followed = _kipoi(inputs, written, scratch)
    else:
        folder = scratch / name
        command = [sys.executable, "-m", "kipoi_seq2exp.cli", "predict", "K562", *inputs.options()]
        cluster = ["--cluster", way] if way != "seq2exp" else []
        followed = follow_command([*command, *cluster, "--device", "cpu", "-o", str(folder)])
        written = folder / "predictions.zarr"
    count = len(pd.read_csv(inputs.genes, sep="\t"))
    files = [path for path in [written, *written.rglob("*")] if path.is_file()]
    return {
        "wall_s": round(followed.wall_s, 1),
        "processor_s": round(followed.processor_s, 1),
        "genes_per_s": round(count / followed.wall_s, 2),
        "genes_per_processor_s": round(count / followed.processor_s, 2),
        "memory_mb": followed.memory_mb,
        "peak_mb": followed.peak_mb,
        "written_mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "files": len(files),
        "open_s": round(_seconds_to_open(written), 3),
    }


def _kipoi(inputs: Inputs, written: Path, scratch: Path) -> Followed:
    """Run Kipoi's own command line on this repository, with a home of its own."""
    home = scratch / "home"
    (home / ".kipoi").mkdir(parents=True, exist_ok=True)
    (home / ".kipoi" / "config.yaml").write_text(NOT_A_ZOO.format(home=home))
    words = ["kipoi", "predict", str(ROOT), "--source", "dir", f"--dataloader_args={inputs.arguments()}"]
    environment = ["env", f"HOME={home}", f"PYTHONPATH={ROOT}", "CUDA_VISIBLE_DEVICES="]
    return follow_command([*environment, *words, "--batch_size", "1", "-m", "-o", str(written)])


def _seconds_to_open(written: Path) -> float:
    """Open a result and read the mask of one gene."""
    started = time.perf_counter()
    if written.suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(written) as file:
            file.read_row_group(0)
    else:
        from kipoi_seq2exp.prediction.store import read_predictions

        with read_predictions(written) as predictions:
            predictions.mask(len(predictions) // 2)
    return time.perf_counter() - started


def markdown(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Write the report as a table for people."""
    names = {
        "way": "way",
        "genes": "genes",
        "wall_s": "wall s",
        "processor_s": "processor s",
        "genes_per_s": "genes / s",
        "genes_per_processor_s": "genes / processor s",
        "peak_mb": "peak MB",
        "written_mb": "written MB",
        "files": "files",
        "open_s": "s to open",
    }
    lines = [
        "# Many genes",
        "",
        f"Made by `{about['command']}`. {about['processor']}, {about['cores']} cores; load average before and after "
        f"{about['load_average'][0]} and {about['load_average'][1]} (above the cores: trust processor time alone).",
        "",
        "| " + " | ".join(names.values()) + " |",
        "|" + "---|" * len(names),
        *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows),
        "",
        "Memory over time, at equal times from start to end (MB):",
        "",
        *(f"- {row['way']}: {', '.join(map(str, row['memory_mb']))}" for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
