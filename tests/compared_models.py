"""Small Kipoi models that are not ours, each a folder with its own dataloader and arguments, to be compared with.

`Xpresso` has the format of the zoo's Xpresso: 10,500 bases round the TSS of each gene of a GTF, along the gene, in one
unnamed array; a flat prediction called `expression_pred`; numbers for ids. `Shore` reads a track beside a BED, has
settings of its own in its model.yaml and returns a plain column. `Enformer` has the format of Enformer and Basenji2:
393,216 bases of each interval of a BED, 5,313 outputs in 896 bins of 128 bp round the middle, numbers for ids, labels
in a table of targets beside it. None imports this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

XPRESSO = {
    "model.py": """
import numpy as np
from kipoi.model import BaseModel


class Xpresso(BaseModel):
    def predict_on_batch(self, inputs):
        core = inputs[:, 6500:7500]  # 500 bases to either side of the TSS
        cpg = (core[:, :-1, 1] * core[:, 1:, 2]).sum(axis=1)
        return {"expression_pred": np.log10(1 + cpg)}
""",
    "dataloader.py": """
import numpy as np
import pyfaidx
from kipoi.data import Dataset
from kipoi.metadata import GenomicRanges

LETTERS = {letter: i for i, letter in enumerate("ACGT")}


class AnchoredGenes(Dataset):
    def __init__(self, gtf_file, fasta_file, num_upstream=7000, num_downstream=3500):
        self.fasta_file, self.up, self.down = fasta_file, num_upstream, num_downstream
        with open(gtf_file) as lines:
            records = [line.split("\\t") for line in lines if not line.startswith("#")]
        self.genes = [
            (r[0], int(r[3]) - 1 if r[6] == "+" else int(r[4]) - 1, r[6]) for r in records if r[2] == "gene"
        ]
        self.fasta = None

    def __len__(self):
        return len(self.genes)

    def __getitem__(self, index):
        if self.fasta is None:
            self.fasta = pyfaidx.Fasta(self.fasta_file, as_raw=True, sequence_always_upper=True)
        chrom, tss, strand = self.genes[index]
        forward = strand == "+"
        start = tss - self.up if forward else tss + 1 - self.down
        end = start + self.up + self.down
        onehot = np.zeros((end - start, 4), dtype=np.float32)
        known = max(start, 0)
        for place, letter in enumerate(str(self.fasta[chrom][known : min(end, len(self.fasta[chrom]))])):
            if letter in LETTERS:
                onehot[known - start + place, LETTERS[letter]] = 1
        ranges = GenomicRanges(chrom, start, end, str(index), strand)
        return {"inputs": onehot if forward else onehot[::-1, ::-1].copy(), "metadata": {"ranges": ranges}}
""",
    "model.yaml": """
defined_as: model.Xpresso
args: {}
default_dataloader: .
info: {authors: [{name: nobody}], doc: CpG round the TSS}
dependencies: {}
schema:
  inputs: {shape: "(10500, 4)", doc: DNA along the gene}
  targets: {shape: "(1,)", doc: log10 of the number of CpG}
""",
    "dataloader.yaml": """
type: Dataset
defined_as: dataloader.AnchoredGenes
args:
  gtf_file: {doc: genes}
  fasta_file: {doc: genome}
  num_upstream: {doc: bases before the TSS, type: int, optional: true}
  num_downstream: {doc: bases from the TSS, type: int, optional: true}
info: {authors: [{name: nobody}], doc: windows round TSS}
dependencies: {}
output_schema:
  inputs: {shape: "(10500, 4)", doc: DNA along the gene}
  metadata: {ranges: {type: GenomicRanges, doc: windows}}
""",
}

SHORE = {
    "model.py": """
from kipoi.model import BaseModel


class Shore(BaseModel):
    def __init__(self, slope, offset):
        self.slope, self.offset = slope, offset

    def predict_on_batch(self, x):
        return self.offset + self.slope * x["signal"]
""",
    "dataloader.py": """
import numpy as np
import pyBigWig
from kipoi.data import Dataset
from kipoi.metadata import GenomicRanges


class Flanks(Dataset):
    def __init__(self, bed, track, flank_bp):
        self.track, self.flank_bp = track, int(flank_bp)
        with open(bed) as lines:
            self.rows = [line.split() for line in lines]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        chrom, start, end, name, _, strand = self.rows[index]
        tss = int(start) if strand == "+" else int(end) - 1
        with pyBigWig.open(self.track) as track:
            first, last = max(tss - self.flank_bp, 0), min(tss + self.flank_bp, track.chroms(chrom))
            values = np.nan_to_num(track.values(chrom, first, last, numpy=True))
        ranges = GenomicRanges(chrom, first, last, name, strand)
        return {"inputs": {"signal": np.array([values.mean()], dtype=np.float32)}, "metadata": {"ranges": ranges}}
""",
    "model.yaml": """
defined_as: model.Shore
args: {slope: 0.5, offset: 0.25}
default_dataloader: .
info: {authors: [{name: nobody}], doc: a line through a track}
dependencies: {}
schema:
  inputs: {signal: {shape: "(1,)", doc: mean of the track}}
  targets: {shape: "(1,)", doc: a line}
""",
    "dataloader.yaml": """
type: Dataset
defined_as: dataloader.Flanks
args: {bed: {doc: genes}, track: {doc: bigWig}, flank_bp: {doc: bases to either side, type: int}}
info: {authors: [{name: nobody}], doc: a track beside the TSS}
dependencies: {}
output_schema:
  inputs: {signal: {shape: "(1,)", doc: mean of the track}}
  metadata: {ranges: {type: GenomicRanges, doc: what was read}}
""",
}

ENFORMER = {
    "model.py": """
import numpy as np
from kipoi.model import BaseModel


class Enformer(BaseModel):
    def predict_on_batch(self, inputs):
        middle = inputs[:, (393216 - 896 * 128) // 2 :][:, : 896 * 128]
        gc = middle[:, :, 1:3].sum(axis=2).reshape(len(inputs), 896, 128).sum(axis=2)
        tracks = np.arange(5313, dtype=np.float32)
        return gc[:, :, None] * (tracks % 2) + (tracks % 7)
""",
    "dataloader.py": """
import numpy as np
import pyfaidx
from kipoi.data import Dataset
from kipoi.metadata import GenomicRanges

LENGTH = 393216
LETTERS = {letter: i for i, letter in enumerate("ACGT")}


class SeqIntervalDl(Dataset):
    def __init__(self, intervals_file, fasta_file):
        self.fasta_file, self.fasta = fasta_file, None
        with open(intervals_file) as lines:
            self.rows = [line.split() for line in lines]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if self.fasta is None:
            self.fasta = pyfaidx.Fasta(self.fasta_file, as_raw=True, sequence_always_upper=True)
        chrom, first, last = self.rows[index][:3]
        start = (int(first) + int(last)) // 2 - LENGTH // 2  # resized round its middle
        onehot = np.zeros((LENGTH, 4), dtype=np.float32)
        known = max(start, 0)
        letters = str(self.fasta[chrom][known : start + LENGTH])
        places = np.array([LETTERS.get(letter, -1) for letter in letters])
        rows = np.flatnonzero(places >= 0)
        onehot[known - start + rows, places[rows]] = 1
        ranges = GenomicRanges(chrom, start, start + LENGTH, str(index))
        return {"inputs": onehot, "metadata": {"ranges": ranges}}
""",
    "model.yaml": """
defined_as: model.Enformer
args: {}
default_dataloader: .
info: {authors: [{name: nobody}], doc: GC along the window}
dependencies: {}
schema:
  inputs: {shape: "(393216, 4)", doc: DNA}
  targets: {shape: "(896, 5313)", doc: coverage in bins of 128 bp}
writers: {hdf5_chunk_size: 2}
""",
    "dataloader.yaml": """
type: Dataset
defined_as: dataloader.SeqIntervalDl
args: {intervals_file: {doc: BED3}, fasta_file: {doc: genome}}
info: {authors: [{name: nobody}], doc: DNA of intervals}
dependencies: {}
output_schema:
  inputs: {shape: "(393216, 4)", doc: DNA}
  metadata: {ranges: {type: GenomicRanges, doc: windows}}
""",
}

DEEPSEA = {
    "model.yaml": """
defined_as: model.DeepSEA
args: {}
default_dataloader: .
info: {authors: [{name: nobody}], doc: many outputs with labels}
dependencies: {}
schema:
  inputs: {shape: "(1000, 4)", doc: DNA}
  targets: {shape: "(3, )", doc: probabilities, column_labels: [targets.txt]}
""",
    "targets.txt": "K562_DNase_None\nK562_CTCF_None\nGM12878_DNase_None\n",
    "model.py": "class DeepSEA: pass\n",
}


def _make(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def make_xpresso(folder: Path) -> Path:
    return _make(folder / "Xpresso", XPRESSO)


def make_shore(folder: Path) -> Path:
    return _make(folder / "shore_model", SHORE)


def make_enformer(folder: Path) -> Path:
    return _make(folder / "Enformer", ENFORMER)


def make_deepsea(folder: Path) -> Path:
    return _make(folder / "DeepSEA", DEEPSEA)


def xpresso_score(tiny: Any, gene: Any) -> float:
    """Return what `Xpresso` should say of a gene: CpG reads the same on both strands."""
    first = gene.tss - 500 if gene.strand == "+" else gene.tss + 1 - 500
    letters = tiny.bases[gene.chrom].upper()
    return float(np.log10(1 + letters[max(first, 0) : first + 1_000].count(b"CG")))


def shore_score(tiny: Any, gene: Any, flank_bp: int) -> float:
    values = np.nan_to_num(tiny.signals["dnase"][gene.chrom])
    return float(0.25 + 0.5 * values[max(gene.tss - flank_bp, 0) : gene.tss + flank_bp].mean())


def enformer_score(tiny: Any, gene: Any, column: int) -> float:
    """Return what `Enformer` should say of a gene whose window is centred: three bins from 128 bases before the TSS."""
    letters = tiny.bases[gene.chrom].upper()[max(gene.tss - 128, 0) : gene.tss + 256]
    gc = letters.count(b"G") + letters.count(b"C")
    return float(np.log10(gc * (column % 2) + 3 * (column % 7) + 1))
