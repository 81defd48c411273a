"""Variants: reading and checking a VCF, windows with variants against an edited genome, effects, the command."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from small_runs import command_line, small_network, small_weights

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.sequence import encode_bases
from kipoi_seq2exp.data.variants import Variant, compared, vcf_alleles
from kipoi_seq2exp.effects.run import variant_effects
from kipoi_seq2exp.effects.variant_table import VariantTable
from kipoi_seq2exp.effects.variants import (
    COLUMNS,
    FLANK_BP,
    alternative_window,
    effects_table,
    place_variant,
    spans_in_reach,
)
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.prediction.run import predict_windows
from kipoi_seq2exp.prediction.units import Bench

HEAD = "##fileformat=VCFv4.2\n##source=test\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
HALF = 2_000


def base(tiny, chrom, pos, length=1):
    return tiny.bases[chrom][pos : pos + length].decode().upper()


def other(letter):
    return "ACGT"[("ACGT".index(letter) + 1) % 4]


def effects_of(model, dataset, variants, batch_size=1):
    with VariantTable(variants) as table:
        return variant_effects(Bench(model, dataset, batch_size), table)


def write_vcf(path, records, head=HEAD):
    path.write_text(head + "".join("\t".join(map(str, record)) + "\n" for record in records))
    return path


@pytest.fixture
def records(tiny):
    """Records near GENE02 (chr1:9000 -), near GENE03 (chr1:21500 +) and near no gene."""
    snv, deletion = base(tiny, "chr1", 8_500), base(tiny, "chr1", 21_000, 4)
    return [
        ("chr1", 8_501, "rs1", snv.lower(), other(snv), ".", "PASS", "AC=1"),
        ("chr1", 21_001, "rs2", deletion, deletion[0], ".", ".", "."),
        (
            "chr1",
            22_001,
            "multi",
            base(tiny, "chr1", 22_000),
            f"{other(base(tiny, 'chr1', 22_000))},ACGT,*",
            ".",
            ".",
            ".",
        ),
        ("chr1", 50_001, "far", base(tiny, "chr1", 50_000), other(base(tiny, "chr1", 50_000)), ".", ".", "."),
        ("chr1", 51_001, "sv", base(tiny, "chr1", 51_000), "<DEL>", ".", ".", "."),
    ]


# ------------------------------------------------------------------------------------------------------------ reading


def test_a_vcf_is_split_by_allele_and_in_upper_case(tmp_path, records):
    alleles = list(vcf_alleles(write_vcf(tmp_path / "v.vcf", records)))
    assert [allele.ident for allele in alleles if allele] == ["rs1", "rs2", "multi", "multi", "far"]
    assert alleles.count(None) == 2
    assert alleles[0].pos == 8_500
    assert alleles[0].ref.isupper()
    with gzip.open(tmp_path / "v.vcf.gz", "wt") as handle:
        handle.write((tmp_path / "v.vcf").read_text())
    assert list(vcf_alleles(tmp_path / "v.vcf.gz")) == alleles


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("chr1 100 . A", r"line 4: expected a VCF record .* found 'chr1 100 \. A'"),
        ("chr1\tx\t.\tA\tC", "line 4: POS .column 2. is 'x', not a whole number"),
        ("chr1\t0\t.\tA\tC", "line 4: POS is 0, but a VCF counts from 1"),
        ("chr1\t100\t.\tA?\tC", r"line 4: REF is 'A\?', which is not DNA"),
        ("chr1\t100\t.\tA\tC,", "has an empty allele"),
        ("chr1\t100\t.\tA\t<DEL>", r"no variants with plain sequences \(1 allele, symbolic or absent\)"),
        ("", r"v\.vcf holds no variants\.$"),
    ],
)
def test_bad_vcfs_are_one_sentence(tmp_path, record, message):
    (tmp_path / "v.vcf").write_text(HEAD + record + "\n")
    with pytest.raises(InputError, match=message) as error:
        list(vcf_alleles(tmp_path / "v.vcf"))
    assert "\n" not in str(error.value)


def test_a_vcf_without_its_header_is_refused(tmp_path):
    (tmp_path / "v.vcf").write_text("##fileformat=VCFv4.2\nchr1\t100\t.\tA\tC\t.\t.\t.\n")
    with pytest.raises(InputError, match="line 2: a record comes before the line that names the columns"):
        list(vcf_alleles(tmp_path / "v.vcf"))


@pytest.mark.parametrize(
    ("ref", "alt", "core"),
    [
        ("A", "C", (10, "A", "C")),
        ("CAG", "C", (11, "AG", "")),
        ("C", "CTT", (11, "", "TT")),
        ("GCAG", "GTAG", (11, "C", "T")),
        ("AAA", "AA", (12, "A", "")),
    ],
)
def test_the_core_is_what_differs(ref, alt, core):
    position, *letters = Variant("chr1", 10, ".", ref, alt, 1).core()
    if ref == "AAA":  # which A of a run is deleted makes no difference
        assert letters == ["A", ""]
    else:
        assert (position, *letters) == core


def test_ref_is_checked_in_any_case(tiny, tmp_path, records):
    genome, lower = tiny.dataset().genome, base(tiny, "chr1", 7_500)
    soft_masked = Variant("chr1", 7_500, ".", lower, other(lower), 4)
    wrong = Variant("chr1", 8_500, ".", other(base(tiny, "chr1", 8_500)), "ACGT", 5)
    assert tiny.bases["chr1"][7_500:7_501].islower()
    assert list(compared([soft_masked], genome, "v.vcf")) == [(soft_masked, True)]
    with pytest.raises(InputError, match=r"v\.vcf, line 5: REF of chr1:8501 .* is not what the FASTA has"):
        list(compared([soft_masked, wrong], genome, "v.vcf"))
    found = list(compared([soft_masked, wrong], genome, "v.vcf", skip_mismatch=True))
    assert found == [(soft_masked, True), (wrong, False)]
    with pytest.raises(InputError, match=r"no REF agrees with the FASTA \(1 variant\)"):
        list(compared([wrong], genome, "v.vcf", skip_mismatch=True))
    with pytest.raises(InputError, match=r"unknown chromosome '1' \(the FASTA names it 'chr1'\)"):
        list(compared([Variant("1", 5, ".", "A", "C", 4)], genome, "v.vcf"))
    with pytest.raises(InputError, match="beyond the end of chr1"):
        list(compared([Variant("chr1", 70_000, ".", "A", "C", 4)], genome, "v.vcf"))


# ------------------------------------------------------------------------------------------------------------ windows


def edited(tiny, chrom, tss, variant):
    """Return DNA and DNase of the window of a gene on an edited chromosome: the slow twin."""
    letters = tiny.bases[chrom].decode().upper()
    signal = np.nan_to_num(tiny.signals["dnase"][chrom])
    pos, ref, alt = variant.core()
    own = [signal[min(pos + i, pos + len(ref) - 1)] for i in range(len(alt))]
    letters = letters[:pos] + alt + letters[pos + len(ref) :]
    signal = np.concatenate([signal[:pos], own, signal[pos + len(ref) :]])
    if pos + len(ref) <= tss:
        tss += len(alt) - len(ref)
    pad = 3 * HALF
    letters, signal = "N" * pad + letters + "N" * pad, np.pad(signal, pad)
    return letters[tss - HALF + pad : tss + HALF + pad], signal[tss - HALF + pad : tss + HALF + pad]


@pytest.mark.parametrize("seed", range(12))
def test_a_window_with_a_variant_is_that_of_an_edited_genome(tiny, seed):
    random, dataset = np.random.default_rng(seed), tiny.dataset()
    for gene in (0, 1, 4, 5):
        reference = dataset[gene]
        length = len(tiny.bases[reference.chrom])
        pos = int(np.clip(reference.tss + random.integers(-HALF - 5, HALF + 5), 1, length - 60))
        ref = base(tiny, reference.chrom, pos, int(random.integers(1, 40)))
        alt = "".join(random.choice(list("ACGT"), size=int(random.integers(1, 40))))
        variant = Variant(reference.chrom, pos, ".", ref, alt, 1)
        core = variant.core()
        if core[0] < reference.tss < core[0] + len(core[1]) or core[0] + max(len(core[1]), 1) <= reference.tss - HALF:
            continue
        if core[0] >= reference.tss + HALF:
            continue
        made = alternative_window(dataset, gene, reference, variant)
        letters, signal = edited(tiny, reference.chrom, reference.tss, variant)
        np.testing.assert_array_equal(made.window.onehot, encode_bases(letters.encode()))
        np.testing.assert_allclose(made.window.signals[:, 1], signal, rtol=1e-6)
        assert len(made.origin) == len(made.inserted) == 2 * HALF


@pytest.mark.parametrize(("offset", "ref_length", "alt"), [(0, 1, "T"), (-3, 6, "A"), (-3, 6, "ACGTACGTACGT")])
def test_variants_at_the_tss_keep_the_length(tiny, offset, ref_length, alt):
    dataset = tiny.dataset()
    reference = dataset[1]
    pos = reference.tss + offset
    made = alternative_window(
        dataset, 1, reference, Variant("chr1", pos, ".", base(tiny, "chr1", pos, ref_length), alt, 1)
    )
    assert made.window.onehot.shape == (4_000, 4)
    assert made.window.signals.shape == reference.signals.shape
    np.testing.assert_array_equal(made.window.onehot[: HALF - 3], reference.onehot[: HALF - 3])


def test_a_deletion_moves_the_blacklist_with_its_bases(tiny):
    dataset = tiny.dataset()
    reference = dataset[1]  # blacklist at chr1:9500-9900, TSS at 9000
    variant = Variant("chr1", 9_200, ".", base(tiny, "chr1", 9_200, 51), base(tiny, "chr1", 9_200), 1)
    made = alternative_window(dataset, 1, reference, variant)
    np.testing.assert_array_equal(made.window.blacklist[2_201:3_950], reference.blacklist[2_251:4_000])


# ------------------------------------------------------------------------------------------------------------ effects


def test_reach_is_the_window_of_the_gene(tiny):
    dataset = tiny.dataset()
    places = {7_000: True, 10_999: True, 11_000: False, 6_999: False}
    variants = [Variant("chr1", pos, ".", "A", "C", 1) for pos in places]
    deletion = Variant("chr1", 6_990, ".", "ACGTACGTACGTACGT", "A", 1)
    for given, reached in ((variants, {1: [0, 1]}), ([deletion], {1: [0]})):
        with VariantTable(given) as table:
            assert {gene: table.numbers(*span) for gene, span in spans_in_reach(dataset, table)} == reached


def test_effects_are_differences_of_the_network(tiny):
    dataset, model = tiny.dataset(), small_network(tiny).eval()
    letter = base(tiny, "chr1", 20_700)
    snv = Variant("chr1", 20_700, "a", letter, other(letter), 1)
    deletion = Variant("chr1", 22_300, "d", base(tiny, "chr1", 22_300, 30), base(tiny, "chr1", 22_300), 2)
    effects = effects_of(model, dataset, [snv, deletion])
    assert tuple(effects.columns[:-1]) == COLUMNS
    assert effects["gene_id"].tolist() == ["GENE03", "GENE03"]
    assert effects["distance_to_tss"].tolist() == [-800, 801]
    before = predict_windows(model, [dataset[2]])[0]
    after = predict_windows(model, [alternative_window(dataset, 2, dataset[2], snv).window])[0]
    row = effects.iloc[0]
    assert row["expression_ref"] == before.expression
    assert row["delta_expression"] == pytest.approx(after.expression - before.expression, abs=1e-7)
    assert row["delta_mask"] != 0
    at_tss = base(tiny, "chr1", 21_480)
    strong = effects_of(model, dataset, [Variant("chr1", 21_480, ".", at_tss, other(at_tss), 1)])
    assert strong["delta_expression"][0] != 0
    near = slice(1_200 - FLANK_BP, 1_200 + 1 + FLANK_BP)
    around = np.delete(np.r_[near], FLANK_BP)  # the base itself is not the same in both
    assert row["mask_ref"] == pytest.approx(before.mask[around].mean(), rel=1e-6)
    assert row["delta_mask"] == pytest.approx((after.mask - before.mask)[around].mean(), abs=1e-7)
    change = np.delete(after.mask - before.mask, [1_200])
    assert row["delta_mask_max"] == pytest.approx(change[np.abs(change).argmax()], abs=1e-7)
    shifted = predict_windows(model, [alternative_window(dataset, 2, dataset[2], deletion).window])[0]
    change = np.concatenate([(shifted.mask - before.mask)[:2_801], shifted.mask[2_801:-29] - before.mask[2_830:]])
    assert effects["delta_mask_max"][1] == pytest.approx(change[np.abs(change).argmax()], abs=1e-7)


def test_the_forced_promoter_has_no_part_in_the_mask(tiny):
    model, letters = small_network(tiny).eval(), base(tiny, "chr1", 21_450, 30)
    deletion = Variant("chr1", 21_450, ".", letters, letters[0], 1)  # moves the bases upstream of it by 29
    effect = effects_of(model, tiny.dataset(), [deletion]).iloc[0]
    assert np.isnan(effect["mask_ref"])
    assert np.isnan(effect["delta_mask"])
    dataset = tiny.dataset()
    before = predict_windows(model, [dataset[2]])[0].mask
    after = predict_windows(model, [alternative_window(dataset, 2, dataset[2], deletion).window])[0].mask
    left, right = (after[29:1_800] - before[: 1_800 - 29]), (after - before)[2_200:]
    change = np.concatenate([left, right])
    assert effect["delta_mask_max"] == pytest.approx(change[np.abs(change).argmax()], abs=1e-7)


def test_a_gene_on_the_reverse_strand_is_told_along_the_gene(tiny):
    letter = base(tiny, "chr1", 9_500)
    variant = Variant("chr1", 9_500, ".", letter, other(letter), 1)
    effects = effects_of(small_network(tiny).eval(), tiny.dataset(), [variant])
    assert effects[["gene_strand", "distance_to_tss"]].iloc[0].tolist() == ["-", -500]


def test_the_batch_size_changes_nothing_and_a_plain_network_has_no_mask(tiny):
    from kipoi_seq2exp import Variant as NetworkVariant

    letters = [base(tiny, "chr1", pos) for pos in range(21_000, 21_003)]
    variants = [Variant("chr1", 21_000 + i, ".", letter, other(letter), i) for i, letter in enumerate(letters)]
    model = small_network(tiny).eval()
    one, two = (effects_of(model, tiny.dataset(), variants, size) for size in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    plain = effects_of(small_network(tiny, variant=NetworkVariant.PLAIN).eval(), tiny.dataset(), variants[:1])
    assert plain["delta_mask"].isna().all()
    assert np.isfinite(plain["delta_expression"]).all()


@pytest.mark.parametrize(
    ("reads_dna", "windows"),
    [(True, 1 + 7), (False, 1 + 1)],  # the gene as it is, then the variants whose windows are read unlike another's
)
def test_windows_that_are_read_alike_are_predicted_once(tiny, monkeypatch, reads_dna, windows):
    """Nine variants of a gene, in units of two: apart, both alleles of each would be 18 windows."""
    from kipoi_seq2exp.effects import variants as module
    from kipoi_seq2exp.effects.run import EffectJob, GeneVariants

    places = [*range(21_000, 21_006), 21_000, 21_001]
    letters = [base(tiny, "chr1", pos) for pos in places]
    listed = [Variant("chr1", pos, ".", ref, other(ref), 1) for pos, ref in zip(places, letters, strict=True)]
    listed.append(Variant("chr1", 22_300, ".", base(tiny, "chr1", 22_300, 30), base(tiny, "chr1", 22_300), 1))
    predicted = []

    def counted(model, batch):
        predicted.append(len(batch))
        return predict_windows(model, batch)

    monkeypatch.setattr(module, "predict_windows", counted)
    bench, job, rows = Bench(small_network(tiny, reads_dna=reads_dna).eval(), tiny.dataset()), EffectJob(), []
    for first in range(0, 9, 2):
        numbers = tuple(range(first, min(first + 2, 9)))
        rows += job(bench, GeneVariants(2, numbers, tuple(listed[number] for number in numbers)))
    again = windows + (2 if reads_dna else 0)  # a variant is listed twice in units that are not the same one
    assert sum(predicted) == again
    effects = effects_of(bench.model, bench.dataset, listed)
    assert sum(predicted) == again + windows
    assert [row["delta_expression"] for row in rows] == effects["delta_expression"].tolist()
    assert (effects["delta_expression"][:8] != 0).any() == reads_dna
    assert effects["delta_expression"][8] != 0


def test_a_substitution_reads_no_file_again(tiny, monkeypatch):
    dataset = tiny.dataset()
    reference = dataset[2]
    variant = Variant("chr1", 21_000, ".", base(tiny, "chr1", 21_000, 3), "ACG", 1)
    origin, inserted, letters = place_variant(reference.start, reference.end, reference.tss, variant)
    onehot, signals, blacklist = dataset.read(2, int(origin[0]), int(origin[-1]) + 1)
    onehot[inserted] = encode_bases(letters)
    monkeypatch.setattr(type(dataset), "read", None)
    made = alternative_window(dataset, 2, reference, variant).window
    for name, values in (("onehot", onehot), ("signals", signals), ("blacklist", blacklist)):
        np.testing.assert_array_equal(getattr(made, name), values)


# ------------------------------------------------------------------------------------------------------------ command


def command(tiny, weights, vcf, output, *more):
    return command_line(tiny, weights, output, *more, command=f"variants {vcf}")


def test_the_command_writes_a_table_and_an_annotated_vcf(tiny, tmp_path, records, capsys):
    vcf = write_vcf(tmp_path / "v.vcf", records)
    assert main(command(tiny, small_weights(tiny, tmp_path), vcf, tmp_path / "o")) == 0
    said = capsys.readouterr().out
    assert said.startswith("provisional weights")
    assert "5 alleles, 2 more without a plain sequence left out" in said
    assert "1 allele in no gene's window; 4 alleles in the windows of 2 genes: 4 rows" in said
    table = pd.read_csv(tmp_path / "o" / "variants.tsv", sep="\t")
    assert table.columns[:6].tolist() == ["#CHROM", "POS", "ID", "REF", "ALT", "small/expression/diff"]
    assert set(COLUMNS) - set(table.columns) == {"delta_expression"}
    difference = table["expression_alt"] - table["expression_ref"]
    np.testing.assert_allclose(table["small/expression/diff"], difference, atol=2e-5)
    assert table["ID"].tolist() == ["rs1", "rs2", "multi", "multi"]
    assert table["POS"].tolist() == [8_501, 21_001, 22_001, 22_001]
    annotated = (tmp_path / "o" / "variants.vcf").read_text().splitlines()
    assert annotated[2].startswith("##INFO=<ID=SEQ2EXP,")
    assert annotated[3].startswith("#CHROM")
    info = [line.split("\t")[7] for line in annotated[4:]]
    delta = f"{table['small/expression/diff'][0]:.6g}"
    assert info[0].startswith(f"AC=1;SEQ2EXP={table['ALT'][0]}|GENE02|{delta}|")
    assert info[2].count("GENE03") == 2
    assert info[3:] == [".", "."]
    about = json.loads((tmp_path / "o" / "variants.json").read_text())
    assert about["model"]["name"].endswith("small.safetensors")
    assert "5 alleles, 2 more without a plain sequence left out" in about["notes"][0]


def test_the_table_merges_with_those_of_kipoi_veff2(tiny, tmp_path, records):
    vcf = write_vcf(tmp_path / "v.vcf", [[*records[0][:2], ".", *records[0][3:]], records[1]])
    assert main(command(tiny, small_weights(tiny, tmp_path), vcf, tmp_path / "o")) == 0
    places = [(chrom, pos, ident, ref.upper(), alt) for chrom, pos, ident, ref, alt, *_ in records[:2]]
    lines = [["#CHROM", "POS", "ID", "REF", "ALT", "Basset/8988T/diff"], [*places[0], 0.5], [*places[1], -0.5]]
    lines[1][2] = ""  # how kipoi-veff2 writes an absent ID
    (tmp_path / "basset.tsv").write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    index = ["#CHROM", "POS", "ID", "REF", "ALT"]  # what kipoi-veff2's merge does: pandas as it is, side by side
    tables = [
        pd.read_csv(file, sep="\t", index_col=index)
        for file in (tmp_path / "basset.tsv", tmp_path / "o" / "variants.tsv")
    ]
    merged = pd.concat(tables, axis=1)
    assert len(merged) == 2
    assert merged[["Basset/8988T/diff", "small/expression/diff"]].notna().all().all()


def test_a_served_model_is_called_as_in_kipoi():
    row = dict.fromkeys(COLUMNS, 0.0) | {"ID": "."}
    table = effects_table(pd.DataFrame([row]), "K562")
    assert table.columns[5] == "Seq2Exp/K562/expression/diff"
    assert table["ID"].tolist() == [""]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: 8_502}, "is not what the FASTA has"),
        ({0: "1"}, "the FASTA names it 'chr1'"),
        ({0: "chr1", 1: 99_999}, "beyond the end of chr1"),
        ({1: "x"}, "POS (column 2) is 'x', not a whole number"),
    ],
)
def test_misuse_is_one_sentence(tiny, tmp_path, records, capsys, change, message):
    record = list(records[0])
    for column, value in change.items():
        record[column] = value
    if change == {1: 8_502}:
        record[3] = other(base(tiny, "chr1", 8_501))
    vcf = write_vcf(tmp_path / "v.vcf", [record])
    assert main(command(tiny, small_weights(tiny, tmp_path), vcf, tmp_path / "o")) == 1
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "o").exists()


def test_mismatches_are_skipped_and_counted(tiny, tmp_path, records, capsys):
    wrong = list(records[0])
    wrong[3] = other(base(tiny, "chr1", 8_500))
    wrong[4] = other(wrong[3])
    vcf = write_vcf(tmp_path / "v.vcf", [wrong, records[1]])
    assert main(command(tiny, small_weights(tiny, tmp_path), vcf, tmp_path / "o", "--skip-mismatch")) == 0
    assert "1 allele left out: the FASTA has another REF" in capsys.readouterr().out


def test_variants_out_of_reach_are_one_sentence(tiny, tmp_path, records, capsys):
    vcf = write_vcf(tmp_path / "v.vcf", [records[3]])
    assert main(command(tiny, small_weights(tiny, tmp_path), vcf, tmp_path / "o")) == 1
    assert "no variant lies in the window of a gene (1 variant, 7 genes, 2,000 bp" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
