"""The network gives the reference's numbers: outputs, intermediates, losses and gradients, for every golden at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kipoi_seq2exp import Seq2Exp, Seq2ExpOutput, convert_checkpoint, load_model
from kipoi_seq2exp.nn.authors import published_names
from kipoi_seq2exp.nn.losses import seq2exp_loss
from parity.goldens import Golden, golden_paths, read_golden

TOLERANCES = {"mask_logits": 1e-5, "z_mean": 1e-6, "expression": 2e-6, "post_alpha": 1e-5, "post_beta": 1e-5}
DISCRETE = ("hard", "top")
FORWARD = ["soft", "hard", "peakmask", "caduceus", "lightning"]


def load(golden: Golden, folder: Path) -> Seq2Exp:
    """Convert the golden's weights as a user would."""
    source = golden.weights
    if source.suffix == ".weights":  # our own goldens keep theirs without pickle
        with np.load(source) as arrays:
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        source = folder / "weights.pt"
        torch.save(state, source)
    convert_checkpoint(source, folder / "weights.safetensors", settings=golden.settings)
    return load_model(folder / "weights.safetensors", device="cpu")


def run(model: Seq2Exp, golden: Golden) -> Seq2ExpOutput:
    peaks = {"mask": golden.tensor("in_peak_mask")} if golden.settings.get("use_peak_mask") else {}
    with torch.inference_mode():
        return model(**golden.inputs, **peaks)


def expected_expression(golden: Golden) -> torch.Tensor:
    """Hard networks: the value of each window alone (in a batch the published code pads, which shifts it)."""
    hard = golden.settings.get("pos_enc") and "out_expression_batch1" in golden.arrays
    return golden.tensor("out_expression_batch1" if hard else "out_expression").reshape(-1)


@pytest.mark.parametrize("path", [p for prefix in FORWARD for p in golden_paths(prefix)])
def test_outputs_and_intermediates(path: Path, tmp_path: Path) -> None:
    golden = read_golden(path)
    output = run(load(golden, tmp_path), golden)
    assert (output.expression - expected_expression(golden)).abs().max() <= TOLERANCES["expression"]
    found = {"mask": output.mask, "mask_logits": output.mask_logits}
    if output.z is not None and output.posterior is not None and output.prior is not None:
        found |= {"z_mean": output.z.mean, "z_alpha": output.z.alpha, "z_beta": output.z.beta}
        found |= {"post_alpha": output.posterior.alpha, "post_beta": output.posterior.beta}
        found |= {"prior_alpha": output.prior.alpha, "prior_beta": output.prior.beta}
    for name, value in found.items():
        if f"out_{name}" in golden.arrays and value is not None:
            wanted = golden.tensor(f"out_{name}")
            tolerance = TOLERANCES.get(name, 1e-6 * max(1.0, float(wanted.abs().max())))
            discrete = golden.settings.get("test_hard") or golden.settings.get("test_top")
            tolerance = 0 if name == "mask" and discrete else tolerance
            assert (value - wanted).abs().max() <= tolerance, name
    if "out_kl_loss" in golden.arrays and output.kl is not None:
        assert float(output.kl) == pytest.approx(float(golden.arrays["out_kl_loss"]), rel=1e-6)


@pytest.mark.parametrize("path", [p for prefix in FORWARD[:3] for p in golden_paths(prefix)])
@pytest.mark.parametrize("case", ["extra_blacklist", "all_blacklisted"])
def test_blacklists(path: Path, case: str, tmp_path: Path) -> None:
    golden = read_golden(path)
    if f"out_expression_{case}" not in golden.arrays:
        pytest.skip(f"{golden.name} has no case '{case}'")
    model, inputs = load(golden, tmp_path), dict(golden.inputs)
    if case == "extra_blacklist":
        inputs["blacklist"] = golden.tensor("out_mask_regions_extra_blacklist")[..., 1]
    else:
        inputs["blacklist"] = torch.ones_like(inputs["blacklist"])
    peaks = {"mask": golden.tensor("in_peak_mask")} if golden.settings.get("use_peak_mask") else {}
    with torch.inference_mode():
        output = model(**inputs, **peaks)
    if case == "extra_blacklist":
        tolerance = 0 if golden.settings["test_hard"] or golden.settings["test_top"] else 1e-6
        assert (output.mask - golden.tensor("out_mask_extra_blacklist")).abs().max() <= tolerance
    else:
        assert output.mask.sum(1).tolist() == golden.tensor("out_mask_sum_all_blacklisted").tolist()
    longest = 0 if not golden.settings["pos_enc"] else int(output.mask.sum(1).argmax())  # the one without padding
    rows = slice(None) if not golden.settings["pos_enc"] else slice(longest, longest + 1)
    wanted = golden.tensor(f"out_expression_{case}").reshape(-1)
    assert (output.expression - wanted)[rows].abs().max() <= TOLERANCES["expression"]


@pytest.mark.parametrize("path", golden_paths("train"))
@pytest.mark.parametrize("backend", ["cpu", "chunked"])
def test_losses_and_gradients(path: Path, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ2EXP_SCAN", backend)
    golden = read_golden(path)
    model = load(golden, tmp_path)
    if golden.settings["pos_enc"]:
        monkeypatch.setattr(model, "encode", lambda embedded, mask, *_: (encode_padded(model, embedded, mask), None))
    torch.manual_seed(golden.facts["torch_seed"])
    output = model.train()(**golden.inputs)
    assert (output.mask - golden.tensor("out_mask")).abs().max() <= 1e-6
    losses = seq2exp_loss(output, golden.tensor("in_y_expr").reshape(-1))
    assert losses.kl is not None
    for name, value in (("pred_loss", losses.prediction), ("kl_loss", losses.kl), ("total", losses.total)):
        assert value.item() == pytest.approx(float(golden.arrays[f"out_loss__{name}"]), rel=2e-6), name
    for kind, loss in (("gradpred", losses.prediction), ("gradkl", output.kl), ("gradtotal", losses.total)):
        compare_gradients(model, golden, kind, loss)


@pytest.mark.parametrize("path", golden_paths("train_soft"))
def test_gradient_of_a_given_sample(path: Path, tmp_path: Path) -> None:
    golden = read_golden(path)
    sample = golden.tensor("out_sample").requires_grad_()
    output = load(golden, tmp_path).train()(**golden.inputs, sample=sample)
    losses = seq2exp_loss(output, golden.tensor("in_y_expr").reshape(-1))
    (found,) = torch.autograd.grad(losses.prediction, sample)
    wanted = golden.tensor("grad_pred_wrt_sample")
    assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()
    P, L = golden.settings["center_len"], golden.settings["seq_range"]
    kept_or_dropped = golden.inputs["blacklist"].clone()
    kept_or_dropped[:, (L - P) // 2 : (L + P) // 2] = True
    assert not found[kept_or_dropped].any()


def compare_gradients(model: Seq2Exp, golden: Golden, kind: str, loss: torch.Tensor) -> None:
    """Compare the gradient of every parameter, relative to that parameter's largest."""
    names = dict(model.named_parameters())
    found = dict(
        zip(names, torch.autograd.grad(loss, list(names.values()), retain_graph=True, allow_unused=True), strict=True)
    )
    compared = 0
    for theirs, ours in published_names(model.config):
        if f"{kind}__{theirs}" not in golden.arrays or ours not in found:
            continue
        wanted = golden.tensor(f"{kind}__{theirs}")
        gradient = found[ours]
        if gradient is None:
            assert not wanted.any(), (kind, theirs)
            continue
        error = (gradient.reshape(wanted.shape) - wanted).abs().max()
        assert error <= 1e-3 * wanted.abs().max() + 1e-9, (kind, theirs, float(error))
        compared += 1
    assert compared > 30
    reached = {ours for theirs, ours in published_names(model.config) if f"{kind}__{theirs}" in golden.arrays}
    for name in set(found) - reached:
        gradient = found[name]
        assert gradient is None or not gradient.any(), name


def encode_padded(model: Seq2Exp, embedded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Encode a hard batch as the published code does: packed left, padded right, in one go."""
    packed = [window[kept > 0] for window, kept in zip(embedded, mask, strict=True)]
    encoded = model.encoder(torch.nn.utils.rnn.pad_sequence(packed, batch_first=True))
    P = model.config.promoter_bp
    starts = (mask[:, : mask.shape[1] // 2].sum(1) - P // 2).int()
    return torch.stack([window[s : s + P].mean(0) for window, s in zip(encoded, starts, strict=True)])


@pytest.mark.parametrize("path", [p for prefix in ("soft", "hard") for p in golden_paths(prefix)])
def test_batching_never_changes_a_result(path: Path, tmp_path: Path) -> None:
    golden = read_golden(path)
    model = load(golden, tmp_path)
    together = run(model, golden)
    for b in range(2):
        with torch.inference_mode():
            alone = model(**{name: value[b : b + 1] for name, value in golden.inputs.items()})
        assert torch.equal(alone.mask, together.mask[b : b + 1])
        assert torch.allclose(alone.expression, together.expression[b : b + 1], rtol=0, atol=1e-6)
