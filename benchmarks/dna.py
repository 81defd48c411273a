"""Does DNA say what the tracks leave open: what the served weights miss of a gene, read from the DNA round its TSS.

    SEQ2EXP_DATA=... python benchmarks/dna.py [--config configs/human_head.yaml] [--weights K562=K562 GM12878=GM12878]

The weights read no DNA. What they leave over, label minus prediction, is fitted by ridge regression on counts of words
of DNA, on the training and validation genes with known DNA, and scored on genes of a segment of DNA that was left out;
the penalty is chosen within the others, by leaving out one of them in turn. A share above 0 would be worth teaching the
network. Training genes are fitted by the weights too, but not closely: their error is that of validation genes. Writes
dna.md beside this script. Intervals: 95 %, 1,000 bootstrap resamples of 1-Mb blocks, seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import accuracy
import less_input
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kipoi_seq2exp import load_model
from kipoi_seq2exp.commands.options import named_entries
from kipoi_seq2exp.data.sequence import decode_bases
from kipoi_seq2exp.files import write_text
from kipoi_seq2exp.metrics import Score, genome_blocks, resampled_counts
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.training.config import read_training_config
from kipoi_seq2exp.training.data import CellSet, collate, open_cells
from kipoi_seq2exp.training.module import ridge_regression

Floats = NDArray[np.float64]

HERE = Path(__file__).parent
FLANK_BP = 5_000  # DNA that is read, on either side of the TSS
PENALTIES = (10.0, 100.0, 1_000.0, 10_000.0, 1e6)  # of standardised words; the last one says nothing at all
LETTERS, COMPLEMENT = "ACGT", str.maketrans("ACGT", "TGCA")
RESAMPLES, LEVEL = 1_000, 0.95


def main() -> None:
    """Fit, score and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "human_head.yaml")
    parser.add_argument("--weights", nargs="+", default=["K562=K562", "GM12878=GM12878"], metavar="CELL=MODEL")
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "dna.py: set SEQ2EXP_DATA to the folder with hg19/ in it.\n")
    weights = named_entries("--weights", args.weights, "CELL=MODEL")
    first_model = next(iter(weights.values()))
    config = read_training_config(args.config, overrides={"start": first_model})  # settings follow from those weights
    named = {data.cell_type: cell for data, cell in zip(config.data, open_cells(config), strict=True)}
    left = {name: left_over(load_model(source, "cpu"), named[name]) for name, source in weights.items()}
    (first, one), (second, two) = left.items()
    left[f"{first} minus {second}"] = one.assign(left=one["left"] - two["left"])
    write_text(args.output / "dna.md", render(left, shlex.join(sys.argv)))


def left_over(model: Seq2Exp, cell: CellSet) -> pd.DataFrame:
    """Return place, segment and DNA of the genes with known DNA, and what the model leaves over of their label."""
    fitted = np.concatenate([cell.split.rows("train"), cell.split.rows("validation")])
    rows = np.sort(fitted[(cell.genes["dna_known"].to_numpy() >= accuracy.KNOWN_DNA)[fitted]])
    grid, strands = model.grid(cell.windows.inputs.window_bp), cell.genes["strand"].to_numpy()
    dnase = cell.windows.inputs.track_names.index("dnase")
    predicted, dna = [], []
    for row in rows:
        window = less_input.read_window(cell, int(row), grid, dnase)
        with torch.inference_mode():
            predicted.append(float(less_input.run(model, collate([window]), grid).expression[0]))
        dna.append(bases(window["onehot"], strands[row]))
    table = cell.genes.iloc[rows][["gene_id", "chrom", "tss", "segment"]].reset_index(drop=True)
    return table.assign(dna=dna, left=cell.labels[rows].astype(np.float64) - np.array(predicted))


def bases(onehot: NDArray[np.uint8], strand: str) -> str:
    """Return the DNA of a window (L, 4) at its TSS +-`FLANK_BP`, 5' to 3', N where it is not known."""
    middle = len(onehot) // 2
    forward = decode_bases(onehot[middle - FLANK_BP : middle + FLANK_BP]).tobytes().decode("ascii")
    return forward[::-1].translate(COMPLEMENT) if strand == "-" else forward


# -------------------------------------------------------------------------------------------------- what DNA is read


def composition(dna: str) -> list[float]:
    """Return GC, CpG and CpG against what GC alone gives, round the TSS, before it and behind it."""
    found = []
    for low, high in ((-250, 250), (-1_000, 1_000), (-5_000, 5_000), (-500, 0), (0, 1_000), (0, 5_000)):
        part = dna[FLANK_BP + low : FLANK_BP + high]
        gc, cpg = (part.count("G") + part.count("C")) / len(part), part.count("CG") / len(part)
        found += [gc, cpg, cpg / max(gc * gc / 4, 1e-3)]
    return found


def words(size: int, low: int, high: int, *, either_strand: bool = True) -> Callable[[str], list[float]]:
    """Count every word of that many bases between two distances from the TSS, as ln(count + 1)."""
    every = ["".join(letters) for letters in itertools.product(LETTERS, repeat=size)]
    turned = [word[::-1].translate(COMPLEMENT) for word in every]
    keys = [min(pair) for pair in zip(every, turned, strict=True)] if either_strand else every
    place = {word: sorted(set(keys)).index(key) for word, key in zip(every, keys, strict=True)}

    def count(dna: str) -> list[float]:
        part, counts = dna[FLANK_BP + low : FLANK_BP + high], np.zeros(len(set(keys)))
        for start in range(len(part) - size + 1):
            if (found := place.get(part[start : start + size])) is not None:
                counts[found] += 1
        return list(np.log1p(counts))

    return count


READINGS: Mapping[str, Callable[[str], list[float]]] = {
    "GC and CpG, six intervals within 5 kb": composition,
    "words of 2, TSS +-500 bp, by strand": words(2, -500, 500, either_strand=False),
    "words of 3, TSS +-1 kb": words(3, -1_000, 1_000),
    "words of 4, TSS +-250 bp": words(4, -250, 250),
    "words of 3, 1 kb behind the TSS, by strand": words(3, 0, 1_000, either_strand=False),
    "words of 3, 5 kb behind the TSS, by strand": words(3, 0, 5_000, either_strand=False),
}


# ----------------------------------------------------------------------------------------------------------- the fit


def predict_left_out(read: Floats, left: Floats, segments: NDArray[np.str_]) -> tuple[Floats, Floats]:
    """Predict each segment's genes from the other segments: by ridge regression on DNA, and by their mean."""
    fitted, plain = np.zeros(len(left)), np.zeros(len(left))
    for segment in np.unique(segments):
        out = segments == segment
        inner = [(penalty, _error(read[~out], left[~out], segments[~out], penalty)) for penalty in PENALTIES]
        best = min(inner, key=lambda pair: pair[1])[0]
        fitted[out] = ridge(read[~out], left[~out], read[out], best)
        plain[out] = left[~out].mean()
    return fitted, plain


def _error(read: Floats, left: Floats, segments: NDArray[np.str_], penalty: float) -> float:
    errors = []
    for segment in np.unique(segments):
        out = segments == segment
        errors.append((ridge(read[~out], left[~out], read[out], penalty) - left[out]) ** 2)
    return float(np.concatenate(errors).mean())


def ridge(read: Floats, left: Floats, new: Floats, penalty: float) -> Floats:
    """Predict new rows from the ridge regression of left on read."""
    weights, bias = ridge_regression(read, left, penalty)
    predicted: Floats = new @ weights + bias
    return predicted


def share(table: pd.DataFrame, read: Floats) -> Score:
    """Return the share of the left-over variance that what was read of DNA explains in segments left out."""
    left = table["left"].to_numpy(np.float64)
    fitted, plain = predict_left_out(read, left, table["segment"].to_numpy(str))
    blocks = genome_blocks(list(table["chrom"]), table["tss"])
    errors = np.stack([np.bincount(blocks, (guess - left) ** 2) for guess in (fitted, plain)], axis=1)
    drawn = np.concatenate(list(resampled_counts(len(errors), RESAMPLES))) @ errors
    all_genes = errors.sum(0)
    return Score.of(1 - all_genes[0] / all_genes[1], 1 - drawn[:, 0] / drawn[:, 1], LEVEL)


def render(left: Mapping[str, pd.DataFrame], command: str) -> str:
    """Lay the shares out as Markdown."""
    genes = next(iter(left.values()))
    lines = [
        "# What DNA says beyond the tracks",
        "",
        f"Written by `SEQ2EXP_DATA=... python {command}`. {len(genes)} training and validation genes have at least "
        f"{accuracy.KNOWN_DNA:.0%} of their DNA. The table gives the share of the variance of label minus prediction "
        "that ridge regression on DNA explains in segments of DNA left out of its fit (1: all; 0 or less: none). The "
        "predictions are those of the served weights, which read the tracks alone. Intervals: 95 %, 1-Mb blocks.",
        "",
        "| read from DNA | " + " | ".join(left) + " |",
        "|---" * (len(left) + 1) + "|",
    ]
    for name, reading in READINGS.items():
        read = np.array([reading(dna) for dna in genes["dna"]])
        shares = [share(table, read) for table in left.values()]
        cells = [f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" for found in shares]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
