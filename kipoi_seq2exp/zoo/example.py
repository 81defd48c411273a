"""A small example from a user's own data: the windows of a few genes, each as a chromosome of its own.

Contract: a model reads the same arrays from the written files as from the original ones (a test compares them), and no
data beyond those windows are copied.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.sequence import decode_bases
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.files import make_folder, whole_file, write_text

FASTA_WIDTH = 80


def write_example(windows: WindowDataset, rows: Sequence[int], folder: Path) -> dict[str, str]:
    """Write the windows of some genes as a small genome; return the file's name for each argument.

    Parameters
    ----------
    windows : WindowDataset
    rows : sequence of int
        Genes to take.
    folder : Path
        Gets genes.tsv, genome.fa, TRACK.bedgraph.gz, TRACK.tsv.gz (contacts) and, where a window holds a region of the
        blacklist, blacklist.bed.

    Returns
    -------
    dict of str to str
        Names of the files by argument of the group's data loader ("genes_file", "fasta_file", "dnase_file", ...).

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    make_folder(folder)
    pieces = [_piece(windows, row) for row in rows]
    write_text(folder / "genes.tsv", _gene_table(windows, rows, pieces))
    once = {piece: row for row, piece in zip(rows, pieces, strict=True)}  # genes may share a TSS, and so a window
    write_text(folder / "genome.fa", "".join(_fasta(windows, row, piece) for piece, row in once.items()))
    files = {"genes_file": "genes.tsv", "fasta_file": "genome.fa"}
    for spec in windows.inputs.tracks:
        contacts = spec.kind is TrackKind.CONTACT
        name = f"{spec.name}.{'tsv' if contacts else 'bedgraph'}.gz"
        lines = ["gene_id\tstart\tend\tcontact\n"] if contacts else []
        for row, piece in zip(rows, pieces, strict=True) if contacts else ((row, piece) for piece, row in once.items()):
            values = windows.track_values(row, spec.name, piece.start, piece.end)
            label = str(windows.genes["gene_id"].iloc[row]) if contacts else _chrom(piece)
            lines += [f"{label}\t{start}\t{end}\t{value}\n" for start, end, value in _runs(values)]
        _write_gzip(folder / name, "".join(lines))
        files[f"{spec.name}_file"] = name
    blacklisted = [line for piece, row in once.items() for line in _blacklist(windows, row, piece)]
    if blacklisted:
        write_text(folder / "blacklist.bed", "".join(blacklisted))
        files["blacklist_file"] = "blacklist.bed"
    return files


def _piece(windows: WindowDataset, row: int) -> Window:
    """Return the part of a gene's window that lies on its chromosome."""
    gene = windows.genes.iloc[row]
    chrom = str(gene["chrom"])
    start, end = Window.around(chrom, int(gene["tss"]), windows.inputs.window_bp).inside(windows.genome.length(chrom))
    return Window(chrom, start, end)


def _chrom(piece: Window) -> str:
    return f"{piece.chrom}_{piece.start}_{piece.end}"


def _gene_table(windows: WindowDataset, rows: Sequence[int], pieces: Sequence[Window]) -> str:
    inputs, features = windows.inputs, windows.features
    given = [number for number in range(len(inputs.features)) if number not in features.from_tracks]
    columns = [(inputs.features[number].columns or (inputs.features[number].name,))[0] for number in given]
    lines = ["\t".join(["gene_id", "chrom", "tss", "strand", *columns])]
    for row, piece in zip(rows, pieces, strict=True):
        gene = windows.genes.iloc[row]
        place = [str(gene["gene_id"]), _chrom(piece), str(int(gene["tss"]) - piece.start), str(gene["strand"])]
        lines.append("\t".join([*place, *(repr(float(features.values[row, number])) for number in given)]))
    return "\n".join(lines) + "\n"


def _fasta(windows: WindowDataset, row: int, piece: Window) -> str:
    onehot = windows.read(row, piece.start, piece.end)[0]
    text = decode_bases(onehot).tobytes().decode("ascii")
    lines = [text[start : start + FASTA_WIDTH] for start in range(0, len(text), FASTA_WIDTH)]
    return f">{_chrom(piece)}\n" + "\n".join(lines) + "\n"


def _blacklist(windows: WindowDataset, row: int, piece: Window) -> Iterator[str]:
    mask = windows.read(row, piece.start, piece.end)[2]
    for start, end, value in _runs(mask.astype(np.float32)):
        if value > 0:
            yield f"{_chrom(piece)}\t{start}\t{end}\n"


def _runs(values: NDArray[np.float32]) -> Iterator[tuple[int, int, np.float32]]:
    """Yield the runs of equal values above 0, and always the first base, so that no chromosome is absent."""
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, ends = np.r_[0, edges], np.r_[edges, len(values)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if values[start] != 0:
            yield start, end, values[start]
        elif start == 0:
            yield 0, 1, values[0]


def _write_gzip(path: Path, text: str) -> None:
    """Write a text compressed; the same text gives the same bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as handle:
        handle.write(text.encode())
    with whole_file(path) as part:
        part.write_bytes(packed.getvalue())
