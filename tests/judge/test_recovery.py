"""The invented genome with a known truth: its truth is what its files and windows show, and both doors agree."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.judge import invented
from kipoi_seq2exp.judge.recovery_files import read_genome, write_genome
from kipoi_seq2exp.judge.recovery_genome import (
    ENHANCERS,
    FAR_BP,
    GAIN,
    GenomeSettings,
    RecoveryGenome,
    Task,
    invent_genome,
    near_share,
)

WINDOW_BP = 24_064


def settings(task: Task, **changes: Any) -> GenomeSettings:
    small: dict[str, Any] = {"seed": 3, "genes": 12, "window_bp": WINDOW_BP, "chromosomes": 4}
    return GenomeSettings(task=task, **{**small, **changes})


@pytest.fixture(scope="module")
def genomes() -> dict[Task, RecoveryGenome]:
    return {
        Task.TRACKS: invent_genome(settings(Task.TRACKS)),
        Task.DNA: invent_genome(settings(Task.DNA)),
        Task.FAR: invent_genome(settings(Task.FAR, genes=40, window_bp=200_000)),
    }


def test_files_and_memory_give_the_same_windows(genomes, tmp_path):
    genome = genomes[Task.DNA]
    write_genome(genome, tmp_path)
    files = read_genome(tmp_path)
    assert files.settings == genome.settings
    for name in ("genes", "elements", "pairs"):
        assert getattr(files, name).equals(getattr(genome, name).reset_index(drop=True)), name
    reaching_beyond = 0
    for index in range(len(genome)):
        one, other = genome[index], files[index]
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)
        reaching_beyond += one.start < 0 or one.end > genome.lengths[one.chrom]
    assert reaching_beyond == 8  # both ends of four chromosomes
    files.windows.close()


def test_features_are_the_tracks_at_the_tss(genomes):
    for genome in genomes.values():
        assert genome.inputs.feature_names == ("H3K27AC_500", "DNASE_500")
        for window in (genome[index] for index in range(4)):
            middle = len(window.signals) // 2
            means = np.expm1(window.signals[middle - 500 : middle + 500, :2]).mean(axis=0)
            np.testing.assert_allclose(window.features, np.log1p(means), atol=0.02)


def test_a_seed_gives_the_same_genome_and_another_seed_another(genomes):
    again, other = invent_genome(settings(Task.TRACKS)), invent_genome(settings(Task.TRACKS, seed=4))
    assert again.genes.equals(genomes[Task.TRACKS].genes)
    np.testing.assert_array_equal(again[5].signals, genomes[Task.TRACKS][5].signals)
    np.testing.assert_array_equal(again[5].onehot, genomes[Task.TRACKS][5].onehot)
    assert not other.genes["expression"].equals(again.genes["expression"])


@pytest.mark.parametrize("task", list(Task))
def test_expression_follows_the_formula_from_what_the_window_shows(genomes, task):
    genome = genomes[task]
    activity = dict(zip(genome.elements["name"], genome.elements["activity"], strict=True))
    for index in range(0, len(genome), 5):
        window, gene = genome[index], genome.genes.iloc[index]
        contact, total = 10 ** window.signals[:, 2].astype(np.float64) - 1, 0.0
        pairs = genome.pairs[genome.pairs["gene_id"] == gene["gene_id"]]
        parts = [
            activity[pair.name] * contact[(pair.start + pair.end) // 2 - window.start]
            for pair in pairs.itertuples(index=False)
        ]
        total = gene["promoter"] * (1 + GAIN * sum(parts))
        assert gene["truth"] == pytest.approx(np.log10(total + 1), abs=2e-5)
        effects = np.log10(total + 1) - np.log10(total - gene["promoter"] * GAIN * np.array(parts) + 1)
        np.testing.assert_allclose(pairs["effect"], effects, atol=3e-5)
        assert abs(gene["expression"] - gene["truth"]) < 0.05


def test_no_gene_starts_in_another_gene_s_window_and_elements_keep_apart(genomes):
    for genome in genomes.values():
        for chrom, genes in genome.genes.groupby("chrom"):
            assert (np.diff(genes["tss"]) > genome.settings.window_bp // 2).all()
            elements = genome.elements[genome.elements["chrom"] == chrom]
            middles = (elements["start"] + elements["end"]) // 2
            assert (np.diff(middles) >= 3_199).all()
            assert genes["part"].nunique() == 1


def peaks_of(genome: RecoveryGenome, kind: str) -> tuple[float, float]:
    """Median over the elements of a kind of the largest H3K27ac and DNase nearby."""
    tops = []
    for element in genome.elements[genome.elements["kind"] == kind].itertuples():
        near = slice((element.start - 600) // invented.STEP_BP, (element.end + 600) // invented.STEP_BP)
        tops.append([genome.tracks[name][element.chrom][near].max() for name in ("h3k27ac", "dnase")])
    h3k27ac, dnase = np.median(tops, axis=0)
    return float(h3k27ac), float(dnase)


def test_tracks_and_dna_tell_what_the_task_says(genomes):
    tracks, dna = genomes[Task.TRACKS], genomes[Task.DNA]
    assert min(peaks_of(tracks, "enhancer")) > 2
    assert peaks_of(tracks, "open_decoy")[0] < 1 < 2 < peaks_of(tracks, "open_decoy")[1]
    assert peaks_of(tracks, "marked_decoy")[1] < 1 < 2 < peaks_of(tracks, "marked_decoy")[0]
    assert min(peaks_of(dna, "decoy")) > 2
    for kind in ("faint_enhancer", "faint_decoy"):
        assert max(peaks_of(dna, kind)) < 4 < peaks_of(dna, "enhancer")[0]
    forms = [m.encode() for motif in invented.ENHANCER_MOTIFS for m in (motif, reverse_complement(motif))]
    for element in dna.elements.itertuples():
        letters = dna.bases[element.chrom][element.start : element.end].tobytes()
        assert (sum(letters.count(form) for form in forms) >= 3) == (element.kind in ENHANCERS)


def reverse_complement(motif: str) -> str:
    return motif.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def test_the_task_far_is_explained_from_afar(genomes):
    assert near_share(genomes[Task.FAR]) < 0.35
    far = genomes[Task.FAR].pairs
    assert (far.loc[far["regulated"], "distance_bp"] > FAR_BP).mean() > 0.85


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genes": 6}, "6 genes on 4 chromosomes leave no gene to hold out"),
        ({"chromosomes": 2}, "at least 3 chromosomes"),
        ({"window_bp": 9_000}, "window_bp must be even and at least"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_sizes_that_leave_nothing_to_judge_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(Task.TRACKS, **changes)


def test_a_seed_that_leaves_no_enhancer_or_decoy_is_refused():
    # three windows of 14 kb, one of them held out: few elements fit in
    tiny = [settings(Task.TRACKS, seed=seed, genes=6, chromosomes=3, window_bp=14_464) for seed in range(40)]
    told = [refusal(one) for one in tiny]
    assert any(message.startswith(f"seed {one.seed} leaves the 2 held-out genes without an") for one, message in told)


def refusal(one: GenomeSettings) -> tuple[GenomeSettings, str]:
    try:
        invent_genome(one)
    except InputError as error:
        return one, str(error)
    return one, ""


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("genes", "\ttest\t", "\ttrain\t", "genes.tsv: the column 'part' names no gene of the part 'test'"),
        ("genes", "\nG00002\t", "\nG00001\t", r"genes.tsv, line 3 \(gene G00001\): this gene is already in"),
        ("genes", "\tpart\t", "\tfold\t", "genes.tsv has no column 'part'"),
        ("elements", "\tactivity\n", "\tactivities\n", "elements.tsv has no column 'activity'"),
        ("pairs", "\tregulated\t", "\tenhancer\t", "pairs.tsv has no column 'regulated'"),
    ],
)
def test_tables_that_cannot_be_judged_by_are_refused(genomes, name, old, new, message, tmp_path):
    write_genome(genomes[Task.DNA], tmp_path)
    table = tmp_path / f"{name}.tsv"
    text = table.read_text()
    table.write_text(text.replace(old, new))
    assert table.read_text() != text
    with pytest.raises(InputError, match=message):
        read_genome(tmp_path)


def test_a_folder_without_the_genome_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"genome\.yaml: no such file"):
        read_genome(tmp_path)
