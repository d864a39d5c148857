"""From an action to rows of states, how the robot follows them, and what rewards and ends look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch

from hwm.data.dataset import chunks
from hwm.models.twin import Motion, Twin
from hwm.robot import Embodiment
from hwm.runs import expect_robot, load_run

Way = Literal["states", "velocities", "commands"]


@dataclass(frozen=True)
class Control:
    """What an action asks of the robot.

    way: "states": where the chosen states are to be at the end of the step, -1 and 1 being the ends of their range.
    "velocities": how fast they move, 1 being `speed` of their range a second; states that are velocities themselves are set to
    that share of their greatest one.  Between, states go in a straight line.  "commands": a row for every frame of the step, in
    the states' own units and inside their range.  States that are not chosen stay (all of it ours).
    low, high: the range of every state, (A,).  rows: the chosen ones.  hz: frames a second.
    """

    robot: Embodiment
    low: np.ndarray
    high: np.ndarray
    rows: tuple[int, ...]
    way: Way
    speed: float
    hz: float

    def box(self, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest action of a step of so many frames, float32."""
        if self.way != "commands":
            return -np.ones(len(self.rows), np.float32), np.ones(len(self.rows), np.float32)
        low, high = (ends[list(self.rows)].astype(np.float32) for ends in (self.low, self.high))
        return np.tile(low, (num_frames, 1)), np.tile(high, (num_frames, 1))

    def path(self, now_A: np.ndarray, action: Any, num_frames: int) -> np.ndarray:
        """Rows of the next frames, float32 (num_frames, A).  Raises ValueError for an action of another shape or not finite."""
        asked, (least, most), rows = np.asarray(action, np.float64), self.box(num_frames), list(self.rows)
        if asked.shape != least.shape or not np.isfinite(asked).all():
            found = f"{(~np.isfinite(asked)).sum()} that are not" if asked.shape == least.shape else f"shape {asked.shape}"
            shape = " x ".join(map(str, least.shape))
            within = "the states' range" if self.way == "commands" else "[-1, 1]"
            raise ValueError(f"an action is {shape} finite numbers in {within}, got {found}")
        asked, goal_A = np.clip(asked, least, most), np.array(now_A, np.float64)
        if self.way == "commands":
            goal_FA = np.tile(goal_A, (num_frames, 1))
            goal_FA[:, rows] = asked
            return goal_FA.astype(np.float32)
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
    if way not in ("states", "velocities", "commands"):
        raise ValueError(f"control must be states, velocities or commands, got {way!r}")
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


def twin_of(run: str | Path, dataset: Any, *, device: str) -> Twin:
    """The twin of a dataset's robot, from its run.  Raises ValueError for a run of another model or of another robot."""
    found = load_run(run, device=device)
    if not isinstance(found.model, Twin):
        raise ValueError(f"{run}: holds a {found.config.model.role}, not a twin; train one with `hwm train twin`")
    expect_robot(dataset, found.config.model, found.identity)
    return found.model


@dataclass(frozen=True)
class Moved:
    """How the robot went in a step.

    states: raw rows, float32 (F, A).  spread: of the last one over the twin's members, in the states' units, (A,).
    disagreement: the same in standard deviations of the states, root mean square over them; 0 without a twin.
    """

    states: np.ndarray
    spread: np.ndarray
    disagreement: float = 0.0


def moved(motion: Motion | None, commands_FA: np.ndarray) -> Moved:
    """The way of a robot under these commands, as its twin foresees it; without one it is at once where it is asked to be."""
    if motion is None:
        return Moved(commands_FA, np.zeros_like(commands_FA[-1]))
    scale_A, states = motion.twin.shift_scale[1], []
    for command_A in torch.from_numpy(commands_FA).to(scale_A.device):
        state_1A, spread_1A = motion.step(command_A[None])
        states.append(state_1A[0].cpu())
    disagreement = (spread_1A[0] * scale_A).square().mean().sqrt().item()
    return Moved(torch.stack(states).numpy(), spread_1A[0].cpu().numpy(), disagreement)


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
        _expect_alike("states", self.states, moment.states)
        off = np.abs(np.asarray(moment.states, np.float64) - np.asarray(self.states, np.float64))
        return off[list(self.rows)] if self.rows else off

    def reward(self, moment: Moment) -> float:
        """Minus the mean difference.  Raises ValueError for states of different numbers."""
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
        """Minus the root mean square difference of values in [0, 1].  Raises ValueError for pictures of different sizes."""
        _expect_alike("picture", self.frame, moment.frame)
        return -float(np.sqrt(np.square((moment.frame.astype(np.float64) - self.frame) / 255).mean()))

    def reached(self, moment: Moment) -> bool:
        """Whether picture and goal are as near as `psnr`."""
        return -self.reward(moment) <= 10 ** (-self.psnr / 20)


def _expect_alike(what: str, goal: Any, there: np.ndarray) -> None:
    if np.shape(goal) != np.shape(there):
        raise ValueError(f"the {what} of a goal must have the shape of the world's, {np.shape(there)}, got {np.shape(goal)}")


class Options(TypedDict, total=False):
    """What an environment may be told beside its world and its data; `WorldEnv` and `DreamEnv` say what each means."""

    frames: int
    control: Way
    groups: Sequence[str]
    speed: float
    reward: Callable[[Moment], float] | None
    ends: Callable[[Moment], bool] | None
    horizon: int
    render_mode: str | None
    device: str


class DreamOptions(Options, total=False):
    """What only a dream makes use of."""

    twin: str | Path
    doubt: str
    most_doubt: float | None
    samples: int
    temperature: float | None


class MakeOptions(DreamOptions, total=False):
    """What only many environments make use of."""

    autoreset_mode: Any
    together: bool | None
