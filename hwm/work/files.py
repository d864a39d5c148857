"""Files that are whole or absent: written atomically, JSON capped, memory maps of exactly the expected size.

A write survives a kill or a power cut, and says plainly when the disk is full.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import mmap
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwm.safe_load import text as foreign_text
from hwm.safe_load.paths import is_dir, reading
from hwm.work.signals import unfinished

if TYPE_CHECKING:
    from PIL import Image

MAX_JSON_BYTES = 4_000_000
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
TORSO = re.compile(rf"\.(.*)\.{HOST}-(\d+)-[0-9a-f]{{8}}\.tmp(\.[^.]*|)")
"""Name of a temporary of this machine: stem, process, suffix."""
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
"""What the system says when a disk is full."""
PREAD = hasattr(os, "preadv")


@contextmanager
def atomic_path(path: str | Path, *, first: bool = False) -> Iterator[Path]:
    """Yield a hidden temporary path beside `path`; it takes the place of `path` only if the block succeeds.

    The suffix is kept, so that writers which choose a format by it work.  What a killed process left of an earlier
    attempt is removed.  first: what is there already stays; of several processes at once one wins.
    Raises ValueError naming `path` where the system does not let it be written, with the free space of its disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torsos(path)
        with unfinished(temporary):
            yield temporary
            fsync(temporary)
            if first:
                _link(temporary, path)
            else:
                temporary.replace(path)
    except Exception as error:
        mine = getattr(error, "filename", None) in {str(temporary), *map(str, path.parents)}
        if _number(error) in FULL or (mine and _number(error)):
            raise cannot_write(path, error) from None
        raise
    finally:
        with suppress(OSError):  # its folder cannot be
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.replace(path)


def cannot_write(path: Path, error: BaseException) -> ValueError:
    """The one-line error of a failed write: the file, the system's reason, the space left on its disk, the remedy."""
    free = shutil.disk_usage(existing(path.parent)).free
    number = _number(error)
    reason = os.strerror(number) if number else str(error)
    remedy = "; free some space or choose another disk and run again" if number in FULL or free < 1 << 20 else ""
    return ValueError(f"{path}: cannot write: {reason} ({free / 1e9:.2f} GB free){remedy}")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not is_dir(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _number(error: BaseException) -> int | None:
    """The system's number of an error; safetensors tells it in its text alone."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    return error.errno if isinstance(error, OSError) and error.errno else int(told[1]) if told else None


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into, which gets its name, readable to all, when everything is in it; nothing stays of a failure.

    Raises ValueError where there is one of that name, or it cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path}: already exists; choose a new folder or remove it")
    building = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        building.mkdir(parents=True)
        yield building
        for inside in (building, *building.rglob("*")):
            inside.chmod(0o755 if inside.is_dir() else 0o644)
        building.replace(path)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, Exception) and _number(error):
            raise cannot_write(path, error) from None
        raise


def sha256(path: Path) -> str:
    """SHA-256 of a file as hex.  Raises ValueError, naming it, where it cannot be read."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old text or the new one, also after a power cut.

    Raises ValueError of one line for whatever keeps it from being written.
    """
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_picture(path: Path, picture: Image.Image) -> None:
    """The same with a picture, in the format of the suffix."""
    _write(path, picture.save)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        with atomic_path(path) as temporary:
            write(temporary)
        fsync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_all(file: FileIO, text: str, *, path: Path) -> None:
    """Append text to an unbuffered file, all of it."""
    data = text.encode()
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise cannot_write(path, error) from None


def fsync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_torsos(path: Path) -> None:
    """Remove temporaries of `path` whose process, on this machine, is gone; others may be being written."""
    for other in path.parent.glob(".*.tmp*"):
        match = TORSO.fullmatch(other.name)
        if match and match[1] == path.stem and match[3] == path.suffix and not _alive(int(match[2])):
            other.unlink(missing_ok=True)


def remove_torsos(folder: str | Path, processes: set[int] | None = None) -> None:
    """Remove every temporary below `folder` of these processes, which have ended, or of all of this machine that have."""
    for other in Path(folder).rglob(".*.tmp*"):
        match = TORSO.fullmatch(other.name)
        if match and (int(match[2]) in processes if processes is not None else not _alive(int(match[2]))):
            other.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # asking elsewhere would signal the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_json(path: str | Path, value: Any, *, first: bool = False) -> None:
    """Write JSON atomically; see `atomic_path` for `first`."""
    with atomic_path(path, first=first) as temporary:
        temporary.write_text(json.dumps(value))


def sealed(body: dict[str, Any]) -> str:
    """JSON text that ends in its own checksum, by which a flipped bit is noticed; see `unsealed`.

    Raises ValueError for a number that is not finite.
    """
    body = json.loads(json.dumps(body, allow_nan=False))  # noqa: TID251, of json.dumps in the same line: every key is a text
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": checksum}, indent=1) + "\n"


def unsealed(path: Path, *, max_bytes: int = MAX_JSON_BYTES, always: bool = True, remedy: str = "delete it") -> dict[str, Any]:
    """What `sealed` wrote into a file.  Raises ValueError, naming it, for one that is missing, damaged or not sealed.

    always: False takes what has no checksum, as earlier versions wrote it.
    """
    body = foreign_text.read_json(path, max_bytes=max_bytes, kind="file with a checksum", remedy=remedy)
    checksum = body.pop("sha256", None)
    if (checksum or always) and hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() != checksum:
        raise ValueError(f"{path}: damaged (its checksum differs); {remedy}")
    return body


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; every error names the file."""
    kind, remedy = "file that describes data", "copy or fetch it again, beside the data it describes"
    return foreign_text.read_json(path, max_bytes=MAX_JSON_BYTES, kind=kind, remedy=remedy)


def read_count(table: dict[str, Any], key: str, path: Path) -> int:
    """A count from a JSON object; zero and negative counts are errors too."""
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{path}: expected a positive whole number under {key!r}, found {value!r}")
    return value


def write_array(path: str | Path, array: np.ndarray, dtype: str) -> None:
    """Write the bare bytes of an array, little-endian C order, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(np.ascontiguousarray(array, dtype=dtype).data)  # `tofile` would not say why it fails


def check_size(path: Path, expected: int, meaning: str) -> None:
    """Raise ValueError unless the file has exactly `expected` bytes; `meaning` says where the number comes from."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; fetch or write it again")
    with reading(path):
        actual = path.stat().st_size
    if actual != expected:
        fault = "truncated" if actual < expected else "too long"
        raise ValueError(f"{path}: {fault}: {actual} bytes, expected {expected} ({meaning}); fetch or write it again")


def map_array(path: Path, dtype: str, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """Memory-map a bare array read-only, after checking its exact size; read pieces of it with `read_rows`."""
    check_size(path, math.prod(shape) * np.dtype(dtype).itemsize, meaning)
    with reading(path):
        return without_read_ahead(np.memmap(path, dtype=dtype, mode="r", shape=shape))


def without_read_ahead(array: np.memmap) -> np.memmap:
    """The same map, told that it is read at random: the kernel's read-ahead can be megabytes for a clip of 24 kB."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        array.base.madvise(mmap.MADV_RANDOM)
    return array


def read_rows(array: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Rows first..stop-1 of a memory map, a copy asked of the disk in one piece; a slice of any other array.

    It is read from the file, not through the map: where a file is cut short meanwhile, that kills the process without a
    word, and it is no faster.  Raises ValueError, naming the file, when it has become too short.
    """
    stop = min(stop, len(array))
    mapped = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.flags.c_contiguous
    if not PREAD or not mapped or stop <= first:
        return array[first:stop]
    assert isinstance(array, np.memmap)
    rows = np.empty((stop - first, *array.shape[1:]), array.dtype)
    left, place = rows.view(np.uint8).reshape(-1).data, array.offset + first * array.strides[0]
    with reading(str(array.filename)):
        try:
            descriptor = os.open(str(array.filename), os.O_RDONLY)
        except FileNotFoundError:  # deleted, which leaves the map whole
            return array[first:stop]
        try:
            while left and (count := os.preadv(descriptor, [left], place)):
                left, place = left[count:], place + count
            if left:
                fault = f"was cut short while it was read: {os.fstat(descriptor).st_size} bytes, {place + len(left)} needed"
                raise ValueError(f"{array.filename}: {fault}; fetch or write it again")
        finally:
            os.close(descriptor)
    return rows


def expect_rows(array: np.ndarray) -> np.ndarray:
    """The same memory map, after a look at its file: it must still hold all rows.

    Reading a map beyond the end of a file that was cut short meanwhile kills the process without a word.
    Raises ValueError naming the file.  Costs a microsecond.
    """
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
        needed = array.offset + len(array) * array.strides[0]
        if needed > (actual := array.base.size()):
            fault = f"was cut short while it was read: {actual} bytes, {needed} needed"
            raise ValueError(f"{array.filename}: {fault}; fetch or write it again")
    return array
