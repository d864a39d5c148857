"""Progress of long work with the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
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



# Progress with time left: a bar on a terminal, plain lines in a log.


def clock_text(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class TrainingProgress:
    """Shows the steps of a run of `total` steps.

    log: where plain lines go.  None: a bar if standard output is a terminal, else printed lines.
    """

    def __init__(self, total: int, *, log: Callable[[str], None] | None = None) -> None:
        self.total, self.start, self.began = total, 0, time.monotonic()
        console = Console()
        self.bar: Progress | None = None
        if log is None and console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self.bar = Progress(*columns, console=console)
        self._log = log or (lambda line: print(line, flush=True))

    @contextmanager
    def running(self, start: int) -> Iterator[None]:
        """Show progress inside the block; `start`: steps done before, which do not count towards the time left."""
        self.start, self.began = start, time.monotonic()
        if self.bar is None:
            yield
            return
        self.task = self.bar.add_task("training", total=self.total, completed=start, text="")
        with self.bar:
            yield

    def say(self, line: str) -> None:
        """One line about an event, above the bar."""
        if self.bar:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            self._log(line)

    def show(self, step: int, *, loss: float, lr: float, clips_per_second: float) -> None:
        """The state after `step` updates."""
        left = (time.monotonic() - self.began) / max(1, step - self.start) * (self.total - step)
        text = f"loss {loss:.4f}  lr {lr:.2e}  {clips_per_second:.1f} clips/s  {clock_text(left)} left"
        if self.bar:
            self.bar.update(self.task, completed=step, text=text)
        else:
            self._log(f"step {step}/{self.total}  {text}")

    def advance(self, step: int) -> None:
        """Move the bar; plain logs stay quiet."""
        if self.bar:
            self.bar.update(self.task, completed=step)
