"""Reading a dataset to its last byte to tell whether it is sound; every fault is listed, not only the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hwm.data.checksums import sidecars, verify
from hwm.data.dataset import Finding
from hwm.data.onex import open_dataset, probe_kind
from hwm.data.quarantine import NAME as QUARANTINE
from hwm.data.quarantine import read_quarantine
from hwm.data.testsets import open_test_set


@dataclass
class Report:
    """Everything found in one folder."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)


def check(path: str | Path) -> Report:
    """Check layout, exact sizes, value ranges, frame counts by decoding, and checksums of a dataset or test set."""
    root, report = Path(path), Report()
    try:
        for finding in _findings(root):
            report.findings.append(finding)
    except ValueError as error:
        report.findings.append(Finding.of(error))
    return report


def _findings(root: Path) -> Iterator[Finding]:
    if probe_kind(root).endswith("test"):
        yield from open_test_set(root).check()
    else:
        faults: list[ValueError] = []
        dataset = open_dataset(root, faults=faults)
        yield from map(Finding.of, faults)
        for shard in dataset.shards:
            yield from shard.check()
        yield from dataset.check()
        for row in read_quarantine(root):
            clips = "an unknown number of" if row["clips"] is None else row["clips"]
            loss = f"shard {row['shard']} was left out, {clips} clips: {row.get('file')}: {row.get('reason')}"
            yield Finding("warning", str(root / QUARANTINE), loss)
    yield from map(Finding.of, verify(root))
    if not sidecars(root):
        yield Finding("note", str(root), "no checksums are recorded, so a flipped bit would go unnoticed")
