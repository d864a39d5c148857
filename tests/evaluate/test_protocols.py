import json
import math

import numpy as np
import pytest
import torch

from hwm.contracts import Batch, Sampling
from hwm.evaluate.baselines import CopyLastGrid, unigram_counts
from hwm.evaluate.blocks import evaluate
from hwm.evaluate.clip_choice import from_another_segment, spread
from hwm.evaluate.metrics import PSNR_CAP, psnr, ssim
from hwm.evaluate.results import AUTOREGRESSIVE, CEILING, ORIGINAL, PERMUTED, RECONSTRUCTION, TEACHER_FORCED, ZEROED
from hwm.model_config import FSQConfig, STConfig
from hwm.models.st_transformer import STTransformer
from hwm.tokenizers.autoencoder import FSQTokenizer

TOKENS, CODE = "model, most likely tokens", "model, expected code"


@pytest.fixture(scope="module")
def perfect(world):
    counts = unigram_counts([world.clips.tokens[:, :3]], vocab_size=world.vocab_size)
    return evaluate(
        world.Mover(doubt=0.01),
        world.tokenizer,
        world.clips,
        video=world.clips.video,
        segments=world.segments,
        num_clips=0,
        batch_size=5,
        unigram_counts=counts,
        num_examples=3,
        neutral_state_A=torch.zeros(2),
    )


def token_row(result, name):
    return next(row for row in result.tokens if row.name == name)


def test_a_perfect_model_scores_perfectly(perfect, world):
    for reference in (RECONSTRUCTION, ORIGINAL):
        row = perfect.pixel_row(TOKENS, reference)
        assert row.psnr_scored.mean == row.psnr_mean.mean == row.pooled_psnr_mean == PSNR_CAP
        assert row.ssim_mean.mean == 1
        assert len(row.psnr_per_frame) == len(row.ssim_per_frame) == 17
    for name in (TEACHER_FORCED, AUTOREGRESSIVE):
        assert token_row(perfect, name).accuracy.mean == 1
        assert token_row(perfect, name).cross_entropy.mean == pytest.approx(-math.log(0.99), rel=1e-5)
    assert perfect.pixel_row(CEILING, ORIGINAL).psnr_mean.mean == PSNR_CAP


def test_the_states_matter_to_a_model_that_uses_them(perfect):
    for name in (ZEROED, PERMUTED):
        assert token_row(perfect, name).accuracy.mean < 0.7
        gap = perfect.difference(CODE, name, metric="psnr", span="scored frame", reference=RECONSTRUCTION)
        assert gap.difference.low > 0 and gap.difference.mean > 5
        nats = perfect.difference(AUTOREGRESSIVE, name, metric="cross entropy", span="all grids", reference="tokens")
        assert nats.difference.high < 0 and nats.share_higher == 0


def test_zeroed_states_stop_this_world(perfect):
    zeroed, copied = perfect.pixel_row(ZEROED), perfect.pixel_row("copy last grid")
    assert zeroed.psnr_scored.mean == pytest.approx(copied.psnr_scored.mean, abs=0.2)


def test_baselines_equal_a_direct_computation(perfect, world):
    frames = world.clips.video(np.arange(12))
    last = frames[:, 16:17].expand(-1, 17, -1, -1, -1)
    for reference in (RECONSTRUCTION, ORIGINAL):  # this tokenizer loses nothing
        row = perfect.pixel_row("copy last frame", reference)
        assert row.psnr_scored.mean == pytest.approx(psnr(last[:, -1], frames[:, -1]).mean().item())
        assert row.ssim_mean.mean == pytest.approx(ssim(last, frames[:, 17:]).mean().item())
        for f in range(17):
            expected = psnr(last[:, f], frames[:, 17 + f]).mean().item()
            assert row.psnr_per_frame[f].mean == pytest.approx(expected)
    mean = frames[:, :17].float().mean(1).round().to(torch.uint8)
    expected = psnr(mean, frames[:, -1]).mean().item()
    assert perfect.pixel_row("mean of context").psnr_scored.mean == pytest.approx(expected)
    stays = (world.clips.tokens[:, 3:] == world.clips.tokens[:, 2:3]).double().mean().item()
    assert token_row(perfect, "copy last grid").accuracy.mean == pytest.approx(stays)


def test_top_k_with_all_ids_is_the_full_cross_entropy(perfect, world):
    assert perfect.coverage.mean == 1 and perfect.settings["top_k"] == world.vocab_size
    full = token_row(perfect, AUTOREGRESSIVE).cross_entropy.mean
    assert [row.policy for row in perfect.top_k] == ["floor", "min", "uniform_rest", "fill_min", "ignore"]
    assert all(row.cross_entropy.mean == pytest.approx(full, abs=1e-5) for row in perfect.top_k)


def test_coverage_counts_what_a_small_top_k_holds(world):
    result = evaluate(CopyLastGrid(vocab_size=16), world.tokenizer, world.clips, top_k=1, num_clips=0)
    copied = token_row(result, "copy last grid").accuracy.mean
    assert result.coverage.mean == pytest.approx(copied)
    ce = {row.policy: row.cross_entropy.mean for row in result.top_k}
    assert ce["floor"] == pytest.approx((1 - copied) * math.log(1e8))
    assert ce["min"] == pytest.approx((1 - copied) * math.log(2))
    assert ce["ignore"] == pytest.approx(0)
    full = token_row(result, AUTOREGRESSIVE).cross_entropy.mean
    assert ce["uniform_rest"] == pytest.approx(full, rel=1e-5)  # the rest of this model is uniform


def test_copying_as_a_model_equals_copying_as_a_baseline(world):
    result = evaluate(CopyLastGrid(vocab_size=16), world.tokenizer, world.clips, decode="sample")
    assert result.headline == TOKENS
    gap = result.difference(TOKENS, "copy last grid", metric="psnr", span="all frames", reference=RECONSTRUCTION)
    assert (gap.difference.mean, gap.difference.low, gap.difference.high) == (0, 0, 0)
    assert result.pixel_row(PERMUTED).psnr_mean == result.pixel_row(TOKENS).psnr_mean
    assert result.settings["references"] == [RECONSTRUCTION]


@pytest.fixture(scope="module")
def networks():
    """A network and a tokenizer with random weights, and clips tokenised by it."""
    torch.manual_seed(0)
    tokenizer = FSQTokenizer(FSQConfig(levels=(3, 3, 2), channels=8, depth=1)).eval()
    config = STConfig(vocab_size=18, grid=(2, 2), num_layers=1, num_heads=2, width=16, state_hidden=8, num_states=34)
    model = STTransformer(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    video = torch.randint(0, 256, (6, 34, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        tokens = torch.cat([tokenizer.encode(video[:, :17]), tokenizer.encode(video[:, 17:])], 1)
    return model, tokenizer, tokens, torch.randn(6, 64, 25), video


class Held:
    def __init__(self, tokens, states):
        self.tokens, self.states = tokens, states

    def __len__(self):
        return len(self.tokens)

    def batch(self, indices):
        return Batch(states_BFA=self.states[indices], tokens_BTHW=self.tokens[indices])


def test_the_real_network_and_tokenizer_equal_a_direct_computation(networks):
    model, tokenizer, tokens, states, video = networks
    result = evaluate(
        model, tokenizer, Held(tokens, states), video=lambda i: video[i], top_k=7, num_clips=0, batch_size=4
    )
    context, future = tokens.split(3, 1)
    found = model.predict(
        context,
        states[:, :34],
        generator=torch.Generator(),
        targets_BTHW=future,
        codes_VC=tokenizer.codes_VC,
        top_k_logits=18,
    )
    frames, truth = tokenizer.decode_codes(found.codes_BTHWC), tokenizer.decode(future)
    row = result.pixel_row(CODE)
    assert row.psnr_scored.mean == pytest.approx(psnr(frames[:, -1], truth[:, -1]).mean().item(), abs=1e-3)
    assert result.pixel_row(CODE, ORIGINAL).ssim_mean.mean == pytest.approx(
        ssim(frames, video[:, 17:]).mean().item(), abs=1e-4
    )
    assert result.pixel_row(CEILING, ORIGINAL).psnr_mean.mean == pytest.approx(psnr(truth, video[:, 17:]).mean().item())
    assert token_row(result, AUTOREGRESSIVE).cross_entropy.mean == pytest.approx(found.nll_BTHW.mean().item(), rel=1e-5)
    accuracy = (found.top_indices_BTHWK[..., 0] == future).double().mean().item()
    assert token_row(result, AUTOREGRESSIVE).accuracy.mean == pytest.approx(accuracy)
    inside = (found.top_indices_BTHWK[..., :7] == future[..., None]).any(-1).double().mean().item()
    assert result.coverage.mean == pytest.approx(inside)
    assert all(row.cross_entropy is not None for row in result.top_k)  # the network gives log-probabilities


def test_the_networks_agree_with_their_own_validation(networks):
    model, tokenizer, tokens, states, _ = networks
    result = evaluate(model, tokenizer, Held(tokens, states), num_clips=0)
    scores = model.validate(
        Batch(states_BFA=states[:, :34], tokens_BTHW=tokens), generator=torch.Generator().manual_seed(0)
    )
    for name, key in ((TEACHER_FORCED, "teacher"), (AUTOREGRESSIVE, "auto")):
        assert token_row(result, name).cross_entropy.mean == pytest.approx(scores[f"ce_{key}"].mean().item(), rel=1e-5)
        assert token_row(result, name).accuracy.mean == pytest.approx(scores[f"accuracy_{key}"].mean().item())


def test_everything_but_time_repeats(world):
    def run(seed, batch_size=4):
        found = evaluate(
            CopyLastGrid(vocab_size=16),
            world.tokenizer,
            world.clips,
            seed=seed,
            batch_size=batch_size,
            sampling=Sampling(temperature=1.0),
        ).to_json()
        assert found.pop("seconds") and found.pop("cost")
        return json.dumps(found, allow_nan=False)

    assert run(3) == run(3) != run(4)


def test_the_batch_size_changes_nothing_for_a_greedy_model(world, perfect):
    counts = unigram_counts([world.clips.tokens[:, :3]], vocab_size=world.vocab_size)
    again = evaluate(
        world.Mover(doubt=0.01),
        world.tokenizer,
        world.clips,
        video=world.clips.video,
        segments=world.segments,
        batch_size=12,
        unigram_counts=counts,
        num_examples=3,
        neutral_state_A=torch.zeros(2),
    )
    assert again.pixels == perfect.pixels and again.tokens == perfect.tokens
    assert [e.clip for e in again.examples] == [e.clip for e in perfect.examples]


def test_examples_are_what_they_say(perfect, world):
    assert len(perfect.examples) == 3
    for part, example in enumerate(perfect.examples):
        assert part * 4 <= example.clip < (part + 1) * 4
        frames = world.clips.video([example.clip])[0].numpy()
        assert np.array_equal(example.context, frames[:17]) and np.array_equal(example.truth, frames[17:])
        assert np.array_equal(example.original, frames[17:])
        expected = psnr(torch.from_numpy(example.prediction[-1]), torch.from_numpy(example.truth[-1])).item()
        assert example.psnr == pytest.approx(expected)


def test_json_holds_every_number_and_no_nan(perfect):
    table = json.loads(json.dumps(perfect.to_json(), allow_nan=False))
    assert "examples" not in table and len(table["pixels"]) == len(perfect.pixels)
    assert table["pixels"][0]["psnr_per_frame"][16]["mean"] == perfect.pixels[0].psnr_per_frame[16].mean


@pytest.mark.parametrize("sizes", [[1] * 7, [2, 2, 2], [3, 1, 1, 1], [1, 4, 2, 3]])
def test_permuted_states_comefrom_another_segment(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(20):
        source = from_another_segment(len(groups), groups, seed)
        assert sorted(source) == list(range(len(groups)))
        assert (groups[source] != groups).all()


def test_permuted_states_never_stay_even_in_one_segment():
    for num in (2, 3, 8):
        source = from_another_segment(num, np.zeros(num), 0)
        assert sorted(source) == list(range(num)) and (source != np.arange(num)).all()


def test_clips_are_spread_evenly():
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread(3, 64).tolist() == spread(3, 0).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 2"):
        spread(1, 0)


def test_what_does_not_fit_is_refused(world):
    class Short:
        def __len__(self):
            return 4

        def batch(self, indices):
            whole = world.clips.batch(indices)
            return Batch(states_BFA=whole.states_BFA[:, :20], tokens_BTHW=whole.tokens_BTHW)

    with pytest.raises(ValueError, match="34 state rows"):
        evaluate(world.Mover(), world.tokenizer, Short())
    with pytest.raises(ValueError, match="9 token grids"):
        evaluate(CopyLastGrid(vocab_size=16, future_grids=6), world.tokenizer, world.clips)
    with pytest.raises(ValueError, match="whole blocks"):
        evaluate(CopyLastGrid(vocab_size=16, future_grids=5), world.tokenizer, world.clips)
    with pytest.raises(ValueError, match="3 latent grids"):
        evaluate(world.LatentMover(), world.latent_tokenizer, world.blocks)
    with pytest.raises(ValueError, match="does not decode"):
        evaluate(world.LatentMover(), world.tokenizer, world.latents)
    with pytest.raises(ValueError, match="does not decode"):
        evaluate(world.Mover(), world.latent_tokenizer, world.clips)
    small = lambda indices: world.clips.video(indices)[:, :, ::2]  # noqa: E731
    with pytest.raises(ValueError, match="recorded video"):
        evaluate(world.Mover(), world.tokenizer, world.clips, video=small)
