"""Prediction runs: what is stored, resuming, refusing, batches, masks given from outside."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from conftest import write_bigwig
from small_runs import PROMOTER_BP, finished_run, small_network, small_request, small_weights

from kipoi_seq2exp import MaskMode, Seq2Exp, load_model, save_model
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.elements.calls import CallSettings
from kipoi_seq2exp.elements.outputs import summarise
from kipoi_seq2exp.errors import ConfigError, InputError, OutputError, WeightsError
from kipoi_seq2exp.prediction.request import checked_device, inputs_of, observed_label, open_model
from kipoi_seq2exp.prediction.run import fill_store, predict_windows, prepare, read_ahead
from kipoi_seq2exp.prediction.store import STORE_NAME, read_predictions
from kipoi_seq2exp.settings import differences


@pytest.fixture(scope="module")
def whole_run(tiny, weights, tmp_path_factory):
    """Return the folder of a run that nothing interrupted, with the Beta of each base."""
    folder = tmp_path_factory.mktemp("whole")
    fill_store(prepare(small_request(tiny, weights, save_beta=True), folder))
    return folder


def bytes_of(folder):
    store = folder / STORE_NAME
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def reading_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("windows")]


# -------------------------------------------------------------------------------------------------------- the numbers


def test_the_store_holds_what_the_network_says(tiny, weights, whole_run):
    model, _ = open_model(small_request(tiny, weights))
    with tiny.dataset(inputs=model.inputs) as windows, read_predictions(whole_run) as found:
        assert found.genes["gene_id"].tolist() == windows.genes["gene_id"].tolist()
        for index in (0, 3, 6):
            window = windows[index]
            arrays = (window.onehot, window.signals, window.features)
            with torch.inference_mode():
                output = model(
                    *(torch.from_numpy(array)[None] for array in arrays),
                    blacklist=torch.from_numpy(window.blacklist)[None],
                )
            assert found.genes["expression"][index] == pytest.approx(float(output.expression[0]), abs=1e-6)
            np.testing.assert_allclose(found.network_mask(index), output.mask[0].numpy(), atol=1e-6)
            np.testing.assert_allclose(found.concentrations(index)[0], output.z.alpha[0].numpy(), rtol=1e-5)
            assert found.genes["known_fraction"][index] == window.onehot.sum() / len(window.onehot)
            assert found.genes["start"][index] == window.start
            assert (found.mask(index)[window.blacklist][: PROMOTER_BP // 4] == 0).all()


def test_the_batch_size_changes_no_number(tiny, weights, whole_run, tmp_path):
    fill_store(prepare(small_request(tiny, weights, batch_size=3), tmp_path))
    with read_predictions(tmp_path) as batched, read_predictions(whole_run) as single:
        np.testing.assert_allclose(batched.genes["expression"], single.genes["expression"], atol=2e-6)
        for index in range(len(single)):
            np.testing.assert_allclose(batched.mask(index), single.mask(index), atol=1e-6)


def test_gene_ids_choose_and_order_the_rows(tiny, weights, whole_run, tmp_path):
    fill_store(prepare(small_request(tiny, weights, gene_ids=("GENE05", "GENE02")), tmp_path))
    with read_predictions(tmp_path) as some, read_predictions(whole_run) as every:
        assert some.genes["gene_id"].tolist() == ["GENE05", "GENE02"]
        expected = every.genes.set_index("gene_id").loc[["GENE05", "GENE02"]]
        assert some.genes["expression"].tolist() == expected["expression"].tolist()
        assert some.genes["observed"].tolist() == expected["observed"].tolist()


def test_mask_mode_and_peaks(tiny, weights, tmp_path):
    fill_store(prepare(small_request(tiny, weights, mask_mode=MaskMode.TOP), tmp_path / "top"))
    fill_store(prepare(small_request(tiny, weights, peaks=tiny.peaks), tmp_path / "peaks"))
    with read_predictions(tmp_path / "top") as top, read_predictions(tmp_path / "peaks") as peaks:
        assert set(np.unique(top.mask(1))) == {0, 1}
        mask = peaks.mask(2)  # GENE03, whose peak lies 600 to 900 bp behind the TSS
        kept = np.zeros(len(mask), dtype=bool)
        kept[peaks.promoter] = True
        middle = len(mask) // 2
        kept[middle + 600 : middle + 900] = True
        np.testing.assert_array_equal(mask, kept.astype(np.float32))
        assert peaks.genes["expression"][2] != top.genes["expression"][2]
        assert peaks.mask(1)[middle + 500 : middle + 900].max() == 0  # GENE02: its peak is blacklisted


def test_networks_that_read_a_mask_or_make_none(tiny, tmp_path):
    reads = small_weights(tiny, tmp_path, "peaks", variant="peaks", generator_layers=0)
    with pytest.raises(ConfigError, match=r"read a mask of peaks: give a BED .*--peaks"):
        prepare(small_request(tiny, reads), tmp_path / "none")
    fill_store(prepare(small_request(tiny, reads, peaks=tiny.peaks), tmp_path / "peaks"))
    with read_predictions(tmp_path / "peaks") as found:
        assert found.has_mask
    plain = small_weights(tiny, tmp_path, "plain", variant="plain", generator_layers=0)
    fill_store(prepare(small_request(tiny, plain), tmp_path / "plain"))
    with read_predictions(tmp_path / "plain") as found:
        assert not found.has_mask
        assert len(found) == 7
    with pytest.raises(ConfigError, match="mask mode 'hard': the model makes no mask"):
        prepare(small_request(tiny, plain, mask_mode=MaskMode.HARD), tmp_path / "plain")


# ----------------------------------------------------------------------------------------------- resuming and refusing


class Stop(Exception):
    pass


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_resumed_run_equals_one_that_was_not_interrupted(tiny, weights, tmp_path, batch_size):
    request = small_request(tiny, weights, batch_size=batch_size)
    fill_store(prepare(request, tmp_path / "whole"))

    def stop_after_four(progress):
        if progress.done == 4:
            raise Stop

    run = prepare(request, tmp_path / "cut")
    with pytest.raises(Stop):
        fill_store(run, stop_after_four)
    assert int(run.store.done.sum()) == 4
    assert reading_threads() == []
    seen = []
    end = fill_store(prepare(request, tmp_path / "cut"), seen.append)
    assert (seen[0].done, seen[0].resumed) == (4, 4)
    assert (end.done, end.total, end.resumed) == (7, 7, 4)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_a_complete_run_computes_nothing_again(tiny, weights, whole_run, monkeypatch):
    before = bytes_of(whole_run)
    monkeypatch.setattr("kipoi_seq2exp.prediction.run.predict_windows", None)
    end = fill_store(prepare(small_request(tiny, weights, save_beta=True), whole_run))
    assert (end.done, end.resumed) == (7, 7)
    assert bytes_of(whole_run) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_mode": MaskMode.HARD}, "network: mask_mode was soft, now hard"),
        ({"projections": "bfloat16"}, "projections was float32, now bfloat16"),
        ({"gene_ids": ("GENE01",)}, "genes was 7 genes"),
        ({"blacklist": None}, "files: blacklist was .*, now none"),
        ({"save_beta": False}, "save beta was True, now False"),
        ({"label": "ORFEXONDENSITY"}, "label was label, now ORFEXONDENSITY"),
    ],
)
def test_other_settings_are_refused(tiny, weights, whole_run, changes, words):
    request = small_request(tiny, weights, **{"save_beta": True, **changes})
    with pytest.raises(OutputError, match=f"holds predictions of another run .*{words}.*--overwrite"):
        prepare(request, whole_run)


def test_other_inputs_are_refused_and_overwrite_starts_anew(tiny, weights, tmp_path):
    track = tmp_path / "dnase.bw"
    shutil.copy(tiny.tracks["dnase"], track)
    sources = {name: str(source) for name, source in {**tiny.sources, "dnase": track}.items()}
    request = small_request(tiny, weights, sources=sources, gene_ids=("GENE02",))
    fill_store(prepare(request, tmp_path / "out"))
    shutil.copy(tiny.tracks["h3k27ac"], track)
    with pytest.raises(OutputError, match="files: track dnase was"):
        prepare(request, tmp_path / "out")
    assert not prepare(request, tmp_path / "out", overwrite=True).store.done.any()


def test_a_file_per_gene_that_was_replaced_is_another_input(tiny, weights, tmp_path):
    for number, gene_id in enumerate(("GENE02", "GENE05")):
        profile = np.full(60_000 if number == 0 else 30_000, 0.1, dtype=np.float32)
        write_bigwig(tmp_path / f"{gene_id}.bw", {"chr1" if number == 0 else "chr2": profile})
    sources = {**{name: str(source) for name, source in tiny.sources.items()}, "hic": f"{tmp_path}/{{gene_id}}.bw"}
    request = small_request(tiny, weights, sources=sources, gene_ids=("GENE02", "GENE05"))
    store = prepare(request, tmp_path / "out").store
    assert differences(store.request, prepare(request, tmp_path / "out").store.request) == []
    write_bigwig(tmp_path / "GENE05.bw", {"chr2": np.full(30_000, 0.2, dtype=np.float32)})
    with pytest.raises(OutputError, match=r"files: track hic was .*2 files"):
        prepare(request, tmp_path / "out")


def test_a_run_that_fails_before_its_first_gene_leaves_nothing(tiny, weights, tmp_path):
    fasta = tmp_path / "copy.fa"
    shutil.copy(tiny.fasta, fasta)
    run = prepare(small_request(tiny, weights, fasta=fasta), tmp_path / "out")
    fasta.write_bytes(fasta.read_bytes().replace(b"A", b"J"))
    with pytest.raises(InputError, match="was replaced by another file"):
        fill_store(run)
    assert list((tmp_path / "out").iterdir()) == []


def test_other_weights_are_refused(tiny, weights, whole_run, tmp_path):
    model = small_network(tiny)
    with torch.no_grad():
        model.expression_head[-1].bias += 1
    other = tmp_path / "other.safetensors"
    save_model(model, other)
    with pytest.raises(OutputError, match="weights was"):
        prepare(small_request(tiny, other, save_beta=True), whole_run)


def test_what_is_not_ours_is_never_removed(tiny, weights, tmp_path):
    theirs = tmp_path / STORE_NAME
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="was not made by this command"):
        prepare(small_request(tiny, weights), tmp_path, overwrite=True)
    assert (theirs / "notes.txt").read_text() == "mine"


def test_differences_name_what_changed():
    before, now = {"a": 1, "deep": {"x": "p", "y": []}}, {"a": 1, "deep": {"x": "q", "y": []}, "new": 2}
    assert differences(before, now) == ["deep: x was p, now q", "new was none, now 2"]
    assert differences(before, before) == []


# -------------------------------------------------------------------------------------------------- reading in advance


class Slow:
    """A data set that notes what was read, in which thread."""

    def __init__(self, fail_at=None):
        self.read, self.threads, self.fail_at = [], set(), fail_at

    def __getitem__(self, index):
        self.read.append(index)
        self.threads.add(threading.current_thread().name)
        if index == self.fail_at:
            raise InputError("window 3 is damaged")
        return index


def test_the_next_batch_is_read_while_this_one_is_used():
    windows = Slow()
    batches = read_ahead(windows, [range(0, 2), range(2, 4), range(4, 5)])
    assert next(batches) == [0, 1]
    deadline = time.monotonic() + 60
    while len(windows.read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert windows.read == [0, 1, 2, 3]  # the second batch, nothing beyond
    assert list(batches) == [[2, 3], [4]]
    assert len(windows.threads) == 1
    assert threading.current_thread().name not in windows.threads


def test_no_batches_read_nothing():
    windows = Slow()
    assert list(read_ahead(windows, [])) == []
    assert windows.read == []


def test_an_error_in_the_reading_thread_arrives_after_the_rows_before_it():
    batches = read_ahead(Slow(fail_at=1), [range(0, 1), range(1, 2), range(2, 3)])
    assert next(batches) == [0]
    with pytest.raises(InputError, match="window 3 is damaged"):
        next(batches)
    assert reading_threads() == []


# ------------------------------------------------------------------------------------------------ models and requests


def test_weights_that_do_not_fit_their_inputs(tiny, tmp_path):
    model = small_network(tiny)
    model.inputs = dataclasses.replace(model.inputs, features=model.inputs.features[:5])
    save_model(model, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="read 9 features, but 5 are named: UTR5LEN"):
        prepare(small_request(tiny, tmp_path / "w.safetensors"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_without_names_need_a_cell_type(tiny, tmp_path):
    model = small_network(tiny)
    model.inputs = None
    with pytest.raises(WeightsError, match="give a cell type"):
        inputs_of(model, None)
    inputs = inputs_of(model, "GM12878")
    assert (inputs.cell_type, inputs.window_bp, inputs.promoter_bp) == ("GM12878", 4_000, PROMOTER_BP)
    with pytest.raises(ConfigError, match=r"no cell type 'K526': .*did you mean 'K562'"):
        inputs_of(model, "K526")


def test_a_cell_type_with_other_tracks_is_refused(tiny):
    model = small_network(tiny)
    model.inputs = dataclasses.replace(
        model.inputs, tracks=model.inputs.tracks[::-1], features=model.inputs.features[:8]
    )
    with pytest.raises(WeightsError, match="read the tracks hic, dnase, h3k27ac, the cell type 'K562' has"):
        inputs_of(model, "K562")


def test_labels(tiny):
    genes = read_genes(tiny.genes)
    assert observed_label(genes, None)[0] == "label"
    assert observed_label(genes.drop(columns="label"), None) == (None, None)
    with pytest.raises(InputError, match=r"no label column 'lable' .did you mean 'label'"):
        observed_label(genes, "lable")
    with pytest.raises(InputError, match="'gene_name' of the gene table holds text"):
        observed_label(genes, "gene_name")


def test_devices():
    assert checked_device(None) is None
    assert checked_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used here"):
        checked_device("gpu")


def test_batch_size_must_be_positive(tiny, weights):
    with pytest.raises(ConfigError, match="batch size must be at least 1 and at most 100,000, found 0"):
        small_request(tiny, weights, batch_size=0)


def test_an_ensemble_says_how_far_its_members_differ(tiny, weights, tmp_path):
    member = load_model(weights, "cpu")
    other = load_model(weights, "cpu")
    with torch.no_grad():
        other.expression_head[-1].bias += 1.0
    file = tmp_path / "two.safetensors"
    save_model(Seq2Exp.of_members([member, other]), file)
    finished = finished_run(tiny, file, tmp_path / "results")
    alone = finished_run(tiny, weights, tmp_path / "single")
    table, single = (summarise(read_predictions(run.store.path), CallSettings()).genes for run in (finished, alone))
    np.testing.assert_allclose(table["expression"], single["expression"] + 0.5, atol=1e-5)
    np.testing.assert_allclose(table["expression_sd"], np.sqrt(0.5), atol=1e-5)
    assert "expression_sd" not in single


def test_predict_windows_returns_beta_when_asked(tiny, weights):
    model, _ = open_model(small_request(tiny, weights))
    with tiny.dataset(inputs=model.inputs) as windows:
        pair = [windows[1], windows[2]]
        rows = predict_windows(model, pair, save_beta=True)
        assert [row.alpha.shape for row in rows] == [(4_000,), (4_000,)]
        assert predict_windows(model, pair)[0].alpha is None


def test_genes_of_a_gtf_are_chosen_by_type_and_symbol_and_stay_known_by_it(tiny, weights, tmp_path):
    text = tiny.gtf.read_text().replace('GENE02.3"; gene_type "protein_coding', 'GENE02.3"; gene_type "lncRNA')
    gtf = tmp_path / "genes.gtf"
    gtf.write_text(text)
    features = tuple(dataclasses.replace(feature, mean=0.5) for feature in tiny.inputs.features)
    network = small_network(tiny)
    network.inputs = dataclasses.replace(network.inputs, features=features)
    save_model(network, tmp_path / "small.safetensors")
    changes = {"genes": gtf, "missing_features": "mean", "gene_type": "protein_coding"}
    request = small_request(tiny, tmp_path / "small.safetensors", **changes, gene_ids=("gene03", "GENE05"))
    run = prepare(request, tmp_path / "out")
    fill_store(run)
    with read_predictions(tmp_path / "out") as found:
        assert found.genes["gene_id"].tolist() == ["GENE03.3", "GENE05"]
        assert found.index("gene05") == 1
    with pytest.raises(InputError, match="has no gene 'gene02'"):
        prepare(dataclasses.replace(request, gene_ids=("gene02",)), tmp_path / "other")
