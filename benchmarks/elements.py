"""Is the mask right: the three element benchmarks on chr22, for each cell type with served weights.

    SEQ2EXP_DATA=... python benchmarks/elements.py [--cells K562 GM12878] [--models K562 GM12878] [--runs runs/elements]

Runs `seq2exp benchmark crispri`, `distal` and `peaks` with the files that configs/ name for the cell type, and writes
what they say, with the commands and the machine's load, to elements.md beside this script, under elements_notes.md. A
rerun goes on with the predictions in --runs. MACS3 must be installed (`pip install 'kipoi-seq2exp[peaks]'`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import time
from pathlib import Path

from kipoi_seq2exp.cli import main as seq2exp
from kipoi_seq2exp.config import read_yaml
from kipoi_seq2exp.data.pairs import read_pairs

HERE = Path(__file__).parent
CONFIGS = {"K562": "k562.yaml", "GM12878": "gm12878.yaml"}
PEAKS = {"K562": "chr22/K562/dnase.macs2.narrowPeak"}  # MACS2's, p 0.1, as published with the ABC model
HELD_OUT = "crispr_heldout_5_cell_types.tsv.gz"
PAIRS = {
    "ENCODE CRISPRi benchmark, training set (K562)": "crispr_K562_training.tsv.gz",
    "ENCODE CRISPRi benchmark, held-out set (five cell types)": HELD_OUT,
}
CHR22_PAIRS = {"K562": "chr22/K562/crispri_pairs.tsv"}
MACS3 = ["--macs3", "dnase", "h3k27ac"]
CALLS = ["--top-fraction", "0.05"]
HEAD = """# Elements: is the mask right?

Written by `benchmarks/elements.py`; every block is what its command said. Data: chr22 (hg38), 121 genes, of which the
served weights were trained on all: errors here are not held out (accuracy.md has those); what counts is how they
change. Expression is log10(x + 1) of PRO-cap counts; MSE is in squares of it, overlaps are in bases. Intervals are 95 %
bootstrap intervals (1,000 resamples, seed 0) over genes; genes whose windows overlap are not independent, so
that they are too narrow.

A pair beyond its gene's window is a miss of the model; the promoter is never judged. The baselines of the whole
benchmarks need no model.
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=sorted(CONFIGS), default=list(CONFIGS))
    parser.add_argument(
        "--models", nargs="+", help="served name or .safetensors for each of --cells (default: the same)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/elements"))
    parser.add_argument("--gene-ids", nargs="+", default=[], help="only these genes, for a trial")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "elements.md")
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "elements.py: set SEQ2EXP_DATA to the folder that holds chr22/.\n")
    data, models = Path(os.environ["SEQ2EXP_DATA"]), args.models or args.cells
    if len(models) != len(args.cells):
        parser.exit(2, "elements.py: --models must name a model for each of --cells.\n")
    parts = [HEAD, (HERE / "elements_notes.md").read_text(encoding="utf-8")]
    for title, pairs in PAIRS.items():
        words = ["benchmark", "crispri", str(data / pairs), "-o", str(args.runs / "pairs")]
        parts.append(f"## {title}: baselines\n\n{said_by(words, data)}")
        write(parts, args.output)
    for cell, model in zip(args.cells, models, strict=True):
        parts.append(f"## {cell}")
        if cell not in CHR22_PAIRS:
            parts.append(no_pairs(cell, data))
            words = ["benchmark", "crispri", str(data / HELD_OUT), "--pairs-of", cell, "-o", str(args.runs / "pairs")]
            parts.append(said_by(words, data))
        for words in commands(cell, model, data, args):
            parts.append(said_by(words, data))
            write(parts, args.output)
    print(f"written: {args.output}")


def write(parts: list[str], output: Path) -> None:
    """Write what there is so far: an interrupted run leaves the finished benchmarks."""
    output.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def commands(cell: str, model: str, data: Path, args: argparse.Namespace) -> list[list[str]]:
    """Return the commands of one cell type; all of them share one set of predictions."""
    given = read_yaml(HERE.parent / "configs" / CONFIGS[cell])["data"][0]
    files = ["--fasta", str(data / given["fasta"]), "--genes", str(data / given["genes"])]
    for name, source in given["sources"].items():
        files += ["--track", f"{name}={source if source == 'powerlaw' else data / source}"]
    files += ["--blacklist", str(data / given["blacklist"]), "--label", given["label"]["column"]]
    files += ["--missing-features", given["missing_features"], "-o", str(args.runs / cell)]
    files += ["--gene-ids", *args.gene_ids] if args.gene_ids else []
    found = [["benchmark", "distal", model, *CALLS, *files]]
    peaks = ["--peaks", str(data / PEAKS[cell])] if cell in PEAKS else []
    found.append(["benchmark", "peaks", model, *MACS3, *peaks, *CALLS, *files])
    if cell in CHR22_PAIRS:
        pairs = str(data / CHR22_PAIRS[cell])
        found.append(["benchmark", "crispri", pairs, "--model", model, "--perturb", *files])
    return found


def no_pairs(cell: str, data: Path) -> str:
    """Say how many CRISPRi-tested pairs a cell type has, when none of them lies on chr22."""
    pairs = read_pairs(data / HELD_OUT, cell)
    here = pairs[pairs["chrom"] == "chr22"]
    if len(here):
        raise SystemExit(f"{len(here)} pairs of {cell} lie on chr22: name a file of them in CHR22_PAIRS.")
    return (
        f"CRISPRi cannot judge this mask here: the held-out benchmark has {len(pairs)} pairs of {cell} "
        f"({int(pairs['regulated'].sum())} positive), none on chr22, the only chromosome whose DNA and tracks are in "
        f"these data. The baselines on those pairs:"
    )


def said_by(words: list[str], data: Path) -> str:
    """Run a command; return it and what it said, with the data folder by its variable and no list of files."""
    started, out, load = time.monotonic(), io.StringIO(), os.getloadavg()[0]
    with contextlib.redirect_stdout(out):
        status = seq2exp(words)
    if status:
        raise SystemExit(f"seq2exp {shlex.join(words)} failed.")
    lines = [line for line in out.getvalue().splitlines() if not line.startswith("written: ")]
    text = "\n".join(lines).replace(str(data), "$SEQ2EXP_DATA")
    command = f"seq2exp {' '.join(words)}".replace(str(data), "$SEQ2EXP_DATA")
    took = f"{time.monotonic() - started:.0f} s, load {load:.1f} on {os.cpu_count()} cores"
    return f"```sh\n{command}\n```\n\n```\n{text}\n```\n\n{took}"


if __name__ == "__main__":
    main()
