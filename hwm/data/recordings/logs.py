"""Plain logs of any robot: videos and tables of the same names, such as a.mp4 and a.csv, their rows brought to the frames.

The first row belongs to the first frame.  When a row was measured is told by a column of times, by the robot's `hz`, or else
there is a row a frame.  A row that is no number, or whose time does not come after the one before, is left out and told by its
number.  The states of a frame lie on the straight line between the rows around it, angles on the shorter way round; a frame is
left out where these rows lie too far apart, or more than a row before the first or after the last: nothing is guessed there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hwm.data import video
from hwm.data.dataset import Finding, ShardFault
from hwm.data.raw import RawDataset, RawShard
from hwm.robot import Embodiment, read_embodiment
from hwm.safe_load.paths import shown
from hwm.safe_load.tables import Table, read_table
from hwm.safe_load.video import promised_frames
from hwm.work.files import read_rows

FILMS, TABLES = (".mp4", ".mkv", ".mov", ".avi", ".webm"), (".csv", ".parquet", ".npz")
PAIR = "every recording is a video and a table of one name, such as a.mp4 and a.csv"
ROBOT = "robot.toml"
TIME = re.compile(r"(time|t|timestamps?|stamp|seconds|secs?)(_(s|ms|us|ns))?", re.IGNORECASE)
COUNTERS = re.compile(r"(row|step|index|frame|frame_index|frame_number|episode|episode_index)", re.IGNORECASE)
"""Columns that number things and are taken for states only where a robot's file names them."""
UNITS = {"ms": 1e-3, "us": 1e-6, "ns": 1e-9}
DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}:\d{2}|timestamp|date")
GAP = 2.5
"""So many usual steps of rows, or frames, may lie between the rows around a frame."""
MAX_BAD = 0.1
"""Of a recording's rows; with more of them bad something else is wrong."""


@dataclass(frozen=True)
class Rows:
    """The rows of one table at the frames of its video.

    taken: numbers of the frames that have states, (F,).  states: (F, A) float32.  num_frames: of the video.
    remarks: what was left out, in words.
    """

    taken: np.ndarray
    states: np.ndarray
    num_frames: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class LogShard(RawShard):
    """One recording: a video, and as `states_path` its table."""

    @cached_property
    def rows(self) -> Rows:
        return _rows(self.states_path, self.video_path, self.robot)

    @property
    def states(self) -> np.ndarray:  # type: ignore[override]
        return self.rows.states

    @cached_property
    def segments(self) -> np.ndarray:
        """A number for every run of frames without a gap, int32 (F,)."""
        return np.cumsum(np.diff(self.rows.taken, prepend=self.rows.taken[:1]) > 1, dtype=np.int32)

    @property
    def stored(self) -> np.ndarray:
        return np.zeros(self.rows.num_frames, np.int32)

    @property
    def files(self) -> list[Path]:
        return [self.video_path, self.states_path]

    def read(self, start: int, frames: int) -> np.ndarray:
        taken = self.rows.taken[start : start + frames]
        return read_rows(self.frames, int(taken[0]), int(taken[-1]) + 1)[taken - taken[0]]

    def iter_pictures(self) -> Iterator[np.ndarray]:
        taken = set(self.rows.taken.tolist())
        return (picture for number, picture in enumerate(super().iter_pictures()) if number in taken)

    def episode_number(self, segment: int, place: int) -> int:
        return self.index

    def remarks(self) -> Iterator[Finding]:
        for remark in self.rows.remarks:
            yield Finding("warning", str(self.states_path), remark)

    def check_sizes(self) -> None:
        pass  # compared when the rows were brought to the frames

    def check_states(self) -> Iterator[Finding]:
        yield from self.remarks()
        yield from super().check_states()


def is_logs(root: Path) -> bool:
    """Whether a folder looks like one: 1X's layouts and LeRobot have no such tables at their top."""
    return not (root / "metadata.json").is_file() and any(path.suffix.lower() in TABLES for path in root.iterdir())


def open_logs(root: Path, *, robot: Path | None = None, faults: list[ValueError] | None = None) -> RawDataset:
    """Open a folder of plain logs as a dataset of recorded video.

    robot: the file that describes the robot; None: robot.toml in the folder, or else the columns of the first table, in units
    that nobody knows.  faults: as in `onex.open_dataset`.  Raises ValueError naming the file, the row or column, and the remedy.
    """
    pairs: dict[str, dict[str, Path]] = {}
    problems: list[ShardFault] = []
    for path in sorted(root.iterdir()):
        for what, suffixes in (("video", FILMS), ("table", TABLES)):
            if path.suffix.lower() in suffixes:
                other = pairs.setdefault(path.stem, {}).setdefault(what, path)
                if other != path:
                    raise ValueError(f"{path}: {other.name} is another {what} of that recording; {PAIR}: move one elsewhere")
    if not pairs:
        raise ValueError(f"{root}: holds neither videos nor tables; {PAIR}")
    about = robot or root / ROBOT
    known = read_embodiment(about) if robot is not None or about.is_file() else None
    first = next((pair["table"] for pair in pairs.values() if len(pair) == 2), None)
    shards: list[LogShard] = []
    for index, (stem, pair) in enumerate(pairs.items()):
        try:
            if len(pair) < 2:
                (what, path), *_ = pair.items()
                alike = next((p["video"].name for s, p in pairs.items() if "video" in p and s != stem and s.startswith(stem)), "")
                hint = f" ({alike} is called otherwise)" if alike else ""
                wanted = f"{stem}.csv" if what == "video" else f"{stem}.mp4"
                raise ValueError(f"{path}: there is no {wanted} beside it{hint}; {PAIR}")
            known = known or _guessed(root, first or pair["table"])
            hz = round(video.probe(pair["video"])[2])
            if not 1 <= hz <= 1000:
                raise ValueError(f"{pair['video']}: plays at {hz} frames a second; record it at a constant rate")
            if shards and hz != shards[0].hz:
                fault = f"plays at {hz} frames a second, {shards[0].video_path.name} at {shards[0].hz}"
                raise ValueError(f"{pair['video']}: {fault}; keep recordings of other rates in folders of their own")
            shard = LogShard(root, index, 0, pair["video"], pair["table"], pair["table"], known, hz)
            found = shard.rows
            shard = LogShard(root, index, len(found.taken), pair["video"], pair["table"], pair["table"], known, hz)
            vars(shard)["rows"] = found  # read once
            shards.append(shard)
        except ValueError as error:
            problems.append(ShardFault(str(error), shard=index))
    if problems and faults is None:
        raise problems[0]
    if not shards or known is None:
        raise problems[0]
    (faults if faults is not None else []).extend(problems)
    return RawDataset(root, tuple(shards), shards[0].hz, known)


def _guessed(root: Path, path: Path) -> Embodiment:
    """The robot that a table's columns speak of: all columns of numbers but times and counters."""
    table = read_table(path)
    names = tuple(n for n in table.numbers if n not in table.words and not TIME.fullmatch(n) and not COUNTERS.fullmatch(n))
    if not names:
        raise ValueError(f"{path}: has no column of numbers beside times; a state of the robot is a column with its name")
    name = re.sub(r"[^a-z0-9]+", "-", root.absolute().name.lower()).strip("-") or "robot"
    return Embodiment(name, names, ("?",) * len(names), (), (0.0,) * len(names), (1.0,) * len(names))


def _rows(path: Path, film: Path, robot: Embodiment) -> Rows:
    """The states at the frames of a video.  Raises ValueError, naming the table's row or column, where there are none."""
    table, rate, num_frames = read_table(path), video.probe(film)[2], promised_frames(film)
    if (missing := next((name for name in robot.names if name not in table.numbers), None)) is not None:
        has = ", ".join(map(shown, table.numbers))
        raise ValueError(f"{path}: has no column {shown(missing)!r}, a state of {robot.name}; it has {shown(has)}; "
                         f"rename the column, or give another {ROBOT}")  # fmt: skip
    if num_frames < 1 or table.num_rows < 2:
        raise ValueError(f"{path}: {table.num_rows} rows for {num_frames} frames of {film.name}; record or fetch it again")
    values = np.stack([table.numbers[name] for name in robot.names], 1)
    times, name = _times(path, table, robot, rate, num_frames, film)
    good = _good(times, values)
    bad, number, remarks = np.flatnonzero(~good).tolist(), "line" if table.first else "row", list[str]()
    if bad:
        why = _why(bad[0], table, times, values, robot, name)
        told = ", ".join(str(row + table.first) for row in bad[:10]) + ", ..." * (len(bad) > 10)
        if len(bad) > MAX_BAD * len(good):
            first = f"{len(bad)} of {len(good)} rows are no use, the first in {number} {bad[0] + table.first} ({why})"
            raise ValueError(f"{path}: {first}; repair the table")
        remarks.append(f"left out {number} {told} ({why})")
    times, values = times[good], values[good]
    times = times - times[0]
    span, lasts = float(times[-1]), (num_frames - 1) / rate
    if not 0.5 * lasts - 1 <= span <= 2 * lasts + 1:
        fault = f"its rows cover {span:.4g} s, {film.name} lasts {lasts:.4g} s"
        raise ValueError(f"{path}: {fault}; times are in seconds, or in a column called time_ms, time_us or time_ns")
    moments = np.arange(num_frames) / rate
    step = float(np.median(np.diff(times)))
    after = np.clip(np.searchsorted(times, moments, side="left"), 1, len(times) - 1)
    near = (times[after] - times[after - 1]) <= GAP * max(step, 1 / rate)
    beyond = np.maximum(times[0] - moments, moments - times[-1]) > max(step, 1 / rate) * (1 + 1e-6)
    exact = np.isclose(times[after], moments, atol=1e-6)
    taken = np.flatnonzero((near | exact) & ~beyond)
    if not len(taken):
        raise ValueError(f"{path}: no frame of {film.name} lies between rows; record them at a steadier rate")
    if lost := num_frames - len(taken):
        at = int(np.setdiff1d(np.arange(num_frames), taken)[0])
        remarks.append(f"left out {lost} frames of {film.name}, the first is frame {at}: no rows lie close to them")
    if span - lasts > max(1.0, 0.05 * lasts):
        remarks.append(f"its rows go on for {span - lasts:.3g} s after the last frame of {film.name}")
    columns = [_between(times, values[:, i], moments[taken], unit) for i, unit in enumerate(robot.units)]
    return Rows(taken, np.stack(columns, 1).astype(np.float32), num_frames, tuple(remarks))


def _times(
    path: Path, table: Table, robot: Embodiment, rate: float, num_frames: int, film: Path
) -> tuple[np.ndarray, str]:
    """When every row was measured, in seconds, and by which column."""
    found = [n for n in table.numbers if n not in robot.names and (n == robot.time if robot.time else TIME.fullmatch(n))]
    if len(found) > 1:
        named = ", ".join(map(shown, found))
        raise ValueError(f'{path}: has several columns of times, {named}; say which in {ROBOT}: time = "{shown(found[0])}"')
    if robot.time and not found:
        raise ValueError(f"{path}: has no column {shown(robot.time)!r}, which {ROBOT} names for the times; correct one of them")
    if found:
        name = found[0]
        row, word = table.words.get(name, (0, ""))
        if word and (DATE.search(word.lower()) or not np.isfinite(table.numbers[name]).any()):
            at = f"line {row + table.first}" if table.first else f"row {row}"
            raise ValueError(f"{path}: {at}, column {shown(name)!r}: {shown(word)!r} is no time in seconds; "
                             "write seconds as numbers, since any moment")  # fmt: skip
        unit = re.fullmatch(r".*_(ms|us|ns)", name.lower())
        return table.numbers[name] * (UNITS[unit[1]] if unit else 1.0), name
    if robot.hz:
        return np.arange(table.num_rows) / robot.hz, ""
    if table.num_rows != num_frames:
        raise ValueError(f"{path}: has {table.num_rows} rows and no column of times, {film.name} has {num_frames} frames; "
                         f"add a column called time, in seconds, or say hz = rows a second in {ROBOT}")  # fmt: skip
    return np.arange(table.num_rows) / rate, ""


def _good(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which rows are numbers and come after all good ones before them."""
    fine = np.isfinite(times) & np.isfinite(values).all(1)
    before = np.maximum.accumulate(np.where(fine, times, -np.inf))
    return fine & (times > np.concatenate([[-np.inf], before[:-1]]))


def _why(row: int, table: Table, times: np.ndarray, values: np.ndarray, robot: Embodiment, name: str) -> str:
    if row in table.ragged:
        return "more or fewer cells than the first line"
    if not np.isfinite(times[row]):
        return f"{shown(name)} is no number"
    if not np.isfinite(values[row]).all():
        return f"{shown(robot.names[int(np.argmin(np.isfinite(values[row])))])} is no number"
    return f"{shown(name)} {times[row]:g} s does not come after the row before"


def _between(times: np.ndarray, column: np.ndarray, moments: np.ndarray, unit: str) -> np.ndarray:
    """Values at the moments on straight lines between rows, held at both ends; angles go the shorter way round."""
    turn = {"rad": 2 * np.pi, "deg": 360.0}.get(unit)
    if turn is None:
        return np.interp(moments, times, column)
    found = np.interp(moments, times, np.unwrap(column, period=turn))
    after = np.clip(np.searchsorted(times, moments), 1, len(times) - 1)
    nearest = column[np.where(moments - times[after - 1] <= times[after] - moments, after - 1, after)]
    return np.asarray(found + turn * np.round((nearest - found) / turn))
