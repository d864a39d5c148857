"""Arrays and pictures of one shape and type that the reader knows beforehand, compared before anything is unpacked.

An .npy file may hold Python objects, which are programs; those are never opened.
"""

import io
import math
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from hwm.safe_load.paths import is_file, reason, shown


def map_npy(path: str | Path, *, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.memmap:
    """A read-only memory map of an .npy file in C order.

    Raises ValueError, naming the file, unless header and size are exactly those of such an array.
    """
    path, kind = Path(path), np.dtype(dtype)
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such file, expected an .npy array {kind} {shape}")
    try:
        with path.open("rb") as file:
            _check_header(file, shape, kind)
            start, size = file.tell(), file.seek(0, io.SEEK_END)
        expected = start + kind.itemsize * math.prod(shape)
        if size != expected:
            raise ValueError(f"{size} bytes, expected {expected}")
        return np.memmap(path, dtype=kind, mode="r", offset=start, shape=shape)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}; make the file again") from None


def parse_npy(content: bytes, *, shape: tuple[int, ...], dtype: np.typing.DTypeLike, where: str) -> np.ndarray:
    """The array of an .npy file in memory, whose header is compared before anything is made of it.

    where: begins messages.  Raises ValueError for any other shape, type, order or number of bytes.
    """
    kind, data = np.dtype(dtype), io.BytesIO(content)
    try:
        _check_header(data, shape, kind)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    rest = len(content) - data.tell()
    if rest != kind.itemsize * math.prod(shape):
        raise ValueError(f"{where}: expected {kind.itemsize * math.prod(shape)} bytes of numbers, got {rest}")
    return np.frombuffer(content, kind, offset=data.tell()).reshape(shape)


def parse_png(content: bytes, *, size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of an RGB PNG in memory, uint8 (height, width, 3).

    size: height and width that it must have.  where: begins messages.
    Raises ValueError for another format, mode or size, an animation, and what is not whole.
    """
    expected = f"RGB {size[0]}x{size[1]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                if (picture.mode, (picture.height, picture.width)) != ("RGB", tuple(size)):
                    raise _OtherError(f"expected {expected}, got {picture.mode} {picture.height}x{picture.width}")
                if getattr(picture, "n_frames", 1) != 1:
                    raise _OtherError("expected one picture, got an animation")
                picture.load()
                return np.asarray(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{where}: expected {expected}, got a picture of too many pixels") from None
    except _OtherError as error:
        raise ValueError(f"{where}: {error}") from None
    except (OSError, SyntaxError, ValueError, zlib.error, MemoryError) as error:
        raise ValueError(f"{where}: not a whole PNG ({reason(error)})") from None


def _check_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    try:
        version = np.lib.format.read_magic(file)
        found = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else None
    except Exception as error:  # a hostile header can raise anything
        raise ValueError(f"not a whole .npy file ({reason(error)})") from None
    if found is None:
        raise ValueError("expected an .npy file of version 1.0")
    if found != (shape, False, dtype):
        order = "Fortran" if found[1] else "C"
        raise ValueError(f"expected {dtype} {shape} in C order, got {shown(found[2])} {shown(found[0])} in {order} order")


class _OtherError(Exception):
    pass
