"""A short training on the invented genome: it fails when reach, gradient or mask of the network break."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kipoi_seq2exp.judge import recovery
from kipoi_seq2exp.judge.recovery import OURS, Recovery, benchmark_recovery, recipe_of
from kipoi_seq2exp.judge.recovery_genome import GenomeSettings, Task, invent_genome
from kipoi_seq2exp.judge.recovery_rivals import BOOSTING, MEAN, ORACLE, PROMOTER, RIDGE

STEPS = 120
WIDE = {"token_bp": 128, "d_state": 4}  # less work a step


@pytest.fixture(scope="module")
def learned() -> Recovery:
    genome = invent_genome(GenomeSettings(Task.TRACKS, seed=1, genes=300, window_bp=15_104, chromosomes=20))
    recipe = recipe_of(genome.settings, STEPS)
    return benchmark_recovery(genome, replace(recipe, network={**recipe.network, **WIDE}), (OURS,), seed=1)


def row(result: Recovery, method: str) -> dict[str, float]:
    found: dict[str, float] = result.methods.set_index("method").loc[method].to_dict()
    return found


def test_most_of_the_distal_variance_is_learned(learned):
    """Gradient and reach: nothing of it lies in the promoter."""
    ours = row(learned, OURS)
    assert ours["distal_low"] > 0.5
    assert row(learned, PROMOTER)["distal"] == 0
    assert row(learned, ORACLE)["distal"] == pytest.approx(1)
    assert row(learned, MEAN)["distal"] < 0.2
    assert ours["distal"] > max(row(learned, RIDGE)["distal"], row(learned, BOOSTING)["distal"])


def test_masking_an_element_out_takes_its_effect_away(learned):
    """The mask: what it drops does not act, and what it keeps does."""
    assert row(learned, OURS)["effect_r_low"] > 0.7
    pairs = learned.pairs
    regulated, effect = pairs["regulated"].to_numpy(bool), pairs[f"{recovery.EFFECT} of {OURS}"].to_numpy()
    assert effect[regulated].mean() > 0.5 * pairs.loc[regulated, "effect"].mean()
    assert abs(effect[~regulated].mean()) < 0.25 * effect[regulated].mean()


def test_effects_rank_enhancers_first(learned):
    auprc = learned.rankings.set_index("score")["auprc"]
    assert auprc[f"{recovery.EFFECT} of {OURS}"] > 0.85
