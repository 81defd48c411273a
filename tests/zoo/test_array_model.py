"""The network as Kipoi calls it: batches, gradients and layers with numpy arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kipoi_seq2exp.config import NetworkConfig, Variant
from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.zoo.array_model import ArrayModel
from kipoi_seq2exp.zoo.forward import stacked

LENGTH = 400


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = NetworkConfig(window_bp=LENGTH, promoter_bp=40, d_model=16, generator_layers=1, encoder_layers=1)
    return ArrayModel(Seq2Exp(config).eval())


@pytest.fixture(scope="module")
def x():
    random = np.random.default_rng(0)
    return {
        "onehot": np.eye(4, dtype=np.uint8)[random.integers(0, 4, (3, LENGTH))],
        "signals": random.random((3, LENGTH, 3)),  # float64 on purpose
        "features": random.standard_normal((3, 9)).astype(np.float32),
        "blacklist": random.random((3, LENGTH)) < 0.1,
    }


def expression(model, x):
    return model.predict(x)["expression"][:, 0]


def test_shapes_types_and_the_networks_own_numbers(model, x):
    found = model.predict(x)
    tensors = {name: torch.as_tensor(values, dtype=torch.float32) for name, values in x.items()}
    tensors["blacklist"] = tensors["blacklist"].bool()
    with torch.inference_mode():
        wanted = model.network(**tensors)
    assert {name: (values.shape, values.dtype) for name, values in found.items()} == {
        "expression": ((3, 1), np.float32),
        "element_mask": ((3, LENGTH), np.float32),
    }
    np.testing.assert_allclose(found["expression"][:, 0], wanted.expression, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["element_mask"], wanted.mask, rtol=0, atol=1e-6)
    promoter = slice(LENGTH // 2 - 20, LENGTH // 2 + 20)
    assert (found["element_mask"][:, promoter] == 1).all()
    outside = x["blacklist"].copy()
    outside[:, promoter] = False
    assert (found["element_mask"][outside] == 0).all()


def test_each_window_is_on_its_own(model, x):
    whole = model.predict(x)
    for row in range(3):
        alone = model.predict({name: values[row : row + 1] for name, values in x.items()})
        for name in whole:
            np.testing.assert_array_equal(alone[name][0], whole[name][row])


@pytest.mark.parametrize("size", [2, 3])
def test_the_batch_size_changes_no_number(model, x, size):
    """Predictions and layers to the bit; gradients, which go through the network together, to rounding."""
    batched = ArrayModel(model.network, batch_size=size)
    for name, values in model.predict(x).items():
        np.testing.assert_array_equal(batched.predict(x)[name], values)
    for layer in ("z", "encoder.layers.0", "expression_head.0"):
        np.testing.assert_array_equal(batched.activation(x, layer), model.activation(x, layer))
    for reduction in (None, "max", "min", "absmax"):
        found = batched.gradient(x, "element_mask", slice(0, 50), reduction)
        for name, values in model.gradient(x, "element_mask", slice(0, 50), reduction).items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6 + 1e-5 * np.abs(values).max())


def test_a_device_that_runs_out_of_memory_gets_fewer(model, x, monkeypatch, caplog):
    batched, forward, sizes = ArrayModel(model.network, batch_size=3), model.network.forward, []

    def small(onehot, **rest):
        sizes.append(len(onehot))
        if len(onehot) > 1:
            raise torch.cuda.OutOfMemoryError("no room. Really")
        return forward(onehot, **rest)

    monkeypatch.setattr(model.network, "forward", small)
    found = batched.predict(x)
    assert sizes == [3, 1, 1, 1]
    assert "out of memory at 3 windows at once: 1 from here on" in caplog.text
    monkeypatch.undo()
    for name, values in model.predict(x).items():
        np.testing.assert_array_equal(found[name], values)


def test_only_the_outputs_asked_for(model, x):
    assert list(ArrayModel(model.network, ["expression"]).predict(x)) == ["expression"]
    with pytest.raises(ConfigError, match="did you mean 'element_mask'"):
        ArrayModel(model.network, ["element_masks"])
    plain = Seq2Exp(NetworkConfig(variant=Variant.PLAIN, window_bp=LENGTH, promoter_bp=40, d_model=16))
    with pytest.raises(ConfigError, match="make no element_mask"):
        ArrayModel(plain)


def test_gradient_equals_finite_differences(model, x):
    gradient = model.gradient(x)
    assert {name: values.shape for name, values in gradient.items()} == {name: x[name].shape for name in x}
    assert not gradient["blacklist"].any()
    random = np.random.default_rng(1)
    for name in ("onehot", "signals", "features"):
        values, step = x[name].astype(np.float64), 1e-2
        direction = random.standard_normal(values.shape) * (values > 0 if name == "signals" else 1)
        scale = step / np.abs(direction).max()
        ahead, behind = ({**x, name: values + sign * scale * direction} for sign in (1, -1))
        if name == "signals":
            ahead, behind = ({**part, name: np.maximum(part[name], 0)} for part in (ahead, behind))
        measured = (expression(model, ahead) - expression(model, behind)) / (2 * scale)
        predicted = (gradient[name] * direction).reshape(3, -1).sum(1)
        np.testing.assert_allclose(predicted, measured, rtol=0.05, atol=2e-3)


def test_gradient_of_parts_of_a_layer(model, x):
    mask = model.gradient(x, layer="element_mask", filter_idx=slice(0, 10))
    whole = model.gradient(x, layer="element_mask", avg_func="sum")
    assert np.abs(mask["signals"][:, :10]).sum() > 0
    assert np.abs(mask["signals"][:, :10]).sum() < np.abs(whole["signals"]).sum()
    np.testing.assert_array_equal(model.gradient(x, layer="expression")["onehot"], model.gradient(x)["onehot"])
    best = model.gradient(x, layer="element_mask", filter_idx=slice(0, 10), avg_func="max")
    assert 0 < np.count_nonzero(best["signals"].any(axis=2).sum(axis=1)) <= 3
    assert best["signals"][:, 10:].any() == mask["signals"][:, 10:].any()
    by_module = model.gradient(x, layer="expression_head.4", filter_idx=0)
    np.testing.assert_allclose(by_module["features"], model.gradient(x)["features"], rtol=1e-5, atol=1e-7)


def test_a_gradient_leaves_no_setting_behind(model, x):
    model.gradient(x)
    assert not any(getattr(module, "checkpoint_layers", False) for module in model.network.modules())
    assert all(parameter.grad is None for parameter in model.network.parameters())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [("expression", (3, 1)), ("z", (3, LENGTH)), ("prior", (3, LENGTH, 3)), ("generator", (3, LENGTH, 16))],
)
def test_layers(model, x, layer, shape):
    assert model.activation(x, layer).shape == shape


def test_the_evidence_explains_the_mask(model, x):
    soft = model.predict(x)["element_mask"]
    kept = (soft > 0) & (soft < 1)
    np.testing.assert_allclose(model.activation(x, "z")[kept], soft[kept], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"onehots": 1}, "did you mean 'onehot'"),
        ({"signals": None}, "'signals' is missing"),
        ({"features": np.zeros((2, 9))}, "different numbers of windows"),
    ],
)
def test_wrong_inputs_are_named(model, x, change, message):
    changed = {name: values for name, values in {**x, **change}.items() if values is not None}
    with pytest.raises(ShapeError, match=message):
        model.predict(changed)


def test_wrong_requests_are_named(model, x):
    with pytest.raises(ShapeError, match="dict of arrays"):
        model.predict(x["onehot"])
    with pytest.raises(ConfigError, match=r"unknown layer 'encodr' .did you mean 'encoder'"):
        model.activation(x, "encodr")
    with pytest.raises(ConfigError, match="unknown reduction 'mean'"):
        model.gradient(x, avg_func="mean")
    with pytest.raises(ConfigError, match="does not fit a layer"):
        model.gradient(x, filter_idx=5)


def layers_of(network):
    """Every module that is called, by its dotted name (a list of layers is not)."""
    lists = (torch.nn.ModuleList,)
    return [name for name, module in network.named_modules() if name and not isinstance(module, lists)]


@pytest.mark.parametrize("variant", [Variant.SOFT, Variant.HARD])
def test_every_layer_can_be_looked_at_and_differentiated(variant, x):
    torch.manual_seed(0)
    config = NetworkConfig(variant, window_bp=LENGTH, promoter_bp=40, d_model=16, generator_layers=2, encoder_layers=2)
    model, one = ArrayModel(Seq2Exp(config).eval()), {name: values[:1] for name, values in x.items()}
    layers = layers_of(model.network)
    assert len(layers) > 25
    for layer in layers:
        assert np.isfinite(model.activation(one, layer)).all(), layer
        gradient = model.gradient(one, layer)
        assert gradient["onehot"].any() or gradient["signals"].any() or gradient["features"].any(), layer


def test_what_a_layer_puts_out_is_what_the_next_one_reads(model, x):
    heads, streamed = model.activation(x, "expression_head"), expression(model, x)
    np.testing.assert_allclose(heads[:, 0], streamed, rtol=0, atol=1e-6)
    inner = model.activation(x, "encoder.layers.0.out_proj")  # every module of the stack runs by itself
    np.testing.assert_allclose(inner, model.activation(x, "encoder.layers.0"), rtol=0, atol=1e-6)


def test_hooks_are_called_and_change_no_prediction(model, x):
    """Streaming goes past the modules inside a stack: with a hook it must not."""
    wanted, called = expression(model, x), []
    network = model.network
    for name in layers_of(network):
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    try:
        np.testing.assert_allclose(expression(model, x), wanted, rtol=0, atol=1e-5)
        assert set(called) == set(layers_of(network))
    finally:
        for module in network.modules():
            module._forward_hooks.clear()
    np.testing.assert_array_equal(expression(model, x), wanted)


def test_a_window_alone_shares_its_memory_with_its_tensors_and_several_are_joined(model):
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    alone, several = (stacked(arrays, model.network) for arrays in ([values], [values, values + 1]))
    assert alone.shape == (1, 3, 2)
    assert np.shares_memory(alone.numpy(), values)
    np.testing.assert_array_equal(several.numpy(), np.stack([values, values + 1]))
    fixed = np.broadcast_to(np.float32(1), (3, 2))  # torch warns of arrays that may not be written to
    assert stacked([fixed], model.network).shape == (1, 3, 2)
