"""Parts of a long scoring: plain arrays, kept in memory, or on the disk where each is whole or absent and checked.

A part is what one batch of clips gives: a function of the model, the settings and the numbers of the clips alone.  The
result is made from all parts in their order, so it is the same whoever measured them and when.

Hashes that tell one scoring from another: of a model with its weights, of settings, of files.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hwm
from hwm.work.claim import GONE
from hwm.work.files import atomic_path, sha256, unsealed
from hwm.work.share import Share
from hwm.work.signals import StopFlag

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
        for key, dtype, shape in json.loads(bytes(body[8:place])):  # noqa: TID251, held against a checksum
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


MAX_RESULTS_BYTES = 64_000_000


def read_results(path: Path) -> dict[str, Any]:
    """A file of results, compared with its checksum.  Raises ValueError, naming it, where it is damaged."""
    return unsealed(path, max_bytes=MAX_RESULTS_BYTES, always=False, remedy="score the run again")


class Elsewhere(Exception):
    """This process has done its share, and the result is or will be written by another one."""


class Finished(Exception):
    """The result of this very scoring is there already.  found: what its file holds."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__("is there already")
        self.found = found


@dataclass(frozen=True)
class Work:
    """How a long scoring is done: where its parts are kept, which of them are this process's, and when to stop.

    results: the file that is written last of all; the parts lie beside it until then.  None: in memory.
    sources: tell apart what the numbers come from and a protocol cannot see: recorded video, weights of networks.
    """

    results: Path | None = None
    sources: Sequence[str] = ()
    share: Share = field(default_factory=Share)
    stop: StopFlag = field(default_factory=StopFlag)

    def open(self, key: str) -> Parts:
        """The parts of a scoring.  Raises Finished where its result is there already, Elsewhere where it is shared too."""
        if self.results is None:
            return Parts()
        if found := self._written(key):
            self.remove(key)  # what a process left that was stopped after writing it
            if self.share.count > 1:
                raise Elsewhere(f"{self.results}: is there already; delete it to score again")
            raise Finished(found)
        return PartsFolder(self._folder(key), key)

    def fill(
        self, parts: Parts, names: Sequence[str], measure: Callable[[int], Arrays],
        *, done: Callable[[], None] = lambda: None, all_of_them: bool = False,
    ) -> None:
        """Measure what is missing of this process's share, or of all, begun with its share, which the others do likewise.

        measure: gives the arrays of the part with this number.  done: called after each part.
        Raises Stopped, between two parts or where `measure` asks.
        """
        numbers = range(len(names))
        first, written = self.share.index % len(names), ""
        for part in [*numbers[first:], *numbers[:first]] if all_of_them else self.share.of(numbers):
            self.stop.check()
            if not parts.have(names[part]):
                if written and not parts.begun(written):
                    raise self._gone()
                parts.write(written := names[part], measure(part))
            done()

    def read(self, parts: Parts, names: Sequence[str]) -> Iterator[Arrays]:
        """All parts in order.  Raises Elsewhere where another process has not measured its share, or has removed them."""
        there = sum(parts.begun(name) for name in names)
        if not there or (there < len(names) and self.share.count == 1):
            raise self._gone()
        if there < len(names):
            raise Elsewhere(
                f"share {self.share.index + 1} of {self.share.count}, as the launcher's environment says, is done; {there} of "
                f"{len(names)} parts are there, and the process that finds all of them writes {self.results}"
            )
        for name in names:
            self.stop.check()
            try:
                yield parts.read(name)
            except FileNotFoundError:
                raise self._gone() from None

    def _gone(self) -> Exception:
        """Parts are removed by a process that has written the result, or else by somebody who has removed their folder."""
        assert self.results is not None
        if self.share.count > 1 or self.results.is_file():
            return Elsewhere(f"{self.results}: another process has written it")
        return ValueError(f"{self.results.parent}: {GONE}")

    def remove(self, key: str) -> None:
        """Remove the parts, whose result is written."""
        if self.results is not None:
            shutil.rmtree(self._folder(key), ignore_errors=True)

    def _written(self, key: str) -> dict[str, Any] | None:
        """What the results file holds, where it is that of this key."""
        assert self.results is not None
        if self.results.suffix != ".json" or not self.results.is_file():
            return None
        try:
            found = read_results(self.results)
        except ValueError as error:  # damaged, or a file of another kind: the result will replace it
            print(f"{error}; it is made anew", file=sys.stderr, flush=True)
            return None
        settings = found.get("settings")
        return found if isinstance(settings, dict) and settings.get("fingerprint") == key else None

    def _folder(self, key: str) -> Path:
        assert self.results is not None
        return self.results.parent / f".parts-{self.results.stem}-{key[:16]}"


def sizes_of(total: int, batch_size: int) -> list[int]:
    """Clips in each part."""
    return [min(batch_size, total - start) for start in range(0, total, batch_size)]


def progress_of(call: Callable[[int, int], None] | None, sizes: Sequence[int]) -> Callable[[], None]:
    """What to call after each part of these sizes, so that `call` is told how much is done and how much there is."""
    left, total = iter(sizes), sum(sizes)
    done = 0

    def one_more() -> None:
        nonlocal done
        done += next(left, 0)
        if call is not None:
            call(done, total)

    return one_more


def listening(stop: StopFlag | None) -> AbstractContextManager[StopFlag]:
    """The flag of a caller, or one that listens to signals itself."""
    return StopFlag() if stop is None else nullcontext(stop)


def fingerprint(model: Any, **facts: Any) -> str:
    """A hash of a model, its weights included, and of whatever else decides a result: plain values, tensors and arrays."""
    weights = model.state_dict() if isinstance(model, torch.nn.Module) else {}
    about = {"class": type(model).__name__, "config": repr(getattr(model, "config", None)), "weights": weights}
    versions = {"hwm": hwm.__version__, "torch": torch.__version__}
    text = json.dumps({"model": about, "facts": facts, "versions": versions}, sort_keys=True, default=_digest)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(value: Any) -> Any:
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [str(value.dtype), list(value.shape), hashlib.sha256(data.data).hexdigest()]
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
    return value.item() if isinstance(value, np.generic) else repr(value)


def sources(*, weights: Sequence[Path] = (), **data: str | None) -> list[str]:
    """What tells numbers from those of other sources: fingerprints of data by their use, and the content of files of weights."""
    named = [(name, found) for name, found in data.items() if found is not None]
    for path in weights:
        if path.is_file():  # who reads it says what is wrong
            named.append(("weights", sha256(path)))
    return [f"{name} {found}" for name, found in named]
