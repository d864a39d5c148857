"""Videos decoded once into memory-mappable files, beside the data or, where that is read-only, in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np

from hwm.data import video
from hwm.data.files import atomic_path, without_read_ahead
from hwm.safe_load.arrays import map_npy

SPARE_BYTES = 256 * 2**20
SPARE_SHARE, SPARE_AT_MOST = 0.05, 10 * 2**30
"""Of the disk, left free for the others who use it: this share, but no less than SPARE_BYTES and no more than 10 GiB."""


def decoded_frames(path: Path, *, num_frames: int, size: int = 0) -> np.ndarray:
    """All frames of a video, uint8 RGB memory map (F, H, W, 3).

    The cache file is keyed by the video's size in bytes, its time of change and `size`, so a changed video is
    decoded anew.  size: side in pixels of area-resized square frames; 0 keeps the stored size.
    Raises ValueError for a damaged video, one without exactly `num_frames` frames, or too little disk space.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such video file")
    if size < 0 or size > 4096:
        raise ValueError(f"{path}: frames can be resized to 1..4096 pixels (0 keeps the stored size), got {size}")
    facts = path.stat()
    height, width = (size, size) if size else video.probe(path)[:2]
    shape = (num_frames, height, width, 3)
    prefix = f"{path.stem}-{size}px-"
    name = f"{prefix}{facts.st_size:x}-{facts.st_mtime_ns:x}.npy"
    for folder in _folders(path):
        cached = _map(folder / name, shape)
        if cached is not None:
            return cached
    writable = [folder for folder in _folders(path) if _writable(folder)]
    if not writable:
        raise ValueError(f"{path}: no folder to cache decoded frames in; set XDG_CACHE_HOME to a writable one")
    folder = writable[0]
    needed = int(np.prod(shape, dtype=np.int64))
    disk = shutil.disk_usage(folder)
    spare = max(SPARE_BYTES, min(SPARE_AT_MOST, int(SPARE_SHARE * disk.total)))
    if needed + spare > disk.free:
        need = f"decoding {path.name} needs {needed} bytes, {spare} stay for others, {disk.free} are free"
        raise ValueError(f"{folder}: {need}; make room or set a smaller image_size")
    _decode(path, folder / name, shape, size)
    for stale in folder.glob(f"{prefix}*.npy"):
        if stale.name != name:
            stale.unlink(missing_ok=True)
    mapped = _map(folder / name, shape)
    assert mapped is not None
    return mapped


def _folders(path: Path) -> list[Path]:
    """The dataset's own cache first; videos/ is part of the layout, so its parent is the dataset."""
    path = path.resolve()
    root = path.parent.parent if path.parent.name == "videos" else path.parent
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return [root / ".cache", user / "hwm" / "frames" / hashlib.sha256(str(path).encode()).hexdigest()[:16]]


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


def _decode(path: Path, target: Path, shape: tuple[int, ...], size: int) -> None:
    expected, done = shape[0], 0
    with atomic_path(target) as temporary:
        frames = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for part in video.iter_frames(path, size=size):
            if done + len(part) > expected:
                raise ValueError(f"{path}: has more frames than the {expected} state rows; {MISMATCH}")
            frames[done : done + len(part)] = part
            done += len(part)
        if done < expected:
            raise ValueError(f"{path}: has {done} frames but {expected} state rows; {MISMATCH}")
        frames.flush()


MISMATCH = "frame k must belong to row k, so fetch or record the shard again"
