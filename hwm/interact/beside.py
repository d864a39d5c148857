"""What really happens beside a dream: in the recording, while the robot does what it did there, or in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hwm.interact.world import World
from hwm.predict.last_frame import shrink


class Recording:
    """The recorded frames after a clip's context, whatever the robot is told to do.

    dataset: of video, or what the world's tokenizer made of it.
    """

    name = "recording"

    def __init__(self, world: World, dataset: Any) -> None:
        self._world, self._of_video = world, dataset.kind == "video"
        self._block: tuple[int, Any] = (-1, None)

    def begin(self, shard: Any, first: int, seen: int, end: int) -> np.ndarray:
        """Stand after the `seen` frames from `first` on, of a recording that goes to `end`; the last of them."""
        self._shard, self._first, self._at, self._left = shard, first, seen, end - first - seen
        self._block = (-1, None)
        return self._frames(seen - 1, 1)[0]

    def go(self, rows_FA: np.ndarray, follow: bool) -> np.ndarray:
        """The next frames, beside these states, uint8 (n, H, W, 3): as many as there are."""
        count = max(0, min(len(rows_FA), self._left))
        found = self._frames(self._at, count)
        self._at, self._left = self._at + count, self._left - count
        return found

    def same(self, follow: bool) -> bool:
        """Whether they show what the dream should: where it follows the recorded states."""
        return follow

    def close(self) -> None:
        """Nothing is held."""

    def _frames(self, start: int, count: int) -> np.ndarray:
        height, width = self._world.size
        if not count:
            return np.zeros((0, height, width, 3), np.uint8)
        if self._of_video:
            return _small(self._shard.read(self._first + start, count), self._world)
        coder: Any = self._world.tokenizer
        side, frames = coder.clock.block, []
        for block in range(start // side, (start + count - 1) // side + 1):
            if self._block[0] != block:
                grids = torch.from_numpy(self._shard.read(self._first + block * side, side))[None].to(self._world.device)
                with torch.inference_mode():
                    self._block = block, coder.decode(grids)[0].cpu().numpy()
            frames.append(self._block[1])
        return np.concatenate(frames)[start % side :][:count]


class Simulator:
    """The built-in simulator in the recording's own room and moment, told to do what the dream is told.

    While the dream follows recorded states it goes on as it did then; from the first command on it does what it is told, by
    physics: arms lag a little behind what is asked, and stop at tables.
    Raises ValueError for data that `hwm simulate` did not write, and where MuJoCo is not installed.
    """

    name = "simulator"

    def __init__(self, world: World, dataset: Any) -> None:
        from hwm.sim.again import Again

        self._world, self._again = world, Again(dataset.root)

    def begin(self, shard: Any, first: int, seen: int, end: int) -> np.ndarray:
        """As `Recording.begin`.  Raises ValueError where the recording does not come out the same here."""
        self._again.begin(shard, first + seen - 1)
        return self._picture()

    def go(self, rows_FA: np.ndarray, follow: bool) -> np.ndarray:
        """As `Recording.go`; there are always as many as rows."""
        frames = []
        for row_A in rows_FA:
            self._again.go_on() if follow else self._again.follow(row_A)
            frames.append(self._picture())
        return np.stack(frames)

    def same(self, follow: bool) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Give the camera back."""
        self._again.close()

    def _picture(self) -> np.ndarray:
        return _small(self._again.picture()[None], self._world)[0]


def _small(frames_FHWC: np.ndarray, world: World) -> np.ndarray:
    """In the world's size."""
    height, width = world.size
    return shrink(torch.from_numpy(np.array(frames_FHWC)), height=height, width=width).numpy()
