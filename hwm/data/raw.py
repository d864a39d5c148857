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
from hwm.data import layout, video
from hwm.data.dataset import Dataset, Decoder, Finding, Shard, check_rows, chunks, raised
from hwm.data.layout import MASKS
from hwm.robot import Embodiment
from hwm.work.files import check_size, expect_rows, map_array, read_rows


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

    @cached_property
    def masks_path(self) -> Path | None:
        """The file that tells which pixels show the robot's body; None where there is none."""
        try:
            return MASKS.find(self.root, self.index)
        except ValueError:
            return None

    @cached_property
    def masks(self) -> np.ndarray:
        """Its bits, uint8 memory map (F, H, ceil(W / 8)), of the frames as they are stored."""
        assert self.masks_path is not None
        height, width, _ = self.probed
        about = f"{self.num_frames} frames of {height}x{width} pixels, a bit each"
        return map_array(self.masks_path, "u1", (self.num_frames, height, -(-width // 8)), about)

    def read_masks(self, start: int, frames: int) -> np.ndarray:
        """Which pixels of frames show the robot's body, bool (F, H, W); of resized ones at least half of what they are made of.

        Raises ValueError where the dataset does not tell.
        """
        if self.masks_path is None:
            remedy = "give data of `hwm simulate --masks`"
            raise ValueError(f"{MASKS.place(self.root, self.index, flat=False)}: no such file; {remedy}")
        found = np.unpackbits(read_rows(self.masks, start, start + frames), axis=-1, count=self.probed[1]).astype(bool)
        return shrunk(found, (self.size, self.size)) if self.size else found

    @property
    def stored(self) -> np.ndarray:
        """The segment of every frame of the file, (F,), whether or not it is taken."""
        return np.array(read_rows(self.segments, 0, self.num_frames))

    @property
    def probed(self) -> tuple[int, int, float]:
        """Height and width of its frames in pixels before they are resized, and frames a second by the file's header."""
        return video.probe(self.video_path)

    @property
    def commands_path(self) -> Path | None:
        """What holds its commands; None where none were kept."""
        there = self.index in layout.COMMANDS.indices(self.root)
        return layout.COMMANDS.find(self.root, self.index) if there else None

    @cached_property
    def commands(self) -> np.ndarray | None:
        """Commands (F, A) float32 in the units of the states, or None: row k is what was asked for from frame k to the next."""
        path = self.commands_path
        return None if path is None else map_array(path, "<f4", (self.num_frames, self.robot.dim), self._rows)

    def check_states(self) -> Iterator[Finding]:
        yield from super().check_states()
        if (path := self.commands_path) is not None and self.commands is not None:
            yield from check_rows(path, self.commands)

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
        if self.masks_path is not None:
            yield from raised(self.check_masks)

    def check_sizes(self) -> None:
        super().check_sizes()
        if self.masks_path is not None:
            expect_rows(self.masks)
        if (path := self.commands_path) is not None:
            check_size(path, self.num_frames * self.robot.dim * 4, self._rows)

    def check_masks(self) -> None:
        """Raise ValueError where a mask has bits beyond the width of its frame, or none shows the robot at all."""
        beyond, shown = -self.probed[1] % 8, False
        for first, part in chunks(self.masks):
            shown = shown or bool(part.any())
            if beyond and (bad := np.flatnonzero((part[..., -1] & (2**beyond - 1)).any(-1))).size:
                raise ValueError(f"{self.masks_path}: mask {first + bad[0]} goes beyond its frame; write the shard again")
        if not shown:
            raise ValueError(f"{self.masks_path}: shows the robot nowhere; write the shard again")


def shrunk(masks_FHW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks of another size: pixels of which at least half is covered, bool (F, *size)."""
    import torch

    covered = torch.nn.functional.interpolate(torch.from_numpy(masks_FHW[:, None]).float(), size, mode="area")
    return np.asarray(covered[:, 0] >= 0.5)


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
        kept = sum(shard.commands_path is not None for shard in self.shards)
        return {"frame_size": list(self.grid)} | ({"shards with commands": kept} if kept else {})

    def check(self) -> Iterator[Finding]:
        without = [shard.index for shard in self.shards if shard.commands_path is None]
        if 0 < len(without) < len(self.shards):
            fault = f"shard {without[0]} has no commands, others have; write it again, or delete all commands"
            yield Finding("error", str(layout.COMMANDS.place(self.root, without[0], flat=False)), fault)


def open_raw(root: Path, opened: Callable[..., tuple[Any, ...]], *, hz: int, robot: Embodiment) -> RawDataset:
    """As `tokens.open_tokens`."""
    return RawDataset(root, opened(RawShard, hz=hz), hz, robot)
