"""`seq2exp perturb`: how predictions change when stretches of DNA are silenced, shuffled or replaced."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands import options
from kipoi_seq2exp.commands.options import Say, Subparsers
from kipoi_seq2exp.commands.work import open_inputs, say_without_dna
from kipoi_seq2exp.errors import ConfigError, counted
from kipoi_seq2exp.files import file_name

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.effects.perturb import PerturbSettings, Site
    from kipoi_seq2exp.nn.network import Seq2Exp
    from kipoi_seq2exp.prediction.request import PredictRequest

_DESCRIPTION = """Predict genes without stretches of DNA, as if silenced in a CRISPRi screen, or with a motif inserted.

  seq2exp perturb K562 --regions elements.bed --fasta genome.fa --genes genes.tsv --track ... -o out/
  seq2exp perturb K562 --tile chr22:39,000,001-39,100,000 --width 1000 --step 500 ... --plot png -o out/
  seq2exp perturb K562 --insert TGACTCA --at chr22:39,077,001 ... -o out/

What is done to each site, for each gene whose window holds a base of it (--how):
  mask     the encoder does not see it, as CRISPRi silences an element (default; as `elements --perturb` does)
  tracks   its signal is 0 in every track except contacts; features computed from tracks change too
  dna      its DNA is shuffled, dinucleotide counts preserved; mean over --shuffles
  all      all three

To choose elements for an experiment, use regulatory_score of `seq2exp elements`: it agreed best with CRISPRi.

writes into out/
  perturb.tsv        a row per site and gene: expression, expression without, difference
  GENE.perturb.bw    difference at every base of a site (the mean where sites overlap)
  GENE.perturb.png   tracks, mask and differences of each gene (--plot)
"""
TABLE = "perturb.tsv"


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = options.add_command(subparsers, "perturb", "predict genes without stretches of DNA", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help=options.MODEL)
    sites = parser.add_argument_group("sites (one of --regions, --tile and --insert)")
    sites.add_argument("--regions", type=Path, metavar="BED", help="the sites; a fourth column names them")
    sites.add_argument("--tile", metavar="CHR:FIRST-LAST", help="cover a locus (counted from 1) with sites")
    sites.add_argument(
        "--width", type=options.BASES, default=1_000, metavar="BP", help="length of each site (default: 1000)"
    )
    sites.add_argument(
        "--step",
        type=options.BASES,
        default=500,
        metavar="BP",
        help="distance from one site to the next (default: 500)",
    )
    sites.add_argument("--insert", metavar="MOTIF", help="replace the bases at --at by these letters")
    sites.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="CHR:BASE",
        help="first base of the motif (counted from 1); may be repeated",
    )
    sites.add_argument("--strand", choices=("+", "-"), default="+", help="strand of the motif (default: +)")
    parser.add_argument(
        "--how", choices=("mask", "tracks", "dna", "all"), help="what is done to each site (default: mask)"
    )
    parser.add_argument(
        "--shuffles",
        type=options.SHUFFLES,
        default=10,
        metavar="N",
        help="shuffles of the DNA of each site (default: 10)",
    )
    parser.add_argument("--seed", type=options.SEED, default=0, metavar="N", help="seed of the shuffles (default: 0)")
    parser.add_argument("--plot", choices=options.PICTURES, help="draw each gene in this format")
    parser.add_argument("--gtf", type=Path, metavar="GTF", help="gene models to draw")
    options.add_input_options(parser)
    options.add_network_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    options.add_overwrite_option(parser)


def run(args: argparse.Namespace, say: Say) -> int:
    """Perturb and write."""
    import pandas as pd

    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.effects.perturb import How, effect_of_bases, perturb_gene, reaches
    from kipoi_seq2exp.elements.mask_track import write_window
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.errors import InputError
    from kipoi_seq2exp.files import check_absent, make_folder
    from kipoi_seq2exp.prediction.masking import effect_line
    from kipoi_seq2exp.prediction.run import batch_size_for

    settings, sites = settings_of(args), sites_of(args)
    check_absent([args.output / TABLE], overwrite=args.overwrite)
    with open_inputs(args, say) as opened:
        request, model, dataset = opened.request, opened.model, opened.dataset
        reached = {
            row: count for row in range(len(dataset)) if (count := sum(reaches(s, dataset.window(row)) for s in sites))
        }
        if not reached:
            raise InputError(
                f"no site lies in the window of a gene ({counted(len(sites), 'site')}, "
                f"{counted(len(dataset), 'gene')}, {dataset.inputs.window_bp // 2:,} bp to either side of each TSS)."
            )
        if settings.how in (How.DNA, How.INSERT):
            say_without_dna(model, say, "other letters change nothing")
        size, tables, files = batch_size_for(request, model, dataset), [], []
        with options.progress_bar(sum(reached.values()), 0, "site") as bar:
            for row in reached:
                found = perturb_gene(model, dataset, row, sites, settings, size, lambda: bar.update() and None)
                make_folder(args.output)
                tables.append(found)
                files.append(args.output / f"{file_name(str(dataset.genes['gene_id'].iloc[row]))}.perturb.bw")
                window = dataset[row]
                write_window(files[-1], dataset.genome.lengths, window, effect_of_bases(window, found))
                if args.plot is not None:
                    files.append(_draw(args, request, model, dataset, row, found))
    table = pd.concat(tables, ignore_index=True)
    header = [status_line(args.model, model.provenance.status), dataset.inputs.label, what_was_done(settings)]
    write_tsv(table, args.output / TABLE, header)
    used = len(table[["chrom", "start", "end"]].drop_duplicates())
    say(f"{used} of {counted(len(sites), 'site')}, {counted(len(reached), 'gene')}")
    changes = table["delta_expression"].to_numpy(float)
    say(effect_line(changes[changes == changes], "sites perturbed one by one"))
    say(f"written: {options.written_files([args.output / TABLE], files)}")
    return 0


def settings_of(args: argparse.Namespace) -> PerturbSettings:
    """Turn the options into settings.

    Raises
    ------
    ConfigError
        If they do not go together.
    """
    from kipoi_seq2exp.effects.perturb import How, PerturbSettings

    given = [name for name in ("regions", "tile", "insert") if getattr(args, name) is not None]
    if len(given) != 1:
        raise ConfigError(f"give the sites by one of --regions, --tile and --insert, found {len(given) or 'none'}.")
    if (args.insert is not None) != bool(args.at):
        raise ConfigError("--insert and --at go together: the letters, and the base where they begin.")
    if args.insert is not None and args.how is not None:
        raise ConfigError("--how and --insert exclude each other (--insert replaces letters): leave one out.")
    if args.gtf is not None and args.plot is None:
        raise ConfigError("--gtf is for the picture of --plot: give its format, or leave out --gtf.")
    how = How.INSERT if args.insert is not None else How(args.how or "mask")
    return PerturbSettings(how, args.shuffles, args.seed)


def sites_of(args: argparse.Namespace) -> list[Site]:
    """Return the sites that the options name.

    Raises
    ------
    ConfigError, InputError
        If they cannot be read.
    """
    from kipoi_seq2exp.data.regions import read_intervals
    from kipoi_seq2exp.data.windows import parse_position, parse_region
    from kipoi_seq2exp.effects.perturb import Site, insertion, tiles

    if args.regions is not None:
        table = read_intervals(args.regions, f"regions {args.regions}", names=True)
        return [Site(*row) for row in table[["chrom", "start", "end", "name"]].itertuples(index=False, name=None)]
    if args.tile is not None:
        locus = parse_region(args.tile, "--tile")
        return tiles(locus.chrom, locus.start, locus.end, args.width, args.step)
    return [insertion(*parse_position(text, "--at"), args.insert, args.strand) for text in args.at]


def what_was_done(settings: PerturbSettings) -> str:
    """Return a line on it for the reader of the table."""
    words = {
        "mask": "the mask of the site is 0, that of the promoter stays",
        "tracks": "the site's signal is 0 in every track but contacts",
        "dna": "the site's DNA is shuffled, dinucleotides kept",
        "all": "the site's mask and signal are 0, its DNA is shuffled",
        "insert": "the motif replaces the site's DNA",
    }[settings.how.value]
    shuffled = f"; mean of {settings.shuffles} shuffles, seed {settings.seed}" if settings.versions > 1 else ""
    return f"how: {words}{shuffled}; delta_expression: without the site minus with it"


def _draw(
    args: argparse.Namespace, request: PredictRequest, model: Seq2Exp, dataset: WindowDataset, row: int, found: Any
) -> Path:
    """Draw one gene."""
    from kipoi_seq2exp.view.locus import Surroundings, gather_window
    from kipoi_seq2exp.view.plots import plot_locus

    around = Surroundings(dict(request.sources), gtf=args.gtf, blacklist=args.blacklist)
    table: pd.DataFrame = found[["start", "end", "delta_expression"]].dropna()
    path: Path = args.output / f"{file_name(str(dataset.genes['gene_id'].iloc[row]))}.perturb.{args.plot}"
    plot_locus(gather_window(model, dataset, row, around, table, name=args.model, label=args.label), path)
    return path
