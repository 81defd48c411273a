"""`seq2exp report`: one page of a gene set, and the same tracks for IGV and pyGenomeTracks."""

from __future__ import annotations

import argparse
from pathlib import Path

from kipoi_seq2exp.commands import options
from kipoi_seq2exp.commands.options import Say, Subparsers
from kipoi_seq2exp.errors import counted

_DESCRIPTION = """Write one page about a set of predicted genes: a table to sort, a scatter plot, loci to zoom into.

  seq2exp report results/ --gtf genes.gtf.gz -o report/

writes into report/
  report.html        opens from disk, without a network connection
  report_loci/       the loci of more than 300 genes, a file each; keep it beside the page
  igv_session.xml    genes, CRISPRi pairs, tracks, mask and elements for IGV, by paths relative to the folder
  tracks.ini         the same without the pairs, for pyGenomeTracks
"""


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = options.add_command(
        subparsers, "report", "write one page about a gene set, and browser sessions", _DESCRIPTION
    )
    parser.set_defaults(run=run)
    parser.add_argument("results", type=Path, metavar="RESULTS", help=options.RESULTS)
    parser.add_argument("--title", default="Seq2Exp", metavar="TEXT", help="heading of the page (default: Seq2Exp)")
    drawn = parser.add_argument_group("what is shown besides (tracks by default from where the results had them)")
    drawn.add_argument("--gtf", type=Path, metavar="GTF", help="gene models to draw")
    options.add_crispri_option(drawn)
    options.add_track_options(drawn)
    options.add_call_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the page")
    options.add_overwrite_option(parser)


def run(args: argparse.Namespace, say: Say) -> int:
    """Write the page and the sessions."""
    from kipoi_seq2exp.api import read_results
    from kipoi_seq2exp.data.pairs import read_pairs
    from kipoi_seq2exp.data.tables import write_lines, write_tsv
    from kipoi_seq2exp.elements.mask_track import write_mask_track
    from kipoi_seq2exp.elements.outputs import ELEMENTS, TRACK, as_texts, describe_lines, summarise
    from kipoi_seq2exp.files import check_absent, make_folder, whole_file
    from kipoi_seq2exp.view.locus import Surroundings
    from kipoi_seq2exp.view.report import build_page
    from kipoi_seq2exp.view.sessions import PAIRS, crispri_lines, genome_tracks_ini, igv_session, shown_files

    calls = options.call_settings(args)
    around = Surroundings(options.track_sources(args), gtf=args.gtf, crispri=args.crispri)
    made = ("report.html", "igv_session.xml", "tracks.ini", ELEMENTS, TRACK, PAIRS)
    check_absent([args.output / name for name in made], overwrite=args.overwrite)
    with read_results(args.results) as predictions:
        with options.gene_bar(predictions) as on_gene:
            page = build_page(predictions, calls, around, args.title, args.output, on_gene)
        make_folder(args.output)
        mask = elements = None
        if predictions.has_mask:
            elements = args.output / ELEMENTS
            header = describe_lines(predictions.provenance, calls)
            write_tsv(as_texts(summarise(predictions, calls).elements), elements, header, comment_names=True)
        if predictions.has_mask and "chrom_lengths" in predictions.provenance:
            mask = args.output / TRACK
            with whole_file(mask) as temporary:
                write_mask_track(predictions, temporary)
        files, pairs = {"report.html": page}, None
        if args.crispri is not None:
            pairs = args.output / PAIRS
            loci = [predictions.locus(index) for index in range(len(predictions))]
            write_lines(crispri_lines(read_pairs(args.crispri), loci), pairs)
        shown = shown_files(predictions, around, mask, elements, pairs)
        files["igv_session.xml"] = igv_session(predictions, shown, args.output)
        files["tracks.ini"] = genome_tracks_ini(shown)
        for name, text in files.items():
            write_lines(text.removesuffix("\n").split("\n"), args.output / name)
        say(f"{counted(len(predictions), 'gene')}; written: " + ", ".join(str(args.output / name) for name in files))
    return 0
