"""The windows of genes: what a model reads equals the files, whoever reads them, and what cannot be read is named."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
from conftest import GENES, LENGTHS, WINDOW_BP, write_bigwig

from kipoi_seq2exp.config import Transform
from kipoi_seq2exp.data import WindowDataset
from kipoi_seq2exp.data.tracks.contacts import powerlaw_contact
from kipoi_seq2exp.data.tracks.track import SignalTrack
from kipoi_seq2exp.effects.track_features import FeatureRules
from kipoi_seq2exp.errors import ConfigError, InputError


def assert_same(first, second):
    for field in fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


def test_window_holds_what_the_files_hold(tiny):
    with tiny.dataset() as dataset:
        window = dataset[1]
    assert (window.gene_id, window.chrom, window.tss, window.strand) == ("GENE02", "chr1", 9_000, "-")
    assert (window.start, window.end) == (7_000, 11_000)
    letters = np.frombuffer(tiny.bases["chr1"][7_000:11_000].upper(), dtype=np.uint8)
    for column, base in enumerate(b"ACGT"):
        np.testing.assert_array_equal(window.onehot[:, column], letters == base)
    for column, name in enumerate(("h3k27ac", "dnase")):
        np.testing.assert_array_equal(
            window.signals[:, column], np.nan_to_num(tiny.signals[name]["chr1"][7_000:11_000])
        )
    np.testing.assert_array_equal(np.flatnonzero(window.blacklist), np.arange(2_500, 2_900))
    at_tss = np.log10(1 + 2 * powerlaw_contact(np.array([0.0]))[0])
    assert window.signals[window.tss - window.start, 2] == pytest.approx(at_tss, rel=1e-5)


def test_every_gene_gets_a_full_window_of_the_declared_types(tiny):
    dataset = tiny.dataset()
    assert len(dataset) == len(GENES) == len(list(dataset))
    for window, (gene_id, chrom, tss, strand) in zip(dataset, GENES, strict=True):
        assert (window.gene_id, window.chrom, window.tss, window.strand) == (gene_id, chrom, tss, strand)
        assert (window.start, window.end) == (tss - WINDOW_BP // 2, tss + WINDOW_BP // 2)
        assert window.onehot.shape == (WINDOW_BP, 4)
        assert window.onehot.dtype == np.uint8
        assert window.signals.shape == (WINDOW_BP, 3)
        assert window.signals.dtype == np.float32
        assert window.features.shape == (9,)
        assert window.features.dtype == np.float32
        assert np.isfinite(window.features).all()
        assert window.blacklist.shape == (WINDOW_BP,)
        assert window.blacklist.dtype == np.bool_


def test_beyond_a_chromosome_everything_is_zero(tiny):
    dataset = tiny.dataset()
    for index in (0, 5):
        window = dataset[index]
        position = np.arange(window.start, window.end)
        outside = (position < 0) | (position >= LENGTHS[window.chrom])
        assert outside.any()
        for values in (window.onehot, window.signals, window.blacklist):
            assert not values[outside].any()
        assert window.signals[~outside].any(axis=0).all()


def test_promoter_activity_is_that_of_the_tracks(tiny):
    tss = GENES[2][2]
    means = [np.nan_to_num(tiny.signals[name]["chr1"][tss - 500 : tss + 500]).mean() for name in tiny.tracks]
    assert tiny.dataset()[2].features[8] == pytest.approx(np.sqrt(means[0] * means[1]), rel=1e-5)


def test_a_window_is_read_once_for_tracks_and_features(tiny, monkeypatch):
    dataset, reads, values = tiny.dataset(), [], SignalTrack.values
    monkeypatch.setattr(SignalTrack, "values", lambda track, *place: reads.append(place) or values(track, *place))
    assert dataset[1].features[8] > 0  # promoter activity, of both tracks
    assert reads == [("chr1", 7_000, 11_000)] * 2


def test_transforms(tiny):
    plain = tiny.dataset()[2].signals[:, 0]
    for transform, function in ((Transform.LOG1P, np.log1p), (Transform.LOG10P1, lambda x: np.log10(1 + x))):
        tracks = (replace(tiny.inputs.tracks[0], transform=transform), *tiny.inputs.tracks[1:])
        changed = tiny.dataset(inputs=replace(tiny.inputs, tracks=tracks))[2]
        np.testing.assert_allclose(changed.signals[:, 0], function(plain), rtol=1e-6)
        assert changed.features[8] == tiny.dataset()[2].features[8], "promoter activity is of the tracks' own values"


def test_a_feature_of_tracks_reads_as_far_as_it_says(tiny):
    near = replace(tiny.inputs.features[8], name="NEAR", columns=(), from_tracks=("dnase",), flank_bp=120)
    dataset = tiny.dataset(inputs=replace(tiny.inputs, features=(*tiny.inputs.features, near)))
    tss = GENES[2][2]
    mean = np.nan_to_num(tiny.signals["dnase"]["chr1"][tss - 120 : tss + 120]).mean()
    assert dataset[2].features[9] == pytest.approx(mean, rel=1e-5)
    assert dataset.describe()["features"]["NEAR"] == "computed from the track dnase at the TSS +-120 bp"
    again = FeatureRules.of(dataset).features_of(dataset[2].features, dataset[2].signals)
    np.testing.assert_allclose(again[8:], dataset[2].features[8:], rtol=1e-5)
    with pytest.raises(ConfigError, match="feature 'NEAR': flank_bp must be at least 1, found 0"):
        replace(near, flank_bp=0)


def test_a_track_left_out_is_read_from_its_stand_in(tiny):
    other = replace(tiny.inputs.tracks[1], name="dnase_reference", stand_in="dnase")
    inputs = replace(tiny.inputs, tracks=(*tiny.inputs.tracks, other))
    alone, given = (
        tiny.dataset(inputs=inputs, sources={**tiny.sources, **more})
        for more in ({}, {"dnase_reference": tiny.tracks["h3k27ac"]})
    )
    signals = alone[1].signals
    np.testing.assert_array_equal(signals[:, 3], signals[:, 1])
    np.testing.assert_array_equal(given[1].signals[:, 3], signals[:, 0])
    with pytest.raises(InputError, match="no file is given for the track 'dnase'"):
        tiny.dataset(inputs=inputs, sources={"h3k27ac": tiny.tracks["h3k27ac"], "hic": "powerlaw"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stand_in": "atac"}, "track 'other': its stand-in 'atac' is not listed"),
        ({"stand_in": "other"}, "track 'other': its stand-in 'other' has a stand-in itself"),
        ({"stand_in": "hic"}, "track 'other': its stand-in 'hic' has another kind or transform"),
    ],
)
def test_bad_stand_ins_are_named(tiny, changes, message):
    track = replace(tiny.inputs.tracks[1], name="other", **changes)
    with pytest.raises(ConfigError, match=message):
        replace(tiny.inputs, tracks=(*tiny.inputs.tracks, track))


@pytest.mark.parametrize("name", ["ORFEXONDENSITY", "PROMOTER_ACTIVITY"])
def test_transform_of_a_feature(tiny, name):
    column = tiny.inputs.feature_names.index(name)
    features = tuple(replace(f, transform=Transform.LOG1P) if f.name == name else f for f in tiny.inputs.features)
    changed = tiny.dataset(inputs=replace(tiny.inputs, features=features))[2].features
    expected = tiny.dataset()[2].features
    expected[column] = np.log1p(expected[column])
    np.testing.assert_allclose(changed, expected, rtol=1e-6)


def test_order_of_sources_and_choice_of_genes_do_not_matter(tiny):
    whole = tiny.dataset()
    chosen = tiny.dataset(gene_ids=["GENE05", "GENE02"], sources=dict(reversed(tiny.sources.items())))
    assert_same(chosen[0], whole[4])
    assert_same(chosen[-1], whole[1])
    assert chosen.genes["gene_id"].tolist() == ["GENE05", "GENE02"]


def test_gtf_and_bed_give_the_same_dna_and_tracks(tiny):
    inputs = replace(tiny.inputs, features=tiny.inputs.features[-1:])
    for genes in (tiny.bed, tiny.gtf):
        window = tiny.dataset(genes=genes, inputs=inputs)[3]
        np.testing.assert_array_equal(window.signals, tiny.dataset()[3].signals)
        np.testing.assert_array_equal(window.onehot, tiny.dataset()[3].onehot)


def test_without_blacklist_nothing_is_listed(tiny):
    assert not tiny.dataset(blacklist=None)[1].blacklist.any()


@pytest.mark.parametrize("index", [len(GENES), -len(GENES) - 1])
def test_index_out_of_range(tiny, index):
    with pytest.raises(IndexError, match=f"gene {index} of {len(GENES)}"):
        tiny.dataset()[index]


# ------------------------------------------------------------------------------------------------------ processes


def test_pickled_and_closed_data_sets_read_the_same(tiny):
    dataset = tiny.dataset()
    before = dataset[1]
    assert_same(pickle.loads(pickle.dumps(dataset))[1], before)
    dataset.close()
    assert_same(dataset[1], before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(tiny, method):
    dataset = tiny.dataset()
    here = list(dataset)  # the files are open when the others start
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = pool.map(dataset.__getitem__, range(len(dataset)), chunksize=1)
    for first, second in zip(here, there, strict=True):
        assert_same(first, second)


def test_index_is_made_once_for_all_processes(tiny, tmp_path):
    path = shutil.copy(tiny.fasta, tmp_path / "x.fa")
    dataset = tiny.dataset(fasta=path)
    path.with_name("x.fa.fai").rename(tmp_path / "kept")
    with pytest.raises(InputError, match=r"its index .* is gone"):
        dataset[0]


# ------------------------------------------------------------------------------------------------------- the record


def test_description_is_plain_and_says_what_was_read(tiny):
    described = tiny.dataset().describe()
    assert json.loads(json.dumps(described)) == described
    assert described["fasta"] == str(tiny.fasta)
    assert described["tracks"]["dnase"]["source"] == str(tiny.tracks["dnase"])
    assert "power law" in described["tracks"]["hic"]["source"]
    assert described["tracks"]["hic"]["transform"] == "log10p1"
    assert described["features"]["UTR5LEN"] == "column UTR5LEN_log10zscore"
    assert "computed from the tracks" in described["features"]["PROMOTER_ACTIVITY"]
    assert (described["missing_features"], described["n_genes"]) == ("error", len(GENES))
    assert described["blacklist"] == str(tiny.blacklist)


# -------------------------------------------------------------------------------------------------------- mistakes


def test_a_missing_feature_is_an_explicit_choice(tiny, tmp_path):
    table = tmp_path / "genes.tsv"
    table.write_text(tiny.genes.read_text().replace("UTR5GC", "other"))
    with pytest.raises(InputError, match="has no column for the feature 'UTR5GC'"):
        tiny.dataset(genes=table)
    features = tuple(replace(f, mean=0.625) if f.name == "UTR5GC" else f for f in tiny.inputs.features)
    dataset = tiny.dataset(genes=table, inputs=replace(tiny.inputs, features=features), missing_features="mean")
    assert dataset[0].features[4] == 0.625
    assert "mean of the training genes" in dataset.describe()["features"]["UTR5GC"]
    with pytest.raises(ConfigError, match="unknown choice 'zero'"):
        tiny.dataset(missing_features="zero")


def test_unknown_and_missing_tracks_are_named(tiny):
    with pytest.raises(InputError, match=r"unknown track 'dnase1' \(did you mean 'dnase'\?\)"):
        tiny.dataset(sources={**tiny.sources, "dnase1": "x.bw"})
    with pytest.raises(InputError, match="no file is given for the track 'dnase': give one\\."):
        tiny.dataset(sources={"h3k27ac": tiny.tracks["h3k27ac"], "hic": "powerlaw"})
    with pytest.raises(InputError, match="no file is given for the track 'hic': give one or 'powerlaw'"):
        tiny.dataset(sources=tiny.tracks)


def test_faults_of_the_files_are_found_when_the_data_set_is_made(tiny, tmp_path):
    ones = {chrom: np.ones(length, dtype=np.float32) for chrom, length in LENGTHS.items()}
    write_bigwig(tmp_path / "build.bw", ones, {"chr1": 60_000, "chr2": 30_001})
    with pytest.raises(InputError, match=r"track 'dnase' .*chr2 is 30,001 bp long but 30,000 bp in the FASTA"):
        tiny.dataset(sources={**tiny.sources, "dnase": tmp_path / "build.bw"})
    ones["chr1"][9_100] = -1
    write_bigwig(tmp_path / "negative.bw", ones)
    with pytest.raises(InputError, match=r"track 'dnase' .*has the value -1 at chr1:9,101"):
        tiny.dataset(sources={**tiny.sources, "dnase": tmp_path / "negative.bw"})
    (tmp_path / "x.bed").write_text("1\t5\t9\n")
    with pytest.raises(InputError, match=r"blacklist .* shares no chromosome with the FASTA"):
        tiny.dataset(blacklist=tmp_path / "x.bed")
    (tmp_path / "genes.tsv").write_text(tiny.genes.read_text().replace("29500", "39500"))
    with pytest.raises(InputError, match=r"line 7 \(gene GENE06\): the TSS 39500 lies outside chr2"):
        tiny.dataset(genes=tmp_path / "genes.tsv")


def test_real_windows(real_data, tiny):
    folder = real_data / "chr22"
    tracks = {"h3k27ac": folder / "K562" / "h3k27ac.bw", "dnase": folder / "K562" / "dnase.bw", "hic": "powerlaw"}
    dataset = WindowDataset(
        replace(tiny.inputs, window_bp=200_000),
        folder / "genes.tsv",
        folder / "hg38.chr22.fa",
        tracks,
        blacklist=folder / "blacklist.bed",
        missing_features="mean",
    )
    assert len(dataset) == 121
    window = dataset[60]
    assert (window.gene_id, window.tss) == ("ENSG00000128253", 32_203_477)
    assert window.onehot.sum(axis=0).tolist() == [53_639, 43_874, 43_508, 55_502]
    np.testing.assert_allclose(window.signals.mean(axis=0), [0.207638, 2.618095, 0.023974], rtol=1e-4)
