"""Labels: the column or the stranded sum, and every way they can be unusable."""

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.settings import from_mapping
from kipoi_seq2exp.training.labels import LabelConfig, LabelScale, labels_from_tracks, read_labels


def gene_table(values=None, tss=(1_000, 1_000, 50), strand=("+", "-", "+")):
    table = {"gene_id": ["G0", "G1", "G2"], "chrom": ["chr1"] * 3, "tss": tss, "strand": strand}
    return pd.DataFrame({**table, **({} if values is None else {"reads": values})})


def write_track(path, values):
    with pyBigWig.open(str(path), "w") as track:
        track.addHeader([("chr1", len(values))])
        track.addEntries("chr1", 0, values=values.tolist(), span=1, step=1)


@pytest.fixture
def tracks(tmp_path):
    rng = np.random.default_rng(0)
    plus, minus = rng.integers(0, 9, 3_000).astype(float), -rng.integers(0, 9, 3_000).astype(float)
    write_track(tmp_path / "plus.bw", plus)
    write_track(tmp_path / "minus.bw", minus)
    return tmp_path, plus, minus


def test_column_in_either_scale():
    genes = gene_table([0, 9, 99])
    assert read_labels(genes, LabelConfig(column="reads")).tolist() == [0, 9, 99]
    assert read_labels(genes, LabelConfig(column="reads", scale=LabelScale.COUNT)).tolist() == [0, 1, 2]


def test_tracks_are_summed_on_the_genes_own_strand_and_clipped_at_the_end(tracks):
    folder, plus, minus = tracks
    labels = read_labels(gene_table(), LabelConfig(plus="plus.bw", minus="minus.bw"), folder)
    sums = [plus[808:1_192].sum(), -minus[808:1_192].sum(), plus[:242].sum()]
    np.testing.assert_allclose(labels, np.log10(np.array(sums) + 1), rtol=1e-6)


def test_swapped_tracks_are_refused(tracks):
    folder = tracks[0]
    with pytest.raises(InputError, match=r"negative values.*plus strand"):
        labels_from_tracks(gene_table(), folder / "minus.bw", folder / "plus.bw")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None, 2], "label 'reads' of the gene G1 is nan"),
        ([1, 2, -0.5], r"label 'reads' of the gene G2 is -0.5 \(1 such genes\)"),
        (["1", "x", "2"], "of the gene G1 is x"),
        ([3, 3, 3], "all 3 labels are 3"),
    ],
)
def test_unusable_labels_are_named(values, message):
    with pytest.raises(InputError, match=message):
        read_labels(gene_table(values), LabelConfig(column="reads"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either 'column', or both"),
        ({"plus": "a.bw"}, "either 'column', or both"),
        ({"column": "x", "plus": "a.bw", "minus": "b.bw"}, "either 'column', or both"),
        ({"column": "x", "flank_bp": 0}, "flank_bp must be above 0"),
        ({"column": "x", "scale": "counts"}, "did you mean 'count'"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(LabelConfig, fields, "label")


def test_bad_files_are_named(tracks):
    folder = tracks[0]
    (folder / "page.bw").write_text("<html>")
    with pytest.raises(InputError, match=r"page.bw\) is not a bigWig: it holds a web page"):
        labels_from_tracks(gene_table(), folder / "page.bw", folder / "minus.bw")
    with pytest.raises(InputError, match=r"none.bw\): no such file"):
        labels_from_tracks(gene_table(), folder / "none.bw", folder / "minus.bw")
    with pytest.raises(InputError, match=r"plus.bw\) has no chromosome 'chr9' \(it has chr1\)"):
        labels_from_tracks(gene_table().assign(chrom="chr9"), folder / "plus.bw", folder / "minus.bw")
    with pytest.raises(InputError, match=r"the TSS chr1:9,001 of G0 lies outside chr1"):
        labels_from_tracks(gene_table(tss=(9_000, 1, 1)), folder / "plus.bw", folder / "minus.bw")
    with pytest.raises(ConfigError, match=r"did you mean 'reads'"):
        read_labels(gene_table([1, 2, 3]), LabelConfig(column="raeds"))


@pytest.mark.parametrize("name", ["plus.bw", "minus.bw"])
def test_a_label_track_that_is_cut_short_is_refused(tracks, name):
    folder = tracks[0]
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(0.7 * len(whole))])
    with pytest.raises(InputError, match=rf"strand of the label' \(.*{name}\) is truncated"):
        labels_from_tracks(gene_table(), folder / "plus.bw", folder / "minus.bw")


def test_a_label_track_of_another_build_is_refused(tracks, tmp_path):
    (tmp_path / "other.fa").write_text(">chr1\n" + "A" * 2_900 + "\n")
    with pytest.raises(InputError, match=r"chr1 is 3,000 bp long but 2,900 bp in the FASTA"):
        read_labels(
            gene_table(), LabelConfig(plus="plus.bw", minus="minus.bw"), tracks[0], Genome(tmp_path / "other.fa")
        )
