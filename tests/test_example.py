"""The bundled example: made by its script byte for byte, and its files agree with one another and with the truth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from kipoi_seq2exp.data.tracks.contact_files import import_hictkpy

EXAMPLE = Path(__file__).resolve().parents[1] / "example"
MADE = (
    "genome.fa",
    "genes.tsv",
    "genes.gtf",
    "h3k27ac.bw",
    "dnase.bw",
    "contacts.cool",
    "blacklist.bed",
    "elements.bed",
)
ELEMENT_COLUMNS = ["chrom", "start", "end", "name", "score", "strand", "kind", "target", "effect"]


@pytest.fixture(scope="module")
def genes() -> pd.DataFrame:
    return pd.read_csv(EXAMPLE / "genes.tsv", sep="\t")


@pytest.fixture(scope="module")
def elements() -> pd.DataFrame:
    return pd.read_csv(EXAMPLE / "elements.bed", sep="\t", names=ELEMENT_COLUMNS)


@pytest.fixture(scope="module")
def genome() -> dict[str, str]:
    records = (EXAMPLE / "genome.fa").read_text().split(">")[1:]
    return {record.split("\n", 1)[0]: record.split("\n", 1)[1].replace("\n", "") for record in records}


def test_the_script_makes_the_files_that_are_shipped(tmp_path):
    subprocess.run([sys.executable, EXAMPLE / "make_example.py", "-o", tmp_path], check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(MADE)
    differing = [name for name in MADE if (tmp_path / name).read_bytes() != (EXAMPLE / name).read_bytes()]
    assert differing == []


def test_all_files_share_one_assembly(genome):
    lengths = {chrom: len(bases) for chrom, bases in genome.items()}
    assert sum(lengths.values()) < 1.5e6
    for name in ("h3k27ac.bw", "dnase.bw"):
        with pyBigWig.open(str(EXAMPLE / name)) as track:
            assert track.chroms() == lengths
    assert dict(import_hictkpy().File(EXAMPLE / "contacts.cool", 5_000).chromosomes()) == lengths
    for name in ("blacklist.bed", "elements.bed"):
        for line in (EXAMPLE / name).read_text().splitlines():
            chrom, start, end = line.split("\t")[:3]
            assert 0 <= int(start) < int(end) <= lengths[chrom]


def test_the_genome_has_the_habits_of_a_real_one(genome):
    for bases in genome.values():
        counts = {letter: bases.count(letter) / len(bases) for letter in "ACGTNacgt"}
        assert bases.startswith("N" * 10_000)
        assert bases.endswith("N" * 10_000)
        assert 0.1 < sum(counts[c] for c in "acgt") < 0.5  # soft-masked repeats
        upper = bases.upper()
        g_and_c = (upper.count("G") + upper.count("C")) / sum(upper.count(c) for c in "ACGT")
        assert 0.38 < g_and_c < 0.48
        cpg_observed, cpg_expected = upper.count("CG") / len(upper), (g_and_c / 2) ** 2
        assert cpg_observed < 0.5 * cpg_expected
    assert "N" in genome["chr1"][20_000:-20_000]  # a gap inside


def test_windows_reach_beyond_both_chromosome_ends(genes, genome):
    before = genes["tss"] - 100_000 < 0
    after = genes["tss"] + 100_000 > genes["chrom"].map({chrom: len(bases) for chrom, bases in genome.items()})
    assert before.any()
    assert after.any()


def test_expression_is_log10_of_cage_plus_one(genes):
    np.testing.assert_allclose(genes["expression"], np.log10(genes["CAGE"] + 1), atol=1e-4)
    assert genes["expression"].std() > 0.5
    assert genes["gene_id"].is_unique


def test_features_are_scaled_as_the_columns_say(genes):
    scores = genes[[column for column in genes if column.endswith("_log10zscore")]]
    assert scores.shape[1] == 4
    np.testing.assert_allclose(scores.mean(), 0, atol=1e-3)
    np.testing.assert_allclose(scores.std(ddof=0), 1, atol=1e-3)
    assert genes[["UTR5GC", "CDSGC", "UTR3GC"]].stack().between(0.3, 0.8).all()


def test_gtf_and_table_tell_the_same_genes(genes, genome):
    columns = ["chrom", "source", "kind", "start", "end", "score", "strand", "phase", "notes"]
    gtf = pd.read_csv(EXAMPLE / "genes.gtf", sep="\t", names=columns)
    gtf["gene_id"] = gtf["notes"].str.extract(r'gene_id "([^"]+)"')
    starts = gtf[gtf["kind"] == "gene"].set_index("gene_id").loc[genes["gene_id"]]
    tss = np.where(starts["strand"] == "+", starts["start"] - 1, starts["end"] - 1)
    assert tss.tolist() == genes["tss"].tolist()
    assert starts["strand"].tolist() == genes["strand"].tolist()
    coding = gtf[gtf["kind"] == "CDS"]
    assert set(coding["phase"].astype(str)) <= {"0", "1", "2"}
    inside = coding.merge(gtf[gtf["kind"] == "exon"], on="gene_id", suffixes=("", "_exon"))
    held = inside[(inside["start"] >= inside["start_exon"]) & (inside["end"] <= inside["end_exon"])]
    assert len(held) == len(coding)
    for _, part in coding.iterrows():
        assert part["end"] <= len(genome[part["chrom"]])


def signal(name: str, elements: pd.DataFrame, flank_bp: int) -> pd.Series:
    """Largest value in each element and its flanks."""
    with pyBigWig.open(str(EXAMPLE / name)) as track:
        values = [
            np.nan_to_num(track.values(row.chrom, row.start - flank_bp, row.end + flank_bp, numpy=True)).max()
            for row in elements.itertuples()
        ]
    return pd.Series(values, index=elements.index)


def test_each_kind_of_element_shows_in_the_evidence_it_should(elements):
    dnase, h3k27ac = signal("dnase.bw", elements, 0), signal("h3k27ac.bw", elements, 800)
    is_open = elements["kind"].isin(["promoter", "enhancer", "open_decoy"])
    is_marked = elements["kind"].isin(["enhancer", "marked_decoy"])
    assert dnase[is_open].min() > 3 * dnase[~is_open].max()
    assert h3k27ac[is_marked].min() > 3 * h3k27ac[elements["kind"].isin(["open_decoy", "motif_decoy"])].max()


def test_motifs_are_in_the_dna_of_enhancers(elements, genome):
    for row in elements[elements["kind"].isin(["enhancer", "motif_decoy"])].itertuples():
        bases = genome[row.chrom][row.start : row.end]
        forms = ("AGATAAGGAA", "TTCCTTATCT", "GATGACTCATC", "GATGAGTCATC")
        assert sum(bases.count(form) for form in forms) >= 3, row.name


def test_only_enhancers_and_promoters_have_an_effect(elements, genes):
    decoys = elements[elements["kind"].str.endswith("decoy")]
    assert len(decoys) > 20
    assert (decoys["effect"] == 0).all()
    assert (decoys["target"] == ".").all()
    enhancers = elements[elements["kind"] == "enhancer"]
    assert (enhancers["effect"] > 0.01).all()
    tss = genes.set_index("gene_id")["tss"]
    distance = (enhancers["start"] + enhancers["end"]) // 2 - enhancers["target"].map(tss)
    assert distance.abs().between(5_000, 100_000).all()
    assert (distance.abs() > 30_000).any()  # the promoter alone does not tell expression


def test_contacts_fall_with_distance_and_across_domains():
    file = import_hictkpy().File(EXAMPLE / "contacts.cool", 5_000)
    counts = file.fetch("chr1", normalization="VC").to_numpy()
    near, far = np.nanmean(np.diag(counts, 2)), np.nanmean(np.diag(counts, 16))
    expected = (2 / 16) ** -0.87
    assert 0.8 * expected < near / far < 3 * expected  # steeper than the power law: domains
    left, right = 38, 46  # the two sides of the boundary at 213 kb, and a pair as far apart inside the domain
    assert counts[left, right] < 0.6 * counts[left - 9, right - 9]
