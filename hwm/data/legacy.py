"""The 1X v1.1 release: one grid of image tokens per frame, with recorded actions (reference A.2; 1xgpt README)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwm.clock import EACH_FRAME, LEGACY_FRAMES, LEGACY_STRIDE
from hwm.data.dataset import Finding, check_rows
from hwm.data.tokens import TokenDataset, TokenShard
from hwm.data.windows import Window
from hwm.robot import EVE
from hwm.safe_load.paths import reading
from hwm.work.files import check_size, map_array, read_count, read_json

WIDTHS = {"joint_pos": 21, "l_hand_closure": 1, "r_hand_closure": 1, "driving_command": 2}
"""The actions that make up the v2.0 state vector, in its order, and the width of each."""


@dataclass(frozen=True)
class LegacyShard(TokenShard):
    """The whole of a v1.1 dataset, which is one shard of N frames; a block is a frame."""

    @cached_property
    def actions(self) -> dict[str, np.ndarray]:
        """Every file of actions/, float32 memory maps (N, width); the width follows from the file's size."""
        return {path.stem: self._action(path) for path in sorted(self.states_path.glob("*.bin"))}

    def _action(self, path: Path) -> np.ndarray:
        with reading(path):
            row, size = 4 * self.num_frames, path.stat().st_size
        width = WIDTHS.get(path.stem, max(1, round(size / row)))
        return map_array(path, "<f4", (self.num_frames, width), f"{self.num_frames} rows of width {width}")

    @property
    def files(self) -> list[Path]:
        actions = (self.states_path / f"{name}.bin" for name in WIDTHS)
        return [self.video_path, self.segments_path, *(path for path in actions if path.is_file())]

    @property
    def _rows(self) -> str:
        return f"{self.num_frames} frames by metadata.json"

    @property
    def _meaning(self) -> str:
        return f"{self._shape} {self.dtype} tokens by metadata.json"

    def read_states(self, rows: np.ndarray) -> np.ndarray:
        """The actions in the order of the v2.0 state vector, (len(rows), 25) float32; velocities are commands."""
        missing = [name for name in WIDTHS if name not in self.actions]
        if missing:
            raise ValueError(f"{self.states_path / missing[0]}.bin: no such file; fetch the missing actions")
        states = np.concatenate([self.actions[name][rows] for name in WIDTHS], axis=1)
        if not np.isfinite(states).all():
            raise ValueError(f"{self.states_path}: rows near {int(rows[0])} are not finite; repair the actions")
        return states

    def check_states(self) -> Iterator[Finding]:
        for name, rows in self.actions.items():
            yield from check_rows(self.states_path / f"{name}.bin", rows)

    def check_sizes(self) -> None:
        for file, width in ((self.video_path, self.grid[0] * self.grid[1] * int(self.dtype[2])), (self.segments_path, 4)):
            if not file.is_file():
                raise ValueError(f"{file}: no such file; fetch the missing file")
            check_size(file, self.num_frames * width, self._rows)
        _ = self.actions


@dataclass(frozen=True)
class LegacyDataset(TokenDataset):
    """A v1.1 dataset: tokens (N, 1, 16, 16) of a per-frame tokenizer, vocabulary 2^18 = 512 * 512."""

    def expect_window(self, window: Window) -> None:
        if window == "sampling":
            super().expect_window(window)
        if window != "frames":
            raise ValueError(f"{self.root}: v1.1 gives clips of kind 'frames', v2.0 tokens of blocks; got {window!r}")

    def windows(self) -> dict[str, dict[str, Any]]:
        window = {"kind": "frames", "length": LEGACY_FRAMES, "stride": LEGACY_STRIDE}
        return {"windows_16x15": {**window, "overlap": True}, "windows_16x15_apart": {**window, "overlap": False}}

    def check(self) -> Iterator[Finding]:
        yield from ()


def is_legacy(root: Path) -> bool:
    """Whether the folder looks like v1.1: a single video.bin."""
    return (root / "video.bin").is_file() or (root / "segment_ids.bin").is_file()


def open_legacy(root: Path) -> LegacyDataset:
    """Open a v1.1 dataset.  Raises ValueError naming file, expectation and remedy."""
    path = root / "metadata.json"
    table = read_json(path)
    num_frames, hz, vocab_size = (read_count(table, key, path) for key in ("num_images", "hz", "vocab_size"))
    grid = (read_count(table, "h", path), read_count(table, "w", path))
    dtype = {"uint32": "<u4", "uint16": "<u2"}.get(str(table.get("token_dtype")))
    if dtype is None:
        raise ValueError(f"{path}: token_dtype must be uint32 or uint16, found {table.get('token_dtype')!r}")
    files = (root / "video.bin", root / "actions", root / "segment_ids.bin")
    shard = LegacyShard(root, 0, num_frames, *files, EVE, grid, vocab_size, EACH_FRAME, dtype)
    shard.check_sizes()
    return LegacyDataset(root, (shard,), hz, EVE, grid, vocab_size, EACH_FRAME)
