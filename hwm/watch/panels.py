"""Films as videos beside each other, mp4 or GIF, for people and pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hwm.data.video import VideoWriter
from hwm.evaluate.page.pictures import FUTURE_COLOR, PAST_COLOR
from hwm.watch.film import Film
from hwm.work.files import atomic_path

SUFFIXES = (".mp4", ".gif")
MOST_HZ = 50
"""Pictures a second of a GIF: it counts in hundredths of a second, and players slow down what stands for less than two."""


def write_films(out: Path, films: Sequence[Film]) -> None:
    """Write films of one length: a single one with the recording left of the prediction, of several each in a column."""
    first, shown = films[0], [[film.truth for film in films], [film.prediction for film in films]]
    panels = [[first.truth, first.prediction]] if len(films) == 1 else shown
    write_panels(out, panels, num_past=first.num_past, hz=first.hz, repeat=first.every)


def write_panels(out: Path, panels: Sequence[Sequence[np.ndarray]], *, num_past: int, hz: int, repeat: int = 1) -> None:
    """Write lines of videos, small ones enlarged, above a bar that turns blue after `num_past` frames.

    out: .mp4 or .gif.  panels: uint8 (F, H, W, 3) each.  hz: frames a second.  repeat: how often each frame is shown.
    """
    sides = panels[0][0].shape[1:3]
    larger = max(1, 256 // max(sides))
    shown = _beside([_beside(line, 2) for line in panels], 1).repeat(larger, 1).repeat(larger, 2)
    shown[:num_past, -6:], shown[num_past:, -6:] = PAST_COLOR, FUTURE_COLOR
    if out.suffix.lower() == ".gif":
        write_gif(out, shown, hz=hz / repeat)
        return
    with VideoWriter(out, height=shown.shape[1], width=shown.shape[2], fps=hz) as writer:
        writer.write(shown.repeat(repeat, 0))


def _beside(videos: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Videos along an axis with two white pixels between."""
    gap = np.full_like(videos[0].take(range(2), axis), 255)
    return np.concatenate([part for video in videos for part in (gap, video)][1:], axis)


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
