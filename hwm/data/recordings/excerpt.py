"""What is taken of recorded video: which camera and states, which part of the picture, how many frames a second."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np

from hwm.data import video
from hwm.data.dataset import Decoder, Finding, hash_of
from hwm.data.raw import RawDataset, RawShard


@dataclass(frozen=True)
class View:
    """What of a recording is taken.

    camera, state: of a LeRobot dataset, see `open_lerobot`.  crop: "" keeps the picture, "centre" cuts the largest square,
    "pad" adds black to one, "x,y,w,h" cuts pixels.  hz: frames a second, of which the recording's must be a multiple; 0: all.
    robot: file that describes the robot of plain logs; None: robot.toml beside them, or what their tables say.
    """

    camera: str = ""
    state: Literal["observation.state", "action", "both"] = "observation.state"
    crop: str = ""
    hz: int = 0
    robot: Path | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The features of a LeRobot dataset that make a row of states."""
        return ("observation.state", "action") if self.state == "both" else (self.state,)


WHOLE = View()


@dataclass(frozen=True)
class Frame:
    """How a picture is cut and resized.  box: x, y, width, height, which may leave the picture: black is outside."""

    box: tuple[int, int, int, int]
    height: int
    width: int

    @classmethod
    def of(cls, dataset: RawDataset, crop: str, size: int = 0) -> "Frame":
        """size: side in pixels of squares; 0: as cut, less a row or column where that is odd, which video cannot be."""
        height, width = dataset.grid
        small, large = sorted((height, width))
        box = (0, 0, width, height)
        if crop in ("centre", "pad"):
            side = small if crop == "centre" else large
            box = ((width - side) // 2, (height - side) // 2, side, side)
        elif crop:
            match = re.fullmatch(r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})", crop)
            box = tuple(map(int, match.groups())) if match else (0, 0, 0, 0)  # type: ignore[assignment]
            if not (box[2] and box[3] and box[0] + box[2] <= width and box[1] + box[3] <= height):
                raise ValueError(f"crop {crop!r}: must be centre, pad or x,y,w,h inside frames of {width}x{height}")
        if size and box[2] != box[3]:
            raise ValueError(
                f"{dataset.root}: frames of {box[2]}x{box[3]} are not square; choose crop centre, pad or x,y,w,h before a size"
            )
        sides = (size or box[3], size or box[2])
        return cls(box, *(side - side % 2 for side in sides))

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) to (height, width, 3)."""
        x, y, width, height = self.box
        if min(x, y) < 0:
            picture = np.pad(picture, ((-min(y, 0),) * 2, (-min(x, 0),) * 2, (0, 0)))
            picture = np.pad(picture, ((0, max(0, height - picture.shape[0])), (0, max(0, width - picture.shape[1])), (0, 0)))
            x, y = max(x, 0), max(y, 0)
        return resize(np.ascontiguousarray(picture[y : y + height, x : x + width]), self.height, self.width)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3) to another height and width, by area."""
    if picture.shape[:2] == (height, width):
        return picture
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    resized: np.ndarray = video.in_rgb(frame, width, height).to_ndarray()
    return resized


@dataclass(frozen=True, kw_only=True)
class Excerpt(RawShard):
    """Of every segment of another shard each `step`th frame with its row, cut as `frame` says."""

    of: RawShard
    frame: Frame
    step: int

    @cached_property
    def _taken(self) -> np.ndarray:
        ids = np.asarray(self.of.segments)
        borders = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        return np.concatenate([np.arange(start, stop, self.step) for start, stop in pairwise(borders)])

    @cached_property
    def states(self) -> np.ndarray:
        return np.asarray(self.of.states)[self._taken]

    @cached_property
    def segments(self) -> np.ndarray:
        return np.asarray(self.of.segments)[self._taken]

    @property
    def masks_path(self) -> None:  # type: ignore[override]
        """None: what is cut here would not lie under the masks."""

    @property
    def commands_path(self) -> Path | None:
        return self.of.commands_path

    @cached_property
    def commands(self) -> np.ndarray | None:
        return None if self.of.commands is None else np.asarray(self.of.commands)[self._taken]

    @property
    def files(self) -> list[Path]:
        return self.of.files

    @property
    def fingerprint(self) -> str:
        return hash_of([self.of.fingerprint, asdict(self.frame), self.step])

    @property
    def probed(self) -> tuple[int, int, float]:
        return self.frame.height, self.frame.width, self.of.probed[2] / self.step

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames, in memory."""
        return np.stack(list(self.iter_pictures()))

    def iter_pictures(self) -> Iterator[np.ndarray]:
        taken, side = set(self._taken.tolist()), self.size
        for number, picture in enumerate(self.of.iter_pictures()):
            if number in taken:
                cut = self.frame.cut(picture)
                yield resize(cut, side, side) if side else cut

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        whole = video.thumbnails(self.video_path, count=count, size=max(self.of.probed[:2]))
        return [self.frame.cut(picture) for picture in whole]

    def episode_number(self, segment: int, place: int) -> int:
        return self.of.episode_number(segment, place)

    def remarks(self) -> Iterator[Finding]:
        return self.of.remarks()

    def check(self) -> Iterator[Finding]:
        return self.of.check()


def excerpt(dataset: RawDataset, view: View, *, size: int = 0) -> RawDataset:
    """A dataset of recorded video as `view` takes it.  size: side in pixels of squares to which frames are resized, 0 keeps them.

    Raises ValueError for a crop or a rate that does not fit it.
    """
    step, frame = _step(dataset, view.hz), Frame.of(dataset, view.crop, size)
    shards = []
    for shard in dataset.shards:
        plain = {name: getattr(shard, name) for name in RawShard.__dataclass_fields__} | {"hz": dataset.hz // step}
        part = Excerpt(**plain, of=shard, frame=frame, step=step)
        shards.append(replace(part, num_frames=len(part._taken)))
    return replace(dataset, shards=tuple(shards), hz=dataset.hz // step)


def _step(dataset: RawDataset, wanted: int) -> int:
    hz = dataset.hz
    if wanted and (wanted > hz or hz % wanted):
        rates = ", ".join(str(hz // n) for n in range(1, hz + 1) if hz % n == 0)
        told = f"has {hz} frames a second, of which {wanted} cannot be taken evenly; choose one of {rates}"
        raise ValueError(f"{dataset.root}: {told}")
    return hz // (wanted or hz)
