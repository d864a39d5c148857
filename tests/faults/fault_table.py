"""The table of results that `--faults` prints: one row a number of the catalogue, however many tests it has."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from catalogue import FAULTS

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass
class Row:
    """What the tests of one number gave."""

    targets: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    """Of each test: passed, FAILED, skipped or gap (a known fault, marked xfail)."""
    seconds: float = 0.0

    @property
    def result(self) -> str:
        """The worst of the tests; a row is not passed by tests that were skipped."""
        found = set(self.results.values())
        worst = next((r for r in ("FAILED", "gap", "passed", "skipped") if r in found), "MISSING")
        return "passed in part" if worst == "passed" and "skipped" in found else worst


class Results:
    """Collects the reports of a run, also those that other processes send."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {number: Row() for number in FAULTS}

    def add(self, test: str, properties: list, *, when: str, outcome: str, expected: bool, seconds: float) -> None:
        """One report of one phase of a test.  expected: the failure is a known one."""
        for number, target in [value for name, value in properties if name == "fault"]:
            row = self.rows[number]
            row.seconds += seconds
            if target not in row.targets:
                row.targets.append(target)
            if outcome == "failed":
                row.results[test] = "FAILED"
            elif outcome == "skipped":
                row.results.setdefault(test, "gap" if expected else "skipped")
            elif when == "call":
                row.results.setdefault(test, "passed")
            if when == "call":
                row.measured += [str(value) for name, value in properties if name == "measured"]

    @property
    def missing(self) -> list[str]:
        return [number for number, row in self.rows.items() if not row.results]

    def lines(self, *, complete: bool) -> list[str]:
        """The table in Markdown.  complete: show numbers without any test, too."""
        lines = ["| no. | fault | target | measured | result | s |", "|---|---|---|---|---|---|"]
        return lines + [self.line(number) for number, row in self.rows.items() if row.results or complete]

    def line(self, number: str) -> str:
        """The row of a number."""
        row = self.rows[number]
        cells = [number, FAULTS[number], "; ".join(row.targets), "; ".join(row.measured), row.result]
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + f" | {row.seconds:.1f} |"


def circumstances() -> str:
    """Where and when: one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    return f"{time.strftime('%Y-%m-%d')}, {cores} cores of {cpu}, {platform.system()}, {versions}, commit {_commit()}"


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/hwm", ":/tests")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def put_into(path: Path, text: str) -> None:
    """Replace what stands between the two marks of a Markdown file."""
    head, _, tail = _parts(path)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def put_rows_into(path: Path, rows: dict[str, str], *, said: str) -> None:
    """Replace the rows of some numbers in the table of a Markdown file, and say below it when these were run.

    Raises ValueError where the file has no table with these numbers.
    """
    head, old, tail = _parts(path)
    lines = old.strip("\n").splitlines()
    places = {line.split("|")[1].strip(): k for k, line in enumerate(lines) if line.startswith("| ")}
    if lost := [number for number in rows if number not in places]:
        raise ValueError(f"{path}: its table has no row {', '.join(lost)}; run all faults first")
    for number, line in rows.items():
        lines[places[number]] = line
    lines += ["", f"{', '.join(rows)} again: {said}"]
    path.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")


def _parts(path: Path) -> tuple[str, str, str]:
    old = path.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        raise ValueError(f"{path}: needs one line {BEGIN} and one line {END}, between which the table goes")
    head, _, rest = old.partition(BEGIN)
    return head, *rest.partition(END)[::2]
