"""The built-in simulator as an environment with the spaces and the starts of a dream.

A start lies somewhere in a recording: the recording is simulated again up to it, which gives the same world to the last bit,
and from there on the robot follows the actions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwm.interact.env import WorldEnv
from hwm.interact.world import World
from hwm.predict.last_frame import shrink
from hwm.sim.again import Again


class SimEnv(WorldEnv):
    """The built-in robot in the rooms of data that `hwm simulate` wrote; run: the world model whose place this takes.

    Observed states are measured, as in recordings.  Options as of `WorldEnv`.
    Raises ValueError for data that another source wrote.
    """

    def __init__(self, run: str | Path | World, data: str | Path, **options: Any) -> None:
        super().__init__(run, data, **options)
        self._again = Again(self.dataset.root)

    def begin(self, shard: Any, first: int, states_FA: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        state_A = self._again.begin(shard, first + len(states_FA) - 1)
        return self._picture(), state_A

    def follow(self, rows_FA: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        frames, states_A = [], self.seen["states"]
        for row_A in rows_FA:
            states_A = self._again.follow(row_A)
            frames.append(self._picture())
        return np.stack(frames)[:: self.world.model.frame_step], states_A, 0.0

    def close(self) -> None:
        """Give the camera back."""
        self._again.close()

    def _picture(self) -> np.ndarray:
        height, width = self.world.size
        return shrink(torch.from_numpy(self._again.picture())[None], height=height, width=width)[0].numpy()
