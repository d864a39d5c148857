"""Example clips to look at: side-by-side videos, film strips, and maps of error and spread."""

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from hwm.data.video import VideoWriter
from hwm.evaluate.scores import Example

SEEN, TRUTH = "seen", "truth"
"""Names of an example's pictures that are no row."""
PANEL_SIZE = 224
"""Smaller frames are enlarged by a whole factor up to about this many pixels."""
GAP, STRIP, HOLD = 6, 6, 8
"""Pixels between panels, height of the time bar, and frames for which the last picture stands."""
FULL_SCALE = 64
"""Levels of 0..255 that are shown brightest in maps of spread and of error."""
RAMP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
"""Five stops of inferno."""
PAST_COLOR, FUTURE_COLOR, PAPER = (156, 163, 175), (29, 78, 216), (255, 255, 255)


def heat(levels: np.ndarray) -> np.ndarray:
    """Spread or error (..., H, W) from black, none, over red to pale yellow, `FULL_SCALE` and more: uint8 (..., H, W, 3)."""
    place = np.clip(levels / FULL_SCALE, 0, 1) * (len(RAMP) - 1)
    below = np.minimum(place.astype(int), len(RAMP) - 2)
    part = (place - below)[..., None]
    return (RAMP[below] * (1 - part) + RAMP[below + 1] * part).round().astype(np.uint8)


def error(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference over the channels, float (..., H, W), in the units of the spread."""
    return np.sqrt(np.square(pred.astype(np.float64) - truth.astype(np.float64)).mean(-1))


def rows_of(example: Example) -> list[str]:
    """The rows whose pictures an example holds."""
    return [name for name in example.pictures if name in example.psnr]


def stills(example: Example, headline: str, copy: str) -> dict[str, tuple[np.ndarray, float | None]]:
    """The last frames by what they are, in the order in which they are shown, with the PSNR of those that have one."""
    last = {name: frames[-1] for name, frames in example.pictures.items()}
    found = {"last seen": (last[SEEN], example.psnr.get(copy)), TRUTH: (last[TRUTH], None)}
    found |= {name: (last[name], example.psnr.get(name)) for name in rows_of(example)}
    if example.spread is not None:
        found["spread"] = heat(example.spread), None
    return found | {"error": (heat(error(last[headline], last[TRUTH])), None)}


def comparison(example: Example, headline: str) -> dict[str, np.ndarray]:
    """Panels over the whole clip, uint8 (F, H, W, 3): the seen frames, the truth, every row, the headline's error.

    While frames are seen, all but the error show them; then the first panel stands at the last of them, which is what
    copying predicts.
    """
    seen, truth = example.pictures[SEEN], example.pictures[TRUTH]
    found = {SEEN: np.concatenate((seen, np.repeat(seen[-1:], len(truth), 0)))}
    found |= {name: np.concatenate((seen, example.pictures[name])) for name in (TRUTH, *rows_of(example))}
    wrong = heat(error(example.pictures[headline], truth))
    return found | {"error": np.concatenate((np.zeros_like(seen), wrong))}


def enlargement(panel: np.ndarray) -> int:
    """The whole factor by which a panel (F, H, W, 3) is enlarged."""
    return max(1, PANEL_SIZE // panel.shape[1])


def side_by_side(panels: Iterable[np.ndarray], num_seen: int) -> np.ndarray:
    """Panels (F, H, W, 3) beside each other, enlarged, over a bar that grows in grey, then in blue; the last picture stands."""
    shown = list(panels)
    (num_frames, height), scale = shown[0].shape[:2], enlargement(shown[0])
    gap = np.full((num_frames, height * scale, GAP, 3), PAPER, np.uint8)
    frames = np.concatenate([part for panel in shown for part in (panel.repeat(scale, 1).repeat(scale, 2), gap)][:-1], 2)
    bar = np.full((num_frames, STRIP, frames.shape[2], 3), PAPER, np.uint8)
    edges = np.linspace(0, frames.shape[2], num_frames + 1).round().astype(int)
    for f in range(num_frames):
        bar[f, 2:, : edges[min(f + 1, num_seen)]] = PAST_COLOR
        if f >= num_seen:
            bar[f, 2:, edges[num_seen] : edges[f + 1]] = FUTURE_COLOR
    frames = np.concatenate([frames, bar], 1)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), constant_values=255)
    return np.concatenate([frames, np.repeat(frames[-1:], HOLD, 0)])


def film_strip(example: Example, headline: str, *, num_columns: int = 6) -> dict[str, np.ndarray]:
    """Named rows of pictures (n, H, W, 3) at the future frames `strip_columns`."""
    columns, seen = strip_columns(len(example.pictures[TRUTH]), num_columns), example.pictures[SEEN]
    found = {name: frames[len(seen) :][columns] for name, frames in comparison(example, headline).items()}
    return {name: found[name] for name in (*list(found)[1:], SEEN)}


def strip_columns(num_frames: int, num_columns: int) -> np.ndarray:
    """Indices of the frames in a film strip, from the first to the last."""
    return np.unique(np.linspace(0, num_frames - 1, num_columns).round().astype(int))


def slow(hz: int | None) -> int:
    """Frames a second of a video to look at closely: a third of real time.  hz: of the data; None: unknown, taken for 30."""
    return max(1, round((hz or 30) / 3))


def mp4(frames_FHWC: np.ndarray, *, fps: int) -> bytes:
    """Frames as an H.264 video in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, height=frames_FHWC.shape[1], width=frames_FHWC.shape[2], fps=fps) as writer:
            writer.write(frames_FHWC)
        return path.read_bytes()


def jpeg(picture: np.ndarray, quality: int = 90) -> bytes:
    """A picture as JPEG in memory."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=quality, subsampling=0)
    return data.getvalue()
