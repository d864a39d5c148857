"""What learns from states and commands, without pictures: the twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from hwm.contracts import Family, Kind, Role
from hwm.model_config.parts import MOST_STATES, Layers, Rows, Width
from hwm.work.ranges import Range


@dataclass(frozen=True)
class TwinConfig(Family):
    """The robot's own dynamics, from commands to states: an ensemble of small networks (ours, after RWM and SuperMimic)."""

    module: ClassVar[str] = "hwm.models.twin:Twin"
    kind: ClassVar[Kind] = "motion"
    role: ClassVar[Role] = "twin"
    raw_states: ClassVar[bool] = False

    family: Literal["twin"] = "twin"
    members: Annotated[int, Range(1, 1000)] = 5
    """Networks, whose disagreement says how sure they are."""
    width: Width = 128
    num_layers: Layers = 2
    context_grids: Rows = 8
    """Frames of states and commands that it sees: a robot follows its commands late."""
    future_grids: Rows = 32
    """Frames of its own rollout through which it is trained."""
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    """Numbers of a state, and of a command, which asks for one."""

    @property
    def num_states(self) -> int:
        """Rows of a training clip."""
        return self.context_grids + self.future_grids
