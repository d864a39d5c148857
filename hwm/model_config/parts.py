"""What configurations of several families share: ranges, the modulation by the states, streams of past and future."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hwm.contracts import Family
from hwm.work.ranges import Range

MOST_STATES = 4096
Width = Annotated[int, Range(1, 65_536)]
Layers = Annotated[int, Range(1, 1024)]
Rows = Annotated[int, Range(1, 10_000)]
Side = Annotated[int, Range(1, 4096)]
Sides = Annotated[tuple[int, int], Range(1, 4096)]
StateNumbers = Annotated[tuple[int, ...], Range(0, MOST_STATES - 1)]
Steps = Annotated[int, Range(1, 10_000)]
Share = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, below=True)]
Weight = Annotated[float, Range(0, 1e6)]
Temperature = Annotated[float, Range(0, 1000)]


@dataclass(frozen=True)
class Modulated(Family):
    """What the families have in common in which the states modulate normalisations (and gates, where there are any)."""

    state_gate: Annotated[float, Range(-1000, 1000)] = 1.0
    """Factor of the modulation by the states: 0 takes it away, and a trained model tells by others what it makes of it (ours)."""
    state_start: Weight = 0.0
    """Standard deviation of that modulation's first weights; 0: it starts from nothing (AdaLN-Zero, the documents)."""

    @property
    def modulated(self) -> bool:
        """Whether the states modulate anything, as configured."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.modulated and (self.state_gate != 1 or self.state_start):
            where = 'model.state_injection="modulate"' if hasattr(self, "state_injection") else "model.state_modulation=true"
            raise ValueError(f"model.state_gate and model.state_start are of the modulation by the states: set {where}")


@dataclass(frozen=True)
class Streams(Modulated):
    """What both Humanoid World Models have in common: streams of past and future, video and actions."""

    context_grids: Rows = 2
    future_grids: Rows = 1
    num_states: Rows = 17
    mlp_ratio: Annotated[int, Range(1, 256)] = 4
    attention: Literal["joint", "split"] = "joint"
    sharing: Literal["stream", "modality", "full"] = "stream"
    """Which streams share weights after the first `unshared_blocks`."""
    unshared_blocks: Annotated[int, Range(0, 1024)] = 4
    state_changes: bool = False
    """States enter beside their change from the last past frame, on which most of what moves depends (ours)."""
    state_modulation: bool = False
    """The pooled state of a future grid also modulates the norms of its tokens, from nothing (ours)."""

    @property
    def modulated(self) -> bool:
        """With state_modulation."""
        return self.state_modulation
