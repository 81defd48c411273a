from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from kipoi_seq2exp import MaskMode, NetworkConfig, Seq2Exp, Variant, seq2exp_loss
from kipoi_seq2exp.errors import ShapeError
from kipoi_seq2exp.nn import bottleneck
from kipoi_seq2exp.nn.bottleneck import BetaParams
from kipoi_seq2exp.nn.losses import ErrorLoss
from kipoi_seq2exp.nn.network import Seq2ExpOutput

L, P = 200, 40
SMALL: dict[str, Any] = {"window_bp": L, "promoter_bp": P, "d_model": 16, "generator_layers": 1, "encoder_layers": 1}
HARD: dict[str, Any] = {"variant": Variant.HARD, "beta_min": 0.0, "prior_scale": 1.0, "mask_mode": MaskMode.HARD}


def network(**changes: Any) -> Seq2Exp:
    torch.manual_seed(0)
    return Seq2Exp(NetworkConfig(**{**SMALL, **changes})).eval()


def inputs(batch: int = 2, tracks: int = 3, features: int = 9, length: int = L) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    bases = torch.randint(0, 4, (batch, length), generator=generator)
    return {
        "onehot": torch.nn.functional.one_hot(bases, 4).to(torch.uint8),
        "signals": torch.rand(batch, length, tracks, generator=generator) * 3,
        "features": torch.randn(batch, features, generator=generator),
    }


def test_shapes_and_promoter() -> None:
    with torch.inference_mode():
        output = network()(**inputs())
    assert output.expression.shape == (2,)
    assert output.mask.shape == (2, L)
    assert output.prior.alpha.shape == (2, L, 3)
    assert output.mask_logits.shape == (2, L, 2)
    assert output.kl.ndim == 0
    middle = slice((L - P) // 2, (L + P) // 2)
    assert (output.mask[:, middle] == 1).all()
    outside = torch.ones(L, dtype=torch.bool)
    outside[middle] = False
    torch.testing.assert_close(output.mask[:, outside], output.z.mean[:, outside], rtol=0, atol=0)


def test_promoter_wins_over_blacklist() -> None:
    blacklist = torch.ones(2, L, dtype=torch.bool)
    with torch.inference_mode():
        mask = network()(**inputs(), blacklist=blacklist).mask
    assert mask.sum(1).tolist() == [P, P]


@pytest.mark.parametrize("variant", [{}, HARD, {"variant": Variant.PLAIN}, {"mask_mode": MaskMode.TOP}])
def test_batches_do_not_change_a_bit(variant: dict[str, Any]) -> None:
    model, batch = network(**variant), inputs(batch=3)
    with torch.inference_mode():
        together = model(**batch)
        for b in range(3):
            alone = model(**{name: value[b : b + 1] for name, value in batch.items()})
            assert torch.equal(alone.expression, together.expression[b : b + 1])
            if alone.mask is not None:
                assert torch.equal(alone.mask, together.mask[b : b + 1])


@pytest.mark.parametrize("fraction", [0.1, 0.33])
def test_top_modes(fraction: float) -> None:
    data = inputs()
    with torch.inference_mode():
        soft = network()(**data)
        top = network(mask_mode=MaskMode.TOP, top_fraction=fraction)(**data)
        kept = network(mask_mode=MaskMode.TOP_SOFT, top_fraction=fraction)(**data)
    mean = soft.z.mean
    chosen = torch.zeros_like(mean).scatter(1, mean.topk(int(L * fraction)).indices, 1.0)
    middle = slice((L - P) // 2, (L + P) // 2)
    chosen[:, middle] = 1
    assert torch.equal(top.mask, chosen)
    expected = chosen * mean
    expected[:, middle] = 1
    assert torch.equal(kept.mask, expected)


def test_a_given_mask_is_used_as_it_is() -> None:
    model, data = network(), inputs()
    with torch.inference_mode():
        own = model(**data)
        given = model(**data, mask=own.mask)
        none = model(**data, mask=torch.zeros(2, L))
    torch.testing.assert_close(given.expression, own.expression, rtol=0, atol=1e-7)
    assert given.z is None
    assert none.mask.sum() == 0
    assert not torch.allclose(none.expression, own.expression, atol=1e-6)


def test_tracks_raise_what_they_say() -> None:
    """More of one track makes a base more likely to be kept, and only that track's prior changes."""
    model, data = network(), inputs()
    more = {**data, "signals": data["signals"].clone()}
    more["signals"][..., 1] += 1
    with torch.inference_mode():
        before, after = model(**data), model(**more)
    assert (after.z.mean > before.z.mean).all()
    assert torch.equal(after.prior.alpha[..., 0], before.prior.alpha[..., 0])
    assert torch.equal(after.posterior.alpha, before.posterior.alpha)  # the soft generator reads DNA alone


def test_any_number_of_tracks_and_features() -> None:
    model = network(n_tracks=2, n_features=0, prior_weights=(1.0, 1.0), signal_betas=(1.0, 1.0))
    with torch.inference_mode():
        output = model(**{**inputs(tracks=2), "features": None})
    assert output.expression.shape == (2,)


def test_soft_reads_windows_of_any_even_length() -> None:
    with torch.inference_mode():
        assert network()(**inputs(length=100)).mask.shape == (2, 100)


def test_plain_baseline_without_signals() -> None:
    model = network(variant=Variant.PLAIN, n_tracks=0, generator_layers=0, prior_weights=(), signal_betas=())
    with torch.inference_mode():
        output = model(inputs()["onehot"], None, inputs()["features"])
    assert output.mask is None
    assert seq2exp_loss(output, torch.zeros(2)).kl is None
    with pytest.raises(ShapeError, match="3 targets were given for 2 predictions"):
        seq2exp_loss(output, torch.zeros(3))


def test_errors_above_1_count_less_in_the_published_loss_alone() -> None:
    output = Seq2ExpOutput(expression=torch.tensor([0.5, 3.0]))
    assert seq2exp_loss(output, torch.zeros(2)).total == pytest.approx((0.125 + 2.5) / 2)
    assert seq2exp_loss(output, torch.zeros(2), error=ErrorLoss.SQUARED).total == pytest.approx((0.125 + 4.5) / 2)


def test_hard_straight_through_reaches_the_generator() -> None:
    for through, reached in ((True, True), (False, False)):
        model = network(**HARD, straight_through=through).train()
        torch.manual_seed(3)
        output = model(**inputs())
        gradient = torch.autograd.grad(output.expression.sum(), model.evidence_head.weight, allow_unused=True)[0]
        assert (gradient is not None and bool(gradient.any())) is reached
        assert set(output.mask.unique().tolist()) <= {0.0, 1.0}


def test_straight_through_does_not_change_values() -> None:
    with torch.inference_mode():
        results = [network(**HARD, straight_through=through)(**inputs()).expression for through in (True, False)]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"onehot": torch.zeros(2, L, 5)}, r"onehot must have shape \(batch, window, 4\)"),
        ({"signals": torch.zeros(2, L, 2)}, "3 tracks"),
        ({"features": torch.zeros(2, 8)}, "9 gene features"),
        ({"features": None}, "features is missing"),
        ({"signals": torch.full((2, L, 3), -1.0)}, "track 0 has a negative value"),
        ({"signals": torch.full((2, L, 3), torch.nan)}, "not a finite number"),
        ({"features": torch.full((2, 9), torch.inf)}, "features hold a value"),
        ({"blacklist": torch.zeros(2, L - 1, dtype=torch.bool)}, "blacklist must have shape"),
        ({"mask": torch.zeros(1, L)}, "mask must have shape"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        network()(**{**inputs(), **change})


def test_wrong_windows_are_named() -> None:
    with pytest.raises(ShapeError, match="windows of 200 bases, found 100"):
        network(**HARD)(**inputs(length=100))
    with pytest.raises(ShapeError, match="must be even"):
        network()(**inputs(length=101))
    with pytest.raises(ShapeError, match="give one"):
        network(variant=Variant.PEAKS)(**inputs())
    with pytest.raises(ShapeError, match="whole promoter"):
        network(**HARD)(**inputs(), mask=torch.zeros(2, L))


def test_kl_is_zero_at_the_marginal_and_above_elsewhere() -> None:
    config = NetworkConfig(marginal_mean=0.1, marginal_scale=10.0)
    at = BetaParams(torch.full((1, 5), 10.0), torch.full((1, 5), 90.0))
    off = BetaParams(torch.full((1, 5), 90.0), torch.full((1, 5), 10.0))
    assert float(bottleneck.marginal_kl(at, config)) == pytest.approx(0, abs=1e-5)
    assert float(bottleneck.marginal_kl(off, config)) > 1


def test_every_setting_has_a_reader() -> None:
    from pathlib import Path

    package = Path(bottleneck.__file__).parent
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    for field in dataclasses.fields(NetworkConfig):
        assert f".{field.name}" in text, field.name
