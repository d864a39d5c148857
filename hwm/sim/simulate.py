"""Write a dataset of the built-in robot in the 1X v2.0 raw layout (reference A.5, A.6).

Under OUT appear train_v2.0_raw (shards in sub-folders), val_v2.0_raw (the training rooms, new episodes),
val_unseen_v2.0_raw (rooms that training never shows) and, with test clips, test_v2.0 and test_v2.0_truth, with starts
branches_v2.0_raw (from each start, in a room of its own, several futures).  Each folder appears when it is complete; what
was interrupted goes on shard by shard with the same command.
"""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from hwm.config import to_toml
from hwm.data import layout
from hwm.data.checksums import write_checksums
from hwm.data.writers import write_dataset_metadata
from hwm.robot import EVE
from hwm.work.allowance import usable_cores
from hwm.work.claim import Kept, claimed
from hwm.work.files import read_json, write_json, write_text
from hwm.work.progress import rate
from hwm.work.signals import StopFlag

GENERATOR, VERSION = "hwm.sim", 1
FOLDERS = {
    "train": "train_v2.0_raw",
    "val": "val_v2.0_raw",
    "val_unseen": "val_unseen_v2.0_raw",
    "test": "test_v2.0",
    "truth": "test_v2.0_truth",
    "branches": "branches_v2.0_raw",
}
NEEDED = ("mujoco", "mujoco_warp", "warp")
SECONDS_PER_PIXEL, SECONDS_PER_FRAME = 1.5e-6, 2.5e-3
"""About what the ray tracer and the physics take on one core."""


VAL_RECORDINGS = 10
"""Recordings of a validation set, without which there are no useful intervals (`hwm.evaluate.intervals`)."""


def validation(minutes: float, segment_seconds: tuple[float, float], *, share: float = 1 / 8) -> float:
    """Minutes of each validation set beside a training set: a share of it, but enough for ten recordings.

    A trial of less than a minute gets the share, or up to six seconds.
    """
    enough = VAL_RECORDINGS * sum(segment_seconds) / 2 / 60
    return max(share * minutes, enough if minutes >= 1 else min(0.1, minutes))


@dataclass(frozen=True)
class SimulationSummary:
    """frames: written by this call (what was there before is kept and not counted).  seconds: wall time.

    paths: folders of train, val, val_unseen and, where asked for, the test set's truth, the test set and the branches, in this
    order, in which they also appear.
    """

    frames: int
    seconds: float
    paths: tuple[Path, ...]

    @property
    def frames_per_second(self) -> float:
        return rate(self.frames, self.seconds)


def simulate(
    out: str | Path, *, minutes: float, size: int = 64, seed: int = 0, workers: int = 0,
    difficulty: float | Literal["calm", "mixed", "lively"] = "mixed", renderer: Literal["auto", "warp", "gl"] = "auto",
    antialias: bool = False, val_minutes: float | None = None, segment_seconds: tuple[float, float] = (12.0, 20.0),
    rooms: int = 0, test_clips: int = 0, light: float = 1.0, friction: float = 1.0, camera_shift: float = 0.0,
    masks: bool = False, commands: bool = False, starts: int = 0, branches: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> SimulationSummary:  # fmt: skip
    """Simulate the robot at work and write training, validation and test data.

    minutes: robot time of the training set at 30 Hz.  size: side of the square frames, pixels.  seed: equal settings
    give equal bytes on one machine, with any number of workers.  workers: processes; 0: one per core; above 1 a
    calling script needs its `if __name__ == "__main__":`.  difficulty: share of segments in which the operator uses
    the whole body, 0 to 1, or calm (0), mixed (0.3), lively (1).  renderer: auto takes ray tracing up to 128 pixels,
    beyond that OpenGL where it works.  antialias: four rays per pixel, several times slower.  val_minutes: of each of
    the two validation sets; default as `validation` says.  segment_seconds: shortest and longest
    segment.  rooms: in the training set; 0: one for two segments.  test_clips: clips of a sampling-track test set.
    light, friction, camera_shift: worlds other than the usual ones, in the same rooms: factors of all light and of all
    friction, metres that the head camera sits higher.
    masks: beside the video, but of test clips, write which pixels show the robot's arms and hands.
    commands: write the commands of every frame beside its state, but of test clips; all else has the same bytes.
    starts, branches: record, from so many moments in rooms of their own, so many ways in which the robot goes on.
    progress: called with frames done and in all.

    Raises ValueError for settings outside their ranges, for a folder that holds other data and where MuJoCo or OpenGL
    is missing; ChildProcessError when a worker was killed; Stopped after SIGTERM, SIGINT or SIGHUP.
    """
    expect_packages()
    from hwm.sim.jobs import Job, run_jobs
    from hwm.sim.plan import DIFFICULTIES, Settings, make_plan
    from hwm.sim.renderer import choose_backend

    started = time.monotonic()
    if isinstance(difficulty, str) and difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be a number or one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    settings = Settings(
        minutes=minutes, val_minutes=validation(minutes, segment_seconds) if val_minutes is None else val_minutes, size=size,
        seed=seed, difficulty=DIFFICULTIES[difficulty] if isinstance(difficulty, str) else float(difficulty),
        segment_seconds=segment_seconds, rooms=rooms, test_clips=test_clips, backend=choose_backend(renderer, size),
        antialias=antialias, light=light, friction=friction, camera_shift=camera_shift, masks=masks, commands=commands,
        starts=starts, branches=branches,
    )  # fmt: skip
    shards, clips = make_plan(settings)
    workers = workers or usable_cores()
    places = {split: _Place(Path(out) / FOLDERS[split], settings.to_dict()) for split in FOLDERS}
    jobs = [Job(settings, shard, places[shard.split].partial) for shard in shards]
    jobs += [Job(settings, work, places["test"].partial, places["truth"].partial) for work in clips]
    used = ["train", "val", "val_unseen", *(["truth", "test"] if clips else []), *(["branches"] if starts else [])]
    total = done = 0
    kept: list[Kept] = []

    def advance(count: int) -> None:
        nonlocal done
        done += count
        for place in kept:
            place.expect_there()
        if progress and count:
            progress(done, total)

    with StopFlag() as flag, claimed(Path(out), say=lambda line: print(line, file=sys.stderr)) as whole:
        unfinished = [places[split] for split in used if not places[split].is_complete()]
        for place in unfinished:
            place.begin()
        kept += [whole, *(Kept(place.partial) for place in unfinished)]
        open_folders: set[Path | None] = {place.partial for place in unfinished}
        todo = [job for job in jobs if job.root in open_folders and not job.finished]
        total = sum(job.work.num_frames for job in todo)
        _warn_if_slow(settings.backend, size, antialias, total, workers)
        run_jobs(todo, backend=settings.backend, workers=workers, advance=advance, flag=flag)
        advance(0)
        reports: dict[Path | None, list[dict]] = {folder: [] for folder in open_folders}
        for job in jobs:
            for folder in {job.root, job.truth} & open_folders:
                reports[folder] += job.read_report()
        for split in used:
            if places[split].partial in open_folders:
                places[split].complete(split, reports[places[split].partial])
    return SimulationSummary(total, time.monotonic() - started, tuple(places[split].final for split in used))


class _Place:
    """A dataset folder, and the hidden one beside it in which it grows."""

    def __init__(self, final: Path, settings: dict) -> None:
        self.final, self.partial = final, final.with_name(f".{final.name}.partial")
        self._about: dict[str, Any] = {"generator": GENERATOR, "version": VERSION, "settings": settings}

    def is_complete(self) -> bool:
        """Whether the dataset is there already.  Raises ValueError if data made with other settings is in the way."""
        from hwm.sim.jobs import REPORTS

        if self.final.exists():
            self._expect_same(self.final / "generator.json", "holds other data")
            return True
        settings = self.partial / REPORTS / "settings.json"
        if settings.is_file():
            self._expect_same(settings, "unfinished data of other settings")
        return False

    def begin(self) -> None:
        """Make the growing folder."""
        from hwm.sim.jobs import REPORTS

        write_json(self.partial / REPORTS / "settings.json", self._about)

    def _expect_same(self, sidecar: Path, what: str) -> None:
        """Raise ValueError, naming the first setting that differs, unless data beside `sidecar` were made as these are to be."""
        from hwm.sim.plan import Settings

        folder = self.final if self.final in sidecar.parents else self.partial
        found = read_json(sidecar) if sidecar.is_file() else {}
        if any(found.get(key) != value for key, value in self._about.items()):
            usual = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
            there = found.get("settings")
            here, there = usual | self._about["settings"], usual | there if isinstance(there, dict) else {}
            others = [name for name in here if name in there and there[name] != here[name]]
            first = f" ({others[0]} {there[others[0]]}, not {here[others[0]]})" if others else ""
            raise ValueError(f"{folder}: {what}{first}; choose another folder or delete it")

    def complete(self, split: str, segments: list[dict]) -> None:
        """Write what describes the whole dataset, and let it appear."""
        from hwm.sim.body.robot import skeleton
        from hwm.sim.jobs import REPORTS

        for left_over in self.partial.rglob(".*.tmp*"):
            left_over.unlink()
        if split in ("test", "truth"):
            files = [kind.find(self.partial, i) for kind in (layout.VIDEO, layout.STATES) for i in kind.indices(self.partial)]
            write_checksums(self.partial / "checksums.json", files)
        else:
            write_text(self.partial / "robot.toml", to_toml(replace(EVE, skeleton=skeleton())))
            num_shards = len(layout.METADATA.indices(self.partial))
            frames = sum(segment["frames"] for segment in segments)
            write_dataset_metadata(self.partial, num_shards=num_shards, num_images=frames)
        write_json(self.partial / "generator.json", {**self._about, "split": split, "segments": segments})
        shutil.rmtree(self.partial / REPORTS)
        self.partial.rename(self.final)


def expect_packages() -> None:
    """Raise ValueError, with the remedy, where what simulates is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        remedy = "pip install 'humanoid-world-models[sim]'"
        raise ValueError(f"the simulator needs {', '.join(missing)}, not installed here: {remedy}")


def _warn_if_slow(backend: str, size: int, antialias: bool, frames: int, workers: int) -> None:
    from hwm.sim.renderer import NO_OPENGL, WARP_UP_TO

    if backend == NO_OPENGL and size > WARP_UP_TO and frames:
        per_frame = SECONDS_PER_FRAME + SECONDS_PER_PIXEL * size**2 * (4 if antialias else 1)
        minutes = per_frame * frames / workers / 60
        print(f"ray tracing {frames} frames of {size}x{size} on {workers} cores takes about {minutes:.0f} min; "
              "OpenGL (apt install libegl1 libgl1) would be faster", file=sys.stderr)  # fmt: skip
