"""Which clips a dataset holds: every window of frames inside one segment of one shard, found without a loop over them.

Segment ids never decrease within a shard, so a window lies in one segment exactly when its first and last frame
do (1xgpt README; reference A.2 and A.3, rule 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwm.clock import SAMPLING_FRAMES, Clock
from hwm.work.files import expect_rows, read_rows

Window = Literal["blocks", "block_pairs", "frames", "sampling", "motion"]


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
        cls, dataset: Any, *, kind: Window, overlap: bool, length: int = 0, stride: int = 1, every: int = 1, aligned: bool = True,
    ) -> ClipIndex:  # fmt: skip
        """Find the clips of an open dataset.

        kind: "blocks" are single blocks of `dataset.clock.block` frames, "block_pairs" two consecutive ones (the
        compression clip), "frames" and "motion" are `length` frames, one every `stride`, from any frame that is a multiple of
        `every`, "sampling" are 77 consecutive ones, or `length` of them if that is more, from such a frame.
        aligned: blocks start at multiples of the block length, as tokens demand; False, for raw video only: anywhere.
        overlap: whether clips may share frames.  Without, aligned clips lie on a fixed lattice from the start of the shard, pairs
        being blocks (0, 1), (2, 3), ...: this rule gives the 306 000 training pairs of the Revontuli report (reference F row 5; a
        greedy choice per segment would give 312 000).  Other clips use each frame of a segment at most once, from its first frame
        that is a multiple of `every`, as `filter_overlaps` of 1xgpt does.
        Raises ValueError when no clip fits, naming the dataset, or when segment ids decrease, naming the file.
        """
        block = dataset.clock.block
        in_blocks = kind in ("blocks", "block_pairs")
        if kind == "sampling":
            length, stride = max(length, SAMPLING_FRAMES), 1
        elif in_blocks:
            length, stride = block * (2 if kind == "block_pairs" else 1), 1
        if min(length, stride, every) < 1:
            raise ValueError(f"clips need length, stride and every of at least 1, got {length}, {stride}, {every}")
        on_lattice = in_blocks and aligned
        step = (block if overlap else length) if on_lattice else (1 if in_blocks else every)
        spread = 0 if overlap or on_lattice else length * stride
        span = (length - 1) * stride
        parts = []
        for shard in dataset.shards:
            segments = np.asarray(read_rows(shard.segments, 0, shard.num_frames))
            options = {"span": span, "step": step, "spread": spread, "stride": stride}
            parts.append(_starts(segments, shard.segments_path, **options))
        sizes = [len(part) for part in parts]
        if not sum(sizes):
            need = f"no clip of {span + 1} frames fits into any segment"
            raise ValueError(f"{dataset.root}: {need}; use shorter clips or more data")
        position = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
        return cls(position, np.concatenate(parts), length, stride)


def sampling_starts(segments: np.ndarray, *, every: int, path: Path) -> np.ndarray:
    """First frames, int32 (N,), of all sampling clips: multiples of `every` whose 77 frames lie in one segment.

    segments: ids of all frames of a shard, read from the file `path`, which is named when they decrease.
    """
    return _starts(segments, path, span=SAMPLING_FRAMES - 1, step=every)


def _starts(segments: np.ndarray, path: Path, *, span: int, step: int, spread: int = 0, stride: int = 1) -> np.ndarray:
    """First frames of the valid windows of one shard, int32.

    spread: 0, or frames over which the windows from one segment start are spread so that they share no frame.
    """
    boundaries = check_segments(segments, path)
    starts = np.arange(0, max(0, len(segments) - span), step, dtype=np.int32)
    starts = starts[segments[starts] == segments[starts + span]]
    if spread:
        # Interleaved windows of one run of `spread` frames start at its first `stride` frames; the next run follows.
        # Runs begin where a window may begin.
        first = np.concatenate([[0], boundaries])[np.searchsorted(boundaries, starts, side="right")]
        starts = starts[(starts - _round_up(first, step)) % _round_up(spread, step) < stride]
    return starts


def _round_up(value: Any, step: int) -> Any:
    return -(-value // step) * step


def check_segments(segments: np.ndarray, path: Path) -> np.ndarray:
    """First frames of all segments but the first.  Raises ValueError, naming the file, when ids decrease."""
    change = np.flatnonzero(segments[1:] != segments[:-1]) + 1
    falling = change[segments[change] < segments[change - 1]]
    if len(falling):
        at = int(falling[0])
        fall = f"segment id falls from {segments[at - 1]} to {segments[at]} at frame {at}"
        raise ValueError(f"{path}: {fall}; ids must not decrease: renumber them in order")
    return change


def usable_blocks(segments: np.ndarray, clock: Clock) -> np.ndarray:
    """Which stored blocks a clip may use, bool (N,): whole ones, all frames in one segment."""
    usable = np.zeros(clock.stored_blocks(len(segments)), dtype=bool)
    first = np.arange(clock.num_blocks(len(segments))) * clock.block
    usable[: len(first)] = segments[first] == segments[first + clock.block - 1]
    return usable


def count_usable(segments: np.ndarray, clock: Clock) -> int:
    """How many usable blocks a shard has."""
    return int(usable_blocks(np.asarray(expect_rows(segments)), clock).sum())


def evenly(count: int, total: int) -> np.ndarray:
    """`count` numbers, int64, evenly spread over 0..total-1 from 0 on; all of them when there are fewer."""
    count = min(count, total)
    return np.arange(count, dtype=np.int64) * total // max(1, count)


def segment_end(segments: np.ndarray, frame: int) -> int:
    """One past the last frame of the segment that holds `frame`."""
    expect_rows(segments)
    return int(np.searchsorted(segments, segments[frame], side="right"))


def state_rows(segments: np.ndarray, start: int, num_states: int) -> np.ndarray:
    """`num_states` consecutive rows from `start`; past the end of the segment its last row is repeated (F row 3)."""
    return np.minimum(np.arange(start, start + num_states), segment_end(segments, start) - 1)
