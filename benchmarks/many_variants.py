"""Measure `seq2exp variants` on random substitutions: rows per second of processor time, memory, windows predicted.

    python benchmarks/many_variants.py                          # 10,000 variants on the bundled example, K562
    python benchmarks/many_variants.py --variants 100 --weights FILE --folder DIR

The seed is 0. Memory is sampled in the process that computes, a second apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from follow import follow_command

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "example" / "human"
HOUR_S = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Make the VCF, run the command, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=10_000)
    parser.add_argument("--weights", default="K562", help="a served model or a .safetensors file")
    parser.add_argument("--folder", type=Path, help="keep the results here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        vcf = folder / "random.vcf"
        write_vcf(vcf, args.variants)
        command = [sys.executable, "-m", "kipoi_seq2exp.cli", "variants", str(vcf), args.weights, *inputs()]
        followed = follow_command([*command, "--device", "cpu", "-o", str(folder / "out"), "--overwrite"])
        with (folder / "out" / "variants.tsv").open() as table:
            rows = sum(1 for _ in table) - 1
    found = {
        "variants": args.variants,
        "rows": rows,
        "processor_s": round(followed.processor_s, 1),
        "wall_s": round(followed.wall_s, 1),
        "rows_per_processor_s": round(rows / followed.processor_s, 2),
        "processor_hours_for_a_million_rows": round(1e6 * followed.processor_s / rows / HOUR_S, 2),
        "memory_mb": followed.memory_mb,
        "peak_mb": followed.peak_mb,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    print(json.dumps(found, indent=2))
    return 0


def inputs() -> list[str]:
    """Return the options that name the bundled example's files."""
    tracks = {"h3k27ac": EXAMPLE / "K562.h3k27ac.bw", "dnase": EXAMPLE / "K562.dnase.bw", "hic": "powerlaw"}
    words = ["--fasta", str(EXAMPLE / "genome.fa.gz"), "--genes", str(EXAMPLE / "genes.tsv")]
    return words + [word for name, source in tracks.items() for word in ("--track", f"{name}={source}")]


def write_vcf(path: Path, count: int) -> None:
    """Write random substitutions in the windows of the example's genes."""
    from kipoi_seq2exp.data.genes import read_genes
    from kipoi_seq2exp.data.sequence import Genome

    random, genes = np.random.default_rng(0), read_genes(EXAMPLE / "genes.tsv")
    with Genome(EXAMPLE / "genome.fa.gz") as genome, path.open("w") as handle:
        handle.write("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        written = 0
        while written < count:
            gene = genes.iloc[int(random.integers(len(genes)))]
            pos = int(gene["tss"] + random.integers(-90_000, 90_000))
            ref = genome.bases(gene["chrom"], pos, pos + 1).decode().upper()
            if ref in "ACGT":
                alt = "ACGT"[("ACGT".index(ref) + int(random.integers(1, 4))) % 4]
                handle.write(f"{gene['chrom']}\t{pos + 1}\t.\t{ref}\t{alt}\t.\t.\t.\n")
                written += 1


if __name__ == "__main__":
    sys.exit(main())
