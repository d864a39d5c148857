"""Drive a world model over any horizon: what it predicted becomes its next context, and the states move along.

Three kinds of models are driven, over tokens or latents alike:

whole blocks    context and future are whole blocks of the clock (ST-Transformer, 3 + 3 grids).  The predicted grids
                are the next context as they are; every block is decoded by itself.
part of a block context and future share one block (Masked- and Flow-HWM, 2 + 1 grids: frames 0-8 | 9-16).  No block
                starts where its context would have to start next, so the prediction is decoded behind its context
                and the latest frames are encoded again: a causal tokenizer gives a clip of 9 frames the first two
                grids of 17 (SYSTEMS.md section 0).
every nth frame context and future are one block of every `frame_step`-th frame (Wan: `clock.subsample`, 0, 4, ..., 76, 76).
                A step is `num_states` rows long, 60 frames of the recording after 17; its frames are 20, 24, ..., 76, the
                last one as the tokenizer's last.  The latest of them, 60, 64, ..., 76, are encoded as the next context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.clock import COSMOS, Clock, subsample
from hwm.contracts import LatentTokenizer, LatentWorldModel, Prediction, Sampling, Tokenizer, TokenWorldModel

AnyModel = TokenWorldModel | LatentWorldModel
AnyTokenizer = Tokenizer | LatentTokenizer
Generators = torch.Generator | Sequence[torch.Generator]
"""One for all, or for models of latents one for each clip and sample, clips first: samples do not then depend on the batch."""


@dataclass(frozen=True)
class Step:
    """One prediction of a rollout and, with a tokenizer, its frames: uint8 (B, F, H, W, 3)."""

    prediction: Prediction
    video_BFHWC: Tensor | None


@dataclass(frozen=True)
class Rollout:
    """Futures of any length.

    video_BKFHWC: uint8, the `num_frames` frames after the context, of a model of every nth frame each nth of them; None
    without a tokenizer.
    tokens_BKTHW int64 or latents_BKTCHW float32: the predicted grids of all steps.  Of a model that shares a block with
    its context the grids of each step belong behind that step's own context and cannot be decoded without it: use the video.
    """

    video_BKFHWC: Tensor | None = None
    tokens_BKTHW: Tensor | None = None
    latents_BKTCHW: Tensor | None = None


def state_window(states_BFA: Tensor, *, first_frame: int, num_states: int) -> Tensor:
    """The `num_states` rows from `first_frame` on, (B, num_states, A); past the end the last row is repeated.

    Look-ahead rows that do not exist are filled as for training clips at the end of a segment (reference F row 3).
    """
    rows = torch.arange(first_frame, first_frame + num_states, device=states_BFA.device)
    return states_BFA[:, rows.clamp(max=states_BFA.shape[1] - 1)]


def frames_per_step(model: AnyModel, clock: Clock = COSMOS) -> tuple[int, int]:
    """Frames of the recording that the context spans and that one prediction adds.

    Raises ValueError for a model of none of the kinds above.
    """
    context, future = model.context_grids, model.future_grids
    if model.frame_step > 1:
        num_past = 1 + (clock.num_frames(context) - 1) * model.frame_step
        if context + future != clock.grids or model.num_states <= num_past:
            raise ValueError(
                f"a model of every {model.frame_step}th frame needs context and future of one block of {clock.grids} grids "
                f"and more than {num_past} states; the model has {context} and {future}, and {model.num_states}"
            )
        return num_past, model.num_states - num_past
    if not _whole_blocks(model, clock) and context + future > clock.grids:
        raise ValueError(
            f"a rollout needs context and future of whole blocks of {clock.grids} grids, or both inside one block; "
            f"the model has {context} and {future}"
        )
    return clock.num_frames(context), clock.num_frames(context + future) - clock.num_frames(context)


def rollout(
    model: AnyModel,
    tokenizer: AnyTokenizer | None,
    context: Tensor,
    states_BFA: Tensor,
    *,
    num_frames: int,
    generator: Generators,
    num_samples: int = 1,
    sampling: Sampling | None = None,
    clock: Clock = COSMOS,
    poll: Callable[[], None] = lambda: None,
) -> Rollout:
    """Predict the `num_frames` frames of the recording after the context, K independent samples of them.

    Arguments as in `rollout_steps`.  The last prediction is made whole and its video cut.
    Raises ValueError as `rollout_steps`, and for states that end before the last frame asked for.
    """
    clock = tokenizer.clock if tokenizer is not None else clock
    context_frames, step_frames = frames_per_step(model, clock)
    if num_frames < model.frame_step or num_samples < 1:
        least = f"num_frames must be at least {model.frame_step} and num_samples at least 1"
        raise ValueError(f"{least}, got {num_frames} and {num_samples}")
    if states_BFA.shape[1] < context_frames + num_frames:
        raise ValueError(
            f"{num_frames} frames after a context of {context_frames} need {context_frames + num_frames} state rows, "
            f"one per frame, got {states_BFA.shape[1]}"
        )
    steps = rollout_steps(
        model,
        tokenizer,
        context,
        states_BFA,
        num_steps=-(-num_frames // step_frames),
        generator=generator,
        num_samples=num_samples,
        sampling=sampling,
        clock=clock,
        poll=poll,
    )
    grids, videos = [], []
    for step in steps:
        grids.append(_future(step.prediction))
        if step.video_BFHWC is not None:
            videos.append(step.video_BFHWC)
    future = torch.cat(grids, 1).unflatten(0, (-1, num_samples))
    kept = num_frames // model.frame_step
    video = torch.cat(videos, 1)[:, :kept].unflatten(0, (-1, num_samples)) if videos else None
    if model.predicts == "tokens":
        return Rollout(video, tokens_BKTHW=future)
    return Rollout(video, latents_BKTCHW=future)


def rollout_steps(
    model: AnyModel,
    tokenizer: AnyTokenizer | None,
    context: Tensor,
    states_BFA: Tensor,
    *,
    num_steps: int,
    generator: Generators,
    num_samples: int = 1,
    sampling: Sampling | None = None,
    clock: Clock = COSMOS,
    poll: Callable[[], None] = lambda: None,
) -> Iterator[Step]:
    """Predict `future_grids` grids at a time, yielding each step as it is made.

    num_samples: K futures of every clip, each with its own past; the rows of a step are B * K, clips first.

    tokenizer: of the kind that the model predicts; its clock is used.  None where no video is wanted, which a model of
    parts of a block allows for one step only.  clock: used without a tokenizer.
    context: uint8 video (B, F, H, W, 3) of exactly the context's frames as recorded, to be encoded; or its grids, int64
    tokens (B, T, h, w) or float32 latents (B, T, C, h, w).  states_BFA: raw states, row f belongs to frame f counted from
    the first context frame; past their end the last row is repeated.
    Step n sees the states from n times `frames_per_step` on, its context's first frame.
    generator: as in `Generators`.  sampling: None takes the model's own way.  poll: called before each step; may raise.
    Raises ValueError for a context of another length, a tokenizer of the other kind or none where one is needed, or
    several generators for a model of tokens.
    """
    clock = tokenizer.clock if tokenizer is not None else clock
    context_frames, step_frames = frames_per_step(model, clock)
    whole = _whole_blocks(model, clock)
    if tokenizer is not None and (model.predicts == "latents") != isinstance(tokenizer, LatentTokenizer):
        raise ValueError(f"the model predicts {model.predicts}; tokenizer {tokenizer.name} gives the other kind")
    if tokenizer is None and not whole and num_steps > 1:
        raise ValueError("predicted frames become the next context through the tokenizer: give the one of the context")
    if model.predicts == "tokens" and not isinstance(generator, torch.Generator):
        raise ValueError("a model of tokens draws all samples from one generator; give one")
    grids, seen = _encoded(context, tokenizer, num_frames=context_frames, frame_step=model.frame_step)
    if grids.shape[1] != model.context_grids:
        raise ValueError(f"the model starts from {model.context_grids} context grids, got {grids.shape[1]}")
    grids, states_BFA = grids.repeat_interleave(num_samples, 0), states_BFA.repeat_interleave(num_samples, 0)
    seen = None if seen is None else seen.repeat_interleave(num_samples, 0)
    num_past, new = clock.num_frames(model.context_grids), _new_frames(model, clock)
    options: Any = {"generator": generator, "sampling": sampling}  # what a model of tokens may not be given is refused above
    for step in range(num_steps):
        poll()
        states = state_window(states_BFA, first_frame=step * step_frames, num_states=model.num_states)
        prediction = model.predict(grids, states, **options)
        future = _future(prediction)
        if tokenizer is None:
            yield Step(prediction, None)
        elif whole:
            yield Step(prediction, tokenizer.decode(future))
        else:
            decoded = tokenizer.decode(torch.cat([grids, future], 1))
            past, frames = decoded[:, :num_past], decoded[:, new]
            yield Step(prediction, frames)
            # Of the context itself the frames as recorded, where they were given, rather than as decoded.
            seen = torch.cat([past if seen is None else seen, frames], 1)[:, -num_past:]
        if whole:
            grids = torch.cat([grids, future], 1)[:, -model.context_grids :]
        elif step + 1 < num_steps:
            assert tokenizer is not None and seen is not None
            grids = tokenizer.encode(seen)


def _new_frames(model: AnyModel, clock: Clock) -> Tensor:
    """Places, in a decoded block, of the frames that a prediction adds; of one that is in it twice the last."""
    total = clock.num_frames(model.context_grids + model.future_grids)
    if model.frame_step == 1:
        last = np.ones(total, dtype=bool)
    else:
        kept = subsample(num_frames=model.num_states, step=model.frame_step, length=total)
        last = np.append(kept[1:] != kept[:-1], True)
    last[: clock.num_frames(model.context_grids)] = False
    return torch.from_numpy(np.flatnonzero(last))


def _encoded(
    context: Tensor, tokenizer: AnyTokenizer | None, *, num_frames: int, frame_step: int
) -> tuple[Tensor, Tensor | None]:
    """The grids of the context, and those of its frames that the model works on where it was given as video."""
    if context.dtype != torch.uint8:
        return context, None
    if tokenizer is None:
        raise ValueError("a context of video needs the tokenizer that encodes it")
    if context.shape[1] != num_frames:
        raise ValueError(f"the model starts from {num_frames} context frames, got {context.shape[1]}")
    context = context[:, ::frame_step]
    return tokenizer.encode(context), context


def _whole_blocks(model: AnyModel, clock: Clock) -> bool:
    return model.context_grids % clock.grids == 0 and model.future_grids % clock.grids == 0


def _future(prediction: Prediction) -> Tensor:
    """The predicted grids of sample 0, tokens or latents."""
    future_BKT = prediction.latents_BKTCHW if prediction.tokens_BKTHW is None else prediction.tokens_BKTHW
    assert future_BKT is not None
    return future_BKT[:, 0]
