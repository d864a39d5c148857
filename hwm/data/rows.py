"""What every shard has beside its pictures: one row of robot states and one segment id per frame (reference A.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hwm.data.files import check_size, map_array, read_rows


class ShardFault(ValueError):
    """A fault of one shard, for which a job may leave it out.

    shard: its number, None where the message's file tells.  frame: the first faulty frame, None where unknown.
    """

    def __init__(self, message: str, *, shard: int | None = None, frame: int | None = None) -> None:
        super().__init__(message)
        self.shard, self.frame = shard, frame


@dataclass(frozen=True)
class Shard:
    """One shard of video, tokens or latents (the file at `video_path`), with the states and segments of its frames."""

    index: int
    num_frames: int
    video_path: Path
    states_path: Path
    segments_path: Path
    state_dim: int

    @cached_property
    def states(self) -> np.ndarray:
        """Robot states (F, A), float32 memory map, one row per frame."""
        return map_array(self.states_path, "<f4", (self.num_frames, self.state_dim), self._rows)

    @cached_property
    def segments(self) -> np.ndarray:
        """Segment ids (F,), int32 memory map, non-decreasing."""
        return map_array(self.segments_path, "<i4", (self.num_frames,), self._rows)

    def read_states(self, rows: np.ndarray) -> np.ndarray:
        """States (len(rows), A) float32 of the given frames, in rising order.  Raises ValueError where a state is not finite."""
        states = read_rows(self.states, int(rows[0]), int(rows[-1]) + 1)[np.asarray(rows) - int(rows[0])]
        if not np.isfinite(states).all():
            row = int(np.asarray(rows)[np.nonzero(~np.isfinite(states))[0][0]])
            raise ShardFault(f"{self.states_path}: row {row} is not finite; repair or drop this shard", frame=row)
        return states

    @property
    def _rows(self) -> str:
        return f"{self.num_frames} frames by the shard's metadata, state width {self.state_dim}"

    def check_sizes(self) -> None:
        """Raise ValueError unless every file has exactly the size that the frame count asks for."""
        check_size(self.states_path, self.num_frames * self.state_dim * 4, self._rows)
        check_size(self.segments_path, self.num_frames * 4, self._rows)
