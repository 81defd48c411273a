"""Comparison of models: what files are read, how rows are matched, paired differences, Kipoi models beside ours."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from compared_models import (
    make_shore,
    make_xpresso,
    shore_score,
    xpresso_score,
)
from kipoi_door import environment, example_arguments, make_group, make_home, use_warm_kipoi

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.judge.compare import compare_models
from kipoi_seq2exp.judge.compare_files import read_model_predictions
from kipoi_seq2exp.metrics import METRICS, paired_differences, score
from kipoi_seq2exp.prediction.store import read_predictions
from kipoi_seq2exp.zoo import register, served
from kipoi_seq2exp.zoo.array_model import ArrayModel
from kipoi_seq2exp.zoo.models import load_model


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
    with pytest.raises(
        InputError, match=r"has no column 'expression' \(it has gene_id, a, b\): name the prediction as"
    ):
        read_model_predictions("m", path)


def test_a_table_of_xpressos_own_script_is_read(genes, tmp_path):
    table = "ID SCORE\nGENE02 -0.25\nGENE05 1.5\nOTHER 3\n"
    model = read_model_predictions("xpresso", write_table(tmp_path / "out.txt", table))
    found = compare_models([model], genes, genes["label"].to_numpy(float), bootstrap=0)
    assert found.genes.set_index("gene_id")["xpresso"].to_dict() == {"GENE02": -0.25, "GENE05": 1.5}


def xpresso_window(tss, strand):
    """Return the window of a TSS as Xpresso's dataloader in Kipoi cuts it."""
    return (tss - 7_000, tss + 3_500) if strand == "+" else (tss + 1 - 3_500, tss + 1 + 7_000)


def xpresso_tsv(rows):
    """Return what `kipoi predict Xpresso/... -o out.tsv` writes: windows that are not centred, numbers for ids."""
    names = [f"metadata/ranges/{name}" for name in ("chr", "end", "id", "start", "strand")]
    lines = [" ".join([*names, "preds/expression_pred"])]
    for number, (chrom, tss, strand, value) in enumerate(rows):
        start, end = xpresso_window(tss, strand)
        lines.append(f"{chrom} {end} {number} {start} {strand} {value}")
    return "\n".join(lines) + "\n"


def test_windows_that_are_not_centred_find_their_own_gene(tmp_path):
    # A and B lie so that each TSS is nearer to the middle of the other's window, C on the other strand between them
    rows = {"A": (100_000, "+"), "B": (103_000, "+"), "C": (101_000, "-"), "E": (140_000, "-")}
    # D, F, G and H have no window of their own: D lies 200 bp from A, F where it would have to in E's but on the other
    # strand, G in the window of a gene that is not compared, H in those of A and B
    rows |= {"D": (100_200, "+"), "F": (143_501, "+"), "G": (301_000, "+"), "H": (101_500, "+")}
    genes = pd.DataFrame(
        [(gene, "chr1", *place) for gene, place in rows.items()], columns=["gene_id", "chrom", "tss", "strand"]
    )
    written = [("chr1", *rows[gene], value) for gene, value in zip("ECBA", (5.0, 3.0, 2.0, 1.0), strict=True)]
    written.append(("chr1", 300_000, "+", 9.0))
    model = read_model_predictions("x", write_table(tmp_path / "x.tsv", xpresso_tsv(written)))
    found = compare_models([model], genes, np.arange(8.0), bootstrap=0)
    assert found.genes.set_index("gene_id")["x"].to_dict() == {"A": 1.0, "B": 2.0, "C": 3.0, "E": 5.0}
    assert "x: 4 of 8 genes by range" in found.notes


def test_a_bed_of_kipoi_has_one_column_of_predictions(genes, tmp_path):
    table = "chr start end name score strand preds/x/0\nchr1 8500 9500 0 . - 2.5\nchr2 7500 8500 1 . + 0.5\n"
    model = read_model_predictions("m", write_table(tmp_path / "k.bed", table))
    found = compare_models([model], genes, genes["label"].to_numpy(float), bootstrap=0)
    assert found.genes.set_index("gene_id")["m"].to_dict() == {"GENE02": 2.5, "GENE05": 0.5}


@pytest.mark.parametrize("ending", ["h5", "zarr"])
@pytest.mark.parametrize("key", ["preds", "preds/expression_pred"])
def test_arrays_of_other_models_are_read(genes, tmp_path, ending, key):
    import h5py
    import zarr

    path = tmp_path / f"other.{ending}"
    with h5py.File(path, "w") if ending == "h5" else zarr.open_group(str(path), "w") as root:
        root[key] = np.array([[2.0], [4.0]]) if key == "preds" else np.array([2.0, 4.0])
        for name, values in {"chr": [b"chr1", b"chr2"], "strand": [b"-", b"+"], "id": [b"0", b"1"]}.items():
            root[f"metadata/ranges/{name}"] = np.array(values)
        root["metadata/ranges/start"], root["metadata/ranges/end"] = np.array([8_500, 7_500]), np.array([9_500, 8_500])
    model = read_model_predictions("m", str(path))
    found = compare_models([model], genes, genes["label"].to_numpy(float), bootstrap=0)
    assert found.genes.set_index("gene_id")["m"].to_dict() == {"GENE02": 2.0, "GENE05": 4.0}


def test_a_file_of_another_kind_is_one_sentence(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match=r"x\.json: unknown kind of file for predictions: give a results folder"):
        read_model_predictions("m", str(tmp_path / "x.json"))


def test_arrays_without_metadata_need_the_genes(genes, tmp_path):
    import h5py

    with h5py.File(tmp_path / "bare.h5", "w") as root:
        root["preds/expression"] = np.arange(7.0)[:, None]
    with pytest.raises(InputError, match="does not say which genes it holds: run `kipoi predict` with --keep_metadata"):
        read_model_predictions("m", str(tmp_path / "bare.h5"))
    assert read_model_predictions("m", str(tmp_path / "bare.h5"), genes).table["predicted"].tolist() == list(range(7))


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
    with pytest.raises(InputError, match=r"\(m\) has none of the 7 genes .* it names G1, and no ranges\.$"):
        compare_models([other], genes, observed)
    ranges = "chr start end preds\n1 8000 10000 1\n"
    renamed = read_model_predictions("r", write_table(tmp_path / "r.tsv", ranges))
    with pytest.raises(
        InputError, match=r"no range holds a TSS; use one naming of the chromosomes \(1 is chr1 there\)"
    ):
        compare_models([renamed], genes, observed)
    one = read_model_predictions("one", write_table(tmp_path / "b.tsv", "gene_id expression\nGENE01 1\n"))
    with pytest.raises(InputError, match=r"at least two genes must .* have a label, found 1: one: 1 of 7"):
        compare_models([one], genes, observed)
    with pytest.raises(ConfigError, match="cannot be called 'observed'"):
        compare_models([read_model_predictions("observed", str(tmp_path / "b.tsv"))], genes, observed)
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


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Two Kipoi models, each in its folder with its own dataloader, and the arguments of each."""
    folder = tmp_path_factory.mktemp("models")
    xpresso = make_xpresso(folder), {"gtf_file": str(tiny.gtf), "fasta_file": str(tiny.fasta)}
    shore = make_shore(folder), {"bed": str(tiny.bed), "track": str(tiny.tracks["dnase"]), "flank_bp": 300}
    return xpresso, shore


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


def use_home(home, monkeypatch):
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)


def test_two_kipoi_models_and_saved_tables_beside_ours(
    tiny, models, home, results, genes, tmp_path, capsys, monkeypatch
):
    (xpresso, xpresso_args), (shore, shore_args) = models
    use_home(home, monkeypatch)
    arguments = tmp_path / "xpresso.json"
    arguments.write_text(json.dumps(xpresso_args))
    own = write_table(tmp_path / "own.txt", "ID SCORE\n" + "".join(f"GENE0{i} {i / 8}\n" for i in range(1, 8)))
    words = ["compare", f"Seq2Exp={results}", str(xpresso), f"Shore={shore}", f"Saved={own}"]
    words += ["--args", f"Xpresso={arguments}", "--args", f"Shore={json.dumps(shore_args)}"]
    words += ["--genes", str(tiny.genes), "--labels", "label", "--bootstrap", "50"]
    assert main([*words, "-o", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    for line in (
        "Seq2Exp: 7 of 7 genes by gene id",
        "Xpresso: 7 of 7 genes by range",
        "Shore: 7 of 7 genes by gene id",
    ):
        assert line in said
    table = pd.read_csv(tmp_path / "o" / "comparison_genes.tsv", sep="\t", comment="#")
    assert table.columns.tolist() == ["gene_id", "observed", "Seq2Exp", "Xpresso", "Shore", "Saved"]
    for row, gene in zip(table.itertuples(), genes.itertuples(), strict=True):
        assert row.Xpresso == pytest.approx(xpresso_score(tiny, gene), abs=1e-5)
        assert row.Shore == pytest.approx(shore_score(tiny, gene, 300), rel=1e-5)
    scores = pd.read_csv(tmp_path / "o" / "comparison.tsv", sep="\t", comment="#").set_index("model")
    assert scores.index.tolist() == ["Seq2Exp", "Xpresso", "Shore", "Saved"]
    assert scores.loc["Seq2Exp", "delta_mse"] == 0
    truth = genes["label"].to_numpy(float)
    change = paired_differences(truth, table["Seq2Exp"], table["Shore"], bootstrap=0)["pearson"]
    assert scores.loc["Shore", "delta_pearson"] == pytest.approx(change.value, abs=1e-4)
    assert np.isnan(scores.loc["Shore", "delta_pearson_low"])  # of seven genes
    assert (tmp_path / "o" / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_our_model_is_run_by_its_name_and_its_output_is_a_saved_prediction(models, tmp_path, capsys, monkeypatch):
    use_warm_kipoi(monkeypatch)
    group, home = make_group(tmp_path), make_home(tmp_path / "home")
    monkeypatch.setattr(register, "group_dir", lambda: group)
    register.register(home, offline=True)
    use_home(home, monkeypatch)
    example = example_arguments(group)
    genes, bed = pd.read_csv(example["genes_file"], sep="\t"), tmp_path / "genes.bed"
    bed.write_text(
        "".join(f"{g.chrom}\t{g.tss}\t{g.tss + 1}\t{g.gene_id}\t0\t{g.strand}\n" for g in genes.itertuples())
    )
    shore = json.dumps({"bed": str(bed), "track": example["dnase_file"], "flank_bp": 500})
    words = ["compare", "Seq2Exp/K562", f"Shore={models[1][0]}", "--genes", str(example["genes_file"])]
    words += ["--args", f"Seq2Exp/K562={json.dumps(example)}", "--args", f"Shore={shore}", "--bootstrap", "0"]
    assert main([*words, "-o", str(tmp_path / "one")]) == 0
    assert "Seq2Exp/K562: 2 of 2 genes by gene id" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "one" / "comparison_genes.tsv", sep="\t", comment="#")
    network = load_model(group / "weights" / "K562.safetensors", "cpu")
    wanted = ArrayModel(network).predict(served.example_inputs("K562", group))["expression"][:, 0]
    np.testing.assert_allclose(table["Seq2Exp/K562"], wanted, rtol=1e-5)
    saved = [f"a={tmp_path / 'one' / 'Seq2Exp_K562.h5'}", f"b={tmp_path / 'one' / 'Shore.h5'}"]
    assert main(["compare", *saved, *words[3:5], "--bootstrap", "0", "-o", str(tmp_path / "two")]) == 0
    again = pd.read_csv(tmp_path / "two" / "comparison_genes.tsv", sep="\t", comment="#")
    np.testing.assert_array_equal(again[["a", "b"]], table[["Seq2Exp/K562", "Shore"]])


def test_a_model_that_fails_is_one_sentence(tiny, home, tmp_path, capsys, monkeypatch):
    use_home(home, monkeypatch)
    use_warm_kipoi(monkeypatch)
    broken = make_shore(tmp_path)
    (broken / "model.py").write_text("raise ValueError('broken model')")
    arguments = json.dumps({"bed": str(tiny.bed), "track": "x.bw", "flank_bp": 1})
    words = ["compare", str(broken), "--args", f"shore_model={arguments}", "--genes", str(tiny.genes)]
    assert main([*words, "-o", str(tmp_path / "o")]) == 1
    said = capsys.readouterr().err.strip()
    assert "failed (ImportError: Unable to import model.Shore)" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x="], "x=: expected a Kipoi model, a file of predictions, or NAME= and one of them"),
        (["absent.tsv"], "absent.tsv: no such file"),
        (["a=absent.h5"], "absent.h5: no such file"),
        (["Seq2Exp/K562"], "Seq2Exp/K562: no such file, so it is taken for a Kipoi model"),
        (["Seq2Exp/K562", "--args", "Seq2Exp/K562=absent.json"], "absent.json: no such file"),
        (["Seq2Exp/K562", "--args", "K562={}"], "name of a Kipoi model of the comparison (Seq2Exp/K562)"),
        (["Seq2Exp/K562", "--args", "Seq2Exp/K562={1"], "--args Seq2Exp/K562: cannot be read as JSON"),
        (["Seq2Exp/K562", "--args", "Seq2Exp/K562={}", "--args", "Seq2Exp/K562={}"], "is given twice ({} and {})"),
        (["a=b.tsv", "--method", "x"], "--method x: expected NAME=MODEL,MODEL"),
        (
            ["a=b.tsv", "--bins", "b=1"],
            "--bins b=1: expected NAME=VALUE with the name of a model of the comparison (a)",
        ),
        (["a=b.tsv", "--label", "labl"], "the gene table has no label column 'labl' (did you mean 'label'?)"),
    ],
)
def test_misuse_is_one_sentence(tiny, tmp_path, capsys, words, message):
    assert main(["compare", *words, "--genes", str(tiny.genes), "-o", str(tmp_path / "o")]) == 1
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "o").exists()


def test_a_gene_table_without_a_label(tiny, tmp_path, capsys):
    assert main(["compare", "a=b.tsv", "--genes", str(tiny.bed), "-o", str(tmp_path / "o")]) == 1
    assert "has no label: name its column" in capsys.readouterr().err
