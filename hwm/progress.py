"""Progress of long work with the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 10.0


class Counter:
    """Call it with (done, total); use it as a context manager.

    On a terminal it draws a bar; elsewhere it prints a line every ten seconds and one at the end.
    """

    def __init__(self, what: str, *, unit: str) -> None:
        self._what, self._unit = what, unit
        self._bar: Progress | None = None
        self._done = self._total = 0

    def __enter__(self) -> Counter:
        self._started = self._printed = time.monotonic()
        if sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, transient=False)
            self._task = self._bar.add_task(self._what, total=None)
            self._bar.start()
        return self

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        if self._bar:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._printed > LOG_SECONDS:
            self._printed = time.monotonic()
            left = (self._printed - self._started) / max(done, 1) * (total - done)
            print(f"{self._what}: {done}/{total} {self._unit}, {left:.0f} s left", flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._total:
            seconds = time.monotonic() - self._started
            print(f"{self._what}: {self._done}/{self._total} {self._unit} in {seconds:.0f} s", flush=True)
