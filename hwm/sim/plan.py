"""Which robot does what in which room: the plan of a simulated dataset, made from its settings alone.

Rooms and episodes have seeds of their own, so that validation can show new work in known homes and work in homes
never seen.  The plan knows nothing of processes: any number of workers writes the same bytes.
"""

import math
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np

from hwm.clock import SAMPLING_FRAMES
from hwm.sim.body.humanoid import HZ
from hwm.sim.home.scene import Shift
from hwm.sim.record import Segment
from hwm.work.ranges import BadSetting, Range, check_ranges

DIFFICULTIES: dict[str, float] = {"calm": 0.0, "mixed": 0.3, "lively": 1.0}
"""Share of segments in which the operator uses the whole body.

Copying the last frame scores, at 64 x 64 and one ray per pixel, 20.4 dB over 16 frames and 17.7 dB over 60 in calm
segments, 18.9 and 15.5 dB in full-body ones (10 rooms, 15 s each), so about 17.0 dB over 60 frames when mixed.
"""
Split = Literal["train", "val", "val_unseen", "test", "branches"]
SPLITS: tuple[Split, ...] = ("train", "val", "val_unseen", "test")
"""Those whose episodes have neighbouring seeds."""

MAX_SEED = 100_000
ROOMS_PER_SEED = 10_000
FIRST_ROOM = {"train": 0, "val_unseen": 1_000_000_000, "test": 2_000_000_000, "branches": 3_000_000_000}
"""Room seeds of the splits, in ranges that never meet, whatever the seed."""
EPISODES_PER_SPLIT = 1_000_000
FIRST_BRANCHING = MAX_SEED * len(SPLITS) * EPISODES_PER_SPLIT
"""Seed of the first episode that branches, after all others."""
LATEST_START = 120
"""Frames of work that may pass before the frames from which the robot goes on in several ways."""
PLAN_STREAM = 5
SMALLEST, LARGEST = 64, 2048
"""Pixels.  The video encoder does not always repeat bit for bit on smaller frames."""
SHARD_SECONDS = 60.0
"""Robot time of a training shard; the unit of work and of resuming."""
FEWEST_SHARDS = 4
SHORTEST_SPLIT = 1.5
"""Seconds: the least that a split may have."""
TEST_STATES = 97
"""State rows of a sampling-track test clip; 17 frames of it are seen (reference A.6)."""
CLIPS_PER_EPISODE = 4


@dataclass(frozen=True)
class Settings:
    """Everything that decides the bytes of a dataset.  minutes and val_minutes: robot time.  difficulty: 0 to 1.

    light, friction, camera_shift: see `Shift`.  commands: whether the commands of every frame are written beside its state.
    starts, branches: moments in rooms of their own from which the robot goes on in so many ways.
    """

    minutes: Annotated[float, Range(SHORTEST_SPLIT / 60, 1e6)]
    val_minutes: Annotated[float, Range(SHORTEST_SPLIT / 60, 1e6)]
    size: Annotated[int, Range(SMALLEST, LARGEST)]
    seed: Annotated[int, Range(0, MAX_SEED - 1)]
    difficulty: Annotated[float, Range(0, 1)]
    segment_seconds: Annotated[tuple[float, float], Range(0, 1e6, above=True)]
    rooms: Annotated[int, Range(0, ROOMS_PER_SEED)]
    test_clips: Annotated[int, Range(0, EPISODES_PER_SPLIT)]
    backend: str
    antialias: bool
    light: Annotated[float, Range(0, 4)] = 1.0
    friction: Annotated[float, Range(0, 100, above=True)] = 1.0
    camera_shift: Annotated[float, Range(-0.3, 0.3)] = 0.0
    masks: bool = False
    commands: bool = False
    starts: Annotated[int, Range(0, ROOMS_PER_SEED)] = 0
    branches: Annotated[int, Range(2, 64)] = 8

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if self.size % 2:
            raise BadSetting("size", f"must be an even number of pixels, got {self.size}")
        low, high = self.segment_seconds
        if low > high:
            raise BadSetting("segment_seconds", f"must be the shortest and the longest, got {low:g} and {high:g}")

    @property
    def shift(self) -> Shift:
        """How the worlds differ from the usual ones."""
        return Shift(self.light, self.friction, self.camera_shift)

    def to_dict(self) -> dict:
        """All settings, those of unusual worlds and of masks only where they are: usual data tell what they always did."""
        usual = [f.name for f in fields(self) if getattr(self, f.name) == f.default]
        values = {name: value for name, value in asdict(self).items() if name not in usual}
        return {**values, "segment_seconds": list(self.segment_seconds)}


@dataclass(frozen=True)
class Shard:
    """Segments that one worker records into one shard; of the split "branches" they go on from the same moment."""

    split: Split
    index: int
    segments: tuple[Segment, ...]

    @property
    def num_frames(self) -> int:
        return sum(segment.num_frames for segment in self.segments)


@dataclass(frozen=True)
class Clips:
    """One recording cut into test clips, numbered from `first`."""

    index: int
    segment: Segment
    first: int
    count: int

    @property
    def num_frames(self) -> int:
        """Frames that are rendered."""
        return self.count * SAMPLING_FRAMES


def make_plan(settings: Settings) -> tuple[list[Shard], list[Clips]]:
    """The shards of train, val and val_unseen, and the recordings of the test set."""
    low, high = settings.segment_seconds
    rng = np.random.default_rng([PLAN_STREAM, settings.seed])
    train_lengths = _lengths(rng, settings.minutes, low, high)
    rooms = min(settings.rooms or math.ceil(len(train_lengths) / 2), len(train_lengths), ROOMS_PER_SEED)
    known = [FIRST_ROOM["train"] + settings.seed * ROOMS_PER_SEED + k for k in range(rooms)]
    train_rooms = [known[k * rooms // len(train_lengths)] for k in range(len(train_lengths))]
    shards = _shards("train", _segments(settings, "train", train_lengths, train_rooms), settings.minutes)
    for split in ("val", "val_unseen"):
        lengths = _lengths(rng, settings.val_minutes, low, high)
        if split == "val":
            places = [known[k % rooms] for k in rng.permutation(max(rooms, len(lengths)))[: len(lengths)]]
        else:
            places = [_new_room(settings, split, k) for k in range(len(lengths))]
        shards.append(Shard(split, 0, tuple(_segments(settings, split, lengths, places))))
    return shards + _branches(settings), _test_clips(settings)


def _lengths(rng: np.random.Generator, minutes: float, low: float, high: float) -> list[int]:
    """Frames of every segment, about `low` to `high` seconds, summing up to the robot time asked for."""
    total = round(minutes * 60 * HZ)
    count = max(1, round(minutes * 60 / (0.5 * (low + high))))
    shares = rng.uniform(low, high, count)
    ends = np.round(np.cumsum(shares / shares.sum()) * total).astype(int)
    return np.diff(ends, prepend=0).tolist()


def _segments(settings: Settings, split: Split, lengths: list[int], rooms: list[int]) -> list[Segment]:
    """Segments with their own episode seeds; full-body ones spread evenly, as many as the difficulty says."""
    first = (settings.seed * len(SPLITS) + SPLITS.index(split)) * EPISODES_PER_SPLIT
    offset = np.random.default_rng([PLAN_STREAM, settings.seed, SPLITS.index(split)]).random()
    before = np.floor(np.arange(len(lengths) + 1) * settings.difficulty + offset)
    full_body = np.diff(before) > 0
    return [
        Segment(room=room, episode=first + k, num_frames=length, full_body=bool(full_body[k]))
        for k, (length, room) in enumerate(zip(lengths, rooms))
    ]


def _branches(settings: Settings) -> list[Shard]:
    """A shard a start, of as many segments as there are ways to go on: 17 frames that all share, then 60 of their own."""
    if not settings.starts:
        return []
    first = FIRST_BRANCHING + settings.seed * EPISODES_PER_SPLIT
    rng = np.random.default_rng([PLAN_STREAM, settings.seed, len(SPLITS)])
    full_body = np.diff(np.floor(np.arange(settings.starts + 1) * settings.difficulty + rng.random())) > 0
    before = rng.integers(0, LATEST_START, settings.starts)
    return [
        Shard("branches", k, settings.branches * (
            Segment(_new_room(settings, "branches", k), first + k, SAMPLING_FRAMES, bool(full_body[k]), int(before[k])),
        ))
        for k in range(settings.starts)
    ]  # fmt: skip


def _new_room(settings: Settings, split: Split, number: int) -> int:
    return FIRST_ROOM[split] + settings.seed * ROOMS_PER_SEED + number % ROOMS_PER_SEED


def _shards(split: Split, segments: list[Segment], minutes: float) -> list[Shard]:
    count = min(len(segments), max(FEWEST_SHARDS, round(minutes * 60 / SHARD_SECONDS)))
    edges = np.linspace(0, len(segments), count + 1).round().astype(int)
    return [Shard(split, i, tuple(segments[a:b])) for i, (a, b) in enumerate(pairwise(edges))]


def _test_clips(settings: Settings) -> list[Clips]:
    starts = list(range(0, settings.test_clips, CLIPS_PER_EPISODE))
    counts = [min(CLIPS_PER_EPISODE, settings.test_clips - start) for start in starts]
    rooms = [_new_room(settings, "test", k) for k in range(len(starts))]
    segments = _segments(settings, "test", [count * TEST_STATES for count in counts], rooms)
    return [Clips(k, segment, start, count) for k, (segment, start, count) in enumerate(zip(segments, starts, counts))]
