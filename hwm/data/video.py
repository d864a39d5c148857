"""H.264 video in and out, decoded in order: frame k of the file is row k of the states.

Encoding is crf 18 without B-frames and with a key frame a second, which keeps every frame cheap to reach and
repeats bit for bit.  Decoding never seeks by time, so no frame is off by one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from hwm.data.files import atomic_path
from hwm.data.rows import ShardFault
from hwm.safe_load.video import AGAIN, MAX_PIXELS, check_count, in_proportion, opened_video, promised_frames

MAX_BATCH_BYTES = 16 * 2**20
MAX_VIDEO_BYTES = 2**30


class VideoWriter:
    """Write uint8 RGB frames to an H.264 mp4 that appears only when the `with` block ends without an error.

    height, width: even, in pixels.  fps: frames per second.
    """

    def __init__(self, path: str | Path, *, height: int, width: int, fps: int = 30) -> None:
        if height < 2 or width < 2 or height % 2 or width % 2 or height * width > MAX_PIXELS:
            raise ValueError(f"{path}: video sides must be even and at most {MAX_PIXELS} pixels, got {height}x{width}")
        self.path, self.height, self.width, self.fps = Path(path), height, width, fps
        self.num_frames = 0

    def __enter__(self) -> VideoWriter:
        self._atomic = atomic_path(self.path)
        self._container: Any = av.open(str(self._atomic.__enter__()), "w", format="mp4")
        stream = self._container.add_stream("libx264", rate=self.fps)
        stream.height, stream.width, stream.pix_fmt = self.height, self.width, "yuv420p"
        stream.codec_context.thread_count = 1
        # mbtree does not repeat bit for bit on small frames, and lets what stands still flicker.
        own = {"x264-params": "mbtree=0"}
        stream.options = {"crf": "18", "preset": "veryfast", "g": "30", "bf": "0", "threads": "1", **own}
        self._stream = stream
        return self

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Append frames, uint8 (F, height, width, 3)."""
        if frames_FHWC.dtype != np.uint8 or frames_FHWC.shape[1:] != (self.height, self.width, 3):
            expected = f"uint8 (F, {self.height}, {self.width}, 3)"
            raise ValueError(f"{self.path}: expected {expected} frames, got {frames_FHWC.dtype} {frames_FHWC.shape}")
        for picture in np.ascontiguousarray(frames_FHWC):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = self.num_frames
            self._container.mux(self._stream.encode(frame))
            self.num_frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if not self.num_frames:
                    raise ValueError(f"{self.path}: no frame was written")
                self._container.mux(self._stream.encode())
            self._container.close()
        except BaseException as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)


def iter_frames(path: str | Path, *, size: int = 0, batch: int = 0) -> Iterator[np.ndarray]:
    """Decode a video in order, yielding uint8 RGB batches (b, H, W, 3).

    size: side in pixels of area-resized square frames; 0 keeps the stored size.  batch: frames per yield; 0 takes
    what fits in 16 MiB.  Memory use does not grow with the length.
    Raises ValueError, naming the file, for anything that is not a whole, plain video of at most 4096 x 4096 pixels.
    """
    path = Path(path)
    pending: list[np.ndarray] = []
    for picture in iter_pictures(path, size=size):
        pending.append(picture)
        if len(pending) >= (batch or max(1, MAX_BATCH_BYTES // picture.nbytes)):
            yield np.stack(pending)
            pending = []
    if pending:
        yield np.stack(pending)


def iter_pictures(path: str | Path, *, size: int = 0, times: array[int] | None = None) -> Iterator[np.ndarray]:
    """The same, picture by picture, uint8 RGB (H, W, 3).  What cannot be decoded is a `ShardFault` with its frame.

    times: when each picture is to be shown, in the file's own unit, is added to it where the file tells.
    """
    path, done = Path(path), 0
    with opened_video(path) as (container, stream):
        shape = (stream.codec_context.height, stream.codec_context.width)
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
                if frame is None:
                    break
                _refuse_odd(frame, shape)
                side = {"width": size, "height": size} if size else {}
                picture = frame.reformat(format="rgb24", interpolation=Interpolation.AREA, **side).to_ndarray()
            except (av.FFmpegError, ValueError) as error:
                raise ShardFault(f"{path}: cannot decode frame {done}: {error}; {AGAIN}", frame=done) from None
            if times is not None and frame.pts is not None:
                times.append(frame.pts)
            done += 1
            check_count(done, path)
            yield picture
    if not done:
        raise ShardFault(f"{path}: holds no video frame; {AGAIN}")


def _refuse_odd(frame: Any, shape: tuple[int, int]) -> None:
    if (frame.height, frame.width) != shape:
        raise ValueError(f"the picture changes size from {shape} to {(frame.height, frame.width)}")
    if frame.is_corrupt:
        raise ValueError("the data are damaged")
    if frame.rotation:
        raise ValueError(f"the picture is stored rotated by {frame.rotation} degrees; re-encode it upright")
    if any(component.is_alpha for component in frame.format.components):
        raise ValueError("the picture is partly transparent; re-encode it without an alpha channel")


def read_video(path: str | Path, *, size: int = 0, max_bytes: int = MAX_VIDEO_BYTES) -> np.ndarray:
    """Decode a whole video into memory, uint8 RGB (F, H, W, 3); see `iter_frames` for `size` and errors.

    Raises ValueError when the decoded frames would exceed `max_bytes`, or are out of all proportion to the file's
    size: before anything is decoded, and again where more comes out than was promised.
    """
    height, width, _ = probe(path)
    max_bytes = min(max_bytes, in_proportion(path))
    too_large = f"{path}: decodes to more than {max_bytes} bytes; stream it with iter_frames"
    if promised_frames(path) * (size or height) * (size or width) * 3 > max_bytes:
        raise ValueError(too_large)
    parts, total = [], 0
    for part in iter_frames(path, size=size):
        total += part.nbytes
        if total > max_bytes:
            raise ValueError(too_large)
        parts.append(part)
    return np.concatenate(parts)


def probe(path: str | Path) -> tuple[int, int, float]:
    """Height and width in pixels and frames per second, from the header alone."""
    with opened_video(path) as (_, stream):
        return stream.codec_context.height, stream.codec_context.width, float(stream.average_rate or 0)


def count_frames(path: str | Path) -> int:
    """Number of frames that decode; the header's own count is not trusted."""
    return sum(len(part) for part in iter_frames(path, size=8))


def thumbnails(path: str | Path, *, count: int, size: int) -> np.ndarray:
    """About evenly spaced pictures, uint8 (n <= count, size, size, 3): the key frames next to the wanted times."""
    pictures: dict[int, np.ndarray] = {}
    with opened_video(path) as (container, stream):
        duration = stream.duration or 0
        try:
            for i in range(count):
                container.seek(int(duration * i / count), stream=stream)
                frame = next(container.decode(stream), None)
                if frame is not None:
                    shown = frame.reformat(size, size, "rgb24", interpolation=Interpolation.AREA)
                    pictures[frame.pts] = shown.to_ndarray()
        except av.FFmpegError as error:
            raise ValueError(f"{path}: cannot decode a picture: {error}; {AGAIN}") from None
    if not pictures:
        raise ValueError(f"{path}: holds no video frame; {AGAIN}")
    return np.stack(list(pictures.values()))
