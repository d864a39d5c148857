"""Record one segment: the robot at work in a room, filmed by its head camera."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hwm.sim.behaviours import TABLE_FIRST, episode, station
from hwm.sim.body.humanoid import ARMS_ALONE, FULL_BODY, Humanoid
from hwm.sim.home.scene import Scene, Shift, build_scene
from hwm.sim.renderer import GLRenderer, WarpRenderer

BEHAVIOUR_STREAM = 13


@dataclass(frozen=True)
class Segment:
    """What decides a recording.

    room: seed of the home.  episode: seed of everything else.  full_body: style of the operator.
    """

    room: int
    episode: int
    num_frames: int
    full_body: bool


class Recording:
    """A segment being recorded.

    skills: after `frames`, spans as [first frame, "skill: phase"].  commands: rows (25,) of the steps made, one a frame.
    """

    def __init__(self, segment: Segment, *, texture_size: int, image_size: int, shift: Shift = Shift()) -> None:  # noqa: B008
        self.segment = segment
        sizes = {"texture_size": texture_size, "image_size": image_size}
        self.scene: Scene = build_scene(segment.room, segment.episode, **sizes, shift=shift)
        rng = np.random.default_rng([BEHAVIOUR_STREAM, segment.episode])
        self.robot = Humanoid(self.scene, rng, FULL_BODY if segment.full_body else ARMS_ALONE)
        self.skills: list[tuple[int, str]] = []
        self.commands: list[np.ndarray] = []
        surface = self.scene.room.surface("table" if rng.random() < TABLE_FIRST else "sideboard")
        self.robot.put(*station(self.robot, surface))
        self._episode = episode(self.robot, surface)

    def steps(self) -> Iterator[np.ndarray]:
        """State (25,) of every frame, float32; the robot is in that state while the caller looks at it."""
        wake = 0.0
        for frame in range(self.segment.num_frames):
            while self.robot.time >= wake:
                seconds, doing = next(self._episode)
                wake = max(wake, self.robot.time) + seconds
                if not self.skills or self.skills[-1][1] != doing:
                    if self.skills and self.skills[-1][0] == frame:
                        self.skills.pop()
                    self.skills.append((frame, doing))
            yield self.robot.state()
            self.robot.step()
            self.commands.append(self.robot.command())

    def frames(
        self, renderer: WarpRenderer | GLRenderer, *, batch: int = 32
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Pictures uint8 (b, H, W, 3), states float32 (b, 25) and, where the renderer tells, which pixels show the robot's
        body, bool (b, H, W); in batches."""
        rows = ((renderer.render(self.robot.data), state, renderer.mask()) for state in self.steps())
        while some := list(islice(rows, batch)):
            pictures, states, masks = zip(*some)
            yield np.stack(pictures), np.stack(states), None if masks[0] is None else np.stack(masks)
