"""Peaks by MACS3: the track it is given, base by base; a program in its place that keeps its rules; MACS3 itself."""

from __future__ import annotations

import io
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import LENGTHS, write_bigwig
from small_runs import command_line

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.judge.macs3 import FOLD, Macs3, PeakSettings, call_peaks, call_tracks, find_macs3, write_bedgraph
from kipoi_seq2exp.judge.recovery_genome import GenomeSettings, Task, invent_genome
from kipoi_seq2exp.judge.recovery_rivals import call_macs3

# A slow program that takes what MACS3 takes and calls by the same rules: bases at or above the cutoff, gaps of at most
# -g joined, peaks of at least -l kept. The last test holds it against MACS3.
PROGRAM = """#!{python}
import sys
if sys.argv[1] == "--version":
    sys.exit(print("macs3 in place"))
given = dict(zip(sys.argv[2:-1:2], sys.argv[3:-1:2]))
assert sys.argv[1] == "bdgpeakcall" and sys.argv[-1] == "--no-trackline"
peaks = []
for line in open(given["-i"]):
    chrom, start, end, value = line.split()
    if float(value) < float(given["-c"]):
        continue
    if peaks and peaks[-1][0] == chrom and int(start) - peaks[-1][2] <= int(given["-g"]):
        peaks[-1][2] = int(end)
    else:
        peaks.append([chrom, int(start), int(end)])
with open(given["-o"], "w") as out:
    for chrom, start, end in peaks:
        if end - start >= int(given["-l"]):
            out.write(f"{{chrom}}\\t{{start}}\\t{{end}}\\tp\\t10\\t.\\t0\\t0\\t0\\t0\\n")
"""
SETTINGS = PeakSettings(cutoff=4.0, min_length_bp=150, max_gap_bp=20)


def put_program(folder, monkeypatch, text=PROGRAM):
    """Put a program where MACS3 is looked for."""
    folder.mkdir()
    (folder / "macs3").write_text(text.format(python=sys.executable))
    (folder / "macs3").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture
def program(tmp_path, monkeypatch):
    put_program(tmp_path / "bin", monkeypatch)
    return find_macs3()


@pytest.fixture
def track(tiny):
    with open_signal(tiny.tracks["dnase"], tiny.inputs.tracks[1]) as opened:
        yield opened


def intervals(path):
    return pd.read_csv(path, sep="\t", header=None, usecols=[0, 1, 2], names=["chrom", "start", "end"])


def test_the_bedgraph_is_the_track_base_by_base(tiny, track):
    text = io.StringIO()
    mean, largest = write_bedgraph(track, LENGTHS, text)
    table = pd.read_csv(io.StringIO(text.getvalue()), sep="\t", names=["chrom", "start", "end", "value"])
    for chrom, rows in table.groupby("chrom"):
        assert rows["start"].tolist() == [0, *rows["end"].tolist()[:-1]]  # a gap would be given the value after it
        values = np.repeat(rows["value"], rows["end"] - rows["start"]).to_numpy()
        np.testing.assert_allclose(values, np.nan_to_num(tiny.signals["dnase"][chrom]), rtol=1e-5)
    every = np.nan_to_num(np.concatenate(list(tiny.signals["dnase"].values())))
    assert mean == pytest.approx(every.mean(dtype=np.float64), rel=1e-6)
    assert largest == every.max()


def test_pieces_do_not_show_in_the_bedgraph(track, monkeypatch):
    whole, pieces = io.StringIO(), io.StringIO()
    write_bedgraph(track, LENGTHS, whole)
    monkeypatch.setattr("kipoi_seq2exp.judge.macs3._PIECE_BP", 777)
    write_bedgraph(track, LENGTHS, pieces)
    tables = [pd.read_csv(io.StringIO(text.getvalue()), sep="\t", header=None) for text in (whole, pieces)]
    for chrom in LENGTHS:
        first, second = (
            np.repeat(table[3], table[2] - table[1])[np.repeat(table[0], table[2] - table[1]).to_numpy() == chrom]
            for table in tables
        )
        np.testing.assert_array_equal(first, second)


def test_peaks_are_kept_with_the_command(program, track, tmp_path):
    found = call_peaks(program, track, LENGTHS, SETTINGS, tmp_path / "macs3_dnase.narrowPeak")
    assert found.command == (
        "macs3 bdgpeakcall -i macs3_dnase.bedGraph -o macs3_dnase.narrowPeak -c 4 -l 150 -g 20 --no-trackline"
    )
    assert found.version == "macs3 in place"
    assert found.count == len(intervals(found.path)) > 5
    assert f"{found.count} peaks at a cutoff of 4" in found.line
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "macs3_dnase.narrowPeak"}
    values = {chrom: track.values(chrom, 0, length) for chrom, length in LENGTHS.items()}
    for row in intervals(found.path).itertuples():
        inside = values[row.chrom][row.start : row.end]
        assert min(inside[0], inside[-1]) >= 4 > values[row.chrom][row.start - 1]
        assert row.end - row.start >= 150


def test_the_default_cutoff_is_a_multiple_of_the_mean(program, tiny, track, tmp_path):
    assert PeakSettings().fold == FOLD == 5
    found = call_peaks(program, track, {"chr2": 30_000}, PeakSettings(fold=2.0), tmp_path / "p.narrowPeak")
    mean = np.nan_to_num(tiny.signals["dnase"]["chr2"]).mean(dtype=np.float64)
    assert found.cutoff == pytest.approx(2 * mean, rel=1e-5)
    assert f"-c {found.cutoff:g} -l 200 -g 30" in found.command
    assert set(intervals(found.path)["chrom"]) == {"chr2"}


def test_an_absent_program_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"macs3 is not on PATH: install it \(pip install 'kipoi-seq2exp\[peaks\]'"):
        find_macs3()


def test_a_program_beside_python_is_found(program, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert find_macs3() == program


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "#!/bin/sh\necho numpy is too new >&2\nexit 3\n",
            r"`macs3 --version` failed with status 3 \(numpy is too new\)",
        ),
        ("#!/nowhere/python\n", "macs3 cannot be run"),
    ],
)
def test_a_program_that_does_not_run_is_one_sentence(tmp_path, monkeypatch, text, message):
    put_program(tmp_path / "bin", monkeypatch, text)
    with pytest.raises(ConfigError, match=message) as error:
        find_macs3()
    assert "\n" not in str(error.value)


def test_a_failed_call_leaves_nothing_behind(tmp_path, monkeypatch, track):
    put_program(tmp_path / "bin", monkeypatch, "#!/bin/sh\necho out of memory >&2\nexit 9\n")
    (tmp_path / "out").mkdir()
    program = Macs3(str(tmp_path / "bin" / "macs3"), "x")
    with pytest.raises(ConfigError, match=r"`macs3 bdgpeakcall .*` failed with status 9 \(out of memory\)"):
        call_peaks(program, track, LENGTHS, SETTINGS, tmp_path / "out" / "p.narrowPeak")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_peak_is_one_sentence(program, tiny, track, tmp_path):
    with pytest.raises(InputError, match=r"calls no peak at a cutoff of 100 \(the largest value is 9, the mean"):
        call_peaks(program, track, LENGTHS, PeakSettings(100.0), tmp_path / "p.narrowPeak")
    write_bigwig(tmp_path / "flat.bw", {"chr1": np.zeros(100, np.float32)})
    flat = open_signal(tmp_path / "flat.bw", tiny.inputs.tracks[1])
    with flat, pytest.raises(InputError, match="is 0 on chr1: there are no peaks to call"):
        call_peaks(program, flat, {"chr1": 100}, SETTINGS, tmp_path / "p.narrowPeak")


@pytest.mark.parametrize(
    "wrong", [{"cutoff": 0.0}, {"cutoff": float("nan")}, {"fold": 0.0}, {"min_length_bp": 0}, {"max_gap_bp": -1}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match="MACS3"):
        PeakSettings(**wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [("dnas", r"the model reads .* \(did you mean 'dnase'"), ("hic", "it is a track of contacts")],
)
def test_tracks_without_peaks_are_refused(run, tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        call_tracks(run, [name], SETTINGS, tmp_path)


def test_the_command_compares_macs3_and_given_peaks(program, tiny, run, tmp_path, capsys):
    given = ["--peaks", str(tiny.peaks), "--macs3", "dnase", "--macs3-cutoff", "4", "--macs3-min-length", "150"]
    few = ["--gene-ids", "GENE02", "GENE03", "--bootstrap", "5", "--threshold", "0.6", *given]
    assert main(command_line(tiny, run.request.model, tmp_path / "o", *few, command="benchmark peaks")) == 0
    said = capsys.readouterr().out
    assert "MACS3 on dnase: macs3 in place: " in said
    assert "masks swapped in, peaks.narrowPeak:" in said
    assert "macs3 in place" in (tmp_path / "o" / "peaks.tsv").read_text().split("set\t")[0]
    overlap = pd.read_csv(tmp_path / "o" / "peaks_overlap.tsv", sep="\t", comment="#")
    assert overlap["set"].tolist() == ["peaks.narrowPeak", "MACS3 on dnase"]
    in_peaks = np.zeros(60_000, bool)
    for row in intervals(tmp_path / "o" / "macs3_dnase.narrowPeak").itertuples():
        in_peaks[row.start : row.end] |= row.chrom == "chr1"
    genes = pd.read_csv(tmp_path / "o" / "peaks_genes.tsv", sep="\t", comment="#")
    row = genes[(genes["set"] == "MACS3 on dnase") & (genes["gene_id"] == "GENE03")].iloc[0]
    assert row["peak_bp"] == in_peaks[19_500:23_500].sum() - in_peaks[21_300:21_700].sum() > 0


def test_every_enhancer_of_an_invented_genome_has_its_peaks(program):
    genome = invent_genome(GenomeSettings(Task.TRACKS, seed=1, genes=6, window_bp=16_000, chromosomes=3))
    called = call_macs3(genome)
    assert [line.split(", ")[1].split(" (")[0] for line in called.lines] == ["1 times the mean"] * 2
    regulated = genome.pairs["regulated"].to_numpy()
    assert (called.rank(genome.pairs)["MACS3 on both"] > 0).tolist() == regulated.tolist()
    assert 0 < regulated.sum() < len(regulated)


def test_a_comparison_needs_peaks(tiny, run, tmp_path, capsys):
    assert main(command_line(tiny, run.request.model, tmp_path / "o", command="benchmark peaks")) == 1
    assert "give peaks to compare with: a file (--peaks), or a track to call them on" in capsys.readouterr().err


def test_the_program_in_place_calls_as_macs3_does(program, track, tmp_path, monkeypatch):
    monkeypatch.undo()
    try:
        real = find_macs3()
    except ConfigError as error:
        pytest.skip(str(error))
    for number, settings in enumerate((SETTINGS, PeakSettings(3.0, 1, 0), PeakSettings(1.5, 300, 500))):
        ours = call_peaks(program, track, LENGTHS, settings, tmp_path / f"ours{number}.narrowPeak")
        theirs = call_peaks(real, track, LENGTHS, settings, tmp_path / f"theirs{number}.narrowPeak")
        assert theirs.version.startswith("macs3 3")
        assert len(intervals(ours.path)) > 3
        pd.testing.assert_frame_equal(intervals(theirs.path), intervals(ours.path))
