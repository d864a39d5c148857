"""The one way from a world model to frames: what it predicted becomes its next context, and the states move along.

`Dream` goes step by step and learns the states as it goes, as an environment does; `rollout` is its loop.  Four kinds of
models are driven, over tokens, latents or frames alike:

whole blocks    context and future are whole blocks of the clock (ST-Transformer, 3 + 3 grids).  The predicted grids
                are the next context as they are; every block is decoded by itself.
part of a block context and future share one block (Masked- and Flow-HWM, 2 + 1 grids: frames 0-8 | 9-16).  No block
                starts where its context would have to start next, so the prediction is decoded behind its context
                and the latest frames are encoded again: a causal tokenizer gives a clip of 9 frames the first two
                grids of 17 (SYSTEMS.md section 0).
every nth frame context and future are one block of every `frame_step`-th frame (Wan: `clock.subsample`, 0, 4, ..., 76, 76).
                A step is `num_states` rows long, 60 frames of the recording after 17; its frames are 20, 24, ..., 76, the
                last one as the tokenizer's last.  The latest of them, 60, 64, ..., 76, are encoded as the next context.
frames at reach any number of frames up to `reach` from one context (models of video, over `Pixels`).  The context stays the
                anchor, from which later steps are predicted too, by all states since then; once the reach is used up the
                last own frames are the next anchor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hwm.clock import COSMOS, Clock, subsample
from hwm.contracts import LatentTokenizer, Prediction, Sampling, Tokenizer, WorldModel
from hwm.tokenizers.open import Pixels

AnyTokenizer = Tokenizer | LatentTokenizer | Pixels
Generators = torch.Generator | Sequence[torch.Generator]
"""One for all, or one for each clip and sample, clips first: samples then ignore their company."""


@dataclass(frozen=True)
class Step:
    """One prediction of B * K rows, clips first, and its frames: uint8 (B * K, F, H, W, 3), None without a tokenizer.

    Of a model of every nth frame they are each nth frame of the step.
    """

    prediction: Prediction
    video_BFHWC: Tensor | None


class Dream:
    """A world model at work: it starts from what was seen and predicts on, step by step, as the states come.

    tokenizer: of the kind that the model predicts; its clock is used.  None where no video is wanted, which a model of
    parts of a block allows for one step only.  clock: used without a tokenizer.
    generator: as in `Generators`.  num_samples: K futures of every clip, each with its own past.
    sampling: None takes the model's own way.  step_frames: frames of a step, of a model with a reach; 0: as it is configured.
    poll: called before each step; may raise.
    context_frames, step_frames: frames of the recording that the context spans and that one step adds.
    num_clips: B, since the last reset.
    Raises ValueError for a tokenizer of another kind.
    """

    def __init__(
        self, model: WorldModel, tokenizer: AnyTokenizer | None, *, generator: Generators, num_samples: int = 1,
        sampling: Sampling | None = None, clock: Clock = COSMOS, step_frames: int = 0, poll: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        clock = tokenizer.clock if tokenizer is not None else clock
        self.context_frames, self.step_frames = frames_per_step(model, clock)
        if model.reach and step_frames:
            self.step_frames = step_frames
        if tokenizer is not None and model.predicts != tokenizer.kind:
            raise ValueError(f"the model predicts {model.predicts}; tokenizer {tokenizer.name} gives {tokenizer.kind}")
        self.model, self.tokenizer, self.generator, self.sampling = model, tokenizer, generator, sampling
        self.num_samples, self.poll = num_samples, poll
        self._whole = _whole_blocks(model, clock)
        self._num_past, self._new = clock.num_frames(model.context_grids), _new_frames(model, clock)
        # The context: its grids, or where they are still to be encoded its frames, and the state rows from its first frame on.
        self._grids: Tensor | None = None
        self._seen: Tensor | None = None
        self._rows: Tensor
        # Of a model with a reach: by their number since the anchor the frames (R, H, W, 3) that can be of the next one's context,
        # and the state of each generator there, so that all steps from one anchor draw alike and what is drawn does not flicker.
        self._own: dict[int, Tensor] = {}
        self._chance: list[Tensor] = []

    def reset(self, context: Tensor, states_BFA: Tensor) -> None:
        """Start from the context.

        context: uint8 video (B, F, H, W, 3) of exactly the context's frames as recorded, to be encoded; or its grids, int64
        tokens (B, T, h, w) or float32 latents (B, T, C, h, w).  states_BFA: raw states of its frames, (B, context_frames, A).
        Raises ValueError for a context or states of another length, or video without a tokenizer.
        """
        grids, seen = context, None
        if context.dtype == torch.uint8:
            if self.tokenizer is None:
                raise ValueError("a context of video needs the tokenizer that encodes it")
            if context.shape[1] != self.context_frames:
                raise ValueError(f"the model starts from {self.context_frames} context frames, got {context.shape[1]}")
            seen = context[:, :: self.model.frame_step]
            grids = self.tokenizer.encode(seen)
        if grids.shape[1] != self.model.context_grids:
            raise ValueError(f"the model starts from {self.model.context_grids} context grids, got {grids.shape[1]}")
        if states_BFA.shape[:2] != (len(context), self.context_frames):
            rows = f"{self.context_frames} state rows for each of {len(context)} clips"
            raise ValueError(f"the context has {rows}, got {tuple(states_BFA.shape[:2])}")
        self._own, self._chance, self.num_clips = {}, [], len(context)
        self._grids, self._rows = self._for_samples(grids), self._for_samples(states_BFA)
        self._seen = None if seen is None else self._for_samples(seen)

    @torch.no_grad()
    def step(self, states_BFA: Tensor, *, only: Sequence[int] | None = None, **options: Any) -> Step:
        """Predict the next `step_frames` frames.

        states_BFA: raw rows (n, A) of the frames to come for each of B clips, or of B * K samples.  Rows beyond `step_frames`
        are look-ahead; where rows are missing the last one is repeated, as for training clips at the end of a segment
        (reference F row 3).  only: of a model with a reach, which of the step's frames, counted from 1 and rising; None: all.
        options: for `model.predict`, such as targets_BTHW.
        Raises ValueError for states of another number of clips, or without a tokenizer where one is needed.
        """
        if len(states_BFA) not in (self.num_clips, self.num_clips * self.num_samples):
            wanted = f"{self.num_clips} clips or {self.num_clips * self.num_samples} samples"
            raise ValueError(f"a step needs states of {wanted}, got {len(states_BFA)}")
        states_BFA = states_BFA if len(states_BFA) == len(self._rows) else self._for_samples(states_BFA)
        self.poll()
        options |= {"generator": self.generator, "sampling": self.sampling}
        rows_BFA = torch.cat([self._rows, states_BFA.to(self._rows)], 1)
        if self.model.reach:
            return self._reaching(rows_BFA, options, range(1, self.step_frames + 1) if only is None else only)
        if self._grids is None:
            if self.tokenizer is None:
                raise ValueError("predicted frames become the next context through the tokenizer: give the one of the context")
            assert self._seen is not None
            self._grids = self.tokenizer.encode(self._seen)
        states_BFA = state_window(rows_BFA, first_frame=0, num_states=self.model.num_states)
        prediction: Prediction = self._predict(self._grids, states_BFA, options)
        self._rows = state_window(rows_BFA, first_frame=self.step_frames, num_states=self.context_frames)
        context, future, video = self._grids, _future(prediction), None
        if self._whole:
            video = None if self.tokenizer is None else self.tokenizer.decode(future)
            self._grids = torch.cat([context, future], 1)[:, -self.model.context_grids :]
        else:
            self._grids = None
            if self.tokenizer is not None:
                decoded = self.tokenizer.decode(torch.cat([context, future], 1))
                past, video = decoded[:, : self._num_past], decoded[:, self._new]
                # Of the context itself the frames as recorded, where they were given, rather than as decoded.
                self._seen = torch.cat([past if self._seen is None else self._seen, video], 1)[:, -self._num_past :]
        return Step(prediction, video)

    def copy(self, generator: Generators | None = None) -> Dream:
        """The same dream at the same moment, which goes on by itself; generator: None clones the state of its own."""
        other = copy.copy(self)
        own = self.generator
        if generator is None:
            generator = own.clone_state() if isinstance(own, torch.Generator) else [g.clone_state() for g in own]
        else:
            other._chance = []  # what was drawn at the anchor was another's
        other.generator = generator
        return other

    @property
    def age(self) -> int:
        """State rows that it holds: dreams of one model that hold as many can be joined."""
        return self._rows.shape[1]

    @staticmethod
    def joined(dreams: Sequence[Dream]) -> Dream:
        """One dream of the clips of several of the same age, each with generators of its own: their next steps in one pass."""
        other = copy.copy(dreams[0])
        for name in ("_grids", "_seen", "_rows"):
            parts = [getattr(dream, name) for dream in dreams]
            setattr(other, name, None if parts[0] is None else torch.cat(parts))
        there = set[int].intersection(*(set(dream._own) for dream in dreams))
        other._own = {n: torch.cat([dream._own[n] for dream in dreams]) for n in there}
        other.generator = [g for dream in dreams for g in cast(Sequence[torch.Generator], dream.generator)]
        other._chance = [state for dream in dreams for state in dream._chance]
        other.num_clips = sum(dream.num_clips for dream in dreams)
        return other

    def parted(self) -> list[Dream]:
        """A dream of every clip, which go on by themselves."""
        K, generators = self.num_samples, cast(Sequence[torch.Generator], self.generator)
        dreams = []
        for first in range(0, self.num_clips * K, K):
            other = copy.copy(self)
            for name in ("_grids", "_seen", "_rows"):
                whole = getattr(self, name)
                setattr(other, name, None if whole is None else whole[first : first + K])
            other._own = {n: frames[first : first + K] for n, frames in self._own.items()}
            other.generator, other._chance, other.num_clips = generators[first : first + K], self._chance[first : first + K], 1
            dreams.append(other)
        return dreams

    def _reaching(self, rows_BFA: Tensor, options: dict[str, Any], wanted: Sequence[int]) -> Step:
        """A step from the anchor, in parts where the reach ends inside it.  wanted: its frames that are given, from 1 on."""
        assert self._grids is not None
        start, parts, done = self._rows.shape[1], [self._grids[:, :0]], 0
        while done < self.step_frames:
            if (since := self._rows.shape[1] - self.context_frames) == self.model.reach:
                self._go_on(options)
                since = 0
            num = min(self.step_frames - done, self.model.reach - since)
            more = state_window(rows_BFA, first_frame=start + done, num_states=num)
            self._rows = torch.cat([self._rows, more], 1)
            if inside := [since + n - done for n in wanted if done < n <= done + num]:
                parts.append(self._from_anchor(inside, options))
            done += num
        video = torch.cat(parts, 1)
        return Step(Prediction(video_BKFHWC=video[:, None]), video)

    def _from_anchor(self, numbers: Sequence[int], options: dict[str, Any]) -> Tensor:
        """Frames by their number since the anchor, all of whose states are there."""
        assert self._grids is not None
        generators = [self.generator] if isinstance(self.generator, torch.Generator) else self.generator
        if self._chance:
            for generator, state in zip(generators, self._chance):
                generator.set_state(state)
        else:
            self._chance = [generator.get_state() for generator in generators]
        new = _future(self._predict(self._grids, self._rows, options | {"only": numbers}))
        kept = self.model.reach - self.context_frames
        self._own = self._own | {n: new[:, i] for i, n in enumerate(numbers) if n > kept}  # a copy of the dream keeps its own
        return new

    def _go_on(self, options: dict[str, Any]) -> None:
        """Move the anchor to the end of its reach: the last frames before, those left out so far too, are the context now."""
        assert self._grids is not None
        tail = range(max(1, self.model.reach - self.context_frames + 1), self.model.reach + 1)
        if missing := [n for n in tail if n not in self._own]:
            self._from_anchor(missing, options)
        self._grids = torch.cat([self._grids, torch.stack([self._own[n] for n in tail], 1)], 1)[:, -self.context_frames :]
        self._rows, self._own, self._chance = self._rows[:, -self.context_frames :], {}, []

    def _predict(self, grids: Tensor, states_BFA: Tensor, options: dict[str, Any]) -> Prediction:
        model: Any = self.model
        prediction: Prediction = model.predict(grids, states_BFA, **options)
        return prediction

    def _for_samples(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.num_samples, 0)


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


def rollout(
    model: WorldModel, tokenizer: AnyTokenizer | None, context: Tensor, states_BFA: Tensor, *, num_frames: int,
    generator: Generators, num_samples: int = 1, sampling: Sampling | None = None, clock: Clock = COSMOS,
    poll: Callable[[], None] = lambda: None,
) -> Rollout:  # fmt: skip
    """Predict the `num_frames` frames of the recording after the context, K independent samples of them.

    context: as in `Dream.reset`.  states_BFA: raw states, row f belongs to frame f counted from the first context frame; rows
    beyond the last frame are look-ahead.  The rest as in `Dream`.  The last prediction is made whole and its video cut.
    Raises ValueError as `Dream`, and for states that end before the last frame asked for.
    """
    options = {"generator": generator, "num_samples": num_samples, "sampling": sampling, "clock": clock, "poll": poll}
    dream = Dream(model, tokenizer, step_frames=min(num_frames, model.reach), **options)  # type: ignore[arg-type]
    seen, step_frames = dream.context_frames, dream.step_frames
    if num_frames < model.frame_step or num_samples < 1:
        least = f"num_frames must be at least {model.frame_step} and num_samples at least 1"
        raise ValueError(f"{least}, got {num_frames} and {num_samples}")
    if states_BFA.shape[1] < seen + num_frames:
        raise ValueError(
            f"{num_frames} frames after a context of {seen} need {seen + num_frames} state rows, "
            f"one per frame, got {states_BFA.shape[1]}"
        )
    dream.reset(context, states_BFA[:, :seen])
    steps = [dream.step(states_BFA[:, seen + first :]) for first in range(0, num_frames, step_frames)]
    future = torch.cat([_future(step.prediction) for step in steps], 1).unflatten(0, (-1, num_samples))
    kept, video = num_frames // model.frame_step, None
    if tokenizer is not None:
        videos = [step.video_BFHWC for step in steps if step.video_BFHWC is not None]
        video = torch.cat(videos, 1)[:, :kept].unflatten(0, (-1, num_samples))
    match model.predicts:
        case "tokens":
            return Rollout(video, tokens_BKTHW=future)
        case "latents":
            return Rollout(video, latents_BKTCHW=future)
    return Rollout(future[:, :, :kept])


def state_window(states_BFA: Tensor, *, first_frame: int, num_states: int) -> Tensor:
    """The `num_states` rows from `first_frame` on, (B, num_states, A); past the end the last row is repeated."""
    rows = torch.arange(first_frame, first_frame + num_states, device=states_BFA.device)
    return states_BFA[:, rows.clamp(max=states_BFA.shape[1] - 1)]


def frames_per_step(model: WorldModel, clock: Clock = COSMOS) -> tuple[int, int]:
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


def _new_frames(model: WorldModel, clock: Clock) -> Tensor:
    """Places, in a decoded block, of the frames that a prediction adds; of one that is in it twice the last."""
    total = clock.num_frames(model.context_grids + model.future_grids)
    if model.frame_step == 1:
        last = np.ones(total, dtype=bool)
    else:
        kept = subsample(num_frames=model.num_states, step=model.frame_step, length=total)
        last = np.append(kept[1:] != kept[:-1], True)
    last[: clock.num_frames(model.context_grids)] = False
    return torch.from_numpy(np.flatnonzero(last))


def _whole_blocks(model: WorldModel, clock: Clock) -> bool:
    return model.context_grids % clock.grids == 0 and model.future_grids % clock.grids == 0


def _future(prediction: Prediction) -> Tensor:
    """What was predicted in sample 0: tokens, latents or frames."""
    found = (prediction.tokens_BKTHW, prediction.latents_BKTCHW, prediction.video_BKFHWC)
    return next(future[:, 0] for future in found if future is not None)


class FrameDecoder:
    """Turns token grids (B, T, H, W), code vectors (B, T, H, W, C) or latents (B, T, C, H, W) into uint8 frames on the CPU.

    Where the context ends inside a block, the future is decoded together with the context grids of that block and its frames
    are taken from the result; whole blocks of context are decoded once, for the baselines and the pictures.
    Raises ValueError where context and future together are not whole blocks.
    """

    def __init__(
        self, tokenizer: Tokenizer | LatentTokenizer, *, context_grids: int, future_grids: int, device: torch.device | str = "cpu"
    ) -> None:  # fmt: skip
        clock = tokenizer.clock
        if (context_grids + future_grids) % clock.grids:
            raise ValueError(
                f"frames are decoded in whole blocks of {clock.grids} grids; the model has {context_grids} "
                f"context and {future_grids} future grids"
            )
        self.tokenizer, self.device = tokenizer, device
        self._num_past, self._shared = clock.num_frames(context_grids), context_grids % clock.grids
        self._num_shared = clock.num_frames(self._shared)  # past frames in the block where the future begins

    def future(self, context: Tensor, future: Tensor) -> Tensor:
        """Frames of a future after its context, both token grids or both latents: uint8 (B, F, H, W, 3)."""
        shared = context[:, context.shape[1] - self._shared :]
        whole = torch.cat([shared.to(future), future], 1).to(self.device)
        return self.tokenizer.decode(whole)[:, self._num_shared :].cpu()

    def expected_future(self, context_BTHW: Tensor, codes_BTHWC: Tensor) -> Tensor:
        """Frames of a future of code vectors after its context tokens: uint8 (B, F, H, W, 3)."""
        tokenizer = cast(Tokenizer, self.tokenizer)
        codes_VC = tokenizer.codes_VC.to(codes_BTHWC)
        shared_BTHW = context_BTHW[:, context_BTHW.shape[1] - self._shared :].to(codes_VC.device)
        whole_BTHWC = torch.cat([codes_VC[shared_BTHW], codes_BTHWC], 1).to(self.device)
        return tokenizer.decode_codes(whole_BTHWC)[:, self._num_shared :].cpu()

    def past_and_repeated(self, context: Tensor, repeated: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of the context, and of a future that repeats its last grid; the true future is not looked at."""
        frames = self.tokenizer.decode(torch.cat([context, repeated], 1).to(self.device)).cpu()
        return frames[:, : self._num_past], frames[:, self._num_past :]
