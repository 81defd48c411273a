"""Comparison of models with many outputs, and of methods in several cell types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from compared_models import enformer_score, make_deepsea, make_enformer
from kipoi_door import environment, make_home, use_warm_kipoi

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.judge.compare import ACROSS_CELLS, Label, cell_lines, compare_cells, compare_models, score_lines
from kipoi_seq2exp.judge.compare_files import ModelPredictions, read_model_predictions
from kipoi_seq2exp.judge.many_outputs import BinRule, read_labels
from kipoi_seq2exp.metrics import paired_differences, score
from kipoi_seq2exp.zoo.other_models import described_labels


@pytest.fixture(scope="module")
def genes(tiny):
    return read_genes(tiny.genes)


def write_table(path, text):
    path.write_text(text.replace(" ", "\t"))
    return str(path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name, value in environment(make_home(tmp_path / "home")).items():
        monkeypatch.setenv(name, value)
    use_warm_kipoi(monkeypatch)


# -------------------------------------------------------------------------------------------------------- many outputs


def many_outputs(path, values, **more):
    """Write an .h5 of `kipoi predict` with two windows of 1,000 bases, round GENE02 and GENE05."""
    import h5py

    with h5py.File(path, "w") as root:
        for name, array in ({"preds": values} | more).items():
            root[name] = array
        for name, texts in {"chr": [b"chr1", b"chr2"], "strand": [b"*", b"*"], "id": [b"0", b"1"]}.items():
            root[f"metadata/ranges/{name}"] = np.array(texts)
        root["metadata/ranges/start"], root["metadata/ranges/end"] = np.array([8_500, 7_500]), np.array([9_500, 8_500])
    return str(path)


def predicted(model, genes):
    """Return the predictions of GENE02 and GENE05."""
    found = compare_models([model], genes, genes["label"].to_numpy(float), bootstrap=0)
    return found.genes.set_index("gene_id")[model.name].to_dict(), found.notes[0]


def test_one_of_many_outputs_is_named_by_number_or_label(genes, tmp_path):
    path = many_outputs(tmp_path / "deepsea.h5", np.arange(2 * 919.0).reshape(2, 919))
    wanted = {"GENE02": 917.0, "GENE05": 919 + 917.0}
    values, note = predicted(read_model_predictions("m", f"{path}::917"), genes)
    assert (values, note) == (wanted, "m: 2 of 7 genes by range; column 917 of 919")
    labels = [(f"cell{i}", f"ID{i}") for i in range(919)]
    for name in ("cell917", "ID917"):
        assert predicted(read_model_predictions("m", f"{path}::{name}", columns=labels), genes)[0] == wanted
    header = " ".join(["gene_id", *(f"preds/{i}" for i in range(3))])
    table = write_table(tmp_path / "k.tsv", f"{header}\nGENE02 1 2 3\nGENE05 4 5 6\n")
    for column, columns in (("2", None), ("c", [("a",), ("b",), ("c",)]), ("preds/2", None)):
        assert read_model_predictions("m", f"{table}::{column}", columns=columns).table["predicted"].tolist() == [3, 6]


def test_bins_are_summed_round_the_tss(genes, tmp_path):
    bins = np.random.default_rng(0).random((2, 6, 3)).astype(np.float32)
    path = many_outputs(tmp_path / "b.h5", bins)
    place = 3  # six bins of 128 bp round the middle, where the TSS is: it is the first base of the fourth
    sums = bins[:, place - 1 : place + 2, 1].sum(axis=1)
    values, note = predicted(read_model_predictions("m", f"{path}::1"), genes)
    np.testing.assert_allclose(list(values.values()), np.log10(sums + 1), rtol=1e-6)
    assert note.endswith("column 1 of 3; log10(x + 1) of the sum of 3 of 6 bins of 128 bp round the TSS")
    plain = read_model_predictions("m", f"{path}::1", rule=BinRule(100, 1, log=False))
    np.testing.assert_allclose(list(predicted(plain, genes)[0].values()), bins[:, 3, 1], rtol=1e-6)
    moved = genes.assign(tss=genes["tss"] - 130)  # nearer to the start of each window: a bin earlier and a bit more
    values, _ = predicted(read_model_predictions("m", f"{path}::1", rule=BinRule(log=False)), moved)
    np.testing.assert_allclose(list(values.values()), bins[:, 0:3, 1].sum(axis=1), rtol=1e-6)
    with pytest.raises(InputError, match="at least two genes"):  # beyond the bins, though within the window
        predicted(read_model_predictions("m", f"{path}::1"), genes.assign(tss=genes["tss"] - 300))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("", r"holds many predictions a row \(preds \(2, 6, 3\)\): name one by its number as .*b\.h5::NUMBER"),
        ("3", "has 3 columns, from 0 to 2: there is no column 3"),
        ("CAGE", r"does not name its 3 columns: give a number from 0 to 2 in place of 'CAGE', or their labels"),
    ],
)
def test_a_column_that_is_not_there_is_one_sentence(tmp_path, column, message):
    path = many_outputs(tmp_path / "b.h5", np.ones((2, 6, 3)))
    with pytest.raises(InputError, match=message) as error:
        read_model_predictions("m", f"{path}::{column}" if column else path)
    assert "\n" not in str(error.value)


def test_labels_and_bins_that_do_not_fit(genes, tmp_path):
    path = many_outputs(tmp_path / "b.h5", -np.ones((2, 6, 3)))
    for labels, message in (
        ([("a",)], "has 3 columns, the labels name 1"),
        ([("a",), ("a",), ("b",)], "'a' is the label of several columns, 0, 1: give a number"),
        ([("ab",), ("cd",), ("ef",)], r"has no column 'a' \(did you mean 'ab'"),
    ):
        with pytest.raises(InputError, match=message):
            read_model_predictions("m", f"{path}::a", columns=labels)
    with pytest.raises(InputError, match=r"a sum of bins is -3, which has no log10\(x \+ 1\)"):
        predicted(read_model_predictions("m", f"{path}::1"), genes)
    with pytest.raises(InputError, match="6 bins of 256 bp are longer than a window of 1,000 bases"):
        predicted(read_model_predictions("m", f"{path}::1", rule=BinRule(256)), genes)
    with pytest.raises(ConfigError, match="the length must be above 0 and the count odd"):
        BinRule(128, 2)
    two = many_outputs(tmp_path / "two.h5", np.ones((2, 1)), **{"other/x": np.ones(2)})
    assert read_model_predictions("m", two).table["predicted"].tolist() == [1, 1]


def test_labels_are_lines_or_basenjis_table(tmp_path):
    (tmp_path / "lines").write_text("a b\n\nc\n")
    assert read_labels(tmp_path / "lines") == [("a b",), ("c",)]
    (tmp_path / "targets").write_text("\tidentifier\tfile\tdescription\n0\tI0\tx\tCAGE:a\n1\tI1\ty\tCAGE:b\n")
    assert read_labels(tmp_path / "targets") == [("I0", "CAGE:a"), ("I1", "CAGE:b")]


# ---------------------------------------------------------------------------------------------------------- cell types


@pytest.fixture(scope="module")
def cells():
    """Forty genes in three cell types: method `good` knows the genes and the cells, `flat` the genes alone."""
    random = np.random.default_rng(1)
    genes = pd.DataFrame({"gene_id": [f"G{i}" for i in range(40)], "chrom": "1", "tss": np.arange(40), "strand": "+"})
    base, truth = 3 * random.normal(size=40), {}
    models, labels = [], {}
    for cell in "ABC":
        truth[cell] = base + random.normal(size=40)
        for method, values in (("good", truth[cell] + 0.3 * random.normal(size=40)), ("flat", base + 0)):
            table = genes[["gene_id"]].assign(predicted=values)
            models.append(ModelPredictions(f"{method}{cell}", Path(method), table))
            labels[f"{method}{cell}"] = Label(cell, truth[cell])
    return models, genes, labels, truth


METHODS = {"good": ["goodA", "goodB", "goodC"], "flat": ["flatA", "flatB", "flatC"]}


def test_genes_differences_and_cells_are_told_apart(cells):
    models, genes, labels, truth = cells
    found = compare_models(models, genes, labels, bootstrap=100)
    across = found.scores.set_index("model")
    assert across.loc["flatA", "pearson"] > 0.9  # knows the genes,
    assert across["label"].tolist() == list("AABBCC")
    by_method = {
        method: rows.set_index("between") for method, rows in compare_cells(found, METHODS, 100)[0].groupby("method")
    }
    good, flat = by_method["good"], by_method["flat"]
    assert good.index.tolist() == ["A - B", "A - C", "B - C", ACROSS_CELLS]
    goods = {name: found.genes[name].to_numpy() for name in METHODS["good"]}
    change = score(truth["A"] - truth["C"], goods["goodA"] - goods["goodC"], bootstrap=100)["pearson"]
    assert tuple(good.loc["A - C", ["pearson", "pearson_low", "pearson_high"]]) == (
        change.value,
        change.low,
        change.high,
    )
    each = [np.corrcoef([truth[c][g] for c in "ABC"], [goods[f"good{c}"][g] for c in "ABC"])[0, 1] for g in range(40)]
    assert good.loc[ACROSS_CELLS, "pearson"] == pytest.approx(np.mean(each))
    assert good.loc[ACROSS_CELLS, "pearson_low"] < np.mean(each) < good.loc[ACROSS_CELLS, "pearson_high"]
    assert flat["pearson"].isna().all()  # but nothing of the cells
    assert flat.loc[ACROSS_CELLS, "genes"] == 0
    assert cell_lines(flat.reset_index())[0] == "flat, A - B, 40 genes:  pearson undefined  spearman undefined"


def test_models_of_two_cell_types_are_judged_on_their_own_labels(cells):
    models, genes, labels, truth = cells
    scores = compare_models(models[:3], genes, labels, bootstrap=50).scores.set_index("model")
    first, third = (model.table["predicted"].to_numpy() for model in (models[0], models[2]))
    assert scores.loc["goodB", "mse"] == pytest.approx(np.mean((third - truth["B"]) ** 2))
    change = paired_differences([truth["A"], truth["B"]], first, third, bootstrap=50)["mse"]
    assert scores.loc["goodB", "delta_mse"] == pytest.approx(change.value)
    assert scores.loc["goodB", "delta_mse_high"] == pytest.approx(change.high)
    assert change.value == pytest.approx(np.mean((third - truth["B"]) ** 2) - np.mean((first - truth["A"]) ** 2))


def test_too_few_genes_give_no_interval(cells):
    models, genes, labels, _ = cells
    few = {name: Label(label.name, np.where(np.arange(40) < 9, label.values, np.nan)) for name, label in labels.items()}
    found = compare_models(models, genes, few, bootstrap=100)
    assert found.notes[-1] == "9 genes are too few for an interval (at least 10 are needed)"
    assert found.scores.filter(like="_low").isna().all(axis=None)
    assert "[" not in "".join(score_lines(found.scores))
    assert compare_cells(found, METHODS, 100)[0].filter(like="_low").isna().all(axis=None)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["goodA"], r"needs two models or more, each with the label of its own cell type; it has goodA \(A\)"),
        (["goodA", "flatA"], r"it has goodA \(A\), flatA \(A\)"),
        (["goodA", "best"], "names the model 'best', which is not compared"),
    ],
)
def test_a_method_of_one_cell_type_is_one_sentence(cells, models, message):
    found = compare_models(cells[0], cells[1], cells[2], bootstrap=0)
    with pytest.raises(ConfigError, match=message):
        compare_cells(found, {"m": models})


# -------------------------------------------------------------------------------------------------------------- peers


def test_a_model_of_5313_outputs_in_bins_beside_saved_ones(tiny, home, results, genes, tmp_path, capsys):
    enformer, chosen = make_enformer(tmp_path), genes.iloc[[5, 0, 3]]
    (tmp_path / "i.bed").write_text("".join(f"{g.chrom}\t{g.tss - 50}\t{g.tss + 50}\n" for g in chosen.itertuples()))
    lines = ["index\tidentifier\tdescription", *(f"{i}\tID{i}\tCAGE:cell {i}" for i in range(5_313))]
    (tmp_path / "targets.txt").write_text("\n".join(lines) + "\n")
    arguments = json.dumps({"intervals_file": str(tmp_path / "i.bed"), "fasta_file": str(tiny.fasta)})
    table = genes.assign(other=genes["label"] + np.arange(7.0))
    table.to_csv(tmp_path / "genes.tsv", sep="\t", index=False)
    words = ["compare", f"ours={results}", f"A={enformer}::4829", f"B={enformer}::CAGE:cell 5312"]
    words += ["--args", f"{enformer}={arguments}", "--columns", f"B={tmp_path / 'targets.txt'}", "--method", "E=A,B"]
    words += ["--genes", str(tmp_path / "genes.tsv"), "--label", "label", "--label", "B=other"]
    assert main([*words, "-o", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    rule = "log10(x + 1) of the sum of 3 of 896 bins of 128 bp round the TSS"
    assert f"A: 3 of 7 genes by range; column 4,829 of 5,313; {rule}" in said
    assert f"B: 3 of 7 genes by range; column 5,312 of 5,313 (CAGE:cell 5312); {rule}" in said
    assert "3 genes are too few for an interval (at least 10 are needed)" in said
    assert "E, label - other, 3 genes:  pearson" in said
    assert "E: a correlation across cell types needs at least 3 of them" in said
    assert len(list((tmp_path / "o").glob("*.h5"))) == 1  # one run serves both columns
    found = pd.read_csv(tmp_path / "o" / "comparison_genes.tsv", sep="\t", comment="#").set_index("gene_id")
    assert found.columns.tolist() == ["observed_label", "observed_other", "ours", "A", "B"]
    for gene in chosen.itertuples():
        assert found.loc[gene.gene_id, "A"] == pytest.approx(enformer_score(tiny, gene, 4829), abs=1e-5)
        assert found.loc[gene.gene_id, "B"] == pytest.approx(enformer_score(tiny, gene, 5312), abs=1e-5)
    cells = pd.read_csv(tmp_path / "o" / "comparison_cells.tsv", sep="\t", comment="#").iloc[0]
    change = np.corrcoef(found["observed_label"] - found["observed_other"], found["A"] - found["B"])[0, 1]
    assert cells["pearson"] == pytest.approx(change, abs=2e-3)  # the table is rounded
    assert (tmp_path / "o" / "comparison_cells.png").read_bytes()[:4] == b"\x89PNG"


def test_labels_of_outputs_come_from_the_models_description(home, tmp_path):
    labels = described_labels(str(make_deepsea(tmp_path)))
    assert labels == [("K562_DNase_None",), ("K562_CTCF_None",), ("GM12878_DNase_None",)]
