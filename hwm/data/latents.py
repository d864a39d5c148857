"""Cached latents of a continuous tokenizer: shards of float16 blocks with the statistics that normalise them (ours).

Layout as for tokens (reference A.3), with `latents/latents_{i}.bin` instead of videos, and two files of statistics:
`statistics/statistics_{i}.json` holds the moments of one shard, `statistics.json` what follows from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hwm.clock import Clock
from hwm.data import layout
from hwm.data.files import check_size, map_array, read_json, read_rows, write_json
from hwm.data.moments import Moments, vector
from hwm.data.rows import Shard
from hwm.robot import Embodiment

MOMENT_BLOCKS = 64
"""Blocks whose moments are taken at once."""


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel mean and standard deviation of latents, and of their change from one grid to the next of a block.

    float64 (C,) each, in the latents' own units.
    """

    mean_C: np.ndarray
    std_C: np.ndarray
    change_mean_C: np.ndarray
    change_std_C: np.ndarray


@dataclass(frozen=True)
class LatentShard(Shard):
    """One shard of latents; block b covers frames `clock.block` * b onwards, the last block may be padded."""

    grid: tuple[int, int]
    channels: int
    clock: Clock

    @cached_property
    def latents(self) -> np.ndarray:
        """Latents (N_blocks, T, C, H, W), float16 memory map, the padded last block included."""
        return map_array(self.video_path, "<f2", self._shape, f"{self._shape} float16 latents")

    @property
    def _shape(self) -> tuple[int, int, int, int, int]:
        return self.clock.stored_blocks(self.num_frames), self.clock.grids, self.channels, *self.grid

    def read_latents(self, block: int, num_blocks: int = 1) -> np.ndarray:
        """Latents (num_blocks * T, C, H, W) float32.  Raises ValueError for a value that is not finite."""
        latents = read_rows(self.latents, block, block + num_blocks).astype(np.float32)
        if not np.isfinite(latents).all():
            raise ValueError(f"{self.video_path}: block {block} holds a value that is not finite; tokenize it again")
        return latents.reshape(-1, self.channels, *self.grid)

    def check_sizes(self) -> None:
        super().check_sizes()
        check_size(self.video_path, 2 * int(np.prod(self._shape)), f"{self._shape} float16 latents")


@dataclass(frozen=True)
class LatentDataset:
    """A dataset of latents.  tokenizer: what the sidecar says about their maker."""

    root: Path
    shards: tuple[LatentShard, ...]
    hz: int
    grid: tuple[int, int]
    channels: int
    clock: Clock
    tokenizer: dict
    robot: Embodiment

    @property
    def num_frames(self) -> int:
        return sum(shard.num_frames for shard in self.shards)

    @cached_property
    def statistics(self) -> LatentStatistics:
        """What normalises these latents.  Raises ValueError, naming the file, when it is missing or damaged."""
        return read_statistics(self.root, channels=self.channels)


def moments_of_blocks(latents_NTCHW: np.ndarray, *, usable: np.ndarray) -> dict[str, Moments]:
    """Moments of the "latents" and of the "changes" from grid to grid in the `usable` blocks, bool (N,).

    Taken of the values as stored (float16), a fixed number of blocks at a time: the same for the same shard always.
    """
    channels = latents_NTCHW.shape[2]
    found = {"latents": Moments.none(channels), "changes": Moments.none(channels)}
    chosen = np.flatnonzero(usable)
    for first in range(0, len(chosen), MOMENT_BLOCKS):
        part = latents_NTCHW[chosen[first : first + MOMENT_BLOCKS]].astype(np.float64)
        for name, values in (("latents", part), ("changes", np.diff(part, axis=1))):
            if values.size:  # blocks of one grid have no changes
                found[name] = found[name].merged(Moments.of(np.moveaxis(values, 2, -1).reshape(-1, channels)))
    return found


def usable_blocks(segments: np.ndarray, clock: Clock) -> np.ndarray:
    """Which stored blocks a clip may use, bool (N,): whole ones, all frames in one segment."""
    usable = np.zeros(clock.stored_blocks(len(segments)), dtype=bool)
    first = np.arange(clock.num_blocks(len(segments))) * clock.block
    usable[: len(first)] = segments[first] == segments[first + clock.block - 1]
    return usable


def write_statistics(root: str | Path, *, channels: int) -> None:
    """Write `statistics.json` from the moments of all shards; call it once, after the last shard.

    Raises ValueError when no shard has a whole block inside one segment.
    """
    root = Path(root)
    totals = {"latents": Moments.none(channels), "changes": Moments.none(channels)}
    for index in layout.MOMENTS.indices(root):  # in order: floating-point sums depend on it
        path = layout.MOMENTS.find(root, index)
        table = read_json(path)
        for name in totals:
            try:
                totals[name] = totals[name].merged(Moments.from_json(table.get(name), width=channels))
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}; delete this shard and tokenize again") from None
    if not totals["changes"].count:
        raise ValueError(f"{root}: no block of whole grids inside one segment, so nothing to learn from; use more data")
    latents, changes = totals["latents"], totals["changes"]
    values = {"mean": latents.mean, "std": latents.std, "change_mean": changes.mean, "change_std": changes.std}
    write_json(root / "statistics.json", {name: value.tolist() for name, value in values.items()})


def read_statistics(root: Path, *, channels: int) -> LatentStatistics:
    """Read `statistics.json`.  Raises ValueError naming the file."""
    path = root / "statistics.json"
    table = read_json(path)
    found = {}
    for name in ("mean", "std", "change_mean", "change_std"):
        try:
            found[f"{name}_C"] = vector(table.get(name), width=channels)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}; tokenize again") from None
    if min(found["std_C"].min(), found["change_std_C"].min()) < 0:
        raise ValueError(f"{path}: a standard deviation is negative; tokenize again")
    return LatentStatistics(**found)
