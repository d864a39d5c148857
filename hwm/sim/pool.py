"""Worker processes for long jobs: spawned, watched, and stopped at once when anything goes wrong."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from hwm.sim.jobs import Job, Studio

SHUTDOWN_SECONDS = 5


def run_jobs(jobs: Sequence[Job], *, backend: str, workers: int, advance: Callable[[int], None]) -> None:
    """Run all jobs, the longest first.  advance: is told how many frames were written.

    One worker and no OpenGL: in this process.  Raises what a job raises, and ChildProcessError if a worker dies.
    """
    waiting = sorted(jobs, key=lambda job: -job.work.num_frames)
    if workers <= 1 and backend == "disable":
        studio = Studio(backend, nullcontext())
        for job in waiting:
            studio.run(job, advance)
        return
    _Team(min(workers, len(waiting)), backend).work_off(waiting, advance)


class _Team:
    """Worker processes, each at the end of a pipe.  They are spawned: a fork would copy half-started threads."""

    def __init__(self, size: int, backend: str) -> None:
        context = multiprocessing.get_context("spawn")
        # A process that is starting up looks the lock up by name, so it must live as long as the team.
        self._kernel_lock = context.Lock()
        self._members: dict[Connection, BaseProcess] = {}
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, backend, self._kernel_lock), daemon=True)
            process.start()
            theirs.close()
            self._members[ours] = process

    def work_off(self, waiting: list[Job], advance: Callable[[int], None]) -> None:
        try:
            busy = set()
            for pipe in self._members:
                pipe.send(waiting.pop(0))
                busy.add(pipe)
            while busy:
                for pipe in cast(list[Connection], wait(list(busy))):
                    kind, value = self._receive(pipe)
                    if kind == "frames":
                        advance(value)
                    elif kind == "error":
                        raise value
                    elif waiting:
                        pipe.send(waiting.pop(0))
                    else:
                        pipe.send(None)
                        busy.remove(pipe)
            for process in self._members.values():
                process.join(SHUTDOWN_SECONDS)
        finally:
            for pipe, process in self._members.items():
                process.terminate()
                process.join(SHUTDOWN_SECONDS)
                pipe.close()

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            process = self._members[pipe]
            process.join(SHUTDOWN_SECONDS)
            code = process.exitcode
            how = f"by signal {-code} (out of memory?)" if code is not None and code < 0 else f"with exit code {code}"
            raise ChildProcessError(f"a simulation worker ended {how}; the same command goes on from here") from None


def _serve(pipe: Connection, backend: str, kernel_lock: Any) -> None:
    """Loop of a worker: jobs come in until None; frames, ends and errors go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    studio = Studio(backend, kernel_lock)
    with suppress(EOFError, BrokenPipeError):
        while (job := pipe.recv()) is not None:
            try:
                studio.run(job, lambda count: pipe.send(("frames", count)))
            except BrokenPipeError:
                return
            except (ValueError, OSError, ImportError) as error:
                pipe.send(("error", error))
                return
            pipe.send(("done", None))
