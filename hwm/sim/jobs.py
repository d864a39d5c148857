"""Simulation jobs: a worker records one shard, or the clips of one test recording, into files."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwm.clock import SAMPLING_FRAMES
from hwm.data import layout
from hwm.data.testsets import CONTEXT_FRAMES
from hwm.data.video import VideoWriter
from hwm.data.writers import RawShardWriter, shard_finished
from hwm.safe_load.text import expect_fields
from hwm.sim.plan import TEST_STATES, Clips, Settings, Shard
from hwm.sim.record import Recording, Rows, Segment
from hwm.sim.renderer import GLRenderer, WarpRenderer, make_renderer
from hwm.work.files import read_json, write_array, write_json
from hwm.work.signals import StopFlag
from hwm.work.workers import new_lock, work_off

REPORTS = ".simulate"
"""Hidden folder of an unfinished dataset: settings and one report for every finished job."""
LEAST_TEXELS, MOST_TEXELS = 64, 256
"""Sides of textures: about one texel a pixel where things are near, since the renderers do not filter them."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """A piece of work and where it goes.  truth: for test clips, where the withheld futures go."""

    settings: Settings
    work: Shard | Clips
    root: Path
    truth: Path | None = None

    @property
    def report(self) -> Path:
        return self.root / REPORTS / f"report_{self.work.index}.json"

    @property
    def finished(self) -> bool:
        """Whether an earlier run brought this job to its end."""
        done = isinstance(self.work, Clips) or shard_finished(self.root, self.work.index)
        return done and self.report.is_file()

    def read_report(self) -> list[dict]:
        report, remedy = read_json(self.report), "delete it, and what it tells of is made again"
        expect_fields(report, self.report, segments=list, remedy=remedy)
        for segment in report["segments"]:
            expect_fields(segment, self.report, frames=int, remedy=remedy)
        return report["segments"]


class Studio:
    """Runs jobs in one process.

    kernel_lock: held while the first picture compiles the ray tracer's kernels, so that processes that start
    together compile them once.
    """

    def __init__(self, backend: str, kernel_lock: AbstractContextManager) -> None:
        os.environ["MUJOCO_GL"] = backend
        os.environ["LP_NUM_THREADS"] = "0"
        self._backend, self._kernel_lock, self._warm = backend, kernel_lock, False

    def run(self, job: Job, advance: Advance) -> None:
        """Do the work, write its report; `advance` is told of frames as they are written."""
        work = job.work
        reports = self._shard(job, work, advance) if isinstance(work, Shard) else self._clips(job, work, advance)
        write_json(job.report, {"segments": reports})

    def _shard(self, job: Job, shard: Shard, advance: Advance) -> list[dict]:
        size, flat, reports = job.settings.size, shard.split != "train", []
        with RawShardWriter(job.root, shard=shard.index, height=size, width=size, flat=flat) as writer:
            for number, (recording, rows) in enumerate(self._recorded(job, shard)):
                for frames, states, masks in rows:
                    writer.append(frames, states, number, masks)
                    advance(len(frames))
                if job.settings.commands:
                    writer.append_commands(np.stack(recording.commands))
                if shard.split == "branches":
                    writer.part()
                reports.append({"shard": shard.index, "segment": number, **_describe(recording)})
        return reports

    def _recorded(self, job: Job, shard: Shard) -> Iterator[tuple[Recording, Iterable[Rows]]]:
        """Segment by segment its recording and its rows."""
        if shard.split == "branches":
            recording, renderer = self.open(shard.segments[0], job.settings)
            yield from ((recording, [rows]) for rows in recording.branches(len(shard.segments), renderer))
            renderer.close()
            return
        for segment in shard.segments:
            recording, renderer = self.open(segment, job.settings)
            yield recording, recording.frames(renderer)
            renderer.close()

    def _clips(self, job: Job, clips: Clips, advance: Advance) -> list[dict]:
        """Cut a recording into clips of 97 states: 17 frames to see, 77 in the truth; the rest is not rendered."""
        assert job.truth is not None
        recording, renderer = self.open(clips.segment, job.settings)
        steps = recording.steps()
        for clip in range(clips.first, clips.first + clips.count):
            pictures, states = [], []
            for row in range(TEST_STATES):
                states.append(next(steps))
                if row < SAMPLING_FRAMES:
                    pictures.append(renderer.render(recording.robot.data))
            for root, seen in ((job.root, CONTEXT_FRAMES), (job.truth, SAMPLING_FRAMES)):
                path = layout.VIDEO.place(root, clip, flat=False)
                with VideoWriter(path, height=job.settings.size, width=job.settings.size) as writer:
                    writer.write(np.stack(pictures[:seen]))
                write_array(layout.STATES.place(root, clip, flat=False), np.stack(states), "<f4")
            advance(SAMPLING_FRAMES)
        renderer.close()
        return [{"clips": list(range(clips.first, clips.first + clips.count)), **_describe(recording)}]

    def open(self, segment: Segment, settings: Settings) -> tuple[Recording, WarpRenderer | GLRenderer]:
        """A recording that has not begun, and its camera."""
        texture_size = int(np.clip(settings.size, LEAST_TEXELS, MOST_TEXELS))
        image_size = settings.size * (2 if settings.antialias else 1)
        recording = Recording(segment, texture_size=texture_size, image_size=image_size, shift=settings.shift)
        with nullcontext() if self._warm else self._kernel_lock:
            how: dict[str, Any] = {"size": settings.size, "antialias": settings.antialias, "masks": settings.masks}
            renderer = make_renderer(self._backend, recording.scene.model, **how)
            renderer.render(recording.robot.data)
        self._warm = True
        return recording, renderer


def _describe(recording: Recording) -> dict:
    segment = recording.segment
    return {
        "room": segment.room,
        "episode": segment.episode,
        "frames": segment.num_frames,
        "full_body": segment.full_body,
        **({"start": segment.start} if segment.start else {}),
        "skills": [list(span) for span in recording.skills],
    }


def run_jobs(jobs: Sequence[Job], *, backend: str, workers: int, advance: Advance, flag: StopFlag) -> None:
    """Run all jobs, in this process or in several, the longest first.  advance: is told how many frames were written.

    One worker and no OpenGL: in this process.  Raises what a job raises, ChildProcessError if a worker dies, and Stopped
    when the flag is up.
    """
    waiting = sorted(jobs, key=lambda job: -job.work.num_frames)
    if workers <= 1 and backend == "disable":

        def stoppable(count: int) -> None:
            advance(count)
            flag.check()

        studio = Studio(backend, nullcontext())
        for job in waiting:
            flag.check()
            studio.run(job, stoppable)
        return
    folders = sorted({folder for job in waiting for folder in (job.root, job.truth) if folder})
    prepare = partial(_open_studio, backend)
    work_off(waiting, prepare, new_lock(), workers=max(1, workers), hear=advance, flag=flag, folders=folders)


def _open_studio(backend: str, kernel_lock: Any) -> Callable[[Job, Advance], None]:
    return Studio(backend, kernel_lock).run
