"""Ending at once when asked to, also in the middle of a long product, and leaving nothing behind.

Between two verdicts the stop flag is polled.  A check may be long, and raising an exception inside of it from a signal
handler is no way: torch calls Python from C++ that takes no exception there and aborts.  So a thread that hears of the
signal gives the main one a moment, then clears up and ends the process itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hwm.work.signals import StopFlag

GRACE = 1.0
"""Seconds in which a check may come to its end."""
_folders: set[Path] = set()
_children: set[subprocess.Popen] = set()


@contextmanager
def temporary_folder(where: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, whatever happens short of SIGKILL."""
    with tempfile.TemporaryDirectory(prefix=".hwm-doctor-", dir=where) as name:
        _folders.add(Path(name))
        try:
            yield Path(name)
        finally:
            _folders.discard(Path(name))


@contextmanager
def children(commands: list[list[str]], **options: Any) -> Iterator[list[subprocess.Popen]]:
    """Processes that are dead afterwards, likewise."""
    started: list[subprocess.Popen] = []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, **options))
            _children.add(started[-1])
        yield started
    finally:
        for child in started:
            child.kill()
            child.wait()
            _children.discard(child)


@contextmanager
def ending_at_once() -> Iterator[StopFlag]:
    """A stop flag; a second after SIGINT, SIGTERM or SIGHUP the process ends, whether it was polled or not."""
    with StopFlag() as stop:
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return
        told, tell = socket.socketpair()
        tell.setblocking(False)
        before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        left = threading.Event()
        watcher = threading.Thread(target=_watch, args=(told, left), daemon=True)
        watcher.start()
        try:
            yield stop
        finally:
            left.set()
            signal.set_wakeup_fd(before)
            tell.close()
            watcher.join()
            told.close()


def _watch(told: socket.socket, left: threading.Event) -> None:
    asking = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
    while heard := told.recv(1):
        if heard[0] not in asking or left.wait(GRACE):
            continue
        for child in list(_children):
            with suppress(OSError):
                child.kill()
        for folder in list(_folders):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError, ValueError):
            print(f"hwm doctor: stopped by {signal.Signals(heard[0]).name}", file=sys.stderr, flush=True)
        os._exit(128 + heard[0])
