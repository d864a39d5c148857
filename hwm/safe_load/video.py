"""Video files, held against caps before a frame is decoded, and while frames are: what a header says may be wrong.

Only containers that hold their data themselves are opened: a playlist would send the library to other files or hosts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from hwm.safe_load.paths import is_file, shown

MAX_PIXELS = 4096 * 4096
MAX_FRAMES = 10_000_000
"""Of one file: 92 hours at 30 frames a second."""
MAX_SECONDS = 100 * 3600
FREE_BYTES = 64 * 2**20
"""Decoded bytes that any file may give at once."""
MAX_RATIO = 1000
"""Decoded bytes to bytes of the file beyond that; camera pictures in H.264 come to 20 to 500."""
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
AGAIN = "fetch or record the file again"


def check_count(num_frames: int, path: Path) -> None:
    """Raise ValueError for more frames, promised or decoded, than any file may have."""
    if num_frames > MAX_FRAMES:
        raise ValueError(f"{path}: more than {MAX_FRAMES} frames; {AGAIN}")


def promised_frames(path: str | Path) -> int:
    """Frames that the header promises or, in containers whose headers do not, packets in the file; decodes nothing."""
    with opened_video(path) as (container, stream):
        try:
            return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        except av.FFmpegError as error:
            raise ValueError(f"{path}: is not a whole video ({error}); {AGAIN}") from None


def in_proportion(path: str | Path) -> int:
    """Decoded bytes of a video that may be held in memory at once: more would be out of all proportion to the file.

    A covered camera can give more than that, so only those who do not read frame by frame ask.
    """
    return max(FREE_BYTES, MAX_RATIO * Path(path).stat().st_size)


@contextmanager
def opened_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream, PyAV's objects.

    Raises ValueError, naming the file, for no such file, another format, no video stream, frames of more than
    `MAX_PIXELS`, and a header that promises more frames or time than is allowed.
    """
    path = Path(path)
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such video file")
    num_bytes = path.stat().st_size
    # "file:" keeps a colon in the path from being taken for a protocol.
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", metadata_errors="replace", options=options)
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = f"is not a whole video ({str(error).splitlines()[0]})" if num_bytes else "is empty"
        raise ValueError(f"{path}: {reason}; {AGAIN}") from None
    with container:
        if not container.streams.video:
            raise ValueError(f"{path}: has no video stream")
        stream = container.streams.video[0]
        decoder = stream.codec_context
        if decoder is None:
            raise ValueError(f"{path}: its codec cannot be read; {AGAIN}")
        if not 0 < decoder.height * decoder.width <= MAX_PIXELS:
            raise ValueError(f"{path}: frames of {decoder.width}x{decoder.height} pixels; at most 4096x4096 pixels are read")
        if stream.sample_aspect_ratio not in (None, 0, 1):
            remedy = "re-encode it with square ones (ffmpeg -vf scale=iw*sar:ih,setsar=1)"
            raise ValueError(f"{path}: its pixels are not square (sample aspect ratio {stream.sample_aspect_ratio}); {remedy}")
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if seconds > MAX_SECONDS:
            raise ValueError(f"{path}: claims to last {seconds:.0f} s, at most {MAX_SECONDS} s are read; {AGAIN}")
        check_count(stream.frames, path)
        stream.thread_type = "AUTO"
        # Damaged macroblocks would otherwise be painted over silently.
        decoder.options = {"err_detect": "explode"}
        yield container, stream
