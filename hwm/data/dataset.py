"""What every dataset and each of its shards can tell of itself: pictures, states, faults and facts.

A kind of dataset is a file beside this one with a `Shard` and a `Dataset` of its own, and a line in `onex.KINDS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from hwm.clock import Clock
from hwm.contracts import Kind
from hwm.data.checksums import digests
from hwm.data.layout import METADATA
from hwm.data.windows import Window, check_segments
from hwm.robot import Embodiment
from hwm.work.files import check_size, expect_rows, map_array, read_json, read_rows

CHUNK_BYTES = 32 * 2**20
"""How much of an array is read at once."""
CACHE_CLIPS = "make them with `hwm tokenize RAW OUT` and a tokenizer by Wan's clock, such as continuous-4x8x8"


class ShardFault(ValueError):
    """A fault of one shard, for which a job may leave it out.

    shard: its number, None where the message's file tells.  frame: the first faulty frame, None where unknown.
    """

    def __init__(self, message: str, *, shard: int | None = None, frame: int | None = None) -> None:
        super().__init__(message)
        self.shard, self.frame = shard, frame


@contextmanager
def collecting(faults: list[ValueError] | None, *, shard: int) -> Iterator[None]:
    """Within it a shard's ValueError goes to `faults`, as a `ShardFault`, and ends the block; without a list it is raised."""
    try:
        yield
    except ValueError as error:
        if faults is None:
            raise
        faults.append(ShardFault(str(error), shard=shard))


@dataclass(frozen=True)
class Finding:
    """One thing found.  error: must be mended before use; warning: usable but suspicious; note: worth knowing."""

    severity: Literal["error", "warning", "note"]
    file: str
    message: str

    @classmethod
    def of(cls, error: ValueError) -> Finding:
        """An error whose text begins with the file."""
        file, _, message = str(error).partition(": ")
        return cls("error", file, message)


def raised(step: Callable[[], Any]) -> Iterator[Finding]:
    """The ValueError that a step raises, if it does."""
    try:
        step()
    except ValueError as error:
        yield Finding.of(error)


class Decoder(Protocol):
    """What makes pictures of grids: a tokenizer of any kind."""

    def decode(self, grids: Any, /) -> Any:
        """Grids of whole blocks, (B, T, ...), to uint8 video (B, F, H, W, 3), both tensors."""


@dataclass(frozen=True)
class Shard:
    """One shard of pictures (the file at `video_path`, whatever their kind) with states and segment of every frame."""

    root: Path
    index: int
    num_frames: int
    video_path: Path
    states_path: Path
    segments_path: Path
    robot: Embodiment

    @cached_property
    def states(self) -> np.ndarray:
        """Robot states (F, A), float32 memory map, one row per frame."""
        return map_array(self.states_path, "<f4", (self.num_frames, self.robot.dim), self._rows)

    @cached_property
    def segments(self) -> np.ndarray:
        """Segment ids (F,), int32 memory map, non-decreasing."""
        return map_array(self.segments_path, "<i4", (self.num_frames,), self._rows)

    @property
    def _rows(self) -> str:
        return f"{self.num_frames} frames by the shard's metadata, state width {self.robot.dim}"

    @property
    def source(self) -> str:
        """Of an encoded shard the fingerprint of the raw one that it was made of; empty where its metadata does not tell."""
        return source_of(self.root, self.index)

    @property
    def files(self) -> list[Path]:
        """All that holds its frames, in an order of its kind."""
        return [self.video_path, self.states_path, self.segments_path]

    @property
    def fingerprint(self) -> str:
        """SHA-256 that tells it from shards with other frames, states or segments, wherever it lies."""
        return hash_of([self.num_frames, *digests(self.root, self.files)])

    def episode_number(self, segment: int, place: int) -> int:
        """By which number a segment is known.  place: which of all the dataset's it is."""
        return place

    def read(self, start: int, frames: int) -> np.ndarray:
        """What the dataset's kind has for `frames` frames from `start` on, (T, ...): a grid or a frame each.

        Raises ValueError, naming the file, for values that cannot be.
        """
        raise NotImplementedError

    def read_states(self, rows: np.ndarray) -> np.ndarray:
        """States (len(rows), A) float32 of the given frames, in rising order.  Raises ValueError where a state is not finite."""
        states = read_rows(self.states, int(rows[0]), int(rows[-1]) + 1)[np.asarray(rows) - int(rows[0])]
        if not np.isfinite(states).all():
            row = int(np.asarray(rows)[np.nonzero(~np.isfinite(states))[0][0]])
            raise ShardFault(f"{self.states_path}: row {row} is not finite; repair or drop this shard", frame=row)
        return states

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        """At most `count` pictures from all over the shard, uint8 (H, W, 3) of any size.

        tokenizer: decodes grids; None: they are shown in colours of their own.
        """
        raise NotImplementedError

    def check_sizes(self) -> None:
        """Raise ValueError unless every file has exactly the size that the frame count asks for."""
        width, rest = divmod(self.states_path.stat().st_size if self.states_path.is_file() else 0, self.num_frames * 4)
        hint = f"; it holds {width} a frame: another robot than {self.robot.name} is described in robot.toml beside metadata.json"
        about = self._rows + (hint if width and not rest else "")
        check_size(self.states_path, self.num_frames * self.robot.dim * 4, about)
        check_size(self.segments_path, self.num_frames * 4, self._rows)

    def check(self) -> Iterator[Finding]:
        """Everything wrong or worth knowing; every file is read to its last byte."""
        yield from raised(self.check_segments)
        yield from self.check_pictures()
        yield from self.check_states()

    def check_segments(self) -> None:
        """Raise ValueError when segment ids decrease."""
        check_segments(np.asarray(expect_rows(self.segments)), self.segments_path)

    def check_pictures(self) -> Iterator[Finding]:
        """What `check` finds in the pictures."""
        raise NotImplementedError

    def check_states(self) -> Iterator[Finding]:
        """What `check` finds in the states."""
        return check_rows(self.states_path, self.states, self.robot)


class Dataset:
    """An open dataset.

    clock: the blocks into which its frames are cut.  grid: height and width of a grid, or of frames of video, in pixels.
    tokenizer: what the sidecar says about the maker of tokens or latents, None where there is none.
    every: stored clips start at multiples of this frame; 0: clips are cut from blocks or frames.
    """

    kind: ClassVar[Kind]
    root: Path
    shards: tuple[Any, ...]
    hz: int
    clock: Clock
    robot: Embodiment
    grid: tuple[int, int]
    tokenizer: dict | None = None
    every: int = 0

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that it lies in."""
        return (self.root,)

    @property
    def num_frames(self) -> int:
        """Frames of all shards."""
        return sum(shard.num_frames for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what it holds and means: equal for copies under any path and name, with or without recorded checksums.

        Each file is read once and then known for a week (`checksums.digests`).
        """
        files = [*self.described_in(), *(file for shard in self.shards for file in shard.files)]
        made_by = {key: (self.tokenizer or {}).get(key) for key in ("fingerprint", "grid")}
        about = {"kind": self.kind, "hz": self.hz, "robot": self.robot.meaning, "made by": made_by}
        return hash_of([about, [shard.num_frames for shard in self.shards], digests(self.root, files)])

    def described_in(self) -> list[Path]:
        """Files beside the shards that decide what is learned from them."""
        return []

    def sizes(self) -> dict[str, Any]:
        """What a model of these data must agree with, under the names of its settings."""
        return {"grid": self.grid}

    def expect_window(self, window: Window) -> None:
        """Raise ValueError, with the remedy, when such clips cannot be cut from these data."""

    def windows(self) -> dict[str, dict[str, Any]]:
        """The clips worth counting, each as options of `ClipIndex.build`."""
        return {
            "blocks": {"kind": "blocks", "overlap": True},
            "block_pairs": {"kind": "block_pairs", "overlap": True},
            "block_pairs_apart": {"kind": "block_pairs", "overlap": False},
        }

    def facts(self) -> dict[str, Any]:
        """What only this kind has to tell, as plain values for JSON."""
        return {**self.sizes(), "grid": list(self.grid), "tokenizer": (self.tokenizer or {}).get("name")}

    def check(self) -> Iterator[Finding]:
        """What is wrong or worth knowing beside the shards."""
        yield from ()


def source_of(root: Path, index: int) -> str:
    """See `Shard.source`."""
    return str(read_json(METADATA.find(root, index)).get("source", ""))


def hash_of(facts: Any) -> str:
    """SHA-256 of plain values as hex."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_rows(path: Path, rows: np.ndarray, robot: Embodiment | None = None) -> Iterator[Finding]:
    """Whether rows (F, A) are finite, and which dimensions of a robot never change or leave its limits."""
    bad = first_row(rows, lambda part: ~np.isfinite(part))
    if bad is not None:
        yield Finding("error", str(path), f"row {bad} is not finite; repair or drop the shard")
        return
    if robot is None:
        return
    low, high = np.full(rows.shape[1], np.inf), np.full(rows.shape[1], -np.inf)
    for _, part in chunks(rows):
        low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
    if still := [name for name, a, b in zip(robot.names, low, high) if a == b]:
        yield Finding("note", str(path), f"never changes: {', '.join(still)}")
    for name, unit, a, b, (least, most) in zip(robot.names, robot.units, low, high, robot.limits):
        if min(a - least, most - b) < -0.01 * min(most - least, 10):  # a hundredth is the noise of a sensor
            fault = f"{name} goes from {a:.4g} to {b:.4g} {unit}, the robot's limits are {least:g} to {most:g}"
            yield Finding("warning", str(path), f"{fault}; check unit and order, or correct robot.toml")


def first_row(array: np.ndarray, wrong: Callable[[np.ndarray], np.ndarray], *, count: int | None = None) -> int | None:
    """Number of the first of all or `count` rows that holds something `wrong`, None where there is none."""
    for first, part in chunks(array, count=count):
        rows = wrong(part).reshape(len(part), -1).any(axis=1)
        if rows.any():
            return first + int(np.argmax(rows))
    return None


def chunks(array: np.ndarray, *, count: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive pieces of about 32 MiB of all or `count` rows, each with the position of its first row."""
    rows, end = max(1, CHUNK_BYTES // max(1, array[:1].nbytes)), len(array) if count is None else count
    for first in range(0, end, rows):
        yield first, read_rows(array, first, min(first + rows, end))


def last_picture(grids: np.ndarray, tokenizer: Decoder) -> np.ndarray:
    """Last frame, uint8 (H, W, 3), of one block of grids (T, ...)."""
    import torch  # only here: writing shards needs none of it

    with torch.inference_mode():
        last: np.ndarray = tokenizer.decode(torch.from_numpy(grids[None]))[0, -1].numpy()
    return last
