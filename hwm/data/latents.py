"""Datasets of cached latents of a continuous tokenizer: shards of float16 rows and the statistics that normalise them (ours).

Layout as for tokens (reference A.3), with `latents/latents_{i}.bin` instead of videos, and the files of `moments`.
A row is a block, or, of a tokenizer by Wan's clock, a sampling clip: 77 frames, of which every fourth and the last are
encoded (`clock.subsample`).  Each such clip is encoded by itself, as shifted windows share no latents (reference wan 1);
`clip_starts/clip_starts_{i}.bin` holds the first frame of every row, int32.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwm.clock import SAMPLING_FRAMES, Clock
from hwm.contracts import Kind
from hwm.data import layout
from hwm.data.dataset import CACHE_CLIPS, Dataset, Decoder, Finding, Shard, first_row, last_picture, raised
from hwm.data.layout import clip_hop, latent_geometry, read_tokenizer_info
from hwm.data.moments import LatentStatistics, read_statistics
from hwm.data.windows import Window, count_usable, evenly, sampling_starts
from hwm.robot import Embodiment
from hwm.work.files import check_size, expect_rows, map_array, read_rows


@dataclass(frozen=True)
class LatentShard(Shard):
    """One shard of latents, one row per block or per sampling clip.

    Block b covers frames `clock.block` * b onwards, the last block may be padded.
    every: first frames of sampling clips are multiples of it; 0: rows are blocks.
    """

    grid: tuple[int, int]
    channels: int
    clock: Clock
    every: int = 0

    @cached_property
    def starts_path(self) -> Path | None:
        """The file of their first frames, None where rows are blocks."""
        return layout.CLIP_STARTS.find(self.root, self.index) if self.every else None

    @cached_property
    def latents(self) -> np.ndarray:
        """Latents (N, T, C, H, W), float16 memory map of all rows, a padded last block included."""
        return _map_rows(self.video_path, "<f2", self._shape, f"{self._shape} float16 latents")

    @cached_property
    def starts(self) -> np.ndarray:
        """First frame of every stored clip, int32 (N,)."""
        assert self.starts_path is not None
        return _map_rows(self.starts_path, "<i4", (self.num_rows,), "one int32 per clip")

    @cached_property
    def num_rows(self) -> int:
        """Rows on disk: of clips as many as have a first frame."""
        if self.starts_path is None:
            return self.clock.stored_blocks(self.num_frames)
        return self.starts_path.stat().st_size // 4

    @property
    def files(self) -> list[Path]:
        return [*super().files, *([self.starts_path] if self.starts_path else [])]

    @property
    def row_name(self) -> str:
        """What a row is, for messages."""
        return "clip" if self.every else "block"

    @property
    def _shape(self) -> tuple[int, int, int, int, int]:
        return self.num_rows, self.clock.grids, self.channels, *self.grid

    @property
    def num_clips(self) -> int:
        """Stored clips, or blocks inside one segment."""
        return self.num_rows if self.every else count_usable(self.segments, self.clock)

    def read(self, start: int, frames: int) -> np.ndarray:
        """Latents (T, C, H, W) float32 of whole blocks, or of the stored clip that starts there.

        Raises ValueError for a value that is not finite, and for clips other than the stored ones.
        """
        if not self.every:
            block = start // self.clock.block
            return self._rows_of(block, block + frames // self.clock.block)
        row = int(np.searchsorted(expect_rows(self.starts), start))
        if frames != SAMPLING_FRAMES or row == self.num_rows or self.starts[row] != start:
            raise ValueError(f"{self.video_path}: its rows are sampling clips, not blocks; read them as such")
        return self._rows_of(row, row + 1)

    def _rows_of(self, first: int, stop: int) -> np.ndarray:
        latents = read_rows(self.latents, first, stop).astype(np.float32)
        if not np.isfinite(latents).all():
            fault = f"{self.row_name} {first} holds a value that is not finite"
            raise ValueError(f"{self.video_path}: {fault}; tokenize it again")
        return latents.reshape(-1, *self._shape[2:])

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        rows = self.num_rows if self.every else max(1, self.clock.num_blocks(self.num_frames))
        latents = (self._rows_of(row, row + 1) for row in evenly(count, rows))
        if tokenizer is not None:
            return [last_picture(latents_TCHW, tokenizer) for latents_TCHW in latents]
        known = read_statistics(self.root, channels=self.channels)
        mean, std = known.mean_C[:, None, None], np.maximum(known.std_C, 1e-12)[:, None, None]
        three = (np.resize((latents_TCHW[-1] - mean) / std, (3, *self.grid)) for latents_TCHW in latents)
        return [np.moveaxis(np.clip(128 + 48 * rgb, 0, 255), 0, -1).astype(np.uint8) for rgb in three]

    def check_pictures(self) -> Iterator[Finding]:
        whole = self.num_rows if self.every else self.clock.num_blocks(self.num_frames)
        row = first_row(self.latents, lambda part: ~np.isfinite(part), count=whole)
        if row is not None:
            fault = f"{self.row_name} {row} holds a value that is not finite; tokenize it again"
            yield Finding("error", str(self.video_path), fault)

    def check_sizes(self) -> None:
        super().check_sizes()
        if self.starts_path is not None:
            check_size(self.starts_path, 4 * self.num_rows, "whole int32 numbers")
        check_size(self.video_path, 2 * math.prod(self._shape), f"{self._shape} float16 latents")

    def check_segments(self) -> None:
        super().check_segments()
        self.check_starts()

    def check_starts(self) -> None:
        """Raise ValueError unless the stored first frames are those that the segments allow, in order."""
        if self.starts_path is None:
            return
        segments = np.asarray(read_rows(self.segments, 0, self.num_frames))
        if not np.array_equal(expect_rows(self.starts), sampling_starts(segments, every=self.every, path=self.segments_path)):
            fault = f"not the first frames of all clips at multiples of {self.every} in {self.segments_path.name}"
            raise ValueError(f"{self.starts_path}: {fault}; tokenize this shard again")


def _map_rows(path: Path, dtype: str, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """`map_array`, also of no rows at all: an empty file cannot be mapped."""
    return map_array(path, dtype, shape, meaning) if shape[0] else np.zeros(shape, dtype)


@dataclass(frozen=True)
class LatentDataset(Dataset):
    """A dataset of latents.  every: see LatentShard."""

    kind: ClassVar[Kind] = "latents"

    root: Path
    shards: tuple[LatentShard, ...]
    hz: int
    robot: Embodiment
    grid: tuple[int, int]
    channels: int
    clock: Clock
    tokenizer: dict | None
    every: int = 0

    @cached_property
    def statistics(self) -> LatentStatistics:
        """What normalises these latents.  Raises ValueError, naming the file, when it is missing or damaged."""
        return read_statistics(self.root, channels=self.channels)

    def described_in(self) -> list[Path]:
        return [self.root / "statistics.json"]

    def sizes(self) -> dict[str, Any]:
        return {"grid": self.grid, "channels": self.channels}

    def expect_window(self, window: Window) -> None:
        if self.every and window != "sampling":
            remedy = "use clips of kind 'sampling', or tokenize with a tokenizer of blocks, such as continuous-8x8x8"
            raise ValueError(f"{self.root}: holds latents of sampling clips, not of blocks: {remedy}")
        if window == "sampling" and not self.every:
            raise ValueError(f"{self.root}: holds latents of blocks, not of sampling clips: {CACHE_CLIPS}")
        if window == "frames":
            raise ValueError(f"{self.root}: latents come in blocks; use clips of kind 'blocks' or 'block_pairs'")
        for shard in self.shards:
            shard.check_starts()

    def windows(self) -> dict[str, dict[str, Any]]:
        if not self.every:
            return super().windows()
        window = {"kind": "sampling", "every": self.every}
        return {"sampling_77": {**window, "overlap": True}, "sampling_77_apart": {**window, "overlap": False}}

    def facts(self) -> dict[str, Any]:
        """Also the range of the channels' means and deviations, and how much of a deviation is change from grid to grid."""
        known = self.statistics
        spread = {"smallest_mean": known.mean_C.min(), "largest_mean": known.mean_C.max()}
        spread |= {"smallest_std": known.std_C.min(), "largest_std": known.std_C.max()}
        spread |= {"change_per_std": known.change_std_C.mean() / max(known.std_C.mean(), 1e-12)}
        return super().facts() | {"latents": {name: float(value) for name, value in spread.items()}}

    def check(self) -> Iterator[Finding]:
        yield from raised(lambda: self.statistics)


def open_latents(root: Path, opened: Callable[..., tuple[Any, ...]], *, hz: int, robot: Embodiment) -> LatentDataset:
    """As `tokens.open_tokens`."""
    info = read_tokenizer_info(root)
    grid, channels, clock = latent_geometry(info, root)
    every = clip_hop(info or {}, root)
    shards = opened(LatentShard, grid=grid, channels=channels, clock=clock, every=every)
    return LatentDataset(root, shards, hz, robot, grid, channels, clock, info or {}, every)
