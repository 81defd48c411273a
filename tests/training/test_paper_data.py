"""The authors' data folder, rebuilt in miniature by the test, gives the windows and labels that went into it."""

from __future__ import annotations

import dataclasses
import pickle
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import GENES, WINDOW_BP, write_bigwig
from training_runs import run_settings

from kipoi_seq2exp.data.tracks.contact_files import PublishedContacts
from kipoi_seq2exp.data.tracks.contacts import ContactQuery
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.training.config import training_config
from kipoi_seq2exp.training.data import LabelledWindows, open_cells
from kipoi_seq2exp.training.paper_data import (
    EXPRESSION,
    FOLDS,
    PickledBlacklist,
    open_published,
    read_published_genes,
)


class Touch:
    """Something a pickle must not be able to do."""

    def __reduce__(self):
        return (print, ("run from a pickle",))


@pytest.fixture
def folder(tiny, tmp_path):
    """The layout of the published data set, with the tiny genome in it."""
    top = tmp_path / "GeneExp"
    data = top / "promo_enhan_inter"
    (top / "hg38").mkdir(parents=True)
    shutil.copy(tiny.fasta, top / "hg38" / "hg38.ml.fa")
    for name, place in (("h3k27ac", "H3K27ac"), ("dnase", "DNase-seq")):
        (data / place / "K562").mkdir(parents=True)
        shutil.copy(tiny.tracks[name], data / place / "K562" / "ENCFF000AAA.bigWig")
    peaks = data / "DNase-seq" / "K562" / "peaks" / "peaks_bigWig"
    peaks.mkdir(parents=True)
    write_bigwig(peaks / "macs3.bigWig", {c: (np.arange(len(v)) % 7 == 0) * 2.0 for c, v in tiny.bases.items()})
    genes = tiny.dataset().genes
    features = [c for c in genes if c.isupper() or c.endswith("log10zscore")]
    expression = genes[["gene_id", *features]].rename(columns={"gene_id": "ENSID"})
    expression["K562_CAGE_128*3_sum"] = [0, 9, 99, 999, 4, 5, 6]
    expression["Actual_K562"] = 1.0
    expression.to_csv(data / EXPRESSION, index=False)
    folds = genes[["gene_id", "chrom"]].rename(columns={"gene_id": "ENSID"})
    for fold in range(1, 13):
        folds[f"fold_{fold}"] = ["train"] * 4 + ["valid", "test", "test"]
    folds["Gene name"] = genes["gene_name"]
    folds.to_csv(data / FOLDS, index=False)
    abc = top / "ABC" / "K562"
    abc.mkdir(parents=True)
    listed = pd.DataFrame({"symbol": genes["gene_name"], "chr": genes["chrom"], "tss": genes["tss"]})
    listed["H3K27ac.RPM.TSS1Kb"], listed["DHS.RPM.TSS1Kb"] = np.arange(7) * 4.0, 9.0
    listed.to_csv(abc / "GeneList.txt", sep="\t", index=False)
    contacts = data / "HiC" / "K562"
    contacts.mkdir(parents=True)
    for chrom in ("chr1", "chr2"):
        with h5py.File(contacts / f"hic_feat_{chrom}.h5", "w") as file:
            for _, where, tss, _ in GENES:
                if where == chrom:
                    file[f"{chrom}_{tss}"] = contact(tss)
    bools = {chrom: np.zeros(len(bases), dtype=bool) for chrom, bases in tiny.bases.items()}
    bools["chr1"][9_500:9_900] = True
    (data / "blacklist.pkl").write_bytes(pickle.dumps(bools))
    return top


def contact(tss):
    return np.random.default_rng(tss).random(WINDOW_BP).astype(np.float32)


def test_windows_labels_and_folds_are_those_of_the_folder(tiny, folder):
    published = open_published(folder, "K562", tiny.inputs)
    assert published.genes["gene_id"].tolist() == [gene[0] for gene in GENES]
    np.testing.assert_allclose(published.labels[:4], [0, 1, 2, 3], rtol=1e-6)
    assert published.genes["fold_11"].tolist()[-3:] == ["valid", "test", "test"]
    plain = tiny.dataset()
    for row, (_, chrom, tss, _) in enumerate(GENES):
        window, expected = published.windows[row], plain[row]
        np.testing.assert_array_equal(window.onehot, expected.onehot)
        np.testing.assert_array_equal(window.signals[:, :2], expected.signals[:, :2])
        np.testing.assert_allclose(window.signals[:, 2], np.log10(contact(tss) + 1), rtol=1e-5)
        np.testing.assert_allclose(window.features[:8], expected.features[:8])
        assert window.features[8] == pytest.approx(6 * np.sqrt(row))
        inside = np.arange(window.start, window.end)
        np.testing.assert_array_equal(window.blacklist, (chrom == "chr1") & (inside >= 9_500) & (inside < 9_900))
    assert published.peaks is not None
    assert published.peaks.mask("chr1", 5, 10).tolist() == [False, False, True, False, False]
    published.windows.close()


def test_a_shorter_and_a_longer_window_keep_the_contacts_in_place(tiny, folder):
    track = PublishedContacts(folder / "promo_enhan_inter" / "HiC" / "K562", tiny.inputs.tracks[2])
    query, values = ContactQuery("GENE03", "chr1", 21_500), contact(21_500)
    np.testing.assert_array_equal(track.profile(query, 21_400, 21_600), values[1_900:2_100])
    longer = track.profile(query, 21_500 - 2_010, 21_500 + 2_010)
    np.testing.assert_array_equal(longer[10:-10], values)
    assert not longer[:10].any()
    assert "published contacts" in track.description
    track.close()


def test_a_run_reads_the_folder(tiny, folder):
    data = [{"layout": "published", "cell_type": "K562"}]
    split = {"scheme": "column", "column": "fold_11", "validation": ["valid"], "test": ["test"]}
    config = training_config(run_settings(tiny, data=data, split=split, data_root=str(folder)), "run")
    cells = open_cells(config)
    assert [len(LabelledWindows(cells, part, config)) for part in ("train", "validation", "test")] == [4, 1, 2]
    assert LabelledWindows(cells, "test", config)[0]["peaks"].shape == (800,)
    cells[0].windows.close()


def test_genes_without_a_tss_are_left_out_and_counted(folder, caplog):
    path = folder / "ABC" / "K562" / "GeneList.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-2]) + "\n")
    assert len(read_published_genes(folder, "K562")) == 5
    assert "2 of 7 genes have no single TSS" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f / "promo_enhan_inter" / "HiC"), "found 0 folders HiC/K562"),
        (lambda f: (f / "promo_enhan_inter" / FOLDS).unlink(), f"holds no {FOLDS}"),
        (lambda f: (f / "ABC" / "K562" / "GeneList.txt").unlink(), "found 0 files GeneList.txt in a folder 'K562'"),
        (lambda f: shutil.rmtree(f / "promo_enhan_inter" / "H3K27ac"), "found 0 files H3K27ac/K562/*.bigWig"),
        (lambda f: (f / "promo_enhan_inter" / FOLDS).write_text("a,b\n1,2\n"), "has no column 'ENSID' (it has a, b)"),
        (
            lambda f: (f / "promo_enhan_inter" / "HiC" / "K562" / "hic_feat_chr2.h5").unlink(),
            "has no data set 'chr2_8000' for GENE05 (3 genes have none)",
        ),
        (
            lambda f: (f / "promo_enhan_inter" / "HiC" / "K562" / "hic_feat_chr2.h5").write_text("<html>"),
            "is not an HDF5 file",
        ),
        (
            lambda f: (f / "promo_enhan_inter" / "blacklist.pkl").write_bytes(pickle.dumps({"chr1": Touch()})),
            "it holds builtins.print, which is not an array",
        ),
        (
            lambda f: (f / "promo_enhan_inter" / "blacklist.pkl").write_bytes(pickle.dumps([1])),
            "expected a dict of chromosome to bools, found list",
        ),
    ],
)
def test_a_spoiled_folder_is_named(tiny, folder, capsys, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=re.escape(message)):
        open_published(folder, "K562", tiny.inputs)
    assert "run from a pickle" not in capsys.readouterr().out


def test_a_cell_type_and_a_track_that_are_not_there_are_named(tiny, folder):
    with pytest.raises(InputError, match="expected one"):
        open_published(folder, "H1", tiny.inputs)
    other = dataclasses.replace(
        tiny.inputs, tracks=(dataclasses.replace(tiny.inputs.tracks[0], name="atac"),), features=()
    )
    with pytest.raises(InputError, match="has no track 'atac'"):
        open_published(folder, "K562", other)
    with pytest.raises(InputError, match="no such folder"):
        open_published(folder / "none", "K562", tiny.inputs)


def test_blacklist_runs(tmp_path):
    path = tmp_path / "b.pkl"
    path.write_bytes(pickle.dumps({"chr1": [True, False, True, True], "chr2": np.zeros(3, dtype=bool)}))
    assert PickledBlacklist(path).mask("chr1", 0, 5).tolist() == [True, False, True, True, False]
    assert not PickledBlacklist(path).mask("chr2", 0, 3).any()
