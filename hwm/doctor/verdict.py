"""Verdicts: one line each, in the order in which they become known, and the sentence at the end.

Between two of them the stop flag is polled.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hwm.work.memory import shortage
from hwm.work.signals import StopFlag, Stopped, unfinished

Status = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True)
class Verdict:
    """What one check found.  remedy: what to do about it, for all but ok.  seconds: what the check took."""

    status: Status
    name: str
    found: str
    remedy: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        """One line of text."""
        remedy = f"  -> {self.remedy}" if self.remedy else ""
        return f"{self.status:<4}  {self.name:<20}  {self.found}{remedy}  [{self.seconds:.1f} s]"


def ok(name: str, found: str) -> Verdict:
    """Nothing to do."""
    return Verdict("ok", name, found)


def warn(name: str, found: str, remedy: str) -> Verdict:
    """Training goes, but not as it could, or what was to be known could not be found out."""
    return Verdict("warn", name, found, remedy)


def fail(name: str, found: str, remedy: str) -> Verdict:
    """Training would stop, or learn nothing of use."""
    return Verdict("FAIL", name, found, remedy)


def graded(name: str, found: str, remedy: str, *, fails: bool = False, warns: bool = False) -> Verdict:
    """FAIL or warn with the remedy, or ok without."""
    bad = fails or warns
    return Verdict("FAIL" if fails else "warn" if bad else "ok", name, found, remedy if bad else "")


def size(count: float, unit: str = "B") -> str:
    """Bytes or another unit, with a prefix of ten."""
    for prefix in ("", "k", "M", "G"):
        if abs(count) < 999.5:
            return f"{count:.3g} {prefix}{unit}"
        count /= 1000
    return f"{count:,.1f} T{unit}" if count < 1e4 else f"{count:.2g} T{unit}"


def count(number: int, what: str) -> str:
    """So many of a thing."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """A time, in the unit that suits it."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


@dataclass
class Examination:
    """The verdicts so far.  show: receives every verdict as soon as it is known.  stop: polled between them."""

    show: Callable[[Verdict], None]
    stop: StopFlag = field(default_factory=StopFlag)
    verdicts: list[Verdict] = field(default_factory=list)
    _since: float = 0.0

    def ask(self, name: str, check: Callable[..., Iterable[Verdict] | Verdict], *arguments: Any, **named: Any) -> bool:
        """Run a check, and show what it finds as it finds it; whether nothing failed.

        An exception is a verdict too: FAIL under `name`.  Raises Stopped once a stop was asked for.
        """
        self.stop.check()
        began, before = self._since or time.monotonic(), len(self.verdicts)
        self._since = 0.0
        try:
            found = check(*arguments, **named)
            for verdict in [found] if isinstance(found, Verdict) else found:
                began = self._add(verdict, began)
        except Stopped:
            raise
        except Exception as error:
            self._add(_of_exception(name, error), began)
        return all(verdict.status != "FAIL" for verdict in self.verdicts[before:])

    def make(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """What `work` gives, for checks to look at; None where it raises, which is FAIL under `name`."""
        self.stop.check()
        self._since = time.monotonic()
        try:
            return work(*arguments)
        except Stopped:
            raise
        except Exception as error:
            self._add(_of_exception(name, error), self._since)
            self._since = 0.0
            return None

    def _add(self, verdict: Verdict, began: float) -> float:
        self.stop.check()  # what was found while it ended is no verdict
        now = time.monotonic()
        self.verdicts.append(replace(verdict, seconds=round(now - began, 3)))
        self.show(self.verdicts[-1])
        return now

    @property
    def failed(self) -> list[str]:
        """Names of what failed."""
        return [v.name for v in self.verdicts if v.status == "FAIL"]

    @property
    def warned(self) -> list[str]:
        """Names of what is only warned of."""
        return [v.name for v in self.verdicts if v.status == "warn"]

    def sentence(self) -> str:
        """The whole in one sentence."""
        if self.failed:
            return f"not ready: {len(self.failed)} of {len(self.verdicts)} checks failed ({', '.join(self.failed)})"
        if self.warned:
            return f"ready with warnings: {len(self.warned)} of {len(self.verdicts)} checks ({', '.join(self.warned)})"
        return f"ready: all {len(self.verdicts)} checks passed"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        state = "not ready" if self.failed else "ready with warnings" if self.warned else "ready"
        return {"state": state, "sentence": self.sentence(), "verdicts": [asdict(v) for v in self.verdicts]}


def _of_exception(name: str, error: Exception) -> Verdict:
    if short := shortage(error):
        return fail(name, short, "lower train.batch_size, or close other programs")
    text = " ".join(str(error).split())[:500] or "no message"
    if isinstance(error, ValueError):  # one line with its remedy in it, as everywhere in this package
        found, _, remedy = text.partition("; ")
        return fail(name, found, remedy or "see the message")
    if isinstance(error, OSError):
        return fail(name, text, "check the folder, its rights and the free space")
    return fail(name, f"{type(error).__name__}: {text}", "an unexpected error: please report it with this line")


@contextmanager
def temporary_folder(where: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, whatever happens short of SIGKILL."""
    with tempfile.TemporaryDirectory(prefix=".hwm-doctor-", dir=where) as name:
        with unfinished(Path(name)) as folder:
            yield folder
