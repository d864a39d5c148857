"""A dataset of recorded video written anew: as LeRobot v3.0, or in 1X's raw layout with square frames of one size.

Every recording, a segment of a shard, becomes an episode, or a shard of its own: tokens then begin with it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation

from hwm.config import to_toml
from hwm.data.dataset import hash_of
from hwm.data.lerobot import open_lerobot
from hwm.data.lerobot_writer import LeRobotWriter
from hwm.data.onex import open_dataset, probe_kind
from hwm.data.raw import RawDataset, RawShard
from hwm.data.writers import RawShardWriter, shard_finished, write_dataset_metadata
from hwm.robot import EVE
from hwm.work.claim import claimed, expect_apart
from hwm.work.files import new_folder, read_json, write_json, write_text

AT_ONCE = 64
"""Pictures in memory at a time."""
CONVERTED = "converted.json"


@dataclass(frozen=True)
class View:
    """What of the source is written.

    camera, state: of a LeRobot dataset, see `open_lerobot`.  crop: "" keeps the picture, "centre" cuts the largest square,
    "pad" adds black to one, "x,y,w,h" cuts pixels.  size: side in pixels of squares after that, 0 keeps it.  hz: frames a
    second, of which the source's must be a multiple; 0: all.  episodes, without: recordings to write, and to leave out,
    such as "0-9,12" or "4%10", every tenth from the fifth on; "" is all, and none.
    """

    camera: str = ""
    state: Literal["observation.state", "action", "both"] = "observation.state"
    crop: str = ""
    size: int = 0
    hz: int = 0
    episodes: str = ""
    without: str = ""

    def opened(self, source: Path) -> RawDataset:
        """The dataset, open.  Raises ValueError for one of tokens or latents, and for options that mean nothing to it."""
        if probe_kind(source) == "lerobot":
            columns = ("observation.state", "action") if self.state == "both" else (self.state,)
            return open_lerobot(source, camera=self.camera, state=columns)
        if self.camera or self.state != View.state:
            raise ValueError(f"{source}: has one camera and one row of states a frame; camera and state are for LeRobot datasets")
        dataset: Any = open_dataset(source)
        if dataset.kind != "video":
            raise ValueError(f"{source}: holds {dataset.kind}; only recorded video is converted")
        return dataset


@dataclass(frozen=True)
class Recording:
    """Frames start..stop-1 of a shard.  number: of the episode or segment."""

    shard: RawShard
    number: int
    start: int
    stop: int


def convert(
    source: str | Path, out: str | Path, *, to: Literal["lerobot", "1x-raw"], view: View = View(), task: str = "",
    progress: Callable[[int, int], None] | None = None, poll: Callable[[], None] = lambda: None,
) -> Path:  # fmt: skip
    """Write what `view` takes of a dataset into a new folder of another layout, and return it.

    task: what the robot does, for LeRobot.  progress: called with (frames done, frames in all).  poll: called between
    pictures, may raise; 1x-raw goes on from there when called again, a LeRobot folder appears when it is whole.
    Raises ValueError, naming the file, for a faulty source and for options that do not fit it.
    """
    source, out = Path(source), Path(out)
    dataset = view.opened(source)
    expect_apart(out, source)
    every = _every(dataset.hz, view.hz, source)
    found = list(_recordings(dataset))
    chosen = [r for r in found if _among(r.number, view.episodes, True) and not _among(r.number, view.without, False)]
    if not chosen:
        raise ValueError(f"{source}: none of its {len(found)} recordings, {found[0].number} to {found[-1].number}, is chosen")
    frame = _Frame.of(dataset, view)
    counts = [-(-(r.stop - r.start) // every) for r in chosen]
    done = 0

    films: dict[int, tuple[Iterator[np.ndarray], int]] = {}

    def pieces(recording: Recording) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal done
        rows = recording.shard.read_states(np.arange(recording.start, recording.stop, every))
        film, at = films.get(recording.shard.index, (iter(()), recording.stop))
        if at > recording.start:
            film, at = recording.shard.iter_pictures(), 0
        # To its end: frame and row are compared there.
        pictures = islice(islice(film, recording.start - at, recording.stop - at), 0, None, every)
        while part := list(islice(pictures, AT_ONCE)):
            poll()
            taken, rows, done = rows[: len(part)], rows[len(part) :], done + len(part)
            yield np.stack([frame.cut(picture) for picture in part]), taken
            if progress is not None:
                progress(done, sum(counts))
        films.clear()
        films[recording.shard.index] = (film, recording.stop)
        if recording.stop == recording.shard.num_frames:
            next(film, None)

    if to == "lerobot":
        with new_folder(out) as building:
            shape = {"height": frame.height, "width": frame.width}
            with LeRobotWriter(building, robot=dataset.robot, hz=dataset.hz // every, **shape) as writer:
                for recording in chosen:
                    writer.append(pieces(recording), task=task or "recorded motion")
            write_text(building / "robot.toml", to_toml(dataset.robot))  # units, which the format has no place for
        return out
    with claimed(out, say=lambda line: None):
        made_of = hash_of([dataset.fingerprint, asdict(view)])
        if not (out / CONVERTED).is_file():
            if any(path.name != ".lock" for path in out.iterdir()):
                raise ValueError(f"{out}: holds other files; choose a new folder")
            write_json(out / CONVERTED, {"of": made_of})
        elif read_json(out / CONVERTED).get("of") != made_of:
            raise ValueError(f"{out}: was begun from other data or with other options; choose a new folder")
        if dataset.robot != EVE:
            write_text(out / "robot.toml", to_toml(dataset.robot))
        for index, recording in enumerate(chosen):
            if shard_finished(out, index):
                done += counts[index]
                continue
            with RawShardWriter(out, shard=index, height=frame.height, width=frame.width, hz=dataset.hz // every) as shard:
                for pictures, rows in pieces(recording):
                    shard.append(pictures, rows, index)
        write_dataset_metadata(out, num_shards=len(chosen), num_images=sum(counts), hz=dataset.hz // every)
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


def _every(hz: int, wanted: int, source: Path) -> int:
    if wanted and (wanted > hz or hz % wanted):
        rates = ", ".join(str(hz // n) for n in range(1, hz + 1) if hz % n == 0)
        raise ValueError(f"{source}: has {hz} frames a second, of which {wanted} cannot be taken evenly; choose one of {rates}")
    return hz // (wanted or hz)


def _among(number: int, text: str, empty: bool) -> bool:
    """Whether a number is one of "3", "0-9" or "4%10", several of them with commas between; `empty` for no text."""
    found = empty if not text.strip() else False
    for part in filter(None, map(str.strip, text.split(","))):
        if not (match := re.fullmatch(r"(\d{1,9})(?:([-%])(\d{1,9}))?", part)) or (match[2] == "%" and int(match[3]) == 0):
            raise ValueError(f"{part!r}: episodes are given as 3, 0-9 or 4%10, with commas between")
        first, sign, last = int(match[1]), match[2], int(match[3] or 0)
        found |= number == first if not sign else first <= number <= last if sign == "-" else number % last == first % last
    return found


@dataclass(frozen=True)
class _Frame:
    """How a picture is cut and resized.  box: x, y, width, height, which may leave the picture: black is outside."""

    box: tuple[int, int, int, int]
    height: int
    width: int

    @classmethod
    def of(cls, dataset: RawDataset, view: View) -> "_Frame":
        height, width = dataset.grid
        small, large = sorted((height, width))
        box = (0, 0, width, height)
        if view.crop in ("centre", "pad"):
            side = small if view.crop == "centre" else large
            box = ((width - side) // 2, (height - side) // 2, side, side)
        elif view.crop:
            match = re.fullmatch(r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})", view.crop)
            box = tuple(map(int, match.groups())) if match else (0, 0, 0, 0)  # type: ignore[assignment]
            if not (box[2] and box[3] and box[0] + box[2] <= width and box[1] + box[3] <= height):
                raise ValueError(f"crop {view.crop!r}: must be centre, pad or x,y,w,h inside frames of {width}x{height}")
        if view.size and box[2] != box[3]:
            raise ValueError(
                f"{dataset.root}: frames of {box[2]}x{box[3]} are not square; choose crop centre, pad or x,y,w,h before a size"
            )
        sides = (view.size or box[3], view.size or box[2])
        return cls(box, *(side - side % 2 for side in sides))

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) to (height, width, 3)."""
        x, y, width, height = self.box
        if min(x, y) < 0:
            picture = np.pad(picture, ((-min(y, 0),) * 2, (-min(x, 0),) * 2, (0, 0)))
            picture = np.pad(picture, ((0, max(0, height - picture.shape[0])), (0, max(0, width - picture.shape[1])), (0, 0)))
            x, y = max(x, 0), max(y, 0)
        picture = np.ascontiguousarray(picture[y : y + height, x : x + width])
        if (height, width) == (self.height, self.width):
            return picture
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        resized: np.ndarray = frame.reformat(self.width, self.height, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
        return resized
