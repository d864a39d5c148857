"""Where processes come from: a server that has imported what takes seconds, and has run nothing of it.

A fork of a process at work would copy half-started threads, and a new interpreter imports torch anew.  The server, one a
process, is started when it is first wanted, leaves every signal to the process that started it, and ends after it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from hwm.work.signals import SIGNALS

SLOW = ("torch", "torch._dynamo", "torch.distributed.checkpoint", "matplotlib.backends.backend_agg", "mujoco_warp")
"""What takes long to import: the server has of it what the process had that started it."""


def context() -> Any:
    """What processes, pipes and locks are made of."""
    with signals_blocked():  # no signal to the group ends this helper of Python's before this process
        resource_tracker.ensure_running()
    return multiprocessing.get_context("forkserver" if _there_are_servers() else "spawn")


def _there_are_servers() -> bool:
    return "forkserver" in multiprocessing.get_all_start_methods()


def warm(*modules: str) -> None:
    """Start the server where there is none yet, which imports these too; it gets ready while this process goes on."""
    if not _there_are_servers():
        return
    from multiprocessing import forkserver

    context().set_forkserver_preload([*(name for name in SLOW if name in sys.modules), *modules])
    with signals_blocked():  # opened anew: the tracker unblocks SIGINT and SIGTERM once it is started
        forkserver.ensure_running()


def start(process: BaseProcess) -> None:
    """Start a process that does not run the main script again: that may be guarded by nothing, or come from standard input.

    What the process is to do is therefore looked up in modules alone.
    """
    warm()
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main


def take_over(environment: Mapping[str, str]) -> None:
    """For a process of the server: have the environment of who wanted it, which may be another than the server's."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ |= environment


@contextmanager
def signals_blocked() -> Iterator[None]:
    """A process started inside never gets SIGINT, SIGTERM or SIGHUP; this one gets them afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_signals() -> None:
    """For a process of the server that is to be told of a stop: it gets signals from now on."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def with_the_parent(end: Callable[[], object]) -> None:
    """For a process of the server: call `end`, in a thread, when the process that wanted this one is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        end()

    threading.Thread(target=watch, daemon=True).start()
