"""Raw shards that tokenizing leaves out because they are damaged, and the account of their clips.

Every such shard has a small file of its own, `quarantine/quarantine_{i}.json`, so that processes never write to one file.
Who finishes the dataset merges them, in the order of the shards, into `quarantine.jsonl`: a line per raw shard with
`shard` (its number), `file` and `reason`, `frame` (the first that is faulty, where known), `frames` (of the whole shard by its
metadata) and `clips` (how many the dataset lacks because of it; null where the damage leaves that unknown).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from hwm.clock import Clock
from hwm.data.checksums import verify
from hwm.data.dataset import Shard, ShardFault
from hwm.data.layout import METADATA, SEGMENTS, FileKind
from hwm.data.windows import check_segments, sampling_starts, usable_blocks
from hwm.safe_load.text import expect_fields, parse_json, read_text
from hwm.work.files import atomic_path, map_array, read_json, read_rows

RECORDS = FileKind(("quarantine",), "quarantine", ".json")
NAME = "quarantine.jsonl"
MAX_BYTES = 16_000_000


@dataclass(frozen=True)
class Rule:
    """Which clips are made of a raw shard: whole blocks from each of `phases` first frames, or, `every` > 0, sampling clips."""

    clock: Clock
    phases: int
    every: int

    def offset(self, phase: int) -> int:
        """First frame of a phase."""
        return phase * 17 // self.phases

    def cut_from(self, target: int) -> tuple[int, int]:
        """Of a shard made by this rule the number of the raw shard, and its first frame there."""
        return target // self.phases, self.offset(target % self.phases)

    def count(self, segments: np.ndarray, phase: int, path: Path) -> int:
        """Clips of one phase, of a whole raw shard's segment ids (F,).  Raises ValueError when the ids decrease."""
        check_segments(segments, path)
        if self.every:
            return len(sampling_starts(segments, every=self.every, path=path))
        return int(usable_blocks(segments[self.offset(phase) :], self.clock).sum())

    def counts(self, shard: Shard) -> list[int]:
        """Clips of every phase of a raw shard.  Raises ValueError when its segments cannot be read."""
        segments = np.array(read_rows(shard.segments, 0, shard.num_frames))
        return [self.count(segments, phase, shard.segments_path) for phase in range(self.phases)]


def put(out: Path, fault: ShardFault, *, raw: Path, rule: Rule) -> None:
    """Record a fault of the shard `fault.shard` of dataset `raw`."""
    assert fault.shard is not None
    path, _, reason = str(fault).partition(": ")
    frames, clips = _loss(raw, fault.shard, rule)
    record = {
        "shard": fault.shard,
        "file": Path(path).relative_to(raw).as_posix() if Path(path).is_relative_to(raw) else path,
        "reason": reason.replace(f"{raw}/", ""),
        "frame": fault.frame,
        "frames": frames,
        "clips": clips,
    }
    with atomic_path(RECORDS.place(out, fault.shard, flat=False)) as temporary:
        temporary.write_text(json.dumps(record))


def take_back(out: Path, shard: int) -> None:
    """Forget the fault of a shard, which is about to be tried again."""
    RECORDS.place(out, shard, flat=False).unlink(missing_ok=True)


def recorded(out: Path) -> list[int]:
    """Raw shards that are recorded as faulty, in order."""
    return RECORDS.indices(out)


def merge(out: Path, *, missing: Callable[[int, int], bool]) -> None:
    """Write `quarantine.jsonl` from the records, or remove it where there are none.

    missing: whether the dataset lacks what (raw shard, phase) would give; only such clips count as lost.
    """
    lines = []
    for shard in recorded(out):
        path = RECORDS.find(out, shard)
        record, remedy = read_json(path), "delete it, and the shard is tried again"
        expect_fields(record, path, clips=(list, NoneType), remedy=remedy)
        for count in record["clips"] or ():
            expect_fields({"clips": count}, path, clips=int, remedy=remedy)
        if record["clips"] is not None:
            record["clips"] = sum(count for phase, count in enumerate(record["clips"]) if missing(shard, phase))
        lines.append(json.dumps(record) + "\n")
    if lines:
        with atomic_path(out / NAME) as temporary:
            temporary.write_text("".join(lines))
    else:
        (out / NAME).unlink(missing_ok=True)


def read_quarantine(root: str | Path) -> list[dict[str, Any]]:
    """The lines of `quarantine.jsonl`, none where there is no such file.  Raises ValueError, naming it, when it is damaged."""
    path = Path(root) / NAME
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(read_text(path, max_bytes=MAX_BYTES, kind="a quarantine").splitlines(), 1):
        row = parse_json(line, where=f"{path}: line {number}", remedy="tokenize again")
        clips = row.get("clips", "") if isinstance(row, dict) else ""
        if not isinstance(row, dict) or type(row.get("shard")) is not int or not (clips is None or type(clips) is int):
            raise ValueError(f"{path}: line {number} is no record of a faulty shard; tokenize again")
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Account:
    """Clips of the raw data, of the finished dataset, and lost in its quarantine; `unknown`: shards whose loss is unknown."""

    given: int
    made: int
    lost: int
    unknown: int
    shards: int

    def __str__(self) -> str:
        text = f"clips: {self.given} in = {self.made} out + {self.lost} in {self.shards} faulty shards"
        if not self.shards:
            text = f"clips: {self.given} in = {self.made} out"
        return text + f" (not counting {self.unknown} whose clips cannot be counted)" * bool(self.unknown)


def _loss(raw: Path, shard: int, rule: Rule) -> tuple[int | None, list[int] | None]:
    """Frames by the shard's metadata and clips by its segments, of what the damage leaves readable."""
    frames: int | None = None
    try:
        about = read_json(METADATA.find(raw, shard))
        frames = about["shard_num_frames"] if type(about.get("shard_num_frames")) is int else None
        path = SEGMENTS.find(raw, shard)
        damaged = [str(fault) for fault in verify(raw, only=shard)]
        if frames is None or any(f"{kind.name(shard)}: " in text for text in damaged for kind in (SEGMENTS, METADATA)):
            return frames, None  # what reads well need not be what was written
        segments = map_array(path, "<i4", (frames,), "by its metadata")
        return frames, [rule.count(segments, phase, path) for phase in range(rule.phases)]
    except (ValueError, OSError):
        return frames, None
