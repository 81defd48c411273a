"""Seq2Exp once more, written for reading only: NumPy, float64, position by position, under the published names.

It shares no code with the package (flips instead of reversed walks, untied projections applied per direction, full
windows), so agreement means something. It makes the project's own goldens: `python tests/parity/reference.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def mixer(n: np.ndarray, w: Weights, name: str) -> np.ndarray:
    """One direction of one layer on one window, (L, D) -> (L, D)."""
    x, z = np.split(n @ w[f"{name}.in_proj.weight"].T, 2, axis=1)
    kernel = w[f"{name}.conv1d.weight"][:, 0]
    padded = np.vstack([np.zeros((3, x.shape[1])), x])
    u = silu(sum(padded[k : k + len(x)] * kernel[:, k] for k in range(4)) + w[f"{name}.conv1d.bias"])
    rank = w[f"{name}.dt_proj.weight"].shape[1]
    projected = u @ w[f"{name}.x_proj.weight"].T
    dt, B, C = projected[:, :rank], projected[:, rank : rank + 16], projected[:, rank + 16 :]
    delta = softplus(dt @ w[f"{name}.dt_proj.weight"].T + w[f"{name}.dt_proj.bias"])
    A = -np.exp(w[f"{name}.A_log"])
    state = np.zeros_like(A)
    y = np.empty_like(u)
    for t in range(len(u)):
        state = np.exp(delta[t][:, None] * A) * state + (delta[t] * u[t])[:, None] * B[t]
        y[t] = state @ C[t] + w[f"{name}.D"] * u[t]
    return (y * silu(z)) @ w[f"{name}.out_proj.weight"].T


def stack(h: np.ndarray, w: Weights, name: str, layers: int, eps: float) -> np.ndarray:
    residual = np.zeros_like(h)
    for i in range(layers):
        residual = residual + h
        layer = f"{name}.backbone.layers.{i}"
        n = rms_norm(residual, w[f"{layer}.norm.weight"], eps)
        h = mixer(n, w, f"{layer}.mixer.mamba_fwd") + mixer(n[::-1], w, f"{layer}.mixer.mamba_rev")[::-1]
    return rms_norm(residual + h, w[f"{name}.backbone.norm_f.weight"], eps)


def seq2exp(w: Weights, settings: dict[str, Any], onehot, signals, features, blacklist) -> dict[str, np.ndarray]:
    """Both published variants on one window, evaluation mode."""
    hard, eps, P = settings["pos_enc"], settings["norm_epsilon"], settings["center_len"]
    L = len(onehot)
    se = onehot @ w["seq_input_layer.weight"].T + w["seq_input_layer.bias"]
    if hard:
        se = se + w["pos_emb"][0]
    enc = se + signals @ w["signal_input_layer.weight"].T + w["signal_input_layer.bias"]
    hidden = stack(enc if hard else se, w, "generator", settings["gen_n_layer"], eps)
    logits = hidden @ w["mask_output.weight"].T + w["mask_output.bias"]
    beta_min, scale = settings["beta_min"], settings["prior_scale_factor"]
    share = np.exp(w["prior_weights"]) / np.exp(w["prior_weights"]).sum()
    alpha = softplus(logits[:, 1]) + beta_min + ((signals + beta_min) * scale) @ share
    beta = softplus(logits[:, 0]) + beta_min + ((w["signal_betas"] + beta_min) * scale) @ share
    mean = alpha / (alpha + beta)
    mask = (mean >= 0.5).astype(float) if settings["test_hard"] else mean.copy()
    if settings["test_top"]:
        mask = np.zeros(L)
        mask[np.argsort(-mean)[: int(L * settings["test_top_percent"])]] = 1
    start = (L - P) // 2
    mask[blacklist] = 0
    mask[start : start + P] = 1
    if hard:
        rows = mask > 0
        start = int(rows[: L // 2].sum()) - P // 2
        encoded = stack(enc[rows], w, "encoder", settings["enc_n_layer"], eps)
    else:
        encoded = stack(enc * mask[:, None], w, "encoder", settings["enc_n_layer"], eps)
    h = np.concatenate([encoded[start : start + P].mean(0), features])
    for i in (0, 2, 4):
        h = w[f"pToExpr.{i}.weight"] @ h + w[f"pToExpr.{i}.bias"]
        h = np.maximum(h, 0) if i < 4 else h
    return {"expression": h, "mask": mask, "mask_logits": logits, "z_mean": mean, "z_alpha": alpha, "z_beta": beta}


def random_weights(settings: dict[str, Any], rng: np.random.Generator) -> Weights:
    """Weights under the published names, ties stored twice, float32 numbers."""
    D, S, F = settings["d_model"], settings["signal_size"], settings["rna_feat_dim"]
    inner, rank = 2 * D, -(-D // 16)

    def draw(*shape: int, scale: float = 0.5) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    w = {
        "prior_weights": np.array([2, 2, 1], np.float32)[:S],
        "signal_betas": np.array([1.5, 0.2, 1.0], np.float32)[:S],
        "seq_input_layer.weight": draw(D, 4),
        "seq_input_layer.bias": draw(D),
        "signal_input_layer.weight": draw(D, S, scale=0.1),
        "signal_input_layer.bias": draw(D),
        "mask_output.weight": draw(2, D),
        "mask_output.bias": draw(2),
        "pToExpr.0.weight": draw(D, D + F),
        "pToExpr.0.bias": draw(D),
        "pToExpr.2.weight": draw(D, D),
        "pToExpr.2.bias": draw(D),
        "pToExpr.4.weight": draw(1, D),
        "pToExpr.4.bias": draw(1),
    }
    for name in ("encoder", "generator"):
        for i in range(settings["enc_n_layer"]):
            layer = f"{name}.backbone.layers.{i}"
            w[f"{layer}.norm.weight"] = 1 + draw(D, scale=0.1)
            shared = {"in_proj.weight": draw(2 * inner, D), "out_proj.weight": draw(D, inner, scale=0.2)}
            for direction in ("mamba_fwd", "mamba_rev"):
                own = {
                    **shared,
                    "conv1d.weight": draw(inner, 1, 4),
                    "conv1d.bias": draw(inner),
                    "x_proj.weight": draw(rank + 32, inner, scale=0.3),
                    "dt_proj.weight": draw(inner, rank),
                    "dt_proj.bias": draw(inner) - 3,
                    "A_log": np.log(np.tile(np.arange(1, 17, dtype=np.float32), (inner, 1))),
                    "D": 1 + draw(inner, scale=0.1),
                }
                w.update({f"{layer}.mixer.{direction}.{key}": value for key, value in own.items()})
        w[f"{name}.backbone.norm_f.weight"] = 1 + draw(D, scale=0.1)
    if settings["pos_enc"]:
        w["pos_emb"] = draw(1, settings["seq_range"], D)
        w.update({f"encoder{k[9:]}": v for k, v in w.items() if k.startswith("generator")})
    return w


SOFT = {
    **{"d_model": 8, "enc_n_layer": 2, "gen_n_layer": 2, "center_len": 20, "seq_range": 150, "norm_epsilon": 1e-5},
    **{"signal_size": 3, "rna_feat_dim": 9, "prior_weight": "2,2,1", "prior_beta": "1.5,0.2,1.0"},
    **{"prior_scale_factor": 10.0, "marginal_mean": 0.1, "marginal_scale": 10.0, "beta_min": 1, "z_scale": 1.0},
    **{"post_hard_dist": False, "enc_prd_ps": False, "pos_enc": False, "sample_threshold": 0.5},
    **{"test_soft": True, "test_hard": False, "test_top": False, "test_top_percent": 0.1},
}
HARD = {
    **SOFT,
    **{"prior_scale_factor": 1.0, "marginal_mean": 0.45, "marginal_scale": 0.1, "beta_min": 0},
    **{"post_hard_dist": True, "enc_prd_ps": True, "pos_enc": True, "test_soft": False, "test_hard": True},
}
TOP = {**SOFT, "test_soft": False, "test_top": True}


def make(name: str, settings: dict[str, Any], seed: int, folder: Path) -> None:
    """Write one golden of two windows: inputs and outputs, weights, settings."""
    rng = np.random.default_rng(seed)
    weights = random_weights(settings, rng)
    L, S, F = settings["seq_range"], settings["signal_size"], settings["rna_feat_dim"]
    onehot = np.eye(5, 4, dtype=np.uint8)[rng.integers(0, 5, (2, L))]
    signals = rng.gamma(0.5, 2.0, (2, L, S)).astype(np.float32)
    features = rng.standard_normal((2, F)).astype(np.float32)
    regions = np.stack([np.zeros((2, L), bool), rng.random((2, L)) < 0.1], axis=-1)
    exact = {key: value.astype(np.float64) for key, value in weights.items()}
    windows = [
        seq2exp(exact, settings, onehot[b].astype(float), signals[b].astype(float), features[b], regions[b, :, 1])
        for b in range(2)
    ]
    outputs = {f"out_{key}": np.stack([window[key] for window in windows]).astype(np.float32) for key in windows[0]}
    inputs = {"in_seqs": onehot, "in_signals": signals, "in_rna_feat": features, "in_mask_regions": regions}
    np.savez_compressed(folder / f"{name}.npz", **inputs, **outputs)
    np.savez_compressed(folder / f"{name}.weights.npy", **weights)
    (folder / f"{name}.weights.npy.npz").replace(folder / f"{name}.weights")
    card = {"name": name, "settings": settings, "facts": {"weights": f"{name}.weights", "seed": seed}}
    (folder / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    for seed, (name, settings) in enumerate({"soft_own": SOFT, "hard_own": HARD, "soft_top_own": TOP}.items()):
        make(name, settings, seed, folder)
