"""Ensembles: one network to everybody outside, whose numbers are the means of its members'."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_tokens import SMALL, windows

from kipoi_seq2exp.elements.evidence import split_evidence
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.nn.checkpoint import read_model, save_model
from kipoi_seq2exp.nn.network import Seq2Exp


@pytest.fixture(scope="module")
def members() -> list[Seq2Exp]:
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        networks.append(Seq2Exp(SMALL).eval())
    return networks


@pytest.fixture(scope="module")
def ensemble(members: list[Seq2Exp]) -> Seq2Exp:
    return Seq2Exp.of_members(members)


def test_expression_and_evidence_are_the_means_of_the_members(members: list[Seq2Exp], ensemble: Seq2Exp) -> None:
    batch = windows()
    with torch.inference_mode():
        found, alone = ensemble(**batch), [member(**batch) for member in members]
        del batch["blacklist"]
        given = torch.stack([member(**batch, mask=found.mask).expression for member in members])
    torch.testing.assert_close(found.expression, given.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.spread, given.std(0), rtol=0, atol=1e-6)
    for part in ("z", "posterior", "prior"):
        alpha = torch.stack([getattr(one, part).alpha for one in alone]).mean(0)
        torch.testing.assert_close(getattr(found, part).alpha, alpha)
    assert alone[0].spread is None


def test_its_mask_given_back_predicts_the_same(ensemble: Seq2Exp) -> None:
    batch = windows()
    with torch.inference_mode():
        found = ensemble(**batch)
        del batch["blacklist"]
        again = ensemble(**batch, mask=found.mask)
    torch.testing.assert_close(again.expression, found.expression, rtol=0, atol=1e-6)


def test_its_evidence_can_be_taken_apart(ensemble: Seq2Exp) -> None:
    batch = windows(1)
    with torch.inference_mode():
        output = ensemble(**batch)
    sources = split_evidence(
        ensemble, (output.z.alpha[0].numpy(), output.z.beta[0].numpy()), batch["signals"][0].numpy()
    )
    torch.testing.assert_close(torch.from_numpy(sources.dna).float(), output.posterior.mean[0], rtol=0, atol=2e-6)


def test_gradients_are_those_of_what_it_predicts(ensemble: Seq2Exp) -> None:
    batch = windows(1)
    signals = batch["signals"].clone().requires_grad_()
    ensemble(**{**batch, "signals": signals}).expression.sum().backward()
    step = 1e-2 * signals.grad / signals.grad.norm()
    with torch.inference_mode():
        low, high = (ensemble(**{**batch, "signals": (signals + sign * step).clamp(0)}).expression for sign in (-1, 1))
    slope = float((high - low) / 2 / step.norm())
    assert slope == pytest.approx(float(signals.grad.norm()), rel=0.05)


def test_saved_and_read_it_is_the_same(ensemble: Seq2Exp, tmp_path) -> None:
    save_model(ensemble, tmp_path / "three.safetensors")
    read = read_model(tmp_path / "three.safetensors", "cpu")
    assert read.config == dataclasses.replace(SMALL, members=3)
    batch = windows()
    with torch.inference_mode():
        torch.testing.assert_close(read(**batch).expression, ensemble(**batch).expression, rtol=0, atol=0)


def test_what_cannot_be_joined_is_named(members: list[Seq2Exp], ensemble: Seq2Exp) -> None:
    other = Seq2Exp(dataclasses.replace(SMALL, encoder_layers=1))
    for wrong in ([members[0], other], [ensemble, ensemble]):
        with pytest.raises(ConfigError, match="members: only single networks of the same settings"):
            Seq2Exp.of_members(wrong)
    with pytest.raises(ConfigError, match="members: an ensemble needs at least two networks, found 1"):
        Seq2Exp.of_members(members[:1])
    with pytest.raises(ConfigError, match="members must be above 0, found 0"):
        dataclasses.replace(SMALL, members=0)
