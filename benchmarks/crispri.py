"""Do mask and effects find the elements that CRISPRi finds: 1,781 K562 pairs at 1-100 kb, genome-wide.

    SEQ2EXP_DATA=... python benchmarks/crispri.py [--model K562] [--pairs hg19/crispri_K562_training.hg19.tsv.gz]

Each pair's window is centred on the TSS of the pairs' own table. Ranks pairs by the mask of a network, by its
masked-out effect and by both with contact, beside baselines on the same tracks and on the table's read counts, and
writes crispri.md and crispri.json beside this script. No CRISPRi label was used in training; what of the scores was
chosen by looking at these pairs is said in the page. Intervals: 95 %, 1,000 bootstrap resamples of genes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kipoi_seq2exp import load_model
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.pairs import read_pairs
from kipoi_seq2exp.files import file_sha256
from kipoi_seq2exp.judge.ranking import auprc_difference, rank_scores
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.training.evaluate import write_text
from kipoi_seq2exp.zoo.registry import weights_path

HERE = Path(__file__).parent
BINS = {"1-100 kb": (1_000, 100_001), "1-10 kb": (1_000, 10_000), "10-30 kb": (10_000, 30_000),
        "30-100 kb": (30_000, 100_001)}  # fmt: skip
GAMMA = 0.87  # of the power law of distance
DNASE_FLANK_BP, H3K27AC_FLANK_BP, EFFECT_FLANK_BP = 250, 500, 500  # of an element's middle; wider elements count whole
TEST = ("chr22", "chrX")
BASELINE = "activity x distance^-0.87"
FASTA, TRACKS = "hg19/hg19.parts.fa.gz", {"h3k27ac": "hg19/K562.h3k27ac.bw", "dnase": "hg19/K562.dnase.bw"}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="K562", help="a served model or a .safetensors file")
    parser.add_argument("--pairs", default="hg19/crispri_K562_training.hg19.tsv.gz")
    parser.add_argument("--genes", default="hg19/genes.tsv", help="table that gives the strand of each gene")
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "crispri.py: set SEQ2EXP_DATA to the folder with hg19/ in it.\n")
    data = Path(os.environ["SEQ2EXP_DATA"])
    pairs = chosen_pairs(data / args.pairs, data / args.genes)
    model = load_model(args.model, "cpu")
    scored = score_pairs(model, pairs, data)
    file = weights_path(args.model) if not args.model.endswith(".safetensors") else Path(args.model)
    results = {"model": args.model, "sha256": file_sha256(file), "pairs": args.pairs, "load": os.getloadavg()[0]}
    results["all"] = ranked(scored)
    results["without test chromosomes"] = ranked(scored[~scored["chrom"].isin(TEST)])
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / "crispri.json", json.dumps(results, indent=1) + "\n")
    write_text(args.output / "crispri.md", render(results))


def chosen_pairs(path: Path, genes: Path) -> pd.DataFrame:
    """Return the valid pairs whose element's middle lies 1 to 100 kb from the TSS, with strand and read counts."""
    pairs = read_pairs(path)
    raw = pd.read_csv(path, sep="\t")
    raw = raw[raw["ValidConnection"].astype(str).str.lower() == "true"].reset_index(drop=True)
    pairs["middle"] = (pairs["start"] + pairs["end"]) // 2
    pairs["distance"] = (pairs["middle"] - pairs["tss"]).abs()
    reads = raw["DHS.RPM"] * raw["H3K27ac.RPM.expandedRegion"]
    pairs["reads"] = np.sqrt(reads.to_numpy(np.float64)) * contact_by_distance(pairs["distance"])
    strands = pd.read_csv(genes, sep="\t").set_index("gene_id")["strand"]
    pairs["strand"] = pairs["gene_id"].map(strands).fillna("+")
    low, high = BINS["1-100 kb"]
    return pairs[(pairs["distance"] >= low) & (pairs["distance"] < high)].reset_index(drop=True)


def contact_by_distance(distance: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Return the power law of distance, in arbitrary units."""
    return distance.to_numpy(np.float64) ** -GAMMA


def score_pairs(model: Seq2Exp, pairs: pd.DataFrame, data: Path) -> pd.DataFrame:
    """Add a column per score; a window is read once for each gene and TSS."""
    assert model.inputs is not None
    keys = ["gene_id", "chrom", "tss", "strand"]
    genes = pairs[keys].drop_duplicates().reset_index(drop=True)
    genes["name"] = genes["gene_id"]
    genes["gene_id"] = [f"{gene}_{row}" for row, gene in enumerate(genes["gene_id"])]
    sources = {**{name: data / path for name, path in TRACKS.items()}, "hic": "powerlaw"}
    windows = WindowDataset(model.inputs, genes, data / FASTA, sources)
    found: dict[str, np.ndarray[Any, Any]] = {}
    with torch.inference_mode():
        for row, gene in enumerate(genes.itertuples()):
            own = (pairs["gene_id"] == gene.name) & (pairs["tss"] == gene.tss) & (pairs["chrom"] == gene.chrom)
            for name, values in scores_of(model, windows, row, pairs[own]).items():
                found.setdefault(name, np.full(len(pairs), np.nan))[np.flatnonzero(own)] = values
    scored = pairs.assign(**found)
    near = contact_by_distance(pairs["distance"])
    scored["distance to TSS"] = -pairs["distance"]
    scored[BASELINE] = scored["activity"] * near
    scored["ln(activity + 1) x distance^-0.87"] = np.log1p(scored["activity"]) * near
    scored["activity x distance^-0.87, table's reads"] = pairs["reads"]
    per_gene = scored.groupby("gene_id")[BASELINE].transform("sum")
    scored["the same, share of the gene's tested elements"] = scored[BASELINE] / np.maximum(per_gene, 1e-12)
    amount = np.sqrt(10 ** scored["predicted"])  # square root of (RPKM + 1)
    scored[f"{BASELINE} / expression"] = scored[BASELINE] / amount
    scored["mask x contact"] = scored["mask"] * near
    scored["evidence x contact"] = scored["evidence"] * near
    scored["evidence x contact / expression"] = scored["evidence x contact"] / amount
    scored["mask x contact / expression"] = scored["mask x contact"] / amount
    scored["effect x contact"] = scored["effect"] * near
    scored["mask x contact + effect (ranks)"] = scored["mask x contact"].rank() + scored["effect"].rank()
    return scored


def scores_of(
    model: Seq2Exp, windows: WindowDataset, row: int, pairs: pd.DataFrame
) -> Mapping[str, np.ndarray[Any, Any]]:
    """Return mask, masked-out effect, predicted expression and activity of the pairs of one window."""
    window = windows[row]
    inputs = [torch.from_numpy(array)[None] for array in (window.onehot, window.signals, window.features)]
    output = model(*inputs)
    assert output.mask is not None
    mask, length = output.mask, len(window.onehot)
    raw = {name: windows.tracks[name].values(window.chrom, window.start, window.end) for name in TRACKS}
    odds = (output.z.alpha / output.z.beta)[0] if output.z is not None else mask[0] / (1 - mask[0])
    background = float(odds.median())
    names = ("mask", "evidence", "effect", "predicted", "activity")
    found: dict[str, list[float]] = {name: [] for name in names}
    for pair in pairs.itertuples():
        spans = {
            flank: slice(
                max(min(pair.start, pair.middle - flank) - window.start, 0),
                min(max(pair.end, pair.middle + flank) - window.start, length),
            )
            for flank in {DNASE_FLANK_BP, H3K27AC_FLANK_BP, EFFECT_FLANK_BP}
        }
        without = mask.clone()
        without[:, spans[EFFECT_FLANK_BP]] = 0
        without[:, model.promoter(length)] = 1
        found["mask"].append(float(mask[0, spans[EFFECT_FLANK_BP]].mean()))
        found["evidence"].append(float(odds[spans[EFFECT_FLANK_BP]].mean()) - background)
        found["effect"].append(float(output.expression[0] - model(*inputs, mask=without).expression[0]))
        found["predicted"].append(float(output.expression[0]))
        dnase, h3k27ac = raw["dnase"][spans[DNASE_FLANK_BP]].mean(), raw["h3k27ac"][spans[H3K27AC_FLANK_BP]].mean()
        found["activity"].append(float(np.sqrt(dnase * h3k27ac)))
    return {name: np.array(values) for name, values in found.items()}


SHOWN = (
    "mask", "effect", "mask x contact", "mask x contact / expression", "evidence x contact",
    "evidence x contact / expression", "effect x contact",
    "mask x contact + effect (ranks)", "distance to TSS", "activity", BASELINE, "ln(activity + 1) x distance^-0.87",
    f"{BASELINE} / expression", "the same, share of the gene's tested elements",
    "activity x distance^-0.87, table's reads",
)  # fmt: skip


def ranked(scored: pd.DataFrame) -> dict[str, Any]:
    """Rank the pairs of each distance bin by every score, each against the baseline on the same tracks."""
    table: dict[str, Any] = {}
    for label, (low, high) in BINS.items():
        part = scored[(scored["distance"] >= low) & (scored["distance"] < high)]
        labels, genes = part["regulated"].to_numpy(bool), part["gene_id"].to_numpy(str)
        scores = {name: part[name].to_numpy(np.float64) for name in SHOWN}
        rankings = rank_scores(labels, scores, groups=genes)
        rows = {}
        for name, values in scores.items():
            auprc, gain = rankings[name].auprc, auprc_difference(labels, scores[BASELINE], values, groups=genes)
            rows[name] = {
                "auprc": [auprc.value, auprc.low, auprc.high],
                "minus_baseline": [gain.value, gain.low, gain.high],
            }
        table[label] = {"pairs": len(part), "positives": int(labels.sum()), "rows": rows}
    return table


def render(results: dict[str, Any]) -> str:
    """Lay the results out as Markdown."""
    lines = [
        "# CRISPRi-tested pairs",
        "",
        f"Written by `SEQ2EXP_DATA=... python benchmarks/crispri.py --model {results['model']}` (weights SHA-256 "
        f"`{results['sha256']}`, pairs `{results['pairs']}`, load {results['load']:.1f}). AUPRC with 95 % intervals, "
        "1,000 bootstrap resamples of genes; in the second line of a cell the difference to "
        f"'{BASELINE}' on the same resamples.",
        "",
        "Windows are centred on the TSS of the pairs' table. Mask: its mean over the element, at least +-500 bp. "
        "Evidence: alpha / beta of the network's z there, less the window's median: unlike the mask it does not level "
        "off. Effect: the fall of the predicted label when the mask is set to 0 there. Contact: distance^-0.87. "
        "'/ expression': divided by the square root of the predicted RPKM + 1: an element matters less for a gene "
        "that is strongly expressed without it. Activity: square root of DNase (+-250 bp) x H3K27ac (+-500 bp).",
        "",
        "No CRISPRi label was used in training. The forms of 'evidence' and of '/ expression' (no division, the square "
        "root, the whole) were chosen by looking at these pairs with an earlier network; the second table leaves out "
        "chr22 and chrX.",
        "",
    ]
    for part in ("all", "without test chromosomes"):
        table = results[part]
        heads = [f"{label}: {bin_['pairs']:,} ({bin_['positives']} positive)" for label, bin_ in table.items()]
        lines += [
            f"## {part.capitalize()}",
            "",
            "| score | " + " | ".join(heads) + " |",
            "|---" * (len(heads) + 1) + "|",
        ]
        for name in SHOWN:
            cells = []
            for bin_ in table.values():
                row = bin_["rows"][name]
                cells.append(f"{interval(row['auprc'])}<br>{interval(row['minus_baseline'], signed=True)}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def interval(values: list[float], *, signed: bool = False) -> str:
    """Write a number with its interval."""
    sign = "+" if signed else ""
    return f"{values[0]:{sign}.3f} [{values[1]:{sign}.3f}, {values[2]:{sign}.3f}]"


if __name__ == "__main__":
    main()
