"""The built-in simulator as an environment with the spaces and the starts of a dream.

A start lies somewhere in a recording: the recording is simulated again up to it, which gives the same world to the last bit,
and from there on the robot follows the actions.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwm.interact.env import WorldEnv
from hwm.interact.world import World
from hwm.predict.last_frame import shrink
from hwm.safe_load.paths import is_file
from hwm.sim.jobs import Studio
from hwm.sim.plan import Settings
from hwm.sim.record import Segment
from hwm.sim.simulate import GENERATOR
from hwm.work.files import read_json


class SimEnv(WorldEnv):
    """The built-in robot in the rooms of data that `hwm simulate` wrote; run: the world model whose place this takes.

    Observed states are measured, as in recordings.  Options as of `WorldEnv`.
    Raises ValueError for data that another source wrote.
    """

    def __init__(self, run: str | Path | World, data: str | Path, **options: Any) -> None:
        super().__init__(run, data, **options)
        place = Path(data) / "generator.json"
        about = read_json(place) if is_file(place) else {}
        if about.get("generator") != GENERATOR:
            raise ValueError(f"{data}: was not written by `hwm simulate`, whose rooms this environment is made of")
        settings = dict(about["settings"])
        settings["segment_seconds"] = tuple(settings["segment_seconds"])
        self.settings = Settings(**settings)
        self.segments = {(s["shard"], s["segment"]): s for s in about["segments"]}
        self._studio = Studio(self.settings.backend, nullcontext())
        self._renderer: Any = None

    def begin(self, shard: Any, first: int, states_FA: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        number = int(shard.segments[first])
        told, start = self.segments[shard.index, number], int(np.searchsorted(shard.segments, number))
        self.close()
        segment = Segment(told["room"], told["episode"], told["frames"], told["full_body"])
        recording, self._renderer = self._studio.open(segment, self.settings)
        self._robot, steps, state_A = recording.robot, recording.steps(), states_FA[-1]
        for _ in range(first - start + len(states_FA)):
            state_A = next(steps)
        return self._picture(), state_A

    def follow(self, rows_FA: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        frames = []
        for row_A in rows_FA:
            self._robot.follow(row_A)
            frames.append(self._picture())
        return np.stack(frames)[:: self.world.model.frame_step], self._robot.state(), 0.0

    def close(self) -> None:
        """Give the camera back."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _picture(self) -> np.ndarray:
        height, width = self.world.size
        picture = torch.from_numpy(self._renderer.render(self._robot.data))
        return shrink(picture[None], height=height, width=width)[0].numpy()
