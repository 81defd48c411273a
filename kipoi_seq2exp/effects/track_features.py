"""Gene features that follow from tracks, as a function that gradients pass through.

The data set computes such a feature once, from the tracks in their own units. Here the same number is computed from the
tracks as the network reads them, so that a change of a track changes the feature too. Both give the same features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import Transform
from kipoi_seq2exp.data.dataset import WindowDataset, transformed
from kipoi_seq2exp.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ComputedFeature:
    """A feature that is the geometric mean of tracks at the TSS.

    Attributes
    ----------
    column : int
        Column among the features.
    tracks : tuple of int
        Columns among the signals.
    track_transforms : tuple of Transform
        Transform that was applied to each of these tracks.
    transform : Transform
        Transform that is applied to the feature.
    flank_bp : int
        Bases that are read on either side of the TSS.
    """

    column: int
    tracks: tuple[int, ...]
    track_transforms: tuple[Transform, ...]
    transform: Transform
    flank_bp: int


@dataclass(frozen=True)
class FeatureRules:
    """Where the features of a data set come from.

    Attributes
    ----------
    names : tuple of str, F
    baseline : ndarray of float32, (F,)
        Features of a gene about which nothing is known: the mean over the training genes where the weights state it,
        else 0; NaN for the strand, which stays that of the gene.
    computed : tuple of ComputedFeature
        Features that follow from the tracks; their baseline is that of an empty window.
    """

    names: tuple[str, ...]
    baseline: NDArray[np.float32]
    computed: tuple[ComputedFeature, ...]

    @classmethod
    def of(cls, dataset: WindowDataset) -> FeatureRules:
        """Return the rules of a data set."""
        inputs, baseline, computed = dataset.inputs, [], []
        for column, feature in enumerate(inputs.features):
            known = np.float32(np.nan if feature.from_strand else feature.mean or 0.0)
            baseline.append(float(transformed(np.array([known], np.float32), feature.transform)[0]))
            if column in dataset.features.from_tracks:
                tracks = tuple(inputs.track_names.index(name) for name in feature.from_tracks)
                transforms = tuple(inputs.tracks[track].transform for track in tracks)
                computed.append(ComputedFeature(column, tracks, transforms, feature.transform, feature.flank_bp))
        return cls(inputs.feature_names, np.array(baseline, np.float32), tuple(computed))

    def baseline_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the baseline of one gene, (F,)."""
        return np.where(np.isnan(self.baseline), features, self.baseline)

    def compute(self, features: Tensor, signals: Tensor) -> Tensor:
        """Return the features (B, F) with those that follow from the signals (B, L, S) recomputed.

        Raises
        ------
        ConfigError
            If the window is shorter than the stretch that they are computed from.
        """
        if not self.computed:
            return features
        middle, features = signals.shape[1] // 2, features.clone()
        for feature in self.computed:
            if middle < feature.flank_bp:
                raise ConfigError(
                    f"{self.names[feature.column]} is computed from the TSS +-{feature.flank_bp} bp, and the window "
                    f"has {signals.shape[1]:,} bp: give it as a column of the gene table."
                )
            promoter = signals[:, middle - feature.flank_bp : middle + feature.flank_bp]
            features[:, feature.column] = _forward(_geometric_mean(feature, promoter), feature.transform)
        return features

    def features_of(self, features: NDArray[np.float32], signals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features of one window, (F,), that its signals (L, S) give it."""
        import torch

        computed = self.compute(torch.from_numpy(features)[None], torch.from_numpy(signals)[None])
        values: NDArray[np.float32] = computed[0].numpy()
        return values


def _geometric_mean(feature: ComputedFeature, promoter: Tensor) -> Tensor:
    """Return the geometric mean of the tracks' means in their own units, (B,); 0, without a slope, where one is 0."""
    import torch

    pairs = zip(feature.tracks, feature.track_transforms, strict=True)
    means = torch.stack([_backward(promoter[..., track], transform).mean(1) for track, transform in pairs])
    empty = (means <= 0).any(0)
    logs = torch.where(empty, torch.ones_like(means), means).log().mean(0)
    return torch.where(empty, torch.zeros_like(logs), logs.exp())


def _forward(values: Tensor, transform: Transform) -> Tensor:
    if transform is Transform.NONE:
        return values
    return values.log1p() if transform is Transform.LOG1P else (values + 1).log10()


def _backward(values: Tensor, transform: Transform) -> Tensor:
    """Undo a transform."""
    if transform is Transform.NONE:
        return values
    return values.expm1() if transform is Transform.LOG1P else (values * np.log(10)).expm1()
