"""The benchmarks that take DNA away and swap masks in: each condition against the network run by hand."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GENES
from small_runs import command_line, genes_done, small_request, small_weights

from kipoi_seq2exp import Variant
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.elements.calls import CallSettings, call_elements
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.judge import distal, peaks
from kipoi_seq2exp.judge.conditions import compare_conditions, condition_lines, over_genes
from kipoi_seq2exp.metrics import score
from kipoi_seq2exp.prediction.run import fill_store, prepare
from kipoi_seq2exp.prediction.store import read_predictions

CALLS = CallSettings(threshold=0.6, min_length_bp=20)
WINDOWS = [2_000, 400, 1_000]


def expression(model, window, **changes):
    arrays = {name: getattr(window, name) for name in ("onehot", "signals", "features", "blacklist")}
    mask = changes.pop("mask", None)
    tensors = [torch.from_numpy(np.ascontiguousarray(array))[None] for array in {**arrays, **changes}.values()]
    with torch.inference_mode():
        output = model(*tensors, mask=None if mask is None else torch.from_numpy(mask.astype(np.float32))[None])
    return float(output.expression[0])


# ------------------------------------------------------------------------------------------------------------- distal


def test_each_condition_is_the_network_by_hand(run, predictions):
    table = over_genes(run, predictions, distal.distal_rows(run, predictions, WINDOWS, CALLS))
    names = ["window 2,000 bp", "window 1,000 bp", "window 400 bp"]
    assert list(table.columns[:5]) == ["gene_id", distal.FULL, *names]
    window, mask = run.dataset[2], predictions.mask(2)
    row = table.iloc[2]
    cut = slice(1_000, 3_000)
    short = {name: getattr(window, name)[cut] for name in ("onehot", "signals", "blacklist")}
    by_hand = expression(
        run.model, window, onehot=short["onehot"], signals=short["signals"], blacklist=short["blacklist"]
    )
    assert row["window 2,000 bp"] == pytest.approx(by_hand, abs=1e-6)
    assert row[distal.FULL] == pytest.approx(expression(run.model, window), abs=1e-6)
    outside = np.ones(4_000, bool)
    outside[1_800:2_200] = False
    assert row[distal.PROMOTER_ONLY] == pytest.approx(expression(run.model, window, mask=mask * ~outside), abs=1e-6)
    calls = call_elements(mask, slice(1_800, 2_200), CALLS)
    called = np.zeros(4_000, bool)
    for first, last in zip(calls.start, calls.end, strict=True):
        called[first:last] = True
    assert called.any()
    assert row[distal.WITHOUT] == pytest.approx(expression(run.model, window, mask=mask * ~called), abs=1e-6)
    alone = mask * (called | ~outside)
    assert row[distal.ALONE] == pytest.approx(expression(run.model, window, mask=alone), abs=1e-6)
    signals = window.signals * ~outside[:, None]
    assert row[distal.NO_TRACKS] == pytest.approx(expression(run.model, window, signals=signals), abs=1e-6)
    assert table.drop(columns="gene_id").iloc[2].nunique() > 5


def test_a_shorter_window_is_centred_on_the_tss(run):
    window = distal.shorten(run.dataset[2], 600)
    assert (window.start + window.end) // 2 == window.tss
    assert len(window.onehot) == len(window.signals) == len(window.blacklist) == 600


def test_a_hard_network_keeps_its_length_and_gets_a_shorter_mask(tiny, tmp_path):
    weights = small_weights(tiny, tmp_path, variant=Variant.HARD, mask_mode="hard")
    run = prepare(small_request(tiny, weights, gene_ids=("GENE03",)), tmp_path / "r")
    fill_store(run)
    with read_predictions(run.store.path) as found:
        row = over_genes(run, found, distal.distal_rows(run, found, [1_000], CALLS)).iloc[0]
        mask = found.mask(0).copy()
    mask[:1_500] = mask[2_500:] = 0
    assert row["window 1,000 bp"] == pytest.approx(expression(run.model, run.dataset[0], mask=mask), abs=1e-6)


@pytest.mark.parametrize("wrong", [[3], [398], [4_000], [5_000]])
def test_windows_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="a shorter window must be even, hold the promoter"):
        distal.checked_windows(wrong, 4_000, 400)
    assert distal.checked_windows(None, 20_000, 2_000) == [10_000, 5_000, 2_500]


# -------------------------------------------------------------------------------------------------------------- peaks


def test_masks_of_equal_size_are_swapped_in(tiny, run, predictions):
    table = over_genes(run, predictions, peaks.peak_rows(run, predictions, {"given": Regions(tiny.peaks)}, CALLS))
    row, window = table.iloc[2], run.dataset[2]
    promoter = np.zeros(4_000, bool)
    promoter[1_800:2_200] = True
    in_peaks = np.zeros(4_000, bool)
    in_peaks[2_600:2_900] = True  # tests/conftest.py puts each peak 600 to 900 bp after the TSS
    assert row["peak_bp"] == 300
    assert row[peaks.PEAKS] == pytest.approx(expression(run.model, window, mask=in_peaks | promoter), abs=1e-6)
    assert row[peaks.PROMOTER_ONLY] == pytest.approx(expression(run.model, window, mask=promoter), abs=1e-6)
    alpha, beta = predictions.concentrations(2)
    mean = np.where(promoter, -1, alpha / (alpha + beta))
    best = np.zeros(4_000, bool)
    best[np.argsort(-mean, kind="stable")[:300]] = True
    assert row[peaks.SAME_SIZE] == pytest.approx(expression(run.model, window, mask=best | promoter), abs=1e-6)
    assert row["best_in_peaks_bp"] == best[2_600:2_900].sum()
    assert row[peaks.OWN] == predictions.genes["expression"][2]
    mask = predictions.mask(2)
    calls = call_elements(mask, slice(1_800, 2_200), CALLS)
    called = {base for s, e in zip(calls.start, calls.end, strict=True) for base in range(s, e)}
    assert row["called_bp"] == len(called)
    assert row["both_bp"] == len(called & set(range(2_600, 2_900)))
    assert row["distal_bp"] == 3_600


def test_blacklisted_bases_are_in_no_mask(tiny, run, predictions):
    table = over_genes(run, predictions, peaks.peak_rows(run, predictions, {"given": Regions(tiny.peaks)}, CALLS))
    assert table["distal_bp"][1] == 3_600 - 400 + 0  # chr1:9500-9900 lies outside the promoter of GENE02 at 9000
    assert table["peak_bp"][1] == 0  # its peak, chr1:9600-9900, is blacklisted whole


def test_several_sets_are_compared_in_one_pass(tiny, run, predictions, tmp_path):
    (tmp_path / "half.bed").write_text("".join(f"{c}\t{t + 600}\t{t + 750}\n" for _, c, t, _ in GENES[1:5]))
    sets = {"given": Regions(tiny.peaks), "half": Regions(tmp_path / "half.bed")}
    both = over_genes(run, predictions, peaks.peak_rows(run, predictions, sets, CALLS))
    for name, regions in sets.items():
        alone = over_genes(run, predictions, peaks.peak_rows(run, predictions, {name: regions}, CALLS))
        pd.testing.assert_frame_equal(both[both["set"] == name].reset_index(drop=True), alone)
    assert both.loc[both["set"] == "half", "peak_bp"].tolist()[2] == 150


def test_overlaps_are_shares_of_sums_over_genes():
    numbers = {"distal_bp": [100, 300], "peak_bp": [10, 40], "called_bp": [20, 20], "both_bp": [5, 10]}
    table = pd.DataFrame({"set": "x", **numbers, "best_in_peaks_bp": [5, 25], "elements": 3, "elements_in_peaks": 2})
    found = peaks.overlap_table(table, bootstrap=200).iloc[0]
    assert found["precision"] == 15 / 40
    assert found["recall"] == 15 / 50
    assert found["jaccard"] == 15 / 75
    assert found["peaks_kept"] == 50 / 400
    assert found["enrichment"] == pytest.approx((15 / 40) / (50 / 400))
    assert found["same_size_precision"] == 30 / 50
    assert (found["precision_low"], found["precision_high"]) == (5 / 20, 10 / 20)  # one gene twice, or the other
    assert (found["genes"], found["elements"], found["elements_in_peaks"]) == (2, 6, 4)
    none = peaks.overlap_lines(peaks.overlap_table(table.assign(called_bp=0, both_bp=0, elements=0), bootstrap=20))
    assert "no element is called" in none[-1]


def test_choosing_and_rotating_keep_the_number_of_bases():
    random = np.random.default_rng(0)
    allowed = random.random(500) < 0.8
    chosen = (random.random(500) < 0.1) & allowed
    turned = peaks.rotated(chosen, allowed, random)
    best = peaks.best_bases(random.random(500), allowed, int(chosen.sum()))
    assert turned.sum() == chosen.sum() == best.sum()
    assert not (turned & ~allowed).any()
    assert not (best & ~allowed).any()
    assert (turned != chosen).any()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t50000\t50100", "p.bed: no peak lies in the window of any gene, outside its promoter"),
        ("chr1\t21400\t21600", "no peak lies in the window"),  # inside the promoter of GENE03
        ("1\t21400\t21600", r"p.bed shares no chromosome with the FASTA \('1' is 'chr1' there\)"),
        ("chr2\t29000\t31000", "p.bed: a region ends at chr2:31000 but chr2 is 30,000 bp long"),
    ],
)
def test_peaks_elsewhere_are_one_sentence_before_anything_is_computed(tiny, run, tmp_path, capsys, line, message):
    (tmp_path / "p.bed").write_text(line + "\n")
    words = command(tiny, run.request.model, "peaks", tmp_path / "o", "--peaks", str(tmp_path / "p.bed"))
    assert main(words) == 1
    assert re.search(message, capsys.readouterr().err)
    assert genes_done(tmp_path / "o") == 0


def test_blacklisted_peaks_are_one_sentence(run, predictions, tmp_path):
    (tmp_path / "p.bed").write_text("chr1\t9500\t9700\n")
    with pytest.raises(InputError, match="p: every peak in the window of a gene is blacklisted"):
        peaks.overlap_table(
            over_genes(
                run, predictions, peaks.peak_rows(run, predictions, {"p": Regions(tmp_path / "p.bed", "peaks")}, CALLS)
            )
        )


# --------------------------------------------------------------------------------------------------------- comparison


def test_conditions_are_compared_with_the_first():
    random = np.random.default_rng(2)
    observed = random.normal(size=60)
    first, worse = observed + 0.1, observed + random.normal(size=60)
    observed[3] = np.nan
    table = compare_conditions({"a": first, "b": worse}, observed, bootstrap=200).set_index("condition")
    known = np.isfinite(observed)
    assert table.loc["a", ["mean_abs_change", "delta_mse", "delta_mse_low"]].tolist() == [0, 0, 0]
    assert table.loc["b", "mean_abs_change"] == pytest.approx(np.abs(worse - first).mean())
    expected = score(observed[known], worse[known], bootstrap=200)["mse"]
    assert table.loc["b", "mse"] == expected.value
    assert table.loc["b", "delta_mse"] == pytest.approx(expected.value - table.loc["a", "mse"])
    assert 0 < table.loc["b", "delta_mse_low"] < table.loc["b", "delta_mse"] < table.loc["b", "delta_mse_high"]
    unlabelled = compare_conditions({"a": first}, None)
    assert list(unlabelled.columns) == ["condition", "genes", "mean_abs_change", "max_abs_change"]


def test_conditions_that_change_nothing_are_called_the_same():
    first = np.arange(4.0)
    same = condition_lines(compare_conditions({"a": first, "b": first + 9e-4}, None))
    assert same[0] == "4 genes; changes of log10 expression against 'a'"
    assert "no prediction moves by 0.001 under any condition" in same[-1]
    assert "no prediction moves" not in condition_lines(compare_conditions({"a": first, "b": first * 1.001}, None))[-1]


# ----------------------------------------------------------------------------------------------------------- commands


def command(tiny, weights, kind, output, *more):
    few = ["--gene-ids", "GENE02", "GENE03", "GENE05", "--bootstrap", "20"]
    return command_line(tiny, weights, output, *few, *more, command=f"benchmark {kind}")


def test_the_commands(tiny, run, tmp_path, capsys):
    assert main(command(tiny, run.request.model, "distal", tmp_path / "d", "--windows", "1000", "400")) == 0
    said = capsys.readouterr().out
    assert said.startswith("provisional weights")
    assert "window 400 bp" in said
    assert "MSE" in said
    table = pd.read_csv(tmp_path / "d" / "distal.tsv", sep="\t", comment="#")
    assert table["condition"].tolist()[:3] == [distal.FULL, "window 1,000 bp", "window 400 bp"]
    assert len(pd.read_csv(tmp_path / "d" / "distal_genes.tsv", sep="\t", comment="#")) == 3
    words = command(tiny, run.request.model, "peaks", tmp_path / "p", "--peaks", str(tiny.peaks), "--threshold", "0.6")
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "peaks.narrowPeak, 3 genes: of the bases outside promoters it keeps" in said
    assert "times chance" in said
    table = pd.read_csv(tmp_path / "p" / "peaks.tsv", sep="\t", comment="#")
    assert table["condition"].tolist() == list(peaks.CONDITIONS)
    assert len(pd.read_csv(tmp_path / "p" / "peaks_overlap.tsv", sep="\t", comment="#")) == 1
    assert "observed" in pd.read_csv(tmp_path / "p" / "peaks_genes.tsv", sep="\t", comment="#")


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("distal", ["--windows", "401"], "a shorter window must be even"),
        ("peaks", ["--peaks", "absent.bed"], "absent.bed: no such file"),
    ],
)
def test_misuse_is_one_sentence(tiny, run, tmp_path, capsys, kind, more, message):
    assert main(command(tiny, run.request.model, kind, tmp_path / "o", *more)) == 1
    assert message in capsys.readouterr().err


def test_misspelled_options_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "crispri", "p", "-o", "o", "--bootstraps", "3"])
    assert "benchmark crispri does not know --bootstraps (did you mean '--bootstrap'?)" in capsys.readouterr().err


def test_networks_that_cannot_be_compared(tiny, run, predictions):
    model = run.model
    config = dataclasses.replace(model.config, variant=Variant.PEAKS)
    fake = dataclasses.replace(run, model=type("M", (), {"config": config})())
    with pytest.raises(ConfigError, match="read a mask of peaks"):
        distal.distal_rows(fake, predictions, None, CALLS)
