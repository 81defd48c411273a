"""Perturbed sites: each way by hand, one code with `elements --perturb`, tiles, motifs, shuffles, and the command."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from small_runs import command_line, small_network, small_weights

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.effects.perturb import (
    How,
    PerturbSettings,
    Site,
    effect_of_bases,
    insertion,
    perturb_gene,
    tiles,
)
from kipoi_seq2exp.effects.shuffle import shuffle_dinucleotides
from kipoi_seq2exp.elements.calls import CallSettings
from kipoi_seq2exp.elements.find import ElementSettings, find_elements, results_here
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.prediction.run import predict_windows

GENE = 2  # GENE03, chr1:21,500, window 19,500-23,500, promoter 21,300-21,700
TOKENS = {"token_bp": 16, "memory_bp": 4_000, "contact_pool": 2, "contact_track": 2}  # far DNA counts
SITES = [Site("chr1", 20_000, 20_400, "far"), Site("chr1", 19_000, 19_700, "edge"), Site("chr2", 0, 10, "elsewhere")]


@pytest.fixture(scope="module")
def model(tiny) -> Seq2Exp:
    return small_network(tiny, **TOKENS).eval()


@pytest.fixture(scope="module")
def dataset(tiny):
    return tiny.dataset()


def expression(model, window):
    return predict_windows(model, [window])[0].expression


def perturb(model, dataset, how, sites=SITES, **more):
    return perturb_gene(model, dataset, GENE, sites, PerturbSettings(how, **more))


def test_without_signal_is_the_network_on_tracks_of_zero(model, dataset):
    table = perturb(model, dataset, How.TRACKS)
    assert table["name"].tolist() == ["far", "edge"]
    window = dataset[GENE]
    assert table["overlap_bp"].tolist() == [400, 200]
    for row, bases in zip(table.itertuples(), (slice(500, 900), slice(0, 200)), strict=True):
        signals = window.signals.copy()
        signals[bases, :2] = 0
        wanted = expression(model, dataclasses.replace(window, signals=signals))
        assert row.expression_without == pytest.approx(wanted, abs=1e-6)
        assert row.delta_expression == pytest.approx(wanted - expression(model, window), abs=1e-6)


def test_a_promoter_without_signal_has_the_feature_that_follows(tiny, model, dataset, tmp_path):
    """The same as a data set whose tracks are 0 there: PROMOTER_ACTIVITY too."""
    from conftest import write_bigwig

    sources = dict(tiny.sources)
    for name, signals in tiny.signals.items():
        silenced = {chrom: values.copy() for chrom, values in signals.items()}
        silenced["chr1"][21_400:21_900] = 0
        write_bigwig(tmp_path / f"{name}.bw", silenced)
        sources[name] = tmp_path / f"{name}.bw"
    wanted = expression(model, tiny.dataset(sources=sources)[GENE])
    found = perturb(model, dataset, How.TRACKS, [Site("chr1", 21_400, 21_900)])
    assert found["expression_without"][0] == pytest.approx(wanted, abs=1e-6)
    assert found["promoter_bp"][0] == 300
    assert abs(found["delta_expression"][0]) > 1e-4


def test_the_promoter_is_not_masked(model, dataset):
    found = perturb(model, dataset, How.MASK, [Site("chr1", 21_200, 21_400), Site("chr1", 21_350, 21_450)])
    window = dataset[GENE]
    row = predict_windows(model, [window])[0]
    mask = row.mask.copy()
    mask[1_700:1_800] = 0
    with_mask = model_with_mask(model, window, mask)
    assert found["expression_without"][0] == pytest.approx(with_mask, abs=1e-6)
    assert np.isnan(found["delta_expression"][1])


def model_with_mask(model, window, mask):
    import torch

    arrays = (torch.from_numpy(array)[None] for array in (window.onehot, window.signals, window.features))
    with torch.inference_mode():
        return float(model(*arrays, mask=torch.from_numpy(mask)[None]).expression)


def test_it_is_what_elements_perturb_does(run, predictions):
    calls = CallSettings(threshold=0.05, min_length_bp=20)
    elements = find_elements(predictions, ElementSettings(calls, perturb=True), results_here(run)).elements
    assert len(elements) > 2
    for gene_id, rows in elements.groupby("gene_id"):
        gene = run.dataset.genes["gene_id"].tolist().index(gene_id)
        sites = [Site(*row) for row in rows[["chrom", "start", "end", "name"]].itertuples(index=False, name=None)]
        found = perturb_gene(run.model, run.dataset, gene, sites, PerturbSettings())
        np.testing.assert_allclose(found["delta_expression"], rows["delta_expression"].astype(float), atol=2e-6)


def test_shuffled_dna_is_the_mean_of_its_shuffles_in_any_batch_and_order(model, dataset):
    found = perturb(model, dataset, How.DNA, shuffles=3)
    assert (found["delta_sd"] > 0).all()
    again = perturb_gene(model, dataset, GENE, SITES[::-1], PerturbSettings(How.DNA, 3), batch_size=4)
    np.testing.assert_allclose(again["delta_expression"][::-1], found["delta_expression"], atol=1e-7)
    other = perturb(model, dataset, How.DNA, shuffles=3, seed=1)
    assert (other["delta_expression"] != found["delta_expression"]).all()


def test_all_is_dna_tracks_and_mask(model, dataset):
    window, site = dataset[GENE], SITES[0]
    random = np.random.default_rng([0, site.start, site.end, 0])
    onehot, signals, blacklist = window.onehot.copy(), window.signals.copy(), window.blacklist.copy()
    onehot[500:900] = shuffle_dinucleotides(window.onehot[500:900], random)
    signals[500:900, :2] = 0
    blacklist[500:900] = True
    changed = dataclasses.replace(window, onehot=onehot, signals=signals, blacklist=blacklist)
    row = predict_windows(model, [changed])[0]
    assert row.mask[500:900].max() == 0
    found = perturb(model, dataset, How.ALL, [site], shuffles=1)
    assert found["expression_without"][0] == pytest.approx(row.expression, abs=1e-7)


def counts(onehot):
    letters = onehot.argmax(1)
    return np.bincount(4 * letters[:-1] + letters[1:], minlength=16)


@pytest.mark.parametrize("length", [1, 3, 4, 10, 500])
def test_shuffles_keep_every_dinucleotide(length):
    random = np.random.default_rng(length)
    onehot = np.eye(4, dtype=np.uint8)[random.integers(0, 4, length)]
    shuffled = shuffle_dinucleotides(onehot, random)
    np.testing.assert_array_equal(counts(shuffled), counts(onehot))
    np.testing.assert_array_equal(shuffled[[0, -1]], onehot[[0, -1]])
    if length == 500:
        assert (shuffled != onehot).any(1).mean() > 0.5


def test_every_order_of_dinucleotides_is_drawn():
    """ACACGCGA can be written in six ways that keep its dinucleotides: ACG and CAC, CGC change places."""
    onehot = np.eye(4, dtype=np.uint8)[[0, 1, 0, 1, 2, 1, 2, 0]]
    random = np.random.default_rng(0)
    found = [tuple(shuffle_dinucleotides(onehot, random).argmax(1)) for _ in range(300)]
    kinds, times = np.unique(found, axis=0, return_counts=True)
    assert len(kinds) > 1
    assert all((counts(np.eye(4)[kind]) == counts(onehot)).all() for kind in kinds)
    assert times.min() > 0.5 * 300 / len(kinds)


def test_unknown_bases_stay():
    onehot = np.eye(4, dtype=np.uint8)[np.random.default_rng(0).integers(0, 4, 60)]
    onehot[20:25] = 0
    shuffled = shuffle_dinucleotides(onehot, np.random.default_rng(1))
    np.testing.assert_array_equal(shuffled.any(1), onehot.any(1))
    np.testing.assert_array_equal(counts(shuffled[:20]), counts(onehot[:20]))


@pytest.mark.parametrize("strand", ["+", "-"])
def test_a_motif_is_written_on_its_strand(model, dataset, strand):
    site = insertion("chr1", 20_000, "tgacgg", strand)
    assert (site.start, site.end, site.name) == (20_000, 20_006, "TGACGG")
    window = dataset[GENE]
    onehot = window.onehot.copy()
    written = "TGACGG" if strand == "+" else "CCGTCA"
    onehot[500:506] = np.eye(4, dtype=np.uint8)[["ACGT".index(letter) for letter in written]]
    found = perturb(model, dataset, How.INSERT, [site])
    assert found["expression_without"][0] == pytest.approx(
        expression(model, dataclasses.replace(window, onehot=onehot)), abs=1e-7
    )
    with pytest.raises(ConfigError, match="must be written in A, C, G and T"):
        insertion("chr1", 0, "TGAN")


def test_a_motif_that_begins_before_the_window_is_cut(model, dataset):
    window = dataset[GENE]
    onehot = window.onehot.copy()
    onehot[:3] = np.eye(4, dtype=np.uint8)[[1, 2, 3]]  # the last letters of AAACGT
    found = perturb(model, dataset, How.INSERT, [insertion("chr1", 19_497, "AAACGT")])
    wanted = expression(model, dataclasses.replace(window, onehot=onehot))
    assert found["expression_without"][0] == pytest.approx(wanted, abs=1e-7)


def test_tiles_cover_the_locus_and_bases_have_the_mean(dataset):
    found = tiles("chr1", 20_000, 21_000, 400, 200)
    assert [(site.start, site.end) for site in found] == [(20_000 + 200 * i, 20_400 + 200 * i) for i in range(4)]
    table = pd.DataFrame({"start": [20_000, 20_200], "end": [20_400, 20_600], "delta_expression": [1.0, 3.0]})
    bases = effect_of_bases(dataset[GENE], table)
    assert np.isnan(bases[:500]).all()
    assert bases[[500, 700, 900, 1_099]].tolist() == [1, 2, 3, 3]
    assert np.isnan(bases[1_100:]).all()
    with pytest.raises(ConfigError, match="do not fit into chr1:20,001-20,100"):
        tiles("chr1", 20_000, 20_100, 400, 200)


def test_the_command(tiny, model, dataset, tmp_path, capsys):
    weights, out = small_weights(tiny, tmp_path, **TOKENS), tmp_path / "o"
    words = ["--tile", "chr1:20,001-21,000", "--width", "400", "--step", "200", "--how", "tracks", "--plot", "svg"]
    words += ["--gtf", str(tiny.gtf)]
    assert main(command_line(tiny, weights, out, *words, command="perturb")) == 0
    said = capsys.readouterr().out
    assert "4 of 4 sites, 1 gene" in said
    table = pd.read_csv(out / "perturb.tsv", sep="\t", comment="#")
    wanted = perturb(model, dataset, How.TRACKS, tiles("chr1", 20_000, 21_000, 400, 200))
    np.testing.assert_allclose(table["delta_expression"], wanted["delta_expression"], rtol=1e-4, atol=1e-7)
    with pyBigWig.open(str(out / "GENE03.perturb.bw")) as track:
        assert track.values("chr1", 20_250, 20_251)[0] == pytest.approx(wanted["delta_expression"][:2].mean(), rel=1e-4)
        assert np.isnan(track.values("chr1", 19_999, 20_000)[0])
    picture = (out / "GENE03.perturb.svg").read_text()
    assert "perturbed" in picture
    assert "4 sites" in picture
    (tmp_path / "sites.bed").write_text("chr1\t20000\t20400\tmine\n")
    words = ["--regions", str(tmp_path / "sites.bed"), "--gene-ids", "GENE03"]
    assert main(command_line(tiny, weights, out, *words, command="perturb")) == 1
    assert f"{out / 'perturb.tsv'}: exists; give --overwrite" in capsys.readouterr().err
    words.append("--overwrite")
    assert main(command_line(tiny, weights, out, *words, command="perturb")) == 0
    assert pd.read_csv(out / "perturb.tsv", sep="\t", comment="#")["name"].tolist() == ["mine"]
    words = ["--insert", "TGACTCA", "--at", "chr1:20,001", "--overwrite"]
    assert main(command_line(tiny, weights, out, *words, command="perturb")) == 0
    assert pd.read_csv(out / "perturb.tsv", sep="\t", comment="#")["how"].tolist() == ["insert"]


def test_weights_that_read_no_dna_say_so_where_letters_are_changed(tiny, tmp_path, capsys):
    weights, words = small_weights(tiny, tmp_path, reads_dna=False), ["--gene-ids", "GENE03"]
    for more, told in ((["--insert", "TGACTCA", "--at", "chr1:20,001"], True), (["--tile", "chr1:20001-21000"], False)):
        assert main(command_line(tiny, weights, tmp_path / f"o{told}", *words, *more, command="perturb")) == 0
        assert ("these weights read no DNA: other letters change nothing" in capsys.readouterr().out) is told


def test_shuffles_have_bounds():
    with pytest.raises(ConfigError, match="shuffles must be from 1 to 10,000, found 0"):
        PerturbSettings(How.DNA, shuffles=0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "by one of --regions, --tile and --insert, found none"),
        (["--tile", "chr1:1-9", "--regions", "x.bed"], "found 2"),
        (["--insert", "ACGT"], "--insert and --at go together"),
        (["--insert", "ACGT", "--at", "chr1"], "--at chr1 is not a position: write CHR:BASE"),
        (["--insert", "ACGT", "--at", "chr1:5", "--how", "dna"], "leave one out"),
        (["--tile", "chr1"], "--tile chr1 is not a region: write CHR:FIRST-LAST"),
        (["--tile", "chr1:45001-47000"], "no site lies in the window of a gene (3 sites, 7 genes, 2,000 bp"),
        (["--regions", "absent.bed"], "regions absent.bed: no such file"),
        (["--tile", "chr1:20001-21000", "--gtf", "x.gtf"], "--gtf is for the picture of --plot"),
    ],
)
def test_misuse_is_one_sentence(tiny, tmp_path, capsys, more, message):
    assert (
        main(command_line(tiny, small_weights(tiny, tmp_path, **TOKENS), tmp_path / "o", *more, command="perturb")) == 1
    )
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "o").exists()
