"""Pictures of sampling clips to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hwm.evaluate.metrics import mean_squared_error, psnr
from hwm.evaluate.results import COPY_FRAME
from hwm.evaluate.sampling_clips import SeenClips
from hwm.evaluate.sampling_results import ONE_SAMPLE, FrameExample, blend_of, mean_of
from hwm.predict import ensemble

FULL_SCALE = 64
"""Levels of 0..255 that are shown brightest in maps of spread and of error."""
RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)
"""Five stops of viridis."""


def map_picture(levels_HW: np.ndarray) -> np.ndarray:
    """Spread or error from dark violet, 0, to yellow, `FULL_SCALE` and more: uint8 (H, W, 3)."""
    place = np.clip(levels_HW / FULL_SCALE, 0, 1) * (len(RAMP) - 1)
    below = np.minimum(place.astype(int), len(RAMP) - 2)
    part = (place - below)[..., None]
    return (RAMP[below] * (1 - part) + RAMP[below + 1] * part).round().astype(np.uint8)


def error_map(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference over the channels, float (H, W), in the units of the spread."""
    return np.sqrt(np.square(pred.astype(np.float64) - truth.astype(np.float64)).mean(-1))


def panels(example: FrameExample) -> dict[str, tuple[np.ndarray, float | None]]:
    """Pictures of an example by what they are, in the order in which they are shown, with the PSNR of those that have one."""
    best = example.sample if example.mean is None else example.mean
    shown: dict[str, tuple[np.ndarray, float | None]] = {
        "frame 16, seen": (example.seen, example.psnr[COPY_FRAME]),
        "frame 76, truth": (example.truth, None),
        ONE_SAMPLE: (example.sample, example.psnr[ONE_SAMPLE]),
    }
    if example.mean is not None and example.blend is not None and example.spread is not None:
        for name, picture in ((mean_of(example.num_members), example.mean), (blend_of(example.num_members), example.blend)):
            shown[name] = picture, example.psnr[name]
        shown["spread"] = map_picture(example.spread), None
    shown["error"] = map_picture(error_map(best, example.truth)), None
    return shown


class Gallery:
    """Keeps, from each part of the clips, the one whose scored frame differs most from the last seen one."""

    def __init__(self, num_examples: int, num_clips: int) -> None:
        self._bins = np.arange(num_clips) * num_examples // num_clips
        self._wanted = num_examples
        self._kept: dict[int, tuple[float, FrameExample]] = {}

    def add(self, first: int, clip: SeenClips, drawn_BKHWC: Tensor, rows: dict[str, Tensor]) -> None:
        """Look at the clips from position `first` on."""
        if not self._wanted:
            return
        motion = mean_squared_error(clip.seen, clip.truth)
        num_members = drawn_BKHWC.shape[1]
        for i in range(len(clip.numbers)):
            part = int(self._bins[first + i])
            if part in self._kept and motion[i] <= self._kept[part][0]:
                continue
            several: dict[str, Any] = {}
            if num_members > 1:
                several = {
                    "mean": rows[mean_of(num_members)][i].numpy().copy(),
                    "blend": rows[blend_of(num_members)][i].numpy().copy(),
                    "spread": ensemble.spread(drawn_BKHWC[i : i + 1])[0].numpy(),
                }
            example = FrameExample(
                clip=int(clip.numbers[i]),
                seen=clip.seen[i].numpy().copy(),
                truth=clip.truth[i].numpy().copy(),
                sample=drawn_BKHWC[i, 0].numpy().copy(),
                num_members=num_members,
                psnr={name: float(psnr(frames[i], clip.truth[i])) for name, frames in rows.items()},
                **several,
            )
            self._kept[part] = (float(motion[i]), example)

    def examples(self) -> list[FrameExample]:
        """What was kept, in the order of the clips."""
        return [self._kept[part][1] for part in sorted(self._kept)]
