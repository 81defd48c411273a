"""Is the mask right: distal DNA taken away and called peaks for the mask, on held-out genes, for each cell type.

    SEQ2EXP_DATA=... python benchmarks/elements.py [--cells K562 GM12878] [--models K562 GM12878] [--runs runs/elements]

Runs `seq2exp benchmark distal` and `peaks` on the test genes of --config whose DNA is known, and the baselines of
`seq2exp benchmark crispri`, and writes what they say, with the commands and the machine's load, to elements.md beside
this script, under elements_notes.md. `crispri.py` ranks CRISPRi-tested pairs by the networks. A rerun goes on with the
predictions in --runs. MACS3 must be installed (`pip install 'kipoi-seq2exp[peaks]'`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import time
from pathlib import Path

import pandas as pd

from kipoi_seq2exp.cli import main as seq2exp
from kipoi_seq2exp.data.tables import write_tsv
from kipoi_seq2exp.files import make_folder
from kipoi_seq2exp.settings import read_yaml

HERE = Path(__file__).parent
CELLS = ("K562", "GM12878")
KNOWN_DNA = 0.95  # share of a window that must be known
HELD_OUT = "crispr_heldout_5_cell_types.tsv.gz"
PAIRS = {
    "ENCODE CRISPRi benchmark, training set (K562)": "crispr_K562_training.tsv.gz",
    "ENCODE CRISPRi benchmark, held-out set (five cell types)": HELD_OUT,
}
MACS3 = ["--macs3", "dnase", "h3k27ac"]
CALLS = ["--top-fraction", "0.05"]
HEAD = """# Elements: is the mask right?

Written by `benchmarks/elements.py`; every block is what its command said. Genes: those of the test chromosomes (chr22
and chrX) with at least 95 % of their DNA known; no served network was trained on them. MSE is in squares of the label's
unit, overlaps are in bases. Intervals are 95 % bootstrap intervals (1,000 resamples, seed 0) over genes; genes whose
windows overlap are not independent, so that they are too narrow. CRISPRi-tested pairs are ranked by the networks in
[CRISPRi](crispri.md); here are the baselines of the whole benchmarks, which need no model.
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "human_head.yaml")
    parser.add_argument(
        "--models", nargs="+", help="served name or .safetensors for each of --cells (default: the same)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/elements"))
    parser.add_argument("--gene-ids", nargs="+", default=[], help="only these genes, for a trial")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "elements.md")
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "elements.py: set SEQ2EXP_DATA to the folder with hg19/ in it.\n")
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
        for words in commands(cell, model, data, args):
            parts.append(said_by(words, data))
            write(parts, args.output)
    print(f"written: {args.output}")


def write(parts: list[str], output: Path) -> None:
    """Write what there is so far: an interrupted run leaves the finished benchmarks."""
    output.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def commands(cell: str, model: str, data: Path, args: argparse.Namespace) -> list[list[str]]:
    """Return the commands of one cell type; all of them share one set of predictions."""
    given = next(one for one in read_yaml(args.config)["data"] if one["cell_type"] == cell)
    genes = args.runs / f"{cell}.genes.tsv"
    held_out_genes(data / given["genes"], genes)
    files = ["--fasta", str(data / given["fasta"]), "--genes", str(genes)]
    for name, source in given["sources"].items():
        files += ["--track", f"{name}={source if source == 'powerlaw' else data / source}"]
    files += ["--label", given["label"]["column"], "-o", str(args.runs / cell)]
    files += ["--gene-ids", *args.gene_ids] if args.gene_ids else []
    return [["benchmark", "distal", model, *CALLS, *files], ["benchmark", "peaks", model, *MACS3, *CALLS, *files]]


def held_out_genes(path: Path, output: Path) -> None:
    """Write the test genes with known DNA of a table."""
    table = pd.read_csv(path, sep="\t")
    make_folder(output.parent)
    write_tsv(table[(table["split"] == "test") & (table["dna_known"] >= KNOWN_DNA)], output)


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
