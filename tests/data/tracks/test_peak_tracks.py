"""Called peaks as tracks: the same values through every door, by column or by presence; a lacking column is named."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import small_runs
from small_runs import finished_run
from training_runs import run_settings

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.tracks.signals import SignalFormat, open_signal, signal_format
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.prediction.store import read_predictions
from kipoi_seq2exp.view.locus import Surroundings
from kipoi_seq2exp.view.sessions import shown_files

SPEC = TrackSpec("dnase")
PEAKS = [("chr1", 100, 300, 40, 2.5), ("chr1", 250, 400, 70, 1.5), ("chr1", 900, 950, 10, 7.0), ("chr2", 5, 9, 1, 1.0)]


def write_peaks(path, peaks=PEAKS):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as handle:
        for number, (chrom, start, end, score, value) in enumerate(peaks):
            handle.write(f"{chrom}\t{start}\t{end}\tpeak{number}\t{score}\t.\t{value}\t{value + 10}\t{value + 20}\n")
    return path


def slowly(column, start=0, end=1_000):
    values = np.zeros(end - start, dtype=np.float32)
    for base in range(start, end):
        inside = [peak for peak in PEAKS if peak[0] == "chr1" and peak[1] <= base < peak[2]]
        values[base - start] = max((column(peak) for peak in inside), default=0)
    return values


@pytest.mark.parametrize("name", ["x.narrowPeak", "x.broadPeak", "x.bed", "x.narrowPeak.gz"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("", lambda peak: peak[4]),
        ("::signalValue", lambda peak: peak[4]),
        ("::7", lambda peak: peak[4]),
        ("::score", lambda peak: peak[3]),
        ("::qValue", lambda peak: peak[4] + 20),
        ("::presence", lambda peak: 1),
    ],
)
def test_overlapping_peaks_have_the_largest_value(tmp_path, name, column, value):
    source = f"{write_peaks(tmp_path / name)}{column}"
    assert signal_format(source) is SignalFormat.PEAKS
    with open_signal(source, SPEC) as track:
        np.testing.assert_array_equal(track.values("chr1", 0, 1_000), slowly(value))
        np.testing.assert_array_equal(track.values("chr1", -20, 120), np.r_[np.zeros(20), slowly(value, 0, 120)])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.bed", "chr1\t5\t9\n", r"x\.bed\), line 1: no number in column 7 \(signalValue\): .*x\.bed::presence"),
        ("x.bed", "chr1\t5\t9\tname\t3\n", "line 1: no number in column 7"),
        ("x.bed::4", "chr1\t5\t9\tname\t3\n", "line 1: no number in column 4: name the column"),
        ("x.bed::presence", "chr1\tfive\t9\n", "line 1: start .column 2. is 'five', not a whole number"),
        ("x.bed::signal", "chr1\t5\t9\n", "'signal' is not a column of values: give a number from 4 on, score, signal"),
        ("x.bed::2", "chr1\t5\t9\n", "'2' is not a column of values"),
        ("x.narrowPeak::5", "chr1\t5\t9\tname\t-3\t.\n", "has the value -3 at chr1:6"),
        ("x.bw::5", "", "'::5' names a column, which peak files alone have"),
        ("x.txt", "chr1\t5\t9\n", r"is not a bigWig: .*peaks are known by their names: .bedGraph, .narrowPeak, .bed"),
    ],
)
def test_bad_peak_file_is_one_sentence(tmp_path, name, text, message):
    (tmp_path / name.split("::")[0]).write_text(text)
    with pytest.raises(InputError, match=message):
        open_signal(tmp_path / name, SPEC).values("chr1", 0, 20)


@pytest.fixture(scope="module")
def as_peaks(tiny, tmp_path_factory):
    """The tiny genome's H3K27ac as a narrowPeak of many single-base peaks: the same numbers from another format."""
    path = tmp_path_factory.mktemp("peaks") / "h3k27ac.narrowPeak"
    with path.open("w") as handle:
        for chrom, values in tiny.signals["h3k27ac"].items():
            for base in np.flatnonzero(~np.isnan(values)):
                handle.write(f"{chrom}\t{base}\t{base + 1}\t.\t0\t.\t{values[base]}\t-1\t-1\t0\n")
    return path


def test_peaks_predict_what_the_same_bigwig_does(tiny, weights, run, as_peaks, tmp_path):
    sources = {**tiny.sources, "h3k27ac": str(as_peaks)}
    other = finished_run(tiny, weights, tmp_path / "peaks", sources={k: str(v) for k, v in sources.items()})
    with read_predictions(run.store.path) as first, read_predictions(other.store.path) as second:
        np.testing.assert_array_equal(first.genes["expression"], second.genes["expression"])
        assert "signalValue, column 7" in second.provenance["dataset"]["tracks"]["h3k27ac"]["source"]
        shown = shown_files(second, Surroundings({}), None, None)
    assert [(file.kind, file.path) for file in shown if file.name == "h3k27ac"] == [("bed", as_peaks)]


def test_training_and_the_command_line_read_peaks(tiny, as_peaks, tmp_path):
    from kipoi_seq2exp.cli import main
    from kipoi_seq2exp.training.config import training_config
    from kipoi_seq2exp.training.data import open_cells

    settings = run_settings(tiny, data__0__sources__h3k27ac=f"{as_peaks}::presence", data_root=str(tiny.folder))
    window = open_cells(training_config(settings, "run"))[0].windows[1]
    expected = ~np.isnan(tiny.signals["h3k27ac"]["chr1"][window.start : window.end])
    np.testing.assert_array_equal(window.signals[:, 0] > 0, expected)
    assert set(np.unique(window.signals[:, 0])) == {0, 1}

    weights = small_runs.small_weights(tiny, tmp_path)
    (tmp_path / "t.yaml").write_text(f"h3k27ac: {as_peaks}\ndnase: {tiny.tracks['dnase']}\nhic: powerlaw\n")
    files = ["--fasta", str(tiny.fasta), "--genes", str(tiny.genes), "--tracks", str(tmp_path / "t.yaml")]
    assert main(["predict", str(weights), *files, "--device", "cpu", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "predictions.tsv").is_file()
