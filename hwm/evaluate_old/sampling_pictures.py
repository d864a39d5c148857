"""Pictures of sampling clips to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hwm.evaluate_old.metrics import mean_squared_error, psnr
from hwm.evaluate_old.results import COPY_FRAME
from hwm.evaluate_old.sampling_clips import SeenClips
from hwm.evaluate_old.sampling_results import ONE_SAMPLE, FrameExample, blend_of, mean_of
from hwm.predict import ensemble
from hwm.work.parts import Arrays, inside, under

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
    """Keeps, from each of equal stretches of the clips, the one whose scored frame differs most from the last seen one."""

    def __init__(self, num_examples: int, num_clips: int) -> None:
        self._bins = np.arange(num_clips) * num_examples // num_clips
        self._wanted = num_examples
        self._kept: dict[int, tuple[float, FrameExample]] = {}

    def measure(self, first: int, clip: SeenClips, drawn_BKHWC: Tensor, rows: dict[str, Tensor]) -> Arrays:
        """The best of the clips from position `first` on, by stretch, with their pictures."""
        found: Arrays = {}
        if not self._wanted:
            return found
        motion = mean_squared_error(clip.seen, clip.truth).numpy()
        num_members = drawn_BKHWC.shape[1]
        stretches = self._bins[first : first + len(clip.numbers)]
        for stretch in np.unique(stretches):
            mine = np.flatnonzero(stretches == stretch)
            i = int(mine[motion[mine].argmax()])  # the first of equals
            own = {"seen": clip.seen[i], "truth": clip.truth[i], "sample": drawn_BKHWC[i, 0]}
            if num_members > 1:
                own |= {"mean": rows[mean_of(num_members)][i], "blend": rows[blend_of(num_members)][i]}
                own["spread"] = ensemble.spread(drawn_BKHWC[i : i + 1])[0]
            facts = {"motion": motion[i : i + 1].astype(np.float64), "clip": np.array([clip.numbers[i], num_members])}
            psnrs = {name: np.array([float(psnr(frames[i], clip.truth[i]))]) for name, frames in rows.items()}
            pictures = {name: picture.numpy().copy() for name, picture in own.items()}
            found |= under(str(stretch), facts | under("pictures", pictures) | under("psnr", psnrs))
        return found

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next clips."""
        for stretch in sorted({int(key.partition("/")[0]) for key in arrays}):
            own = inside(str(stretch), arrays)
            motion = float(own["motion"][0])
            if stretch in self._kept and motion <= self._kept[stretch][0]:
                continue
            clip, num_members = own["clip"].tolist()
            psnrs = {name: float(value[0]) for name, value in inside("psnr", own).items()}
            pictures: dict[str, Any] = inside("pictures", own)
            self._kept[stretch] = motion, FrameExample(clip=clip, num_members=num_members, psnr=psnrs, **pictures)

    def examples(self) -> list[FrameExample]:
        """What was kept, in the order of the clips."""
        return [self._kept[part][1] for part in sorted(self._kept)]
