"""Doing a long scoring part by part: what is there already is not done again, and several processes share the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from hwm.evaluate.parts import Arrays, Parts, PartsFolder
from hwm.safe_load.text import read_json
from hwm.share import Share
from hwm.signals import StopFlag

MAX_RESULTS_BYTES = 64_000_000


class Elsewhere(Exception):
    """This process has done its share, and the result is or will be written by another one."""


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
        """The parts of a scoring.  Raises Elsewhere where it is shared and its result is there already."""
        if self.results is None:
            return Parts()
        if self.share.count > 1 and self._written(key):
            self.remove(key)  # what a process left that was stopped after writing it
            raise Elsewhere(f"{self.results}: is there already; delete it to score again")
        return PartsFolder(self._folder(key), key)

    def fill(
        self,
        parts: Parts,
        names: Sequence[str],
        measure: Callable[[int], Arrays],
        *,
        done: Callable[[], None] = lambda: None,
        all_of_them: bool = False,
    ) -> None:
        """Measure what is missing of this process's share, or of all, begun with its share, which the others do likewise.

        measure: gives the arrays of the part with this number.  done: called after each part.
        Raises Stopped, between two parts or where `measure` asks.
        """
        numbers = range(len(names))
        first = self.share.index % len(names)
        for part in [*numbers[first:], *numbers[:first]] if all_of_them else self.share.of(numbers):
            self.stop.check()
            if not parts.have(names[part]):
                parts.write(names[part], measure(part))
            done()

    def read(self, parts: Parts, names: Sequence[str]) -> Iterator[Arrays]:
        """All parts in order.  Raises Elsewhere where another process has not measured its share, or has removed them."""
        there = sum(parts.begun(name) for name in names)
        if not there:
            raise Elsewhere(f"{self.results}: another process has written it")
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
                raise Elsewhere(f"{self.results}: another process has written it") from None

    def remove(self, key: str) -> None:
        """Remove the parts, whose result is written."""
        if self.results is not None:
            shutil.rmtree(self._folder(key), ignore_errors=True)

    def _written(self, key: str) -> bool:
        """Whether the results file is that of this key."""
        assert self.results is not None
        if self.results.suffix != ".json" or not self.results.is_file():
            return False
        try:
            settings = read_json(self.results, max_bytes=MAX_RESULTS_BYTES).get("settings")
        except ValueError:
            return False  # a file of another kind, which the result will replace
        return isinstance(settings, dict) and settings.get("fingerprint") == key

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
