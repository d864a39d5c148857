"""H.264 video in and out, decoded in order: frame k of the file is row k of the states.

Encoding is crf 18 without B-frames and with a key frame a second, which keeps every frame cheap to reach and
repeats bit for bit.  Decoding never seeks by time, so no frame is off by one.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from zlib import crc32

import av
import numpy as np
from av import VideoFrame as Frame
from av.video.reformatter import Interpolation

from hwm.data.dataset import ShardFault
from hwm.data.windows import check_segments
from hwm.safe_load.arrays import map_npy
from hwm.safe_load.video import AGAIN, MAX_PIXELS, check_count, in_proportion, opened_video, promised_frames
from hwm.work.cache import cache_folder
from hwm.work.claim import expect_suffix
from hwm.work.files import atomic_path, without_read_ahead

CODEC = "libx264"
MAX_BATCH_BYTES = 16 * 2**20
MAX_VIDEO_BYTES = 2**30
Made = TypeVar("Made")


class VideoWriter:
    """Write uint8 RGB frames to an H.264 mp4 that appears only when the `with` block ends without an error.

    height, width: even, in pixels.  fps: frames per second.
    """

    def __init__(self, path: str | Path, *, height: int, width: int, fps: int = 30) -> None:
        expect_suffix(path, ".mp4")
        if height < 2 or width < 2 or height % 2 or width % 2 or height * width > MAX_PIXELS:
            raise ValueError(f"{path}: video sides must be even and at most {MAX_PIXELS} pixels, got {height}x{width}")
        self.path, self.height, self.width, self.fps = Path(path), height, width, fps
        self.num_frames = 0

    def __enter__(self) -> VideoWriter:
        self._atomic = atomic_path(self.path)
        self._container: Any = av.open(str(self._atomic.__enter__()), "w", format="mp4")
        self._stream = self._container.add_stream(CODEC, rate=self.fps)
        self._encoder = self._configured(self._stream.codec_context)
        return self

    def _configured(self, encoder: Any) -> Any:
        encoder.height, encoder.width, encoder.pix_fmt = self.height, self.width, "yuv420p"
        encoder.thread_count = 1
        # mbtree does not repeat bit for bit on small frames, and lets what stands still flicker.
        own = {"x264-params": "mbtree=0"}
        encoder.options = {"crf": "18", "preset": "veryfast", "g": "30", "bf": "0", "threads": "1", **own}
        return encoder

    def part(self) -> None:
        """Encode what follows as if nothing had been before: equal frames after a part are decoded as equal frames."""
        self._mux(None)
        begun: Any = av.CodecContext.create(CODEC, "w")
        begun.time_base, begun.framerate, begun.flags = Fraction(1, self.fps), self.fps, self._encoder.flags
        self._encoder = self._configured(begun)

    def _mux(self, frame: Frame | None) -> None:
        """Write what the encoder makes of a frame; None: what it still holds."""
        for packet in self._encoder.encode(frame):
            packet.stream = self._stream
            self._container.mux(packet)

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Append frames, uint8 (F, height, width, 3)."""
        if frames_FHWC.dtype != np.uint8 or frames_FHWC.shape[1:] != (self.height, self.width, 3):
            expected = f"uint8 (F, {self.height}, {self.width}, 3)"
            raise ValueError(f"{self.path}: expected {expected} frames, got {frames_FHWC.dtype} {frames_FHWC.shape}")
        for picture in np.ascontiguousarray(frames_FHWC):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = self.num_frames
            self._mux(frame)
            self.num_frames += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if not self.num_frames:
                    raise ValueError(f"{self.path}: no frame was written")
                self._mux(None)
            self._container.close()
        except BaseException as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)


def in_rgb(frame: Any, width: int | None, height: int | None) -> Any:
    """A decoded frame in RGB, area-resized; None keeps the side.

    In one thread: to hand so little work to others costs as much as it saves, and twenty times as much where the cores are busy.
    """
    return frame.reformat(width, height, "rgb24", interpolation=Interpolation.AREA, threads=1)


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


def iter_pictures(
    path: str | Path, *, size: int = 0, num_frames: int | None = None, segments: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The same, picture by picture, uint8 RGB (H, W, 3).

    num_frames: rows of states, of which frame k is that of row k.  segments: their segment ids; None: all are of one.
    Raises `ShardFault` with the frame for what cannot be decoded, another number of frames than rows, and, after the last,
    frames of a segment that are not evenly spaced in time.
    """
    if size:
        expect_proportions(path, probe(path)[:2], (size, size))
    side = size or None
    return _decoded(Path(path), lambda frame: in_rgb(frame, side, side).to_ndarray(), num_frames, segments)


def _decoded(path: Path, made: Callable[[Frame], Made], num_frames: int | None, segments: np.ndarray | None) -> Iterator[Made]:
    """What is made of every frame; see `iter_pictures`."""
    times, done = array("q"), 0
    with opened_video(path) as (container, stream):
        shape = (stream.codec_context.height, stream.codec_context.width)
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
                if frame is None:
                    break
                _refuse_odd(frame, shape)
                result = made(frame)
            except (av.FFmpegError, ValueError) as error:
                raise ShardFault(f"{path}: cannot decode frame {done}: {error}; {AGAIN}", frame=done) from None
            if done == num_frames:
                raise ShardFault(f"{path}: has more frames than the {num_frames} state rows; {MISMATCH}", frame=done)
            if frame.pts is not None:
                times.append(frame.pts)
            done += 1
            check_count(done, path)
            yield result
    if not done:
        raise ShardFault(f"{path}: holds no video frame; {AGAIN}")
    if done < (num_frames or 0):
        raise ShardFault(f"{path}: has {done} frames but {num_frames} state rows; {MISMATCH}", frame=done)
    if len(times) == done:  # where the file tells
        expect_even(np.array(times), np.zeros(done, np.int32) if segments is None else segments, path)


def expect_even(times: np.ndarray, segments: np.ndarray, path: Path) -> None:
    """Raise ShardFault where frames of a segment are not evenly spaced in time, as the rows of states are.

    times: when each frame is shown, int64 (F,), in any unit.  Steps between segments do not matter, and a rate that is wrong
    everywhere says nothing about which frame is which.
    """
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    bounds = [0, *check_segments(segments, path), len(segments)]
    for first, stop in pairwise(bounds):
        steps = stop - first - 1
        if steps < 2:
            continue
        own = (times[stop - 1] - times[first]) / steps
        late = times[first:stop] - times[first] - own * np.arange(stop - first)
        worst = int(np.abs(late).argmax())
        another_rate = abs(own - usual) > 0.1 * usual and abs(own - usual) * steps > 1.01 * usual
        if usual <= 0 or another_rate or abs(late[worst]) > 1.01 * usual:
            fault = f"its frames are not evenly spaced in time around frame {first + worst} (variable frame rate)"
            raise ShardFault(f"{path}: {fault}; record it at a constant rate", frame=first + worst)


def expect_proportions(path: str | Path, found: Sequence[int], wanted: tuple[int, int]) -> None:
    """Raise ShardFault where frames of one height and width would be squeezed, by a pixel or more, into another."""
    (height, width), (new_height, new_width) = found, wanted
    if abs(width * new_height / height - new_width) >= 1:
        squeezed = f"frames of {height}x{width} pixels would be squeezed into {new_height}x{new_width}"
        raise ShardFault(f"{path}: {squeezed}; crop or pad them to these proportions first")


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
    return sum(1 for _ in _decoded(Path(path), lambda frame: frame, None, None))


def expect_rows(path: Path, num_frames: int, segments: np.ndarray | None = None) -> None:
    """Decode everything; raises as `iter_pictures`."""
    deque(_decoded(path, lambda frame: None, num_frames, segments), maxlen=0)


def thumbnails(path: str | Path, *, count: int, size: int, segments: np.ndarray | None = None) -> np.ndarray:
    """About evenly spaced pictures, uint8 (n <= count, H, W, 3): the key frames next to the wanted times.

    size: the longer side in pixels.  segments: of every row of states; then frames must be evenly spaced as in `iter_pictures`.
    """
    path, pictures = Path(path), dict[int, np.ndarray]()
    with opened_video(path) as (container, stream):
        decoder, duration = stream.codec_context, stream.duration or 0
        scale = size / max(decoder.height, decoder.width)
        width, height = (max(1, round(side * scale)) for side in (decoder.width, decoder.height))
        try:
            if segments is not None:
                times = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
                if len(times) == len(segments):
                    expect_even(np.array(times), segments, path)
            for i in range(count):
                container.seek(int(duration * i / count), stream=stream)
                frame = next(container.decode(stream), None)
                if frame is not None:
                    _refuse_odd(frame, (decoder.height, decoder.width))
                    shown = in_rgb(frame, width, height)
                    pictures[frame.pts] = shown.to_ndarray()
        except ShardFault:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(f"{path}: cannot decode a picture: {error}; {AGAIN}") from None
    if not pictures:
        raise ValueError(f"{path}: holds no video frame; {AGAIN}")
    return np.stack(list(pictures.values()))


SPARE_BYTES = 256 * 2**20
SPARE_SHARE, SPARE_AT_MOST = 0.05, 10 * 2**30
"""Of the disk, left free for the others who use it: this share, but no less than SPARE_BYTES and no more than 10 GiB."""


def decoded_frames(path: Path, *, num_frames: int, size: int = 0, segments: np.ndarray | None = None) -> np.ndarray:
    """All frames of a video, uint8 RGB memory map (F, H, W, 3).

    The cache file is keyed by the video's size in bytes, its time of change, its segments and `size`, so a changed video is
    decoded anew.  size: side in pixels of area-resized square frames; 0 keeps the stored size.
    Raises ValueError as `iter_pictures`, and for too little disk space.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such video file")
    if size < 0 or size > 4096:
        raise ValueError(f"{path}: frames can be resized to 1..4096 pixels (0 keeps the stored size), got {size}")
    facts = path.stat()
    if size:
        expect_proportions(path, probe(path)[:2], (size, size))
    height, width = (size, size) if size else probe(path)[:2]
    shape = (num_frames, height, width, 3)
    prefix = f"{path.stem}-{size}px-"
    name = f"{prefix}{facts.st_size:x}-{facts.st_mtime_ns:x}-{0 if segments is None else crc32(segments.tobytes()):x}.npy"
    for folder in _folders(path):
        cached = _map(folder / name, shape)
        if cached is not None:
            return cached
    writable = [folder for folder in _folders(path) if _writable(folder)]
    if not writable:
        raise ValueError(f"{path}: no folder to cache decoded frames in; set XDG_CACHE_HOME to a writable one")
    folder = writable[0]
    needed = math.prod(shape)
    disk = shutil.disk_usage(folder)
    spare = max(SPARE_BYTES, min(SPARE_AT_MOST, int(SPARE_SHARE * disk.total)))
    if needed + spare > disk.free:
        need = f"decoding {path.name} needs {needed} bytes, {spare} stay for others, {disk.free} are free"
        raise ValueError(f"{folder}: {need}; make room or set a smaller image_size")
    _decode(path, folder / name, shape, size, segments)
    for stale in folder.glob(f"{prefix}*.npy"):
        if stale.name != name:
            stale.unlink(missing_ok=True)
    mapped = _map(folder / name, shape)
    assert mapped is not None
    return mapped


def _folders(path: Path) -> list[Path]:
    """Of a dataset in 1X's layout, in which videos/ is a part, its own cache first; nothing is written into others."""
    path = path.absolute()  # where a link lies, not what it leads to: others may lead there too
    root = path.parent.parent if path.parent.name == "videos" else path.parent
    own = [root / ".cache"] if (root / "metadata.json").is_file() else []
    return [*own, cache_folder() / "hwm" / "frames" / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _map(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached frames, or None where there are none of this shape."""
    if not path.is_file():
        return None
    try:
        return without_read_ahead(map_npy(path, shape=shape, dtype=np.uint8))
    except ValueError:
        return None


def _decode(path: Path, target: Path, shape: tuple[int, ...], size: int, segments: np.ndarray | None) -> None:
    with atomic_path(target) as temporary:
        frames = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)  # noqa: TID251, writes a new file
        with temporary.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):  # a disk that fills meanwhile would kill the process at a write through the map
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        for number, picture in enumerate(iter_pictures(path, size=size, num_frames=shape[0], segments=segments)):
            frames[number] = picture
        frames.flush()


MISMATCH = "frame k must belong to row k, so fetch or record the shard again"
