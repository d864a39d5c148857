"""Parts of a long scoring: plain arrays, kept in memory, or on the disk where each is whole or absent and checked.

A part is what one batch of clips gives: a function of the model, the settings and the numbers of the clips alone.  The
result is made from all parts in their order, so it is the same whoever measured them and when.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hwm.data.files import atomic_path

Arrays = dict[str, np.ndarray]
"""Arrays by name, in order; none without axes."""
CHECKSUM_BYTES = hashlib.sha256().digest_size


class Parts:
    """Parts in memory, by name."""

    def __init__(self) -> None:
        self._arrays: dict[str, Arrays] = {}

    def have(self, name: str) -> bool:
        """Whether the part is there and whole."""
        return name in self._arrays

    def begun(self, name: str) -> bool:
        """Whether the part is there, whole or not."""
        return name in self._arrays

    def write(self, name: str, arrays: Arrays) -> None:
        """Keep a part."""
        self._arrays[name] = arrays

    def read(self, name: str) -> Arrays:
        """The arrays of a part that is there, in the order in which they were written."""
        return self._arrays[name]


class PartsFolder(Parts):
    """Parts as files of one folder, each with a checksum that also covers its name and `key`.

    key: tells what decides the numbers; a part of another key, or put under another name, counts as damaged.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def have(self, name: str) -> bool:
        """Whether the part is there and whole; one that is damaged is removed, with a line that says so."""
        if not self.begun(name):
            return False
        try:
            self.read(name)
        except ValueError:
            print(f"{self._file(name)}: damaged, is measured again", file=sys.stderr, flush=True)
            self._file(name).unlink(missing_ok=True)
            return False
        return True

    def begun(self, name: str) -> bool:
        """Whether the file is there, whole or not."""
        return self._file(name).is_file()

    def write(self, name: str, arrays: Arrays) -> None:
        """Write a part: readers see all of it or none."""
        head = json.dumps([[key, array.dtype.str, array.shape] for key, array in arrays.items()]).encode()
        body = b"".join([len(head).to_bytes(8, "little"), head, *(array.tobytes() for array in arrays.values())])
        with atomic_path(self._file(name)) as temporary, temporary.open("wb") as file:
            file.write(self._checksum(name, body))
            file.write(body)

    def read(self, name: str) -> Arrays:
        """The arrays of a part, in the order in which they were written.

        Raises ValueError for a damaged file, FileNotFoundError for none.
        """
        content = self._file(name).read_bytes()
        body = memoryview(content)[CHECKSUM_BYTES:]
        if self._checksum(name, body) != content[:CHECKSUM_BYTES]:
            raise ValueError(f"{self._file(name)}: damaged (its checksum differs); run the same command again to measure it anew")
        place = 8 + int.from_bytes(body[:8], "little")
        arrays = {}
        for key, dtype, shape in json.loads(bytes(body[8:place])):
            count = int(np.prod(shape, dtype=np.int64))
            arrays[key] = np.frombuffer(body, dtype, count, place).reshape(shape).copy()
            place += arrays[key].nbytes
        return arrays

    def _checksum(self, name: str, body: bytes | memoryview) -> bytes:
        found = hashlib.sha256(f"{self.key} {name}\n".encode())
        found.update(body)
        return found.digest()

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.bin"


def names_of(what: str, num: int) -> list[str]:
    """Names of parts 0..num-1."""
    return [f"{what}-{part:05d}" for part in range(num)]


def under(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays with `name`/ before their names."""
    return {f"{name}/{key}": array for key, array in arrays.items()}


def inside(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays whose names begin with `name`/, without it."""
    return {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}


class Columns:
    """Arrays with one row a clip, joined over the parts in the order in which they are added."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The next clips."""
        for name, array in arrays.items():
            self._parts.setdefault(name, []).append(array)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.concatenate(self._parts[name]))

    def inside(self, name: str) -> dict[str, Tensor]:
        """The columns whose names begin with `name`/, by the rest of their names."""
        return {key.removeprefix(f"{name}/"): self[key] for key in self._parts if key.startswith(f"{name}/")}


class Times:
    """Seconds by what they were spent on, as parts tell them under "seconds/"."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def add(self, arrays: Arrays) -> None:
        """Those of one part."""
        for name, seconds in inside("seconds", arrays).items():
            self.spent[name] = self.spent.get(name, 0.0) + float(seconds[0])


def seconds(**spent: float) -> Arrays:
    """Seconds as a part tells them; underscores in the names stand for spaces."""
    return {f"seconds/{name.replace('_', ' ')}": np.array([value]) for name, value in spent.items()}
