"""The authors' checkpoints: their settings and parameter names, translated strictly into ours.

Every published name is expected or refused: a key that is missing, unexpected, of another shape, or a tie that does not
hold is a `WeightsError`. The file is read by `pickled`, which runs nothing; Lightning's hyper-parameters (a pickle of
OmegaConf) are skipped, so omegaconf is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kipoi_seq2exp.config import MaskMode, NetworkConfig, Variant
from kipoi_seq2exp.errors import ConfigError, WeightsError, excerpt
from kipoi_seq2exp.nn.pickled import read_pickled
from kipoi_seq2exp.settings import from_mapping, suggest

MAX_LAYERS = 256  # of a stack; a name with a larger number names no layer

# published setting -> our field, where the value carries over as it is
_SAME = {
    "d_model": "d_model",
    "center_len": "promoter_bp",
    "seq_range": "window_bp",
    "signal_size": "n_tracks",
    "rna_feat_dim": "n_features",
    "enc_n_layer": "encoder_layers",
    "gen_n_layer": "generator_layers",
    "n_layer": "encoder_layers",
    "prior_scale_factor": "prior_scale",
    "marginal_mean": "marginal_mean",
    "marginal_scale": "marginal_scale",
    "beta_min": "beta_min",
    "z_scale": "z_scale",
    "sample_threshold": "threshold",
    "test_top_percent": "top_fraction",
    "norm_epsilon": "norm_eps",
}
# published switches that decide our variant and mask mode
_SWITCHES = ("test_soft", "test_hard", "test_top", "test_top_soft", "post_hard_dist", "enc_prd_ps", "pos_enc")
_OTHERS = ("prior_beta", "prior_weight", "interact", "use_peak_mask", "useRNAFeat")
_UNUSED = ("only_x_sig", "use_bio_mask")  # never on in a published run; refused when on

PUBLISHED_SOFT: dict[str, Any] = {}  # the defaults of NetworkConfig
PUBLISHED_HARD: dict[str, Any] = {
    "prior_scale_factor": 1.0,
    "marginal_mean": 0.45,
    "marginal_scale": 0.1,
    "beta_min": 0.0,
    "test_soft": False,
    "test_hard": True,
    "post_hard_dist": True,
    "enc_prd_ps": True,
    "pos_enc": True,
}


def config_from_published(settings: Mapping[str, Any]) -> NetworkConfig:
    """Translate settings under the published names into a `NetworkConfig`.

    Parameters
    ----------
    settings : Mapping
        E.g. ``{"d_model": 128, "prior_scale_factor": 10.0, ...}``; a setting that is absent takes the value of the
        published soft model.

    Raises
    ------
    ConfigError
        If a setting is unknown, or asks for something that no published run used.
    """
    _check_names(settings)
    variant = _variant(settings)
    fields: dict[str, Any] = {ours: settings[theirs] for theirs, ours in _SAME.items() if theirs in settings}
    fields.update(variant=variant, mask_mode=_mask_mode(settings), straight_through=False)  # as published
    if not settings.get("useRNAFeat", True):
        fields["n_features"] = 0
    if settings.get("interact") == "no_signal":
        fields["n_tracks"] = 0
    if variant in (Variant.SOFT, Variant.HARD):
        for theirs, ours in (("prior_beta", "signal_betas"), ("prior_weight", "prior_weights")):
            if theirs in settings:
                fields[ours] = _numbers(settings[theirs], theirs)
    elif variant is Variant.PLAIN:
        fields["generator_layers"] = 0
    return from_mapping(NetworkConfig, fields, "settings")


def _check_names(settings: Mapping[str, Any]) -> None:
    known = {*_SAME, *_SWITCHES, *_OTHERS, *_UNUSED}
    for name in settings:
        if name not in known:
            raise ConfigError(f"settings: unknown published setting '{name}'{suggest(name, known)}.")
    for name in _UNUSED:
        if settings.get(name):
            raise ConfigError(f"settings: '{name}' was never used in a published run and is not supported.")
    if settings.get("interact", "concat") not in ("concat", "no_signal"):
        raise ConfigError(f"settings: interact must be 'concat' or 'no_signal', found {settings['interact']!r}.")


def _variant(settings: Mapping[str, Any]) -> Variant:
    """Read our variant from the published switches, which must agree."""
    if "n_layer" in settings:
        return Variant.PLAIN
    if settings.get("use_peak_mask"):
        return Variant.PEAKS
    hard = {name: bool(settings.get(name, False)) for name in ("post_hard_dist", "enc_prd_ps", "pos_enc")}
    if len(set(hard.values())) > 1:
        raise ConfigError(f"settings: {', '.join(hard)} must be all on (hard) or all off (soft), found {hard}.")
    return Variant.HARD if hard["pos_enc"] else Variant.SOFT


def _mask_mode(settings: Mapping[str, Any]) -> MaskMode:
    modes = {
        "test_top_soft": MaskMode.TOP_SOFT,
        "test_top": MaskMode.TOP,
        "test_hard": MaskMode.HARD,
        "test_soft": MaskMode.SOFT,
    }
    for name, mode in modes.items():
        if settings.get(name):
            return mode
    return MaskMode.HARD if settings.get("post_hard_dist") else MaskMode.SOFT


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    """Read '1.5,0.2,1.0' or a list of numbers."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise ConfigError(f"settings: {name} must be numbers separated by commas, found {value!r}.") from None


# ------------------------------------------------------------------------------------------------------------- names


def _stack_names(theirs: str, ours: str, n_layers: int) -> Iterator[tuple[str, str]]:
    """Pair our names with the published ones for one stack; a name of ours may be stored twice (ties)."""
    for i in range(n_layers):
        a, b = f"{theirs}.backbone.layers.{i}", f"{ours}.layers.{i}"
        yield f"{a}.norm.weight", f"{b}.norm.weight"
        for direction, scan in (("mamba_fwd", "forward_scan"), ("mamba_rev", "reverse_scan")):
            for shared in ("in_proj", "out_proj"):
                yield f"{a}.mixer.{direction}.{shared}.weight", f"{b}.{shared}.weight"
            for name in ("A_log", "D", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"):
                yield f"{a}.mixer.{direction}.{name}", f"{b}.{scan}.{name}"
            yield f"{a}.mixer.{direction}.conv1d.weight", f"{b}.{scan}.conv_weight"
            yield f"{a}.mixer.{direction}.conv1d.bias", f"{b}.{scan}.conv_bias"
    yield f"{theirs}.backbone.norm_f.weight", f"{ours}.final_norm.weight"


def published_names(config: NetworkConfig) -> list[tuple[str, str]]:
    """List (published name, our name) of every entry of a published state dict, ties included."""
    pairs = [(f"pToExpr.{i}.{part}", f"expression_head.{i}.{part}") for i in (0, 2, 4) for part in ("weight", "bias")]
    if config.variant is Variant.PLAIN:
        pairs += [(f"input_layer.{part}", f"input_layer.{part}") for part in ("weight", "bias")]
        return pairs + list(_stack_names("caduceus", "encoder", config.encoder_layers))
    for theirs, ours in (("seq_input_layer", "sequence_embedding"), ("signal_input_layer", "signal_embedding")):
        pairs += [(f"{theirs}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]
    pairs += list(_stack_names("encoder", "encoder", config.encoder_layers))
    if config.generates_mask:
        pairs += [("prior_weights", "prior_weights"), ("signal_betas", "signal_betas")]
        pairs += [(f"mask_output.{part}", f"evidence_head.{part}") for part in ("weight", "bias")]
        generator = "encoder" if config.variant is Variant.HARD else "generator"
        pairs += list(_stack_names("generator", generator, config.generator_layers))
    if config.variant is Variant.HARD:
        pairs.append(("pos_emb", "position_embedding"))
    return pairs


def translate(state: Mapping[str, Tensor], config: NetworkConfig, where: str) -> dict[str, Tensor]:
    """Rename a published state dict to our names, checking that it has exactly the expected keys and that ties hold."""
    pairs = published_names(config)
    expected = {theirs for theirs, _ in pairs}
    for problem, names in (("lacks", expected - set(state)), ("has the unexpected", set(state) - expected)):
        if names:
            raise WeightsError(
                f"{where}: {problem} parameter '{min(names)}' ({len(names)} such) for a {config.variant.value} network "
                f"with {config.generator_layers} + {config.encoder_layers} layers: give the settings of its training."
            )
    ours: dict[str, Tensor] = {}
    source: dict[str, str] = {}
    for theirs, name in pairs:
        value = _reshaped(theirs, state[theirs]).float()
        if name in ours and not torch.equal(ours[name], value):
            raise WeightsError(
                f"{where}: '{theirs}' and '{source[name]}' are one parameter in Seq2Exp, but differ here."
            )
        ours[name], source[name] = value, theirs
    return _split_plain_input(ours, config) if config.variant is Variant.PLAIN else ours


def _reshaped(name: str, value: Tensor) -> Tensor:
    if name.endswith("conv1d.weight"):
        return value.squeeze(1)
    return value.squeeze(0) if name == "pos_emb" else value


def _split_plain_input(ours: dict[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Split the baseline's single input layer (4 + S columns) into our two; the bias stays with the DNA."""
    weight, bias = ours.pop("input_layer.weight"), ours.pop("input_layer.bias")
    ours["sequence_embedding.weight"], ours["sequence_embedding.bias"] = weight[:, :4].clone(), bias
    if config.n_tracks:
        ours["signal_embedding.weight"], ours["signal_embedding.bias"] = weight[:, 4:].clone(), torch.zeros_like(bias)
    return ours


def infer_settings(state: Mapping[str, Tensor], variant: Variant) -> dict[str, Any]:
    """Infer settings from the shapes in a published soft or hard state dict; the rest is as published."""
    settings = dict(PUBLISHED_HARD if variant is Variant.HARD else PUBLISHED_SOFT)
    try:
        width = state["seq_input_layer.weight"].shape[0]
        settings["signal_size"] = state["signal_input_layer.weight"].shape[1]
        settings["rna_feat_dim"] = state["pToExpr.0.weight"].shape[1] - width
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks the parameter {error}: it is not a Seq2Exp {variant.value} model."
        ) from None
    settings["d_model"] = width
    for stack, name in (("encoder", "enc_n_layer"), ("generator", "gen_n_layer")):
        found = [re.match(rf"{stack}\.backbone\.layers\.(\d{{1,12}})\.", key) for key in state]
        settings[name] = 1 + max((int(match[1]) for match in found if match), default=-1)
        if settings[name] > MAX_LAYERS:
            raise WeightsError(
                f"the checkpoint names layer {settings[name] - 1:,} of the {stack}; at most {MAX_LAYERS} are read."
            )
    if "pos_emb" in state:
        settings["seq_range"] = state["pos_emb"].shape[1]
    if "prior_weights" in state:
        settings["prior_weight"] = state["prior_weights"].tolist()
        settings["prior_beta"] = state["signal_betas"].tolist()
    return settings


# ------------------------------------------------------------------------------------------------------------ the file


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the parameters of a Lightning checkpoint, or of a file that holds a plain state dict.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or holds no parameters.
    """
    content = read_pickled(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path}: holds no 'state_dict' of parameters.")
    odd = [name for name in state if not isinstance(name, str)]
    if odd:
        raise WeightsError(f"{path}: a parameter's name is {excerpt(odd[0], 60)}, not a text.")
    bad = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if bad:
        raise WeightsError(f"{path}: '{excerpt(bad[0], 60)}' is not a tensor; this is not a state dict of Seq2Exp.")
    lightning = all(name.startswith("model.") for name in state)
    return {name.removeprefix("model.") if lightning else name: value for name, value in state.items()}
