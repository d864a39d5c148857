"""A flag raised by SIGTERM, SIGINT or SIGHUP, so that long work can stop where nothing is lost."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class Stopped(Exception):
    """Long work was asked to stop, and did, with nothing half-written.  signal: the number of what asked."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command again to go on")
        self.signal = number


class StopFlag:
    """True once the process was asked to stop; a SIGINT after that raises KeyboardInterrupt at once.

    Use it as a context manager: the handlers live only inside.  A signal that the process ignores (nohup) stays
    ignored, and outside the main thread, where Python takes no handlers, the flag simply stays down.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raise Stopped if a stop was asked for: for loops whose finished parts lie on the disk already."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


def stop_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the system to send this process a signal when its parent dies (Linux; elsewhere nothing happens).

    A launcher that is killed leaves its processes behind, at work on files and GPUs that the next attempt wants.
    """
    if not sys.platform.startswith("linux"):
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
