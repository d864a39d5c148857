"""Record one segment: the robot at work in a room, filmed by its head camera."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hwm.clock import SAMPLING_CONTEXT
from hwm.sim.behaviours import TABLE_FIRST, episode, station
from hwm.sim.body.humanoid import ARMS_ALONE, FULL_BODY, Humanoid
from hwm.sim.home.scene import Scene, Shift, build_scene
from hwm.sim.renderer import GLRenderer, WarpRenderer

BEHAVIOUR_STREAM, BRANCH_STREAM = 13, 17
LOOKED_AT, APART, MOST_TRIES = 17, 8.0, 40
"""Of ways to go on from one moment: in which frame after the last seen one they are to differ, by how many of 255 levels as a
root mean square, and how many are tried before the most different one will do (ours)."""

Rows = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Frames: pictures, states and masks; see `Recording.frames`."""


@dataclass(frozen=True)
class Segment:
    """What decides a recording.

    room: seed of the home.  episode: seed of everything else.  full_body: style of the operator.
    start: frames that pass before the first one that is recorded.
    """

    room: int
    episode: int
    num_frames: int
    full_body: bool
    start: int = 0


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
        self._surface, self._wake = surface, 0.0
        self._episode = episode(self.robot, surface)

    def steps(self, count: int = 0) -> Iterator[np.ndarray]:
        """State (25,) of every frame, float32; the robot is in that state while the caller looks at it.

        count: frames; 0: those of the segment.
        """
        for _ in range(count or self.segment.num_frames):
            frame = len(self.commands)
            while self.robot.time >= self._wake:
                seconds, doing = next(self._episode)
                self._wake = max(self._wake, self.robot.time) + seconds
                if not self.skills or self.skills[-1][1] != doing:
                    if self.skills and self.skills[-1][0] == frame:
                        self.skills.pop()
                    self.skills.append((frame, doing))
            yield self.robot.state()
            self.robot.step()
            self.commands.append(self.robot.command())

    def frames(
        self, renderer: WarpRenderer | GLRenderer, *, batch: int = 32, count: int = 0
    ) -> Iterator[Rows]:
        """Pictures uint8 (b, H, W, 3), states float32 (b, 25) and, where the renderer tells, which pixels show the robot's
        arms, bool (b, H, W); in batches.  count: as in `steps`."""
        rows = ((renderer.render(self.robot.data), state, renderer.mask()) for state in self.steps(count))
        while some := list(islice(rows, batch)):
            pictures, states, masks = zip(*some)
            yield np.stack(pictures), np.stack(states), None if masks[0] is None else np.stack(masks)

    def branches(self, count: int, renderer: WarpRenderer | GLRenderer) -> Iterator[Rows]:
        """Ways to go on from one moment, a whole segment each, as `frames` gives them: equal up to the last seen frame.

        The first is the operator's own.  In every other one another operator lets go of what is held and begins something else,
        drawn until what the camera sees differs.  `skills` and `commands` are those of the way that was given last.
        """
        for _ in self.steps(self.segment.start):
            pass
        self.skills, self.commands = [(0, doing) for _, doing in self.skills[-1:]], []
        seen = joined(self.frames(renderer, count=SAMPLING_CONTEXT))
        back, skills, commands = self.robot.moment(), self.skills, self.commands
        pictures: list[np.ndarray] = []

        def turn(way: int, attempt: int) -> None:
            back()
            self.robot.think_again(np.random.default_rng([BRANCH_STREAM, self.segment.episode, way, attempt]))
            self._episode, self._wake = episode(self.robot, self._surface), self.robot.time
            self.skills, self.commands = [*skills], [*commands]

        def difference(way: int, attempt: int) -> float:
            turn(way, attempt)
            for _ in self.steps(LOOKED_AT - 1):
                pass
            picture = renderer.render(self.robot.data).astype(float)
            return min(float(np.sqrt(np.square(picture - other).mean())) for other in pictures)

        self.skills, self.commands = [*skills], [*commands]
        for way in range(count):
            if way:
                best = (-1.0, 0)
                for attempt in range(MOST_TRIES):
                    best = max(best, (difference(way, attempt), attempt))
                    if best[0] >= APART:
                        break
                turn(way, best[1])
            rows = joined(self.frames(renderer, count=self.segment.num_frames - SAMPLING_CONTEXT))
            pictures.append(rows[0][LOOKED_AT - 1])
            yield joined([seen, rows])


def joined(parts: Iterable[Rows]) -> Rows:
    """Rows one after the other."""
    pictures, states, masks = zip(*parts)
    return np.concatenate(pictures), np.concatenate(states), None if masks[0] is None else np.concatenate(masks)
