"""Writing that survives a kill or a power cut, and says so plainly when the disk is full."""

from __future__ import annotations

import errno
import os
import re
import shutil
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def fsync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(exist_ok=True)
        picture.save(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def write_all(file: FileIO, text: str, *, path: Path) -> None:
    """Append text to an unbuffered file, all of it."""
    data = text.encode()
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: BaseException) -> ValueError:
    """The one-line error of a failed write: the file, the system's reason, the space left, the remedy."""
    free = shutil.disk_usage(path.parent if path.parent.exists() else ".").free
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors tells the number in its text alone
    number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
    reason = os.strerror(number) if number else str(error)
    remedy = "; free some space or choose another disk and run again" if number in _FULL or free < 1 << 20 else ""
    return ValueError(f"{path}: cannot write: {reason} ({free / 1e9:.2f} GB free){remedy}")
