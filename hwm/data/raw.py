"""Datasets of recorded video in 1X's v2.0 layout: frame k of an mp4 is row k of the states (reference A.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwm.clock import COSMOS, Clock
from hwm.contracts import Kind
from hwm.data import video
from hwm.data.dataset import Dataset, Decoder, Finding, Shard, raised
from hwm.robot import Embodiment
from hwm.work.files import read_rows


@dataclass(frozen=True)
class RawShard(Shard):
    """One shard of video.

    hz: rows of states per second.  size: side in pixels to which frames are area-resized, square; 0 keeps the stored size.
    """

    hz: int
    size: int = 0

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames, uint8 RGB memory map (F, H, W, 3), decoded once into a cache file.

        Raises ValueError as `video.iter_pictures`.
        """
        return video.decoded_frames(self.video_path, num_frames=len(self.stored), size=self.size, segments=self.stored)

    def read(self, start: int, frames: int) -> np.ndarray:
        """Frames uint8 RGB (F, H, W, 3)."""
        return read_rows(self.frames, start, start + frames)

    def iter_pictures(self) -> Iterator[np.ndarray]:
        """The same, one after the other, without a cache."""
        return video.iter_pictures(self.video_path, size=self.size, num_frames=len(self.stored), segments=self.stored)

    @property
    def stored(self) -> np.ndarray:
        """The segment of every frame of the file, (F,), whether or not it is taken."""
        return np.array(read_rows(self.segments, 0, self.num_frames))

    @property
    def probed(self) -> tuple[int, int, float]:
        """Height and width of its frames in pixels before they are resized, and frames a second by the file's header."""
        return video.probe(self.video_path)

    def remarks(self) -> Iterator[Finding]:
        """What was left out of the recording, or changed, so that it could be read."""
        yield from ()

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        return list(video.thumbnails(self.video_path, count=count, size=128, segments=self.stored))

    def check_pictures(self) -> Iterator[Finding]:
        yield from raised(lambda: video.expect_rows(self.video_path, len(self.stored), self.stored))
        try:
            rate = video.probe(self.video_path)[2]
        except ValueError:
            return  # an error when the frames were decoded
        if abs(rate - self.hz) > 0.5:
            claim = f"plays at {rate:g} frames/s, metadata.json says {self.hz} Hz"
            yield Finding("warning", str(self.video_path), claim)


@dataclass(frozen=True)
class RawDataset(Dataset):
    """A v2.0 dataset of video.  size: see RawShard."""

    kind: ClassVar[Kind] = "video"

    root: Path
    shards: tuple[RawShard, ...]
    hz: int
    robot: Embodiment
    clock: Clock = COSMOS
    size: int = 0

    @cached_property
    def grid(self) -> tuple[int, int]:  # type: ignore[override]
        """Height and width of the frames in pixels, as they are given."""
        path, wanted = self.shards[0].video_path, (self.size, self.size)
        stored = self.shards[0].probed[:2]
        if self.size:
            video.expect_proportions(path, stored, wanted)
        return wanted if self.size else stored

    def resized(self, size: int) -> RawDataset:
        """The same with frames area-resized to squares of this side in pixels; 0 gives them as stored."""
        return replace(self, size=size, shards=tuple(replace(shard, size=size) for shard in self.shards))

    def windows(self) -> dict[str, dict[str, Any]]:
        return super().windows() | {"sampling_77": {"kind": "sampling", "overlap": True}}

    def facts(self) -> dict[str, Any]:
        return {"frame_size": list(self.grid)}


def open_raw(root: Path, opened: Callable[..., tuple[Any, ...]], *, hz: int, robot: Embodiment) -> RawDataset:
    """As `tokens.open_tokens`."""
    return RawDataset(root, opened(RawShard, hz=hz), hz, robot)
