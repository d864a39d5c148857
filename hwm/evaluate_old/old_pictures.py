"""Example clips to look at: side-by-side videos and film strips."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from hwm.data.video import VideoWriter
from hwm.evaluate_old.results import Example

PANELS = ("context", "truth", "prediction", "error")
PANEL_SIZE = 224
"""Smaller frames are enlarged by a whole factor up to about this many pixels."""
GAP, STRIP, HOLD = 6, 6, 8
"""Pixels between panels, height of the time bar, and frames for which the last picture stands."""
FPS = 10
FULL_ERROR = 64
"""Mean absolute difference over the channels, of 255, that is shown as white."""
PAST_COLOR, FUTURE_COLOR, PAPER = (156, 163, 175), (29, 78, 216), (255, 255, 255)


def error_picture(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Absolute difference from black over red and yellow to white at `FULL_ERROR`: uint8 (..., H, W, 3)."""
    difference = np.abs(pred.astype(np.float32) - truth.astype(np.float32)).mean(-1) / FULL_ERROR
    return (np.clip(np.stack([3 * difference, 3 * difference - 1, 3 * difference - 2], -1), 0, 1) * 255).astype(np.uint8)


def comparison_frames(example: Example) -> np.ndarray:
    """Context | truth | prediction | error over the whole clip, uint8 (F, H, W, 3).

    During the context, truth and prediction show it as well and the error is black; then the context stands at its
    last frame, which is what copying the last frame predicts.  A bar below grows in grey, then in blue.
    """
    context, num_past, num_future = example.context, len(example.context), len(example.truth)
    stands = np.repeat(context[-1:], num_future, 0)
    error = error_picture(example.prediction, example.truth)
    panels = [
        np.concatenate(parts)
        for parts in (
            (context, stands),
            (context, example.truth),
            (context, example.prediction),
            (np.zeros_like(context), error),
        )
    ]
    height, scale = context.shape[1], max(1, PANEL_SIZE // context.shape[1])
    panels = [panel.repeat(scale, 1).repeat(scale, 2) for panel in panels]
    gap = np.full((num_past + num_future, height * scale, GAP, 3), PAPER, np.uint8)
    frames = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], 2)
    bar = np.full((len(frames), STRIP, frames.shape[2], 3), PAPER, np.uint8)
    edges = np.linspace(0, frames.shape[2], len(frames) + 1).round().astype(int)
    for f in range(len(frames)):
        bar[f, 2:, : edges[min(f + 1, num_past)]] = PAST_COLOR
        if f >= num_past:
            bar[f, 2:, edges[num_past] : edges[f + 1]] = FUTURE_COLOR
    frames = np.concatenate([frames, bar], 1)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), constant_values=255)
    return np.concatenate([frames, np.repeat(frames[-1:], HOLD, 0)])


def mp4(frames_FHWC: np.ndarray) -> bytes:
    """Frames as an H.264 video in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, height=frames_FHWC.shape[1], width=frames_FHWC.shape[2], fps=FPS) as writer:
            writer.write(frames_FHWC)
        return path.read_bytes()


def film_strip(example: Example, *, num_columns: int = 6) -> dict[str, np.ndarray]:
    """Named rows of pictures (n, H, W, 3) at the future frames `strip_columns`: truth, prediction, copy, error."""
    columns = strip_columns(len(example.truth), num_columns)
    truth, prediction = example.truth[columns], example.prediction[columns]
    copied = np.repeat(example.context[-1:], len(columns), 0)
    error = error_picture(prediction, truth)
    return {"truth": truth, "prediction": prediction, "error": error, "last context frame": copied}


def strip_columns(num_frames: int, num_columns: int) -> np.ndarray:
    """Indices of the frames in a film strip, from the first to the last."""
    return np.unique(np.linspace(0, num_frames - 1, num_columns).round().astype(int))


def jpeg(picture: np.ndarray, quality: int = 90) -> bytes:
    """A picture as JPEG in memory."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=quality, subsampling=0)
    return data.getvalue()
