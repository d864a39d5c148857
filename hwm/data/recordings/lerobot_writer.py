"""Writing LeRobot v3.0: several episodes a file, with the statistics that its own package computes (reference 2e)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hwm.data.video import VideoWriter
from hwm.robot import Embodiment
from hwm.work.files import write_text

CAMERA = "observation.images.head"
STATE, ACTION = "observation.state", "action"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
FRAMES_A_FILE = 20_000
"""After which the next episode begins a new file of video and one of rows."""
EVERY = 4
"""Of an episode every fourth picture counts in the statistics."""
LEVELS = np.arange(256) / 255
INDEX = "__index_level_0__"
"""Column of the tasks' words: the format keeps them as the index of a table of pandas."""
PANDAS = {
    "index_columns": [INDEX], "column_indexes": [], "attributes": {}, "pandas_version": "2.3.0",
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": None, "field_name": INDEX, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
}  # fmt: skip


@dataclass
class _Pictures:
    """Counts of the 256 levels of every channel, over some pictures."""

    counts_C256: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    number: int = 0

    def add(self, picture: np.ndarray) -> None:
        self.counts_C256 += np.stack([np.bincount(picture[..., c].ravel(), minlength=256) for c in range(3)])
        self.number += 1

    def merged(self, other: "_Pictures") -> "_Pictures":
        return _Pictures(self.counts_C256 + other.counts_C256, self.number + other.number)

    def stats(self) -> dict[str, list]:
        share = self.counts_C256 / self.counts_C256.sum(1, keepdims=True)
        mean = share @ LEVELS
        found = {
            "min": LEVELS[(share > 0).argmax(1)], "max": LEVELS[255 - (share > 0)[:, ::-1].argmax(1)], "mean": mean,
            "std": np.sqrt(np.maximum(share @ LEVELS**2 - mean**2, 0)),
        }  # fmt: skip
        found |= {name: LEVELS[(share.cumsum(1) >= q - 1e-12).argmax(1)] for name, q in QUANTILES.items()}
        return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {"count": [self.number]}


def _stats(rows: np.ndarray) -> dict[str, list]:
    """Of numbers (F,) or (F, A): a list of one or A numbers each."""
    columns = rows.reshape(len(rows), -1).astype(np.float64)
    found = {"min": columns.min(0), "max": columns.max(0), "mean": columns.mean(0), "std": columns.std(0)}
    found |= {name: np.quantile(columns, q, axis=0) for name, q in QUANTILES.items()}
    whole = np.issubdtype(rows.dtype, np.integer)
    plain = {name: (v.astype(np.int64) if whole and name in ("min", "max") else v).tolist() for name, v in found.items()}
    return plain | {"count": [len(rows)]}


class LeRobotWriter:
    """Writes episodes of one camera and the robot's states into an empty folder; whole when the `with` block ends.

    robot: what rows of states are: of one feature, or, where all their names begin with "observation.state." or "action.",
    of these two.  height, width: of the frames in pixels, even.  hz: frames a second.
    """

    def __init__(self, root: Path, *, robot: Embodiment, hz: int, height: int, width: int) -> None:
        import pyarrow  # noqa: F401  # asked for before anything is written

        self.root, self.hz, self.height, self.width = root, hz, height, width
        parts = {name: part for name in (STATE, ACTION) if (part := robot.part(name)) is not None}
        self.features = parts if sum(part.dim for part in parts.values()) == robot.dim else {STATE: robot}
        """What a row of states is divided into, in order."""
        self.robot = next(iter(self.features.values()))
        self._film: VideoWriter | None = None
        self._file = -1
        self._tasks: list[str] = []
        self._rows: list[dict[str, np.ndarray]] = []
        self._waiting: list[dict[str, np.ndarray]] = []
        self._episodes: list[dict[str, Any]] = []
        self._pictures = _Pictures()

    def __enter__(self) -> "LeRobotWriter":
        return self

    def append(self, pieces: Iterable[tuple[np.ndarray, np.ndarray]], *, task: str) -> None:
        """An episode: frames uint8 (f, height, width, 3) and states (f, A) piece by piece.  task: what is done, in words."""
        if self._film is None or self._film.num_frames >= FRAMES_A_FILE:
            self._next_file()
        assert self._film is not None
        start, states, pictures = self._film.num_frames, [], _Pictures()
        for frames, of_frames in pieces:
            for picture in frames[-(self._film.num_frames - start) % EVERY :: EVERY]:
                pictures.add(picture)
            self._film.write(frames)
            states.append(of_frames)
        count, index = self._film.num_frames - start, len(self._episodes)
        self._pictures = self._pictures.merged(pictures)
        if task not in self._tasks:
            self._tasks.append(task)
        done = sum(len(rows["frame_index"]) for rows in self._rows)
        numbers = np.arange(count)
        ends = np.cumsum([part.dim for part in self.features.values()])[:-1]
        rows: dict[str, np.ndarray] = dict(zip(self.features, np.split(np.concatenate(states).astype(np.float32), ends, axis=1)))
        rows |= {
            "timestamp": (numbers / self.hz).astype(np.float32),
            "frame_index": numbers, "episode_index": np.full(count, index), "index": done + numbers,
            "task_index": np.full(count, self._tasks.index(task)),
        }  # fmt: skip
        self._rows.append(rows)
        self._waiting.append(rows)
        place = {"chunk_index": self._file // 1000, "file_index": self._file % 1000}
        about: dict[str, Any] = {"episode_index": index} | {f"data/{name}": value for name, value in place.items()}
        about |= {"dataset_from_index": done, "dataset_to_index": done + count}
        about |= {f"videos/{CAMERA}/{name}": value for name, value in place.items()}
        about |= {f"videos/{CAMERA}/from_timestamp": start / self.hz, f"videos/{CAMERA}/to_timestamp": (start + count) / self.hz}
        about |= {"tasks": [task], "length": count}
        found = {name: _stats(column) for name, column in rows.items()} | {CAMERA: pictures.stats()}
        about |= {f"stats/{feature}/{name}": value for feature, own in found.items() for name, value in own.items()}
        self._episodes.append(about | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            if self._film is not None:
                self._film.__exit__(kind, error, trace)
            return
        if not self._episodes:
            raise ValueError(f"{self.root}: no episode was written")
        self._end_file()
        names = list(dict.fromkeys(name for rows in self._rows for name in rows))
        whole = {name: np.concatenate([rows[name] for rows in self._rows]) for name in names}
        stats = {name: _stats(column) for name, column in whole.items()} | {CAMERA: self._pictures.stats()}
        write_text(self.root / "meta/stats.json", json.dumps(stats, indent=4))
        write_text(self.root / "meta/info.json", json.dumps(self._info(len(whole["index"])), indent=4))
        columns = {name: [episode[name] for episode in self._episodes] for name in self._episodes[0]}
        self._table("meta/episodes/chunk-000/file-000.parquet", columns)
        numbers = list(range(len(self._tasks)))
        self._table("meta/tasks.parquet", {"task_index": numbers, INDEX: self._tasks}, metadata={"pandas": json.dumps(PANDAS)})

    def _next_file(self) -> None:
        if self._film is not None:
            self._end_file()
        self._file += 1
        path = self.root / f"videos/{CAMERA}" / self._place.with_suffix(".mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._film = VideoWriter(path, height=self.height, width=self.width, fps=self.hz)
        self._film.__enter__()

    def _end_file(self) -> None:
        assert self._film is not None
        self._film.__exit__(None, None, None)
        columns = {name: np.concatenate([rows[name] for rows in self._waiting]) for name in self._waiting[0]}
        self._table("data" / self._place.with_suffix(".parquet"), columns)
        self._waiting = []

    @property
    def _place(self) -> Path:
        return Path(f"chunk-{self._file // 1000:03d}/file-{self._file % 1000:03d}")

    def _table(self, name: str | Path, columns: dict[str, Any], *, metadata: dict[str, str] | None = None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        wide = {key: pa.array(list(column)) if isinstance(column, np.ndarray) else column for key, column in columns.items()}
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(wide).replace_schema_metadata(metadata), path)

    def _info(self, num_frames: int) -> dict[str, Any]:
        features: dict[str, Any] = {name: {"dtype": "float32", "shape": [part.dim], "names": list(part.names)}
                                    for name, part in self.features.items()}  # fmt: skip
        picture = {"video.height": self.height, "video.width": self.width, "video.codec": "h264", "video.pix_fmt": "yuv420p"}
        picture |= {"video.is_depth_map": False, "video.fps": self.hz, "video.channels": 3, "has_audio": False}
        shape, axes = [self.height, self.width, 3], ["height", "width", "channels"]
        features |= {CAMERA: {"dtype": "video", "shape": shape, "names": axes, "info": picture}}
        features |= {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
        place = "chunk-{chunk_index:03d}/file-{file_index:03d}"
        return {
            "codebase_version": "v3.0", "robot_type": self.robot.name, "total_episodes": len(self._episodes),
            "total_frames": num_frames, "total_tasks": len(self._tasks), "chunks_size": 1000, "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200, "fps": self.hz, "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": f"data/{place}.parquet", "video_path": f"videos/{{video_key}}/{place}.mp4", "features": features,
        }  # fmt: skip
