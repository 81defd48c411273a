"""Training a network on an invented genome, straight from memory, with the package's own network, loss and schedule.

Contract: a genome, settings and a seed in; a network in evaluation mode out, the same one every time on the same
machine. A budget in seconds is turned into a number of steps before training begins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from kipoi_seq2exp.config import InputSpec, NetworkConfig, Provenance, Variant
from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.nn.bottleneck import apply_annotations
from kipoi_seq2exp.nn.losses import seq2exp_loss
from kipoi_seq2exp.nn.motifs import frequent_words, start_stem
from kipoi_seq2exp.nn.network import Seq2Exp, Seq2ExpOutput
from kipoi_seq2exp.nn.tokens import Tokens, TokenStem, distinct_windows
from kipoi_seq2exp.training.data import NO_DNA, collate, reverse_complement, tokenise
from kipoi_seq2exp.training.module import learning_rate, run_tokens, start_from_regression
from kipoi_seq2exp.training.sections import OptimiserConfig

Masks = Mapping[str, NDArray[np.bool_]]
TIMED_STEPS, STARTING_WINDOWS = 2, 8
RIDGE = 1.0  # penalty of the regression on promoters' heights that the head starts from
HIGH_SHARE = 0.05  # of all tokens of the training windows: where words are looked for


class Windows(Protocol):
    """Windows by row: a genome in memory, or a data set over its files."""

    @property
    def inputs(self) -> InputSpec:
        """What a network reads."""

    def __getitem__(self, index: int, /) -> WindowInputs:
        """Return a window."""


@dataclass(frozen=True)
class Lesson:
    """How a network is trained.

    Attributes
    ----------
    optimiser : OptimiserConfig
        Steps, rates, batch size, weight of the bottleneck.
    reverse_complement : float
        Probability that a window is read from the other strand.
    seconds : float or None
        Do as many steps as fit into this processor time, at most `optimiser.max_steps`; the schedule follows.
    word_bp : int
        With tokens: half of the stem's filters start at words of so many bases that are over-represented where the
        tracks of the training windows are high (see `nn.motifs`). 0: all at random.
    """

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    reverse_complement: float = 0.5
    seconds: float | None = None
    word_bp: int = 0


@dataclass(frozen=True)
class Trained:
    """A trained network and a summary of its training.

    Attributes
    ----------
    network : Seq2Exp
        In evaluation mode.
    steps : int
    seconds : float
        Processor time of the steps, over all threads.
    losses : ndarray, (steps,)
        The prediction's part of the loss at each step.
    """

    network: Seq2Exp
    steps: int
    seconds: float
    losses: NDArray[np.float64]


def train_network(
    config: NetworkConfig,
    windows: Windows,
    rows: NDArray[np.int64],
    labels: NDArray[np.float64],
    lesson: Lesson,
    *,
    seed: int = 0,
    masks: Masks | None = None,
) -> Trained:
    """Train a network with random weights.

    Parameters
    ----------
    config : NetworkConfig
    windows : Windows
    rows : ndarray, (n,)
        Rows of the training genes.
    labels : ndarray, (n,)
        Their expression.
    lesson : Lesson
    seed : int
        Of weights, order, strands and masks.
    masks : mapping of str to ndarray of bool, (L,), optional
        Variant "peaks": the mask of each gene, without the promoter.

    Raises
    ------
    InputError
        If the loss is not a number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Seq2Exp(config, windows.inputs, Provenance(status="trained", seed=seed))
        reader = _Reader(network, windows, masks)
        if lesson.word_bp:
            _start_from_words(network, reader, rows, lesson.word_bp)
        features = np.stack([reader.read(int(row))["features"] for row in rows])
        start_from_regression(network, features, labels, RIDGE)
        _start_at_mean(network, reader, rows, labels)
        if lesson.seconds is not None:
            lesson = _within(lesson, network, reader, rows)
        started = time.process_time()
        losses = _teach(network.train(), reader, rows, labels, lesson, np.random.default_rng(seed))
    return Trained(network.eval(), len(losses), time.process_time() - started, np.array(losses))


def _teach(
    network: Seq2Exp,
    reader: _Reader,
    rows: NDArray[np.int64],
    labels: NDArray[np.float64],
    lesson: Lesson,
    rng: np.random.Generator,
) -> list[float]:
    """Take the steps of a lesson; return the prediction's loss at each."""
    settings = lesson.optimiser
    optimiser = AdamW(
        network.parameters(), lr=settings.peak_lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    schedule = LambdaLR(optimiser, lambda step: learning_rate(step, settings) / settings.peak_lr)
    order = np.empty(0, dtype=np.int64)
    losses: list[float] = []
    for step in range(settings.max_steps):
        while order.size < settings.batch_size:
            order = np.concatenate([order, rng.permutation(len(rows))])
        chosen, order = order[: settings.batch_size], order[settings.batch_size :]
        turned = rng.random(len(chosen)) < lesson.reverse_complement
        output = run_batch(network, reader.batch(rows[chosen], turned))
        loss = seq2exp_loss(output, torch.from_numpy(labels[chosen]), settings.kl_weight)
        if not bool(torch.isfinite(loss.total)):
            raise InputError(f"the loss is {float(loss.total):g} at step {step}: lower the peak of the learning rate.")
        optimiser.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.prediction.detach()))
    return losses


def _start_from_words(network: Seq2Exp, reader: _Reader, rows: NDArray[np.int64], word_bp: int) -> None:
    """Start half of the stem's filters from words that are frequent where the signal tracks are high."""
    stem, grid = network.sequence_embedding, reader.grid
    if grid is None or not isinstance(stem, TokenStem):
        raise ConfigError(f"word_bp ({word_bp}) needs token_bp above 1: a token a base has no stem.")
    heights = np.stack([_height(reader.read(int(row))["tracks"], network.config) for row in rows])
    heights[:, grid.promoter] = -np.inf  # it is kept whatever its DNA
    high = torch.from_numpy(heights >= np.quantile(heights, 1 - HIGH_SHARE))
    places = (
        (reader.read(int(row))["onehot"], grid.to_bases(chosen[None])[0].numpy())
        for row, chosen in zip(rows, high, strict=True)
    )
    start_stem(stem, frequent_words(places, word_bp, network.config.d_model // 2))


def _height(tracks: NDArray[np.float32], config: NetworkConfig) -> NDArray[np.float64]:
    """Add up the tracks of each token, all but the contact."""
    signals = [column for column in range(config.n_tracks) if column != config.contact_track]
    heights: NDArray[np.float64] = tracks[:, signals].sum(axis=1, dtype=np.float64)
    return heights


def _start_at_mean(network: Seq2Exp, reader: _Reader, rows: NDArray[np.int64], labels: NDArray[np.float64]) -> None:
    """Move the head's last bias so that the network starts at the mean of the labels, whatever its distal part adds."""
    last = network.expression_head[-1]
    assert isinstance(last, torch.nn.Linear)  # for the type checker
    with torch.no_grad():
        first = rows[:STARTING_WINDOWS]
        output = run_batch(network.eval(), reader.batch(first, np.zeros(len(first), dtype=np.bool_)))
        last.bias.add_(float(labels.mean()) - output.expression.mean())


def _within(lesson: Lesson, network: Seq2Exp, reader: _Reader, rows: NDArray[np.int64]) -> Lesson:
    """Return the lesson cut to the steps that fit into its time, going by the quickest of a few batches."""
    assert lesson.seconds is not None  # for the type checker
    settings, took = lesson.optimiser, []
    batch = rows[: settings.batch_size]
    for _ in range(TIMED_STEPS):
        started = time.process_time()
        output = run_batch(network.train(), reader.batch(batch, np.zeros(len(batch), dtype=np.bool_)))
        output.expression.sum().backward()
        took.append(time.process_time() - started)
    network.zero_grad()
    steps = min(settings.max_steps, max(1, int(lesson.seconds / min(took))))
    warmup = settings.warmup_steps * steps // settings.max_steps
    return replace(lesson, optimiser=replace(settings, max_steps=steps, warmup_steps=warmup))


class _Reader:
    """Reads windows as a network trains on them: as tokens, kept in memory (without DNA that it never reads)."""

    def __init__(self, network: Seq2Exp, windows: Windows, masks: Masks | None) -> None:
        self.windows, self.masks = windows, masks
        config = network.config
        self.grid = network.grid(config.window_bp) if config.token_bp > 1 else None
        self.reads_dna = config.reads_dna
        self.kept: dict[int, dict[str, Any]] = {}

    def batch(self, rows: NDArray[np.int64], turned: NDArray[np.bool_]) -> dict[str, Any]:
        """Stack the windows in rows, some of them read from the other strand."""
        arrays = [self.read(int(row)) for row in rows]
        return collate([reverse_complement(a) if flip else a for a, flip in zip(arrays, turned, strict=True)])

    def read(self, row: int) -> dict[str, Any]:
        """Read one window."""
        if row in self.kept:
            return self.kept[row]
        arrays = _arrays(self.windows[row], self.masks)
        if self.grid is not None:
            if not self.reads_dna:
                arrays["onehot"] = NO_DNA
            arrays = self.kept[row] = tokenise(arrays, self.grid)
        return arrays


def _arrays(window: WindowInputs, masks: Masks | None) -> dict[str, Any]:
    arrays = {"onehot": window.onehot, "signals": window.signals, "features": window.features}
    arrays |= {"blacklist": window.blacklist, "gene_id": window.gene_id}
    return arrays if masks is None else {**arrays, "peaks": masks[window.gene_id]}


def run_batch(network: Seq2Exp, batch: dict[str, Any]) -> Seq2ExpOutput:
    """Run a network on a batch of windows, of bases or of tokens; one of the variant "peaks" gets the batch's."""
    if "tracks" in batch:
        return run_tokens(network, batch, network.config.window_bp)
    mask = None
    if network.config.variant is Variant.PEAKS:
        mask = apply_annotations(batch["peaks"].float(), None, network.promoter(batch["peaks"].shape[1]))
    output: Seq2ExpOutput = network(batch["onehot"], batch["signals"], batch["features"], mask=mask)
    return output


def predict_windows(
    network: Seq2Exp, windows: Windows, rows: NDArray[np.int64], masks: Masks | None = None
) -> list[tuple[float, NDArray[np.float32] | None]]:
    """Predict windows one by one: expression and mask (None for a network without one) of each."""
    found = []
    with torch.inference_mode():
        for row in rows:
            output = run_batch(network, collate([_arrays(windows[int(row)], masks)]))
            mask = None if output.mask is None else output.mask[0].numpy()
            found.append((float(output.expression), mask))
    return found


def predict_masks(network: Seq2Exp, window: WindowInputs, masks: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Predict one window under each of several masks (L,) together: its DNA is read once. Returns (M,)."""
    grid = network.grid(len(window.onehot))
    onehot, unknown, _ = distinct_windows(torch.from_numpy(window.onehot[None]).float())
    tracks = grid.to_tokens(torch.from_numpy(window.signals[None]))
    given = torch.cat([grid.to_tokens(torch.from_numpy(mask[None])) for mask in masks])
    rows, features = torch.zeros(len(masks), dtype=torch.long), torch.from_numpy(window.features)
    tracks, features = tracks.expand(len(masks), -1, -1), features.expand(len(masks), -1)
    with torch.inference_mode():
        tokens = Tokens(onehot, unknown, rows, tracks, features, mask=given)
        return network.forward_tokens(tokens, len(window.onehot)).expression.numpy().astype(np.float64)
