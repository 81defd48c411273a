"""The weights that a run starts from: random, a regression in the head, or trained ones of the same architecture.

Contract for trained ones: with the same tracks and features the run starts with exactly their predictions. Tracks and
features are matched by name; new ones start without effect (their weights are 0, and a new track has no share in the
evidence of the mask), so that the network predicts what it did before and learns what they add. From an ensemble, the
run takes the member whose number is its seed modulo the number of members, so that the members of a run start from
different ones. Where the head alone learns, the contract is about everything before it: the head starts afresh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kipoi_seq2exp.config import InputSpec, NetworkConfig
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.training.config import Start, TrainingConfig
from kipoi_seq2exp.training.data import LabelledWindows, feature_table
from kipoi_seq2exp.training.module import HEAD, build_network, start_from_regression
from kipoi_seq2exp.training.sections import Learns
from kipoi_seq2exp.zoo.models import load_model

SILENT = -20.0  # of a new track's weight before the softmax, below the smallest: a share of 2e-9


@dataclass(frozen=True)
class Match:
    """Which tracks or features of a run are read by the weights it starts from.

    Attributes
    ----------
    ours, theirs : tuple of int
        Places of the shared ones among the run's and among the weights'.
    """

    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    @classmethod
    def by_name(cls, ours: Sequence[str], theirs: Sequence[str]) -> Match:
        """Match names, in the run's order."""
        shared = [name for name in ours if name in theirs]
        return cls(tuple(ours.index(name) for name in shared), tuple(theirs.index(name) for name in shared))


def start_network(config: TrainingConfig, train: LabelledWindows) -> Seq2Exp:
    """Build the initial network of a run from its `start`.

    Raises
    ------
    ConfigError
        If the weights to start from have another architecture, or do not name their inputs.
    """
    if config.start == Start.LINEAR.value:
        network = build_network(config)
        labels = [train.cells[cell].labels[row] for cell, row in train.places]
        names = config.linear_on or config.inputs.feature_names
        chosen = np.isin(config.inputs.feature_names, names)
        start_from_regression(network, feature_table(train) * chosen, np.array(labels), config.ridge)
        return network
    return build_network(config) if config.start_weights is None else start_from_weights(config)


def start_from_weights(config: TrainingConfig) -> Seq2Exp:
    """Build the network of a run from the weights that `start` names."""
    source, inputs = _open_source(config)
    tracks, features = _matches(config.inputs, inputs)
    network = build_network(dataclasses.replace(config, network=_evidence_settings(config.network, source, tracks)))
    state, known = network.state_dict(), source.state_dict()
    for name, value in state.items():
        if config.optimiser.learns is Learns.HEAD and name.startswith(HEAD):
            continue
        if name == "signal_embedding.weight":
            state[name] = _columns(value, known.get(name), tracks)
        elif name == "expression_head.0.weight":
            state[name] = _head(network.config, value, source.config, known[name], tracks, features)
        elif name not in ("prior_weights", "signal_betas") and name in known:
            state[name] = known[name]
    network.load_state_dict(state)
    return network


def describe_start(config: TrainingConfig) -> str:
    """Return in one sentence what a run takes from the weights it starts from; empty where it starts from none."""
    if config.start_weights is None:
        return ""
    source, inputs = _open_source(config)
    parts = [f"starting from {config.start} ({sum(p.numel() for p in source.parameters()):,} parameters)"]
    for what, ours, theirs in (
        ("tracks", config.inputs.track_names, inputs.track_names),
        ("features", config.inputs.feature_names, inputs.feature_names),
    ):
        for word, names in (
            (f"{what} matched by name", [name for name in ours if name in theirs]),
            (f"new {what}, silent at the start", [name for name in ours if name not in theirs]),
            (f"{what} of the weights left out", [name for name in theirs if name not in ours]),
        ):
            if names:
                parts.append(f"{word}: {', '.join(names)}")
    changed = [
        f"{ours.name} is read as {ours.transform.value} of '{ours.unit}', the weights learned {theirs.transform.value} "
        f"of '{theirs.unit}'"
        for ours in config.inputs.tracks
        for theirs in inputs.tracks
        if ours.name == theirs.name and (ours.transform, ours.unit) != (theirs.transform, theirs.unit)
    ]
    return "; ".join([*parts, *changed])


def _open_source(config: TrainingConfig) -> tuple[Seq2Exp, InputSpec]:
    """Load the weights to start from, after checking that they fit the run's network."""
    where = config.start_weights
    assert where is not None  # for the type checker
    members = load_model(where, "cpu").networks
    source = members[config.seed % len(members)]
    if source.inputs is None:
        raise ConfigError(
            f"start: the weights '{where}' do not name their tracks and features, so none can be matched."
        )
    ours, theirs = to_mapping(config.network), to_mapping(source.config)
    for name in shape_settings():
        if ours[name] != theirs[name]:
            raise ConfigError(
                f"start: the weights '{where}' have {name} {theirs[name]}, the run's network {ours[name]}: leave "
                f"network.{name} out (it then follows from the weights), or choose another start."
            )
    return source, source.inputs


def shape_settings() -> tuple[str, ...]:
    """Names of the settings that the parameters of two networks must share."""
    names = ("variant", "d_model", "d_state", "d_conv", "expand", "generator_layers", "encoder_layers", "token_bp")
    return (*names, "stem_bp", "contact_pool", "encoder_bp")


def _matches(ours: InputSpec, theirs: InputSpec) -> tuple[Match, Match]:
    return (
        Match.by_name(ours.track_names, theirs.track_names),
        Match.by_name(ours.feature_names, theirs.feature_names),
    )


def _evidence_settings(network: NetworkConfig, source: Seq2Exp, tracks: Match) -> NetworkConfig:
    """Return the run's network with the weights' share and evidence of each matched track; new ones have no share."""
    if not network.generates_mask or not tracks.ours:
        return network
    weights, betas = list(network.prior_weights), list(network.signal_betas)
    smallest = min(float(source.prior_weights[i]) for i in tracks.theirs)
    for ours in range(network.n_tracks):
        weights[ours] = smallest + SILENT
    for ours, theirs in zip(tracks.ours, tracks.theirs, strict=True):
        weights[ours], betas[ours] = float(source.prior_weights[theirs]), float(source.signal_betas[theirs])
    return dataclasses.replace(network, prior_weights=tuple(weights), signal_betas=tuple(betas))


def _head(
    ours: NetworkConfig, fresh: Tensor, theirs: NetworkConfig, known: Tensor, tracks: Match, features: Match
) -> Tensor:
    """Return the head's first weights: what the promoter's tokens, the spans' means and the features add."""
    new = fresh.split([ours.d_model, ours.n_span_means, ours.n_features], dim=1)
    old = known.split([theirs.d_model, theirs.n_span_means, theirs.n_features], dim=1)
    spans = torch.zeros_like(new[1])
    if ours.spans_bp == theirs.spans_bp and ours.spans_bp:  # other spans start silent
        by_track = (spans.unflatten(1, (-1, ours.n_tracks)), old[1].unflatten(1, (-1, theirs.n_tracks)))
        by_track[0][..., list(tracks.ours)] = by_track[1][..., list(tracks.theirs)]
    return torch.cat([old[0], spans, _columns(new[2], old[2], features)], dim=1)


def _columns(fresh: Tensor, known: Tensor | None, match: Match) -> Tensor:
    """Return weights like `fresh` whose matched columns are those of `known`, the others zero."""
    columns = torch.zeros_like(fresh)
    if known is not None and match.ours:
        columns[:, list(match.ours)] = known[:, list(match.theirs)]
    return columns
