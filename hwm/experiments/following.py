"""How well runs follow the robot over a minute: which data that is asked of, and the rollouts that several experiments share."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.evaluate.protocols import Scoring
from hwm.experiments.experiment import Plan, Score, Train, run_folder
from hwm.experiments.supplies import World
from hwm.work.ranges import Range

HZ = 30
EARLY = (1, 3, 9, 17, 30, 60, 90, 150, 210)
"""Frames ahead at which a rollout is scored; from 300 on every 60th is."""
WORLD = "a minute long"
ASIDE = 2
"""Recordings on which blur and blend are chosen, and which are not scored."""


@dataclass(frozen=True, kw_only=True)
class Following(Plan):
    """What these experiments take.

    Where --data has no masks or no futures of one start, what needs them is left out; rollouts end where too few recordings for
    the cohort go on.
    """

    recipes: tuple[str, ...] = ()
    """Recipes to train (`hwm recipes`), beside or in place of --runs."""
    clips: Annotated[int, Range(0, 10**9)] = 96
    """Clips to score on up to two seconds ahead; 0: all."""
    seconds: Annotated[float, Range(0.1, 3600)] = 60.0
    """Length of the rollouts."""
    cohort: Annotated[int, Range(2, 10_000)] = 10
    """Recordings that are rolled out."""
    starts: Annotated[int, Range(0, 10_000)] = 24
    """Simulated moments from which the robot goes on in several ways; 0: none."""
    branches: Annotated[int, Range(2, 64)] = 8
    """In how many ways."""
    readout: str = ""
    """Run of the recipe state-readout: reads the robot's states off predicted frames."""

    @property
    def source(self) -> str:
        """Where the data come from, in words; robot time for training only where something is trained."""
        return super().source if self.data or self.recipes else "built-in robot"

    def wanted(self) -> dict[str, Train | Path]:
        """The runs given, by the name given or their folder's, and the recipes to train.

        Raises ValueError for none of both, or two of one name.
        """
        given = [(name or folder.resolve().name, folder) for name, folder in map(run_folder, self.runs)]
        names = [*self.recipes, *(name for name, _ in given)]
        if not names or len(set(names)) < len(names):
            raise ValueError("give trained runs as --runs NAME=FOLDER, each with its own name, or recipes to train as --recipes")
        return {**{name: Train(name) for name in self.recipes}, **dict(given)}

    @property
    def worlds(self) -> dict[str, World]:
        """The rooms in which is scored: of the data that were given none but their own, else new ones, as long as is asked."""
        if self.data is not None:
            return {}
        long = (max(SAMPLING_FRAMES, SAMPLING_CONTEXT + round(self.seconds * HZ)) + 1) / HZ  # one to spare for rounding
        told = {"val_minutes": (self.cohort + ASIDE) * long / 60, "segment_seconds": (long, long), "masks": True}
        return {WORLD: {**told, "starts": self.starts, "branches": self.branches}}

    @property
    def world(self) -> str:
        """The name of the world in which is scored."""
        return "" if self.data else WORLD

    @property
    def longest(self) -> int:
        """Frames after the seen ones that a rollout has, at most."""
        asked = round(self.seconds * HZ)
        return asked if self.data is None else min(asked, common_length(self.data, self.cohort + ASIDE) - SAMPLING_CONTEXT)

    @property
    def branching(self) -> bool:
        """Whether there are several futures of one start."""
        from hwm.prepare import branching

        return self.starts > 0 if self.data is None else branching(self.data) is not None

    @property
    def ahead(self) -> tuple[int, ...]:
        """Frames ahead at which rollouts are scored."""
        return tuple(n for n in (*EARLY, *range(300, self.longest + 1, 60)) if n <= self.longest)

    def rollout(self, run: str) -> Score:
        """A rollout of every recording of the cohort, one sample each."""
        scoring = Scoring(protocol="sampling", ahead=self.ahead, members=(1,), tuning_clips=ASIDE, readout=self.readout)
        return Score(run, scoring, passes=self.longest // 17 + 1, world=self.world, clips=self.cohort)


@cache
def common_length(data: Path, recordings: int) -> int:
    """Frames that so many recordings of unseen rooms have, or all where there are fewer."""
    from hwm.data.onex import open_dataset
    from hwm.prepare import recorded

    shards = open_dataset(recorded(data, training=False).test).shards
    lengths = np.concatenate([np.unique(shard.segments, return_counts=True)[1] for shard in shards])
    return int(np.sort(lengths)[::-1][:recordings][-1])
