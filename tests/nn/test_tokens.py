"""Tokens: bases to tokens and back, the reach of a fresh network, and that all ways in give the same numbers."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from kipoi_seq2exp.config import MaskMode, NetworkConfig, Variant
from kipoi_seq2exp.data.dataset import WindowInputs
from kipoi_seq2exp.elements.evidence import split_evidence
from kipoi_seq2exp.elements.fdr import mask_under
from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.nn.network import Seq2Exp
from kipoi_seq2exp.nn.scan import Backend
from kipoi_seq2exp.nn.tokens import TokenGrid, Tokens, known_rows
from kipoi_seq2exp.training.data import tokenise

SMALL = NetworkConfig(
    window_bp=1_000, promoter_bp=128, n_features=1, d_model=16, generator_layers=1, encoder_layers=2, token_bp=32,
    memory_bp=4_000, contact_pool=2, contact_track=2,
)  # fmt: skip


def network(**changes: Any) -> Seq2Exp:
    torch.manual_seed(0)
    return Seq2Exp(dataclasses.replace(SMALL, **changes)).eval()


def windows(n: int = 3, length: int = 1_000, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    onehot = np.eye(4, dtype=np.uint8)[rng.integers(0, 4, (n, length))]
    onehot[1:] = 0  # windows of N
    return {
        "onehot": torch.from_numpy(onehot),
        "signals": torch.from_numpy(rng.gamma(1.0, 1.0, (n, length, 3)).astype(np.float32)) * torch.tensor([1, 1, 0.1]),
        "features": torch.from_numpy(rng.normal(size=(n, 1)).astype(np.float32)),
        "blacklist": torch.from_numpy(rng.random((n, length)) < 0.1),
    }


@pytest.mark.parametrize(("length", "token_bp"), [(1_000, 32), (1_000, 64), (130, 2), (128, 128), (998, 16)])
def test_tokens_cover_the_window_and_the_promoter_is_whole(length: int, token_bp: int) -> None:
    grid = TokenGrid(length, 128, token_bp)
    values = torch.arange(length, dtype=torch.float64)[None]
    tokens = grid.to_tokens(values)
    assert tokens.shape == (1, grid.length)
    start = (length - 128) // 2
    promoter = values[0, start : start + 128].reshape(-1, token_bp).mean(1)
    torch.testing.assert_close(tokens[0, grid.promoter], promoter)
    spread = grid.to_bases(tokens)
    assert spread.shape == (1, length)
    torch.testing.assert_close(grid.to_tokens(spread), tokens)  # outermost tokens included
    torch.testing.assert_close(spread.mean(), values.mean())  # nothing is lost or counted twice


def test_one_base_a_token_is_the_published_network() -> None:
    grid = TokenGrid(1_000, 128, 1)
    values = torch.rand(2, 1_000)
    assert grid.to_tokens(values) is values
    assert grid.to_bases(values) is values
    assert grid.promoter == slice(436, 564)


@pytest.mark.parametrize(
    ("variant", "mode"),
    [(Variant.SOFT, mode) for mode in (MaskMode.SOFT, MaskMode.HARD, MaskMode.TOP)] + [(Variant.HARD, MaskMode.HARD)],
)
def test_output_is_per_base_and_its_mask_given_back_predicts_the_same(variant: Variant, mode: MaskMode) -> None:
    changes = {"contact_pool": 0, "contact_track": None, "generator_layers": 2} if variant is Variant.HARD else {}
    model, batch = network(variant=variant, mask_mode=mode, **changes), windows()
    with torch.inference_mode():
        output = model(**batch)
        given = {name: value for name, value in batch.items() if name != "blacklist"}
        again = model(**given, mask=output.mask)
    assert output.mask.shape == output.z.alpha.shape == (3, 1_000)
    assert output.prior.alpha.shape == (3, 1_000, 3)
    assert output.mask_logits.shape == (3, 1_000, 2)
    torch.testing.assert_close(again.expression, output.expression, rtol=0, atol=2e-6)


def test_annotations_are_per_base() -> None:
    batch = windows()
    with torch.inference_mode():
        mask = network()(**batch).mask
    outside = batch["blacklist"].clone()
    outside[:, 436:564] = False
    assert (mask[:, 436:564] == 1).all()
    assert (mask[outside] == 0).all()
    assert (mask[~outside] > 0).all()


@pytest.mark.parametrize("backend", [Backend.CPU, Backend.CHUNKED])
def test_tokens_given_directly_predict_the_same(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ2EXP_SCAN", backend.value)
    model, batch = network(), windows()
    grid = model.grid(1_000)
    tokens = Tokens(
        batch["onehot"][:1].float(),
        True,
        known_rows(torch.tensor([True, False, False])),
        grid.to_tokens(batch["signals"]),
        batch["features"],
        grid.to_tokens((~batch["blacklist"]).float()),
    )
    with torch.inference_mode():
        bases, direct = model(**batch), model.forward_tokens(tokens, 1_000)
    torch.testing.assert_close(direct.expression, bases.expression, rtol=0, atol=2e-6)
    torch.testing.assert_close(direct.mask, grid.to_tokens(bases.mask), rtol=0, atol=2e-6)
    torch.testing.assert_close(direct.kl, bases.kl)


def test_windows_without_dna_share_a_row_and_keep_their_gradients() -> None:
    """With gradients, windows of N are embedded once, and every gradient is that of single windows."""
    model, batch = network().train(), windows()
    batch["sample"] = torch.rand(3, 1_000)
    model(**batch).expression.sum().backward()
    together = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    for i in range(3):
        model(**{name: value[i : i + 1] for name, value in batch.items()}).expression.sum().backward()
    for name, value in model.named_parameters():
        if value.grad is not None:
            scale = float(value.grad.abs().max()) + 1e-12
            torch.testing.assert_close(together[name], value.grad, rtol=0, atol=2e-5 * scale + 1e-9)


def test_a_motif_counts_wherever_in_the_token_it_lies() -> None:
    """The stem's maximum makes a token's embedding the same for a motif 4 bases further on, N around it."""
    stem = network().sequence_embedding
    grid = TokenGrid(1_000, 128, 32)
    onehot = torch.zeros(2, 1_000, 4)
    motif = torch.eye(4)[[0, 2, 1, 3, 3, 0]]
    start = grid.promoter.start * 32 - grid.beyond_bp
    for i, shift in enumerate((10, 14)):
        onehot[i, start + shift : start + shift + 6] = motif
    with torch.inference_mode():
        out = stem(onehot, grid)
        assert not torch.allclose(out[0, grid.promoter.start], stem.unknown())
    torch.testing.assert_close(out[0], out[1])
    torch.testing.assert_close(out[0, 0], stem.unknown())


def reach(memory_bp: int | None, token_bp: int) -> dict[str, float]:
    """Mean gradient of the expression by distance, in a window of 40 kb."""
    model = network(
        window_bp=40_000, promoter_bp=2_048, token_bp=token_bp, memory_bp=memory_bp, contact_pool=0, contact_track=None
    )
    batch = windows(1, 40_000)
    signals = batch["signals"].requires_grad_()
    mask = torch.ones(1, 40_000)
    model(batch["onehot"], signals, batch["features"], mask=mask).expression.sum().backward()
    gradient = signals.grad[0, :, :2].abs().mean(1)
    distance = (torch.arange(40_000) - 20_000).abs()
    near = gradient[distance < 1_000].mean()
    return {"far": float(gradient[(distance > 12_000) & (distance < 20_000)].mean() / near)}


def test_memory_sets_how_far_a_fresh_network_hears() -> None:
    """With the published start next to nothing comes from 12 to 20 kb; with memory_bp it does, at any token size."""
    published = reach(None, 1)["far"]
    assert published < 1e-6
    for token_bp in (1, 16, 64):
        assert reach(200_000, token_bp)["far"] > max(1e-6, 1_000 * published)


def test_contact_pool_hears_an_element_by_its_contact_and_not_when_masked() -> None:
    model, batch = network(), windows(1)
    with torch.no_grad():
        model.activity_head.bias.fill_(2.0)
        for layer in (*model.generator.layers, *model.encoder.layers):
            layer.out_proj.weight.zero_()  # no states: only the sum can carry anything over a distance
    base = {name: value for name, value in batch.items() if name != "blacklist"}

    def predict(mask: torch.Tensor, contact: float = 0.1) -> float:
        signals = base["signals"].clone()
        signals[..., 2] = contact
        with torch.inference_mode():
            return float(model(base["onehot"], signals, base["features"], mask=mask).expression)

    whole, cut = torch.ones(1, 1_000), torch.ones(1, 1_000)
    cut[:, 100:200] = 0
    assert abs(predict(whole) - predict(cut)) > 1e-4
    assert predict(whole, 0.0) == pytest.approx(predict(cut, 0.0), abs=1e-6)  # no contact, no effect


def test_beyond_the_encoder_only_activity_and_contact_count() -> None:
    """A far element acts by its own activity x contact x mask; what the encoder reads acts without contact too."""
    model, batch = network(encoder_bp=256), windows(1)
    mask = torch.rand(1, 1_000)

    def slopes(contact: float) -> torch.Tensor:
        signals = batch["signals"].clone()
        signals[..., 2] = contact
        signals.requires_grad_()
        model(batch["onehot"], signals, batch["features"], mask=mask).expression.sum().backward()
        return signals.grad[0, :, :2].abs().sum(1)

    centre = model.grid(1_000).centre(256)
    near = torch.zeros(1_000, dtype=torch.bool)
    near[(centre.start * 32 - 12) : (centre.stop * 32 - 12)] = True  # the outermost tokens reach 12 bases beyond
    assert int(near.sum()) == 256
    without, touching = slopes(0.0), slopes(0.1)
    assert not without[~near].any()
    assert bool((without[near] > 0).all())
    assert bool((touching[~near] > 0).all())


@pytest.mark.parametrize("token_bp", [1, 32, 128])
def test_spans_average_track_x_mask_over_their_bases(token_bp: int) -> None:
    """The mean over the bases of a span, each with the values of its token; zeros beyond the window."""
    edges = (50, 200, 600)
    grid, signals, mask = TokenGrid(1_000, 128, token_bp), windows(2)["signals"], torch.rand(2, 1_000)
    tracks, kept = grid.to_tokens(signals), grid.to_tokens(mask)
    bases = (grid.to_bases(tracks) * grid.to_bases(kept)[..., None]).numpy()
    found = grid.span_means(tracks, kept, edges).numpy().reshape(2, 6, 3)
    for place, (first, last) in enumerate([(-600, -200), (-200, -50), (-50, 0), (0, 50), (50, 200), (200, 600)]):
        inside = bases[:, max(0, 500 + first) : 500 + last]
        expected = np.log(10 * inside.sum(1) / (last - first) + 1)
        np.testing.assert_allclose(found[:, place], expected, rtol=1e-5)


def test_the_head_reads_spans_through_the_mask() -> None:
    plain, model = (network(contact_pool=0, contact_track=None, spans_bp=spans) for spans in ((), (64, 500)))
    batch = windows()
    assert model.expression_head[0].in_features == plain.expression_head[0].in_features + 4 * 3
    with torch.no_grad():
        model.expression_head[0].weight[:, :16] = 0  # of what the encoder read, nothing
    whole, cut = torch.ones(3, 1_000), torch.ones(3, 1_000)
    cut[:, 620:700] = 0
    with torch.inference_mode():
        one, other = (model(**batch, mask=mask).expression for mask in (whole, cut))
    assert bool(((one - other).abs() > 1e-4).all())


@pytest.mark.parametrize("token_bp", [1, 32, 128])
def test_the_centre_is_the_promoter_and_as_much_on_either_side(token_bp: int) -> None:
    grid = TokenGrid(1_000, 128, token_bp)
    assert grid.centre(128) == grid.promoter
    assert grid.centre(10_000) == slice(0, grid.length)
    centre = grid.centre(128 + 4 * token_bp)
    assert (centre.start, centre.stop) == (grid.promoter.start - 2, grid.promoter.stop + 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_bp": 48}, r"token_bp \(48\) must divide promoter_bp \(128\)"),
        ({"token_bp": 256}, r"token_bp \(256\) must divide promoter_bp"),
        ({"memory_bp": 16}, r"memory_bp \(16\) must be at least token_bp \(32\)"),
        ({"contact_track": None}, "contact_pool needs contact_track"),
        ({"contact_track": 3}, "contact_pool needs contact_track"),
        ({"variant": Variant.HARD, "generator_layers": 2}, "contact_pool does not go with the hard variant"),
        ({"token_bp": 0}, "token_bp must be above 0"),
        ({"encoder_bp": 96}, r"encoder_bp \(96\) must hold the promoter \(128 bp\) and lie in the window \(1,000 bp\)"),
        ({"encoder_bp": 256, "contact_pool": 0}, "encoder_bp needs contact_pool"),
        ({"spans_bp": (100, 100)}, r"spans_bp must rise from above 0 to at most half the window \(500 bp\), found"),
        ({"spans_bp": (0, 100)}, "spans_bp must rise from above 0"),
        ({"spans_bp": (100, 501)}, "spans_bp must rise from above 0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_a_gene_on_the_reverse_strand_is_read_from_there() -> None:
    """The mirror image of a window, with the other strand, gives the same expression and the mirrored mask."""
    model = network(n_features=2, strand_feature=1, spans_bp=(100, 300))
    batch = windows()
    strand = torch.tensor([[1.0], [-1.0], [1.0]])
    batch["features"] = torch.cat([batch["features"], strand], dim=1)
    mirrored = {name: value.flip(1) for name, value in batch.items() if name != "features"}
    mirrored["onehot"] = mirrored["onehot"].flip(2)
    mirrored["features"] = batch["features"] * torch.tensor([1.0, -1.0])
    for grad in (False, True):  # window by window, and as one batch
        with torch.set_grad_enabled(grad):
            output, image = model(**batch), model(**mirrored)
        torch.testing.assert_close(image.expression, output.expression, rtol=0, atol=2e-6)
        torch.testing.assert_close(image.mask.flip(1), output.mask, rtol=0, atol=2e-6)
        torch.testing.assert_close(image.z.alpha.flip(1), output.z.alpha)
    other = {**batch, "features": mirrored["features"]}
    with torch.inference_mode():
        assert not torch.allclose(model(**other).expression, output.expression, atol=1e-5)


def test_evidence_taken_apart_is_that_of_the_tokens() -> None:
    model, batch = network(), windows(1)
    with torch.inference_mode():
        output = model(**batch)
    stored = (output.z.alpha[0].numpy(), output.z.beta[0].numpy())
    sources = split_evidence(model, stored, batch["signals"][0].numpy())
    np.testing.assert_allclose(sources.dna, output.posterior.mean[0], atol=2e-6)
    np.testing.assert_allclose(sources.tracks, output.prior.mean[0], atol=2e-6)


def test_a_mask_under_other_tracks_is_what_the_network_reads_from_them() -> None:
    model, batch = network(), windows(1)
    arrays = {name: value[0].numpy() for name, value in batch.items()}
    window = WindowInputs("g", "chr1", 500, "+", 0, 1_000, **arrays)
    other = np.roll(arrays["signals"], 137, axis=0)
    with torch.inference_mode():
        output = model(**batch)
        wanted = model(**{**batch, "signals": torch.from_numpy(other)[None]}).mask[0]
    stored = (output.z.alpha[0].numpy(), output.z.beta[0].numpy())
    np.testing.assert_allclose(mask_under(model, window, stored, other), wanted, atol=2e-6)


def test_a_window_kept_as_tokens_keeps_nothing_else() -> None:
    batch = windows(2)
    arrays = {name: value[1].numpy() for name, value in batch.items()}
    kept = tokenise(arrays, network().grid(1_000))
    assert set(kept) == {"onehot", "tracks", "kept", "features"}
    assert kept["onehot"].shape == (0, 4)
    assert kept["onehot"].base is None  # a view would keep the window's bases in memory
    torch.testing.assert_close(torch.from_numpy(kept["tracks"]), network().grid(1_000).to_tokens(batch["signals"])[1])


def test_a_network_that_reads_no_dna_reads_n() -> None:
    reads, blind = network(), network(reads_dna=False)
    batch = windows(1)
    unknown = {**batch, "onehot": torch.zeros_like(batch["onehot"])}
    with torch.inference_mode():
        wanted = reads(**unknown)
        assert not torch.allclose(reads(**batch).expression, wanted.expression, atol=1e-5)
        found = blind(**batch)
    torch.testing.assert_close(found.expression, wanted.expression, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.mask, wanted.mask, rtol=0, atol=2e-6)
    onehot = batch["onehot"].float().requires_grad_()
    blind(**{**batch, "onehot": onehot}).expression.sum().backward()
    assert not onehot.grad.any()


def test_without_the_evidence_the_numbers_are_the_same() -> None:
    model, batch = network(members=2), windows()
    with torch.inference_mode():
        whole, bare = model(**batch), model(**batch, evidence=False)
    for name in ("expression", "mask", "spread"):
        assert torch.equal(getattr(whole, name), getattr(bare, name))
    assert whole.z is not None
    assert (bare.z, bare.posterior, bare.prior, bare.mask_logits, bare.kl) == (None,) * 5


def runs_of_generator(model: Seq2Exp, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often the generator runs, without a hook, which would have it run each time."""
    runs, forward = [], model.generator.forward
    monkeypatch.setattr(model.generator, "forward", lambda *given: runs.append(1) or forward(*given))
    return runs


def test_the_generator_reads_windows_without_dna_once_until_a_weight_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = network(reads_dna=False), windows()
    runs = runs_of_generator(model, monkeypatch)
    with torch.inference_mode():
        first, again = model(**batch), model(**batch)
        assert len(runs) == 1  # for 3 windows, twice
        assert torch.equal(first.mask, again.mask)
        model(**windows(length=800))
        assert len(runs) == 2
        model.generator.layers[0].out_proj.weight.data.mul_(-3)  # past the tensor's version
        changed = model(**batch)
        fresh = network(reads_dna=False)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(changed.mask, fresh(**batch).mask)
        assert not torch.equal(changed.mask, first.mask)
        assert len(runs) == 3
    model(**batch).expression.sum().backward()  # gradients go through the generator
    assert len(runs) == 4
    assert model.generator.layers[0].out_proj.weight.grad.abs().sum() > 0


def test_a_listener_hears_the_generator_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, heard = network(reads_dna=False), []
    with torch.inference_mode():
        model(**windows(1))
        model.generator.register_forward_hook(lambda *_: heard.append(1))
        model(**windows(2))
    assert len(heard) == 2


def test_a_copied_network_remembers_nothing() -> None:
    model, batch = network(reads_dna=False), windows(1)
    with torch.inference_mode():
        expected = model(**batch).mask
    twin = copy.deepcopy(model)
    assert twin._remembered._last is None
    with torch.no_grad():
        assert torch.equal(twin(**batch).mask, expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_dna_that_nothing_reads_is_not_looked_at_and_all_else_is(bad: float) -> None:
    model, batch = network(reads_dna=False), windows(1)
    with torch.inference_mode():
        expected = model(**batch).expression
        assert torch.equal(model(**{**batch, "onehot": torch.full((1, 1_000, 4), bad)}).expression, expected)
    for name in ("signals", "features"):
        values = batch[name].clone()
        values.view(-1)[-1] = bad
        with pytest.raises(ShapeError, match=f"{name} hold a value that is not a finite number"):
            model(**{**batch, name: values})
