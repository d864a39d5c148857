"""The built-in simulator as an environment with the spaces and the starts of a dream.

A start lies somewhere in a recording: the recording is simulated again up to it, which gives the same world to the last bit,
and from there on the robot follows the actions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hwm.interact.control import DreamOptions, Moved, Options
from hwm.interact.env import WorldEnv
from hwm.interact.world import World
from hwm.predict.last_frame import shrink
from hwm.sim.again import Again


class SimEnv(WorldEnv):
    """The built-in robot in the rooms of data that `hwm simulate` wrote; run: the world model whose place this takes.

    Observed states are measured, as in recordings.  Options as of `DreamEnv`, so that one word swaps the worlds; those of a dream
    alone (`DreamOptions`) mean nothing here, where nothing is foreseen.
    Raises ValueError for data that another source wrote.
    """

    states_are = "measured"

    def __init__(self, run: str | Path | World, data: str | Path, **options: Unpack[DreamOptions]) -> None:
        shared: Any = {name: value for name, value in options.items() if name in Options.__annotations__}
        if unknown := options.keys() - DreamOptions.__annotations__.keys() - Options.__annotations__.keys():
            raise TypeError(f"{sorted(unknown)[0]}: no option of an environment")
        super().__init__(run, data, **shared)
        self._again = Again(self.dataset.root)

    def begin(
        self, shard: Any, first: int, states_FA: np.ndarray, commands_FA: np.ndarray | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        state_A = self._again.begin(shard, first + len(states_FA) - 1)
        return self._picture(), state_A

    def follow(self, commands_FA: np.ndarray) -> tuple[np.ndarray, Moved, float]:
        frames, states = [], []
        for command_A in commands_FA:
            states.append(self._again.follow(command_A))
            frames.append(self._picture())
        way = Moved(np.stack(states), np.zeros_like(states[-1]))
        return np.stack(frames)[:: self.world.model.frame_step], way, 0.0

    def close(self) -> None:
        """Give the camera back."""
        self._again.close()

    def _picture(self) -> np.ndarray:
        height, width = self.world.size
        return shrink(torch.from_numpy(self._again.picture())[None], height=height, width=width)[0].numpy()


class SimVectorEnv(SyncVectorEnv):
    """Many of them, one after the other, in the place of a `DreamVectorEnv`; of its arguments together changes nothing."""

    def __init__(
        self, num_envs: int, run: str | Path | World, data: str | Path, *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, together: bool | None = None,
        **options: Unpack[DreamOptions],
    ) -> None:  # fmt: skip
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        world = run if isinstance(run, World) else World(run, device=options.get("device", "auto"))
        super().__init__([lambda: SimEnv(world, data, **options)] * num_envs, autoreset_mode=autoreset_mode)
