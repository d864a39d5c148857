"""An output folder belongs to one process at a time, and is none of the folders that are read."""

import errno
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile

from hwm.safe_load.paths import is_dir, is_file
from hwm.work.files import cannot_write, write_all

try:
    import fcntl
except ImportError:  # Windows has no flock; its folders go unguarded and say so.
    fcntl = None  # type: ignore[assignment]


GONE = "was removed or replaced while it was written into, and what was made there with it; run the same command again"


def expect_apart(out: str | Path, *read: str | Path | None) -> None:
    """Raise ValueError where the file or folder `out` is, or would lie in, one of what is `read`, by whatever name or link.

    Also where nothing can be written there, which is tried: hours later it would be too late.
    read: files and folders; None and what does not exist are passed over.
    """
    real = Path(os.path.realpath(out))
    for source in read:
        if not source or not (is_dir(Path(source)) or is_file(Path(source))):
            continue
        for place in (real, *real.parents):
            if place.exists() and place.samefile(source):
                where = f"is {source} itself" if place == real else f"lies in {source}"
                raise ValueError(f"{out}: {where}, which is read: nothing is written there; choose another place for the output")
    there = next(place for place in (real, *real.parents) if place.exists())
    if there.is_file() and there != real:
        raise ValueError(f"{out}: cannot be written, {there} is a file; choose another place")
    try:
        with TemporaryFile(dir=there.parent if there.is_file() else there):
            pass
    except OSError as error:
        raise cannot_write(Path(out), error) from None


def expect_suffix(out: str | Path, *suffixes: str) -> None:
    """Raise ValueError for a name that says that the file would be of another kind than those written, whose names end so."""
    if Path(out).suffix.lower() not in suffixes:
        kinds = " or ".join(suffixes)
        raise ValueError(f"{out}: what is written here is a {kinds} file; give it a name that ends in {kinds}")


class Kept:
    """A folder, made if absent, that is written into for long, and must stay where it is."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # Open, so that no other folder can get its number; elsewhere than on POSIX that is not possible, nor is removing it.
        self._descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
        if self._descriptor is not None:
            weakref.finalize(self, os.close, self._descriptor)

    def expect_there(self) -> None:
        """Raise ValueError where the folder was removed or replaced: what is written would be without what was there before."""
        try:
            same = self._descriptor is None or os.path.samestat(os.fstat(self._descriptor), self.folder.stat())
        except OSError:
            same = False
        if not same:
            raise ValueError(f"{self.folder}: {GONE}")


@contextmanager
def claimed(out: Path, *, say: Callable[[str], None], patience: float = 0.0) -> Iterator[Kept]:
    """Hold an output folder for this process; made if absent.

    The lock is the kernel's, so that of a dead process is free again whatever file it left.
    patience: seconds to wait for another process to leave, such as one of the last attempt that is still saving.
    Raises ValueError naming process and host if another process holds it.
    """
    try:
        kept = Kept(out)
        file = (out / ".lock").open("ab+", buffering=0)
    except OSError as error:
        raise ValueError(f"{out}: cannot be used as an output folder: {error.strerror}; choose another folder") from None
    with file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, "no file locks on this system")
            _lock(file, patience)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(200).decode(errors="replace").strip() or "another process"
            raise ValueError(f"{out}: in use by {owner}; wait for it, stop it, or choose another folder") from None
        except OSError as error:
            say(f"{out}: this file system cannot lock ({error.strerror}); make sure that no other process writes here")
        file.truncate(0)
        write_all(file, f"process {os.getpid()} on {socket.gethostname()}\n", path=out / ".lock")
        try:
            yield kept
        finally:
            file.truncate(0)
            if fcntl is not None:  # Explicitly: a forked worker that outlives us shares the lock.
                fcntl.flock(file, fcntl.LOCK_UN)


def _lock(file: FileIO, patience: float) -> None:
    tries = round(patience / 0.2)  # counted, for a clock may stand still
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not tries:
                raise
            tries -= 1
            time.sleep(0.2)
