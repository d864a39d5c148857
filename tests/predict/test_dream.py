"""A dream, step by step: the same as a rollout that knows all states beforehand, for models of all four kinds."""

import pytest
import torch
from refusing import refused

from hwm.contracts import Sampling
from hwm.predict.rollout import Dream, rollout

KINDS = ("st", "masked", "flow", "strided", "mover")
WARM = Sampling(temperature=1.0)


def seeded():
    return torch.Generator().manual_seed(7)


def begin(family, name, num_samples=1, batch=2, **options):
    """A dream at its start, and states of its context and of three steps."""
    model, coder = family(name)
    dream = Dream(model, coder, generator=seeded(), num_samples=num_samples, sampling=WARM, **options)
    g, size = torch.Generator().manual_seed(2), 8 if name in ("strided", "mover") else 32
    video = torch.randint(0, 200, (batch, dream.context_frames, size, size, 3), dtype=torch.uint8, generator=g)
    states = torch.randint(0, 20, (batch, dream.context_frames + 3 * dream.step_frames, 25), generator=g).float().sort(1).values
    dream.reset(video, states[:, : dream.context_frames])
    return dream, video, states


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("learned_late", [False, True])
def test_steps_are_the_rollout(family, name, learned_late):
    dream, video, states = begin(family, name, num_samples=2)
    seen, step, videos = dream.context_frames, dream.step_frames, []
    for first in range(seen, states.shape[1], step):
        rows = states[:, first : first + step] if learned_late else states[:, first:]
        videos.append(dream.step(rows).video_BFHWC.unflatten(0, (2, 2)))
    found = torch.cat(videos, 2)
    model, coder = family(name)
    options = {"generator": seeded(), "num_samples": 2, "sampling": WARM}
    assert torch.equal(found, rollout(model, coder, video, states, num_frames=3 * step, **options).video_BKFHWC)
    assert torch.equal(found[:, 0], found[:, 1]) == (name == "mover")


@pytest.mark.parametrize("name", KINDS)
def test_rows_that_are_missing_repeat_the_last(family, name):
    (few, _, states), (all_rows, _, _) = begin(family, name), begin(family, name)
    seen = few.context_frames
    held = states[:, seen + 1 : seen + 2].expand(-1, few.step_frames - 1, -1)
    for _ in range(2):
        short = few.step(states[:, seen : seen + 2]).video_BFHWC
        assert torch.equal(short, all_rows.step(torch.cat([states[:, seen : seen + 1], held], 1)).video_BFHWC)


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_goes_on_by_itself(family, name):
    dream, _, states = begin(family, name)
    seen = dream.context_frames
    dream.step(states[:, seen:])
    same, other = dream.copy(), dream.copy(torch.Generator().manual_seed(8))
    elsewhere = other.step(states[:, seen:] * 0 + 3.0).video_BFHWC
    first = [same.step(states[:, seen:]).video_BFHWC for _ in range(2)]
    again = [dream.step(states[:, seen:]).video_BFHWC for _ in range(2)]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(elsewhere, again[0])


def test_samples_may_have_states_of_their_own(family):
    dream, video, states = begin(family, "mover", num_samples=2)
    own = states[:, 2:4].repeat_interleave(2, 0) + torch.tensor([0.0, 30.0, 0.0, 60.0]).view(4, 1, 1)
    found = dream.step(own).video_BFHWC.int()
    assert ((found[1] - found[0]) % 256 == 30).all() and ((found[3] - found[2]) % 256 == 60).all()
    for wrong in (1, 3):
        refused("2 clips or 4 samples, got", dream.step, states[:1].expand(wrong, -1, -1))
    refused("2 state rows for each of 2 clips", dream.reset, video, states)


@pytest.mark.parametrize("step_frames", [1, 2, 3, 4, 5, 12])
def test_within_reach_the_context_stays_the_anchor(family, step_frames):
    dream, _, _ = begin(family, "mover", step_frames=step_frames)
    states = 2.0 * torch.arange(14).view(1, -1, 1).expand(1, -1, 25)
    dream.reset(torch.full((1, 2, 8, 8, 3), 10, dtype=torch.uint8), states[:, :2])
    found = torch.cat([dream.step(states[:, f : f + step_frames]).video_BFHWC for f in range(2, 14, step_frames)], 1)
    # Frames 2 to 6 are predicted from frame 1, 7 to 11 from 6, the rest from 11: one more for each prediction in between.
    assert found[0, :12, 0, 0, 0].tolist() == [10 + 2 * (f - 1) + 1 + (f - 2) // 5 for f in range(2, 14)]
    # All states since the anchor are seen.
    context, rows = next(seen for seen in dream.model.seen if len(seen[1]) == 7)
    assert context == [10, 10] and rows == [0, 2, 4, 6, 8, 10, 12]
    assert [19, 21] in [context for context, _ in dream.model.seen]


def test_steps_from_one_anchor_draw_alike(family):
    """So that what is drawn does not change with the number of frames that are asked for at a time."""
    rest = torch.randn(1, 30, 25, generator=seeded())
    found = []
    for step_frames in (4, 12):
        model, tokenizer = family("direct, noised")
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        dream = Dream(model, tokenizer, generator=generators, num_samples=2, sampling=WARM, step_frames=step_frames)
        dream.reset(torch.full((1, 9, 32, 32, 3), 90, dtype=torch.uint8), rest[:, :9])
        frames = [dream.step(rest[:, 9 + f : 9 + f + step_frames]).video_BFHWC for f in range(0, 20, step_frames)]
        found.append(torch.cat(frames, 1)[:, :20].int())
    assert (found[0] - found[1]).abs().max() <= 1 and not torch.equal(found[0][0], found[0][1])
    # A copy with a generator of its own draws from it at once.
    copies = [dream.copy([torch.Generator().manual_seed(seed) for seed in (3, 4)]).step(rest[:, 29:]).video_BFHWC for _ in "ab"]
    assert torch.equal(*copies) and not torch.equal(copies[0], dream.copy().step(rest[:, 29:]).video_BFHWC)
    # Beyond the reach there is a new anchor and new noise.
    assert not torch.equal(found[0][:, 0], found[0][:, 12])


@pytest.mark.parametrize("name, step_frames", [("mover", 3), ("mover", 5), ("direct, noised", 12), ("direct, noised", 8)])
def test_frames_may_be_left_out_and_the_dream_goes_on_as_with_all(family, name, step_frames):
    (whole, _, states), (some, *_), (late, *_) = (begin(family, name, step_frames=step_frames) for _ in range(3))
    seen = whole.context_frames
    for step in range(3):
        rows = states[:, seen + step * step_frames :]
        expected, only = whole.step(rows).video_BFHWC.int(), [1, 3][: 1 + step]
        found = some.step(rows, only=only).video_BFHWC.int()
        assert found.shape[1] == len(only) and (found - expected[:, [n - 1 for n in only]]).abs().max() <= 1
        last = late.step(rows, only=[step_frames] if step == 2 else []).video_BFHWC.int()
        assert last.shape[1] == (step == 2)
    assert (last - expected[:, -1:]).abs().max() <= 1


def test_a_copy_leaves_the_frames_from_which_the_dream_goes_on(family):
    (alone, _, states), (copied, *_) = (begin(family, "mover", step_frames=3) for _ in range(2))
    rows = states[:, alone.context_frames :]
    for dream in (alone, copied):
        dream.step(rows, only=[])
    copied.copy().step(rows * 0 + 9.0, only=[1, 2])  # the last two of its reach
    assert torch.equal(*(dream.step(rows[:, 3:], only=[3]).video_BFHWC for dream in (alone, copied)))
