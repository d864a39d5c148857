"""A film as two videos side by side, mp4 or GIF, for people and pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hwm.data.video import VideoWriter
from hwm.evaluate.page.pictures import FUTURE_COLOR, PAST_COLOR
from hwm.work.files import atomic_path

SUFFIXES = (".mp4", ".gif")
MOST_HZ = 50
"""Pictures a second of a GIF: it counts in hundredths of a second, and players slow down what stands for less than two."""


def write_pair(out: Path, left_FHWC: np.ndarray, right_FHWC: np.ndarray, *, num_past: int, hz: int, repeat: int = 1) -> None:
    """Write two videos side by side, small ones enlarged, above a bar that turns blue after `num_past` frames.

    out: .mp4 or .gif.  left_FHWC, right_FHWC: uint8.  hz: frames a second.  repeat: how often each frame is shown.
    """
    pair = np.concatenate([left_FHWC, np.full_like(left_FHWC[:, :, :2], 255), right_FHWC], 2)
    larger = max(1, 256 // max(left_FHWC.shape[1:3]))
    pair = pair.repeat(larger, 1).repeat(larger, 2)
    pair[:num_past, -6:], pair[num_past:, -6:] = PAST_COLOR, FUTURE_COLOR
    if out.suffix.lower() == ".gif":
        write_gif(out, pair, hz=hz / repeat)
        return
    with VideoWriter(out, height=pair.shape[1], width=pair.shape[2], fps=hz) as writer:
        writer.write(pair.repeat(repeat, 0))


def write_gif(out: Path, frames_FHWC: np.ndarray, *, hz: float) -> None:
    """Write frames, uint8 (F, H, W, 3), as a GIF that plays in real time and begins again.

    All frames share 256 colours, so that what stands still does not flicker.  hz: frames a second, of which above `MOST_HZ`
    every nth is shown.
    """
    every = max(1, int(np.ceil(hz / MOST_HZ)))
    shown = frames_FHWC[::every]
    ends = np.round(np.arange(len(shown) + 1) * 100 * every / hz).astype(int)  # in hundredths of a second
    few = shown[np.unique(np.linspace(0, len(shown) - 1, 16).astype(int))]
    colours = Image.fromarray(np.concatenate(list(few))).quantize(256, Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(frame).quantize(palette=colours, dither=Image.Dither.NONE) for frame in shown]
    with atomic_path(out) as temporary:
        durations = (10 * np.diff(ends)).tolist()
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
