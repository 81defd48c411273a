from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kipoi_seq2exp.config import FeatureSpec, InputSpec, MaskMode, NetworkConfig, TrackSpec, Variant
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.settings import from_mapping, read_yaml, suggest, to_mapping

INPUTS = InputSpec(
    cell_type="K562",
    tracks=(TrackSpec("h3k27ac"), TrackSpec("dnase")),
    features=(FeatureSpec("ACTIVITY", from_tracks=("h3k27ac", "dnase")), FeatureSpec("GC", limit=1.0)),
)


@pytest.mark.parametrize("settings", [NetworkConfig(), NetworkConfig(variant=Variant.HARD, d_model=8), INPUTS])
def test_settings_survive_yaml(settings: Any) -> None:
    text = yaml.safe_dump(to_mapping(settings))
    assert from_mapping(type(settings), yaml.safe_load(text), "file") == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"windw_bp": 4}, "settings: unknown field 'windw_bp' .did you mean 'window_bp'"),
        ({"d_model": "many"}, "d_model must be a whole number, found 'many'"),
        ({"d_model": 8.5}, "d_model must be a whole number"),
        ({"d_model": True}, "d_model must be a whole number"),
        ({"norm_eps": "small"}, "norm_eps must be a number"),
        ({"straight_through": 1}, "straight_through must be true or false"),
        ({"mask_mode": "sft"}, "mask_mode: unknown value 'sft' .did you mean 'soft'"),
        ({"prior_weights": "1,2"}, "prior_weights must be a list"),
        ({"prior_weights": [1, 2]}, "prior_weights must hold one number for each of the 3 tracks"),
        ({"d_model": None}, "d_model"),
        ({"window_bp": 101}, "must be even"),
        ({"window_bp": 1000}, "the window the longer"),
        ({"top_fraction": 1.0}, "top_fraction must lie between 0 and 1"),
        ({"d_model": 0}, "d_model must be above 0"),
        ({"variant": "hard", "encoder_layers": 2}, "the stack is shared"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(NetworkConfig, values, "settings")


def test_numbers_that_yaml_reads_as_text() -> None:
    assert from_mapping(NetworkConfig, yaml.safe_load("norm_eps: 1e-5"), "x").norm_eps == 1e-5
    assert from_mapping(NetworkConfig, {"mask_mode": "top-soft"}, "x").mask_mode is MaskMode.TOP_SOFT


def test_inputs_are_checked() -> None:
    with pytest.raises(ConfigError, match="the field 'cell_type' is missing"):
        from_mapping(InputSpec, {"tracks": [], "features": []}, "row")
    with pytest.raises(ConfigError, match="'a' is listed twice"):
        InputSpec("x", (TrackSpec("a"), TrackSpec("a")), ())
    with pytest.raises(ConfigError, match="needs the track 'b'"):
        InputSpec("x", (TrackSpec("a"),), (FeatureSpec("f", from_tracks=("b",)),))


def test_suggestions_stay_short() -> None:
    assert suggest("dnas", ["dnase", "h3k27ac"]) == " (did you mean 'dnase'?)"
    assert suggest("zzz", [f"gene{i}" for i in range(500)]).endswith("500 in all)")


@pytest.mark.parametrize(
    ("content", "message"), [(b"a: [1", "cannot be read as YAML"), (b"- 1", "found list"), (b"\xff\xfe\xfa", "YAML")]
)
def test_unreadable_yaml_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(InputError, match="no such file"):
        read_yaml(tmp_path / "b.yaml")


@pytest.mark.parametrize("name", ["encoder_layers", "d_model", "window_bp", "n_tracks", "contact_pool"])
def test_giant_counts_are_refused_before_anything_is_made(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at most [0-9,]+, found 1,000,000,000"):
        NetworkConfig(**{name: 10**9})
