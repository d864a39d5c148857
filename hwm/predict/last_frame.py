"""Chosen frames of clips, drawn many times by any world model, such as the one that the sampling track scores.

Of that track 17 frames and 77 states are known and frame 76 is asked for: a model of every fourth frame gets there in one
step, any other by a rollout from the last frames that it needs (SYSTEMS.md section 4; reference B.4).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwm.contracts import Sampling, WorldModel
from hwm.predict.ensemble import resize
from hwm.predict.rollout import AnyTokenizer, Dream, frames_per_step


@torch.no_grad()
def draw(
    model: WorldModel, tokenizer: AnyTokenizer, context_BFHWC: Tensor, states_BFA: Tensor, *, frames: Sequence[int],
    seeds: Sequence[int], num_samples: int = 1, members_at_once: int = 8, sampling: Sampling | None = None,
    image_size: tuple[int, int] | None = None, out_size: tuple[int, int] | None = None, device: torch.device | str = "cpu",
    poll: Callable[[], None] = lambda: None, entropies: list[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Predict frames of every clip, K samples of them, on the CPU: uint8 (B, K, F, h, w, 3).

    context_BFHWC: uint8, the clip's first frames, as recorded; the model starts from as many of the last as it needs.
    states_BFA: raw, one row a frame of the clip; rows after the last of `frames` are not read.
    frames: numbers of the wanted frames in the clip, counted from 0, all after the context.
    seeds: one for each clip.  num_samples: K.  members_at_once: predictions that go through the model together.
    sampling: None is the model's own.  Where that leaves nothing to chance all samples are equal.
    image_size, out_size: height and width that the model works on, to which the context is made small (`shrink`), and of the
    result (`ensemble.resize`); None leaves them as they are.  device: of the model.  poll: called before each step; may raise.
    entropies: of models of tokens takes, clip by clip, of its first sample the mean entropy in nats of the tokens of that step
    which each frame is of, float64 (F,).

    Models of latents or frames draw from a generator for each clip and sample: a sample depends neither on the other clips nor
    on K nor on members_at_once (but for rounding), so a small ensemble is the beginning of a larger one.  Models of tokens
    draw from one generator for the samples of a clip that go together: theirs depend on members_at_once.
    Raises ValueError for other shapes, a context shorter than the model's, or frames that the model does not give.
    """
    num_clips, num_seen = context_BFHWC.shape[:2]
    num_past, step_frames = frames_per_step(model, tokenizer.clock)
    last = max(frames)
    if num_past > num_seen:
        raise ValueError(f"the model needs a context of {num_past} frames, the clip shows {num_seen}")
    if states_BFA.shape[1] <= last:
        raise ValueError(f"frame {last} needs {last + 1} states, got {states_BFA.shape[1]}")
    if len(seeds) != num_clips or min(num_samples, members_at_once) < 1:
        sizes = f"{len(seeds)} seeds, {num_samples} samples, {members_at_once} at once"
        raise ValueError(f"{num_clips} clips need as many seeds and at least 1 sample, at least 1 at once; got {sizes}")
    horizons = [frame - num_seen + 1 for frame in frames]
    if any(horizon < 1 or horizon % model.frame_step for horizon in horizons):
        raise ValueError(f"the model gives frames {num_seen - 1} + n * {model.frame_step}, n from 1 on; asked for {list(frames)}")
    if image_size is not None:
        context_BFHWC = shrink(context_BFHWC, height=image_size[0], width=image_size[1])
    context_BFHWC = context_BFHWC[:, -num_past:].to(device)
    states_BFA = states_BFA[:, num_seen - num_past : last + 1].to(device)
    # Frames that nothing is left to chance in are made once.
    temperature = model.temperature if sampling is None else sampling.temperature
    differ = model.predicts != "video" or (temperature and model.draws)
    copies, num_samples = (1, num_samples) if differ else (num_samples, 1)
    drawn: list[list[Tensor]] = [[] for _ in range(num_clips)]
    by_clip = model.predicts == "tokens"
    for clips, members in _parts(num_clips, num_samples, members_at_once=members_at_once, by_clip=by_clip):
        own = [generator_of(seeds[c], m, states_BFA.device) for c in clips for m in members]
        dream = Dream(
            model, tokenizer, generator=own[0] if by_clip else own, num_samples=len(members), sampling=sampling,
            step_frames=min(max(horizons), model.reach), poll=poll,
        )  # fmt: skip
        these, step_frames = slice(clips.start, clips.stop), dream.step_frames
        dream.reset(context_BFHWC[these], states_BFA[these, :num_past])
        found, unsure = dict[int, Tensor](), dict[int, Tensor]()
        for first in range(0, max(horizons), step_frames):
            inside = sorted(horizon for horizon in horizons if first < horizon <= first + step_frames)
            places = [horizon - first for horizon in inside]
            # A model with a reach gives those alone that are wanted.
            step = dream.step(states_BFA[these, num_past + first :], only=places if model.reach else None)
            video_RFHWC, entropy = step.video_BFHWC, step.prediction.entropy_BTHW
            assert video_RFHWC is not None
            rows = range(len(places)) if model.reach else [place // model.frame_step - 1 for place in places]
            found |= {horizon: video_RFHWC[:, row] for horizon, row in zip(inside, rows)}
            if entropies is not None and entropy is not None:
                unsure |= dict.fromkeys(inside, entropy.flatten(1).double().mean(1).cpu())
        if entropies is not None and unsure and members.start == 0:
            entropies += torch.stack([unsure[horizon] for horizon in horizons], 1)[:: len(members)]
        video_RFHWC = torch.stack([found[horizon] for horizon in horizons], 1)
        for clip, video_KFHWC in zip(clips, video_RFHWC.unflatten(0, (len(clips), len(members)))):
            drawn[clip].append(video_KFHWC.cpu())
    videos = [torch.cat(parts).repeat(copies, 1, 1, 1, 1) for parts in drawn]
    return torch.stack([video if out_size is None else resize(video, height=out_size[0], width=out_size[1]) for video in videos])


def shrink(frames_BHWC: Tensor, *, height: int, width: int) -> Tensor:
    """Mean over the area of every new pixel, as recordings are made small for training: uint8 (..., height, width, C).

    Raises ValueError where they would be squeezed by a pixel or more.
    """
    if frames_BHWC.shape[-3:-1] == (height, width):
        return frames_BHWC
    found_height, found_width = frames_BHWC.shape[-3:-1]
    if abs(found_width * height / found_height - width) >= 1:
        squeezed = f"pictures of {found_height}x{found_width} pixels would be squeezed into {height}x{width}"
        raise ValueError(f"{squeezed}; give pictures of the same proportions")
    flat = frames_BHWC.flatten(0, -4).movedim(-1, 1).float()
    small = F.interpolate(flat, (height, width), mode="area").round().to(torch.uint8).movedim(1, -1)
    return small.unflatten(0, frames_BHWC.shape[:-3]).contiguous()


def _parts(num_clips: int, num_samples: int, *, members_at_once: int, by_clip: bool) -> Iterator[tuple[range, range]]:
    """Clips and samples that go together; several clips only where all their samples do."""
    members = -(-num_samples // -(-num_samples // members_at_once))  # as few groups as possible, of about equal size
    clips = 1 if by_clip else max(1, members_at_once // num_samples)
    for first in range(0, num_clips, clips):
        for member in range(0, num_samples, members):
            yield range(first, min(first + clips, num_clips)), range(member, min(member + members, num_samples))


def generator_of(seed: int, member: int, device: torch.device) -> torch.Generator:
    """The generator of one sample of a clip, the same for the same numbers."""
    state = np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
