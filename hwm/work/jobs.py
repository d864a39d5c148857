"""Several long jobs at once, each a process of its own that can stop where nothing is lost, shown as one progress.

Unlike the workers of `workers`, which are ended at once, a job hears of a stop and saves what it has.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from hwm.safe_load.paths import one_line
from hwm.work.allowance import killed_for_memory
from hwm.work.memory import EXIT_CODE, OutOfMemory, shortage
from hwm.work.progress import Counter
from hwm.work.server import context, hear_signals, start, take_over, with_the_parent
from hwm.work.signals import StopFlag, Stopped, ending


@dataclass(frozen=True)
class Job:
    """Something to do in a process of its own.

    place: the folder it works for, and the name under which it fails.  log: where its output goes.
    run: does it, picklable; gives an exit code.  work: how much it is.  done: gives how much of that is done.
    """

    place: Path
    log: Path
    run: Callable[[], int]
    work: float
    done: Callable[[], float]


def run_jobs(jobs: Sequence[Job], *, parallel: int, what: str, unit: str, every: float = 1.0) -> None:
    """Do all, `parallel` at a time, in order.  what, unit: as in "training", "steps".

    A stop (Ctrl-C, SIGTERM, SIGHUP) is passed on to the jobs, which save what they have; the same call goes on from there.
    Raises ValueError with the place and the last line of its log for a job that failed, OutOfMemory where it ran out of
    memory, Stopped after a stop; none runs then.
    """
    waiting, running = list(jobs), dict[Job, BaseProcess]()
    killed = killed_for_memory()
    total = round(sum(job.work for job in jobs))
    with Counter(what, unit=unit) as counter, StopFlag() as stop:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    running[job] = _started(job)
                wait([process.sentinel for process in running.values()], timeout=every)
                stop.check()
                for job, process in list(running.items()):
                    if not process.is_alive():
                        del running[job]
                        _check(job, process.exitcode or 0, what, killed)
                unfinished = {job.place: min(job.done(), job.work) for job in running} | {job.place: 0.0 for job in waiting}
                if done := round(sum(unfinished.get(job.place, job.work) for job in jobs)):
                    counter(done, total)  # before, nothing is known of the time left
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.join()


def _started(job: Job) -> BaseProcess:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    process: BaseProcess = context().Process(target=_run, args=(job.run, job.log, dict(os.environ)))
    start(process)
    return process


def _run(run: Callable[[], int], log: Path, environment: Mapping[str, str]) -> None:
    """What the process does: everything it says goes to the log, a mistake as its last line."""
    take_over(environment)
    hear_signals()
    with_the_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        with ending(log.stem) as told:
            code = run()
        code = 128 + told.signal if told.signal else code
    except Stopped as stop:
        code = 128 + stop.signal
    except Exception as error:
        short = shortage(error)
        if not short and not isinstance(error, ValueError | OSError | ImportError):
            raise
        print(short or one_line(error), file=sys.stderr)
        code = EXIT_CODE if short else 2
    sys.exit(code)


def _check(job: Job, code: int, what: str, killed: int) -> None:
    if code == -9 and killed_for_memory() > killed:
        raise OutOfMemory(f"{job.place}: {what} was killed by the system for want of memory")
    if code < 0:
        raise ValueError(f"{job.place}: {what} was ended by signal {-code} (was it short of memory?); the same command goes on")
    if code:
        lines = job.log.read_text(errors="replace").strip().splitlines() if job.log.is_file() else []
        error = OutOfMemory if code == EXIT_CODE else ValueError
        raise error(f"{job.place}: {what} failed: {lines[-1] if lines else f'no output in {job.log}'}")
