"""Contributions against finite differences, completeness of integrated gradients, mutagenesis by hand, the command."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from small_runs import command_line, small_network, small_weights

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.config import Variant
from kipoi_seq2exp.effects.contributions import gradient_times_input, integrated_gradients, mutagenesis
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.prediction.run import predict_windows


@pytest.fixture(scope="module")
def window(tiny):
    return tiny.dataset()[2]


@pytest.fixture(scope="module")
def model(tiny):
    return small_network(tiny).eval()


def expression(model, window):
    return predict_windows(model, [window])[0].expression


def test_gradients_are_finite_differences(model, window):
    found = gradient_times_input(model, window)
    step = 0.05
    for track in range(3):
        values = window.signals.copy()
        values[1_950:2_050, track] *= 1 + step
        more = expression(model, dataclasses.replace(window, signals=values))
        values = window.signals.copy()
        values[1_950:2_050, track] *= 1 - step
        less = expression(model, dataclasses.replace(window, signals=values))
        slope = (more - less) / (2 * step)
        assert found.tracks[1_950:2_050, track].sum() == pytest.approx(slope, rel=0.05, abs=1e-4)
    assert np.abs(found.dna).max() > 0
    assert np.isnan(found.delta)


def test_integrated_gradients_add_up(model, window):
    calls = []
    found = integrated_gradients(model, window, 32, lambda: calls.append(1))
    empty = dataclasses.replace(window, onehot=window.onehot * 0, signals=window.signals * 0)
    total = expression(model, window) - expression(model, empty)
    assert found.sum - found.delta == pytest.approx(total, abs=1e-6)
    assert abs(found.delta) < 0.02 * abs(total)
    assert len(calls) == 32
    assert abs(integrated_gradients(model, window, 2).delta) > abs(found.delta)
    with pytest.raises(ConfigError, match="at least one step"):
        integrated_gradients(model, window, 0)


def by_hand(model, window, steps):
    """Integrated gradients as a plain loop: the slow twin."""
    inputs = [torch.from_numpy(array)[None].float() for array in (window.onehot, window.signals)]
    fixed = [torch.from_numpy(array)[None] for array in (window.features, window.blacklist)]
    sums = [torch.zeros_like(values) for values in inputs]
    for step in range(steps):
        at = [((step + 0.5) / steps * values).requires_grad_() for values in inputs]
        gradients = torch.autograd.grad(model(*at, fixed[0], blacklist=fixed[1]).expression.sum(), at)
        sums = [total + gradient / steps for total, gradient in zip(sums, gradients, strict=True)]
    return [(values * total)[0].double().numpy() for values, total in zip(inputs, sums, strict=True)]


@pytest.mark.parametrize("variant", ["soft", "hard", "plain"])
def test_contributions_equal_a_plain_loop(tiny, window, variant):
    model = small_network(tiny, variant=Variant(variant)).eval()
    dna, tracks = by_hand(model, window, 4)
    found = integrated_gradients(model, window, 4)
    scale = max(np.abs(dna).max(), np.abs(tracks).max())
    np.testing.assert_allclose(found.dna, dna.sum(axis=1), atol=1e-5 * scale)
    np.testing.assert_allclose(found.tracks, tracks, atol=1e-5 * scale)
    assert not model.encoder.checkpoint_layers


def test_without_captum_one_sentence(tiny, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert main(command(tiny, small_weights(tiny, tmp_path), tmp_path / "o")) == 1
    said = capsys.readouterr().err.strip()
    assert said.endswith("need captum: pip install 'kipoi-seq2exp[interpret]' (in-silico mutagenesis does not).")
    assert not (tmp_path / "o").exists()


def test_unknown_bases_contribute_nothing(tiny, model):
    window = tiny.dataset()[0]  # reaches beyond the chromosome's start
    assert np.abs(gradient_times_input(model, window).dna[: -window.start]).max() == 0


@pytest.mark.parametrize("batch_size", [1, 4])
def test_mutagenesis_is_the_network_on_mutated_dna(model, window, batch_size):
    change = mutagenesis(model, window, slice(1_990, 1_994), batch_size)
    before = expression(model, window)
    for row in range(4):
        for letter in range(4):
            onehot = window.onehot.copy()
            onehot[1_990 + row] = np.eye(4, dtype=np.uint8)[letter]
            after = expression(model, dataclasses.replace(window, onehot=onehot))
            assert change[row, letter] == pytest.approx(after - before, abs=1e-7)
    assert (change == 0).sum(axis=1).min() >= 1
    assert np.abs(change).max() > 0


def test_unknown_bases_are_not_mutated(tiny, model):
    window = tiny.dataset()[1]  # chr1:9050 is an IUPAC code
    change = mutagenesis(model, window, slice(2_049, 2_052))
    assert np.isnan(change).all(axis=1).tolist() == [False, True, False]
    with pytest.raises(ConfigError, match="the region must lie in the gene's window"):
        mutagenesis(model, window, slice(3_999, 4_001))


def command(tiny, weights, output, *more):
    return command_line(tiny, weights, output, *more, command="contributions GENE01")


def test_the_command(tiny, model, tmp_path, capsys):
    weights = small_weights(tiny, tmp_path)
    assert main(command(tiny, weights, tmp_path / "o")) == 0
    assert "dna: sum" in capsys.readouterr().out
    window = tiny.dataset()[0]
    with pyBigWig.open(str(tmp_path / "o" / "GENE01.dnase.bw")) as track:
        values = track.values("chr1", 0, window.end, numpy=True)
    found = gradient_times_input(model, window).tracks[-window.start :, 1]
    np.testing.assert_allclose(values, found, rtol=1e-5, atol=1e-9)
    assert main(command(tiny, weights, tmp_path / "o", "--method", "integrated", "--steps", "4")) == 0
    assert "contributions add up to" in capsys.readouterr().out
    assert main(command(tiny, weights, tmp_path / "o", "--method", "mutagenesis", "--region", "chr1:690-694")) == 0
    assert "mutations of 4 bases change log10 expression by" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "o" / "GENE01.mutagenesis.tsv", sep="\t", comment="#")
    assert table["ref"].str.cat() == tiny.bases["chr1"][690:694].decode().upper()
    for row in table.itertuples():
        assert getattr(row, row.ref) == 0


def test_an_id_that_is_a_path_writes_inside_the_folder(tiny, tmp_path):
    genes, output = tmp_path / "genes.tsv", tmp_path / "in" / "here"
    genes.write_text(tiny.genes.read_text().replace("GENE01\t", "../../EVIL\t"))
    words = command_line(tiny, small_weights(tiny, tmp_path), output, command="contributions ../../EVIL")
    words[words.index(str(tiny.genes))] = str(genes)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*words, "--method", "mutagenesis", "--region", "chr1:690-692"]) == 0
    (written,) = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert written.parent == output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "mutagenesis"], "give both or neither"),
        (["--region", "chr1:690-694"], "give both or neither"),
        (["--method", "mutagenesis", "--region", "chr1"], "expected CHR:START-END"),
        (["--method", "mutagenesis", "--region", "chr1:5000-5100"], "does not lie in the window of GENE01"),
        (["--gene-ids", "GENE02"], "named by the first argument alone"),
    ],
)
def test_misuse_is_one_sentence(tiny, model, tmp_path, capsys, more, message):
    assert main(command(tiny, small_weights(tiny, tmp_path), tmp_path / "o", *more)) == 1
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "o").exists()
