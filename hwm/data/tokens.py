"""Datasets of tokens in 1X's v2.0 layout: whole blocks of frames, encoded together (reference A.3; 1X dataset cards)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwm.clock import Clock
from hwm.contracts import Kind
from hwm.data.dataset import CACHE_CLIPS, Dataset, Decoder, Finding, Shard, first_row, last_picture
from hwm.data.layout import read_tokenizer_info, token_geometry
from hwm.data.windows import Window, count_usable, evenly
from hwm.robot import Embodiment
from hwm.work.files import check_size, map_array, read_rows


@dataclass(frozen=True)
class TokenShard(Shard):
    """One shard of tokens; block b covers frames `clock.block` * b onwards, the last block may be padded."""

    grid: tuple[int, int]
    vocab_size: int
    clock: Clock
    dtype: str = "<i4"

    @cached_property
    def tokens(self) -> np.ndarray:
        """Token grids (N_blocks, T, H, W), memory map, the padded last block included."""
        return map_array(self.video_path, self.dtype, self._shape, self._meaning)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.clock.stored_blocks(self.num_frames), self.clock.grids, *self.grid

    @property
    def _meaning(self) -> str:
        return f"{self._shape} int32 tokens"

    @property
    def num_clips(self) -> int:
        """Blocks inside one segment."""
        return count_usable(self.segments, self.clock)

    def read(self, start: int, frames: int) -> np.ndarray:
        """Grids (T, H, W) int64 of whole blocks.  Raises ValueError for an id outside the vocabulary."""
        block = start // self.clock.block
        rows = read_rows(self.tokens, block, block + frames // self.clock.block)
        tokens = rows.astype(np.int64).reshape(-1, *self.grid)
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            found = tokens.max() if tokens.max() >= self.vocab_size else tokens.min()
            limit = f"a vocabulary of {self.vocab_size}"
            raise ValueError(f"{self.video_path}: block {block} holds id {found}, outside {limit}; tokenize it again")
        return tokens

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        step = self.clock.block
        blocks = (self.read(b * step, step) for b in evenly(count, max(1, self.clock.num_blocks(self.num_frames))))
        return [token_picture(tokens_THW, tokenizer) for tokens_THW in blocks]

    def check_pictures(self) -> Iterator[Finding]:
        whole = self.clock.num_blocks(self.num_frames)  # what pads the last block is nobody's
        row = first_row(self.tokens, lambda part: (part < 0) | (part >= self.vocab_size), count=whole)
        if row is not None:
            ids = read_rows(self.tokens, row, row + 1)
            found = ids.max() if ids.max() >= self.vocab_size else ids.min()
            fault = f"id {found} outside 0..{self.vocab_size - 1}, first in row {row}; tokenize or fetch it again"
            yield Finding("error", str(self.video_path), fault)

    def check_sizes(self) -> None:
        super().check_sizes()
        check_size(self.video_path, 4 * math.prod(self._shape), self._meaning)


@dataclass(frozen=True)
class TokenDataset(Dataset):
    """A v2.0 dataset of tokens; without a tokenizer's sidecar it is of 1X's own, by Cosmos."""

    kind: ClassVar[Kind] = "tokens"

    root: Path
    shards: tuple[TokenShard, ...]
    hz: int
    robot: Embodiment
    grid: tuple[int, int]
    vocab_size: int
    clock: Clock
    tokenizer: dict | None = None

    def sizes(self) -> dict[str, Any]:
        return {"grid": self.grid, "vocab_size": self.vocab_size}

    def expect_window(self, window: Window) -> None:
        if window == "sampling":
            raise ValueError(f"{self.root}: holds tokens; sampling clips are cached as latents: {CACHE_CLIPS}")
        if window == "frames":
            raise ValueError(f"{self.root}: v1.1 gives clips of kind 'frames', v2.0 tokens of blocks; got {window!r}")

    def check(self) -> Iterator[Finding]:
        if self.tokenizer is None:
            fault = f"no tokenizer.json: taken as Cosmos tokens, {self.grid}, {self.vocab_size} ids"
            yield Finding("note", str(self.root), fault)


def open_tokens(root: Path, opened: Callable[..., tuple[Any, ...]], *, hz: int, robot: Embodiment) -> TokenDataset:
    """The dataset at `root`; `opened` makes its shards, given their class and what all have in common."""
    info = read_tokenizer_info(root)
    grid, vocab_size, clock = token_geometry(info, root)
    shards = opened(TokenShard, grid=grid, vocab_size=vocab_size, clock=clock)
    return TokenDataset(root, shards, hz, robot, grid, vocab_size, clock, info)


def token_picture(tokens_THW: np.ndarray, tokenizer: Decoder | None) -> np.ndarray:
    """The last frame of a block, uint8 (H, W, 3): decoded, or of its last grid every id in a colour of its own."""
    if tokenizer is not None:
        return last_picture(tokens_THW, tokenizer)
    # Multiplicative hashing spreads neighbouring ids over all colours.
    mixed = (tokens_THW[-1].astype(np.uint64) * np.uint64(2654435761)) >> np.uint64(8)
    return np.stack([(mixed >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
