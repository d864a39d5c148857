"""A recording of the built-in robot simulated again: up to any of its frames, and from there on as somebody commands."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from hwm.safe_load.paths import is_file
from hwm.sim.jobs import Studio
from hwm.sim.plan import Settings
from hwm.sim.record import Segment
from hwm.sim.simulate import GENERATOR, expect_packages
from hwm.work.files import read_json

ABOUT = "generator.json"
EQUAL = 1e-3
"""Radians, metres a second: what states may differ by where a recording is simulated again; on one machine they are equal."""


def simulated(root: Path) -> bool:
    """Whether `hwm simulate` wrote this dataset, as recordings of one way each."""
    about = read_json(root / ABOUT) if is_file(root / ABOUT) else {}
    return about.get("generator") == GENERATOR and about.get("split") != "branches"


class Again:
    """The world behind a dataset that `hwm simulate` wrote, to go on in from any of its frames.

    Recordings say which room and which episode they show; that decides them, so simulating one again up to a frame leads to
    the same moment of the same world, to the last bit on one machine.
    Raises ValueError for data that another source wrote, and where MuJoCo is not installed.
    """

    def __init__(self, root: Path) -> None:
        if not simulated(root):
            raise ValueError(f"{root}: was not written by `hwm simulate`, whose rooms are entered again here")
        expect_packages()
        about = read_json(root / ABOUT)
        settings = about["settings"] | {"segment_seconds": tuple(about["settings"]["segment_seconds"])}
        self._root, self._settings = root, replace(Settings(**settings), masks=False, commands=False)
        self._segments = {(told["shard"], told["segment"]): told for told in about["segments"]}
        self._studio, self._renderer = Studio(self._settings.backend, nullcontext()), cast(Any, None)

    def begin(self, shard: Any, frame: int) -> np.ndarray:
        """Go to a frame of a shard of the dataset; the robot's state there, float32 (25,).

        Raises ValueError where another version or machine recorded it, so that it cannot be had again.
        """
        number = int(shard.segments[frame])
        told, start = self._segments[shard.index, number], int(np.searchsorted(shard.segments, number))
        self.close()
        segment = Segment(told["room"], told["episode"], told["frames"], told["full_body"])
        recording, self._renderer = self._studio.open(segment, self._settings)
        self._robot, self._steps = recording.robot, recording.steps()
        for _ in range(frame - start + 1):
            state_A = next(self._steps)
        if np.abs(state_A - shard.read_states(np.array([frame]))[0]).max() > EQUAL:
            fault = "does not come out the same here; another version or kind of machine recorded it"
            raise ValueError(f"{self._root}: simulated again, frame {frame} {fault}")
        return state_A

    def go_on(self) -> np.ndarray:
        """One frame more of what was recorded; the state there.  StopIteration at its end."""
        return next(self._steps)

    def follow(self, states_A: np.ndarray) -> np.ndarray:
        """One frame on the way to commanded states (25,); those that are reached, as measured."""
        self._robot.follow(states_A)
        return self._robot.state()

    def picture(self) -> np.ndarray:
        """What the camera sees now, uint8 (size, size, 3) as in the recording."""
        picture: np.ndarray = self._renderer.render(self._robot.data)
        return picture

    def close(self) -> None:
        """Give the camera back."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
