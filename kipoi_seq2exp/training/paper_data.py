"""The authors' published data folder (Hugging Face data set xingyusu/GeneExp), read as it is.

    hg38/hg38.ml.fa
    promo_enhan_inter/GM12878_K562_18377_gene_expr_fromXpresso.csv      labels and mRNA features by ENSID
    promo_enhan_inter/leave_chrom_out_crossvalidation_split_18377genes.csv      chromosome, folds, gene name
    promo_enhan_inter/H3K27ac/<cell>/*.bigWig
    promo_enhan_inter/DNase-seq/<cell>/*.bigWig
    promo_enhan_inter/DNase-seq/<cell>/peaks/peaks_bigWig/macs3.bigWig      the MACS3 mask
    promo_enhan_inter/HiC/<cell>/hic_feat_chrN.h5       data set chrN_<TSS>: contact of each base of the window
    .../<cell>/.../GeneList.txt     ABC's genes: symbol, chr, tss and reads at the promoter
    ...blacklist....pkl     dict of chromosome to one bool per base

The sub-folders are searched for at any depth, because releases differ in it. Values are taken as they are: the
transforms of the `InputSpec` (log10(x + 1) for contacts) apply afterwards. A gene without a TSS in GeneList.txt is left
out and counted.
"""

from __future__ import annotations

import io
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kipoi_seq2exp.config import InputSpec, TrackKind, TrackSpec
from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.data.tables import read_table
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.training.labels import Labels, LabelScale, labels_from_column

log = logging.getLogger(__name__)

EXPRESSION = "GM12878_K562_18377_gene_expr_fromXpresso.csv"
FOLDS = "leave_chrom_out_crossvalidation_split_18377genes.csv"
FASTA = "hg38/hg38.ml.fa"
LABEL = "{cell}_CAGE_128*3_sum"  # CAGE reads of the three 128-bp bins at the TSS
FOLDERS = {"h3k27ac": "H3K27ac", "dnase": "DNase-seq", "hic": "HiC"}  # track name -> folder of the cell types


@dataclass(frozen=True)
class PublishedData:
    """What the folder holds for one cell type.

    Attributes
    ----------
    genes : DataFrame
        gene_id, chrom, tss, strand, features, the label's column, and fold_1 to fold_12 as the authors name them.
    labels : float32 array, (G,)
        log10(CAGE + 1).
    windows : WindowDataset
    peaks : PeakTrack or None
        The MACS3 mask, where the folder has it.
    """

    genes: pd.DataFrame
    labels: Labels
    windows: WindowDataset
    peaks: PeakTrack | None


class PeakTrack:
    """Peaks kept as a bigWig: a base is in a peak where its value is above 0."""

    def __init__(self, path: Path) -> None:
        self.track = open_signal(path, TrackSpec("peaks"))

    def mask(self, chrom: str, start: int, end: int) -> npt.NDArray[np.bool_]:
        """Return which bases of [start, end) lie in a peak: bool (L,)."""
        return np.asarray(self.track.values(chrom, start, end) > 0)


def open_published(
    folder: Path, cell_type: str, inputs: InputSpec, *, missing_features: str = "error"
) -> PublishedData:
    """Open the authors' folder for one cell type.

    Raises
    ------
    InputError
        If a file is missing or not as described above; the message names it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the authors' data folder with --data.")
    genes = read_published_genes(folder, cell_type)
    column = LABEL.format(cell=cell_type)
    if column not in genes:
        cells = [name.removesuffix(LABEL.format(cell="")) for name in genes if name.endswith(LABEL.format(cell=""))]
        raise InputError(f"{EXPRESSION}: no column '{column}' (it has labels of {', '.join(cells) or 'no cell type'}).")
    sources = {
        spec.name: find_contacts(folder, cell_type)
        if spec.kind is TrackKind.CONTACT
        else _track(folder, cell_type, spec)
        for spec in inputs.tracks
    }
    windows = WindowDataset(inputs, genes, folder / FASTA, sources, missing_features=missing_features)
    blacklists = sorted(folder.rglob("*blacklist*.p*kl*"))
    if blacklists:
        windows.blacklist = PickledBlacklist(blacklists[0])
        windows.blacklist.check_against(windows.genome)
    peaks = [path for path in folder.rglob("macs3.bigWig") if cell_type in path.parts]
    return PublishedData(
        genes,
        labels_from_column(genes, column, LabelScale.COUNT),
        windows,
        PeakTrack(peaks[0]) if peaks else None,
    )


def read_published_genes(folder: Path, cell_type: str) -> pd.DataFrame:
    """Join the three tables: expression and features, folds and names, positions and promoter reads."""
    expression = _read(_one(folder, EXPRESSION), ["ENSID"])
    folds = _read(_one(folder, FOLDS), ["ENSID", "chrom", "Gene name"])
    listed = [path for path in sorted(folder.rglob("GeneList.txt")) if cell_type in path.parts]
    if len(listed) != 1:
        raise InputError(f"{folder}: found {len(listed)} files GeneList.txt in a folder '{cell_type}', expected one.")
    positions = _read(listed[0], ["symbol", "chr", "tss", "H3K27ac.RPM.TSS1Kb", "DHS.RPM.TSS1Kb"])
    positions["PROMOTER_ACTIVITY"] = np.sqrt(positions["H3K27ac.RPM.TSS1Kb"] * positions["DHS.RPM.TSS1Kb"])
    if "strand" not in positions:
        positions["strand"] = "+"  # windows are read on the forward strand whatever the gene's
    kept = ["symbol", "chr", "tss", "strand", "PROMOTER_ACTIVITY"]
    joined = folds.drop(columns=[c for c in expression if c != "ENSID" and c in folds]).merge(expression, on="ENSID")
    whole = joined.merge(positions[kept], left_on=["Gene name", "chrom"], right_on=["symbol", "chr"]).drop(
        columns=["symbol", "chr"]
    )
    whole = whole.drop_duplicates("ENSID", keep=False)
    if len(whole) < len(joined):
        log.warning(
            "%d of %d genes have no single TSS in %s: left out.", len(joined) - len(whole), len(joined), listed[0]
        )
    if whole.empty:
        raise InputError(f"{folder}: no gene of {FOLDS} has a TSS in {listed[0]} (joined by gene name and chromosome).")
    whole.attrs = {"source": str(_one(folder, EXPRESSION))}
    return read_genes(whole.rename(columns={"ENSID": "gene_id"}))


class PickledBlacklist(Regions):
    """A blacklist as published: a pickled dict of chromosome to one bool per base. No code in the pickle is run.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    InputError
        If it holds anything but such a dict.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, f"blacklist {path}"
        try:
            values = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, IndexError, TypeError) as error:
            raise InputError(f"{self.where}: cannot be read ({error}).") from None
        if not isinstance(values, dict):
            raise InputError(f"{self.where}: expected a dict of chromosome to bools, found {type(values).__name__}.")
        self._bounds = {str(chrom): _runs(np.asarray(bools, dtype=bool)) for chrom, bools in values.items()}
        self._bounds = {chrom: bounds for chrom, bounds in self._bounds.items() if len(bounds[0])}


class _PlainUnpickler(pickle.Unpickler):
    """Unpickle containers and NumPy arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few names that an array needs."""
        if module.split(".")[0] == "numpy" and name in ("ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array")


def find_contacts(folder: Path, cell_type: str) -> Path:
    """Find the folder of the published contacts of a cell type."""
    found = sorted({path.parent for path in folder.rglob("hic_feat_*.h5") if cell_type in path.parts})
    if len(found) != 1:
        raise InputError(f"{folder}: found {len(found)} folders {FOLDERS['hic']}/{cell_type} with hic_feat_chrN.h5.")
    return found[0]


def _track(folder: Path, cell_type: str, spec: TrackSpec) -> Path:
    if spec.name not in FOLDERS:
        raise InputError(f"the published folder has no track '{spec.name}' (it has {', '.join(FOLDERS)}).")
    place = f"{FOLDERS[spec.name]}/{cell_type}"
    found = sorted(path for path in folder.rglob("*.bigWig") if str(path.parent).endswith(place))
    if len(found) != 1:
        raise InputError(f"{folder}: found {len(found)} files {place}/*.bigWig, expected one.")
    return found[0]


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise InputError(f"{folder}: holds no {name}: is it the authors' data folder?")
    return found[0]


def _read(path: Path, needed: list[str]) -> pd.DataFrame:
    return read_table(path, str(path), needed).typed()


def _runs(bools: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return starts and ends of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bools, [False]]).astype(np.int8))).astype(np.int64)
    return edges[::2], edges[1::2]
