from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kipoi_seq2exp import NetworkConfig, Provenance, Seq2Exp, convert_checkpoint, load_model, save_model
from kipoi_seq2exp.config import Products
from kipoi_seq2exp.errors import ConfigError, OutputError, WeightsError
from kipoi_seq2exp.nn.authors import config_from_published, published_names
from kipoi_seq2exp.zoo import models

OWN = Path(__file__).parents[1] / "parity" / "data"
CONFIG = NetworkConfig(window_bp=100, promoter_bp=20, d_model=16, generator_layers=1, encoder_layers=1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(
        Seq2Exp(CONFIG, provenance=Provenance(status="provisional", trained_on="noise")), tmp_path / "w.safetensors"
    )
    return tmp_path / "w.safetensors"


def golden_state(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with np.load(OWN / f"{name}.weights") as arrays:
        state = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return state, json.loads((OWN / f"{name}.json").read_text())["settings"]


def test_round_trip(saved: Path) -> None:
    model = load_model(saved)
    assert model.config == CONFIG
    assert model.provenance.trained_on == "noise"
    assert not model.training
    again = saved.with_name("again.safetensors")
    save_model(model, again)
    assert again.read_bytes() == saved.read_bytes()


def test_projections_are_a_choice_of_who_loads(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQ2EXP_PROJECTIONS", raising=False)
    assert load_model(saved).products is Products.FLOAT32
    assert load_model(saved, projections="bfloat16").products is Products.BFLOAT16
    monkeypatch.setenv("SEQ2EXP_PROJECTIONS", "bfloat16")
    model = load_model(saved)
    assert model.products is model.generator.products is model.encoder.products is Products.BFLOAT16
    assert load_model(saved, projections="float32").products is Products.FLOAT32
    monkeypatch.setenv("SEQ2EXP_PROJECTIONS", "bfloat61")
    with pytest.raises(ConfigError, match=r"SEQ2EXP_PROJECTIONS: unknown type 'bfloat61' .*'bfloat16'"):
        load_model(saved)


def test_damaged_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        load_model(tmp_path / "absent.safetensors")
    content = saved.read_bytes()
    for damaged in (b"", content[:200], b"<html>404</html>" * 20):
        saved.write_bytes(damaged)
        with pytest.raises(WeightsError, match="not a readable safetensors file"):
            load_model(saved)
    flipped = bytearray(content)
    flipped[-3] ^= 255
    saved.write_bytes(flipped)
    with pytest.raises(WeightsError, match=r"damaged .* or|damaged or"):
        load_model(saved, sha256="0" * 64)


def without_digest(saved: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the header of a weights file, as the first files had it, and its tensors."""
    with safe_open(saved, "pt") as handle:
        header = json.loads(handle.metadata()["seq2exp"])
        state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    assert header.pop("digest")
    return header, state


def test_changed_tensors_are_told_by_their_digest_which_old_files_lack(saved: Path) -> None:
    flipped = bytearray(saved.read_bytes())
    flipped[-3] ^= 1
    whole = saved.read_bytes()
    saved.write_bytes(flipped)
    with pytest.raises(WeightsError, match=r"damaged or were changed .the digest in the file's header"):
        load_model(saved)
    saved.write_bytes(whole)
    header, state = without_digest(saved)
    save_file(state, saved, {"seq2exp": json.dumps(header)})
    assert load_model(saved).config == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.int32), "is stored as int32, expected float32"),
        (lambda value: value.double() * 0 + 1e300, "holds a value that is not a finite number"),
        (lambda value: value * float("nan"), "holds a value that is not a finite number"),
    ],
)
def test_weights_of_other_types_or_without_end_are_refused(
    saved: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    header, state = without_digest(saved)
    state["evidence_head.bias"] = change(state["evidence_head.bias"])
    save_file(state, saved, {"seq2exp": json.dumps(header)})
    with pytest.raises(WeightsError, match=message):
        load_model(saved)


def test_an_overflowing_head_predicts_nothing(saved: Path) -> None:
    model = load_model(saved)
    with torch.no_grad():
        for parameter in model.expression_head.parameters():
            parameter.mul_(1e30)
    config = model.config
    onehot, signals = torch.zeros(1, config.window_bp, 4), torch.ones(1, config.window_bp, config.n_tracks)
    onehot[..., 0] = 1
    with torch.no_grad(), pytest.raises(WeightsError, match="the network predicts an expression of"):
        model(onehot, signals, torch.ones(1, config.n_features))


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="not weights of this package"):
        load_model(tmp_path / "a.safetensors")


def test_parameters_must_fit_the_settings(saved: Path) -> None:
    header, state = without_digest(saved)
    metadata = {"seq2exp": json.dumps(header)}
    for change, message in (
        ({"evidence_head.bias": None}, "lacks the parameter 'evidence_head.bias'"),
        ({"extra": torch.zeros(1)}, "unexpected parameter 'extra'"),
        ({"evidence_head.bias": torch.zeros(3)}, "has shape"),
        ({"evidence_head.bias": torch.full((2,), torch.nan)}, "not a finite number"),
    ):
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        save_file(changed, saved, metadata)
        with pytest.raises(WeightsError, match=message):
            load_model(saved)
    spoiled = dict(header)
    spoiled["network"] = {"d_modl": 3}
    save_file(state, saved, {"seq2exp": json.dumps(spoiled)})
    with pytest.raises(WeightsError, match="did you mean 'd_model'"):
        load_model(saved)


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save_model(Seq2Exp(CONFIG), tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["soft_own", "hard_own"])
@pytest.mark.parametrize("lightning", [True, False])
def test_conversion_by_variant_reads_sizes_from_the_shapes(name: str, lightning: bool, tmp_path: Path) -> None:
    state, settings = golden_state(name)
    source = tmp_path / "a.ckpt"
    content = {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3}
    torch.save(content if lightning else state, source)
    variant = "hard" if settings["pos_enc"] else "soft"
    promoter = {"center_len": settings["center_len"]}  # the one length that no shape tells
    convert_checkpoint(source, tmp_path / "w.safetensors", variant=variant, settings=promoter)
    model = load_model(tmp_path / "w.safetensors")
    expected = config_from_published(settings)
    assert model.config.d_model == expected.d_model
    assert model.config.prior_scale == expected.prior_scale
    assert model.config.marginal_mean == expected.marginal_mean
    assert model.config.window_bp == (expected.window_bp if variant == "hard" else 200_000)
    assert model.provenance.source_sha256


def test_hyper_parameters_need_no_omegaconf_and_run_nothing(tmp_path: Path) -> None:
    """Classes that are not there, and calls that would do harm, are passed over."""

    class Harm:
        def __reduce__(self) -> Any:
            return (exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",))

    import sys
    import types

    module = types.ModuleType("omegaconf_stand_in")
    module.DictConfig = type("DictConfig", (), {"__module__": "omegaconf_stand_in"})
    sys.modules["omegaconf_stand_in"] = module
    state, settings = golden_state("soft_own")
    settings_object = module.DictConfig()
    settings_object.content = {"lr": 1e-3}
    torch.save({"state_dict": state, "hyper_parameters": [settings_object, Harm()]}, tmp_path / "a.ckpt")
    del sys.modules["omegaconf_stand_in"]
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "w.safetensors", settings=settings)
    assert not (tmp_path / "harm").exists()


def test_conversion_is_strict(tmp_path: Path) -> None:
    state, settings = golden_state("soft_own")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mask_output.bias": None}, "lacks parameter 'mask_output.bias'"),
        ({"surplus": torch.zeros(1)}, "unexpected parameter 'surplus'"),
        ({"mask_output.bias": torch.zeros(3)}, "has shape"),
        (
            {"encoder.backbone.layers.0.mixer.mamba_rev.in_proj.weight": torch.zeros(32, 8)},
            "are one parameter in Seq2Exp",
        ),
        ({"mask_output.bias": "text"}, "is not a tensor"),
    ]
    for change, message in cases:
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        torch.save({"state_dict": changed}, tmp_path / "a.ckpt")
        with pytest.raises(WeightsError, match=message):
            convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "w.safetensors", settings=settings)
    assert not (tmp_path / "w.safetensors").exists()


def test_conversion_refuses_what_it_cannot_mean(tmp_path: Path) -> None:
    state, settings = golden_state("soft_own")
    source, target = tmp_path / "a.ckpt", tmp_path / "w.safetensors"
    torch.save(state, source)
    with pytest.raises(ConfigError, match="'soft' or 'hard'"):
        convert_checkpoint(source, target)
    with pytest.raises(ConfigError, match="did you mean 'd_model'"):
        convert_checkpoint(source, target, settings={**settings, "d_modle": 3})
    with pytest.raises(ConfigError, match="never used"):
        convert_checkpoint(source, target, settings={**settings, "use_bio_mask": True})
    with pytest.raises(ConfigError, match="all on"):
        convert_checkpoint(source, target, settings={**settings, "pos_enc": True})
    with pytest.raises(ConfigError, match="'hard' asked for"):
        convert_checkpoint(source, target, settings=settings, variant="hard")
    for content in (b"", b"<html>", pickle.dumps({"a": 1})):
        source.write_bytes(content)
        with pytest.raises(WeightsError):
            convert_checkpoint(source, target, settings=settings)


def test_names_cover_our_parameters() -> None:
    for name in ("soft_own", "hard_own"):
        _, settings = golden_state(name)
        config = config_from_published(settings)
        assert {ours for _, ours in published_names(config)} == set(Seq2Exp(config).state_dict())


def test_download_from_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf:// goes through huggingface_hub, here to a file of ours in its place."""
    hub = pytest.importorskip("huggingface_hub")
    state, settings = golden_state("soft_own")
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    asked: list[tuple[str, str]] = []

    def download(repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        return str(tmp_path / "a.ckpt")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    convert_checkpoint("hf://owner/models/K562/soft.ckpt", tmp_path / "w.safetensors", settings=settings)
    assert asked == [("owner/models", "K562/soft.ckpt")]
    assert load_model(tmp_path / "w.safetensors").provenance.source == "hf://owner/models/K562/soft.ckpt"

    def refuse(repo_id: str, filename: str) -> str:
        raise OSError("offline")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        convert_checkpoint("hf://owner/models/a.ckpt", tmp_path / "b.safetensors", settings=settings)
    with pytest.raises(WeightsError, match="expected hf://"):
        models.fetch_checkpoint("hf://owner")
