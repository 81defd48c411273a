"""What a network must beat: ridge regression and boosted trees on the tracks' means at the TSS and in bins.

Definitions: P is ln(x + 1) of each signal track's mean at the TSS +-0.5, 1 and 5 kb; bins are ln(x + 1) of its means in
5-kb bins over the window, 5' to 3' of the gene. All are fitted on the training genes. Optional tracks (those with a
stand-in) are read by `ALL` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.data.tracks.signals import BigWigTrack
from kipoi_seq2exp.training.data import CellSet

Floats = NDArray[np.float64]

FLANKS_BP = (500, 1_000, 5_000)
BIN_BP = 5_000
MEAN, RIDGE, PROMOTER, BEST = "mean", "ridge, TSS +-1 kb", "boosting, P", "boosting, P and bins"
ALL = "boosting, P and bins of all its tracks"


def predict_baselines(cell: CellSet, rows: NDArray[np.int64], kept: Path) -> dict[str, Floats]:
    """Fit every baseline on the training genes of a cell type and predict the genes of some rows.

    Parameters
    ----------
    cell : CellSet
        Its signal tracks must be bigWigs.
    rows : ndarray of int64, (n,)
        Rows of the cell's genes.
    kept : Path
        An .npz of the features: read if it is there, else written.

    Returns
    -------
    dict of str to ndarray, (n,)
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import RidgeCV

    if not kept.is_file():
        np.savez_compressed(kept, features=promoter_and_bins(cell))
    with np.load(kept) as stored:
        features = stored["features"]
    if len(features) != len(cell.genes):
        raise SystemExit(f"{kept} holds {len(features)} genes, the table {len(cell.genes)}: delete it.")
    signals = [spec for spec in cell.windows.inputs.tracks if spec.kind is not TrackKind.CONTACT]
    width, n = features.shape[1] // len(signals), len(FLANKS_BP)
    own = [number for number, spec in enumerate(signals) if not spec.stand_in]
    promoter = [width * number + flank for number in own for flank in range(n)]
    near = [width * number + 1 for number in own]
    every = [column for number in own for column in range(width * number, width * (number + 1))]
    train, labels = cell.split.rows("train"), cell.labels.astype(np.float64)
    methods: dict[str, tuple[Any, Any]] = {
        RIDGE: (RidgeCV(alphas=np.logspace(-2, 4, 13)), near),
        PROMOTER: (HistGradientBoostingRegressor(random_state=0), promoter),
        BEST: (HistGradientBoostingRegressor(random_state=0), every),
    }
    if len(own) < len(signals):
        methods[ALL] = (HistGradientBoostingRegressor(random_state=0), list(range(features.shape[1])))
    found = {MEAN: np.full(len(rows), labels[train].mean())}
    for name, (method, columns) in methods.items():
        found[name] = method.fit(features[train][:, columns], labels[train]).predict(features[rows][:, columns])
    return found


def promoter_and_bins(cell: CellSet) -> Floats:
    """Return P and bins of each signal track of every gene, (G, tracks * (3 + bins))."""
    inputs, columns = cell.windows.inputs, []
    half = inputs.window_bp // 2
    for name in [spec.name for spec in inputs.tracks if spec.kind is not TrackKind.CONTACT]:
        track = cell.windows.tracks[name]
        if not isinstance(track, BigWigTrack):
            raise SystemExit(f"track '{name}': the baselines read bigWigs alone.")
        columns.append(_track_features(track, cell.genes, half))
    return np.log1p(np.hstack(columns))


def _track_features(track: BigWigTrack, genes: pd.DataFrame, half: int) -> Floats:
    edges = np.arange(-half, half + 1, BIN_BP)
    found = np.zeros((len(genes), len(FLANKS_BP) + len(edges) - 1))
    for chrom, rows in genes.reset_index(drop=True).groupby("chrom").indices.items():
        tss = genes["tss"].to_numpy(np.int64)[rows, None]
        integral = _Integral(track, str(chrom))
        flanks = np.array(FLANKS_BP)
        found[rows, : len(flanks)] = (integral(tss + flanks) - integral(tss - flanks)) / (2 * flanks)
        bins = np.diff(integral(tss + edges), axis=1) / BIN_BP
        reverse = (genes["strand"].to_numpy(str)[rows] == "-")[:, None]
        found[rows, len(flanks) :] = np.where(reverse, bins[:, ::-1], bins)
    return found


class _Integral:
    """The sum of a track's values over [0, position) of a chromosome, from the intervals of the file."""

    def __init__(self, track: BigWigTrack, chrom: str) -> None:
        spans = np.array(track.handle.intervals(chrom) or [(0, 1, 0.0)])
        start, end, value = spans.T
        self.positions = np.stack([start, end], axis=1).ravel()
        rises = np.stack([np.zeros(len(spans)), (end - start) * value], axis=1).ravel()
        self.sums = np.cumsum(rises)

    def __call__(self, positions: NDArray[np.int64]) -> Floats:
        return np.interp(positions, self.positions, self.sums)
