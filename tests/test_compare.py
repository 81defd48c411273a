"""Comparison of models: what files are read, how rows are matched, paired differences, a Kipoi model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from kipoi_door import environment, make_home
from small_runs import small_request, small_weights

from kipoi_seq2exp.analysis.compare import compare_models, read_model_predictions
from kipoi_seq2exp.analysis.predict import fill_store, prepare
from kipoi_seq2exp.analysis.store import read_predictions
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.metrics import METRICS, paired_differences, score


@pytest.fixture(scope="module")
def results(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "results"
    fill_store(prepare(small_request(tiny, small_weights(tiny, folder.parent)), folder))
    return folder


@pytest.fixture(scope="module")
def genes(tiny):
    return read_genes(tiny.genes)


def write_table(path, text):
    path.write_text(text.replace(" ", "\t"))
    return str(path)


# ------------------------------------------------------------------------------------------------------------ reading


def test_our_results_and_xpresso_style_tables_are_matched_by_id(results, genes, tmp_path):
    ours = read_model_predictions("ours", str(results))
    table = "Gene SCORE other\nGENE03.7 1.5 9\nGENE01 0.5 9\nELSE 3 9\nGENE07 2.5 9\n"
    theirs = read_model_predictions("xpresso", write_table(tmp_path / "x.tsv", table))
    observed = genes["label"].to_numpy(float)
    found = compare_models([ours, theirs], genes, observed, bootstrap=0)
    assert found.genes["gene_id"].tolist() == ["GENE01", "GENE03", "GENE07"]
    assert found.genes["xpresso"].tolist() == [0.5, 1.5, 2.5]
    with read_predictions(results) as predictions:
        np.testing.assert_allclose(found.genes["ours"], predictions.genes["expression"].iloc[[0, 2, 6]])
    assert "xpresso: 3 of 7 genes by gene id" in found.notes
    assert found.scores["genes"].tolist() == [3, 3]


def test_other_ids_are_matched_by_the_nearest_range(genes, tmp_path):
    table = "metadata/ranges/chr metadata/ranges/start metadata/ranges/end metadata/ranges/id preds/0\n"
    table += "chr1 8000 10000 x1 1.0\nchr1 8900 9900 x2 9.0\nchr1 21000 22000 x3 2.0\nchr2 7900 8100 x4 3.0\n"
    model = read_model_predictions("m", write_table(tmp_path / "k.tsv", table))
    found = compare_models([model], genes, genes["label"].to_numpy(float), bootstrap=0)
    assert found.genes["gene_id"].tolist() == ["GENE02", "GENE03", "GENE05"]
    assert found.genes["m"].tolist() == [1.0, 2.0, 3.0]
    assert "by range" in found.notes[0]


def test_the_column_may_be_named(tmp_path):
    path = write_table(tmp_path / "x.csv", "gene_id,a,b\nG1,1,2\nG2,3,4\n")
    assert read_model_predictions("m", f"{path}::b").table["predicted"].tolist() == [2, 4]
    with pytest.raises(InputError, match=r"has no column 'bb' \(did you mean 'b'"):
        read_model_predictions("m", f"{path}::bb")
    with pytest.raises(InputError, match=r"has no column 'expression' \(it has gene_id, a, b\): name it as"):
        read_model_predictions("m", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gene_id expression\n", "holds no predictions"),
        ("gene_id expression\nG1 x\n", "expression is 'x' in row 1, not a number"),
        ("gene_id expression\nG1 1 2\n", "line 2: found 3 columns where the header has 2"),
        ("a expression\nG1 1\n", "names no genes"),
    ],
)
def test_bad_tables_are_one_sentence(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_model_predictions("m", write_table(tmp_path / "x.tsv", text))
    assert "\n" not in str(error.value)


def test_what_cannot_be_compared_is_one_sentence(genes, tmp_path):
    observed = genes["label"].to_numpy(float)
    other = read_model_predictions("m", write_table(tmp_path / "a.tsv", "gene_id expression\nG1 1\n"))
    with pytest.raises(InputError, match=r"\(m\) has none of the 7 genes"):
        compare_models([other], genes, observed)
    one = read_model_predictions("one", write_table(tmp_path / "b.tsv", "gene_id expression\nGENE01 1\n"))
    with pytest.raises(InputError, match="at least two genes must be in every file and have a label, found 1"):
        compare_models([one], genes, observed)
    with pytest.raises(ConfigError, match="two models are called 'one'"):
        compare_models([one, one], genes, observed)
    twice = read_model_predictions("t", write_table(tmp_path / "c.tsv", "gene_id expression\nGENE01 1\nGENE01.2 2\n"))
    with pytest.raises(InputError, match="two predictions of the gene 'GENE01'"):
        compare_models([twice], genes, observed)


# ------------------------------------------------------------------------------------------------------------- scores


def test_differences_are_paired():
    random = np.random.default_rng(0)
    truth = random.normal(size=80)
    first = truth + random.normal(size=80)
    second = first + 0.1 * (truth - first)  # a little better for every gene: paired, that is certain
    change = paired_differences(truth, first, second, bootstrap=300)
    alone = score(truth, second, bootstrap=300)
    for metric in METRICS:
        assert change[metric].value == pytest.approx(
            alone[metric].value - score(truth, first, bootstrap=0)[metric].value
        )
    assert change["mse"].high < 0 < change["pearson"].low
    assert change["mse"].high - change["mse"].low < (alone["mse"].high - alone["mse"].low) / 2
    same = paired_differences(truth, first, first, bootstrap=50)["mse"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


# ------------------------------------------------------------------------------------------------------------ command

MODEL = """
import numpy as np
from kipoi.model import BaseModel

class GC(BaseModel):
    def predict_on_batch(self, x):
        return x[:, :, 1:3].sum(axis=(1, 2))[:, None] / x.shape[1]
"""
DATALOADER = """
import numpy as np
from kipoi.data import Dataset
from kipoi.metadata import GenomicRanges

class Promoters(Dataset):
    def __init__(self, genes_file, fasta_file):
        from kipoi_seq2exp.data import Genome, read_genes
        self.genes, self.genome = read_genes(genes_file), Genome(fasta_file)
    def __len__(self):
        return len(self.genes)
    def __getitem__(self, index):
        gene = self.genes.iloc[index]
        start, end = int(gene["tss"]) - 500, int(gene["tss"]) + 500
        ranges = GenomicRanges(gene["chrom"], start, end, str(index), gene["strand"])
        dna = self.genome.onehot(gene["chrom"], start, end).astype(np.float32)
        return {"inputs": dna, "metadata": {"ranges": ranges}}
"""
MODEL_YAML = """
defined_as: model.GC
args: {}
default_dataloader: .
info: {authors: [{name: nobody}], doc: GC content of promoters}
dependencies: {}
schema:
  inputs: {name: seq, shape: "(1000, 4)", doc: DNA}
  targets: {name: expression, shape: "(1,)", doc: GC content}
"""
DATALOADER_YAML = """
type: Dataset
defined_as: dataloader.Promoters
args: {genes_file: {doc: genes}, fasta_file: {doc: genome}}
info: {authors: [{name: nobody}], doc: promoters}
dependencies: {}
output_schema:
  inputs: {name: seq, shape: "(1000, 4)", doc: DNA}
  metadata: {ranges: {type: GenomicRanges, doc: promoters}}
"""


def test_the_command_runs_a_kipoi_model_and_compares_it(tiny, results, genes, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "Promoter"
    folder.mkdir()
    files = {
        "model.py": MODEL,
        "dataloader.py": DATALOADER,
        "model.yaml": MODEL_YAML,
        "dataloader.yaml": DATALOADER_YAML,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (tmp_path / "args.json").write_text(json.dumps({"genes_file": str(tiny.genes), "fasta_file": str(tiny.fasta)}))
    for name, value in environment(make_home(tmp_path / "home")).items():
        monkeypatch.setenv(name, value)
    words = [
        "compare",
        f"Seq2Exp={results}",
        "--kipoi",
        f"{folder}={tmp_path / 'args.json'}",
        "--genes",
        str(tiny.genes),
    ]
    assert main([*words, "--bootstrap", "20", "-o", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "Promoter: 7 of 7 genes by range" in said
    table = pd.read_csv(tmp_path / "o" / "comparison_genes.tsv", sep="\t", comment="#")
    dna = tiny.bases["chr1"][9_000 - 500 : 9_500].upper()
    assert table["Promoter"][1] == pytest.approx((dna.count(b"G") + dna.count(b"C")) / 1_000)
    scores = pd.read_csv(tmp_path / "o" / "comparison.tsv", sep="\t", comment="#")
    assert scores["model"].tolist() == ["Seq2Exp", "Promoter"]
    assert scores["delta_mse"][0] == 0
    assert (tmp_path / "o" / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    (folder / "model.py").write_text("raise ValueError('broken model')")
    assert main([*words, "-o", str(tmp_path / "o")]) == 1
    said = capsys.readouterr().err.strip()
    assert "failed (ImportError: Unable to import model.GC)" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compare"),
        (["x.tsv"], "x.tsv: expected NAME=FILE"),
        (["--kipoi", "Seq2Exp/K562"], "expected MODEL=ARGS.json"),
        (["--kipoi", "Seq2Exp/K562=absent.json"], "absent.json: no such file"),
        (["a=absent.tsv"], "absent.tsv: no such file"),
    ],
)
def test_misuse_is_one_sentence(tiny, tmp_path, capsys, words, message):
    assert main(["compare", *words, "--genes", str(tiny.genes), "-o", str(tmp_path / "o")]) == 1
    assert message in capsys.readouterr().err


def test_a_gene_table_without_a_label(tiny, tmp_path, capsys):
    assert main(["compare", "a=b.tsv", "--genes", str(tiny.bed), "-o", str(tmp_path / "o")]) == 1
    assert "has no label: name its column" in capsys.readouterr().err
