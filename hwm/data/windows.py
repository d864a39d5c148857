"""Which clips a dataset holds: every window of frames inside one segment of one shard, found without a loop over them.

Segment ids never decrease within a shard, so a window lies in one segment exactly when its first and last frame
do (1xgpt README; reference A.2 and A.3, rule 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hwm.data.files import read_rows

Window = Literal["blocks", "block_pairs", "frames"]


class _Shard(Protocol):
    @property
    def num_frames(self) -> int: ...
    @property
    def segments(self) -> np.ndarray: ...
    @property
    def segments_path(self) -> Path: ...


@dataclass(frozen=True)
class ClipIndex:
    """Clips as (position of the shard in `dataset.shards`, first frame), both int32 (N,), in the order of the data."""

    shard: np.ndarray
    start: np.ndarray
    length: int
    stride: int

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def build(
        cls,
        dataset: Any,
        *,
        kind: Window,
        overlap: bool,
        length: int = 0,
        stride: int = 1,
        every: int = 1,
        aligned: bool = True,
    ) -> ClipIndex:
        """Find the clips of an open dataset.

        kind: "blocks" are single blocks of `dataset.clock.block` frames, "block_pairs" two consecutive ones (the
        compression clip), "frames" are `length` frames, one every `stride`, from any frame that is a multiple of
        `every`.  aligned: blocks start at multiples of the block length, as tokens demand; False, for raw video
        only, lets them start anywhere.
        overlap: whether clips may share frames.  Without, aligned clips lie on a fixed lattice from the start of
        the shard, pairs being blocks (0, 1), (2, 3), ...: this rule gives the 306 000 training pairs of the
        Revontuli report (reference F row 5; a greedy choice per segment would give 312 000).  Clips from any frame
        use each frame at most once, as `filter_overlaps` of 1xgpt does.
        Raises ValueError when no clip fits, naming the dataset, or when segment ids decrease, naming the file.
        """
        block = dataset.clock.block
        if kind != "frames":
            length, stride = block * (2 if kind == "block_pairs" else 1), 1
        if min(length, stride, every) < 1:
            raise ValueError(f"clips need length, stride and every of at least 1, got {length}, {stride}, {every}")
        on_lattice = kind != "frames" and aligned
        step = (block if overlap else length) if on_lattice else (every if kind == "frames" else 1)
        spread = 0 if overlap or on_lattice else length * stride
        span = (length - 1) * stride
        parts = [_starts(shard, span=span, step=step, spread=spread, stride=stride) for shard in dataset.shards]
        sizes = [len(part) for part in parts]
        if not sum(sizes):
            need = f"no clip of {span + 1} frames fits into any segment"
            raise ValueError(f"{dataset.root}: {need}; use shorter clips or more data")
        shard = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
        return cls(shard, np.concatenate(parts), length, stride)


def _starts(shard: _Shard, *, span: int, step: int, spread: int, stride: int) -> np.ndarray:
    """First frames of the valid windows of one shard, int32.

    spread: 0, or frames over which the windows from one segment start are spread so that they share no frame.
    """
    segments = np.asarray(read_rows(shard.segments, 0, shard.num_frames))
    boundaries = check_segments(segments, shard.segments_path)
    starts = np.arange(0, max(0, shard.num_frames - span), step, dtype=np.int32)
    starts = starts[segments[starts] == segments[starts + span]]
    if spread:
        # Interleaved windows of one run of `spread` frames start at its first `stride` frames; the next run follows.
        first = np.concatenate([[0], boundaries])[np.searchsorted(boundaries, starts, side="right")]
        starts = starts[(starts - first) % spread < stride]
    return starts


def check_segments(segments: np.ndarray, path: Path) -> np.ndarray:
    """First frames of all segments but the first.  Raises ValueError, naming the file, when ids decrease."""
    change = np.flatnonzero(segments[1:] != segments[:-1]) + 1
    falling = change[segments[change] < segments[change - 1]]
    if len(falling):
        at = int(falling[0])
        fall = f"segment id falls from {segments[at - 1]} to {segments[at]} at frame {at}"
        raise ValueError(f"{path}: {fall}; ids must not decrease: renumber them in order")
    return change


def segment_end(segments: np.ndarray, frame: int) -> int:
    """One past the last frame of the segment that holds `frame`."""
    return int(np.searchsorted(segments, segments[frame], side="right"))


def state_rows(segments: np.ndarray, start: int, num_states: int) -> np.ndarray:
    """`num_states` consecutive rows from `start`; past the end of the segment its last row is repeated (F row 3)."""
    return np.minimum(np.arange(start, start + num_states), segment_end(segments, start) - 1)
