"""`seq2exp contributions`: which bases, track values and features made the predictions of genes."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import (
    BASES,
    MODEL,
    PICTURES,
    SHOWN_GENES,
    Say,
    Subparsers,
    add_cluster_option,
    add_command,
    add_input_options,
    add_network_options,
    add_overwrite_option,
    bounded,
    written_files,
)
from kipoi_seq2exp.commands.work import Opened, Ticks, fill_units, open_inputs, say_without_dna, workers_of
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.files import file_name

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
    from kipoi_seq2exp.data.windows import Window
    from kipoi_seq2exp.effects.contributions import Contributions
    from kipoi_seq2exp.prediction.units import Job, Perform, Unit, UnitStore

_DESCRIPTION = """Attribute the predictions of genes to bases, track values and gene features.

  seq2exp contributions GENE ... K562 --fasta genome.fa --genes genes.tsv --track ... --plot png -o out/
  seq2exp contributions GENE K562 ... --method mutagenesis --region chr22:20,117,001-20,117,100 -o out/

writes into out/
  contributions.tsv            a row per gene: what DNA, each track and each feature add to the baseline's prediction
  GENE.dna.bw, GENE.TRACK.bw   contribution of every base, in units of the prediction
  GENE.contributions.png       a picture, with letters where the DNA contributes most, or in --region (--plot)
  modisco_onehot.npz, modisco_contributions.npz   what TF-MoDISco-lite reads (--modisco)
  GENE.mutagenesis.tsv         change of the prediction for each letter at each base of the region
  contributions.sqlite         the results gene by gene: an interrupted run continues from it

The parts of integrated gradients add up to the prediction minus that of the baseline: no DNA, no signal, and features
at the mean over the training genes where the weights state it, else 0. Features that are computed from tracks count as
those tracks.
"""
METHODS = ("integrated", "gradient", "mutagenesis")
TABLE = "contributions.tsv"
STORE_NAME = "contributions.sqlite"
STRETCH_BP = 32  # bases that are mutated together
ONEHOT, HYPOTHETICAL = "modisco_onehot.npz", "modisco_contributions.npz"


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        subparsers, "contributions", "attribute predictions to bases, tracks and features", _DESCRIPTION
    )
    parser.set_defaults(run=run)
    parser.add_argument("genes_asked", nargs="+", metavar="GENE", help="genes of the table: ids or symbols")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help=f"how (default: {METHODS[0]}); gradient is quick, but its parts do not add up",
    )
    parser.add_argument(
        "--region",
        metavar="CHR:FIRST-LAST",
        help="what to mutate, or where --plot shows letters (counted from 1, as in browsers)",
    )
    parser.add_argument(
        "--steps",
        type=bounded(int, 1, 10_000),
        default=32,
        metavar="N",
        help="steps of integrated gradients (default: 32)",
    )
    parser.add_argument("--plot", choices=PICTURES, help="draw each gene in this format")
    parser.add_argument(
        "--modisco",
        type=BASES,
        metavar="BP",
        help="write arrays for TF-MoDISco-lite of this many bases around each TSS",
    )
    add_input_options(parser)
    add_network_options(parser)
    add_cluster_option(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    add_overwrite_option(parser)


def run(args: argparse.Namespace, say: Say) -> int:
    """Compute and write the contributions, or go on with an interrupted run."""
    from kipoi_seq2exp.files import make_folder
    from kipoi_seq2exp.prediction.units import UnitStore

    _check(args)
    with ExitStack() as opened:
        workers = opened.enter_context(workers_of(args.cluster))
        inputs = opened.enter_context(open_inputs(args, say, workers, gene_ids=tuple(args.genes_asked)))
        dataset = inputs.dataset
        if args.modisco is not None and args.modisco > dataset.inputs.window_bp:
            raise ConfigError(f"--modisco {args.modisco}: the window has {dataset.inputs.window_bp:,} bases.")
        if args.modisco is not None and not inputs.model.config.reads_dna:
            raise ConfigError(f"--modisco: {args.model} reads no DNA, so that no base contributes to its predictions.")
        say_without_dna(inputs.model, say, "no base contributes to their predictions, only tracks and features do")
        if args.region is not None:
            for row in range(len(dataset)):
                region_of(args.region, dataset.window(row), str(dataset.genes["gene_id"].iloc[row]))
        make_folder(args.output)
        about = {name: value for name, value in inputs.fingerprint().items() if name != "genes"}  # units name theirs
        store = UnitStore.open(args.output / STORE_NAME, about, overwrite=args.overwrite)
        opened.callback(store.close)
        work = Work(args, inputs, store, partial(inputs.performer, workers))
        (_mutate if args.method == "mutagenesis" else _explain)(work, say)
    return 0


@dataclass(frozen=True)
class Work:
    """What a run holds open; `perform` turns a job into a function that computes its units."""

    args: argparse.Namespace
    inputs: Opened
    store: UnitStore
    perform: Callable[[Job], Perform]

    @property
    def dataset(self) -> WindowDataset:
        """The windows."""
        return self.inputs.dataset

    @property
    def status(self) -> str:
        """The first line of every file: the model and the status of its weights."""
        from kipoi_seq2exp.elements.outputs import status_line

        return status_line(self.args.model, self.inputs.model.provenance.status)

    def unit(self, row: int, size: int, bases: slice | None = None) -> Unit:
        """Return the unit of a gene, or of some bases of its window; the job gets the row, and the bases if any.

        The key says everything that the result depends on besides the store's request.
        """
        from kipoi_seq2exp.prediction.units import Unit

        gene, args = self.dataset.genes.iloc[row], self.args
        place = [str(gene[name]) for name in ("gene_id", "chrom", "tss", "strand")]
        features = [float(value) for value in self.dataset.features.values[row]]
        settings: list[Any] = [args.steps, args.plot, args.region, args.modisco]
        if bases is not None:
            settings = [bases.start, bases.stop]
        key = json.dumps([args.method, place, features, settings])
        return Unit(key, f"the contributions of {place[0]}", size, lambda: row if bases is None else (row, bases))


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is read."""
    from kipoi_seq2exp.effects.contributions import captum_methods

    mutate = args.method == "mutagenesis"
    if mutate and args.region is None:
        raise ConfigError("--method mutagenesis needs --region, the bases to mutate.")
    if args.region is not None and not mutate and args.plot is None:
        raise ConfigError("--region needs --method mutagenesis, which mutates it, or --plot, which shows its letters.")
    if mutate and (args.modisco is not None or args.plot is not None):
        raise ConfigError("--plot and --modisco go with the methods integrated and gradient.")
    if args.modisco is not None and (args.modisco < 2 or args.modisco % 2):
        raise ConfigError(f"--modisco {args.modisco}: give an even number of bases.")
    if args.gene_ids is not None:
        raise ConfigError("--gene-ids: the genes are named by the first arguments alone.")
    if not mutate:
        captum_methods()
    if args.plot is not None:
        from kipoi_seq2exp.view.contribution_plots import letters

        letters()
        if args.region is not None:
            _check_letters(args.region)


def _check_letters(text: str) -> None:
    """Refuse more letters than a picture can show."""
    from kipoi_seq2exp.data.windows import parse_region
    from kipoi_seq2exp.view.contribution_plots import LARGEST_LETTERS_BP

    length = len(parse_region(text, "--region"))
    if length > LARGEST_LETTERS_BP:
        raise ConfigError(
            f"--region {text}: at most {LARGEST_LETTERS_BP} letters can be read in a picture, {length:,} are asked for."
        )


def region_of(text: str, window: Window | WindowInputs, gene_id: str) -> slice:
    """Return a region as bases from the window's start.

    Raises
    ------
    ConfigError
        If it is not a region, or does not lie in the window.
    """
    from kipoi_seq2exp.data.windows import parse_region, written

    region = parse_region(text, "--region")
    if region.chrom != window.chrom or not window.start <= region.start < region.end <= window.end:
        raise ConfigError(
            f"--region {text} does not lie in the window of {gene_id}, "
            f"{written(window.chrom, window.start, window.end)}."
        )
    return slice(region.start - window.start, region.end - window.start)


def _explain(work: Work, say: Say) -> None:
    """Write the table, the tracks and whatever else is asked for, gene by gene."""
    import pandas as pd

    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.effects.contributions import ContributionJob

    args, dataset, ticks = work.args, work.dataset, Ticks()
    job = ContributionJob.of(args.method, args.steps, ticks.step if args.cluster is None else None)
    units = [work.unit(row, job.steps or 1) for row in range(len(dataset))]
    _forget_lost(work, units)
    fill_units(work.store, units, work.perform(job), "step", say, keep=partial(_keep, work), ticks=ticks)
    rows, of_genes, files = [], [], []
    for unit in units:
        found = work.store[unit.key]
        rows.append(found["row"])
        of_genes += [args.output / name for name in found["files"]]
    table = pd.DataFrame(rows)
    header = [work.status, f"{dataset.inputs.label}; method {args.method}"]
    write_tsv(table, args.output / TABLE, header)
    files.append(args.output / TABLE)
    if args.modisco is not None:
        files += _write_modisco(work, units)
    lines = summary_lines(table, dataset)
    for line in lines[:SHOWN_GENES]:
        say(line)
    if len(lines) > SHOWN_GENES:
        say(f"... and {len(lines) - SHOWN_GENES} more genes in {args.output / TABLE}")
    say(f"written: {written_files(files, of_genes)}")


def _forget_lost(work: Work, units: Sequence[Unit]) -> None:
    """Forget genes whose files are gone or were overwritten by another method, so that they are computed again."""
    for unit in units:
        if unit.key in work.store:
            files = work.store[unit.key]["files"]
            if any(_mark(work.args.output / name) != mark for name, mark in files.items()):
                work.store.forget(unit.key)


def _mark(path: Path) -> list[int] | None:
    """Return a mark that tells a file from one written later."""
    if not path.is_file():
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _keep(work: Work, unit: Unit, result: tuple[int, Contributions]) -> dict[str, Any]:
    """Write the files of a gene; return what the store holds of it."""
    from kipoi_seq2exp.effects.contributions import summary

    args, dataset, (row, found) = work.args, work.dataset, result
    window = dataset[row]
    files = _write_tracks(args, dataset, window, found)
    if args.plot is not None:
        files.append(_draw(args, dataset, window, found))
    kept = {"row": summary(window.gene_id, found, dataset), "files": {path.name: _mark(path) for path in files}}
    if args.modisco is None:
        return kept
    middle = slice((len(window.onehot) - args.modisco) // 2, (len(window.onehot) + args.modisco) // 2)
    onehot, letters = window.onehot[middle].T, found.letters[middle].T.astype("<f4")
    return {**kept, ONEHOT: _packed(onehot.tobytes()), HYPOTHETICAL: _packed(letters.tobytes())}


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _write_modisco(work: Work, units: Sequence[Unit]) -> list[Path]:
    """Write the arrays for TF-MoDISco, (genes, 4, bases) each."""
    import numpy as np

    files = []
    for name, kind in ((ONEHOT, "u1"), (HYPOTHETICAL, "<f4")):
        values = np.empty((len(units), 4, work.args.modisco), np.float32)
        for place, unit in enumerate(units):
            data = base64.b64decode(work.store[unit.key][name])
            values[place] = np.frombuffer(data, kind).reshape(4, -1)
        files.append(work.args.output / name)
        _write_npz(files[-1], values)
    return files


def summary_lines(table: Any, dataset: WindowDataset) -> Sequence[str]:
    """Return a line for each gene on how its prediction adds up."""
    sources = ["dna", *dataset.inputs.track_names]
    features = [name for name in table.columns if name in dataset.inputs.feature_names]
    lines = []
    for row in table.to_dict("records"):
        parts = ", ".join(f"{name} {row[name]:+.4f}" for name in sources)
        parts += f", gene features {sum(row[name] for name in features):+.4f}" if features else ""
        if row["baseline"] == row["baseline"]:
            line = f"{row['gene_id']}: {row['expression']:.4f} = baseline {row['baseline']:.4f}, {parts}"
            lines.append(f"{line}; {row['not_explained']:+.2g} is not explained (more --steps reduce it)")
        else:
            lines.append(f"{row['gene_id']}: {row['expression']:.4f}; gradient x input: {parts}")
    return lines


def _write_tracks(
    args: argparse.Namespace, dataset: WindowDataset, window: WindowInputs, found: Contributions
) -> list[Path]:
    from kipoi_seq2exp.elements.mask_track import write_window

    columns = {"dna": found.dna, **{name: found.tracks[:, i] for i, name in enumerate(dataset.inputs.track_names)}}
    files = []
    for name, values in columns.items():
        files.append(args.output / f"{file_name(window.gene_id)}.{file_name(name)}.bw")
        write_window(files[-1], dataset.genome.lengths, window, values)
    return files


def _draw(args: argparse.Namespace, dataset: WindowDataset, window: WindowInputs, found: Contributions) -> Path:
    from kipoi_seq2exp.view.contribution_plots import ContributionPicture, plot_contributions
    from kipoi_seq2exp.view.locus import symbol_of

    picture = ContributionPicture(
        window,
        found,
        dataset.inputs,
        None if args.region is None else region_of(args.region, window, window.gene_id),
        f"{Path(args.model).name}; method {args.method}",
        symbol_of(dataset.genes[dataset.genes["gene_id"] == window.gene_id].iloc[0]),
    )
    path: Path = args.output / f"{file_name(window.gene_id)}.contributions.{args.plot}"
    plot_contributions(picture, path)
    return path


def _write_npz(path: Path, values: Any) -> None:
    import numpy as np

    from kipoi_seq2exp.files import whole_file

    with whole_file(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, values)


def _mutate(work: Work, say: Say) -> None:
    """Mutate the region in the window of each gene, a stretch at a time, and write a table of each gene."""
    from kipoi_seq2exp.effects.contributions import MutationJob

    dataset, units = work.dataset, []
    for row in range(len(dataset)):
        window = dataset.window(row)
        bases = region_of(work.args.region, window, str(dataset.genes["gene_id"].iloc[row]))
        parts = []
        for first in range(bases.start, bases.stop, STRETCH_BP):
            part = slice(first, min(first + STRETCH_BP, bases.stop))
            dna = dataset.genome.onehot(window.chrom, window.start + part.start, window.start + part.stop)
            parts.append(work.unit(row, 3 * int(dna.any(axis=1).sum()), part))
        units.append((row, bases, parts))
    every = [unit for *_, parts in units for unit in parts]
    fill_units(work.store, every, work.perform(MutationJob()), "mutation", say)
    for row, bases, parts in units:
        _write_mutations(work, row, bases, [value for unit in parts for value in work.store[unit.key]], say)


def _write_mutations(work: Work, row: int, bases: slice, values: list[list[float]], say: Say) -> None:
    import numpy as np
    import pandas as pd

    from kipoi_seq2exp.data.sequence import decode_bases
    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.prediction.masking import effect_line

    window, change = work.dataset[row], np.array(values)
    start = np.arange(bases.start, bases.stop) + window.start
    ref = decode_bases(window.onehot[bases]).view("S1").astype(str)
    table = pd.DataFrame({"chrom": window.chrom, "start": start, "end": start + 1, "ref": ref})
    table = table.assign(**{letter: change[:, i] for i, letter in enumerate("ACGT")})
    path = work.args.output / f"{file_name(window.gene_id)}.mutagenesis.tsv"
    header = [
        work.status,
        f"change of the predicted expression (log10) of {window.gene_id} for each letter; 0 for the one that is there",
    ]
    write_tsv(table, path, header)
    say(effect_line(change[np.isfinite(change)], f"mutations of {int((ref != 'N').sum())} bases"))
    say(f"written: {path}")
