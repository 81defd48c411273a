"""Starting from trained weights: the same predictions with the same tracks; new ones change nothing at the start."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from small_runs import small_network, small_weights
from training_runs import run_settings, write_run

from kipoi_seq2exp import Seq2Exp, save_model
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.training.config import training_config
from kipoi_seq2exp.training.fit import fit
from kipoi_seq2exp.training.start import describe_start, start_from_weights
from kipoi_seq2exp.zoo.models import load_model


def batch(n_tracks, n_features, window=1_200):
    draw = np.random.default_rng(5)
    onehot = np.eye(4, dtype=np.float32)[draw.integers(0, 4, (2, window))]
    signals = draw.random((2, window, n_tracks), dtype=np.float32)
    return (
        torch.from_numpy(onehot),
        torch.from_numpy(signals),
        torch.from_numpy(draw.random((2, n_features), np.float32)),
    )


def settings(tiny, weights, **changes):
    changes = {"start": str(weights), "network": {}, "train_window_bp": None, **changes}
    return run_settings(tiny, **changes)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    return small_weights(tiny, tmp_path_factory.mktemp("start"), contact_pool=2, contact_track=2)


@torch.inference_mode()
def test_same_inputs_start_with_the_same_predictions(tiny, trained):
    config = training_config(settings(tiny, trained, network={}), "run")
    network = config.network  # which follows from the weights and the tracks
    assert (network.d_model, network.contact_pool, network.contact_track) == (16, 2, 2)
    started, source = start_from_weights(config).eval(), load_model(trained, "cpu")
    arrays = batch(3, len(config.inputs.features))
    torch.testing.assert_close(started(*arrays).expression, source(*arrays).expression)
    torch.testing.assert_close(started(*arrays).mask, source(*arrays).mask)


@torch.inference_mode()
def test_new_tracks_and_features_are_silent_and_order_does_not_matter(tiny, trained):
    inputs = to_mapping(dataclasses.replace(tiny.inputs, window_bp=1_200, promoter_bp=400))
    hic, dnase, h3k27ac = inputs["tracks"][::-1]
    inputs["tracks"] = [to_mapping(TrackSpec("atac")), dnase, hic, h3k27ac]
    inputs["features"] = [{"name": "NEW"}, *inputs["features"][::-1]]
    config = training_config(settings(tiny, trained, inputs=inputs), "run")
    assert config.network.contact_track == 2
    started, source = start_from_weights(config).eval(), load_model(trained, "cpu")
    onehot, signals, features = batch(4, 1 + len(source.inputs.features))
    known = source(onehot, signals[..., [3, 1, 2]], features[:, 1:].flip(1))
    for scale in (1, 50):  # whatever the new ones hold
        signals[..., 0] *= scale
        features[:, 0] *= scale
        output = started(onehot, signals, features)
        torch.testing.assert_close(output.expression, known.expression)
        torch.testing.assert_close(output.mask, known.mask, rtol=1e-4, atol=1e-5)
    said = describe_start(config)
    assert "tracks matched by name: dnase, hic, h3k27ac; new tracks, silent at the start: atac" in said
    assert "new features, silent at the start: NEW" in said


@torch.inference_mode()
def test_genes_are_read_from_their_strand_as_the_weights_do(tiny, trained, tmp_path):
    source = load_model(trained, "cpu")
    names = source.inputs.feature_names
    turned = Seq2Exp(dataclasses.replace(source.config, strand_feature=2), source.inputs).eval()
    turned.load_state_dict(source.state_dict())
    save_model(turned, tmp_path / "turned.safetensors")
    inputs = to_mapping(dataclasses.replace(tiny.inputs, window_bp=1_200, promoter_bp=400))
    inputs["features"] = inputs["features"][::-1]
    config = training_config(settings(tiny, tmp_path / "turned.safetensors", inputs=inputs, augment={}), "run")
    assert config.network.strand_feature == len(names) - 3
    onehot, signals, features = batch(3, len(names))
    features[:, 2] = torch.tensor([1.0, -1.0])
    started = start_from_weights(config).eval()(onehot, signals, features.flip(1))
    torch.testing.assert_close(started.expression, turned(onehot, signals, features).expression)
    del inputs["features"][-3]
    with pytest.raises(ConfigError, match=f"which their feature '{names[2]}' tells: list it in inputs.features"):
        training_config(settings(tiny, tmp_path / "turned.safetensors", inputs=inputs, augment={}), "run")


@torch.inference_mode()
def test_spans_are_taken_over_and_new_ones_are_silent(tiny, trained, tmp_path):
    spans = small_weights(tiny, tmp_path, spans_bp=(100, 300))
    inputs = to_mapping(dataclasses.replace(tiny.inputs, window_bp=1_200, promoter_bp=400))
    inputs["tracks"] = [to_mapping(TrackSpec("atac")), *inputs["tracks"][::-1]]
    for weights, changes, kept in (
        (spans, {}, (100, 300)),
        (spans, {"spans_bp": [100]}, (100,)),
        (trained, {"spans_bp": [100, 600]}, (100, 600)),
    ):
        config = training_config(settings(tiny, weights, inputs=inputs, network=changes), "run")
        assert config.network.spans_bp == kept
        started, source = start_from_weights(config).eval(), load_model(weights, "cpu")
        if kept != source.config.spans_bp:  # what the head read of other spans is lost
            first = source.expression_head[0].weight
            first[:, source.config.d_model : source.config.d_model + source.config.n_span_means] = 0
        onehot, signals, features = batch(4, len(source.inputs.features))
        known = source(onehot, signals[..., [3, 2, 1]], features)
        torch.testing.assert_close(started(onehot, signals, features).expression, known.expression)


@torch.inference_mode()
def test_of_an_ensemble_each_seed_starts_from_its_member(tiny, trained, tmp_path):
    members = [load_model(trained, "cpu") for _ in range(2)]
    members[1].expression_head[-1].bias += 1.0
    save_model(Seq2Exp.of_members(members), tmp_path / "two.safetensors")
    for seed in (2, 3):
        config = training_config(settings(tiny, tmp_path / "two.safetensors", network={}, seed=seed), "run")
        assert config.network.members == 1
        arrays = batch(3, len(config.inputs.features))
        started, wanted = start_from_weights(config).eval(), members[seed % 2].eval()
        torch.testing.assert_close(started(*arrays).expression, wanted(*arrays).expression)


def test_the_head_alone_learns_afresh_from_the_mean_of_the_mask(tiny, trained, tmp_path, monkeypatch):
    read_mask, sampled = Seq2Exp.read_mask, set()

    def noted(self, z, sample):
        sampled.add(self.training)
        return read_mask(self, z, sample)

    monkeypatch.setattr(Seq2Exp, "read_mask", noted)
    changes = {"start": str(trained), "network": {"spans_bp": [100, 300]}, "optimiser__learns": "head"}
    result = fit(write_run(tiny, tmp_path, **changes, optimiser__max_steps=3), tmp_path / "runs")
    assert sampled == {False}
    learned, known = load_model(result.weights, "cpu"), load_model(trained, "cpu").state_dict()
    assert learned.config.spans_bp == (100, 300)
    for name, value in learned.state_dict().items():
        alike = name in known and torch.equal(value, known[name])
        assert alike != name.startswith("expression_head."), name


def test_the_head_alone_needs_trained_weights(tiny):
    with pytest.raises(ConfigError, match=r"optimiser\.learns 'head' needs trained weights in 'start'"):
        training_config(run_settings(tiny, optimiser__learns="head"), "run")


@pytest.mark.parametrize(("name", "theirs", "ours"), [("d_model", 16, 8), ("token_bp", 1, 16)])
def test_another_architecture_is_named(tiny, trained, name, theirs, ours):
    config = training_config(settings(tiny, trained, network={name: ours, "contact_track": 2}), "run")
    message = f"start: the weights '{trained}' have {name} {theirs}, the run's network {ours}: leave network.{name} out"
    with pytest.raises(ConfigError, match=re.escape(message)):
        start_from_weights(config)


def test_fine_tuning_says_what_was_matched(tiny, tmp_path, capsys):
    weights = small_weights(tiny, tmp_path)
    run = write_run(
        tiny, tmp_path, start=str(weights), network={}, optimiser__max_steps=3, data__0__sources__hic="powerlaw"
    )
    assert main(["train", str(run), "-o", str(tmp_path / "runs")]) == 0
    assert "tracks matched by name: h3k27ac, dnase, hic" in capsys.readouterr().out
    moved = load_model(tmp_path / "runs" / "small" / "best.safetensors", "cpu")
    before = small_network(tiny)
    difference = (moved.evidence_head.weight - before.evidence_head.weight).abs().max()
    assert 0 < difference < 0.02  # three steps away from where it started
