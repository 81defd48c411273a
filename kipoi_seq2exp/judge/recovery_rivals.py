"""What a network must beat on an invented genome: regressions on tracks, and rankings of elements by tracks.

Contract: an invented genome in; predictions for its held-out genes, and a score for every element in the window of one.
Nothing here uses the truth of a held-out gene, except the oracle, which is the formula itself.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.data.tracks.signals import BigWigTrack
from kipoi_seq2exp.data.windows import Window
from kipoi_seq2exp.judge.macs3 import PeakSettings, call_peaks, find_macs3
from kipoi_seq2exp.judge.recovery_files import SIGNALS, GenomeFiles, write_track
from kipoi_seq2exp.judge.recovery_genome import PROMOTER_FLANK_BP, RecoveryGenome

Floats = NDArray[np.float64]
Genome = RecoveryGenome | GenomeFiles

MEAN, PROMOTER, ORACLE = "mean of the training genes", "promoter alone (ridge)", "oracle (the formula)"
RIDGE, BOOSTING = "ridge on binned tracks", "boosting on binned tracks"
SUMMED = "activity x contact, summed (ridge)"
ACTIVITY, ACTIVITY_CONTACT = "activity", "activity x contact"

BINS = 40
FLANK_BP = 1_000
"""Round the middle of an element: what is masked out, and what its activity is the mean of."""

CUTOFF_FOLD = 1.0
"""Cutoff of MACS3, as a multiple of the track's mean. Elements are so dense here that the usual fold of 5 misses two
thirds of the enhancers by H3K27ac (seed 1, task tracks); at the mean itself every one has its peak on both tracks."""

PENALTIES = tuple(10.0**power for power in range(-2, 4))


@dataclass(frozen=True)
class Features:
    """What regressions read of windows.

    Attributes
    ----------
    promoter : ndarray, (n, 2)
        ln(mean + 1) of the signal tracks at the TSS +- 500 bp.
    bins : ndarray, (n, 3 BINS)
        Mean of each track, as a network reads it, in equal bins of the window.
    summed : ndarray, (n, 1)
        ln(x + 1) of the sum of activity x contact over the window beyond the promoter.
    """

    promoter: Floats
    bins: Floats
    summed: Floats

    def table(self, *names: str) -> Floats:
        """Return chosen features side by side."""
        return np.concatenate([getattr(self, name) for name in names], axis=1)


def read_features(genome: Genome, rows: NDArray[np.int64]) -> Features:
    """Read the features of the genes in rows of a genome."""
    promoter, bins, summed = [], [], []
    for row in rows:
        signals = genome[int(row)].signals.astype(np.float64)
        middle, length = len(signals) // 2, len(signals)
        amounts = np.expm1(signals[:, :2])
        near = amounts[middle - PROMOTER_FLANK_BP : middle + PROMOTER_FLANK_BP]
        promoter.append(np.log1p(near.mean(axis=0)))
        edges = np.linspace(0, length, BINS + 1).astype(int)
        bins.append(np.stack([signals[a:b].mean(axis=0) for a, b in itertools.pairwise(edges)], axis=1))
        activity = np.sqrt(amounts.prod(axis=1)) * (10 ** signals[:, 2] - 1)
        activity[middle - FLANK_BP : middle + FLANK_BP] = 0
        summed.append([np.log1p(activity.mean())])
    return Features(np.array(promoter), np.array(bins).reshape(len(rows), -1), np.array(summed))


def predict_rivals(genome: Genome) -> dict[str, Floats]:
    """Fit the regressions on the training genes; predict the held-out ones by them, by the mean and by the oracle."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = genome.rows("train"), genome.rows("test")
    labels = genome.genes["expression"].to_numpy()[train]
    known, new = read_features(genome, train), read_features(genome, test)

    def ridge(*names: str) -> Floats:
        model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        predicted: Floats = model.fit(known.table(*names), labels).predict(new.table(*names))
        return predicted

    boosting = HistGradientBoostingRegressor(random_state=0)
    boosting.fit(_both_strands(known.table("promoter", "bins")), np.tile(labels, 2))
    return {
        MEAN: np.full(len(test), labels.mean()),
        PROMOTER: ridge("promoter"),
        RIDGE: ridge("promoter", "bins"),
        BOOSTING: boosting.predict(new.table("promoter", "bins")),
        SUMMED: ridge("promoter", "summed"),
        ORACLE: genome.genes["truth"].to_numpy()[test],
    }


def _both_strands(table: Floats) -> Floats:
    """Append the same windows read from the other end, as training of a network does."""
    turned = table[:, 2:].reshape(len(table), -1, BINS)[:, :, ::-1].reshape(len(table), -1)
    return np.concatenate([table, np.concatenate([table[:, :2], turned], axis=1)])


def rank_by_tracks(genome: Genome, pairs: pd.DataFrame) -> dict[str, Floats]:
    """Score pairs by the tracks at the element: the root of the product of their means, alone and times contact."""
    activity = np.empty(len(pairs))
    row_of = dict(zip(genome.genes["gene_id"], range(len(genome)), strict=True))
    for gene_id, places in pairs.groupby("gene_id").indices.items():
        window, of_gene = genome[row_of[gene_id]], pairs.iloc[places]
        amounts = np.expm1(window.signals[:, :2].astype(np.float64))
        middles = (of_gene["start"] + of_gene["end"]) // 2 - window.start
        around = [amounts[max(0, middle - FLANK_BP) : middle + FLANK_BP] for middle in middles]
        activity[places] = [np.sqrt(values.mean(axis=0).prod()) for values in around]
    return {ACTIVITY: activity, ACTIVITY_CONTACT: activity * pairs["contact"].to_numpy()}


@dataclass(frozen=True)
class CalledTracks:
    """What MACS3 called on the tracks of a genome.

    Attributes
    ----------
    peaks : dict of str to DataFrame
        By track: chrom, start, end, score.
    regions : dict of str to Regions
        The same as intervals.
    lines : tuple of str
        What was called, by which version and command.
    """

    peaks: dict[str, pd.DataFrame]
    regions: dict[str, Regions]
    lines: tuple[str, ...]

    def rank(self, pairs: pd.DataFrame) -> dict[str, Floats]:
        """Score pairs by the best peak within 1 kb of the element's middle: by each track, and by both (product)."""
        scores = {f"MACS3 on {track}": _best_peaks(table, pairs) for track, table in self.peaks.items()}
        return {**scores, "MACS3 on both": np.prod(list(scores.values()), axis=0)}

    def masks(self, genome: Genome, rows: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
        """Return the bases in a peak of any track, (L,), for the gene in each row."""
        masks = {}
        for gene in genome.genes.iloc[rows].itertuples():
            window = Window.around(gene.chrom, gene.tss, genome.settings.window_bp)
            each = [regions.mask(window.chrom, window.start, window.end) for regions in self.regions.values()]
            masks[str(gene.gene_id)] = np.logical_or.reduce(each)
        return masks


def _best_peaks(peaks: pd.DataFrame, pairs: pd.DataFrame) -> Floats:
    by_chrom = {chrom: rows for chrom, rows in peaks.groupby("chrom")}
    scores = np.zeros(len(pairs))
    middles = ((pairs["start"] + pairs["end"]) // 2).to_numpy()
    for place, (chrom, middle) in enumerate(zip(pairs["chrom"], middles, strict=True)):
        if chrom in by_chrom:
            rows = by_chrom[chrom]
            near = (rows["start"] < middle + FLANK_BP) & (rows["end"] > middle - FLANK_BP)
            scores[place] = rows.loc[near, "score"].max() if near.any() else 0.0
    return scores


def call_macs3(genome: Genome) -> CalledTracks:
    """Call peaks on both tracks of a genome by MACS3.

    Raises
    ------
    ConfigError
        If MACS3 is not installed or fails.
    """
    program, settings = find_macs3(), PeakSettings(fold=CUTOFF_FOLD)
    lengths = genome.lengths
    specs = {spec.name: spec for spec in genome.inputs.tracks}
    peaks, regions, lines = {}, {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for track in SIGNALS:
            if isinstance(genome, RecoveryGenome):
                write_track(genome, track, folder / f"{track}.bw")
                path = folder / f"{track}.bw"
            else:
                path = genome.signals[track]
            with BigWigTrack(path, specs[track]) as signal:
                called = call_peaks(program, signal, lengths, settings, folder / f"{track}.narrowPeak")
            columns = {0: "chrom", 1: "start", 2: "end", 4: "score"}
            table = pd.read_csv(called.path, sep="\t", header=None, usecols=list(columns))
            peaks[track], regions[track] = table.rename(columns=columns), Regions(called.path, "peaks")
            lines.append(f"MACS3 on {track}: {called.line}")
    return CalledTracks(peaks, regions, tuple(lines))
