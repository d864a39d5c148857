"""Rollouts of models whose context is a part of a block: seams, states, re-encoding, both kinds of grids.

Seams are tested where everything is known in closed form: a scripted Cosmos pair that codes the brightness of frames
0, 8 and 16 of a block exactly, and a model that counts.  The real networks then roll as a hand-written loop does.
"""

import pytest
import torch
from refusing import refused
from torch import nn

from hwm.clock import COSMOS
from hwm.contracts import Prediction, Sampling
from hwm.predict.rollout import frames_per_step, rollout
from hwm.tokenizers.open import open_tokenizer


class BrightnessEncoder(nn.Module):
    def forward(self, video: torch.Tensor) -> torch.Tensor:
        cells = torch.nn.functional.avg_pool2d(video[:, :, 0::8].mean(1), 8)
        return ((cells + 1) / 2 * 255).round().to(torch.int32)


class BrightnessDecoder(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        grey = ids.float() / 255 * 2 - 1
        frames = torch.cat([grey[:, :1], grey[:, 1:].repeat_interleave(8, 1)], 1)
        return frames.repeat_interleave(8, 2).repeat_interleave(8, 3).unsqueeze(1).expand(-1, 3, -1, -1, -1)


class Count(nn.Module):
    """Each future grid is the one before + 1, + the first state of that grid's first frame."""

    def __init__(self, predicts="tokens", context_grids=2, future_grids=1, num_states=17):
        super().__init__()
        self.predicts, self.frame_step, self.reach, self.num_states, self.seen = predicts, 1, 0, num_states, []
        self.context_grids, self.future_grids = context_grids, future_grids

    def predict(self, context, states_BFA, *, generator, num_samples=1, sampling=None):
        assert states_BFA.shape[1] == self.num_states and context.shape[1] == self.context_grids
        self.seen.append((context.clone(), states_BFA[..., 0].clone()))
        last, future = context[:, -1], []
        for t in range(self.future_grids):
            added = states_BFA[:, COSMOS.span(self.context_grids + t)[0], 0].to(context.dtype)
            noise = torch.randint(0, 9, (len(last),), generator=generator).to(context.dtype) if sampling else 0 * added
            last = last + 1 + (added + noise).view(-1, *[1] * (context.ndim - 2))
            future.append(last)
        grids = torch.stack(future, 1)[:, None]
        return Prediction(tokens_BKTHW=grids) if self.predicts == "tokens" else Prediction(latents_BKTCHW=grids)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    torch.jit.script(BrightnessEncoder()).save(str(folder / "encoder.jit"))
    torch.jit.script(BrightnessDecoder()).save(str(folder / "decoder.jit"))
    return open_tokenizer(str(folder), kind="tokens", trust=True)


def grey(values):
    """One clip of 16x16 frames of the given brightnesses."""
    return torch.tensor(values, dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(1, -1, 16, 16, 3).contiguous()


def levels(video_FHWC):
    assert (video_FHWC == video_FHWC[:, :1, :1, :1]).all()
    return video_FHWC[:, 0, 0, 0].tolist()


def zeros(num_frames, batch=1):
    return torch.zeros(batch, num_frames, 25)


def test_frames_of_a_step():
    assert frames_per_step(Count()) == (9, 8)
    assert frames_per_step(Count(context_grids=1, future_grids=2)) == (1, 16)
    assert frames_per_step(Count(context_grids=1, future_grids=1)) == (1, 8)
    assert frames_per_step(Count(context_grids=3, future_grids=3)) == (17, 17)
    assert frames_per_step(Count(context_grids=3, future_grids=6)) == (17, 34)


@pytest.mark.parametrize("num_frames", [1, 7, 8, 9, 16, 17, 40])
def test_exactly_the_frames_after_the_context(brightness, num_frames):
    context = grey([5] + [50] * 8)
    found = rollout(Count(), brightness, context, zeros(60), num_frames=num_frames, generator=torch.Generator())
    assert levels(found.video_BKFHWC[0, 0]) == [51 + f // 8 for f in range(num_frames)]
    steps = -(-num_frames // 8)
    assert found.tokens_BKTHW.shape == (1, 1, steps, 2, 2) and found.latents_BKTCHW is None
    assert found.tokens_BKTHW[0, 0, :, 0, 0].tolist() == [51 + n for n in range(steps)]


def test_the_next_context_is_encoded_from_the_latest_nine_frames(brightness):
    model = Count()
    rollout(model, brightness, grey([5] + [50] * 7 + [60]), zeros(60), num_frames=24, generator=torch.Generator())
    # Of 9 frames the pair codes the first and the last: frames 0, 8, then 8, 16, then 16, 24.
    assert [context[0, :, 0, 0].tolist() for context, _ in model.seen] == [[5, 60], [60, 61], [61, 62]]


def test_a_rollout_from_grids_goes_on_from_their_decoded_frames(brightness):
    video = grey([5, 90, 90, 90, 90, 90, 90, 90, 60])
    seen = []
    for context in (video, brightness.encode(video)):
        model = Count()
        rollout(model, brightness, context, zeros(60), num_frames=16, generator=torch.Generator())
        seen.append([grids[0, :, 0, 0].tolist() for grids, _ in model.seen])
    assert seen[0] == seen[1] == [[5, 60], [60, 61]]


def test_states_move_along_by_the_predicted_frames(brightness):
    states, model = zeros(9 + 24), Count()
    states[0, :, 0] = torch.arange(33)
    rollout(model, brightness, grey([0] * 9), states, num_frames=24, generator=torch.Generator())
    assert [rows[0].tolist() for _, rows in model.seen] == [[min(8 * step + row, 32) for row in range(17)] for step in range(3)]
    pulse = zeros(33)
    pulse[0, 17, 0] = 100  # the first frame of the second step
    found = rollout(Count(), brightness, grey([0] * 9), pulse, num_frames=24, generator=torch.Generator())
    assert levels(found.video_BKFHWC[0, 0]) == [1] * 8 + [102] * 8 + [103] * 8


def test_one_context_grid_and_two_future_ones(brightness):
    model = Count(context_grids=1, future_grids=2)
    found = rollout(model, brightness, grey([40]), zeros(60), num_frames=30, generator=torch.Generator())
    assert levels(found.video_BKFHWC[0, 0]) == [41] * 8 + [42] * 8 + [43] * 8 + [44] * 6
    assert [grids[0, :, 0, 0].tolist() for grids, _ in model.seen] == [[40], [42]]


def test_whole_blocks_from_video(brightness):
    model = Count(context_grids=3, future_grids=3, num_states=34)
    found = rollout(model, brightness, grey([5] + [50] * 16), zeros(60), num_frames=20, generator=torch.Generator())
    assert levels(found.video_BKFHWC[0, 0]) == [51] + [52] * 8 + [53] * 8 + [54] + [55] * 2


def test_samples_keep_their_own_past(brightness):
    options = {"num_frames": 24, "num_samples": 4, "sampling": Sampling(temperature=1.0)}
    contexts = torch.cat([grey([0] * 9), grey([100] * 9)])
    found = rollout(Count(), brightness, contexts, zeros(60, 2), generator=torch.Generator().manual_seed(0), **options)
    assert found.video_BKFHWC.shape == (2, 4, 24, 16, 16, 3)
    level = found.video_BKFHWC[:, :, ::8, 0, 0, 0].int()
    assert torch.equal(level, found.tokens_BKTHW[..., 0, 0].int())
    assert (level[1] >= 101).all() and (level[0] < 40).all() and (level.diff(dim=2) >= 1).all()
    assert len({tuple(row.tolist()) for row in level[0]}) > 1


def recording(frames=9, batch=2):
    g = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (batch, frames, 32, 32, 3), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("name", ["masked", "flow"])
def test_the_real_networks_roll_on_their_own_predictions(family, name):
    model, coder = family(name)
    video, states = recording(), torch.randn(2, 9 + 20, 25, generator=torch.Generator().manual_seed(3))
    found = rollout(model, coder, video, states, num_frames=20, generator=torch.Generator().manual_seed(7))
    future = found.tokens_BKTHW if name == "masked" else found.latents_BKTCHW
    assert found.video_BKFHWC.shape == (2, 1, 20, 32, 32, 3) and future.shape[:3] == (2, 1, 3)
    generator, frames = torch.Generator().manual_seed(7), video
    for step in range(3):
        grids = coder.encode(frames[:, -9:])
        rows = (torch.arange(17) + 8 * step).clamp(max=28)
        prediction = model.predict(grids, states[:, rows], generator=generator)
        grid = (prediction.tokens_BKTHW if name == "masked" else prediction.latents_BKTCHW)[:, 0]
        assert torch.equal(future[:, 0, step : step + 1], grid)
        frames = torch.cat([frames, coder.decode(torch.cat([grids, grid], 1))[:, 9:]], 1)
    assert torch.equal(found.video_BKFHWC[:, 0], frames[:, 9:29])


def test_without_a_tokenizer_one_step(brightness):
    found = rollout(Count(), None, torch.full((1, 2, 1, 1), 7), zeros(17), num_frames=8, generator=torch.Generator())
    assert found.tokens_BKTHW.tolist() == [[[[[8]]]]] and found.video_BKFHWC is None


def test_what_does_not_fit_is_refused(brightness, family):
    def run(model, tokenizer, context, rows=60, num_frames=16, **options):
        rollout(model, tokenizer, context, zeros(rows), num_frames=num_frames, generator=torch.Generator(), **options)

    grids = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    refused("through the tokenizer", run, Count(), None, grids)
    refused("video needs the tokenizer", run, Count(), None, grey([0] * 9), num_frames=8)
    refused("9 context frames, got 17", run, Count(), brightness, grey([0] * 17))
    refused("2 context grids, got 3", run, Count(), brightness, torch.zeros(1, 3, 2, 2, dtype=torch.int64))
    refused("predicts latents; tokenizer cosmos-dv8x8x8", run, Count("latents"), brightness, grids)
    refused("predicts tokens; tokenizer tiny", run, Count(), family("flow")[1], grids)
    refused("need 25 state rows, one per frame, got 24", run, Count(), brightness, grids, rows=24)
    refused("at least 1, got 16 and 0", run, Count(), brightness, grids, num_samples=0)
