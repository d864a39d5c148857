"""TorchScript programs, for those who vouch for them: run in a process of their own that can do little else.

That process has no way to write or, on a CPU, even to open a file, its memory is bounded on a CPU, and it is ended when
a call takes too long.  It is no prison: it runs as the user, and on a GPU it can read what the user can.
"""

import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hwm.safe_load import program_child
from hwm.safe_load.archives import check_size, opened_zip, read_member
from hwm.safe_load.paths import shown
from hwm.safe_load.pickles import MAX_BYTES, parse_pickle
from hwm.safe_load.program_child import receive, send

SECONDS = 600.0
OPENING = 120.0
"""Seconds in which a program is opened."""
MAX_CODE = 64 * 2**20
"""Bytes that the members, of which only the code is packed, may have beyond those of the file."""


def open_programs(
    files: Sequence[Path],
    *, trust: bool, device: str | torch.device, dtype: torch.dtype, seconds: float = SECONDS, memory: int = 0,
) -> list[Callable[[Tensor], Tensor]]:
    """The programs of TorchScript files as functions of a tensor, all in one process of their own; each gives a tensor
    on the CPU, the first where the program gives several.

    trust: whether the user vouches for the files.  dtype: of their weights.
    seconds: that one call may take; opening takes at most `OPENING`.
    memory: bytes that they may take on a CPU; 0 is three quarters of the machine's.
    Raises ValueError without `trust`, for what is no TorchScript, and when a call fails or goes beyond a limit.
    """
    if not trust:
        raise ValueError(
            f"{files[0]}: a TorchScript file is a program and runs when it is used; "
            "pass trust=True (--trust) if you know where it comes from"
        )
    for file in files:
        _check_archive(file)
    memory = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    process = _Process(files, min(seconds, OPENING))
    about = {"files": [str(file.absolute()) for file in files], "device": str(device), "dtype_of_weights": str(dtype)}
    process.ask(about | {"memory": memory, "threads": torch.get_num_threads()}, None, "cannot be opened as TorchScript")
    process.seconds = seconds
    return [partial(process.call, number) for number in range(len(files))]


def _check_archive(path: Path) -> None:
    """Raise ValueError unless a TorchScript file is a sane zip whose pickles hold nothing that a reader never finishes."""
    where = f"{path}: cannot be opened as TorchScript"
    with opened_zip(path, where=where) as archive:
        check_size(archive, where=where, max_bytes=path.stat().st_size + MAX_CODE)
        for name in archive.NameToInfo:
            if name.endswith(".pkl"):
                content = read_member(archive, name, MAX_BYTES, where=where)
                try:
                    parse_pickle(content, any_name=True)
                except ValueError as error:
                    raise ValueError(f"{where}: {shown(name)} holds {error}; fetch it again") from None


class _Process:
    def __init__(self, files: Sequence[Path], seconds: float) -> None:
        self._files, self.seconds, self._lock = files, seconds, threading.Lock()
        # As a file and with -P, so that nothing of the folder one happens to be in is imported.
        command = [sys.executable, "-P", program_child.__file__]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        weakref.finalize(self, _end, self._child)

    def call(self, number: int, tensor: Tensor) -> Tensor:
        found = self.ask({"program": number}, tensor, f"{self._files[number].name} failed")
        if found is None:
            raise ValueError(f"{self._files[number]}: gave no tensor; it is no network that can be used here")
        return found

    def ask(self, head: dict, tensor: Tensor | None, failure: str) -> Tensor | None:
        """Send a message and wait for the answer to it."""
        assert self._child.stdin is not None and self._child.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(self.seconds, end)
        timer.daemon = True
        with self._lock:
            timer.start()
            try:
                send(self._child.stdin, head, tensor)  # type: ignore[arg-type]
                answer = receive(self._child.stdout)  # type: ignore[arg-type]
            except (OSError, ValueError, RecursionError):
                answer = None
            finally:
                timer.cancel()
        if answer is None:
            _end(self._child)
            why = f"took more than {self.seconds:g} s" if late.is_set() else f"ended ({self._child.returncode})"
            raise ValueError(f"{self._files[0].parent}: {failure}: the process of the program {why}; use another file")
        if "error" in answer[0]:
            raise ValueError(f"{self._files[0].parent}: {failure}: {shown(answer[0]['error'])}")
        return answer[1]


def _end(child: subprocess.Popen) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                pass
