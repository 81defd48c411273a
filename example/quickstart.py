"""Predict expression and elements of a few genes in Python: on the real example, or on any data given its paths.

    python example/quickstart.py
    python example/quickstart.py --fasta hg38.fa --genes genes.tsv --h3k27ac k27.bw --dnase dnase.bw --hic powerlaw
    python example/quickstart.py --kipoi        # the same through Kipoi, after `seq2exp register`

Both ways print one line per gene: its id, the predicted expression in the weights' unit, and the share of the window
that the network read (the mean of its mask).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from kipoi_seq2exp.errors import Seq2ExpError

EXAMPLE = Path(__file__).resolve().parent / "human"


def with_the_package(paths: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Predict with kipoi_seq2exp alone."""
    import torch

    from kipoi_seq2exp import WindowDataset, load_model

    model = load_model(paths.model)
    sources = {"h3k27ac": paths.h3k27ac, "dnase": paths.dnase, "hic": paths.hic}
    with WindowDataset(
        model.inputs, paths.genes, paths.fasta, sources, paths.blacklist, paths.missing_features, paths.gene_ids
    ) as windows:
        for window in windows:
            arrays = (window.onehot, window.signals, window.features, window.blacklist)
            with torch.inference_mode():
                output = model(*(torch.from_numpy(array)[None] for array in arrays))
            yield window.gene_id, output.expression.item(), output.mask.mean().item()


def with_kipoi(paths: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Predict as any model of the Kipoi zoo predicts."""
    import kipoi

    model = kipoi.get_model(f"Seq2Exp/{paths.model}")
    arguments = {
        "genes_file": paths.genes,
        "fasta_file": paths.fasta,
        "h3k27ac_file": paths.h3k27ac,
        "dnase_file": paths.dnase,
        "hic_file": paths.hic,
        "blacklist_file": paths.blacklist,
        "missing_features": paths.missing_features,
        "gene_ids": paths.gene_ids,
    }
    loader = model.default_dataloader(**{name: value for name, value in arguments.items() if value is not None})
    for batch in loader.batch_iter(batch_size=1):
        output = model.predict_on_batch(batch["inputs"])
        yield batch["metadata"]["gene_id"][0], output["expression"].item(), output["element_mask"].mean().item()


def main() -> None:
    """Read the paths, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="K562", help="a served model, or (without --kipoi) a .safetensors file")
    parser.add_argument("--genes", default=str(EXAMPLE / "genes.tsv"), help="TSV, BED6 or GTF")
    parser.add_argument("--fasta", default=str(EXAMPLE / "genome.fa.gz"))
    parser.add_argument("--h3k27ac", default=str(EXAMPLE / "K562.h3k27ac.bw"), help="bigWig, bedGraph or peaks")
    parser.add_argument("--dnase", default=str(EXAMPLE / "K562.dnase.bw"), help="bigWig, bedGraph or peaks")
    parser.add_argument("--hic", default="powerlaw", help=".cool, .mcool, .hic or the word powerlaw")
    parser.add_argument("--blacklist", help="BED of bases that the mask may not keep")
    parser.add_argument("--missing-features", default="error", choices=["error", "mean"])
    parser.add_argument("--gene-ids", nargs="+", help="predict only these genes")
    parser.add_argument("--kipoi", action="store_true", help="go through Kipoi")
    paths = parser.parse_args()
    try:
        rows = (with_kipoi if paths.kipoi else with_the_package)(paths)
        for number, (gene_id, expression, kept) in enumerate(rows):
            if number == 0:
                print("gene_id\texpression\tkept_fraction")
            print(f"{gene_id}\t{expression:.4f}\t{kept:.4f}", flush=True)
    except Seq2ExpError as error:
        parser.exit(1, f"quickstart: {error}\n")


if __name__ == "__main__":
    main()
