"""`seq2exp show` and `seq2exp plot`: predictions as a table, and as a picture of one locus."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import (
    RESULTS,
    Say,
    Subparsers,
    add_call_options,
    add_command,
    add_crispri_option,
    add_track_options,
    call_settings,
    track_sources,
)
from kipoi_seq2exp.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.prediction.store import Predictions

_SHOWN = 40


def add_to(subparsers: Subparsers) -> None:
    """Add both commands to the command line."""
    show = add_command(subparsers, "show", "show a table of the predicted genes, and draw one")
    show.set_defaults(run=run_show)
    show.add_argument("results", type=Path, metavar="RESULTS", help=RESULTS)
    show.add_argument("--plot", type=Path, metavar="PICTURE", help="draw one gene into this .png, .svg or .pdf")
    show.add_argument("--gene", metavar="ID", help="which gene to draw (default: the highest predicted)")
    show.add_argument("--all", action="store_true", help=f"list every gene, not the first {_SHOWN}")
    _add_surroundings(show)
    plot = add_command(subparsers, "plot", "draw one locus: genes, tracks, mask, elements, expression")
    plot.set_defaults(run=run_plot)
    plot.add_argument("gene", metavar="GENE", help="a predicted gene: its id, or its symbol where the results have it")
    plot.add_argument("--from", dest="results", type=Path, required=True, metavar="RESULTS", help=RESULTS)
    plot.add_argument("-o", "--output", type=Path, metavar="PICTURE", help=".png, .svg or .pdf (default: GENE.png)")
    _add_surroundings(plot)


def _add_surroundings(parser: argparse.ArgumentParser) -> None:
    drawn = parser.add_argument_group("what is drawn besides (tracks by default from where the results had them)")
    drawn.add_argument(
        "--genes",
        type=Path,
        metavar="GENES",
        help="the gene table, for observed labels and for outputs without metadata",
    )
    drawn.add_argument(
        "--label",
        metavar="COLUMN",
        help="column of --genes with the observed expression",
    )
    drawn.add_argument("--gtf", type=Path, metavar="GTF", help="gene models to draw")
    drawn.add_argument("--elements", type=Path, metavar="BED", help="known elements to draw beside the called ones")
    drawn.add_argument("--blacklist", type=Path, metavar="BED", help="bases that the mask may not keep")
    add_crispri_option(drawn)
    add_track_options(drawn)
    add_call_options(parser)


def run_show(args: argparse.Namespace, say: Say) -> int:
    """Print a row per gene; draw one gene if asked to."""
    from kipoi_seq2exp.elements.outputs import summarise
    from kipoi_seq2exp.view.locus import caption_of, unit_of

    with _open(args) as predictions:
        if not len(predictions):
            raise InputError(f"{predictions.path} holds no complete gene yet.")
        caption = caption_of(predictions.provenance)
        if caption:
            say(caption)
        genes = summarise(predictions, call_settings(args)).genes
        if "gene_name" in predictions.genes:
            genes.insert(1, "gene_name", predictions.genes["gene_name"])
        for line in table_lines(genes if args.all else genes.head(_SHOWN), unit_of(predictions.provenance)):
            say(line)
        if len(genes) > _SHOWN and not args.all:
            say(f"... and {len(genes) - _SHOWN} more (--all lists them)")
        if args.plot is not None:
            chosen = args.gene or str(genes["gene_id"][genes["expression"].idxmax()])
            _draw(args, predictions, chosen, args.plot, say)
    return 0


def run_plot(args: argparse.Namespace, say: Say) -> int:
    """Draw one gene."""
    from kipoi_seq2exp.files import file_name

    with _open(args) as predictions:
        _draw(args, predictions, args.gene, args.output or Path(f"{file_name(args.gene)}.png"), say)
    return 0


def table_lines(genes: pd.DataFrame, unit: str) -> list[str]:
    """Lay out the table of genes in columns."""
    from kipoi_seq2exp.data.windows import written

    columns = {
        "gene": genes["gene_id"].astype(str),
        **({"name": genes["gene_name"].astype(str).replace("", "-")} if "gene_name" in genes else {}),
        "TSS": [f"{written(c, t)} {s}" for c, t, s in zip(genes["chrom"], genes["tss"], genes["strand"], strict=True)],
        "predicted": [f"{value:.3f}" for value in genes["expression"]],
    }
    if "observed" in genes:
        columns["observed"] = ["-" if value != value else f"{value:.3f}" for value in genes["observed"]]
    if "kept_fraction" in genes:
        columns["kept"] = [f"{value:.2%}" for value in genes["kept_fraction"]]
        columns["elements"] = [str(value) for value in genes["n_elements"]]
    widths = {name: max(len(name), *map(len, values)) for name, values in columns.items()}
    left = ("gene", "name", "TSS")

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths.items(), strict=True)
        return "  ".join(f"{cell:<{width}}" if name in left else f"{cell:>{width}}" for cell, (name, width) in cells)

    rows = [line(row) for row in zip(*columns.values(), strict=True)]
    return [line(list(columns)), *rows, f"predicted{' and observed' * ('observed' in genes)}: {unit}"]


def _open(args: argparse.Namespace) -> Predictions:
    """Open the predictions, with the labels of the gene table if one is given."""
    from kipoi_seq2exp.data.genes import read_genes
    from kipoi_seq2exp.prediction.request import observed_label
    from kipoi_seq2exp.prediction.store import read_predictions

    if args.genes is None:
        if args.label is not None:
            raise InputError(f"--label {args.label}: give the gene table that holds it (--genes).")
        return read_predictions(args.results)
    table = read_genes(args.genes)
    predictions = read_predictions(args.results, table)
    if "gene_name" in table:
        predictions.genes["gene_name"] = _by_gene(predictions, table, table["gene_name"], "-")
    observed = observed_label(table, args.label)[1]
    if observed is not None:
        predictions.genes["observed"] = _by_gene(predictions, table, observed, float("nan"))
    return predictions


def _by_gene(predictions: Predictions, table: pd.DataFrame, values: Iterable[Any], absent: Any) -> list[Any]:
    """Put the values of a gene table into the order of the predictions."""
    by_gene = dict(zip(table["gene_id"], values, strict=True))
    return [by_gene.get(gene, absent) for gene in predictions.genes["gene_id"]]


def _draw(args: argparse.Namespace, predictions: Predictions, gene: str, path: Path, say: Say) -> None:
    from kipoi_seq2exp.view.locus import Surroundings, gather
    from kipoi_seq2exp.view.plots import plot_locus

    around = Surroundings(track_sources(args), args.gtf, args.elements, args.blacklist, args.crispri)
    plot_locus(gather(predictions, gene, call_settings(args), around), path)
    say(f"picture of {gene}: {path}")
