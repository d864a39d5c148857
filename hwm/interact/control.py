"""From an action to rows of states, and what rewards and ends look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwm.data.dataset import chunks
from hwm.robot import Embodiment

Way = Literal["states", "velocities"]


@dataclass(frozen=True)
class Control:
    """What an action, numbers in [-1, 1], asks of the robot.

    way: "states": where the chosen states are to be at the end of the step, -1 and 1 being the ends of their range.
    "velocities": how fast they move, 1 being `speed` of their range a second; states that are velocities themselves are set to
    that share of their greatest one.  Between, states go in a straight line; those that are not chosen stay (all of it ours).
    low, high: the range of every state, (A,).  rows: the chosen ones.  hz: frames a second.
    """

    robot: Embodiment
    low: np.ndarray
    high: np.ndarray
    rows: tuple[int, ...]
    way: Way
    speed: float
    hz: float

    def path(self, now_A: np.ndarray, action: Any, num_frames: int) -> np.ndarray:
        """Rows of the next frames, float32 (num_frames, A).  Raises ValueError for an action of another shape or not finite."""
        asked = np.asarray(action, np.float64)
        if asked.shape != (len(self.rows),) or not np.isfinite(asked).all():
            found = f"{(~np.isfinite(asked)).sum()} that are not" if asked.shape == (len(self.rows),) else f"shape {asked.shape}"
            raise ValueError(f"an action is {len(self.rows)} finite numbers in [-1, 1], got {found}")
        asked, rows, goal_A = np.clip(asked, -1, 1), list(self.rows), np.array(now_A, np.float64)
        low, high = self.low[rows], self.high[rows]
        if self.way == "states":
            goal_A[rows] = low + (asked + 1) / 2 * (high - low)
        else:
            moved = goal_A[rows] + asked * self.speed * (high - low) * num_frames / self.hz
            set_to = asked * np.maximum(np.abs(low), np.abs(high))
            is_velocity = np.array([self.robot.kinds[i] == "velocity" for i in rows])
            goal_A[rows] = np.clip(np.where(is_velocity, set_to, moved), low, high)
        share_F1 = np.arange(1, num_frames + 1)[:, None] / num_frames
        return (now_A + share_F1 * (goal_A - now_A)).astype(np.float32)


def control_of(dataset: Any, *, way: Way, groups: Sequence[str], speed: float) -> Control:
    """The control of a dataset's robot: its limits where it has any, else the range of the data.

    Raises ValueError for groups that the robot has not.
    """
    robot: Embodiment = dataset.robot
    if way not in ("states", "velocities"):
        raise ValueError(f"control must be states or velocities, got {way!r}")
    if not 0 < speed <= 100:
        raise ValueError(f"speed must be above 0 and at most 100 ranges a second, got {speed}")
    if unknown := [name for name in groups if name not in robot.groups]:
        raise ValueError(f"{robot.name} has no group {unknown[0]!r}; it has {', '.join(robot.groups) or 'none'}")
    rows = tuple(sorted({i for name in groups for i in robot.groups[name]})) if groups else tuple(range(robot.dim))
    limits = np.array(robot.limits or [(-np.inf, np.inf)] * robot.dim, np.float64)
    low, high = np.full(robot.dim, np.inf), np.full(robot.dim, -np.inf)
    if not np.isfinite(limits).all():
        for shard in dataset.shards:
            for _, part in chunks(shard.states):
                low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
    known = np.isfinite(limits)
    return Control(
        robot, np.where(known[:, 0], limits[:, 0], low), np.where(known[:, 1], limits[:, 1], high), rows, way, speed, dataset.hz
    )


@dataclass(frozen=True)
class Moment:
    """What a step came to: what rewards and ends are functions of.

    frame: uint8 (H, W, 3).  states: raw (A,).  action: as given.  step: how manieth of the episode, from 1 on.
    doubt: of the prediction, in the unit of the way of doubting; 0 without one.
    """

    frame: np.ndarray
    states: np.ndarray
    action: np.ndarray
    step: int
    doubt: float = 0.0


@dataclass(frozen=True)
class StateGoal:
    """The robot is to be in these states.  rows: those that count, none: all.  within: the greatest difference that is near."""

    states: Any
    rows: tuple[int, ...] = ()
    within: float = 0.05

    def _off(self, moment: Moment) -> np.ndarray:
        off = np.abs(np.asarray(moment.states, np.float64) - np.asarray(self.states, np.float64))
        return off[list(self.rows)] if self.rows else off

    def reward(self, moment: Moment) -> float:
        """Minus the mean difference."""
        return -float(self._off(moment).mean())

    def reached(self, moment: Moment) -> bool:
        """Whether every state that counts is near."""
        return bool(self._off(moment).max() <= self.within)


@dataclass(frozen=True)
class PictureGoal:
    """The camera is to see this picture, uint8 (H, W, 3) of the world's size.  psnr: from how many dB on it does."""

    frame: Any
    psnr: float = 30.0

    def reward(self, moment: Moment) -> float:
        """Minus the root mean square difference of values in [0, 1]."""
        return -float(np.sqrt(np.square((moment.frame.astype(np.float64) - self.frame) / 255).mean()))

    def reached(self, moment: Moment) -> bool:
        """Whether picture and goal are as near as `psnr`."""
        return -self.reward(moment) <= 10 ** (-self.psnr / 20)
