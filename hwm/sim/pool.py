"""Simulation jobs in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from hwm.signals import StopFlag
from hwm.sim.jobs import Advance, Job, Studio
from hwm.workers import new_lock, work_off


def run_jobs(
    jobs: Sequence[Job], *, backend: str, workers: int, advance: Callable[[int], None], flag: StopFlag
) -> None:
    """Run all jobs, the longest first.  advance: is told how many frames were written.

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
