"""Do mask and effects find the elements that CRISPRi finds: K562 pairs at 1-100 kb, genome-wide.

    SEQ2EXP_DATA=... python benchmarks/crispri.py [--model K562 ...] [--pairs hg19/crispri_K562_training.hg19.tsv.gz]
        [--held-out hg19/crispri_heldout.hg19.tsv.gz]

Several models are an ensemble: the mean of their masks, evidence, effects and predictions. Windows are centred on the
TSS of the pairs' own table. Ranks pairs by the mask of a network, by its masked-out effect and by both with contact,
beside baselines on the same tracks and on the table's reads, and writes crispri.md, crispri.json and crispri_pairs.tsv
beside this script. No CRISPRi label was used in training; what of the scores was chosen by looking at these pairs is
said in the page. The held-out pairs, K562 pairs of other studies, served no choice. Intervals: 95 %, 1,000 bootstrap
resamples of genes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kipoi_seq2exp import load_model
from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.pairs import read_pairs
from kipoi_seq2exp.data.tables import write_tsv
from kipoi_seq2exp.data.tracks.contacts import GAMMA
from kipoi_seq2exp.files import file_sha256, make_folder, write_text
from kipoi_seq2exp.judge.ranking import auprc_difference, rank_scores
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.prediction.masking import predict_masked
from kipoi_seq2exp.zoo.models import find_weights

HERE = Path(__file__).parent
BINS = {"1-100 kb": (1_000, 100_001), "1-10 kb": (1_000, 10_000), "10-30 kb": (10_000, 30_000),
        "30-100 kb": (30_000, 100_001)}  # fmt: skip
DNASE_FLANK_BP, H3K27AC_FLANK_BP, EFFECT_FLANK_BP = 250, 500, 500  # of an element's middle; wider elements count whole
VALIDATION, TEST = ("chr3", "chr21"), ("chr22", "chrX")  # of the networks' split
NEAREST_BP = 1_000  # distances below count as this in the sum over a gene's peaks
BASELINE = "activity x distance^-0.87"
ABC = "ABC: the same / its sum over the DNase peaks of the window"
MASK_SHARE = "mask x contact / its sum over the window"
EVIDENCE_SHARE = "evidence x contact / its sum over the window"
READS = "activity x distance^-0.87, table's reads"
CELL_TYPE, HELD_OUT = "K562", "held-out pairs, of other studies"
FASTA = "hg19/hg19.parts.fa.gz"
TRACKS = {"h3k27ac": "hg19/K562.h3k27ac.bw", "dnase": "hg19/K562.dnase.bw"}
OPTIONAL = {
    "h3k27ac_reference": "hg19/GM12878.h3k27ac.bw",
    "dnase_reference": "hg19/GM12878.dnase.bw",
    "h3k4me3": "hg19/K562.h3k4me3.bw",
    "h3k4me1": "hg19/K562.h3k4me1.bw",
}  # if the weights read them


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["K562"], help="served models or .safetensors files")
    parser.add_argument("--pairs", default="hg19/crispri_K562_training.hg19.tsv.gz")
    parser.add_argument("--held-out", default="hg19/crispri_heldout.hg19.tsv.gz", help="pairs that served no choice")
    parser.add_argument("--genes", default="hg19/genes.tsv", help="table that gives the strand of each gene")
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    args = parser.parse_args()
    if "SEQ2EXP_DATA" not in os.environ:
        parser.exit(2, "crispri.py: set SEQ2EXP_DATA to the folder with hg19/ in it.\n")
    data = Path(os.environ["SEQ2EXP_DATA"])
    pairs = chosen_pairs(data / args.pairs, data / args.genes)
    held_out = without_shared(chosen_pairs(data / args.held_out, data / args.genes), pairs)
    models = [load_model(name, "cpu") for name in args.model]
    scored, others = (score_pairs(models, table, data) for table in (pairs, held_out))
    results: dict[str, Any] = {"command": shlex.join(sys.argv), "pairs": args.pairs, "load": os.getloadavg()[0]}
    results["held_out"] = args.held_out
    results["weights"] = [
        {"source": name, "sha256": file_sha256(find_weights(name)), "trained_on": model.provenance.trained_on}
        for name, model in zip(args.model, models, strict=True)
    ]
    results["parts"] = {name: ranked(scored[chosen]) for name, chosen in parts_of(scored["chrom"]).items()}
    results["parts"] = {"all": results["parts"].pop("all"), HELD_OUT: ranked(others), **results["parts"]}
    make_folder(args.output)
    write_tsv(
        pd.concat([scored.assign(held_out=False), others.assign(held_out=True)]),
        args.output / "crispri_pairs.tsv",
        [f"python {results['command']}"],
    )
    write_text(args.output / "crispri.json", json.dumps(results, indent=1) + "\n")
    write_text(args.output / "crispri.md", render(results))


def parts_of(chrom: pd.Series[Any]) -> dict[str, pd.Series[Any]]:
    """Return the pairs of each part of the networks' split: scores may be chosen on the first two alone."""
    validation, test = chrom.isin(VALIDATION), chrom.isin(TEST)
    return {
        "all": chrom.notna(),
        "training chromosomes": ~(validation | test),
        "validation chromosomes (chr3, chr21)": validation,
        "test chromosomes (chr22, chrX)": test,
    }


def chosen_pairs(path: Path, genes: Path) -> pd.DataFrame:
    """Return the valid K562 pairs whose element's middle lies 1 to 100 kb from the TSS, with strand and read counts."""
    pairs = read_pairs(path)
    raw = pd.read_csv(path, sep="\t")
    raw = raw[raw["ValidConnection"].astype(str).str.lower() == "true"].reset_index(drop=True)
    own = raw["CellType"] == CELL_TYPE
    pairs, raw = pairs[own].reset_index(drop=True), raw[own].reset_index(drop=True)
    pairs["middle"] = (pairs["start"] + pairs["end"]) // 2
    pairs["distance"] = (pairs["middle"] - pairs["tss"]).abs()
    reads = raw["DHS.RPM"] * raw["H3K27ac.RPM.expandedRegion"]
    pairs["reads"] = np.sqrt(reads.to_numpy(np.float64)) * contact_by_distance(pairs["distance"])
    strands = pd.read_csv(genes, sep="\t").set_index("gene_id")["strand"]
    pairs["strand"] = pairs["gene_id"].map(strands).fillna("+")
    low, high = BINS["1-100 kb"]
    return pairs[(pairs["distance"] >= low) & (pairs["distance"] < high)].reset_index(drop=True)


def without_shared(pairs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Leave out the pairs whose element overlaps, for the same gene, one of the other pairs."""
    met = pairs.reset_index().merge(others, on=["gene_id", "chrom"], suffixes=("", "_other"))
    shared = met.loc[(met["start"] < met["end_other"]) & (met["end"] > met["start_other"]), "index"]
    return pairs.drop(index=shared.unique()).reset_index(drop=True)


def contact_by_distance(distance: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Return the power law of distance, in arbitrary units."""
    return distance.to_numpy(np.float64) ** -GAMMA


def near_contact(offset: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the power law at offsets from the TSS, the nearest as at `NEAREST_BP`: for sums over a window."""
    return np.maximum(np.abs(offset), NEAREST_BP).astype(np.float64) ** -GAMMA


def score_pairs(models: list[Seq2Exp], pairs: pd.DataFrame, data: Path) -> pd.DataFrame:
    """Add a column per score; a window is read once for each gene and TSS."""
    inputs = models[0].inputs
    assert inputs is not None
    keys = ["gene_id", "chrom", "tss", "strand"]
    genes = pairs[keys].drop_duplicates().reset_index(drop=True)
    genes["name"] = genes["gene_id"]
    genes["gene_id"] = [f"{gene}_{row}" for row, gene in enumerate(genes["gene_id"])]
    files = {**TRACKS, **{name: path for name, path in OPTIONAL.items() if name in inputs.track_names}}
    sources = {**{name: data / path for name, path in files.items()}, "hic": "powerlaw"}
    windows = WindowDataset(inputs, genes, data / FASTA, sources)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for row, gene in enumerate(genes.itertuples()):
        own = ((pairs["gene_id"] == gene.name) & (pairs["tss"] == gene.tss) & (pairs["chrom"] == gene.chrom)).to_numpy()
        window, of_gene = windows[row], pairs[own]
        each = [scores_of(model, window, of_gene) for model in models]
        columns = {name: np.mean([scores[name] for scores in each], axis=0) for name in each[0]}
        for name, values in {**columns, **track_scores(windows, window, of_gene)}.items():
            found.setdefault(name, np.full(len(pairs), np.nan))[own] = values
    return with_contact(pairs.assign(**found))


def with_contact(scored: pd.DataFrame) -> pd.DataFrame:
    """Add the scores that follow from others and from distance."""
    near = contact_by_distance(scored["distance"])
    scored["distance to TSS"] = -scored["distance"]
    scored[BASELINE] = scored["activity"] * near
    scored[ABC] = scored[BASELINE] / np.maximum(scored["sum over peaks"], 1e-12)
    scored[READS] = scored["reads"]
    scored["mask x contact"] = scored["mask"] * near
    scored["evidence x contact"] = scored["evidence"] * near
    scored["effect x contact"] = scored["effect"] * near
    scored[MASK_SHARE] = scored["probability"] * near / scored["sum of probability"]
    scored[EVIDENCE_SHARE] = scored["evidence x contact"] / np.maximum(scored["sum of evidence"], 1e-12)
    scored["mask x contact + effect (ranks)"] = scored["mask x contact"].rank() + scored["effect"].rank()
    amount = np.sqrt(10 ** scored["predicted"])  # square root of (RPKM + 1)
    for name in (BASELINE, "mask x contact", "evidence x contact"):
        scored[f"{name} / expression"] = scored[name] / amount
    return scored


def spans_of(pairs: pd.DataFrame, flank: int, window: WindowInputs) -> list[slice]:
    """Return the bases of each element, or those within `flank` of its middle where they are more, in the window."""
    length = len(window.onehot)
    return [
        slice(
            max(min(pair.start, pair.middle - flank) - window.start, 0),
            min(max(pair.end, pair.middle + flank) - window.start, length),
        )
        for pair in pairs.itertuples()
    ]


def scores_of(model: Seq2Exp, window: WindowInputs, pairs: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a network says of the pairs of one window: mask, evidence, masked-out effect, prediction."""
    inputs = [torch.from_numpy(array)[None] for array in (window.onehot, window.signals, window.features)]
    with torch.inference_mode():
        output = model(*inputs)
    assert output.mask is not None
    assert output.z is not None
    mask, odds = output.mask[0].numpy(), (output.z.alpha / output.z.beta)[0].numpy()
    chance, excess = output.z.mean[0].numpy(), np.maximum(odds - np.median(odds), 0)
    contact = near_contact(np.arange(window.start, window.end) - window.tss)
    spans, predicted, promoter = spans_of(pairs, EFFECT_FLANK_BP, window), float(output.expression[0]), model.promoter
    without = [np.array(mask) for _ in spans]
    for changed, span in zip(without, spans, strict=True):
        changed[span] = 0
        changed[promoter(len(mask))] = 1
    return {
        "mask": np.array([mask[span].mean() for span in spans]),
        "evidence": np.array([odds[span].mean() for span in spans]) - np.median(odds),
        "effect": predicted - predict_masked(model, window, without),
        "probability": np.array([chance[span].mean() for span in spans]),
        "predicted": np.full(len(spans), predicted),
        "sum of probability": np.full(len(spans), float(chance @ contact)),
        "sum of evidence": np.full(len(spans), float(excess @ contact)),
    }


def track_scores(windows: WindowDataset, window: WindowInputs, pairs: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    """Return the activity of the pairs of one window, and activity x contact over all DNase peaks of the window."""
    raw = {name: windows.tracks[name].values(window.chrom, window.start, window.end) for name in TRACKS}
    activity = [
        np.sqrt(raw["dnase"][near].mean() * raw["h3k27ac"][wide].mean())
        for near, wide in zip(
            spans_of(pairs, DNASE_FLANK_BP, window), spans_of(pairs, H3K27AC_FLANK_BP, window), strict=True
        )
    ]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], raw["dnase"] > 0, [0]])))
    start, end = edges[::2], edges[1::2]
    middle, sums = (start + end) // 2, np.concatenate([[0], np.cumsum(raw["h3k27ac"], dtype=np.float64)])
    low, high = np.maximum(middle - H3K27AC_FLANK_BP, 0), np.minimum(middle + H3K27AC_FLANK_BP, len(sums) - 1)
    peak = np.sqrt(raw["dnase"][middle] * (sums[high] - sums[low]) / (high - low))
    total = float(peak @ near_contact(window.start + middle - window.tss))
    return {"activity": np.array(activity), "sum over peaks": np.full(len(pairs), total)}


SHOWN = (
    "mask", "effect", "mask x contact", "mask x contact / expression", "evidence x contact",
    "evidence x contact / expression", "effect x contact",
    "mask x contact + effect (ranks)", "distance to TSS", "activity", BASELINE,
    MASK_SHARE, EVIDENCE_SHARE, f"{BASELINE} / expression", ABC, READS,
)  # fmt: skip


def ranked(scored: pd.DataFrame) -> dict[str, Any]:
    """Rank the pairs of each distance bin by every score, each against the baseline on the same tracks."""
    table: dict[str, Any] = {}
    for label, (low, high) in BINS.items():
        part = scored[(scored["distance"] >= low) & (scored["distance"] < high)]
        if part["regulated"].nunique() < 2:  # nothing to rank
            continue
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
        f"Written by `SEQ2EXP_DATA=... python {results['command']}` (pairs `{results['pairs']}`, load "
        f"{results['load']:.1f}). AUPRC with 95 % intervals, 1,000 bootstrap resamples of genes (seed 0); in the "
        f"second line of a cell the difference to '{BASELINE}' on the same resamples.",
        "",
        *(f"- weights `{one['source']}`, SHA-256 `{one['sha256']}`; {one['trained_on']}" for one in results["weights"]),
        "",
        "Windows are centred on the TSS of the pairs' table. Mask: its mean over the element, at least +-500 bp. "
        "Evidence: alpha / beta of the network's z there, less the window's median: unlike the mask it does not level "
        "off. Effect: the fall of the predicted label when the mask is set to 0 there. Contact: distance^-0.87. "
        "'/ expression': divided by the square root of the predicted RPKM + 1: an element matters less for a gene "
        "that is strongly expressed without it. Activity: square root of DNase (+-250 bp) x H3K27ac (+-500 bp). A gene "
        "whose strand is not in the gene table is read on the + strand. 'Its sum over the window': of the mean of z "
        "(the mask before the promoter is added) or of the evidence times contact over all bases, as the ABC "
        f"score divides by the sum over a gene's DNase peaks; distances below {NEAREST_BP:,} bp count as that.",
        "",
        "No CRISPRi label was used in training. The forms of 'evidence' and of '/ expression' (no division, the square "
        "root, the whole) were chosen by looking at these pairs, of all chromosomes, with an earlier network: scores "
        "of these two forms are not free of that choice in any table. The forms divided by their sum over the window "
        "were added after ABC, which needs no network, was seen to win on all pairs. The held-out pairs "
        f"(`{results['held_out']}`, those of {CELL_TYPE}) are of other studies, and served no choice; pairs whose "
        "element overlaps one above for the same gene are left out.",
        "",
    ]
    for part, table in results["parts"].items():
        if not table:
            continue
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
