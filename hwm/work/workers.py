"""Worker processes for long work: watched, and ended at once when one dies or a stop is asked for.

They leave every signal to the process that started them, and end with it, however it ends: none lingers, and none prints.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any, cast

from hwm.work.allowance import killed_for_memory
from hwm.work.files import remove_torsos
from hwm.work.memory import OutOfMemory, shortage
from hwm.work.ranges import Range
from hwm.work.server import context, signals_blocked, start, take_over, with_the_parent
from hwm.work.signals import StopFlag

POLL_SECONDS, SHUTDOWN_SECONDS = 0.2, 5

Workers = Annotated[int, Range(0, 4096)]
"""Processes; 0: one per core."""
Tell = Callable[[Any], None]
"""Sends something from a worker to `hear`."""


def work_off(
    jobs: Sequence[Any], prepare: Callable[..., Callable[[Any, Tell], None]], *shared: Any, workers: int, hear: Tell,
    flag: StopFlag, folders: Sequence[Path] = (),
) -> None:
    """Do all jobs, in order, in `workers` processes of their own.

    prepare: called once in every process, with `shared` (locks, for instance); gives what does one job.  It and the jobs
    are pickled.  hear: is given, in this process, what jobs tell.  flag: looked at all the time.
    folders: what killed workers left half-written below these is removed.
    Raises what a job raises, OutOfMemory where memory runs out, ChildProcessError if a worker dies otherwise and Stopped when
    the flag is up; no worker is left then.
    """
    if jobs:
        team = _Team(min(workers, len(jobs)), prepare, shared)
        try:
            team.work_off(list(jobs), hear, flag)
        finally:
            gone = team.end()
            for folder in folders:
                remove_torsos(folder, gone)


def new_lock() -> Any:
    """A lock for `shared`."""
    return context().Lock()


class _Team:
    """Processes, each at the end of a pipe."""

    def __init__(self, size: int, prepare: Callable[..., Any], shared: tuple[Any, ...]) -> None:
        self._members: dict[Connection, BaseProcess] = {}
        # What is in `shared` must live as long as the team: a process that is starting up looks locks up by name.
        self._shared, self._prepare = shared, prepare
        self._killed = killed_for_memory()
        with signals_blocked():
            for _ in range(size):
                ours, theirs = context().Pipe()
                process = context().Process(target=_serve, args=(theirs, dict(os.environ), *shared), daemon=True)
                start(process)
                theirs.close()
                self._members[ours] = process

    def work_off(self, waiting: list[Any], hear: Tell, flag: StopFlag) -> None:
        busy = set()
        for pipe in self._members:
            self._send(pipe, self._prepare)
            self._send(pipe, waiting.pop(0))
            busy.add(pipe)
        while busy:
            flag.check()
            for pipe in cast(list[Connection], wait(list(busy), timeout=POLL_SECONDS)):
                kind, value = self._receive(pipe)
                if kind == "told":
                    hear(value)
                elif kind == "error":
                    raise value
                elif waiting:
                    self._send(pipe, waiting.pop(0))
                else:
                    self._send(pipe, None)
                    busy.remove(pipe)
        for process in self._members.values():
            process.join(SHUTDOWN_SECONDS)

    def _send(self, pipe: Connection, value: Any) -> None:
        try:
            pipe.send(value)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death(pipe) from None

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._death(pipe) from None

    def _death(self, pipe: Connection) -> Exception:
        process = self._members[pipe]
        process.join(SHUTDOWN_SECONDS)
        code = process.exitcode
        if code == -9 and killed_for_memory() > self._killed:
            return OutOfMemory(f"out of memory: the system killed one of {len(self._members)} worker processes for want of it")
        how = f"by signal {-code} (was it short of memory?)" if code is not None and code < 0 else f"with exit code {code}"
        return ChildProcessError(f"a worker process ended {how}; the same command goes on from here")

    def end(self) -> set[int]:
        """Kill who is still there; the process ids of all."""
        for process in self._members.values():
            process.kill()
        for pipe, process in self._members.items():
            process.join(SHUTDOWN_SECONDS)
            pipe.close()
        return {process.pid for process in self._members.values() if process.pid}


def _serve(pipe: Connection, environment: Mapping[str, str], *shared: Any) -> None:
    """Loop of a worker: first what prepares it, then jobs come in until None; what is told, ends and errors go out."""
    take_over(environment)
    with_the_parent(lambda: os._exit(1))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            run = pipe.recv()(*shared)
            while (job := pipe.recv()) is not None:
                run(job, lambda value: pipe.send(("told", value)))
                pipe.send(("done", None))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            short = shortage(error)
            if not short and not isinstance(error, ValueError | OSError | ImportError):
                raise
            pipe.send(("error", OutOfMemory(short) if short else error))
