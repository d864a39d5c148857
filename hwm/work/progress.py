"""Progress of long work with the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LOG_SECONDS = 10.0


def rate(count: float, seconds: float) -> float:
    """So many a second; a number too where no time has passed, for a clock may stand still."""
    return count / max(seconds, 1e-9)


def clock_text(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Counter:
    """Counts what is done; a context manager.

    Called with (done, total) it tells of it every ten seconds, and once more at the end; `move` and `show` are for work that
    chooses itself when to tell.  Where standard output is a terminal there is a bar instead.

    log: where plain lines go; None: a bar on a terminal, printed lines elsewhere.
    """

    def __init__(self, what: str, *, unit: str, log: Callable[[str], None] | None = None) -> None:
        self._what, self._unit = what, unit
        self._log = log or (lambda line: print(line, flush=True))
        self._bar: Progress | None = None
        self._console = Console()
        if log is None and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self._console)
        self._done = self._total = 0
        self.start, self.began = 0, time.monotonic()
        """What was done before, which does not count towards the time left, and since when."""

    def __enter__(self) -> Counter:
        self.began = self._told = time.monotonic()
        if self._bar:
            self._task = self._bar.add_task(self._what, total=None, completed=self.start, text="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._total:
            seconds = time.monotonic() - self.began
            self._log(f"{self._what}: {self._done}/{self._total} {self._unit} in {seconds:.0f} s")

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        left = self._left(done, total)
        self.move(done, total, f"{clock_text(left)} left")
        if done < total:  # else what follows may take its time, and the end is told anyway
            self._tell(f"{done}/{total} {self._unit}, {left:.0f} s left")

    def alive(self) -> None:
        """A sign of life, where nothing was told for a while."""
        self._tell(f"{self._done}/{self._total or '?'} {self._unit}, at work for {time.monotonic() - self.began:.0f} s")

    def _tell(self, text: str) -> None:
        if not self._bar and time.monotonic() - self._told > LOG_SECONDS:
            self._told = time.monotonic()
            self._log(f"{self._what}: {text}")

    def move(self, done: int, total: int, text: str | None = None) -> None:
        """Move the bar; logs stay quiet."""
        if self._bar:
            fields: dict[str, Any] = {} if text is None else {"text": text}
            self._bar.update(self._task, completed=done, total=total, **fields)

    def show(self, done: int, total: int, text: str) -> None:
        """Tell now, with a text beside it."""
        text = f"{text}  {clock_text(self._left(done, total))} left"
        self.move(done, total, text)
        if not self._bar:
            self._log(f"{self._unit} {done}/{total}  {text}")

    def say(self, line: str) -> None:
        """One line about an event, above the bar."""
        if self._bar:
            self._console.print(line, markup=False, highlight=False)
        else:
            self._log(line)

    def _left(self, done: int, total: int) -> float:
        return (time.monotonic() - self.began) / max(1, done - self.start) * (total - done)
