"""Files that are whole or absent: atomic writing, capped JSON, memory maps of exactly the expected size."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MAX_JSON_BYTES = 4_000_000


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a hidden temporary path beside `path`; it takes the place of `path` only if the block succeeds.

    The suffix is kept, so that writers which choose a format by it work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; every error names the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; copy it beside the data it describes")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path}: larger than {MAX_JSON_BYTES} bytes, not a description of data")
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); fetch or write the file again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_count(table: dict[str, Any], key: str, path: Path) -> int:
    """A count from a JSON object; zero and negative counts are errors too."""
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{path}: expected a positive whole number under {key!r}, found {value!r}")
    return value


def write_array(path: str | Path, array: np.ndarray, dtype: str) -> None:
    """Write the bare bytes of an array, little-endian C order, atomically."""
    with atomic_path(path) as temporary:
        np.ascontiguousarray(array, dtype=dtype).tofile(temporary)


def check_size(path: Path, expected: int, meaning: str) -> None:
    """Raise ValueError unless the file has exactly `expected` bytes; `meaning` says where the number comes from."""
    actual = path.stat().st_size
    if actual != expected:
        fault = "truncated" if actual < expected else "too long"
        raise ValueError(f"{path}: {fault}: {actual} bytes, expected {expected} ({meaning}); fetch or write it again")


def map_array(path: Path, dtype: str, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """Memory-map a bare array read-only, after checking its exact size."""
    expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    check_size(path, expected, meaning)
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
