"""What a network says of genes when it is given less: conditions on batches of windows as tokens.

A condition changes a batch of `training.data.collate` (windows as tokens, with `peaks`, the share of each token's bases
in DNase peaks). A mask that is given replaces the network's own. "As many" is counted per window, in tokens outside
the promoter; a token is in peaks when half of it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.nn.tokens import TokenGrid, Tokens
from kipoi_seq2exp.training.data import CellSet, StandIns, collate, tokenise
from kipoi_seq2exp.training.module import run_tokens

Batch = dict[str, Any]
Condition = Callable[[Seq2Exp, TokenGrid, Batch], Batch]

BATCH = 16
WINDOWS_BP = (2_500, 10_000, 50_000)
SHUFFLE_SEED = 0
NETWORK, ALONE = "network", "every optional track left out"
OWN_BEST, PEAKS, ROTATED = "its best tokens as mask", "DNase peaks as mask, as many", "rotated peaks as mask"


def predict_conditions(
    models: list[Seq2Exp],
    cell: CellSet,
    rows: NDArray[np.int64],
    with_dna: NDArray[np.bool_],
    beside: Mapping[str, list[Seq2Exp]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Predict genes under every condition, the mean over the models.

    Parameters
    ----------
    models : list of Seq2Exp
        Of the same inputs and tokens.
    cell : CellSet
    rows : ndarray of int64, (n,)
        Rows of the cell's genes.
    with_dna : ndarray of bool, (n,)
        Genes whose DNA is shuffled and set to N; NaN for the others.
    beside : mapping of str to list of Seq2Exp, optional
        Networks of the same inputs and tokens that were trained otherwise: without a mask, or with one of DNase peaks.

    Returns
    -------
    dict of str to ndarray, (n,)
    """
    named = conditions(models[0])
    dna = {"DNA shuffled": shuffle_dna, "DNA set to N": without_dna}
    others = beside or {}
    found = {name: np.full(len(rows), np.nan) for name in (*named, *others, *dna)}
    grid = models[0].grid(cell.windows.inputs.window_bp)
    dnase = cell.windows.inputs.track_names.index("dnase")
    with torch.inference_mode():
        for first in range(0, len(rows), BATCH):
            chosen = np.arange(first, min(first + BATCH, len(rows)))
            for here, conditions_here in (
                (chosen[~with_dna[chosen]], named),
                (chosen[with_dna[chosen]], {**named, **dna}),
            ):
                if here.size:
                    batch = collate([read_window(cell, int(rows[row]), grid, dnase) for row in here])
                    for name, values in _predict(models, grid, batch, conditions_here).items():
                        found[name][here] = values
                    for name, networks in others.items():
                        each = [run_tokens(network, batch, grid.window_bp).expression for network in networks]
                        found[name][here] = torch.stack(each).double().mean(0).numpy()
    return found


def read_window(cell: CellSet, row: int, grid: TokenGrid, dnase: int) -> dict[str, Any]:
    """Read one window as tokens, with the DNase peaks: the bases where that track has a value."""
    window = cell.windows[row]
    arrays = {name: getattr(window, name) for name in ("onehot", "signals", "features", "blacklist", "gene_id")}
    return tokenise({**arrays, "peaks": window.signals[:, dnase] > 0}, grid)


def _predict(
    models: list[Seq2Exp], grid: TokenGrid, batch: Batch, named: Mapping[str, Condition]
) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in named}
    for model in models:
        own = run(model, batch, grid)
        with_mask = {**batch, "own": own.mask}
        for name, condition in named.items():
            output = own if name == NETWORK else run(model, condition(model, grid, with_mask), grid)
            found[name].append(output.expression.double().numpy())
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def run(model: Seq2Exp, batch: Batch, grid: TokenGrid) -> Any:
    """Run a network on a batch as tokens, with the mask of the batch if it has one."""
    onehot, rows = batch["onehot"].float(), batch["rows"]
    tokens = Tokens(
        onehot,
        int(rows.max()) == len(onehot),
        rows,
        batch["tracks"],
        batch["features"],
        batch["kept"],
        batch.get("mask"),
    )
    return model.forward_tokens(tokens, grid.window_bp)


def conditions(model: Seq2Exp) -> dict[str, Condition]:
    """Name what a network is given: all, or less than all."""
    found: dict[str, Condition] = {
        NETWORK: lambda _, grid, batch: batch,
        "promoter alone": masked(lambda grid, batch: torch.zeros_like(batch["own"])),
        "no mask": masked(lambda grid, batch: torch.ones_like(batch["own"])),
        OWN_BEST: masked(best_tokens),
        PEAKS: masked(in_peaks),
        ROTATED: masked(rotated_peaks),
    }
    for length in WINDOWS_BP:
        found[f"window cut to {length / 1000:g} kb"] = cut(length)
    tracks = model.inputs.tracks if model.inputs else ()
    for spec in tracks:
        found[f"{spec.name} at zero"] = without_track(spec.name)
    for spec in tracks:
        if spec.stand_in:
            found[f"{spec.name} left out"] = left_out(spec.name)
    if any(spec.stand_in for spec in tracks):
        found[ALONE] = left_out(None)
    return found


def masked(make: Callable[[TokenGrid, Batch], Tensor]) -> Condition:
    """Give the network the mask (B, T) that is made, with the promoter kept."""

    def condition(_: Seq2Exp, grid: TokenGrid, batch: Batch) -> Batch:
        mask = make(grid, batch).clone()
        mask[:, grid.promoter] = 1
        return {**batch, "mask": mask}

    return condition


def in_peaks(grid: TokenGrid, batch: Batch) -> Tensor:
    """Keep the tokens in peaks, promoter left out: (B, T)."""
    mask = (batch["peaks"] >= 0.5).to(batch["own"].dtype)
    mask[:, grid.promoter] = 0
    return mask


def best_tokens(grid: TokenGrid, batch: Batch) -> Tensor:
    """Keep the tokens of the highest own mask outside the promoter, as many as are in peaks: (B, T)."""
    own = batch["own"].clone()
    own[:, grid.promoter] = -1
    order = own.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(own.shape[1]).expand_as(order))
    return (rank < in_peaks(grid, batch).sum(1, keepdim=True)).to(own.dtype)


def rotated_peaks(grid: TokenGrid, batch: Batch) -> Tensor:
    """Rotate the peaks through the tokens outside the promoter by half their number: chance."""
    peaks = in_peaks(grid, batch)
    outside = torch.ones(grid.length, dtype=torch.bool)
    outside[grid.promoter] = False
    peaks[:, outside] = peaks[:, outside].roll(int(outside.sum()) // 2, dims=1)
    return peaks


def cut(length_bp: int) -> Condition:
    """Set signal tracks to 0 and DNA to N beyond the tokens within half the length of the TSS; contact stays."""

    def condition(model: Seq2Exp, grid: TokenGrid, batch: Batch) -> Batch:
        assert model.inputs is not None
        signals = torch.tensor([spec.kind is not TrackKind.CONTACT for spec in model.inputs.tracks])
        start = torch.arange(grid.length) * grid.token_bp - grid.beyond_bp - grid.window_bp // 2
        far = (start < -length_bp // 2) | (start + grid.token_bp > length_bp // 2)
        tracks = batch["tracks"].masked_fill(far[None, :, None] & signals, 0)
        onehot = batch["onehot"].clone()
        if len(onehot):
            onehot[:, : grid.window_bp // 2 - length_bp // 2] = 0
            onehot[:, grid.window_bp // 2 + length_bp // 2 :] = 0
        return {**batch, "tracks": tracks, "onehot": onehot}

    return condition


def without_track(name: str) -> Condition:
    """Set one track to 0, and the features that are computed from it."""

    def condition(model: Seq2Exp, grid: TokenGrid, batch: Batch) -> Batch:
        assert model.inputs is not None
        tracks, features = batch["tracks"].clone(), batch["features"].clone()
        tracks[..., model.inputs.track_names.index(name)] = 0
        features[:, [name in spec.from_tracks for spec in model.inputs.features]] = 0
        return {**batch, "tracks": tracks, "features": features}

    return condition


def left_out(name: str | None) -> Condition:
    """Leave out an optional track, or (None) all of them: what stands in is read, in the features as well."""

    def condition(model: Seq2Exp, grid: TokenGrid, batch: Batch) -> Batch:
        assert model.inputs is not None
        stands = StandIns.of(model.inputs)
        column = None if name is None else model.inputs.track_names.index(name)
        groups = [group for group, (tracks, _) in enumerate(stands.groups) if column is None or column in tracks]
        tracks, features = stands.replaced(groups)
        return {**batch, "tracks": batch["tracks"][..., tracks], "features": batch["features"][:, features]}

    return condition


def without_dna(_: Seq2Exp, grid: TokenGrid, batch: Batch) -> Batch:
    """Set all DNA to N."""
    return {**batch, "onehot": torch.zeros_like(batch["onehot"])}


def shuffle_dna(_: Seq2Exp, grid: TokenGrid, batch: Batch) -> Batch:
    """Put the bases of each window in a random order of its own."""
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    onehot = torch.stack([one[torch.randperm(len(one), generator=generator)] for one in batch["onehot"]])
    return {**batch, "onehot": onehot}
