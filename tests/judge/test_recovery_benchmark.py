"""`seq2exp benchmark recovery`: learning finds what is there, its scores are what they say, both doors agree."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kipoi_seq2exp import load_model
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.config import Variant
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.judge import recovery, recovery_train
from kipoi_seq2exp.judge.recovery import Judged, benchmark_recovery, distal_share, grouped_pearson, recipe_of
from kipoi_seq2exp.judge.recovery_genome import WINDOWS_BP, GenomeSettings, RecoveryGenome, Task, invent_genome
from kipoi_seq2exp.judge.recovery_report import recovery_lines
from kipoi_seq2exp.judge.recovery_rivals import ACTIVITY, ORACLE, PROMOTER, CalledTracks, predict_rivals, rank_by_tracks
from kipoi_seq2exp.judge.recovery_train import predict_masks, predict_windows, train_network
from kipoi_seq2exp.metrics import score
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.prediction.masking import predict_masked
from kipoi_seq2exp.training.module import ridge_regression

SMALL = ["--task", "tracks", "--genes", "15", "--chromosomes", "3", "--window", "16000", "--steps", "2"]


@pytest.fixture(scope="module")
def genome() -> RecoveryGenome:
    return invent_genome(GenomeSettings(Task.TRACKS, seed=1, genes=15, window_bp=16_000, chromosomes=3))


def numbers(folder: Path) -> dict[str, object]:
    """Everything that was measured, but for the times."""
    content = json.loads((folder / "recovery.json").read_text())
    for row in content["methods"]:
        row.pop("seconds", None)
    return {name: content[name] for name in ("genome", "network", "lesson", "methods", "rankings")}


def test_from_memory_and_from_files_give_the_same_numbers(tmp_path, capsys):
    words = [*SMALL, "--only-ours", "--to-files", str(tmp_path / "files"), "-o", str(tmp_path / "memory")]
    assert main(["benchmark", "recovery", *words]) == 0
    words = ["--from-files", str(tmp_path / "files"), "--steps", "2", "--only-ours", "-o", str(tmp_path / "again")]
    assert main(["benchmark", "recovery", *words]) == 0
    assert numbers(tmp_path / "memory") == numbers(tmp_path / "again")
    for name in ("recovery.md", "recovery_pairs.tsv"):
        assert (tmp_path / "memory" / name).stat().st_size > 500
    assert "distal variance explained" in capsys.readouterr().out
    pairs = pd.read_csv(tmp_path / "memory" / "recovery_pairs.tsv", sep="\t", comment="#")
    assert {"effect", "regulated", "mask of Seq2Exp, tokens", "effect of Seq2Exp, tokens"} <= set(pairs)
    ours = next(row for row in numbers(tmp_path / "memory")["methods"] if row["method"] == recovery.OURS)
    predicted = of_held_out(tmp_path / "memory" / "recovery.safetensors", tmp_path / "files", tmp_path / "predicted")
    found = score(predicted["observed"], predicted["expression"])
    assert found["mse"].value == pytest.approx(ours["mse"], rel=1e-4)
    assert load_model(tmp_path / "memory" / "recovery.safetensors").provenance.scores["mse"] == ours["mse"]


def of_held_out(weights: Path, files: Path, folder: Path) -> pd.DataFrame:
    """Predict the held-out genes from the files, as anybody would with these weights."""
    genes = pd.read_csv(files / "genes.tsv", sep="\t")
    words = ["predict", str(weights), "--fasta", str(files / "genome.fa"), "--genes", str(files / "genes.tsv")]
    words += ["--gene-ids", *genes["gene_id"][genes["part"] == "test"], "--label", "expression", "--device", "cpu"]
    for track, name in (("h3k27ac", "h3k27ac.bw"), ("dnase", "dnase.bw"), ("hic", "contacts.tsv")):
        words += ["--track", f"{track}={files / name}"]
    assert main([*words, "-o", str(folder)]) == 0
    return pd.read_csv(folder / "predictions.tsv", sep="\t", comment="#")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--genes", "6"], "give a --task"),
        (["--task", "dna", "--genes", "10"], "leave no gene to hold out"),
        (["--from-files", "absent"], "genome.yaml: no such file"),
        (["--from-files", "absent", "--seed", "3"], "--from-files reads a finished genome: leave out --seed"),
    ],
)
def test_bad_words_are_told_in_one_sentence(words, message, tmp_path, capsys):
    assert main(["benchmark", "recovery", *words, "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_the_share_is_0_for_the_promoter_and_1_for_the_oracle():
    random = np.random.default_rng(1)
    observed = random.normal(size=200)
    judged = {PROMOTER: Judged(0.3 * observed), ORACLE: Judged(observed + 0.01 * random.normal(size=200))}
    assert distal_share(observed, judged[PROMOTER].expression, judged).value == 0
    assert distal_share(observed, judged[ORACLE].expression, judged).value == pytest.approx(1)
    half = distal_share(observed, observed - 0.35 * np.sqrt(2) * observed, judged)
    assert half.value == pytest.approx(0.5, abs=0.01)
    assert half.low < half.value < half.high


def test_the_correlation_is_numpy_s_and_its_interval_knows_of_genes():
    random = np.random.default_rng(2)
    shared = random.normal(size=30)
    truth = np.repeat(shared, 10) + 0.1 * random.normal(size=300)
    guess = np.repeat(shared + random.normal(size=30), 10)
    genes = np.repeat(np.arange(30), 10)
    by_gene, by_pair = grouped_pearson(truth, guess, genes), grouped_pearson(truth, guess, np.arange(300))
    assert by_gene.value == by_pair.value == pytest.approx(np.corrcoef(truth, guess)[0, 1])
    assert by_gene.high - by_gene.low > 1.5 * (by_pair.high - by_pair.low)


def test_rivals_read_what_they_say(genome):
    predicted = predict_rivals(genome)
    assert all(values.shape == genome.rows("test").shape for values in predicted.values())
    pairs = recovery.held_out_pairs(genome)
    activity = rank_by_tracks(genome, pairs)[ACTIVITY]
    kinds = pairs["name"].map(dict(zip(genome.elements["name"], genome.elements["kind"], strict=True)))
    assert activity[kinds == "enhancer"].min() > activity[kinds != "enhancer"].max()
    order = np.random.default_rng(1).permutation(len(pairs))
    assert rank_by_tracks(genome, pairs.iloc[order])[ACTIVITY].tolist() == activity[order].tolist()


class Intervals:
    """Peaks as the regions that networks are masked by."""

    def __init__(self, peaks: pd.DataFrame) -> None:
        self.peaks = peaks

    def mask(self, chrom: str, start: int, end: int) -> np.ndarray:
        at, inside = np.arange(start, end), np.zeros(end - start, dtype=bool)
        for peak in self.peaks[self.peaks["chrom"] == chrom].itertuples():
            inside |= (at >= peak.start) & (at < peak.end)
        return inside


def called_at(peaks: pd.DataFrame) -> CalledTracks:
    """Give both tracks the same peaks."""
    return CalledTracks({"dnase": peaks, "h3k27ac": peaks}, {"dnase": Intervals(peaks)}, ())  # type: ignore[dict-item]


def test_peaks_rank_elements_and_make_masks(genome):
    pairs = recovery.held_out_pairs(genome)
    first = pairs.iloc[0]
    called = called_at(pairs[["chrom", "start", "end"]].iloc[:1].assign(score=50))
    ranks = called.rank(pairs)
    assert ranks["MACS3 on dnase"].argmax() == 0
    assert (ranks["MACS3 on dnase"] > 0).sum() == (pairs["name"] == first["name"]).sum()
    assert ranks["MACS3 on both"][0] == 2_500
    row = int(np.flatnonzero(genome.genes["gene_id"] == first.gene_id)[0])
    assert called.masks(genome, np.array([row]))[first.gene_id].sum() == first.end - first.start


def test_what_needs_macs3_is_left_out_and_said(genome):
    result = benchmark_recovery(genome, recipe_of(genome.settings, 1), (recovery.OURS, recovery.PEAKS))
    assert recovery.PEAKS not in set(result.methods["method"])
    assert result.notes == ("MACS3 is not installed: its mask and its ranking of the tracks are left out",)


def test_every_network_is_judged(genome):
    called = called_at(genome.elements.assign(score=50))
    result = benchmark_recovery(genome, recipe_of(genome.settings, 3), macs3=called)
    methods = result.methods.set_index("method").loc[list(recovery.NETWORKS)]
    assert methods["distal"].nunique() == len(methods)
    assert methods["steps"].between(1, 3).all()
    assert methods.index[methods["effect_r"].isna()].tolist() == [recovery.PUBLISHED]
    scores = set(result.rankings["score"])
    masked = {name.removeprefix("mask of ") for name in scores if name.startswith("mask of ")}
    assert masked == {recovery.OURS, recovery.ON_TOKENS, recovery.PUBLISHED}
    lines = recovery_lines(result, genome.settings)
    assert all(sum(line.startswith(f"- {name}: ") for line in lines) == 1 for name in recovery.RIVALS)
    assert set(recovery.RIVALS) == set(recovery.NETWORKS[1:])


@pytest.mark.parametrize("task", list(Task))
def test_rivals_differ_from_ours_by_what_the_page_says(task):
    genome = GenomeSettings(task, genes=60, window_bp=WINDOWS_BP[task.value])
    recipe = recipe_of(genome)
    built = {name: recovery.network_of(recipe, name, genome, 40.0) for name in recovery.NETWORKS}
    ours, lesson = built[recovery.OURS]
    for name, variant in ((recovery.PLAIN, Variant.PLAIN), (recovery.PEAKS, Variant.PEAKS)):
        assert built[name] == (replace(ours, variant=variant), lesson)
    published = {"memory_bp": None, "contact_pool": 0, "encoder_bp": None, "reads_dna": True}
    budget = replace(lesson, seconds=40.0, word_bp=0)
    assert built[recovery.ON_TOKENS] == (replace(ours, **published), budget)
    assert built[recovery.PUBLISHED] == (replace(ours, **published, token_bp=1), budget)


def test_a_network_that_is_not_trained_here_is_refused(genome):
    with pytest.raises(ConfigError, match="unknown network 'ours': choose from Seq2Exp, tokens, no mask"):
        recovery.network_of(recipe_of(genome.settings), "ours", genome.settings, None)


@pytest.mark.parametrize(("more", "networks"), [((), recovery.NETWORKS), (("--only-ours",), (recovery.OURS,))])
def test_options_of_the_training_are_passed_on(more, networks, tmp_path, monkeypatch):
    asked = []

    def stop(genome: RecoveryGenome, recipe: recovery.Recipe, names: tuple[str, ...], **options: object) -> None:
        asked.append((len(genome), recipe.lesson.optimiser.max_steps, names, options["seed"]))
        raise ConfigError("enough")

    monkeypatch.setattr(recovery, "benchmark_recovery", stop)
    assert main(["benchmark", "recovery", *SMALL, "--training-seed", "3", *more, "-o", str(tmp_path)]) == 1
    assert asked == [(15, 2, networks, 3)]


@pytest.mark.parametrize(("seconds", "steps", "warmup"), [(1e-9, 1, 0), (1e9, 10, 2)])
def test_a_budget_of_time_bounds_the_steps(genome, seconds, steps, warmup, monkeypatch):
    taught = []
    monkeypatch.setattr(recovery_train, "_teach", lambda *given: taught.append(given[4].optimiser) or [0.0])
    recipe = recipe_of(genome.settings, 10)
    lesson = replace(recipe.lesson, seconds=seconds)
    train_network(recipe.config(genome.settings), genome, np.arange(2), np.zeros(2), lesson)
    assert (taught[0].max_steps, taught[0].warmup_steps) == (steps, warmup)


def test_a_lesson_with_words_starts_half_of_the_stem_from_the_training_windows(genome, monkeypatch):
    taught = []
    monkeypatch.setattr(recovery_train, "_teach", lambda network, *_: taught.append(network) or [0.0])
    recipe = recipe_of(genome.settings, 1)
    rows = genome.rows("train")
    labels = genome.genes["expression"].to_numpy()[rows]
    train_network(recipe.config(genome.settings), genome, rows, labels, replace(recipe.lesson, word_bp=6))
    filters = taught[0].sequence_embedding.motifs.weight.detach()
    words = ((filters == 1).sum((1, 2)) == 6) & ((filters == 0).sum((1, 2)) == 4 * (filters.shape[2] - 6))
    assert words.tolist() == [True] * (len(filters) // 2) + [False] * (len(filters) // 2)


def test_training_starts_from_the_regression_on_the_promoters_heights(genome, monkeypatch):
    taught = []
    monkeypatch.setattr(recovery_train, "_teach", lambda network, *_: taught.append(network) or [0.0])
    recipe = recipe_of(genome.settings, 1)
    rows = genome.rows("train")
    features = np.stack([genome[row].features for row in rows])
    labels = 1.0 + features @ [0.5, -0.2]
    train_network(recipe.config(genome.settings, contact_pool=0), genome, rows, labels, recipe.lesson)
    predicted = np.array([value for value, _ in predict_windows(taught[0].eval(), genome, rows)])
    weights, _ = ridge_regression(features, labels, recovery_train.RIDGE)
    assert np.allclose(predicted - predicted.mean(), features @ weights - (features @ weights).mean(), atol=1e-4)
    assert np.ptp(predicted) > 1e-3


@pytest.mark.parametrize("reads_dna", [True, False])
def test_dna_that_a_network_does_not_read_is_not_kept(genome, reads_dna, monkeypatch):
    readers = []
    monkeypatch.setattr(recovery_train, "_teach", lambda _, reader, *__: readers.append(reader) or [0.0])
    recipe = recipe_of(genome.settings, 1)
    config = recipe.config(genome.settings, reads_dna=reads_dna)
    train_network(config, genome, np.arange(2), np.zeros(2), recipe.lesson)
    assert {len(window["onehot"]) for window in readers[0].kept.values()} == {16_000 if reads_dna else 0}


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_a_recipe_that_fits_its_windows(task):
    genome = GenomeSettings(task, genes=60, window_bp=WINDOWS_BP[task.value])
    recipe = recipe_of(genome)
    config = recipe.config(genome)
    assert config.generates_mask
    assert config.contact_pool
    assert recipe.lesson.word_bp <= config.stem_bp
    assert config.reads_dna or not recipe.lesson.word_bp


@pytest.mark.parametrize("reads_dna", [True, False])
def test_masks_predicted_together_are_those_predicted_alone(genome, reads_dna):
    config = recipe_of(genome.settings).config(genome.settings, reads_dna=reads_dna)
    network, window = Seq2Exp(config, genome.inputs).eval(), genome[0]
    random = np.random.default_rng(1)
    masks = [random.random(len(window.onehot), dtype=np.float32) for _ in range(3)]
    together, alone = predict_masks(network, window, masks), predict_masked(network, window, masks)
    assert np.allclose(together, alone, atol=1e-6)
    assert np.ptp(together) > 1e-5


def test_words_need_tokens(genome):
    recipe = recipe_of(genome.settings, 1)
    lesson = replace(recipe.lesson, word_bp=6)
    with pytest.raises(ConfigError, match=r"word_bp \(6\) needs token_bp above 1"):
        train_network(recipe.config(genome.settings, token_bp=1), genome, np.arange(1), np.zeros(1), lesson)


def test_the_page_of_all_runs_takes_finished_ones_as_they_are(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    page = importlib.import_module("recovery")
    runs, asked = tmp_path / "runs", []

    def fake(words: list[str]) -> int:
        asked.append(words[words.index("--task") + 1])
        folder = Path(words[words.index("-o") + 1])
        folder.mkdir(parents=True)
        (folder / "recovery.md").write_text(f"table of {folder.name}")
        ours = {"method": recovery.OURS, "distal": 0.91, "effect_r": 0.96, "steps": 500}
        published = {"method": recovery.PUBLISHED, "distal": -0.02, "steps": 7}
        ranks = {f"mask of {recovery.OURS}": 0.9, "activity x contact": 0.5}
        rankings = [{"score": name, "auprc": value} for name, value in ranks.items()]
        (folder / "recovery.json").write_text(json.dumps({"methods": [ours, published], "rankings": rankings}))
        return 0

    monkeypatch.setattr(page, "seq2exp", fake)
    words = ["recovery", "--seeds", "5", "--runs", str(runs), "-o", str(tmp_path / "page.md")]
    for more in (["--tasks", "far"], ["--keep"], ["--tasks", "dna"]):
        monkeypatch.setattr("sys.argv", [*words, *more])
        page.main()
        asked.append("|")
        if more == ["--keep"]:
            told = (tmp_path / "page.md").read_text()
            shutil.rmtree(runs)
    assert asked == ["far", "|", "tracks", "dna", "|", "dna", "|"]
    assert all(f"## {task}, seed 5\n\ntable of {task}-5" in told for task in ("tracks", "dna", "far"))
    assert "| dna | 5 | 0.910 | 0.960 | 0.900 | 0.500 | yes |" in told
    assert "| dna | 5 | 0.910 (500) |  |  |  | -0.020 (7) |" in told
