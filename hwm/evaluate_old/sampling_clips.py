"""Sampling clips as the protocol looks at them, and the one way by which all its predictions are drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.contracts import Batch, LatentTokenizer, LatentWorldModel, Sampling, Tokenizer, TokenWorldModel
from hwm.predict.last_frame import draw, shrink

CLIPS_AT_ONCE = 4
"""Clips whose pictures are in memory together; ensembles of 512x512 pictures are large."""


class Clips(Protocol):
    """Sampling clips of recorded video."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, /) -> Batch:
        """states_BFA, raw, 77 rows or more, and video_BFHWC: all 77 frames, or only the 17 seen ones and the last."""


class SeenClips:
    """Some clips: numbers (B,), context (B, 17, h, w, 3) as recorded, states (B, 77, A), and pictures of the scored size.

    past: the context.  seen, truth: frames 16 and 76, (B, H, W, 3).  All uint8.
    """

    def __init__(self, numbers: np.ndarray, batch: Batch, score_size: tuple[int, int]) -> None:
        video = batch.video_BFHWC
        assert video is not None
        height, width = score_size
        self.numbers, self.states = numbers, batch.states_BFA[:, :SAMPLING_FRAMES]
        self.context = video[:, :SAMPLING_CONTEXT]
        self.past = shrink(self.context, height=height, width=width)
        self.seen, self.truth = self.past[:, -1], shrink(video[:, -1], height=height, width=width)


class FrameSampler:
    """Draws samples of frame 76 at the scored size; `seconds` is the time spent.  poll: called now and then; may raise."""

    def __init__(
        self,
        model: TokenWorldModel | LatentWorldModel,
        tokenizer: Tokenizer | LatentTokenizer,
        image_size: tuple[int, int],
        score_size: int,
        sampling: Sampling,
        members_at_once: int,
        seed: int,
        device: torch.device,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.tokenizer, self.image_size, self.sampling = model, tokenizer, image_size, sampling
        self.members_at_once, self.seed, self.device, self.seconds = members_at_once, seed, device, 0.0
        self._wanted, self._poll = score_size, poll
        self.recorded_size = self.score_size = (0, 0)

    def look_at(self, batch: Batch) -> None:
        """Take the sizes from the first clips.  Raises ValueError for clips of another kind or too small pictures."""
        video, rows = batch.video_BFHWC, batch.states_BFA.shape[1]
        num_frames = 0 if video is None else video.shape[1]
        if video is None or num_frames not in (SAMPLING_CONTEXT + 1, SAMPLING_FRAMES) or rows < SAMPLING_FRAMES:
            raise ValueError(
                f"the sampling protocol needs video clips of {SAMPLING_FRAMES} frames and states, or the seen frames and the "
                f"last; got {num_frames} frames and {rows} states"
            )
        height, width = self.recorded_size = (video.shape[2], video.shape[3])
        if self._wanted > min(height, width):
            raise ValueError(f"frames of {height}x{width} cannot be scored at {self._wanted}: there is no truth of that size")
        self.score_size = (self._wanted, self._wanted) if self._wanted else (height, width)

    def draw(
        self, clip: SeenClips, *, num_samples: int, states: Tensor | None = None, sampling: Sampling | None = None
    ) -> Tensor:
        """K samples of every clip, the same noise whatever the states: uint8 (B, K, H, W, 3)."""
        started = time.perf_counter()
        frames_BKFHWC = draw(
            self.model,
            self.tokenizer,
            clip.context,
            clip.states if states is None else states,
            frames=[SAMPLING_FRAMES - 1],
            image_size=self.image_size,
            out_size=self.score_size,
            num_samples=num_samples,
            seeds=[seed_of_clip(self.seed, int(number)) for number in clip.numbers],
            members_at_once=self.members_at_once,
            sampling=sampling or self.sampling,
            device=self.device,
            poll=self._poll,
        )
        self.seconds += time.perf_counter() - started
        return frames_BKFHWC[:, :, 0]


def seed_of_clip(seed: int, number: int) -> int:
    """Seed of all samples of a clip; rows with other states share it, so that they differ by their states and not by luck."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def seen_clips(clips: Clips, numbers: np.ndarray, sampler: FrameSampler, *, part: int) -> SeenClips:
    """The clips of one part of those with these numbers, of which `CLIPS_AT_ONCE` are a part."""
    numbers = numbers[part * CLIPS_AT_ONCE : (part + 1) * CLIPS_AT_ONCE]
    batch = clips.batch(numbers)
    sampler.look_at(batch)
    return SeenClips(numbers, batch, sampler.score_size)
