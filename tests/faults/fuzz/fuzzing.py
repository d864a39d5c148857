"""A fuzzer of the files that the product opens: tiny real ones are damaged and opened by the functions behind the verbs.

    python tests/faults/fuzz/fuzzing.py PLACE SEED FIRST STOP [--long]     inputs of these numbers
    python tests/faults/fuzz/fuzzing.py PLACE SEED 123 124 [--long]        one of them again

Prints a line of JSON for each that did not end well.  The files are made in PLACE, a folder, where they are not there.

An input ends well where it is opened, or refused by a ValueError of one line that names a file or folder of what was
opened, within bounds of time and memory.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS / room) for room in ("", "faults", "faults/fuzz", "training", "models/wan", "tokenizers")]

import fuzz_files  # noqa: E402
from fuzz_files import is_read, seal_again  # noqa: E402
from mutate import damage  # noqa: E402

SECONDS = 10.0
"""Of processor time for an input."""
WAITING = 120.0
"""Seconds for an input that computes nothing, but waits."""
ROOM = 1 << 30
"""Bytes that a process may ask for beyond what it has when it begins."""


class TooLongError(BaseException):
    """An input took more than its time; no handler of errors may take it."""


@dataclass
class Outcome:
    """How an input ended: "opened", "refused", or what is wrong with its end."""

    number: int
    artefact: str
    entry: str
    damage: str
    fault: str
    said: str = ""

    @property
    def well(self) -> bool:
        return self.fault in ("opened", "refused")


class Fuzzer:
    """Damages and opens the files of a place, and puts them back."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.entries = [(name, root, entry, call, weight) for name, root, calls in fuzz_files.entries(place)
                        for entry, (call, weight) in calls.items()]  # fmt: skip
        self.whole = {root: {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
                      for _, root, *_ in self.entries}  # fmt: skip

    def try_one(self, seed: int, number: int) -> Outcome:
        """Input `number` of a seed: a pure function of both and of the files."""
        chance = Random(f"{seed} {number}")
        (name, root, entry, call, _), = chance.choices(self.entries, [weight for *_, weight in self.entries])  # fmt: skip
        files = [path for path in self.whole[root] if is_read(path.relative_to(root))]
        path = chance.choice(files)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of doubled members
                said = f"{path.relative_to(self.place)}: {damage(path, chance, files)}"
            if chance.random() < 0.7 and seal_again(root, path):
                said += ", checksums made to agree"
            out = self.place / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            few = chance.randrange(6) if chance.random() < 0.03 else None
            said += f", {few} more files can be opened" if few is not None else ""
            with few_files(few):
                fault, told = self._end(entry, partial(call, root, out))
        finally:
            self._restore(root)
        return Outcome(number, name, entry, said, fault, told)

    def warm_up(self) -> None:
        """Open everything once as it is: all must be well, and what is loaded on the way stays."""
        for name, root, entry, call, _ in self.entries:
            out = self.place / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            fault, told = self._end(entry, partial(call, root, out))
            if fault != "opened":
                raise SystemExit(f"{name}, {entry}: {fault}: {told}")
            self._restore(root)

    def _end(self, entry: str, call: Callable[[], Any]) -> tuple[str, str]:
        printed = io.StringIO()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed):
                warnings.simplefilter("ignore")
                code = call()
        except TooLongError:
            return f"took more than {SECONDS} s, or waits", traceback.format_exc(limit=-3)
        except ValueError as error:
            line = str(error)
            if type(error) is not ValueError and not type(error).__module__.startswith("hwm."):
                return type(error).__name__, traceback.format_exc(limit=-4)
            return self._judge(line) or "refused", line
        except BaseException as error:
            if isinstance(error, OSError) and error.errno == errno.EMFILE and error.filename:
                return "refused", str(error)
            return type(error).__name__, traceback.format_exc(limit=-4)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        if entry.startswith("hwm ") and code not in (0, 1):
            lines = [line for line in printed.getvalue().splitlines() if ": error: " in line]
            if code != 2 or len(lines) != 1:
                return f"exit code {code} with {len(lines)} lines", printed.getvalue()[-500:]
            return self._judge(lines[0].partition(": error: ")[2]) or "refused", lines[0]
        return "opened", ""

    def _judge(self, line: str) -> str:
        """What is wrong with a line in which something was refused; empty where nothing is."""
        if "\n" in line or not line:
            return "not one line"
        return "" if f"{self.place}/" in line else "names no file"  # any of them: two files may not fit each other

    def _restore(self, root: Path) -> None:
        whole = self.whole[root]
        for path in sorted(root.rglob("*"), reverse=True):
            if path.is_symlink() or (path not in whole and not path.is_dir()):
                path.unlink()
            elif path.is_dir() and (path in whole or not any(path.iterdir())):
                shutil.rmtree(path)
        for path, content in whole.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.write_bytes(content)


@contextlib.contextmanager
def few_files(more: int | None) -> Iterator[None]:
    """While it lasts this process can open so many files more; None: as many as ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        if more is not None:
            now = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
            resource.setrlimit(resource.RLIMIT_NOFILE, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def bounded() -> None:
    """Let this process ask for so much memory and no more, and end an input that takes too long."""

    def too_long(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGPROF, too_long)
    signal.signal(signal.SIGALRM, too_long)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    place, seed, first, stop = Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:5])
    place.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    journal = (place / "number").open("w")
    if not (place / "made").exists():
        with contextlib.redirect_stdout(sys.stderr):
            fuzz_files.make(place, long="--long" in sys.argv)
        (place / "made").touch()
    fuzzer = Fuzzer(place)
    fuzzer.warm_up()
    bounded()
    counts: dict[str, int] = {}
    for number in range(first, stop):
        journal.seek(0)
        journal.write(f"{number:9d}")
        journal.flush()
        outcome = fuzzer.try_one(seed, number)
        counts[outcome.fault] = counts.get(outcome.fault, 0) + 1
        if not outcome.well or stop == first + 1:
            print(json.dumps(vars(outcome)), flush=True)
    print(json.dumps({"counts": counts}), flush=True)


if __name__ == "__main__":
    main()
