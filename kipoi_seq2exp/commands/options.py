"""Options that several commands share, and the settings that they become."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from kipoi_seq2exp.config import MOST_BATCH, MOST_BP, MOST_SEED, MOST_SHUFFLES, MaskMode, Products
from kipoi_seq2exp.errors import ConfigError, InputError, brief, excerpt

if TYPE_CHECKING:
    from kipoi_seq2exp.elements.calls import CallSettings
    from kipoi_seq2exp.prediction.request import PredictRequest

SHOWN = 60  # letters of an entry that an error quotes
LINE_S = 10.0  # between two lines of progress where there is no terminal
LINE = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
MODEL = "a served model (K562, GM12878) or a .safetensors file"
RESULTS = "predictions: a results folder, or an .h5 or .zarr of `kipoi predict --keep_metadata`"
SHOWN_GENES, SHOWN_FILES = 40, 20  # that a command names on the screen
PICTURES = ("png", "svg", "pdf")
Say = Callable[[str], None]
Number = TypeVar("Number", int, float)
Subparsers = Any  # argparse's own type of it is private


def add_command(subparsers: Subparsers, name: str, summary: str, description: str = "") -> argparse.ArgumentParser:
    """Add a command; options cannot be abbreviated, so that a misspelled one is an error."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_track_options(parser: argparse._ArgumentGroup) -> None:
    """Add --track and --tracks."""
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="file of a track; repeat the option for each: bigWig, bedGraph or called peaks (.narrowPeak, .broadPeak, "
        ".bed; their signal value, or FILE::COLUMN for another column, or FILE::presence for 1 in each peak); contacts "
        "as .cool, .mcool or .hic, or the word powerlaw if there is no Hi-C (e.g. --track dnase=dnase.bw --track "
        "hic=powerlaw)",
    )
    parser.add_argument(
        "--tracks",
        type=Path,
        metavar="YAML",
        help="the same as a YAML file with lines NAME: FILE, relative to that file; --track takes precedence",
    )


def add_cells_option(parser: argparse._ActionsContainer) -> None:
    """Add --cells."""
    parser.add_argument(
        "--cells",
        type=Path,
        metavar="YAML",
        help="your own table of cell types, in addition to the package's (new-cell)",
    )


def add_crispri_option(parser: argparse._ArgumentGroup) -> None:
    """Add --crispri."""
    parser.add_argument(
        "--crispri",
        type=Path,
        metavar="PAIRS",
        help="element-gene pairs tested by CRISPRi, in the ENCODE benchmark's format (.tsv, .tsv.gz)",
    )


def add_input_options(parser: argparse.ArgumentParser, *, required: bool = True) -> argparse._ArgumentGroup:
    """Add what a model reads; `required` says whether genome and genes must be given."""
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--fasta", type=Path, required=required, metavar="FASTA", help="the genome, plain or bgzipped")
    inputs.add_argument(
        "--genes",
        type=Path,
        required=required,
        metavar="GENES",
        help="table (gene_id, chrom, tss, strand, features), BED6 or GTF",
    )
    add_track_options(inputs)
    inputs.add_argument("--blacklist", type=Path, metavar="BED", help="bases that the mask may not keep")
    inputs.add_argument(
        "--missing-features",
        choices=("error", "mean"),
        default="error",
        help="if the table lacks a gene feature: stop (default), or use the mean of the training genes",
    )
    inputs.add_argument(
        "--gene-ids", nargs="+", metavar="ID", help="predict only these genes: ids, or symbols if the table has them"
    )
    inputs.add_argument("--gene-type", metavar="TYPE", help="only the genes of this type of a GTF, e.g. protein_coding")
    inputs.add_argument(
        "--label",
        metavar="COLUMN",
        help="column of the gene table with the observed expression",
    )
    inputs.add_argument(
        "--cell-type", metavar="CELL", help="row of the table of cell types, for weights that do not name their inputs"
    )
    add_cells_option(inputs)
    return inputs


def add_source_options(parser: argparse.ArgumentParser, *, flag: bool = False) -> None:
    """Add where predictions come from: a model with its inputs, or a result; `flag` makes the model an option."""
    if flag:
        parser.add_argument("--model", metavar="MODEL", help=MODEL)
    else:
        parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL)
    parser.add_argument("--from", dest="results", type=Path, metavar="RESULTS", help=RESULTS)
    add_input_options(parser, required=False)
    add_network_options(parser)
    add_overwrite_option(parser)


def add_overwrite_option(parser: argparse._ActionsContainer) -> None:
    """Add --overwrite, which every command has that could replace results; without it none does."""
    parser.add_argument("--overwrite", action="store_true", help="replace other results that are already there")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add how the network runs and how its mask is read."""
    network = parser.add_argument_group("network")
    network.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (default: CUDA where there is one)")
    network.add_argument(
        "--batch-size",
        type=_batch_size,
        metavar="N",
        help="windows per batch; changes only memory and speed (default: auto, one on the CPU, as many as fit on CUDA)",
    )
    network.add_argument(
        "--memory", metavar="SIZE", help="memory that a batch may use, e.g. 8GB (default: most of the free memory)"
    )
    network.add_argument(
        "--projections",
        choices=[products.value for products in Products],
        help="number type of large matrix products on a CPU: bfloat16 is faster if the processor supports it, and "
        "changes the mask by up to 2e-5 (default: that of the environment variable SEQ2EXP_PROJECTIONS, or float32)",
    )
    network.add_argument(
        "--mask-mode",
        choices=[mode.value for mode in MaskMode],
        help="how the mask follows from its probabilities (default: as trained)",
    )


def add_cluster_option(parser: argparse.ArgumentParser) -> None:
    """Add where to compute."""
    parser.add_argument(
        "--cluster",
        metavar="WHERE",
        help="predict in other processes: local:N on this machine, tcp://HOST:PORT of a Dask scheduler, or a YAML "
        "file of SLURM settings; the device is then cpu unless --device says otherwise",
    )


def bounded(kind: type[Number], low: Number, high: Number) -> Callable[[str], Number]:
    """Return a function that reads a number of the command line and refuses one beyond its bounds.

    Parameters
    ----------
    kind : int or float
    low, high : number
        The smallest and the largest number that is accepted.
    """
    what = "a whole number" if kind is int else "a number"

    def read(text: str) -> Number:
        try:
            number = kind(text)
            if text.isascii() and "_" not in text and low <= number <= high:  # not of a NaN
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {what} from {low:,} to {high:,}, found '{brief(text, 40)}'")

    return read


BASES = bounded(int, 1, MOST_BP)
GAP = bounded(int, 0, MOST_BP)
GENES = bounded(int, 1, 1_000_000)
RESAMPLES = bounded(int, 0, 1_000_000)
SEED = bounded(int, 0, MOST_SEED)
SHUFFLES = bounded(int, 1, MOST_SHUFFLES)
SHARE = bounded(float, 0, 1)
WINDOWS = bounded(int, 1, MOST_BATCH)


def _batch_size(text: str) -> int | None:
    """Read a number of windows, or auto (None)."""
    try:
        return None if text == "auto" else WINDOWS(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or auto") from None


def add_call_options(parser: argparse.ArgumentParser) -> None:
    """Add how elements are called from the mask."""
    group = parser.add_argument_group("elements (the promoter is never called)")
    cut = group.add_mutually_exclusive_group()
    cut.add_argument(
        "--threshold", type=SHARE, metavar="P", help="call bases whose mask is at least this value, from 0 to 1"
    )
    cut.add_argument(
        "--top-fraction",
        type=SHARE,
        metavar="SHARE",
        help="call this fraction of the window, its highest bases (default: 0.05)",
    )
    group.add_argument("--min-length", type=BASES, metavar="BP", help="drop shorter elements (default: 50)")
    group.add_argument(
        "--merge-gap", type=GAP, metavar="BP", help="join elements at most this far apart (default: 100)"
    )


def call_settings(args: argparse.Namespace) -> CallSettings:
    """Turn the options of `add_call_options` into settings."""
    from kipoi_seq2exp.elements.calls import CallSettings

    given = {
        "threshold": args.threshold,
        "top_fraction": args.top_fraction,
        "min_length_bp": args.min_length,
        "merge_gap_bp": args.merge_gap,
    }
    return CallSettings(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def gene_bar(genes: Sized) -> Iterator[Callable[[], None]]:
    """Show a progress bar over genes; yields the function to call after each."""
    with progress_bar(len(genes), 0, "gene") as bar:
        yield lambda: bar.update() and None


def track_sources(args: argparse.Namespace) -> dict[str, str]:
    """Read --tracks and --track into track name -> file.

    Raises
    ------
    ConfigError
        If an entry is not NAME=FILE, or a track is given twice.
    """
    from kipoi_seq2exp.data.tracks.contacts import POWERLAW
    from kipoi_seq2exp.settings import read_yaml

    sources: dict[str, str] = {}
    if args.tracks is not None:
        for name, source in read_yaml(args.tracks).items():
            if not isinstance(source, str) or not source:
                raise InputError(f"{args.tracks}: {name} must be the path of a file, found {source!r}.")
            sources[name] = source if source == POWERLAW else str(args.tracks.parent / source)
    return {**sources, **named_entries("--track", args.track, "NAME=FILE, e.g. --track dnase=dnase.bw")}


def request_of(args: argparse.Namespace, **changes: Any) -> PredictRequest:
    """Turn the options into a request; `changes` replace fields, or set those for which a command has no option."""
    from kipoi_seq2exp.prediction.batches import parse_bytes
    from kipoi_seq2exp.prediction.request import PredictRequest

    fields: dict[str, Any] = dict(
        model=args.model,
        genes=args.genes,
        fasta=args.fasta,
        sources=track_sources(args),
        blacklist=args.blacklist,
        peaks=getattr(args, "peaks", None),
        missing_features=args.missing_features,
        gene_ids=None if args.gene_ids is None else tuple(args.gene_ids),
        gene_type=args.gene_type,
        label=args.label,
        cell_type=args.cell_type,
        cells=args.cells,
        mask_mode=None if args.mask_mode is None else MaskMode(args.mask_mode),
        device=args.device,
        batch_size=1 if args.batch_size is None else args.batch_size,
        auto_batch=args.batch_size is None,
        memory_bytes=None if args.memory is None else parse_bytes(args.memory),
        projections=args.projections,
        save_beta=getattr(args, "save_beta", False),
    )
    return PredictRequest(**{**fields, **changes})


def named_entries(
    option: str, entries: Sequence[str], expected: str, names: Collection[str] | None = None
) -> dict[str, str]:
    """Read the entries NAME=VALUE of an option that may be repeated.

    Parameters
    ----------
    option : str
        E.g. "--track", for messages.
    entries : sequence of str
    expected : str
        What an entry should be, for messages.
    names : collection of str, optional
        The valid names; by default any name will do.

    Raises
    ------
    ConfigError
        If an entry has another form, or a name is unknown or given twice.
    """
    given: dict[str, str] = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not (name and separator and value) or (names is not None and name not in names):
            raise ConfigError(f"{option} {excerpt(entry, SHOWN)}: expected {expected}.")
        if name in given:
            raise ConfigError(
                f"{option} {name} is given twice ({excerpt(given[name], SHOWN)} and {excerpt(value, SHOWN)}): keep one."
            )
        given[name] = value
    return given


def written_files(files: Sequence[Path], of_genes: Sequence[Path]) -> str:
    """Name the files that were written; those of genes by their number where they are many."""
    many = len(of_genes) > SHOWN_FILES
    names = [str(path) for path in (files if many else (*files, *of_genes))]
    return ", ".join(names) + (f", and {len(of_genes)} files of single genes beside them" if many else "")


def optional_name(text: str) -> tuple[str, str]:
    """Split [NAME=]VALUE into both; the name is empty where there is none."""
    name, separator, value = text.partition("=")
    return (name, value) if separator else ("", text)


def progress_bar(total: int, done: int, unit: str) -> Any:
    """Return tqdm's bar with rate and time left; in a file or a pipe, lines without a bar."""
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        bar_format=None if watched else LINE,
        dynamic_ncols=watched,
        ncols=None if watched else 80,
        mininterval=0.1 if watched else LINE_S,
        smoothing=0.05 if watched else 0.3,  # slow to change, because genes of a cluster arrive in bursts
        file=sys.stderr if watched else _Lines(sys.stderr),
    )


class _Lines:
    """A text file that gets each state of a bar as a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if state := text.strip():
            self._file.write(f"{state}\n")

    def flush(self) -> None:
        self._file.flush()
