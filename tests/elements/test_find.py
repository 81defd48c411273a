"""Elements of a gene set: evidence, null and perturbation against the network itself, and the files that tell them."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from small_runs import PROMOTER_BP, command_line, genes_done, small_network, small_weights

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.elements.calls import COLUMNS, CallSettings
from kipoi_seq2exp.elements.evidence import interval_means, regulatory_score, split_evidence
from kipoi_seq2exp.elements.fdr import BINS, Null, NullSettings, mask_under, shuffled_masks
from kipoi_seq2exp.elements.find import ElementSettings, find_elements, measure_null, results_here
from kipoi_seq2exp.elements.formats import write_element_files
from kipoi_seq2exp.errors import ConfigError, InputError, ShapeError
from kipoi_seq2exp.prediction.masking import effect_line, masked_out, predict_masked
from kipoi_seq2exp.prediction.run import fill_store, prepare
from kipoi_seq2exp.prediction.store import read_predictions

LOWEST = ElementSettings(CallSettings(threshold=1e-6, min_length_bp=1))
CALLS = CallSettings(threshold=0.6, min_length_bp=20)


def network_output(model, window, **changes):
    arrays = [window.onehot, window.signals, window.features, window.blacklist]
    with torch.inference_mode():
        return model(*(torch.from_numpy(array)[None] for array in arrays), **changes)


# ----------------------------------------------------------------------------------------------------------- evidence


def test_what_the_sources_said_is_what_the_network_computed(run, predictions):
    window = run.dataset[2]
    output = network_output(run.model, window)
    sources = split_evidence(run.model, predictions.concentrations(2), window.signals)
    np.testing.assert_allclose(sources.dna, output.posterior.mean[0], atol=2e-4)
    np.testing.assert_allclose(sources.tracks, output.prior.mean[0], atol=1e-6)
    assert np.ptp(sources.dna) > 1e-3


def test_the_regulatory_score_is_the_benchmarks_formula():
    """Evidence x contact / expression, by hand: the mean over at least +-500 bp, less the window's median."""
    random = np.random.default_rng(1)
    alpha, beta = random.uniform(1, 5, 8_000), random.uniform(1, 5, 8_000)
    intervals = (np.array([900, 100, 3_900]), np.array([2_900, 140, 4_000]))
    found = regulatory_score((alpha, beta), intervals, 4_000, 0.5)
    odds = alpha / beta
    for score, span, distance in zip(
        found, (slice(900, 2_900), slice(0, 620), slice(3_450, 4_450)), (2_100, 3_880, 1_000), strict=True
    ):
        wanted = (odds[span].mean() - np.median(odds)) * (distance / 1_000) ** -0.87 / np.sqrt(10**0.5)
        assert score == pytest.approx(wanted, rel=1e-9)


def test_evidence_of_another_window_is_refused(run, predictions):
    with pytest.raises(ShapeError, match="must have shape"):
        split_evidence(run.model, predictions.concentrations(2), np.zeros((10, 3), np.float32))


def test_interval_means_are_means():
    values = np.random.default_rng(0).random((50, 2))
    means = interval_means(values, (np.array([0, 10, 49]), np.array([10, 11, 50])))
    np.testing.assert_allclose(means, [values[:10].mean(0), values[10], values[49]])


def test_elements_with_their_evidence(run, predictions):
    found = find_elements(predictions, ElementSettings(CALLS), results_here(run))
    elements = found.elements
    assert len(elements) > 5
    assert tuple(elements.columns[: len(COLUMNS)]) == COLUMNS
    for row in elements.itertuples():
        index = predictions.index(row.gene_id)
        inside = slice(row.start - predictions.locus(index).start, row.end - predictions.locus(index).start)
        alpha, beta = (values[inside].mean(dtype=np.float64) for values in predictions.concentrations(index))
        assert row.probability == pytest.approx(alpha / (alpha + beta), rel=1e-5)
        place = (np.array([inside.start]), np.array([inside.stop]))
        locus, betas = predictions.locus(index), predictions.concentrations(index)
        wanted = regulatory_score(betas, place, locus.tss - locus.start, predictions.genes["expression"].iloc[index])
        assert row.regulatory_score == pytest.approx(wanted[0], rel=1e-5)
        assert 0 < row.probability_low < row.probability < row.probability_high < 1
        signals = run.dataset[index].signals[inside]
        dnase = (
            (signals[:, 1] + 1) * 10 / ((signals[:, 1] + 1) * 10 + (0.2 + 1) * 10)
        ).mean()  # by hand, paper's formula
        assert row.dnase == pytest.approx(dnase, rel=1e-5)
        assert predictions.mask(index)[inside][row.peak] == pytest.approx(row.max_mask)
        assert row.name.startswith(row.gene_id)


def test_promoters_are_apart_and_never_called(run, predictions):
    found = find_elements(predictions, LOWEST, results_here(run))
    assert (found.promoters["end"] - found.promoters["start"] == PROMOTER_BP).all()
    assert found.promoters["gene_id"].tolist() == predictions.genes["gene_id"].tolist()
    assert {"probability", "dna", "h3k27ac", "dnase", "hic"} <= set(found.promoters)
    joined = found.elements.merge(found.promoters, on="gene_id", suffixes=("", "_promoter"))
    assert ((joined["end"] <= joined["start_promoter"]) | (joined["start"] >= joined["end_promoter"])).all()


def test_nothing_is_called_beyond_the_chromosome(run, predictions):
    found = find_elements(predictions, LOWEST, results_here(run))
    assert predictions.locus(0).start < 0
    assert (found.elements["start"] >= 0).all()
    last = found.elements[found.elements["chrom"] == "chr2"]["end"].max()
    assert last == 30_000 < predictions.locus(5).end
    assert predictions.mask(0)[: -predictions.locus(0).start].max() == 0
    assert predictions.network_mask(0)[: -predictions.locus(0).start].max() > 0


# --------------------------------------------------------------------------------------------------------------- null


@pytest.mark.parametrize("variant", ["soft", "hard"])
def test_a_shuffled_mask_is_what_the_network_reads_from_shuffled_tracks(tiny, run, variant):
    from kipoi_seq2exp import MaskMode, Variant

    mode = MaskMode.SOFT if variant == "soft" else MaskMode.HARD
    model = small_network(tiny, variant=Variant(variant), mask_mode=mode).eval()
    window = run.dataset[1]
    output = network_output(model, window)
    concentrations = output.z.alpha[0].numpy(), output.z.beta[0].numpy()
    masks = shuffled_masks(model, window, concentrations, NullSettings(shuffles=2, block_bp=300, seed=1))
    again = shuffled_masks(model, window, concentrations, NullSettings(shuffles=2, block_bp=300, seed=1))
    np.testing.assert_array_equal(masks, again)
    assert np.abs(masks[0] - masks[1]).max() > 0.05

    signals = np.roll(window.signals, 700, axis=0)
    changed = type(window)(**{**vars(window), "signals": signals})
    slow = network_output(model, changed).mask[0]
    np.testing.assert_allclose(mask_under(model, window, concentrations, signals), slow, atol=1e-5)


def test_shuffles_move_signal_tracks_by_blocks_and_leave_contacts_and_promoter(tiny, run, monkeypatch):
    model, window, seen = small_network(tiny).eval(), run.dataset[1], []
    monkeypatch.setattr("kipoi_seq2exp.elements.fdr.mask_under", lambda m, w, c, signals: seen.append(signals))
    shuffled_masks(model, window, (None, None), NullSettings(shuffles=3, block_bp=400))
    promoter = model.promoter(4_000)
    distal = np.delete(np.arange(4_000), np.r_[promoter])
    for signals in seen:
        np.testing.assert_array_equal(signals[:, 2], window.signals[:, 2])
        np.testing.assert_array_equal(signals[promoter], window.signals[promoter])
        for column in (0, 1):
            shifts = [
                s
                for s in range(400, 3_600, 400)
                if np.array_equal(signals[distal, column], np.roll(window.signals[distal, column], s))
            ]
            assert len(shifts) >= 1


def test_the_rate_of_a_null_is_counted():
    null = Null()
    null.add(
        np.array([0.1, 0.5, 0.9, 0.9, 1.0]), [np.array([0.1, 0.5, 0.2, 0.2, 0.2]), np.array([0.9, 0.1, 0.1, 0.1, 0.1])]
    )
    rate = null.rate_at(np.array([0.0, 0.5, 0.9, 1.0]))
    np.testing.assert_allclose(rate, [1.0, (0.5 + 0.5) / 4, 0.5 / 3, 0.0])
    assert null.threshold(0.2) == pytest.approx(0.5 + 1 / BINS)
    assert null.threshold(0.1) == pytest.approx(0.9 + 1 / BINS)
    assert Null().threshold(0.5) is None


def test_a_threshold_by_the_null(run, predictions, monkeypatch):
    settings = NullSettings(fdr=0.4, shuffles=3, block_bp=400)
    null = measure_null(predictions, settings, results_here(run))
    found = find_elements(predictions, ElementSettings(CALLS, settings), results_here(run))
    assert found.calls.threshold == null.threshold(0.4)
    assert null.fdr[round(found.calls.threshold * BINS)] <= 0.4
    assert (found.elements["fdr"] == null.rate_at(found.elements["mean_mask"])).all()
    monkeypatch.setattr(Null, "threshold", lambda null, fdr: None)
    none = find_elements(predictions, ElementSettings(CALLS, settings), results_here(run))
    assert len(none.elements) == 0
    assert len(none.promoters) == len(predictions)


def test_settings_of_a_null_are_checked(tiny, run):
    for wrong in ({"fdr": 0.0}, {"shuffles": 0}, {"block_bp": 0}):
        with pytest.raises(ConfigError):
            NullSettings(**wrong)
    with pytest.raises(ConfigError, match="two blocks of 3,000 bp"):
        shuffled_masks(small_network(tiny), run.dataset[0], (None, None), NullSettings(block_bp=3_000))


# ------------------------------------------------------------------------------------------------------- perturbation


def test_the_stored_mask_gives_the_stored_expression(run, predictions):
    again = predict_masked(run.model, run.dataset[1], [predictions.mask(1)])
    assert again[0] == pytest.approx(predictions.genes["expression"][1], abs=1e-6)


def test_perturbation_is_the_network_under_the_mask_without_the_element(run, predictions):
    found = find_elements(predictions, ElementSettings(CALLS, perturb=True), results_here(run))
    row = found.elements[found.elements["gene_id"] == "GENE03"].iloc[0]
    mask = predictions.mask(2).copy()
    start = row["start"] - predictions.locus(2).start
    mask[start : start + row["length_bp"]] = 0
    slow = float(network_output(run.model, run.dataset[2], mask=torch.from_numpy(mask)[None]).expression[0])
    assert row["expression_without"] == pytest.approx(slow, abs=1e-6)
    assert row["delta_expression"] == pytest.approx(slow - predictions.genes["expression"][2], abs=1e-6)
    assert found.elements["delta_expression"].abs().max() > 0


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_changes_no_perturbation(run, predictions, batch_size):
    start, end = np.array([0, 500, 3_000]), np.array([100, 900, 3_100])
    masks = list(masked_out(predictions.mask(3), start, end))
    assert [int((mask == 0).sum()) for mask in masks] == [
        int((predictions.mask(3) == 0).sum() + (predictions.mask(3)[s:e] > 0).sum())
        for s, e in zip(start, end, strict=True)
    ]
    np.testing.assert_array_equal(
        predict_masked(run.model, run.dataset[3], masks, batch_size), predict_masked(run.model, run.dataset[3], masks)
    )


def test_changes_that_are_rounding_are_called_so():
    assert "rounding" not in effect_line(np.array([-2e-3, 1e-7]), "elements")
    assert "the prediction does not depend on them" in effect_line(np.array([-2e-6, 1e-7]), "elements")
    assert effect_line(np.empty(0), "elements") == "elements: none"


# -------------------------------------------------------------------------------------------------------------- files


def test_every_format_tells_the_same_elements(run, predictions, tmp_path):
    found = find_elements(predictions, ElementSettings(CALLS, NullSettings(0.5, 2, 400)), results_here(run))
    write_element_files(found.elements, found.promoters, tmp_path, ["provisional weights: x", "more"], "K562")
    frames = {
        ending: pd.read_csv(tmp_path / f"elements.{ending}", sep="\t", comment="#", header=None, skiprows=skip)
        for ending, skip in (("bed", 0), ("narrowPeak", 0), ("bedpe", 0), ("interact", 2))
    }
    table = pd.read_csv(tmp_path / "elements.tsv", sep="\t", comment="#")
    assert len(table) == len(found.elements)
    for frame in frames.values():
        assert len(frame) == len(table)
    for ending in ("bed", "narrowPeak", "bedpe"):
        for column, name in enumerate(("chrom", "start", "end")):
            assert frames[ending][column].tolist() == table[name].tolist()
    peaks, pairs, arcs = frames["narrowPeak"], frames["bedpe"], frames["interact"]
    assert peaks.shape[1] == 10
    assert ((peaks[9] >= 0) & (peaks[9] < peaks[2] - peaks[1])).all()
    np.testing.assert_allclose(peaks[8], -np.log10(np.maximum(table["fdr"], 1e-6)), atol=1e-4)
    assert (pairs[4] == table["tss"]).all()
    assert (pairs[5] == table["tss"] + 1).all()
    assert arcs.shape[1] == 18
    assert (arcs[1] == np.minimum(table["start"], table["tss"])).all()
    assert (arcs[2] == np.maximum(table["end"], table["tss"] + 1)).all()
    for ending in ("tsv", "bed", "narrowPeak", "bedpe", "interact"):
        assert (tmp_path / f"elements.{ending}").read_text().startswith("# provisional weights")


INTERACT = (  # UCSC's fields: https://genome.ucsc.edu/goldenPath/help/interact.html
    "#chrom chromStart chromEnd name score value exp color sourceChrom sourceStart sourceEnd sourceName sourceStrand "
    "targetChrom targetStart targetEnd targetName targetStrand"
)


def test_other_programs_read_every_format(run, predictions, tmp_path):
    found = find_elements(predictions, ElementSettings(CALLS, NullSettings(0.5, 2, 400)), results_here(run)).elements
    write_element_files(found, found, tmp_path, ["a comment"], "K562")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bioframe and what it imports
        bioframe = pytest.importorskip("bioframe")
        tables = {
            ending: bioframe.read_table(tmp_path / f"elements.{ending}", schema=schema, comment="#")
            for ending, schema in (("bed", "bed6"), ("narrowPeak", "narrowPeak"), ("bedpe", "bedpe"))
        }
        assert bioframe.is_bedframe(tables["bed"])
        assert bioframe.is_bedframe(tables["narrowPeak"])
        near = bioframe.closest(tables["bed"], tables["narrowPeak"])
    assert (near["distance"] == 0).all()
    for ending in ("bed", "narrowPeak"):
        assert tables[ending]["score"].between(0, 1_000).all()
        assert (tables[ending]["strand"] == ".").all()
    peaks, pairs = tables["narrowPeak"], tables["bedpe"]
    assert peaks["relSummit"].between(0, peaks["end"] - peaks["start"] - 1).all()
    assert (peaks["-log10p"] == -1).all()
    assert (pairs["chrom1"] == pairs["chrom2"]).all()
    assert (pairs["end2"] - pairs["start2"] == 1).all()
    assert set(pairs["strand2"]) <= {"+", "-"}
    lines = (tmp_path / "elements.interact").read_text().splitlines()
    assert lines[1].startswith("track type=interact ")
    assert lines[2].replace("\t", " ") == INTERACT
    arcs = pd.DataFrame([line.split("\t") for line in lines[3:]], columns=lines[2].split("\t"))
    ends = ["chromStart", "chromEnd", "sourceStart", "sourceEnd", "targetStart", "targetEnd", "score"]
    arcs[ends] = arcs[ends].astype(int)
    assert (arcs["chromStart"] == arcs[["sourceStart", "targetStart"]].min(axis=1)).all()
    assert (arcs["chromEnd"] == arcs[["sourceEnd", "targetEnd"]].max(axis=1)).all()
    assert (arcs["targetName"] == found["gene_id"]).all()
    assert arcs["score"].between(0, 1_000).all()
    assert arcs["color"].str.fullmatch(r"\d+,\d+,\d+").all()


# ------------------------------------------------------------------------------------------------------------ command


def test_the_command_runs_the_model_and_reads_results(tiny, tmp_path, capsys):
    weights = small_weights(tiny, tmp_path)
    words = command_line(
        tiny,
        weights,
        tmp_path / "out",
        *["--threshold", "0.6", "--perturb", "--gene-ids", "GENE02", "GENE03"],
        command="elements",
    )
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("provisional weights")
    assert "elements masked out one by one change log10 expression by" in said
    assert "2 promoters listed separately" in said
    table = pd.read_csv(tmp_path / "out" / "elements.tsv", sep="\t", comment="#")
    assert {"dna", "hic", "probability_low", "delta_expression"} <= set(table)
    with pyBigWig.open(str(tmp_path / "out" / "element_mask.bw")) as track:
        assert track.stats("chr1", 9_000, 9_100)[0] == pytest.approx(1.0)
    assert main(["elements", "--from", str(tmp_path / "out"), "-o", str(tmp_path / "again"), "--threshold", "0.6"]) == 0
    again = pd.read_csv(tmp_path / "again" / "elements.tsv", sep="\t", comment="#")
    pd.testing.assert_frame_equal(again, table.drop(columns=["expression_without", "delta_expression"]))
    capsys.readouterr()
    words = [
        "elements",
        "--from",
        str(tmp_path / "out"),
        "-o",
        str(tmp_path / "more"),
        "--threshold",
        "0.6",
        "--perturb",
    ]
    assert main(words) == 0
    more = pd.read_csv(tmp_path / "more" / "elements.tsv", sep="\t", comment="#")
    pd.testing.assert_frame_equal(more, table)
    weights.rename(tmp_path / "moved.safetensors")
    assert main(words[:-1]) == 0
    assert "no columns of the DNA and the tracks: " in capsys.readouterr().out
    less = pd.read_csv(tmp_path / "more" / "elements.tsv", sep="\t", comment="#")
    pd.testing.assert_frame_equal(less, table[list(less)])
    assert "probability_low" in less
    assert "dna" not in less
    assert main(words) == 1
    assert "--perturb and --fdr run the network again: " in capsys.readouterr().err
    assert json.loads((tmp_path / "again" / "elements.json").read_text())["n_elements"] == len(table)


def test_the_command_reads_a_kipoi_output(tiny, run, predictions, tmp_path, capsys):
    import h5py

    with h5py.File(tmp_path / "out.h5", "w") as out:
        out["preds/expression"] = predictions.genes["expression"].to_numpy()[:, None]
        out["preds/element_mask"] = np.stack([predictions.mask(index) for index in range(len(predictions))])
        for name, column in {"gene_id": "gene_id", "ranges/chr": "chrom", "ranges/strand": "strand"}.items():
            values = predictions.genes[column].to_numpy(object)
            out.create_dataset(f"metadata/{name}", data=values, dtype=h5py.string_dtype())
        out["metadata/ranges/start"], out["metadata/ranges/end"] = predictions.genes["start"], predictions.genes["end"]
    assert (
        main(["elements", "--from", str(tmp_path / "out.h5"), "-o", str(tmp_path / "o"), "--top-fraction", "0.05"]) == 0
    )
    said = capsys.readouterr().out
    assert "does not say how long the chromosomes are" in said
    assert "no regulatory_score, no credible intervals and no columns of the DNA and the tracks" in said
    table = pd.read_csv(tmp_path / "o" / "elements.tsv", sep="\t", comment="#")
    assert len(table) > 3
    assert "probability" not in table
    (tmp_path / "out.h5").rename(tmp_path / "other.h5")
    for other in (tmp_path / "other.h5", run.store.path):
        assert main(["elements", "--from", str(other), "-o", str(tmp_path / "o")]) == 1
        assert "o: holds elements of other predictions; give --overwrite to replace them" in capsys.readouterr().err
    assert main(["elements", "--from", str(run.store.path), "-o", str(tmp_path / "o"), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["elements", "-o", "o"], "give a model with its inputs, or predictions"),
        (["elements", "K562", "-o", "o"], "--fasta is needed to run the model K562"),
        (["elements", "K562", "--from", "r", "-o", "o"], "not both"),
        (["elements", "--from", "absent", "-o", "o"], "absent: no such file or folder"),
        (["elements", "--from", "r", "-o", "o", "--fdr", "0.1", "--threshold", "0.3"], "--fdr chooses the threshold"),
        (["elements", "--from", "r", "-o", "o", "--fdr", "1"], "must lie between 0 and 1"),
    ],
)
def test_misuse_is_one_sentence(words, message, capsys):
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_some_genes_of_a_result(run, tmp_path, capsys):
    words = ["elements", "--from", str(run.store.path), "--threshold", "0.6", "-o", str(tmp_path / "o")]
    assert main([*words, "--gene-ids", "GENE03"]) == 0
    table = pd.read_csv(tmp_path / "o" / "elements.tsv", sep="\t", comment="#")
    assert set(table["gene_id"]) == {"GENE03"}
    assert main([*words, "--gene-ids", "gene02"]) == 0  # its symbol
    assert set(pd.read_csv(tmp_path / "o" / "elements.tsv", sep="\t", comment="#")["gene_id"]) == {"GENE02"}
    assert main([*words, "--gene-ids", "GENE33"]) == 1
    assert "has no gene 'GENE33' (did you mean 'GENE03'" in capsys.readouterr().err


def test_options_of_a_run_are_refused_beside_a_result(run, tiny, tmp_path, capsys):
    words = ["elements", "--from", str(run.store.path), "-o", str(tmp_path / "o")]
    assert main([*words, "--fasta", str(tiny.fasta), "--mask-mode", "hard"]) == 1
    assert (
        "--fasta, --mask-mode: the model is not run with --from, so that they have no effect" in capsys.readouterr().err
    )


def test_a_result_of_other_genes_than_the_table_is_one_sentence(run, tmp_path, capsys):
    (tmp_path / "other.tsv").write_text("gene_id\tchrom\ttss\tstrand\nOTHER\tchr1\t900\t+\n")
    words = ["elements", "--from", str(run.store.path), "--genes", str(tmp_path / "other.tsv"), "-o", str(tmp_path)]
    assert main(words) == 1
    assert "the gene table: none of its 1 gene (OTHER) is among the 7 of" in capsys.readouterr().err


def test_what_needs_the_network_says_so(run, predictions, tmp_path):
    with pytest.raises(ConfigError, match="give the model and its inputs"):
        find_elements(predictions, ElementSettings(CALLS, perturb=True))
    predictions_without = prepare(small_request_without_mask(run.request, tmp_path), tmp_path / "plain")
    fill_store(predictions_without)
    with read_predictions(predictions_without.store.path) as plain, pytest.raises(InputError, match="expression alone"):
        find_elements(plain, ElementSettings(CALLS))


def test_a_network_without_a_mask_is_refused_before_it_runs(tiny, run, tmp_path, capsys):
    request = small_request_without_mask(run.request, tmp_path)
    assert main(command_line(tiny, request.model, tmp_path / "o", command="elements")) == 1
    assert "plain.safetensors makes no element mask (variant 'plain')" in capsys.readouterr().err
    assert genes_done(tmp_path / "o") == 0


def small_request_without_mask(request, folder):
    import dataclasses

    from kipoi_seq2exp import Seq2Exp, Variant, load_model, save_model

    model = load_model(request.model, "cpu")
    plain = Seq2Exp(dataclasses.replace(model.config, variant=Variant.PLAIN), model.inputs, model.provenance)
    save_model(plain, folder / "plain.safetensors")
    return dataclasses.replace(request, model=str(folder / "plain.safetensors"), save_beta=False)
