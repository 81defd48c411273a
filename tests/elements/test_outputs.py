"""The files of a results folder: what they say, that they agree with each other, and that they are whole."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import warm
from small_runs import PROMOTER_BP, small_request, small_weights

from kipoi_seq2exp import Provenance
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.elements import outputs
from kipoi_seq2exp.elements.calls import COLUMNS, CallSettings
from kipoi_seq2exp.elements.mask_track import merged_masks, write_mask_track
from kipoi_seq2exp.elements.outputs import ELEMENTS, PROVENANCE, TABLE, TRACK, status_line, write_results
from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.prediction.run import fill_store, prepare
from kipoi_seq2exp.prediction.store import STORE_NAME, Layout, PredictionStore, Row, read_predictions

CALLS = CallSettings(0.5, min_length_bp=20)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """Return the folder of a finished run, with its results."""
    folder = tmp_path_factory.mktemp("results")
    fill_store(prepare(small_request(tiny, small_weights(tiny, folder)), folder))
    with read_predictions(folder) as predictions:
        write_results(predictions, folder, CALLS, {"command": ["seq2exp", "predict"]})
    return folder


def read_tsv(path):
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("# "))
    return pd.read_csv(path, sep="\t", skiprows=first)


def test_the_gene_table(tiny, run):
    assert (run / TABLE).read_text().startswith("# provisional weights: small.safetensors")
    table = pd.read_csv(run / TABLE, sep="\t", comment="#")
    with read_predictions(run) as found:
        assert table["gene_id"].tolist() == found.genes["gene_id"].tolist()
        np.testing.assert_allclose(table["expression"], found.genes["expression"], atol=1e-6)
        np.testing.assert_allclose(table["observed"], pd.read_csv(tiny.genes, sep="\t")["label"])
        mask = found.mask(3)
        assert table["kept_fraction"][3] == pytest.approx((mask >= 0.5).mean(), abs=1e-6)
        assert table["mean_mask"][3] == pytest.approx(mask.mean(), abs=1e-6)
        assert (table["end"] - table["start"]).tolist() == [4_000] * 7
        assert table["tss"].tolist() == ((table["start"] + table["end"]) // 2).tolist()
    assert table["known_fraction"][0] < 0.7  # reaches beyond the chromosome's start


def test_elements_are_placed_some_genes_at_a_time(run, monkeypatch):
    with read_predictions(run) as found:
        whole, placed, place_all = outputs.summarise(found, CALLS), [], outputs.place_all
        monkeypatch.setattr(outputs, "PLACED_TOGETHER", 2)
        monkeypatch.setattr(outputs, "place_all", lambda calls: placed.append(len(calls)) or place_all(calls))
        parts = outputs.summarise(found, CALLS)
    assert placed == [2, 2, 2, 1]
    pd.testing.assert_frame_equal(parts.elements, whole.elements)


def test_elements_agree_with_the_masks_and_the_table(run):
    elements = read_tsv(run / ELEMENTS).rename(columns={"#chrom": "chrom"})
    assert tuple(elements.columns) == COLUMNS
    assert len(elements) > 5
    table = pd.read_csv(run / TABLE, sep="\t", comment="#")
    counts = elements.groupby("gene_id").size().reindex(table["gene_id"], fill_value=0)
    assert counts.tolist() == table["n_elements"].tolist()
    with read_predictions(run) as found:
        for row in elements.itertuples():
            locus = found.locus(found.index(row.gene_id))
            mask = found.mask(found.index(row.gene_id))[row.start - locus.start : row.end - locus.start]
            assert row.mean_mask == pytest.approx(mask.mean(), abs=1e-5)
            assert row.max_mask == pytest.approx(mask.max(), abs=1e-5)
            assert mask[0] >= CALLS.threshold
            assert not locus.tss - PROMOTER_BP // 2 < row.end <= locus.tss + PROMOTER_BP // 2
    assert elements[["chrom", "start"]].apply(tuple, axis=1).is_monotonic_increasing
    assert Regions(run / ELEMENTS).chroms == ("chr1", "chr2")  # our own BED reader takes it


def test_the_track_is_the_maximum_over_the_windows(tiny, run):
    with read_predictions(run) as found, pyBigWig.open(str(run / TRACK)) as track:
        assert track.chroms() == {"chr1": 60_000, "chr2": 30_000}
        for chrom, length in track.chroms().items():
            expected = np.full(length, np.nan, dtype=np.float32)
            for index in np.flatnonzero(found.genes["chrom"] == chrom):
                locus = found.locus(int(index))
                start, end = max(locus.start, 0), min(locus.end, length)
                mask = found.mask(int(index))[start - locus.start : end - locus.start]
                expected[start:end] = np.fmax(expected[start:end], mask)
            np.testing.assert_array_equal(track.values(chrom, 0, length, numpy=True), expected)


def test_provenance_names_everything(tiny, run):
    record = json.loads((run / PROVENANCE).read_text())
    assert record["command"] == ["seq2exp", "predict"]
    assert record["model"]["provenance"]["status"] == "provisional"
    assert len(record["model"]["weights_sha256"]) == 64
    assert record["files"]["fasta"] == {"path": str(tiny.fasta.resolve()), "bytes": tiny.fasta.stat().st_size}
    assert set(record["files"]) == {"genes", "fasta", "blacklist", "track h3k27ac", "track dnase"}
    assert record["sources"]["hic"] == "powerlaw"
    assert "power law" in record["dataset"]["tracks"]["hic"]["source"]
    assert record["dataset"]["missing_features"] == "error"
    assert record["elements"]["min_length_bp"] == 20
    assert record["mask_overlap_rule"].startswith("maximum")
    assert list(record["dataset"]["tracks"]) == ["h3k27ac", "dnase", "hic"]


def test_writing_again_gives_the_same_bytes(run, tmp_path):
    with read_predictions(run) as predictions:
        summary = write_results(predictions, tmp_path, CALLS)
    assert {path.name for path in summary.files} == {path.name for path in tmp_path.iterdir()}
    for name in (TABLE, ELEMENTS, TRACK):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()


def test_a_threshold_that_nothing_reaches(run, tmp_path):
    with read_predictions(run) as predictions:
        summary = write_results(predictions, tmp_path, CallSettings(threshold=1.0))
    assert summary.elements.empty
    assert read_tsv(tmp_path / ELEMENTS).empty
    assert set(summary.genes["n_elements"]) == {0}
    assert summary.genes["kept_fraction"].iloc[1] == PROMOTER_BP / 4_000


def test_without_a_mask_there_are_no_elements(tiny, tmp_path):
    plain = small_weights(tiny, tmp_path, "plain", variant="plain", generator_layers=0)
    fill_store(prepare(small_request(tiny, plain), tmp_path / "out"))
    with read_predictions(tmp_path / "out") as predictions:
        summary = write_results(predictions, tmp_path / "out", CALLS)
    assert [path.name for path in summary.files] == [TABLE, PROVENANCE]
    assert "kept_fraction" not in summary.genes


def test_a_failure_leaves_no_file_of_the_set(run, tmp_path, monkeypatch):
    def fail(predictions, path):
        path.write_bytes(b"half")
        raise OutputError("the disk is full")

    monkeypatch.setattr(outputs, "write_mask_track", fail)
    with read_predictions(run) as predictions, pytest.raises(OutputError, match="disk is full"):
        write_results(predictions, tmp_path, CALLS)
    assert list(tmp_path.iterdir()) == []


def test_a_track_that_does_not_fit_on_the_disk_is_an_error_and_nothing_stays(run, tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; "
        "from kipoi_seq2exp.elements import calls, outputs; from kipoi_seq2exp.prediction import store; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "found = store.read_predictions(sys.argv[1]); "
        "outputs.write_results(found, Path(sys.argv[2]), calls.CallSettings())"
    )
    done = warm.run(["-c", code, run / STORE_NAME, tmp_path])
    assert done.returncode == 1
    assert "element_mask.bw: cannot be written (the file would pass the limit" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- overlapping


def make_store(path, windows, length=1_000):
    """Make a store of masks at (chrom, start), random but repeated in runs."""
    random = np.random.default_rng(0)
    genes = pd.DataFrame(
        {
            "gene_id": [f"G{i}" for i in range(len(windows))],
            "chrom": [chrom for chrom, _ in windows],
            "start": [start for _, start in windows],
            "end": [start + length for _, start in windows],
            "strand": "+",
        }
    )
    chrom_lengths = {"chr2": 5_000, "chr1": 4_000}
    store = PredictionStore.create(
        path,
        Layout(genes, length, has_mask=True, has_beta=False, request={}, provenance={"chrom_lengths": chrom_lengths}),
    )
    for index in range(len(windows)):
        mask = random.random(length) if index % 2 else np.repeat(random.random(length // 50), 50)
        store.write(index, Row(0.0, 1.0, mask.astype(np.float32)))
    return chrom_lengths


@pytest.mark.parametrize(
    "windows",
    [
        [("chr1", 0)],
        [("chr1", 1_000), ("chr1", 0), ("chr2", 500), ("chr1", 400)],  # out of order, touching, overlapping
        [("chr1", -300), ("chr1", 3_500), ("chr2", 4_900), ("chr2", -999)],  # beyond the ends
        [("chr1", 100), ("chr1", 100), ("chr1", 101)],
    ],
)
def test_merging_equals_filling_whole_chromosomes(tmp_path, windows):
    lengths = make_store(tmp_path / "p.zarr", windows)
    with read_predictions(tmp_path / "p.zarr") as found:
        write_mask_track(found, tmp_path / "m.bw")
    with read_predictions(tmp_path / "p.zarr") as found, pyBigWig.open(str(tmp_path / "m.bw")) as track:
        assert track.chroms() == lengths
        pieces = list(merged_masks(found, lengths))
        for chrom, length in lengths.items():
            expected = np.full(length + 4_000, np.nan, dtype=np.float32)
            for index, (where, start) in enumerate(windows):
                if where == chrom:
                    place = slice(start + 2_000, start + 3_000)
                    expected[place] = np.fmax(expected[place], found.mask(index))
            expected = expected[2_000 : 2_000 + length]
            np.testing.assert_array_equal(track.values(chrom, 0, length, numpy=True), expected)
            swept = np.full(length, np.nan, dtype=np.float32)
            for piece in pieces:
                if piece.chrom == chrom:
                    assert np.isnan(swept[piece.start : piece.start + len(piece.values)]).all()  # no base twice
                    swept[piece.start : piece.start + len(piece.values)] = piece.values
            np.testing.assert_array_equal(swept, expected)


@pytest.mark.parametrize(
    ("status", "first"),
    [("provisional", "provisional weights: K562"), ("trained", "model K562 (trained weights)")],
)
def test_the_first_line_says_provisional_when_it_must(status, first):
    assert status_line("K562", Provenance(status=status).status).startswith(first)
