"""Reading a dataset to its last byte to tell whether it is sound; every fault is listed, not only the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from hwm.data import video
from hwm.data.checksums import sidecars, verify
from hwm.data.latents import LatentDataset, LatentShard
from hwm.data.legacy import LegacyShard, LegacyTokenDataset
from hwm.data.onex import Dataset, RawDataset, RawShard, TokenShard, open_dataset, probe_kind
from hwm.data.quarantine import NAME as QUARANTINE
from hwm.data.quarantine import read_quarantine
from hwm.data.testsets import CONTEXT_FRAMES, SamplingTestSet, open_test_set
from hwm.data.windows import check_segments
from hwm.work.files import expect_rows, read_rows

CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Finding:
    """One thing found.  error: must be mended before use; warning: usable but suspicious; note: worth knowing."""

    severity: Literal["error", "warning", "note"]
    file: str
    message: str


@dataclass
class Report:
    """Everything found in one folder."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)

    def error(self, error: ValueError) -> None:
        """Add an error whose text begins with the file."""
        file, _, message = str(error).partition(": ")
        self.findings.append(Finding("error", file, message))

    def add(self, severity: Literal["warning", "note"], file: Path, message: str) -> None:
        """Add what is no error."""
        self.findings.append(Finding(severity, str(file), message))


def check(path: str | Path) -> Report:
    """Check layout, exact sizes, value ranges, frame counts by decoding, and checksums of a dataset or test set."""
    root, report = Path(path), Report()
    try:
        if probe_kind(root).endswith("test"):
            _check_test_set(root, report)
        else:
            faults: list[ValueError] = []
            dataset = open_dataset(root, faults=faults)
            for fault in faults:
                report.error(fault)
            _check_shards(dataset, report)
            _mention_quarantine(root, report)
    except ValueError as error:
        report.error(error)
        return report
    for fault in verify(root):
        report.error(fault)
    if not sidecars(root):
        report.add("note", root, "no checksums are recorded, so a flipped bit would go unnoticed")
    return report


def _mention_quarantine(root: Path, report: Report) -> None:
    for row in read_quarantine(root):
        clips = "an unknown number of" if row["clips"] is None else row["clips"]
        reason = f"{row.get('file')}: {row.get('reason')}"
        report.add("warning", root / QUARANTINE, f"shard {row['shard']} was left out, {clips} clips: {reason}")


def _check_test_set(root: Path, report: Report) -> None:
    samples = open_test_set(root)
    if isinstance(samples, SamplingTestSet):
        for path in samples.video_paths:
            _count_frames(path, CONTEXT_FRAMES, "a sampling test clip", report)
    official = 250 if isinstance(samples, SamplingTestSet) else 450
    if len(samples) != official:
        report.add("note", root, f"{len(samples)} samples; the official set has {official}")


def _check_shards(dataset: Dataset, report: Report) -> None:
    for shard in dataset.shards:
        try:
            check_segments(np.asarray(expect_rows(shard.segments)), shard.segments_path)
            if isinstance(shard, LatentShard):
                shard.check_starts()
        except ValueError as error:
            report.error(error)
        if isinstance(shard, RawShard):
            _count_frames(shard.video_path, shard.num_frames, "the state rows", report)
            _check_rate(shard.video_path, dataset.hz, report)
        elif isinstance(shard, LatentShard):
            _check_latents(shard, report)
        else:
            _check_tokens(shard, report)
        if isinstance(shard, LegacyShard):
            for name, rows in shard.actions.items():
                _check_rows(dataset.root / "actions" / f"{name}.bin", rows, (), report)
        else:
            _check_rows(shard.states_path, shard.states, dataset.robot.names, report)
    if isinstance(dataset, LatentDataset):
        try:
            _ = dataset.statistics
        except ValueError as error:
            report.error(error)
    if isinstance(dataset, LegacyTokenDataset | RawDataset) or dataset.tokenizer is not None:
        return
    report.add("note", dataset.root, f"no tokenizer.json: taken as Cosmos tokens, {dataset.grid}, {dataset.vocab_size} ids")


def _count_frames(path: Path, expected: int, owner: str, report: Report) -> None:
    try:
        found = video.count_frames(path)
        if found != expected:
            raise ValueError(f"{path}: has {found} frames, expected {expected} as {owner}; fetch or record it again")
    except ValueError as error:
        report.error(error)


def _check_rate(path: Path, hz: int, report: Report) -> None:
    try:
        rate = video.probe(path)[2]
    except ValueError:
        return  # counted as an error when the frames were decoded
    if abs(rate - hz) > 0.5:
        report.add("warning", path, f"plays at {rate:g} frames/s, metadata.json says {hz} Hz")


def _check_tokens(shard: TokenShard | LegacyShard, report: Report) -> None:
    for first, part in chunks(shard.tokens):
        low, high = int(part.min()), int(part.max())
        if low < 0 or high >= shard.vocab_size:
            outside = (part < 0) | (part >= shard.vocab_size)
            row = first + int(np.nonzero(outside.reshape(len(part), -1).any(1))[0][0])
            fault = f"id {high if high >= shard.vocab_size else low} outside 0..{shard.vocab_size - 1}, first in row {row}"
            report.error(ValueError(f"{shard.video_path}: {fault}; tokenize or fetch it again"))
            return


def _check_latents(shard: LatentShard, report: Report) -> None:
    for first, part in chunks(shard.latents):
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            fault = f"{shard.row_name} {first + int(np.argmin(finite))} holds a value that is not finite"
            report.error(ValueError(f"{shard.video_path}: {fault}; tokenize it again"))
            return


def _check_rows(path: Path, rows: np.ndarray, names: tuple[str, ...], report: Report) -> None:
    low, high = np.full(rows.shape[1], np.inf), np.full(rows.shape[1], -np.inf)
    for first, part in chunks(rows):
        finite = np.isfinite(part).all(axis=1)
        if not finite.all():
            fault = f"row {first + int(np.argmin(finite))} is not finite"
            report.error(ValueError(f"{path}: {fault}; repair or drop the shard"))
            return
        low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
    still = [name for name, a, b in zip(names, low, high) if a == b]
    if still:
        report.add("note", path, f"never changes: {', '.join(still)}")


def chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive pieces of about 32 MiB along the first axis, each with the position of its first row."""
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        yield first, read_rows(array, first, first + rows)
