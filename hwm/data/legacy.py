"""The 1X v1.1 release: one grid of image tokens per frame, with recorded actions (reference A.2; 1xgpt README)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hwm.clock import Clock
from hwm.robot import EVE, Embodiment
from hwm.work.files import check_size, map_array, read_count, read_json, read_rows, write_array, write_json

FACTOR = 512
"""A token id is `f1 * 512 + f0`: two factors of 9 bits."""

EACH_FRAME = Clock(stride=1, block=1)

PLAIN_ACTIONS = ("joint_pos", "l_hand_closure", "r_hand_closure", "driving_command")
WIDTHS = {"joint_pos": 21, "driving_command": 2, "l_hand_closure": 1, "r_hand_closure": 1}


def split_factors(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors (f0, f1), each in [0, 512), of v1.1 token ids."""
    tokens = np.asarray(tokens)
    return tokens % FACTOR, tokens // FACTOR % FACTOR


def join_factors(f0: np.ndarray, f1: np.ndarray) -> np.ndarray:
    """Token ids of two factors."""
    return np.asarray(f1) * FACTOR + np.asarray(f0)


@dataclass(frozen=True)
class LegacyShard:
    """The whole of a v1.1 dataset, which is one shard of N frames."""

    root: Path
    num_frames: int
    grid: tuple[int, int]
    vocab_size: int
    dtype: str
    index: int = 0

    @property
    def video_path(self) -> Path:
        return self.root / "video.bin"

    @property
    def segments_path(self) -> Path:
        return self.root / "segment_ids.bin"

    @cached_property
    def tokens(self) -> np.ndarray:
        """Token grids (N, H, W), memory map."""
        shape = (self.num_frames, *self.grid)
        return map_array(self.video_path, self.dtype, shape, f"{shape} {self.dtype} tokens by metadata.json")

    @cached_property
    def segments(self) -> np.ndarray:
        """Segment ids (N,), int32 memory map, non-decreasing."""
        return map_array(self.segments_path, "<i4", (self.num_frames,), f"{self.num_frames} frames by metadata.json")

    @cached_property
    def actions(self) -> dict[str, np.ndarray]:
        """Every file of actions/, float32 memory maps (N, width); the width follows from the file's size."""
        files = sorted((self.root / "actions").glob("*.bin"))
        return {path.stem: self._action(path) for path in files}

    def _action(self, path: Path) -> np.ndarray:
        row, size = 4 * self.num_frames, path.stat().st_size
        width = WIDTHS.get(path.stem, max(1, round(size / row)))
        return map_array(path, "<f4", (self.num_frames, width), f"{self.num_frames} rows of width {width}")

    def read_tokens(self, block: int, num_blocks: int = 1, stride: int = 1) -> np.ndarray:
        """Grids (num_blocks, H, W) int64, one every `stride` frames.  Raises ValueError for an id out of range."""
        tokens = read_rows(self.tokens, block, block + num_blocks * stride)[::stride].astype(np.int64)
        if tokens.max() >= self.vocab_size:
            fault = f"id {tokens.max()} after frame {block} is outside a vocabulary of {self.vocab_size}"
            raise ValueError(f"{self.video_path}: {fault}; fetch it again")
        return tokens

    def read_states(self, rows: np.ndarray) -> np.ndarray:
        """The actions in the order of the v2.0 state vector, (len(rows), 25) float32; velocities are commands."""
        missing = [name for name in PLAIN_ACTIONS if name not in self.actions]
        if missing:
            raise ValueError(f"{self.root / 'actions' / missing[0]}.bin: no such file; fetch the missing actions")
        states = np.concatenate([self.actions[name][rows] for name in PLAIN_ACTIONS], axis=1)
        if not np.isfinite(states).all():
            raise ValueError(f"{self.root / 'actions'}: rows near {int(rows[0])} are not finite; repair the actions")
        return states


@dataclass(frozen=True)
class LegacyTokenDataset:
    """A v1.1 dataset: tokens (N, 16, 16) of a per-frame tokenizer, vocabulary 2^18 = 512 * 512."""

    root: Path
    shards: tuple[LegacyShard]
    hz: int
    grid: tuple[int, int]
    vocab_size: int
    clock: Clock = EACH_FRAME
    tokenizer: None = None
    robot: Embodiment = EVE

    @property
    def num_frames(self) -> int:
        return self.shards[0].num_frames

    @property
    def tokens(self) -> np.ndarray:
        return self.shards[0].tokens

    @property
    def segments(self) -> np.ndarray:
        return self.shards[0].segments

    @property
    def actions(self) -> dict[str, np.ndarray]:
        return self.shards[0].actions


def is_legacy(root: Path) -> bool:
    """Whether the folder looks like v1.1: a single video.bin."""
    return (root / "video.bin").is_file() or (root / "segment_ids.bin").is_file()


def open_legacy(root: Path) -> LegacyTokenDataset:
    """Open a v1.1 dataset.  Raises ValueError naming file, expectation and remedy."""
    path = root / "metadata.json"
    table = read_json(path)
    num_frames, hz, vocab_size = (read_count(table, key, path) for key in ("num_images", "hz", "vocab_size"))
    grid = (read_count(table, "h", path), read_count(table, "w", path))
    dtype = {"uint32": "<u4", "uint16": "<u2"}.get(str(table.get("token_dtype")))
    if dtype is None:
        raise ValueError(f"{path}: token_dtype must be uint32 or uint16, found {table.get('token_dtype')!r}")
    shard = LegacyShard(root, num_frames, grid, vocab_size, dtype)
    for file, width in ((shard.video_path, grid[0] * grid[1] * int(dtype[2])), (shard.segments_path, 4)):
        if not file.is_file():
            raise ValueError(f"{file}: no such file; fetch the missing file")
        check_size(file, num_frames * width, f"{num_frames} frames by metadata.json")
    _ = shard.actions
    return LegacyTokenDataset(root, (shard,), hz, grid, vocab_size)


def write_legacy(
    root: str | Path, *, tokens_NHW: np.ndarray, segments: np.ndarray, actions: dict[str, np.ndarray], hz: int = 30
) -> None:
    """Write a v1.1 dataset: tokens (N, H, W) in [0, 2^18), segments (N,), actions by name, each (N, width)."""
    root, (num_frames, height, width) = Path(root), tokens_NHW.shape
    if tokens_NHW.min() < 0 or tokens_NHW.max() >= FACTOR**2:
        raise ValueError(f"{root}: v1.1 tokens lie in [0, {FACTOR**2}), got up to {tokens_NHW.max()}")
    if len(segments) != num_frames or any(len(rows) != num_frames for rows in actions.values()):
        raise ValueError(f"{root}: tokens, segments and actions must all have {num_frames} rows")
    write_array(root / "video.bin", tokens_NHW, "<u4")
    write_array(root / "segment_ids.bin", segments, "<i4")
    for name, rows in actions.items():
        write_array(root / "actions" / f"{name}.bin", rows, "<f4")
    shape = {"s": height, "h": height, "w": width}
    write_json(
        root / "metadata.json",
        {"token_dtype": "uint32", **shape, "vocab_size": FACTOR**2, "hz": hz, "num_images": num_frames},
    )
