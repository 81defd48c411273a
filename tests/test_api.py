"""The functions of the package: the numbers of the commands, from Python."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_runs import PROMOTER_BP, command_line

import kipoi_seq2exp
from kipoi_seq2exp import CallSettings, NullSettings
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.variants import Variant
from kipoi_seq2exp.elements.find import ElementSettings, find_elements, results_here
from kipoi_seq2exp.errors import ConfigError, InputError, ShapeError

CALLS = CallSettings(threshold=0.5, min_length_bp=1)


@pytest.fixture(scope="module")
def model(weights):
    return kipoi_seq2exp.load_model(weights, "cpu")


@pytest.fixture(scope="module")
def windows(tiny, model):
    with tiny.dataset(inputs=model.inputs) as found:
        yield found


@pytest.fixture(scope="module")
def predicted(model, windows):
    return kipoi_seq2exp.predict(model, windows, batch_size=3, save_beta=True)


def test_predictions_are_those_of_the_command(predicted, predictions, results):
    shared = [name for name in predictions.genes if name != "observed"]
    pd.testing.assert_frame_equal(predicted.genes[shared], predictions.genes[shared], rtol=0, atol=1e-6)
    for index in range(len(predictions)):
        np.testing.assert_allclose(predicted.mask(index), predictions.mask(index), rtol=0, atol=1e-6)
        np.testing.assert_allclose(predicted.concentrations(index), predictions.concentrations(index), rtol=1e-5)
    with kipoi_seq2exp.read_results(results) as again:
        pd.testing.assert_frame_equal(again.genes, predictions.genes)


def test_masks_from_outside(model, windows, tiny, predictions):
    masks = np.stack([predictions.network_mask(index) for index in range(len(windows))])
    same = kipoi_seq2exp.predict(model, windows, mask=masks)
    np.testing.assert_allclose(same.genes["expression"], predictions.genes["expression"], rtol=0, atol=1e-6)
    peaks = kipoi_seq2exp.predict(model, windows, mask=tiny.peaks)
    assert set(np.unique(peaks.mask(2))) == {0, 1}
    ones = kipoi_seq2exp.predict(model, windows, mask=np.ones(windows.inputs.window_bp))
    assert ones.mask(2).all()
    with pytest.raises(ShapeError, match=r"the mask must have the shape \(4000,\) or \(7, 4000\), found \(3,\)"):
        kipoi_seq2exp.predict(model, windows, mask=np.ones(3))


def test_elements_are_those_of_a_run(predicted, predictions, run, model, windows):
    null = NullSettings(fdr=0.5, shuffles=1, block_bp=500)
    for settings in (ElementSettings(CALLS, None, perturb=True), ElementSettings(CALLS, null)):
        ours = kipoi_seq2exp.call_elements(
            predicted, CALLS, model=model, windows=windows, null=settings.null, perturb=settings.perturb
        )
        theirs = find_elements(predictions, settings, results_here(run))
        pd.testing.assert_frame_equal(ours.elements, theirs.elements, rtol=1e-4, atol=1e-5)
        pd.testing.assert_frame_equal(ours.promoters, theirs.promoters, rtol=1e-4, atol=1e-5)
    assert len(ours.elements)
    assert "dna" not in kipoi_seq2exp.call_elements(predicted, CALLS).elements
    with pytest.raises(ConfigError, match="give the model and its windows together"):
        kipoi_seq2exp.call_elements(predicted, model=model)


def test_variants_of_a_file_and_of_a_list(model, windows, tiny, weights, tmp_path):
    base = chr(tiny.bases["chr1"][9_100]).upper()
    other = "A" if base != "A" else "C"
    vcf = tmp_path / "x.vcf"
    vcf.write_text(f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\nchr1\t9101\tv\t{base}\t{other}\n")
    found = kipoi_seq2exp.variant_effects(model, windows, vcf)
    assert found["gene_id"].tolist() == ["GENE02"]
    words = command_line(tiny, weights, tmp_path / "o", command="variants")
    words.insert(1, str(vcf))
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "o" / "variants.tsv", sep="\t")
    assert table["expression_alt"].to_numpy() == pytest.approx(found["expression_alt"].to_numpy(), rel=1e-4)
    far = Variant("chr1", 50_000, "far", chr(tiny.bases["chr1"][50_000]).upper(), "N", 1)
    with pytest.raises(InputError, match=r"no variant lies in the window of a gene \(1 variant"):
        kipoi_seq2exp.variant_effects(model, windows, [far])


def test_contributions_add_up(model, tiny):
    with tiny.dataset(inputs=model.inputs, gene_ids=["GENE03"]) as one:
        steps = []
        found = kipoi_seq2exp.contributions(model, one, steps=4, on_step=lambda: steps.append(1))
    row = found.table.iloc[0]
    assert len(steps) == 4
    whole = found.genes["GENE03"].sum + row["not_explained"]
    assert row["expression"] - row["baseline"] == pytest.approx(whole, abs=1e-5)
    assert row["dna"] == pytest.approx(found.genes["GENE03"].dna.sum())
    with pytest.raises(ConfigError, match=r"unknown method 'integratd' \(did you mean 'integrated'"):
        kipoi_seq2exp.contributions(model, tiny.dataset(inputs=model.inputs), method="integratd")


def test_a_comparison_of_files(results, tiny):
    found = kipoi_seq2exp.compare({"one": results, "two": results}, tiny.genes, "label", bootstrap=0)
    assert found.scores["delta_mse"].tolist()[1] == 0
    assert len(found.genes) == 7
    with pytest.raises(ConfigError, match="at least two models, found 1"):
        kipoi_seq2exp.compare({"one": results}, tiny.genes)


def test_training_says_what_is_wrong_with_its_settings(tmp_path):
    pytest.importorskip("lightning")
    with pytest.raises(InputError, match=r"absent\.yaml"):
        kipoi_seq2exp.train(tmp_path / "absent.yaml", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_promoter_is_that_of_the_model(predicted):
    assert predicted.promoter.stop - predicted.promoter.start == PROMOTER_BP
