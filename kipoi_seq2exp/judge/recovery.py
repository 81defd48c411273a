"""Does training find the regulation that is there? Networks on an invented genome, judged by its known truth.

Contract: a genome and a recipe in; a row per method (how much of the distal variance it explains, how well its effects
agree with the true ones), and a row per score that ranks elements, all on the held-out chromosomes.

    distal variance explained = (promoter alone - method) / (promoter alone - oracle)

of mean squared errors of expression. An effect is the fall of the prediction when the mask, else the network's own, is
0 for 1 kb on either side of the element's middle. Intervals (95 %) come from resampling the genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.config import NetworkConfig, Variant
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.judge import recovery_rivals as rivals
from kipoi_seq2exp.judge.ranking import rank_scores
from kipoi_seq2exp.judge.recovery_genome import FEATURES, PROMOTER_BP, GenomeSettings
from kipoi_seq2exp.judge.recovery_rivals import FLANK_BP, CalledTracks, Genome
from kipoi_seq2exp.judge.recovery_train import Lesson, Masks, Trained, predict_masks, predict_windows, train_network
from kipoi_seq2exp.metrics import Score, paired_differences, resampled_counts, score, score_columns
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.prediction.masking import masked_out
from kipoi_seq2exp.training.sections import OptimiserConfig

Floats = NDArray[np.float64]
Say = Callable[[str], None]

OURS = "Seq2Exp, tokens"
PLAIN, PEAKS = "no mask", "MACS3 mask"
PUBLISHED, ON_TOKENS = "published start, a token a base", "published start, our tokens"
NETWORKS = (OURS, PLAIN, PEAKS, ON_TOKENS, PUBLISHED)
RIVALS = {
    PLAIN: "our network and recipe with every base kept",
    PEAKS: "our network and recipe with the bases in MACS3's peaks on any track kept, and no others but the promoter",
    ON_TOKENS: "our tokens, the published start of the states, no sums of activity x contact and no words; the steps "
    "that fit into the processor time of ours, at most as many as ours",
    PUBLISHED: "the same with a token a base; its effects are not computed, for want of time",
}
MASK, EFFECT = "mask", "effect"


NETWORK: dict[str, Any] = {
    "d_model": 16,
    "d_state": 8,
    "generator_layers": 1,
    "encoder_layers": 1,
    "token_bp": 64,
    "contact_pool": 4,
    "contact_track": 2,
    "prior_scale": 1.0,
    "marginal_scale": 1.0,
    "z_scale": 10.0,  # samples of the mask then vary by a tenth or less
}
TASK_NETWORK: dict[str, dict[str, Any]] = {
    "tracks": {},
    # evidence of tracks and offsets that do not drown that of the DNA; motifs tell of their neighbourhood alone
    "dna": {"encoder_bp": PROMOTER_BP, "memory_bp": 1_024, "prior_scale": 0.1, "beta_min": 0.1},
    # far elements count by contact_pool alone; every element has the motifs, so DNA tells nothing that tracks do not
    "far": {"encoder_bp": 4_096, "memory_bp": 4_096, "reads_dna": False, "z_scale": 40.0},
}
STEPS = {"tracks": 600, "dna": 500, "far": 800}
PEAK_LR = 1e-2
KL_WEIGHT = {"tracks": 1e-4, "dna": 1e-5, "far": 1e-4}
WORD_BP = {"tracks": 0, "dna": 8, "far": 0}


@dataclass(frozen=True)
class Recipe:
    """How the networks are built and trained.

    Attributes
    ----------
    network : dict of str to object
        Fields of `NetworkConfig` that differ from the published ones.
    lesson : Lesson
    """

    network: Mapping[str, Any]
    lesson: Lesson

    def config(self, genome: GenomeSettings, **changes: Any) -> NetworkConfig:
        """Return the network's settings for the windows of a genome."""
        lengths = {
            "window_bp": genome.window_bp,
            "promoter_bp": PROMOTER_BP,
            "n_tracks": 3,
            "n_features": len(FEATURES),
        }
        return NetworkConfig(**{**self.network, **lengths, **changes})


@dataclass(frozen=True)
class Judged:
    """A method's predictions for the held-out genes and for the elements in their windows.

    Attributes
    ----------
    expression : ndarray, (G,)
    effect, mask : ndarray, (pairs,), or None
        Predicted effect of each element; mean of the mask over it.
    training : Trained or None
    """

    expression: Floats
    effect: Floats | None = None
    mask: Floats | None = None
    training: Trained | None = None


@dataclass(frozen=True)
class Recovery:
    """The tables of a benchmark.

    Attributes
    ----------
    methods : DataFrame
        method; distal (share explained), effect_r and pearson, each with _low and _high; mse; steps; seconds.
    rankings : DataFrame
        score, auprc with _low and _high.
    pairs : DataFrame
        Every element of a held-out window with its true effect and all scores.
    notes : tuple of str
    networks : mapping of str to Seq2Exp
        The trained ones, by method.
    """

    methods: pd.DataFrame
    rankings: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...] = field(default=())
    networks: Mapping[str, Seq2Exp] = field(default_factory=dict)


def benchmark_recovery(
    genome: Genome,
    recipe: Recipe,
    networks: tuple[str, ...] = NETWORKS,
    *,
    seed: int = 0,
    macs3: CalledTracks | None = None,
    say: Say = lambda _: None,
) -> Recovery:
    """Train networks on a genome and judge them beside their rivals.

    Parameters
    ----------
    genome : RecoveryGenome or GenomeFiles
    recipe : Recipe
    networks : tuple of str
        Names of `NETWORKS`, ours first.
    seed : int
        Seed of weights and order.
    macs3 : CalledTracks, optional
        Without it, whatever needs MACS3 is left out, and a note says that.
    say : callable
        Called with a sentence on each finished network.
    """
    test = genome.rows("test")
    pairs = held_out_pairs(genome)
    judged = {name: Judged(values) for name, values in rivals.predict_rivals(genome).items()}
    notes = []
    seconds = None
    for name in networks:
        if name == PEAKS and macs3 is None:
            notes.append("MACS3 is not installed: its mask and its ranking of the tracks are left out")
            continue
        trained = _train(genome, recipe, name, seed, seconds, macs3)
        seconds = trained.seconds if name == OURS else seconds
        masks = None if macs3 is None or name != PEAKS else macs3.masks(genome, test)
        spoken = judge_network(trained.network, genome, pairs, masks, with_effects=name != PUBLISHED)
        judged[name] = replace(spoken, training=trained)
        loss = trained.losses[-50:].mean()
        say(f"{name}: {trained.steps:,} steps in {trained.seconds:,.0f} s, the last losses {loss:.4f} on average")
    scores = _candidate_scores(genome, pairs, judged, macs3)
    observed = genome.genes["expression"].to_numpy()[test]
    methods = pd.DataFrame([_method_row(name, one, judged, observed, pairs) for name, one in judged.items()])
    labels, groups = pairs["regulated"].to_numpy(bool), pairs["gene_id"].to_numpy()
    ranked = rank_scores(labels, scores, groups=groups)
    rankings = pd.DataFrame([{"score": name, **score_columns({"auprc": one.auprc})} for name, one in ranked.items()])
    lines = () if macs3 is None else macs3.lines
    networks_of = {name: one.training.network for name, one in judged.items() if one.training is not None}
    return Recovery(methods, rankings, pairs.assign(**scores), (*notes, *lines), networks_of)


def held_out_pairs(genome: Genome) -> pd.DataFrame:
    """Return the pairs of the held-out genes, in the order of the genes."""
    names = genome.genes["gene_id"].to_numpy()[genome.rows("test")]
    pairs = genome.pairs[genome.pairs["gene_id"].isin(names)].reset_index(drop=True)
    return pairs


def _train(
    genome: Genome, recipe: Recipe, name: str, seed: int, seconds: float | None, macs3: CalledTracks | None
) -> Trained:
    """Train one of `NETWORKS` on the training genes."""
    config, lesson = network_of(recipe, name, genome.settings, seconds)
    rows = genome.rows("train")
    masks = None if macs3 is None or config.variant is not Variant.PEAKS else macs3.masks(genome, rows)
    return train_network(
        config, genome, rows, genome.genes["expression"].to_numpy()[rows], lesson, seed=seed, masks=masks
    )


def network_of(
    recipe: Recipe, name: str, genome: GenomeSettings, seconds: float | None
) -> tuple[NetworkConfig, Lesson]:
    """Return how one of `NETWORKS` is built and trained.

    Parameters
    ----------
    recipe : Recipe
    name : str
    genome : GenomeSettings
    seconds : float or None
        Processor time that the training of ours took: the budget of the published start.

    Raises
    ------
    ConfigError
        If there is no such network.
    """
    if name == OURS:
        return recipe.config(genome), recipe.lesson
    if name == PLAIN:
        return recipe.config(genome, variant=Variant.PLAIN), recipe.lesson
    if name == PEAKS:
        return recipe.config(genome, variant=Variant.PEAKS), recipe.lesson
    if name in (ON_TOKENS, PUBLISHED):
        published: dict[str, Any] = {"memory_bp": None, "contact_pool": 0, "encoder_bp": None, "reads_dna": True}
        published |= {"token_bp": 1} if name == PUBLISHED else {}
        return recipe.config(genome, **published), replace(recipe.lesson, seconds=seconds, word_bp=0)
    raise ConfigError(f"unknown network '{name}': choose from {', '.join(NETWORKS)}.")


def judge_network(
    network: Seq2Exp, genome: Genome, pairs: pd.DataFrame, masks: Masks | None = None, *, with_effects: bool = True
) -> Judged:
    """Predict the held-out genes, each with every element of its window masked out.

    Parameters
    ----------
    network : Seq2Exp
    genome : RecoveryGenome or GenomeFiles
    pairs : DataFrame
        Of `held_out_pairs`.
    masks : mapping of str to ndarray of bool, (L,), optional
        Of each gene, for a network that is given its mask.
    with_effects : bool
        Whether elements are masked out; it takes one prediction for each.
    """
    test = genome.rows("test")
    predicted = predict_windows(network, genome, test, masks)
    expression = np.array([value for value, _ in predicted])
    effect, shown = np.zeros(len(pairs)), np.zeros(len(pairs))
    by_gene = {gene_id: rows for gene_id, rows in pairs.groupby("gene_id", sort=False)}
    for place, row in enumerate(test):
        window, mask = genome[int(row)], predicted[place][1]
        if window.gene_id not in by_gene:
            continue
        of_gene = by_gene[window.gene_id]
        own = np.ones(len(window.onehot), dtype=np.float32) if mask is None else mask
        start, end = ((of_gene[name] - window.start).to_numpy() for name in ("start", "end"))
        shown[of_gene.index] = [own[max(0, a) : b].mean() for a, b in zip(start, end, strict=True)]
        if with_effects:
            middle = (start + end) // 2
            without = masked_out(own, np.maximum(0, middle - FLANK_BP), middle + FLANK_BP)
            effect[of_gene.index] = expression[place] - predict_masks(network, window, list(without))
    own_mask = network.config.generates_mask
    return Judged(expression, effect if with_effects else None, shown if own_mask else None)


def _candidate_scores(
    genome: Genome, pairs: pd.DataFrame, judged: Mapping[str, Judged], macs3: CalledTracks | None
) -> dict[str, Floats]:
    """Return every score of the elements: by networks, by tracks, by MACS3."""
    scores = {}
    for name, one in judged.items():
        for what, values in ((MASK, one.mask), (EFFECT, one.effect)):
            if values is not None:
                scores[f"{what} of {name}"] = values
    scores |= rivals.rank_by_tracks(genome, pairs)
    return scores if macs3 is None else {**scores, **macs3.rank(pairs)}


def _method_row(
    name: str, one: Judged, judged: Mapping[str, Judged], observed: Floats, pairs: pd.DataFrame
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name}
    row |= score_columns({"distal": distal_share(observed, one.expression, judged)})
    if one.effect is not None:
        groups = pairs["gene_id"].to_numpy()
        row |= score_columns({"effect_r": grouped_pearson(pairs["effect"].to_numpy(), one.effect, groups)})
    scores = score(observed, one.expression)
    row |= {**score_columns({"pearson": scores["pearson"]}), "mse": scores["mse"].value}
    if one.training is not None:
        row |= {"steps": one.training.steps, "seconds": round(one.training.seconds)}
    return row


def distal_share(observed: Floats, predicted: Floats, judged: Mapping[str, Judged]) -> Score:
    """Return the share of the distal variance that predictions explain: 0 as the promoter alone, 1 as the oracle."""
    promoter, oracle = judged[rivals.PROMOTER].expression, judged[rivals.ORACLE].expression
    explainable = np.mean((promoter - observed) ** 2) - np.mean((oracle - observed) ** 2)
    gain = paired_differences(observed, predicted, promoter)["mse"]
    return Score(*(float(value / explainable) for value in (gain.value, gain.low, gain.high)))


def grouped_pearson(
    truth: Floats, guess: Floats, groups: NDArray[Any], *, bootstrap: int = 1_000, level: float = 0.95, seed: int = 0
) -> Score:
    """Return the correlation over pairs, with a bootstrap interval over their genes."""
    _, of_pair = np.unique(groups, return_inverse=True)
    count = int(of_pair.max()) + 1
    weights = np.concatenate([np.ones((1, count)), *resampled_counts(count, bootstrap, seed)])[:, of_pair]
    weights = weights / weights.sum(axis=1, keepdims=True)
    a, b = truth - weights @ truth[:, None], guess - weights @ guess[:, None]
    covariance, first, second = ((weights * x).sum(axis=1) for x in (a * b, a**2, b**2))
    scale = np.sqrt(first * second)
    found = np.divide(covariance, scale, out=np.full(len(scale), np.nan), where=scale > 1e-300)
    return Score.of(float(found[0]), found[1:], level)


def recipe_of(genome: GenomeSettings, steps: int | None = None) -> Recipe:
    """Return the benchmark's recipe for a genome.

    Parameters
    ----------
    genome : GenomeSettings
    steps : int, optional
        Optimiser steps; by default what the task needs.
    """
    task = genome.task.value
    chosen = STEPS[task] if steps is None else steps
    if chosen < 1:
        raise ConfigError(f"steps must be at least 1, found {chosen}.")
    optimiser = OptimiserConfig(
        max_steps=chosen,
        warmup_steps=chosen // 5,
        start_lr=PEAK_LR / 20,
        peak_lr=PEAK_LR,
        end_lr=PEAK_LR / 100,
        kl_weight=KL_WEIGHT[task],
        batch_size=8,
    )
    network = {**NETWORK, "memory_bp": genome.window_bp // 2, **TASK_NETWORK[task]}
    return Recipe(network, Lesson(optimiser, word_bp=WORD_BP[task]))
