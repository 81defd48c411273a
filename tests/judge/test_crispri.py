"""The CRISPRi benchmark: reading the published format, scores of pairs against slow twins, misses, other builds."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from small_runs import PROMOTER_BP, finished_run

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.pairs import file_baselines, read_pairs
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.judge.crispri import BEYOND, EFFECT, JUDGED, MASK, PROMOTER, UNKNOWN, judge_pairs
from kipoi_seq2exp.prediction.masking import predict_masked

PAIRS = (  # gene, chrom, TSS, offset of the element's middle from the TSS, length, regulated
    ("GENE02", "chr1", 9_000, -1_000, 300, True),
    ("GENE02", "chr1", 9_000, 1_200, 200, False),
    ("GENE02", "chr1", 9_000, 1_950, 200, True),  # reaches beyond the window
    ("GENE02", "chr1", 9_000, 250, 300, False),  # reaches into the promoter
    ("GENE03", "chr1", 21_500, 50, 100, True),  # inside the promoter
    ("GENE03", "chr1", 21_500, 900, 400, False),
    ("GENE03", "chr1", 21_500, -1_500, 400, True),
    ("GENE04", "chr1", 33_210, 15_000, 400, True),  # beyond the window
    ("GENE04", "chr1", 33_210, -12_000, 400, False),  # beyond the window
    ("GENE99", "chr2", 5_000, 900, 400, True),  # not predicted
)
COLUMNS = (
    "chrom chromStart chromEnd name chrTSS startTSS endTSS measuredGeneSymbol measuredGeneEnsemblId ValidConnection"
)
COLUMNS += " CellType Regulated distanceToTSS H3K27ac.RPM DHS.RPM"


def write_pairs(path, pairs=PAIRS, columns=COLUMNS, **changes):
    lines = ["\t".join(columns.split())]
    for number, (gene, chrom, tss, offset, length, regulated) in enumerate(pairs):
        start = tss + offset - length // 2
        row = {
            "chrom": chrom, "chromStart": start, "chromEnd": start + length, "name": f"pair{number}", "chrTSS": chrom,
            "startTSS": tss, "endTSS": tss + 1, "measuredGeneSymbol": gene.lower(),
            "measuredGeneEnsemblId": f"{gene}.4",
            "ValidConnection": "TRUE", "CellType": "K562", "Regulated": str(regulated).upper(),
            "distanceToTSS": abs(offset), "H3K27ac.RPM": 1 + number, "DHS.RPM": 10 - number,
        }  # fmt: skip
        row.update(changes)
        lines.append("\t".join(str(row[name]) for name in columns.split()))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tiny, weights, tmp_path_factory):
    return finished_run(tiny, weights, tmp_path_factory.mktemp("crispri"), gene_ids=("GENE02", "GENE03", "GENE04"))


@pytest.fixture
def pairs(tmp_path):
    return read_pairs(write_pairs(tmp_path / "pairs.tsv"))


# ------------------------------------------------------------------------------------------------------------ reading


def test_pairs_are_read_as_published_plain_or_compressed(tmp_path, pairs):
    text = (tmp_path / "pairs.tsv").read_text()
    with gzip.open(tmp_path / "pairs.tsv.gz", "wt") as handle:
        handle.write(text)
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "pairs.tsv.gz"), pairs)
    assert pairs["gene_id"].tolist() == [pair[0] for pair in PAIRS]
    assert pairs["regulated"].tolist() == [pair[5] for pair in PAIRS]
    assert pairs["distance"].tolist() == [abs(pair[3]) for pair in PAIRS]
    assert pairs["tss"].tolist() == [pair[2] for pair in PAIRS]


def test_without_the_optional_columns_distance_is_computed(tmp_path):
    few = "chrom chromStart chromEnd startTSS endTSS measuredGeneEnsemblId Regulated"
    pairs = read_pairs(write_pairs(tmp_path / "p.tsv", columns=few))
    assert pairs["distance"].tolist() == [abs(pair[3]) for pair in PAIRS]
    assert list(file_baselines(pairs)) == ["distance to TSS"]


def test_invalid_pairs_and_other_cell_types_are_left_out(tmp_path):
    path = write_pairs(tmp_path / "p.tsv")
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("TRUE\tK562", "FALSE\tK562")
    lines[2] = lines[2].replace("K562", "WTC11")
    path.write_text("\n".join(lines))
    pairs = read_pairs(path, "K562")
    assert len(pairs) == len(PAIRS) - 2
    assert pairs.attrs["invalid"] == 1
    with pytest.raises(InputError, match=r"no pairs of the cell type 'K526' \(did you mean 'K562'"):
        read_pairs(path, "K526")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Regulated": "maybe"}, "line 2: Regulated is 'maybe', neither TRUE nor FALSE"),
        ({"chromStart": "x"}, "line 2: chromStart is 'x', not a whole number"),
        ({"chromStart": 9_999_999}, "is reversed"),
        ({"DHS.RPM": "high"}, "line 2: DHS.RPM is 'high', not a number"),
        ({"ValidConnection": "FALSE"}, "holds no valid pairs"),
    ],
)
def test_bad_pairs_are_one_sentence(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_pairs(write_pairs(tmp_path / "p.tsv", **change))


def test_files_of_another_format_are_one_sentence(tmp_path):
    (tmp_path / "p.bed").write_text("chr1\t1\t2\nchr1\t3\t4\n")
    with pytest.raises(InputError, match=r"ENCODE CRISPRi benchmark's format .* has no column 'chrom'"):
        read_pairs(tmp_path / "p.bed")
    (tmp_path / "e.tsv").write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_pairs(tmp_path / "e.tsv")
    write_pairs(tmp_path / "p.tsv")
    (tmp_path / "p.tsv").write_text((tmp_path / "p.tsv").read_text() + "chr1\t5\n")
    with pytest.raises(InputError, match=r"line 12: found 2 columns where the header has 15"):
        read_pairs(tmp_path / "p.tsv")


# ------------------------------------------------------------------------------------------------------------ scoring


def test_every_pair_has_a_status(pairs, predictions):
    found = judge_pairs(pairs, predictions, bootstrap=0)
    expected = [JUDGED] * 4 + [PROMOTER] + [JUDGED] * 2 + [BEYOND] * 2 + [UNKNOWN]
    assert found.pairs["status"].tolist() == expected
    assert "1 pair (1 positive) with elements inside the promoter" in " ".join(found.notes)
    assert "2 pairs (1 positive) with elements beyond the window: counted as misses" in found.notes


def test_scores_are_those_of_the_bases_outside_the_promoter(pairs, predictions, tiny):
    found = judge_pairs(pairs, predictions, bootstrap=0).pairs
    for row in found[found["status"] == JUDGED].itertuples():
        index = predictions.index(row.gene_id)
        locus = predictions.locus(index)
        bases = [
            base
            for base in range(row.start, row.end)
            if locus.start <= base < locus.end and not -PROMOTER_BP // 2 <= base - locus.tss < PROMOTER_BP // 2
        ]
        mask, dnase = predictions.mask(index), np.nan_to_num(tiny.signals["dnase"]["chr1"])
        scores = found.loc[row.Index]
        assert scores[MASK] == pytest.approx(mask[np.array(bases) - locus.start].mean(), rel=1e-5)
        assert scores["dnase signal"] == pytest.approx(dnase[bases].mean(), rel=1e-5)
    assert (found.loc[found["status"] == BEYOND, MASK] == -np.inf).all()
    share = found.loc[found["status"] == JUDGED, "dnase x contact (ABC)"]
    assert ((share >= 0) & (share < 1)).all()
    assert share.max() > 0.1


def test_missed_positives_are_never_recalled(pairs, predictions):
    table = judge_pairs(pairs, predictions, bootstrap=0).table.set_index(["bin", "score"])
    assert table.loc[("0-10 kb", MASK), ["pairs", "positives", "missed"]].tolist() == [6, 3, 0]
    assert table.loc[("10-100 kb", MASK), ["pairs", "positives", "missed"]].tolist() == [2, 1, 1]
    assert table.loc[("10-100 kb", MASK), "auprc"] == 0
    assert table.loc[("10-100 kb", "distance to TSS"), "auprc"] == 0.5
    assert table.loc[("all", "distance to TSS"), "missed"] == 0
    assert table.loc[("all", MASK), "auprc"] <= 3 / 4


def test_bins_of_one_kind_are_not_ranked(tmp_path):
    pairs = read_pairs(write_pairs(tmp_path / "p.tsv", [pair for pair in PAIRS if abs(pair[3]) < 10_000 or pair[5]]))
    assert set(judge_pairs(pairs, bootstrap=0).table["bin"]) == {"0-10 kb", "0-100 kb", "all"}
    only = read_pairs(write_pairs(tmp_path / "p.tsv", [pair for pair in PAIRS if pair[5]]))
    with pytest.raises(InputError, match=r"every pair that can be judged is positive .6 pairs."):
        judge_pairs(only, bootstrap=0, where="p.tsv")


def test_effects_are_the_loss_without_the_element(pairs, predictions, run):
    found = judge_pairs(pairs, predictions, run=run, bootstrap=0).pairs
    row, index = found.iloc[0], predictions.index("GENE02")
    mask = predictions.mask(index).copy()
    mask[row["start"] - predictions.locus(index).start : row["end"] - predictions.locus(index).start] = 0
    without = predict_masked(run.model, run.dataset[0], [mask])[0]
    assert row[EFFECT] == pytest.approx(predictions.genes["expression"][index] - without, abs=1e-7)
    assert (found.loc[found["status"] == BEYOND, EFFECT] == -np.inf).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([("OTHER", "chr1", 9_000, 500, 100, True)], "none of its 1 gene "),
        ([("GENE02", "chr1", 309_000, 500, 100, True)], "different genome builds"),
        ([("GENE02", "chr1", 9_000, 55_000, 100, True)], "an element ends at chr1:64,050 but chr1 is 60,000 bp long"),
        ([("GENE02", "1", 9_000, 500, 100, True)], "names a chromosome '1' that is 'chr1'"),
        ([("GENE04", "chr1", 33_210, 15_000, 400, True)], "no element lies in the window of its gene .1 pair."),
    ],
)
def test_pairs_that_do_not_belong_to_the_predictions_are_one_sentence(tmp_path, predictions, changed, message):
    pairs = read_pairs(write_pairs(tmp_path / "p.tsv", changed))
    with pytest.raises(InputError, match=message) as error:
        judge_pairs(pairs, predictions, bootstrap=0)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------ command


def test_the_command(tmp_path, run, capsys):
    path = write_pairs(tmp_path / "pairs.tsv")
    assert main(["benchmark", "crispri", str(path), "--bootstrap", "20", "-o", str(tmp_path / "none")]) == 0
    said = capsys.readouterr().out
    assert "10 pairs, 6 positive" in said
    assert MASK not in said
    folder = run.store.path.parent
    words = ["benchmark", "crispri", str(path), "--from", str(folder), "--bootstrap", "20", "-o", str(tmp_path / "r")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count(MASK) == 4
    assert "1 positives missed" in said
    assert "missed positives: gene04 chr1:48,011-48,410 at 15,000 bp" in said
    assert "0-10 kb: 6 pairs, 3 positive (floor 0.500); fewer than 10 of a kind" in said
    assert f"  {MASK:<26} AUPRC 0.000 [0.000, 0.000]  precision at 70 % recall not reached" in said
    table = pd.read_csv(tmp_path / "r" / "crispri.tsv", sep="\t", comment="#")
    assert {"dnase signal", "distance to TSS", "ABC numerator (file)", MASK} <= set(table["score"])
    missed = pd.read_csv(tmp_path / "r" / "crispri_missed.tsv", sep="\t", comment="#")
    assert missed["name"].tolist() == ["pair7", "pair8"]
    words = ["plot", "GENE02", "--from", str(folder), "--elements", str(tmp_path / "r" / "crispri_pairs.bed")]
    assert main([*words, "-o", str(tmp_path / "p.svg")]) == 0
    drawn = (tmp_path / "p.svg").read_text()
    assert "CRISPRi-positive" in drawn
    assert "CRISPRi-negative" in drawn
    assert main(["benchmark", "crispri", str(path), "--from", str(folder), "--perturb", "-o", str(tmp_path / "p")]) == 1
    assert "--perturb runs the network" in capsys.readouterr().err


def test_counts_of_the_published_benchmark(real_data):
    pairs = read_pairs(real_data / "crispr_K562_training.tsv.gz")
    assert (len(pairs), pairs["regulated"].sum()) == (10_356, 471)
    table = judge_pairs(pairs, bootstrap=0).table.set_index(["bin", "score"])
    for label, counts in {"0-10 kb": [223, 133], "10-100 kb": [1_597, 256], "0-100 kb": [1_820, 389]}.items():
        assert table.loc[(label, "distance to TSS"), ["pairs", "positives"]].tolist() == counts
    assert table.loc[("0-100 kb", "distance to TSS"), "floor"] == pytest.approx(0.214, abs=5e-4)
    assert (pairs["regulated"] & (pairs["distance"] >= 100_000)).sum() == 82
