"""LeRobot datasets, v2.0 to v3.0, read where they lie: Parquet rows and one camera's videos (reference 2e; lerobot 0.4).

A shard is a video file: of one episode in v2, of several in v3.  Frame k of an episode is the file's frame
round(from_timestamp x fps) + k, counted by decoding, never sought by time, and belongs to the episode's row k.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hwm.data.dataset import Finding, ShardFault, collecting, raised
from hwm.data.raw import RawDataset, RawShard
from hwm.robot import ROBOTS, Embodiment, read_embodiment
from hwm.safe_load.paths import inside, shown
from hwm.safe_load.tables import expect_content, read_columns
from hwm.safe_load.text import parse_json, read_bytes, read_json
from hwm.safe_load.video import promised_frames

INFO, EPISODES = "meta/info.json", "meta/episodes.jsonl"
VERSIONS = ("v2.0", "v2.1", "v3.0")
STATE, ACTION = "observation.state", "action"
OTHER_NAMES = {STATE: "state", ACTION: "actions"}
"""What some writers call these features."""
MAX_LINES_BYTES = 1_000_000_000
DRIFT = 2
"""Frames by which a file's time stamps may have drifted from its frames, which are counted."""


@dataclass(frozen=True)
class Episode:
    """One recording.  rows, video: the files that hold it.  first: its first frame in the video, as its time says."""

    index: int
    length: int
    rows: Path
    video: Path
    first: int


@dataclass(frozen=True)
class LeRobotShard(RawShard):
    """One video file and the rows of its episodes, in the order in which it shows them.  state: names of the columns read.

    action: of the column of commands, "" where there is none as wide as the states.
    """

    episodes: tuple[Episode, ...] = ()
    state: tuple[str, ...] = (STATE,)
    action: str = ""

    @property
    def commands_path(self) -> Path | None:
        return self.episodes[0].rows if self.action else None

    @cached_property
    def commands(self) -> np.ndarray | None:
        return replace(self, state=(self.action,)).states if self.action else None

    @property
    def files(self) -> list[Path]:
        return [self.video_path, *dict.fromkeys(episode.rows for episode in self.episodes)]

    @cached_property
    def segments(self) -> np.ndarray:
        """Number of the episode within the file, for every frame, int32 (F,)."""
        return np.repeat(np.arange(len(self.episodes), dtype=np.int32), [episode.length for episode in self.episodes])

    def episode_number(self, segment: int, place: int) -> int:
        return self.episodes[segment].index

    @cached_property
    def states(self) -> np.ndarray:
        """Robot states (F, A) float32 of the episodes' rows.  Raises ShardFault, naming the episode, where they do not fit."""
        width = self.robot.dim // len(self.state)
        wanted = {"episode_index": 0, "frame_index": 0, "timestamp": 0} | dict.fromkeys(self.state, width)
        tables = {path: read_columns(path, wanted) for path in dict.fromkeys(episode.rows for episode in self.episodes)}
        return np.concatenate([self._rows_of(episode, tables[episode.rows]) for episode in self.episodes]).astype(np.float32)

    def _rows_of(self, episode: Episode, rows: dict[str, np.ndarray]) -> np.ndarray:
        mine = np.flatnonzero(rows["episode_index"] == episode.index)
        where = f"{episode.rows}: episode {episode.index}"
        if len(mine) != episode.length:
            fault = f"has {len(mine)} rows, meta/ says {episode.length} frames"
            raise ShardFault(f"{where} {fault}; fetch or convert it again", shard=self.index)
        mine = mine[np.argsort(rows["frame_index"][mine], kind="stable")]
        times = rows["timestamp"][mine]
        counted = rows["frame_index"][mine] == np.arange(episode.length)
        paced = np.abs(times - times[0] - np.arange(episode.length) / self.hz) < 0.5 / self.hz
        for name, fine in (("frame_index", counted), ("timestamp", paced)):
            if not fine.all():
                at = int(np.argmin(fine))
                fault = f"{name} is {rows[name][mine[at]]:g} in row {at}, not what {self.hz} frames a second give"
                raise ShardFault(f"{where}: {fault}; record or convert it again", shard=self.index, frame=at)
        return np.concatenate([rows[name][mine] for name in self.state], 1)

    def check_sizes(self) -> None:
        """Raise ValueError, naming the episode, unless the file holds the frames of its episodes one after the other."""
        expect_content(self.video_path) if self.video_path.is_file() else None
        found, end = promised_frames(self.video_path), 0
        for episode in self.episodes:
            if abs(episode.first - end) > DRIFT:
                fault = f"episode {episode.index} begins at frame {episode.first} by its time, the one before ends at {end}"
                raise ValueError(f"{self.video_path}: {fault}; fetch or convert it again")
            end += episode.length
            if end > found:
                fault = f"has {found} frames, episode {episode.index} ends at frame {end}"
                raise ValueError(f"{self.video_path}: {fault}; fetch or convert it again")
        if found > end:
            fault = f"has {found} frames, its episodes, the last is {self.episodes[-1].index}, have {end}"
            raise ValueError(f"{self.video_path}: {fault}; fetch or convert it again")

    def check_states(self) -> Iterator[Finding]:
        yield from raised(lambda: self.states)
        yield from super().check_states()


def is_lerobot(root: Path) -> bool:
    """Whether a folder looks like one."""
    return (root / INFO).is_file()


def open_lerobot(
    root: Path, *, camera: str = "", state: Sequence[str] = (STATE,), faults: list[ValueError] | None = None
) -> RawDataset:
    """Open a LeRobot folder as a dataset of recorded video.

    camera: name of a video feature or its last part; "" is the only one.  state: the features that make a state row.
    faults: as in `onex.open_dataset`.  Raises ValueError naming file, episode and remedy.
    """
    info = read_json(root / INFO)
    version, hz, features = info.get("codebase_version"), info.get("fps"), info.get("features")
    if version not in VERSIONS:
        remedy = "convert it with the format's own tools"
        raise ValueError(f"{root / INFO}: codebase_version is {shown(version)}, {', '.join(VERSIONS)} are read; {remedy}")
    if not isinstance(hz, int | float) or not 1 <= hz <= 1000 or hz != int(hz):
        raise ValueError(f"{root / INFO}: expected whole frames a second under 'fps', found {shown(hz)}")
    if not isinstance(features, dict) or not all(isinstance(about, dict) for about in features.values()):
        raise ValueError(f"{root / INFO}: expected a table under 'features'; fetch it again")
    seen = _camera(root, features, camera)
    state = tuple(name if name in features else OTHER_NAMES.get(name, name) for name in state)
    robot = _robot(root, info, features, state)
    named = next((name for name in (ACTION, OTHER_NAMES[ACTION]) if name in features), "")
    action = named if features.get(named, {}).get("shape") == [robot.dim] and named not in state else ""
    episodes = (_episodes_v3 if version == "v3.0" else _episodes_v2)(root, info, seen, int(hz))
    files: dict[Path, list[Episode]] = {}
    for episode in episodes:
        files.setdefault(episode.video, []).append(episode)
    shards = []
    for index, (path, shown_there) in enumerate(files.items()):
        shown_there.sort(key=lambda episode: episode.first)
        shard = LeRobotShard(
            root, index, sum(episode.length for episode in shown_there), path, shown_there[0].rows, shown_there[0].rows, robot,
            int(hz), episodes=tuple(shown_there), state=state, action=action,
        )  # fmt: skip
        with collecting(faults, shard=index):
            shard.check_sizes()
            shards.append(shard)
    return RawDataset(root, tuple(shards), int(hz), robot)


def _camera(root: Path, features: dict[str, Any], asked: str) -> str:
    """The video feature that is asked for."""
    cameras = [name for name, about in features.items() if about.get("dtype") == "video"]
    pictures = [name for name, about in features.items() if about.get("dtype") == "image"]
    if not cameras:
        what = f"keeps {', '.join(map(shown, pictures))} as single pictures" if pictures else "has no camera"
        raise ValueError(f"{root / INFO}: {what}; only video features are read: convert it to video")
    found = [name for name in cameras if asked in ("", name, name.rpartition(".")[2])]
    if len(found) != 1:
        fault = f"has no camera {shown(asked)!r}" if asked else "has several cameras"
        raise ValueError(f"{root / INFO}: {fault}; choose one of {', '.join(map(shown, cameras))}")
    return found[0]


def _robot(root: Path, info: dict[str, Any], features: dict[str, Any], state: tuple[str, ...]) -> Embodiment:
    """What the rows mean: by robot.toml beside the data, a known robot of that type, or the features' own names."""
    names: list[str] = []
    parts: list[tuple[str, ...]] = []  # names that the features themselves give
    usual = {other: name for name, other in OTHER_NAMES.items()}
    for feature in state:
        called = usual.get(feature, feature)
        about = features.get(feature, {})
        shape = about.get("shape")
        if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or not 0 < shape[0] <= 4096:
            numbers = (name for name, other in features.items() if str(other.get("dtype")).startswith("float"))
            known = ", ".join(shown(name) for name in numbers if name != "timestamp") or "none at all"
            fault = f"has no row of numbers {shown(called)!r}, only {known}"
            raise ValueError(f"{root / INFO}: {fault}; choose another --state, or rename it here and in the tables")
        own = _flat(about.get("names"))
        if len(own) == shape[0]:
            parts.append(tuple(own))
        else:
            own = [f"{feature.rpartition('.')[2]}_{i}" for i in range(shape[0])]
        names += own if len(state) == 1 else [f"{called}.{name}" for name in own]
    kind = re.sub(r"[^a-z0-9]+", "-", str(info.get("robot_type") or "robot").lower()).strip("-") or "robot"
    for path in (root / "robot.toml", ROBOTS / f"{kind}.toml"):
        if path.is_file():
            robot = read_embodiment(path)
            if len(state) > 1 and len(names) == len(state) * robot.dim and {robot.names}.issuperset(parts):
                robot = robot.repeated([usual.get(feature, feature) for feature in state])
            if robot.names == tuple(names) or (not parts and robot.dim == len(names)):
                return robot
    if (root / "robot.toml").is_file():
        raise ValueError(f"{root / 'robot.toml'}: its names are not the {len(names)} of {', '.join(state)} in {INFO}; correct it")
    count = len(names)
    return Embodiment(kind, tuple(names), ("",) * count, (), (0.0,) * count, (1.0,) * count)


def _flat(names: Any) -> list[str]:
    """Names of a feature, which stand in a list, in a list of lists or in a table of them."""
    if isinstance(names, dict):
        names = list(names.values())
    if not isinstance(names, list):
        return []
    return [name for part in names for name in (_flat(part) if isinstance(part, list | dict) else [str(part)])]


def _episodes_v2(root: Path, info: dict[str, Any], camera: str, hz: int) -> list[Episode]:
    source = root / EPISODES
    lines = read_bytes(source, max_bytes=MAX_LINES_BYTES, kind="list of episodes").splitlines()
    found, size = [], _whole(info, "chunks_size", root / INFO)
    for number, line in enumerate(lines):
        about = parse_json(line, where=f"{source}: line {number + 1}")
        if not isinstance(about, dict):
            raise ValueError(f"{source}: line {number + 1}: expected a JSON object; fetch it again")
        index, length = _whole(about, "episode_index", source, least=0), _whole(about, "length", source)
        place = {"episode_chunk": index // size, "episode_index": index, "video_key": camera}
        rows, video = (_placed(root, info, key, place) for key in ("data_path", "video_path"))
        found.append(Episode(index, length, rows, video, 0))
    return _all_there(root, info, found, source)


def _episodes_v3(root: Path, info: dict[str, Any], camera: str, hz: int) -> list[Episode]:
    found: list[Episode] = []
    tables = sorted((root / "meta/episodes").rglob("*.parquet"))
    if not tables:
        raise ValueError(f"{root / 'meta/episodes'}: holds no table of episodes; fetch it again")
    seen = f"videos/{camera}"
    for path in tables:
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        names += [f"{seen}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        table = read_columns(path, dict.fromkeys(names, 0))
        for row in zip(*(table[name].tolist() for name in names)):
            index, length, chunk, file, video_chunk, video_file, start = row
            if min(index, chunk, file, video_chunk, video_file) < 0 or length < 1 or not 0 <= start < 1e7:
                raise ValueError(f"{path}: episode {index} has impossible numbers {row}; fetch or convert it again")
            rows = _placed(root, info, "data_path", {"chunk_index": chunk, "file_index": file})
            video_place = {"chunk_index": video_chunk, "file_index": video_file, "video_key": camera}
            video = _placed(root, info, "video_path", video_place)
            found.append(Episode(index, length, rows, video, round(start * hz)))
    return _all_there(root, info, found, tables[0])


def _all_there(root: Path, info: dict[str, Any], found: list[Episode], source: Path) -> list[Episode]:
    """In order.  Raises ValueError, naming the episode, for one that stands twice, is missing or has no file."""
    found = sorted(found, key=lambda episode: episode.index)
    count = _whole(info, "total_episodes", root / INFO)
    numbers = [episode.index for episode in found]
    if (double := next((a for a, b in pairwise(numbers) if a == b), None)) is not None:
        raise ValueError(f"{source}: episode {double} stands twice; fetch or convert it again")
    if numbers != list(range(count)):
        gap = next((n for n in range(count) if n not in set(numbers)), max(numbers, default=0))
        fault = f"episode {gap} is missing" if gap < count else f"lists episode {gap}"
        raise ValueError(f"{source}: {fault}, total_episodes in {INFO} is {count}; fetch or convert it again")
    for episode in found:
        for path in (episode.rows, episode.video):
            if not path.is_file():
                raise ValueError(f"{path}: no such file, episode {episode.index} needs it; fetch the rest of the dataset")
    return found


def _placed(root: Path, info: dict[str, Any], key: str, numbers: dict[str, Any]) -> Path:
    """The file of a template such as "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", inside the folder."""

    def filled(match: re.Match[str]) -> str:
        value = numbers.get(match[1])
        if value is None:
            raise ValueError(f"{root / INFO}: {key} names {match[1]!r}, which is none of {', '.join(numbers)}; fetch it again")
        return str(value).zfill(int(match[2] or 0))

    name = re.sub(r"\{(\w+)(?::0?(\d{1,2})d)?\}", filled, str(info.get(key)))
    path, (top, _, rest) = inside(root, name, source=root / INFO), name.partition("/")
    if not path.is_file() and top in ("video", "videos"):  # some writers name the folder otherwise than their own info.json
        twin = inside(root, f"{'video' if top == 'videos' else 'videos'}/{rest}", source=root / INFO)
        return twin if twin.is_file() else path
    return path


def _whole(table: dict[str, Any], key: str, path: Path, *, least: int = 1) -> int:
    value = table.get(key)
    if type(value) is not int or not least <= value <= 10**9:
        raise ValueError(f"{path}: expected a whole number of at least {least} under {key!r}, found {shown(value)}")
    return value
