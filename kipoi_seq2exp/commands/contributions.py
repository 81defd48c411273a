"""`seq2exp contributions`: which bases, track values and features made the predictions of genes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kipoi_seq2exp.commands.options import (
    MODEL,
    PICTURES,
    Say,
    Subparsers,
    add_command,
    add_input_options,
    add_network_options,
    parse_interval,
    progress_bar,
)
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.files import file_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
    from kipoi_seq2exp.effects.contributions import Contributions
    from kipoi_seq2exp.nn.network import Seq2Exp

_DESCRIPTION = """Say which bases, track values and features made the predictions of genes.

  seq2exp contributions GENE ... K562 --fasta genome.fa --genes genes.tsv --track ... --plot png -o out/
  seq2exp contributions GENE K562 ... --method mutagenesis --region chr22:20117000-20117100 -o out/

writes into out/
  contributions.tsv            a row per gene: what DNA, each track and each feature add to the baseline's prediction
  GENE.dna.bw, GENE.TRACK.bw   contribution of every base, in units of the prediction
  GENE.contributions.png       a picture, with letters where the DNA contributes most, or in --region (--plot)
  modisco_onehot.npz, modisco_contributions.npz   what TF-MoDISco-lite reads (--modisco)
  GENE.mutagenesis.tsv         change of the prediction for each letter at each base of the region

The parts of integrated gradients add up to the prediction minus that of the baseline: no DNA, no signal, and features
at the mean over the training genes where the weights state it, else 0. Features that are computed from tracks count as
those tracks.
"""
METHODS = ("integrated", "gradient", "mutagenesis")
TABLE = "contributions.tsv"
ONEHOT, HYPOTHETICAL = "modisco_onehot.npz", "modisco_contributions.npz"


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "contributions", "which bases, tracks and features made predictions", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("genes_asked", nargs="+", metavar="GENE", help="genes of the table: ids or symbols")
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help=f"default {METHODS[0]}; gradient is quick, adds up to nothing",
    )
    parser.add_argument(
        "--region", metavar="CHR:START-END", help="what to mutate, or where --plot shows letters (0-based, half-open)"
    )
    parser.add_argument("--steps", type=int, default=32, metavar="N", help="of integrated gradients (default 32)")
    parser.add_argument("--plot", choices=PICTURES, help="draw each gene, in this format")
    parser.add_argument(
        "--modisco", type=int, metavar="BP", help="write arrays for TF-MoDISco-lite of this many bases round each TSS"
    )
    add_input_options(parser)
    add_network_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run(args: argparse.Namespace, say: Say) -> int:
    """Compute and write the contributions."""
    from kipoi_seq2exp.commands.predict import request_of
    from kipoi_seq2exp.data.tracks.ranges import warn_of_inputs
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.files import make_folder
    from kipoi_seq2exp.prediction.request import inputs_of, open_dataset, open_model
    from kipoi_seq2exp.prediction.run import batch_size_for

    _check(args)
    args.peaks, args.save_beta, args.gene_ids = None, False, args.genes_asked
    request = request_of(args)
    model, _ = open_model(request)
    with open_dataset(request, inputs_of(model, request.cell_type, request.cells)) as dataset:
        say(status_line(args.model, model.provenance.status))
        warn_of_inputs(dataset)
        if args.modisco is not None and args.modisco > dataset.inputs.window_bp:
            raise ConfigError(f"--modisco {args.modisco}: the window has {dataset.inputs.window_bp:,} bases.")
        if args.region is not None:
            for row in range(len(dataset)):
                region_of(args.region, dataset[row])
        make_folder(args.output)
        if args.method == "mutagenesis":
            for window in dataset:
                _write_mutations(args, model, window, batch_size_for(request, model, dataset), say)
        else:
            _explain(args, model, dataset, say)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is read."""
    from kipoi_seq2exp.effects.contributions import captum_methods

    mutate = args.method == "mutagenesis"
    if mutate and args.region is None:
        raise ConfigError("--method mutagenesis needs --region: what it mutates.")
    if args.region is not None and not mutate and args.plot is None:
        raise ConfigError("--region names what --method mutagenesis mutates, or where --plot shows letters: give one.")
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
    from kipoi_seq2exp.view.contribution_plots import LARGEST_LETTERS_BP

    _, start, end = parse_interval(text, "--region")
    if end - start > LARGEST_LETTERS_BP:
        raise ConfigError(
            f"--region {text}: at most {LARGEST_LETTERS_BP} letters can be read in a picture, {end - start:,} are "
            f"asked for."
        )


def region_of(text: str, window: WindowInputs) -> slice:
    """Return a region as bases from the window's start.

    Raises
    ------
    ConfigError
        If it is no region, or does not lie in the window.
    """
    chrom, start, end = parse_interval(text, "--region")
    if chrom != window.chrom or not window.start <= start < end <= window.end:
        raise ConfigError(
            f"--region {text} does not lie in the window of {window.gene_id}, "
            f"{window.chrom}:{window.start}-{window.end}."
        )
    return slice(start - window.start, end - window.start)


def _explain(args: argparse.Namespace, model: Seq2Exp, dataset: WindowDataset, say: Say) -> None:
    """Write the table, the tracks and what else is asked for, gene by gene."""
    import numpy as np
    import pandas as pd

    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.effects.contributions import gradient_times_input, integrated_gradients
    from kipoi_seq2exp.effects.track_features import FeatureRules
    from kipoi_seq2exp.elements.outputs import status_line

    rules, files, rows, arrays = FeatureRules.of(dataset), [], [], []
    steps = args.steps if args.method == "integrated" else 1
    with progress_bar(len(dataset) * steps, 0, "step") as bar:
        for window in dataset:
            if args.method == "gradient":
                found = gradient_times_input(model, window, rules)
                bar.update()
            else:
                found = integrated_gradients(model, window, args.steps, lambda: bar.update() and None, rules)
            rows.append(summary(window.gene_id, found, dataset))
            files += _write_tracks(args, dataset, window, found)
            if args.plot is not None:
                files.append(_draw(args, dataset, window, found))
            if args.modisco is not None:
                middle = slice((len(window.onehot) - args.modisco) // 2, (len(window.onehot) + args.modisco) // 2)
                arrays.append((window.onehot[middle].T, found.letters[middle].T))
    table = pd.DataFrame(rows)
    header = [status_line(args.model, model.provenance.status), f"{dataset.inputs.label}; method {args.method}"]
    write_tsv(table, args.output / TABLE, header)
    files.append(args.output / TABLE)
    if arrays:
        for name, values in zip((ONEHOT, HYPOTHETICAL), zip(*arrays, strict=True), strict=True):
            files.append(args.output / name)
            _write_npz(files[-1], np.stack(values).astype(np.float32))
    for line in summary_lines(table, dataset):
        say(line)
    say("written: " + ", ".join(map(str, files)))


def summary(gene_id: str, found: Contributions, dataset: WindowDataset) -> dict[str, Any]:
    """Return the row of one gene: prediction, baseline, what DNA, each track and each feature contribute, the rest."""
    row = {"gene_id": gene_id, "expression": found.prediction, "baseline": found.baseline, "dna": found.dna.sum()}
    row |= dict(zip(dataset.inputs.track_names, found.tracks.sum(axis=0), strict=True))
    computed = dataset.features.from_tracks
    names = dataset.inputs.feature_names
    row |= {name: found.features[i] for i, name in enumerate(names) if i not in computed}
    return {**row, "not_explained": -found.delta}


def summary_lines(table: Any, dataset: WindowDataset) -> Sequence[str]:
    """Say for each gene how its prediction adds up."""
    sources = ["dna", *dataset.inputs.track_names]
    features = [name for name in table.columns if name in dataset.inputs.feature_names]
    lines = []
    for row in table.to_dict("records"):
        parts = ", ".join(f"{name} {row[name]:+.4f}" for name in sources)
        parts += f", gene features {sum(row[name] for name in features):+.4f}" if features else ""
        if row["baseline"] == row["baseline"]:
            line = f"{row['gene_id']}: {row['expression']:.4f} = baseline {row['baseline']:.4f}, {parts}"
            lines.append(f"{line}; {row['not_explained']:+.2g} is not explained (more --steps make it less)")
        else:
            lines.append(f"{row['gene_id']}: {row['expression']:.4f}; gradient x input: {parts}")
    return lines


def _write_tracks(
    args: argparse.Namespace, dataset: WindowDataset, window: WindowInputs, found: Contributions
) -> list[Path]:
    columns = {"dna": found.dna, **{name: found.tracks[:, i] for i, name in enumerate(dataset.inputs.track_names)}}
    files = []
    for name, values in columns.items():
        files.append(args.output / f"{file_name(window.gene_id)}.{file_name(name)}.bw")
        write_window_bigwig(files[-1], dataset.genome.lengths, window, values)
    return files


def write_window_bigwig(path: Path, lengths: Mapping[str, int], window: WindowInputs, values: Any) -> None:
    """Write the bases of a window (L,) that lie on the chromosome, without those that are NaN."""
    import numpy as np

    from kipoi_seq2exp.elements.bigwig import BigWigWriter
    from kipoi_seq2exp.files import whole_file

    first, last = max(window.start, 0), min(window.end, lengths[window.chrom])
    inside = values[first - window.start : last - window.start].astype(np.float32)
    known = np.isfinite(inside)
    edges = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        writer = BigWigWriter(handle, {window.chrom: lengths[window.chrom]})
        for start, end in edges:
            writer.add(window.chrom, first + int(start), inside[start:end])
        writer.close()


def _draw(args: argparse.Namespace, dataset: WindowDataset, window: WindowInputs, found: Contributions) -> Path:
    from kipoi_seq2exp.view.contribution_plots import ContributionPicture, plot_contributions

    picture = ContributionPicture(
        window,
        found,
        dataset.inputs,
        None if args.region is None else region_of(args.region, window),
        f"{Path(args.model).name}; method {args.method}",
    )
    path: Path = args.output / f"{file_name(window.gene_id)}.contributions.{args.plot}"
    plot_contributions(picture, path)
    return path


def _write_npz(path: Path, values: Any) -> None:
    import numpy as np

    from kipoi_seq2exp.files import whole_file

    with whole_file(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, values)


def _write_mutations(args: argparse.Namespace, model: Seq2Exp, window: WindowInputs, batch_size: int, say: Say) -> None:
    import numpy as np
    import pandas as pd

    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.effects.contributions import mutagenesis
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.prediction.masking import effect_line

    bases = region_of(args.region, window)
    known = int(window.onehot[bases].any(axis=1).sum())
    with progress_bar(3 * known, 0, "mutation") as bar:
        change = mutagenesis(model, window, bases, batch_size, lambda: bar.update() and None)
    start = np.arange(bases.start, bases.stop) + window.start
    onehot = window.onehot[bases]
    ref = np.where(onehot.any(axis=1), np.array(list("ACGT"))[onehot.argmax(axis=1)], "N")
    table = pd.DataFrame({"chrom": window.chrom, "start": start, "end": start + 1, "ref": ref})
    table = table.assign(**{letter: change[:, i] for i, letter in enumerate("ACGT")})
    path = args.output / f"{file_name(window.gene_id)}.mutagenesis.tsv"
    header = [
        status_line(args.model, model.provenance.status),
        f"change of the predicted expression (log10) of {window.gene_id} for each letter; 0 for the one that is there",
    ]
    write_tsv(table, path, header)
    say(effect_line(change[np.isfinite(change)], f"mutations of {known} bases"))
    say(f"written: {path}")
