"""Where a run would live: free space, folders one can write to, file locks, open files; and what else it leans on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hwm.config import RunConfig
from hwm.doctor.machine import DISTRIBUTION, requirements, within
from hwm.doctor.units import size
from hwm.doctor.verdict import Verdict, fail, graded, ok, warn
from hwm.model_config import WanConfig

LEAST_DISK = 2e9
"""Free bytes below which a run should not begin."""
LEAST_FILES = 256
"""Open files that a run of any size wants to be allowed."""
LEAST_SHARED = 256e6
"""Bytes of /dev/shm that processes on one machine exchange data through."""


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def cache_folder() -> Path:
    """Where decoded frames go when a dataset's own folder is read-only."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "hwm"


def disk(name: str, folder: Path, *, least: float = LEAST_DISK) -> Verdict:
    """Free space where `folder` is or would be made."""
    free = shutil.disk_usage(existing(folder)).free
    remedy = f"{size(least)} are wanted: free some space or choose another disk"
    return graded(name, f"{size(free)} free at {folder}", remedy, fails=free < least)


def writing(folder: Path) -> Verdict:
    """Write, force to the disk, rename and delete a file; `folder` is the doctor's own temporary one."""
    file, other = folder / "written", folder / "renamed"
    try:
        with file.open("wb") as stream:
            stream.write(bytes(4096))
            os.fsync(stream.fileno())
        file.replace(other)
        whole = other.read_bytes() == bytes(4096)
        other.unlink()
    except OSError as error:
        return fail("writing", f"{folder.parent}: {error.strerror}", "choose a folder that you may write to with --out")
    return graded("writing", f"{folder.parent}", "what was written did not come back: change the disk", fails=not whole)


def cache_writing(folder: Path) -> Verdict:
    """Whether the user's cache can be made; only read-only datasets of video need it."""
    above = existing(folder)
    remedy = "set XDG_CACHE_HOME to a writable folder (needed only for video in read-only folders)"
    return graded("cache folder", f"{folder}", remedy, warns=not (os.access(above, os.W_OK) and above.is_dir()))


def locking(folder: Path) -> Verdict:
    """Whether a lock that one open file holds is refused to another, which keeps two runs out of one folder."""
    remedy = "make sure yourself that no two processes train in one folder, or choose a local disk"
    try:
        import fcntl
    except ImportError:
        return warn("file locks", "this system has none", remedy)
    with (folder / "lock").open("wb") as first, (folder / "lock").open("wb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return warn("file locks", f"refused: {error.strerror}", remedy)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ok("file locks", "a second holder is refused")
        return warn("file locks", "a second holder is let in", remedy)


def open_files(*, needed: int = LEAST_FILES) -> Verdict:
    """Files that the process may hold open at a time, against what is needed: three for every mapped shard."""
    try:
        import resource
    except ImportError:
        return ok("open files", "no limit on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ok("open files", f"{soft} allowed, {needed} wanted")
    more = "ulimit -n " + str(2 * needed) if hard == resource.RLIM_INFINITY or hard >= needed else "ask for a higher limit"
    return fail("open files", f"{soft} allowed, {needed} wanted", more)


def extras(config: RunConfig | None) -> Iterator[Verdict]:
    """Optional libraries: what the recipe needs; without one, which are there."""
    if config is None:
        present = [extra for extra in ("sim", "report", "wan", "tensorboard") if not _lacking(extra)]
        yield ok("extras", f"{', '.join(present) or 'none'} installed")
        return
    needed = ["wan"] * isinstance(config.model, WanConfig) + ["tensorboard"] * config.train.tensorboard
    for extra in needed:
        lacking = _lacking(extra)
        found = f"{extra}: {', '.join(lacking) if lacking else 'all there'}"
        yield graded("extras", found, f"pip install '{DISTRIBUTION}[{extra}]'", fails=bool(lacking))
    if not needed:
        yield ok("extras", f"{config.recipe} needs none")


def _lacking(extra: str) -> list[str]:
    """Distributions of an extra that are absent or of another version."""
    lacking = []
    for name, wanted in requirements(DISTRIBUTION, extra=extra).items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append(f"{name} is missing")
            continue
        if not within(found, wanted):
            lacking.append(f"{name} {found} is not {wanted}")
    return lacking


def compiler(folder: Path, *, cuda: bool) -> Verdict:
    """What torch.compile needs: on a CPU a C++ compiler that compiles, on a GPU Triton."""
    if cuda and importlib.util.find_spec("triton") is None:
        return fail("compiler", "no triton", "pip install triton, or --set train.compile=false")
    found = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    remedy = "install g++ with its headers, or --set train.compile=false"
    if found is None:
        return fail("compiler", "no C++ compiler", remedy)
    source = folder / "program.cpp"
    source.write_text("#include <cmath>\n#include <vector>\nint main() { return std::vector<int>{int(std::sqrt(0.0))}[0]; }\n")
    done = subprocess.run([found, source, "-o", folder / "program"], capture_output=True, text=True, timeout=120)
    wrong = done.stderr.strip().splitlines()[:1]
    return graded("compiler", found + (f": {wrong[0]}" if wrong else ""), remedy, fails=done.returncode != 0)


def shared_memory(folder: Path = Path("/dev/shm"), *, least: float = LEAST_SHARED) -> Verdict:
    """Memory through which processes on one machine exchange data; containers often have 64 MB."""
    if not folder.is_dir():
        return warn("shared memory", f"no {folder}", "GPUs on one machine may talk more slowly")
    free = shutil.disk_usage(folder).free
    return graded("shared memory", f"{size(free)} free in {folder}", "give the container --shm-size=1g", warns=free < least)
