"""A dataset of recorded video written anew: as LeRobot v3.0, or in 1X's raw layout with square frames of one size.

Every recording, a segment of a shard, becomes an episode, or a shard of its own: tokens then begin with it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from hwm.config import to_toml
from hwm.data.dataset import hash_of
from hwm.data.onex import open_dataset
from hwm.data.raw import RawDataset, RawShard
from hwm.data.recordings.excerpt import WHOLE, View, excerpt
from hwm.data.recordings.lerobot_writer import LeRobotWriter
from hwm.data.writers import RawShardWriter, shard_finished, write_dataset_metadata
from hwm.robot import EVE
from hwm.work.claim import claimed, expect_apart
from hwm.work.files import new_folder, read_json, write_json, write_text

AT_ONCE = 64
"""Pictures in memory at a time."""
CONVERTED = "converted.json"


@dataclass(frozen=True)
class Recording:
    """Frames start..stop-1 of a shard.  number: of the episode or segment."""

    shard: RawShard
    number: int
    start: int
    stop: int


def convert(
    source: str | Path, out: str | Path, *, to: Literal["lerobot", "1x-raw"], view: View = WHOLE, size: int = 0,
    episodes: str = "", without: str = "", task: str = "", progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None, poll: Callable[[], None] = lambda: None,
) -> Path:  # fmt: skip
    """Write what is asked for of a dataset into a new folder of another layout, and return it.

    size: side in pixels of squares to which frames are resized, 0 keeps them.  episodes, without: recordings to write, and to
    leave out, such as "0-9,12" or "4%10", every tenth from the fifth on; "" is all, and none.  task: what the robot does, for
    LeRobot.  progress: called with (frames done, frames in all).  say: given a line for everything that was left out or assumed.
    poll: called between pictures, may raise; 1x-raw goes on from there when called again, a LeRobot folder appears when it is
    whole.  Raises ValueError, naming the file, for a faulty source and for options that do not fit it.
    """
    source, out = Path(source), Path(out)
    whole = open_dataset(source, view=View(view.camera, view.state, robot=view.robot))
    if not isinstance(whole, RawDataset):
        raise ValueError(f"{source}: holds {whole.kind}; only recorded video is converted")
    expect_apart(out, source)
    dataset = excerpt(whole, view, size=size)
    found = list(_recordings(dataset))
    chosen = [r for r in found if _among(r.number, episodes, True) and not _among(r.number, without, False)]
    if not chosen:
        raise ValueError(f"{source}: none of its {len(found)} recordings, {found[0].number} to {found[-1].number}, is chosen")
    height, width = dataset.grid
    counts = [r.stop - r.start for r in chosen]
    done = 0
    films: dict[int, tuple[Iterator[np.ndarray], int]] = {}

    def pieces(recording: Recording) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal done
        rows = recording.shard.read_states(np.arange(recording.start, recording.stop))
        film, at = films.get(recording.shard.index, (iter(()), recording.stop))
        if at > recording.start:
            film, at = recording.shard.iter_pictures(), 0
        pictures = islice(film, recording.start - at, recording.stop - at)
        while part := list(islice(pictures, AT_ONCE)):
            poll()
            taken, rows, done = rows[: len(part)], rows[len(part) :], done + len(part)
            yield np.stack(part), taken
            if progress is not None:
                progress(done, sum(counts))
        films.clear()
        films[recording.shard.index] = (film, recording.stop)
        if recording.stop == recording.shard.num_frames:
            next(film, None)  # to its end: frame and row are compared there

    def tell() -> None:
        for shard in dict.fromkeys(recording.shard for recording in chosen):
            for finding in shard.remarks():
                say(f"{finding.file}: {finding.message}")
        if "?" in dataset.robot.units:
            write = "write their units there (rad, deg, m/s, 0..1), copy it to the source as robot.toml, and convert anew"
            say(f"{out / 'robot.toml'}: names the states by the columns of the tables, in unknown units ('?'): {write}")

    if to == "lerobot":
        with new_folder(out) as building:
            tell()
            with LeRobotWriter(building, robot=dataset.robot, hz=dataset.hz, height=height, width=width) as writer:
                for recording in chosen:
                    writer.append(pieces(recording), task=task or "recorded motion")
            write_text(building / "robot.toml", to_toml(writer.robot))  # units, which the format has no place for
        return out
    with claimed(out, say=lambda line: None):
        made_of = hash_of([whole.fingerprint, asdict(view) | {"robot": None}, size, episodes, without])
        if not (out / CONVERTED).is_file():
            if any(path.name != ".lock" for path in out.iterdir()):
                raise ValueError(f"{out}: holds other files; choose a new folder")
            write_json(out / CONVERTED, {"of": made_of})
        elif read_json(out / CONVERTED).get("of") != made_of:
            raise ValueError(f"{out}: was begun from other data or with other options; choose a new folder")
        tell()
        if dataset.robot != EVE:
            write_text(out / "robot.toml", to_toml(dataset.robot))
        for index, recording in enumerate(chosen):
            if shard_finished(out, index):
                done += counts[index]
                continue
            with RawShardWriter(out, shard=index, height=height, width=width, hz=dataset.hz) as shard:
                for pictures, rows in pieces(recording):
                    shard.append(pictures, rows, index)
        write_dataset_metadata(out, num_shards=len(chosen), num_images=sum(counts), hz=dataset.hz)
    return out


def _recordings(dataset: RawDataset) -> Iterator[Recording]:
    place = 0
    for shard in dataset.shards:
        shard.check_segments()
        segments = np.asarray(shard.segments)
        borders = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(segments)]
        for start, stop in pairwise(borders):
            yield Recording(shard, shard.episode_number(int(segments[start]), place), start, stop)
            place += 1


def _among(number: int, text: str, empty: bool) -> bool:
    """Whether a number is one of "3", "0-9" or "4%10", several of them with commas between; `empty` for no text."""
    found = empty if not text.strip() else False
    for part in filter(None, map(str.strip, text.split(","))):
        if not (match := re.fullmatch(r"(\d{1,9})(?:([-%])(\d{1,9}))?", part)) or (match[2] == "%" and int(match[3]) == 0):
            raise ValueError(f"{part!r}: episodes are given as 3, 0-9 or 4%10, with commas between")
        first, sign, last = int(match[1]), match[2], int(match[3] or 0)
        found |= number == first if not sign else first <= number <= last if sign == "-" else number % last == first % last
    return found
