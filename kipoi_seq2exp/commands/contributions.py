"""`seq2exp contributions`: which bases and track values made the prediction of a gene."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kipoi_seq2exp.commands.options import Say, Subparsers, add_command, add_input_options, add_network_options
from kipoi_seq2exp.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
    from kipoi_seq2exp.nn.network import Seq2Exp

_DESCRIPTION = """Say which bases and which track values made the prediction of one gene.

  seq2exp contributions GENE K562 --fasta genome.fa --genes genes.tsv --track ... -o out/
  seq2exp contributions GENE K562 ... --method mutagenesis --region chr22:20117000-20117100 -o out/

writes into out/
  GENE.dna.bw, GENE.TRACK.bw   contribution of every base, in units of the prediction (gradient, integrated)
  GENE.mutagenesis.tsv         change of the prediction for each letter at each base of the region
"""
METHODS = ("gradient", "integrated", "mutagenesis")
_REGION = re.compile(r"(\S+):([\d,]+)-([\d,]+)\Z")


def add_to(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(subparsers, "contributions", "which bases made a prediction", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("gene", metavar="GENE", help="id of a gene of the table")
    parser.add_argument("model", help="a served model (K562, GM12878) or a .safetensors file")
    parser.add_argument("--method", choices=METHODS, default="gradient", help="gradient x input by default")
    parser.add_argument("--region", metavar="CHR:START-END", help="what to mutate (0-based, half-open)")
    parser.add_argument("--steps", type=int, default=32, metavar="N", help="of integrated gradients (default 32)")
    add_input_options(parser)
    add_network_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results")


def run(args: argparse.Namespace, say: Say) -> int:
    """Compute and write the contributions."""
    from kipoi_seq2exp.commands.predict import request_of
    from kipoi_seq2exp.effects.contributions import captum_methods
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.files import make_folder
    from kipoi_seq2exp.prediction.request import inputs_of, open_dataset, open_model
    from kipoi_seq2exp.prediction.run import batch_size_for

    if (args.region is not None) != (args.method == "mutagenesis"):
        raise ConfigError("--region names what --method mutagenesis mutates: give both or neither.")
    if args.gene_ids is not None:
        raise ConfigError("--gene-ids: the gene is named by the first argument alone.")
    if args.region is None:
        captum_methods()  # told before anything is read
    args.peaks, args.save_beta, args.gene_ids = None, False, [args.gene]
    request = request_of(args)
    model, _ = open_model(request)
    with open_dataset(request, inputs_of(model, request.cell_type, request.cells)) as dataset:
        say(status_line(args.model, model.provenance.status))
        window = dataset[0]
        bases = None if args.region is None else _region(args.region, window)
        make_folder(args.output)
        if bases is None:
            _write_tracks(args, model, dataset, window, say)
        else:
            _write_mutations(args, model, window, bases, batch_size_for(request, model, dataset), say)
    return 0


def _region(text: str, window: WindowInputs) -> slice:
    """Return a region as bases from the window's start."""
    found = _REGION.match(text)
    if found is None:
        raise ConfigError(f"--region {text}: expected CHR:START-END, e.g. chr22:20117000-20117100.")
    start, end = (int(number.replace(",", "")) for number in found.groups()[1:])
    if found[1] != window.chrom or not window.start <= start < end <= window.end:
        raise ConfigError(
            f"--region {text} does not lie in the window of {window.gene_id}, "
            f"{window.chrom}:{window.start}-{window.end}."
        )
    return slice(start - window.start, end - window.start)


def _write_tracks(
    args: argparse.Namespace, model: Seq2Exp, dataset: WindowDataset, window: WindowInputs, say: Say
) -> None:
    import numpy as np
    from tqdm import tqdm

    from kipoi_seq2exp.effects.contributions import gradient_times_input, integrated_gradients
    from kipoi_seq2exp.files import file_name

    if args.method == "gradient":
        found = gradient_times_input(model, window)
    else:
        with tqdm(total=args.steps, unit="step", dynamic_ncols=True) as bar:
            found = integrated_gradients(model, window, args.steps, lambda: bar.update() and None)
        say(
            f"contributions add up to {found.sum:.4f}; prediction minus that of an empty window: "
            f"{found.sum - found.delta:.4f} (difference {found.delta:+.2g} after {args.steps} steps)"
        )
    columns = {"dna": found.dna, **{name: found.tracks[:, i] for i, name in enumerate(dataset.inputs.track_names)}}
    promoter = model.promoter(len(window.onehot))
    files = []
    for name, values in columns.items():
        inside = float(np.abs(values[promoter]).sum() / max(np.abs(values).sum(), 1e-300))
        say(f"{name}: sum {values.sum():+.4g}, {inside:.1%} of the absolute contributions lie in the promoter")
        files.append(args.output / f"{file_name(args.gene)}.{file_name(name)}.bw")
        _write_bigwig(files[-1], dataset.genome.lengths, window, values)
    say("written: " + ", ".join(map(str, files)))


def _write_bigwig(path: Path, lengths: Mapping[str, int], window: WindowInputs, values: NDArray[np.float64]) -> None:
    """Write the bases of a window that lie on the chromosome."""
    import numpy as np

    from kipoi_seq2exp.elements.bigwig import BigWigWriter
    from kipoi_seq2exp.files import whole_file

    first, last = max(window.start, 0), min(window.end, lengths[window.chrom])
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        writer = BigWigWriter(handle, {window.chrom: lengths[window.chrom]})
        writer.add(window.chrom, first, values[first - window.start : last - window.start].astype(np.float32))
        writer.close()


def _write_mutations(
    args: argparse.Namespace, model: Seq2Exp, window: WindowInputs, bases: slice, batch_size: int, say: Say
) -> None:
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from kipoi_seq2exp.data.tables import write_tsv
    from kipoi_seq2exp.effects.contributions import mutagenesis
    from kipoi_seq2exp.elements.masking import effect_line
    from kipoi_seq2exp.elements.outputs import status_line
    from kipoi_seq2exp.files import file_name

    known = int(window.onehot[bases].any(axis=1).sum())
    with tqdm(total=3 * known, unit="mutation", dynamic_ncols=True) as bar:
        change = mutagenesis(model, window, bases, batch_size, lambda: bar.update() and None)
    start = np.arange(bases.start, bases.stop) + window.start
    onehot = window.onehot[bases]
    ref = np.where(onehot.any(axis=1), np.array(list("ACGT"))[onehot.argmax(axis=1)], "N")
    table = pd.DataFrame({"chrom": window.chrom, "start": start, "end": start + 1, "ref": ref})
    table = table.assign(**{letter: change[:, i] for i, letter in enumerate("ACGT")})
    path = args.output / f"{file_name(args.gene)}.mutagenesis.tsv"
    header = [
        status_line(args.model, model.provenance.status),
        f"change of the predicted expression (log10) of {args.gene} for each letter; 0 for the letter that is there",
    ]
    write_tsv(table, path, header)
    say(effect_line(change[np.isfinite(change)], f"mutations of {known} bases"))
    say(f"written: {path}")
