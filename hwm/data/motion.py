"""Of recorded video the rows alone, states and commands: what a model of the robot's own dynamics learns from.

Commands are rows like the states, row k what was asked of the robot from frame k to frame k + 1.  They lie beside the states
(`hwm simulate --commands`), in LeRobot's `action`, or in the rows themselves (`hwm data convert --state both`).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwm.contracts import Kind
from hwm.data.dataset import Dataset, Shard, ShardFault, hash_of
from hwm.data.raw import RawShard
from hwm.data.recordings.lerobot import ACTION, STATE
from hwm.robot import Embodiment
from hwm.work.files import read_rows


@dataclass(frozen=True, kw_only=True)
class MotionShard(Shard):
    """The rows of a shard of recorded video.  both: its rows hold states and commands, under names that begin so."""

    of: RawShard
    both: bool

    @cached_property
    def states(self) -> np.ndarray:
        return self._columns(STATE) if self.both else self.of.states

    @cached_property
    def commands(self) -> np.ndarray:
        """Commands (F, A) float32."""
        found = self._columns(ACTION) if self.both else self.of.commands
        assert found is not None
        return found

    def _columns(self, part: str) -> np.ndarray:
        names = self.of.robot.names
        return np.asarray(self.of.states)[:, [i for i, name in enumerate(names) if name.startswith(f"{part}.")]]

    @cached_property
    def segments(self) -> np.ndarray:
        return self.of.segments

    @property
    def files(self) -> list[Path]:
        rows = [path for path in self.of.files if path != self.of.video_path]
        return list(dict.fromkeys([*rows, *filter(None, [None if self.both else self.of.commands_path])]))

    def episode_number(self, segment: int, place: int) -> int:
        return self.of.episode_number(segment, place)

    def read(self, start: int, frames: int) -> np.ndarray:
        """Commands (F, A) float32."""
        found = read_rows(self.commands, start, start + frames)
        if not np.isfinite(found).all():
            row = start + int(np.nonzero(~np.isfinite(found))[0][0])
            raise ShardFault(f"{self.files[-1]}: command {row} is not finite; repair or drop this shard", frame=row)
        return found


class Motion(Dataset):
    """The rows of datasets of recorded video.

    Raises ValueError, naming the folder and the remedy, for other data and for those without commands.
    """

    kind: ClassVar[Kind] = "motion"

    def __init__(self, of: Any) -> None:
        self.of, self.root, self.hz, self.clock, self.grid = of, of.root, of.hz, of.clock, (0, 0)
        if of.kind != "video":
            raise ValueError(f"{of.root}: holds {of.kind}; a twin learns from recordings: give a raw or a LeRobot dataset")
        states, commands = (of.robot.part(name) for name in (STATE, ACTION))
        both = states is not None and commands is not None and states.names == commands.names
        self.robot: Embodiment = states if both else of.robot  # type: ignore[assignment]
        bare = next((shard for shard in of.shards if not both and shard.commands_path is None), None)
        if bare is not None:
            remedy = "`hwm simulate --commands` writes them, LeRobot has them as `action`, a number for every one of the states"
            raise ValueError(f"{bare.root}: holds no commands beside the states; {remedy}")
        common = [name for name in Shard.__dataclass_fields__ if name != "robot"]
        self.shards = tuple(
            MotionShard(**{name: getattr(shard, name) for name in common}, robot=self.robot, of=shard, both=both)
            for shard in of.shards
        )

    @property
    def roots(self) -> tuple[Path, ...]:
        found: tuple[Path, ...] = self.of.roots
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Of the rows alone: other pictures beside them change nothing."""
        return hash_of([self.kind, self.hz, self.robot.meaning, [shard.fingerprint for shard in self.shards]])

    def sizes(self) -> dict[str, Any]:
        return {}
