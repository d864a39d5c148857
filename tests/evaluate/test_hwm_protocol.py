"""The protocol on clips of one block: both kinds of models, a context that ends inside a block."""

import numpy as np
import pytest
import torch

from hwm.contracts import Batch, Sampling
from hwm.evaluate.blocks import evaluate
from hwm.evaluate.metrics import PSNR_CAP, psnr, ssim
from hwm.evaluate.results import (
    ALL_FRAMES,
    AUTOREGRESSIVE,
    EXPECTED_CODE,
    LIKELY_TOKENS,
    ORIGINAL,
    PERMUTED,
    RECONSTRUCTION,
    SAMPLED_LATENTS,
    STILL_LATENTS,
    ZEROED,
)
from hwm.model_config import FlowConfig, FSQConfig, MaskedConfig
from hwm.models.flow import FlowHWM
from hwm.models.masked import MaskedHWM
from hwm.tokenizers.autoencoder import ContinuousTokenizer, FSQTokenizer

BASELINES = ("copy last frame", "copy last grid", "mean of context")


@pytest.fixture(scope="module")
def of_tokens(world):
    model = world.Mover(doubt=0.01, context_grids=2, future_grids=1)
    return evaluate(
        model, world.tokenizer, world.blocks, video=world.blocks.video, segments=world.segments, num_clips=0, batch_size=5
    )


@pytest.fixture(scope="module")
def of_latents(world):
    return evaluate(
        world.LatentMover(),
        world.latent_tokenizer,
        world.latents,
        video=world.latents.video,
        segments=world.segments,
        num_clips=0,
        batch_size=5,
        num_examples=3,
    )


@pytest.mark.parametrize("kind", ["of_tokens", "of_latents"])
def test_all_eight_future_frames_are_scored(kind, request):
    result = request.getfixturevalue(kind)
    settings = result.settings
    assert (settings["protocol"], settings["context_frames"], settings["future_frames"]) == ("hwm", 9, 8)
    assert settings["headline_span"] == ALL_FRAMES
    best = LIKELY_TOKENS if kind == "of_tokens" else STILL_LATENTS
    for reference in (RECONSTRUCTION, ORIGINAL):
        row = result.pixel_row(best, reference)
        assert row.psnr_mean.mean == row.psnr_scored.mean == PSNR_CAP
        assert len(row.psnr_per_frame) == len(row.ssim_per_frame) == 8
    for name in (ZEROED, PERMUTED):
        gap = result.difference(result.headline, name, metric="psnr", span=ALL_FRAMES, reference=RECONSTRUCTION)
        assert gap.difference.low > 0


def test_the_protocol_is_the_same_for_both_kinds(of_tokens, of_latents):
    for reference in (RECONSTRUCTION, ORIGINAL):  # both tokenizers lose nothing, so the clips are the same frames
        for name in BASELINES:
            assert of_tokens.pixel_row(name, reference) == of_latents.pixel_row(name, reference)
    own = {"predicts", "top_k", "vocab_size", "uniform_cross_entropy", "tokenizer", "tokenizer_fingerprint", "sampling"}
    own.add("fingerprint")
    same = [{k: v for k, v in r.settings.items() if k not in own} for r in (of_tokens, of_latents)]
    assert same[0] == same[1]


def test_the_baselines_equal_a_direct_computation(of_latents, world):
    frames = world.latents.video(np.arange(12))
    past, future = frames.split([9, 8], 1)
    last = past[:, -1:].expand(-1, 8, -1, -1, -1)
    assert of_latents.pixel_row("copy last frame").psnr_mean.mean == pytest.approx(psnr(last, future).mean().item())
    assert of_latents.pixel_row("copy last grid").ssim_mean.mean == pytest.approx(ssim(last, future).mean().item())
    mean = past.float().mean(1, keepdim=True).round().to(torch.uint8).expand(-1, 8, -1, -1, -1)
    assert of_latents.pixel_row("mean of context").psnr_mean.mean == pytest.approx(psnr(mean, future).mean().item())


def test_a_model_of_latents_has_no_token_scores(of_latents, of_tokens):
    assert of_latents.tokens == [] and of_latents.top_k == [] and of_latents.coverage is None
    assert "vocab_size" not in of_latents.settings
    names = [row.name for row in of_tokens.tokens]
    assert names == [AUTOREGRESSIVE, ZEROED, PERMUTED, "copy last grid"]  # with one grid there is nothing to force


def test_samples_are_drawn_at_the_models_own_temperature(of_latents):
    assert of_latents.settings["sampling"]["temperature"] == 1.0 and of_latents.headline == STILL_LATENTS
    mse = 10 ** (-of_latents.pixel_row(SAMPLED_LATENTS).pooled_psnr_mean / 10)
    # Noise of 0.05 that is cut off at black and white, which half of two of sixteen levels loses.
    assert mse == pytest.approx(0.05**2 * 15 / 16, rel=0.05)


@pytest.mark.parametrize(
    "options, headline, rows",
    [
        ({"decode": "sample"}, SAMPLED_LATENTS, {SAMPLED_LATENTS, STILL_LATENTS}),
        ({"decode": "sample", "sampling": Sampling(temperature=0)}, STILL_LATENTS, {STILL_LATENTS}),
        ({"sampling": Sampling(temperature=0)}, STILL_LATENTS, {STILL_LATENTS}),
        ({"sampling": Sampling(temperature=2.0)}, STILL_LATENTS, {SAMPLED_LATENTS, STILL_LATENTS}),
    ],
)
def test_the_headline_follows_from_what_was_asked(world, options, headline, rows):
    result = evaluate(world.LatentMover(), world.latent_tokenizer, world.latents, cost_repeats=0, **options)
    assert result.headline == headline
    assert {row.name for row in result.pixels} == rows | {ZEROED, PERMUTED, *BASELINES}
    if options.get("sampling") == Sampling(temperature=2.0):
        noise = 10 ** (-result.pixel_row(SAMPLED_LATENTS).pooled_psnr_mean / 20)
        assert noise == pytest.approx(0.1, rel=0.1)


def test_rows_with_other_states_are_made_like_the_headline_from_the_same_noise(world):
    class Deaf(world.LatentMover):
        def predict(self, context_BTCHW, states_BFA, **options):
            return super().predict(context_BTCHW, torch.zeros_like(states_BFA), **options)

    for decode in ("mean", "sample"):
        result = evaluate(Deaf(), world.latent_tokenizer, world.latents, decode=decode, cost_repeats=0)
        for name in (ZEROED, PERMUTED):
            assert result.pixel_row(name).psnr_mean == result.pixel_row(result.headline).psnr_mean


def test_only_time_and_memory_vary(world):
    def run(seed):
        found = evaluate(world.LatentMover(), world.latent_tokenizer, world.latents, seed=seed, decode="sample").to_json()
        assert found.pop("seconds") and found.pop("cost")["parameters"] == 3
        return found

    assert run(3) == run(3) != run(4)


class Held:
    """Clips in memory."""

    def __init__(self, grids, states):
        self.grids, self.states = grids, states

    def __len__(self):
        return len(self.grids)

    def batch(self, indices):
        key = "latents_BTCHW" if self.grids.is_floating_point() else "tokens_BTHW"
        return Batch(states_BFA=self.states[indices], **{key: self.grids[indices]})


def small_network(kind):
    """A network with random weights, its tokenizer, grids of it, states, and the frames they were made of."""
    torch.manual_seed(0)
    video, states = torch.randint(0, 256, (6, 17, 16, 16, 3), dtype=torch.uint8), torch.randn(6, 17, 25)
    streams = {"grid": (2, 2), "num_layers": 2, "num_heads": 2, "width": 24}
    if kind == "masked":
        tokenizer = FSQTokenizer(FSQConfig(levels=(3, 3, 2), channels=8, depth=1)).eval()
        model = MaskedHWM(MaskedConfig(vocab_size=18, remask="confidence", **streams))
    else:
        tokenizer = ContinuousTokenizer(FSQConfig(levels=(3, 3, 2), channels=8, depth=1, continuous=True)).eval()
        model = FlowHWM(FlowConfig(channels=3, patch=1, steps=2, **streams))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.eval(), tokenizer, tokenizer.encode(video), states, video


@pytest.mark.parametrize("kind", ["masked", "flow"])
def test_the_networks_equal_a_direct_computation(kind):
    model, tokenizer, grids, states, video = small_network(kind)
    result = evaluate(model, tokenizer, Held(grids, states), video=lambda i: video[i], num_clips=0, batch_size=6)
    context = grids[:, :2]
    if kind == "masked":
        found = model.predict(context, states, generator=torch.Generator(), codes_VC=tokenizer.codes_VC)
        codes = torch.cat([tokenizer.codes_VC[context], found.codes_BTHWC], 1)
        frames = tokenizer.decode_codes(codes)[:, 9:]
    else:
        found = model.predict(context, states, generator=torch.Generator(), sampling=Sampling(temperature=0))
        frames = tokenizer.decode(torch.cat([context, found.latents_BKTCHW[:, 0]], 1))[:, 9:]
    truth = tokenizer.decode(grids)[:, 9:]
    assert result.headline == (EXPECTED_CODE if kind == "masked" else STILL_LATENTS)
    expected = psnr(frames, truth).mean().item()
    assert result.pixel_row(result.headline).psnr_mean.mean == pytest.approx(expected, abs=1e-3)
    recorded = result.pixel_row("tokenizer alone", ORIGINAL).psnr_mean.mean
    assert recorded == pytest.approx(psnr(truth, video[:, 9:]).mean().item())
    assert result.cost.parameters == sum(p.numel() for p in model.parameters())


def test_context_and_future_have_to_be_whole_blocks_together(world):
    model = world.Mover(context_grids=2, future_grids=2)
    with pytest.raises(ValueError, match="whole blocks of 3 grids; the model has 2 context and 2 future grids"):
        evaluate(model, world.tokenizer, world.clips)
