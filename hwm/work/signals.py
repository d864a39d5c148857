"""How a process stops when it is told to: where nothing is lost if work looks at its flag, and in seconds in any case.

SIGTERM, SIGINT and SIGHUP raise every `StopFlag` that is open.  A command listens from its beginning to its end (`ending`) and
ends with 128 + signal: by itself where work has looked at its flag, and without being asked where it has not, in whatever
library it is.  Raising an exception from a handler would be no way: torch calls Python from C++ that takes none and aborts.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
GRACE = 4.0
"""Seconds that work has to look at its flag."""
SAVING = 300.0
"""Seconds that it has once it has looked, or where it holds what is not saved yet."""


class Stopped(Exception):
    """Long work was asked to stop, and did, with nothing half-written.  signal: the number of what asked."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command again to go on")
        self.signal = number


class StopFlag:
    """True once the process was asked to stop; a SIGINT after that raises KeyboardInterrupt at once.

    Use it as a context manager: it hears only inside.  Flags may be open within one another, and all hear, so no stop is
    lost between two pieces of work.  A signal that the process ignores (nohup) stays ignored, and outside the main thread,
    where Python takes no handlers, the flag simply stays down.
    saving: set it while there is what a stop must not lose.
    """

    saving = False

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        if self.signal is not None:
            _state.heard = True
        return self.signal is not None

    def check(self) -> None:
        """Raise Stopped if a stop was asked for: for loops whose finished parts lie on the disk already."""
        if self and self.signal is not None:
            raise Stopped(self.signal)

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            _state.open.append(self)
            if len(_state.open) > 1:
                self.signal = self.signal or _state.open[0].signal
            else:
                _state.heard = False
                for number in SIGNALS:
                    if signal.getsignal(number) not in (signal.SIG_IGN, None):
                        _state.before[number] = signal.signal(number, _hear)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self not in _state.open:
            return
        if len(_state.open) == 1:
            for number, handler in _state.before.items():
                signal.signal(number, handler)
            _state.before.clear()
        _state.open.remove(self)
        if not _state.open and self.signal is not None and not _state.heard and error is None:
            signal.raise_signal(self.signal)  # it came after the last look: what comes next must not go on as if it had not


class _State:
    """Of this process: the flags that are open, what they stand in for, whether one was looked at, what is unfinished."""

    def __init__(self) -> None:
        self.open: list[StopFlag] = []
        self.before: dict[int, Any] = {}
        self.heard = False
        self.unfinished: set[Path] = set()

    @property
    def patience(self) -> float:
        """Seconds until the process is ended: none where nobody looks at a flag but the command itself, at its end."""
        if self.heard or any(flag.saving for flag in self.open):
            return SAVING
        return GRACE if len(self.open) > 1 else 0.0


_state = _State()


def _hear(number: int, frame: FrameType | None) -> None:
    again = any(flag.signal is not None for flag in _state.open)
    for flag in _state.open:
        flag.signal = flag.signal or number
    if again and number == signal.SIGINT:
        raise KeyboardInterrupt


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A file or folder that is removed if the process is ended while the block runs."""
    _state.unfinished.add(path)
    try:
        yield path
    finally:
        _state.unfinished.discard(path)


@contextmanager
def ending(who: str) -> Iterator[StopFlag]:
    """Listen for as long as the block runs, and end the process where it does not end by itself; for whole commands.

    A second SIGINT ends it at once.  who: begins the line that is said then.
    """
    with StopFlag() as stop:
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return
        told, tell = socket.socketpair()
        tell.setblocking(False)
        before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=_watch, args=(told, who), daemon=True)
        watcher.start()
        try:
            yield stop
        finally:
            signal.set_wakeup_fd(before)
            tell.close()
            watcher.join()
            told.close()
            _state.heard = True  # by the caller


def _watch(told: socket.socket, who: str) -> None:
    """Hears of signals also while the main thread is in a library.  It counts its ticks: clocks may stand still."""
    number, waited = None, 0.0
    while True:
        if select.select([told], [], [], None if number is None else 0.1)[0]:
            if not (heard := told.recv(1)):
                return  # the block was left
            if number is not None and heard[0] == signal.SIGINT:
                _end(number, who)
            if number is None and heard[0] in SIGNALS:
                number = heard[0]
                continue  # and give a handler the time to raise the flags
        elif number is not None:
            waited += 0.1
            if waited > _state.patience:
                _end(number, who)


def _end(number: int, who: str) -> None:
    def leave() -> None:
        with suppress(Exception):
            if sys.stdout.isatty():
                print("\x1b[?25h")  # a progress bar hides the cursor
            sys.stdout.flush()
        with suppress(OSError):
            os.write(2, f"{who}: {Stopped(number)}\n".encode())  # whatever stands in the place of sys.stderr

    for path in list(_state.unfinished):
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    words = threading.Thread(target=leave, daemon=True)
    words.start()
    words.join(1.0)  # nobody may be reading
    os._exit(128 + number)


def stop_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the system to send this process a signal when its parent dies (Linux; elsewhere nothing happens).

    A launcher that is killed leaves its processes behind, at work on files and GPUs that the next attempt wants.
    """
    if not sys.platform.startswith("linux"):
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
