"""The frame that the sampling track scores, by any world model: from 17 seen frames and 77 states to frame 76.

A model of every fourth frame gets there in one prediction, any other by a rollout from the last frames that it needs
(SYSTEMS.md section 4; reference B.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.contracts import Sampling
from hwm.predict.postprocess import resize
from hwm.predict.rollout import AnyModel, AnyTokenizer, Generators, frames_per_step, rollout_steps

HORIZON = SAMPLING_FRAMES - SAMPLING_CONTEXT
"""Frames from the last seen one to the scored one."""


@torch.no_grad()
def predict_frame(
    model: AnyModel,
    tokenizer: AnyTokenizer,
    context_BFHWC: Tensor,
    states_BFA: Tensor,
    *,
    num_samples: int,
    seeds: Sequence[int],
    members_at_once: int = 8,
    sampling: Sampling | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """Predict frame 76 of every clip, K samples of it, uint8 (B, K, h, w, 3).

    context_BFHWC: uint8, frames 0..16 at the size that the model works on.  states_BFA: raw, rows 0..76 or more.
    num_samples: K.  seeds: one for each clip.  members_at_once: predictions that go through the model together.
    sampling: None is the model's own.  Where that leaves nothing to chance all samples are equal.
    poll: called before each prediction; may raise.

    Models of latents draw from a generator for each clip and sample: a sample depends neither on the other clips nor on
    K nor on members_at_once (but for rounding), so a small ensemble is the beginning of a larger one.  Models of tokens
    draw from one generator for the samples of a clip that go together: theirs depend on members_at_once.
    Raises ValueError for other shapes, or for a model whose context is longer than the clip's.
    """
    num_clips, num_frames = context_BFHWC.shape[:2]
    num_past, step_frames = frames_per_step(model, tokenizer.clock)
    if num_frames != SAMPLING_CONTEXT or states_BFA.shape[1] < SAMPLING_FRAMES:
        rows = states_BFA.shape[1]
        raise ValueError(f"the clip needs {SAMPLING_CONTEXT} frames and {SAMPLING_FRAMES} states, got {num_frames} and {rows}")
    if num_past > SAMPLING_CONTEXT:
        raise ValueError(f"the model needs a context of {num_past} frames, the clip shows {SAMPLING_CONTEXT}")
    if len(seeds) != num_clips or min(num_samples, members_at_once) < 1:
        sizes = f"{len(seeds)} seeds, {num_samples} samples, {members_at_once} at once"
        raise ValueError(f"{num_clips} clips need as many seeds and at least 1 sample, at least 1 at once; got {sizes}")
    num_steps = -(-HORIZON // step_frames)
    of_last_step = HORIZON - (num_steps - 1) * step_frames
    context, states = context_BFHWC[:, -num_past:], states_BFA[:, SAMPLING_CONTEXT - num_past : SAMPLING_FRAMES]
    frames: list[list[Tensor]] = [[] for _ in range(num_clips)]
    by_clip = model.predicts == "tokens"
    for clips, members in _parts(num_clips, num_samples, members_at_once=members_at_once, by_clip=by_clip):
        own = [_generator(seeds[c], m, states.device) for c in clips for m in members]
        generator: Generators = own[0] if by_clip else own
        steps = rollout_steps(
            model,
            tokenizer,
            context[clips.start : clips.stop],
            states[clips.start : clips.stop],
            num_steps=num_steps,
            generator=generator,
            num_samples=len(members),
            sampling=sampling,
            poll=poll,
        )
        for step in steps:
            video_RFHWC = step.video_BFHWC
        assert video_RFHWC is not None
        found = video_RFHWC[:, of_last_step // model.frame_step - 1].unflatten(0, (len(clips), len(members)))
        for clip, frames_KHWC in zip(clips, found):
            frames[clip].append(frames_KHWC)
    return torch.stack([torch.cat(parts) for parts in frames])


def predict_pictures(
    model: AnyModel,
    tokenizer: AnyTokenizer,
    context_BFHWC: Tensor,
    states_BFA: Tensor,
    *,
    image_size: tuple[int, int],
    out_size: tuple[int, int],
    num_samples: int,
    seeds: Sequence[int],
    members_at_once: int = 8,
    sampling: Sampling | None = None,
    device: torch.device | str = "cpu",
    poll: Callable[[], None] = lambda: None,
) -> Tensor:
    """`predict_frame` from recorded frames of any size to pictures of any size, on the CPU: uint8 (B, K, H, W, 3).

    image_size, out_size: height and width that the model works on and of the pictures, to which its predictions are
    resized (`postprocess.resize`).  device: of the model.  The rest as in `predict_frame`.
    """
    context_BFHWC = shrink(context_BFHWC, height=image_size[0], width=image_size[1]).to(device)
    found_BKHWC = predict_frame(
        model,
        tokenizer,
        context_BFHWC,
        states_BFA.to(device),
        num_samples=num_samples,
        seeds=seeds,
        members_at_once=members_at_once,
        sampling=sampling,
        poll=poll,
    )
    return torch.stack([resize(frames.cpu(), height=out_size[0], width=out_size[1]) for frames in found_BKHWC])


def shrink(frames_BHWC: Tensor, *, height: int, width: int) -> Tensor:
    """Mean over the area of every new pixel, as recordings are made small for training: uint8 (..., height, width, C)."""
    if frames_BHWC.shape[-3:-1] == (height, width):
        return frames_BHWC
    flat = frames_BHWC.flatten(0, -4).movedim(-1, 1).float()
    small = F.interpolate(flat, (height, width), mode="area").round().to(torch.uint8).movedim(1, -1)
    return small.unflatten(0, frames_BHWC.shape[:-3]).contiguous()


def _parts(
    num_clips: int, num_samples: int, *, members_at_once: int, by_clip: bool
) -> Iterator[tuple[range, range]]:
    """Clips and samples that go together; several clips only where all their samples do."""
    members = -(-num_samples // -(-num_samples // members_at_once))  # as few groups as possible, of about equal size
    clips = 1 if by_clip else max(1, members_at_once // num_samples)
    for first in range(0, num_clips, clips):
        for member in range(0, num_samples, members):
            yield range(first, min(first + clips, num_clips)), range(member, min(member + members, num_samples))


def _generator(seed: int, member: int, device: torch.device) -> torch.Generator:
    state = np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
