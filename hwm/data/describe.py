"""Looking a dataset over: what it holds, in numbers and in one picture, and whether it is sound to its last byte."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hwm.data.checksums import sidecars, verify
from hwm.data.dataset import CHUNK_BYTES, Dataset, Decoder, Finding
from hwm.data.moments import Moments
from hwm.data.onex import open_dataset, probe_kind
from hwm.data.quarantine import NAME as QUARANTINE
from hwm.data.quarantine import read_quarantine
from hwm.data.recordings.excerpt import WHOLE, View
from hwm.data.testsets import open_test_set
from hwm.data.windows import ClipIndex, check_segments, evenly
from hwm.robot import Embodiment
from hwm.work.files import atomic_path, expect_rows

SIDE = 128
"""Side in pixels of a picture on the contact sheet."""


def state_statistics(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every state dimension, float64 (A,) each, in the states' own units.

    Streamed: memory does not grow with the data.  Raises ValueError, naming the file, for a state that is not finite.
    """
    moments = Moments.none(dataset.robot.dim)
    rows = CHUNK_BYTES // (4 * dataset.robot.dim)
    for shard in dataset.shards:
        for first in range(0, shard.num_frames, rows):
            part = shard.read_states(np.arange(first, min(first + rows, shard.num_frames)))
            moments = moments.merged(Moments.of(part))
    return moments.mean, moments.std


def describe(path: str | Path, view: View = WHOLE) -> dict[str, Any]:
    """Kind, counts, hours, robot, segments, number of clips and state statistics of what `view` takes, as values for JSON."""
    root = Path(path)
    kind = probe_kind(root)
    if kind.endswith("test"):
        return {"kind": kind, **open_test_set(root).facts()}
    dataset = open_dataset(root, view=view)
    facts = {"kind": kind, "shards": len(dataset.shards), "frames": dataset.num_frames, "hz": dataset.hz}
    facts |= {"hours": dataset.num_frames / dataset.hz / 3600, **dataset.facts(), "robot": dataset.robot.name}
    facts["segments"] = _segment_lengths(dataset)
    facts["clips"] = {name: _count(dataset, **options) for name, options in dataset.windows().items()}
    mean, std = state_statistics(dataset)
    if dataset.robot.groups:
        facts["groups"] = {name: len(rows) for name, rows in dataset.robot.groups.items()}
    names = zip(dataset.robot.names, dataset.robot.units, dataset.robot.kinds, mean.tolist(), std.tolist())
    facts["states"] = {name: {"unit": unit, "kind": kind, "mean": m, "std": s} for name, unit, kind, m, s in names}
    return facts


def _segment_lengths(dataset: Dataset) -> dict[str, Any]:
    """Count and lengths in frames; a segment that goes on in the next shard counts in both."""
    parts = []
    for shard in dataset.shards:
        boundaries = check_segments(np.asarray(expect_rows(shard.segments)), shard.segments_path)
        parts.append(np.diff(np.concatenate([[0], boundaries, [shard.num_frames]])))
    lengths = np.concatenate(parts)
    spread = {"shortest": int(lengths.min()), "median": float(np.median(lengths)), "longest": int(lengths.max())}
    return {"count": len(lengths), "mean": float(lengths.mean()), **spread}


def _count(dataset: Dataset, **options: Any) -> int:
    try:
        return len(ClipIndex.build(dataset, **options))
    except ValueError:
        return 0


def contact_sheet(
    path: str | Path, out_png: str | Path,
    *, tokenizer: Decoder | None = None, columns: int = 8, rows: int = 5, view: View = WHOLE,
    over: Callable[[Embodiment], Callable[[np.ndarray, np.ndarray], np.ndarray]] | None = None,
) -> None:
    """Write a PNG of pictures spread over a dataset or test set.

    Tokens and latents are decoded by `tokenizer` where it is given; otherwise each id is shown as a colour of its own,
    and the first three channels of latents as red, green and blue.
    over: of video with a robot's states, what draws into a frame (H, W, 3) what its states (A,) tell, in larger pictures.
    Raises ValueError where `over` has no frames and states to draw into.
    """
    if over is not None:
        columns = max(1, columns // 2)
        _sheet(_drawn_into(open_dataset(path, view=view), over, columns * rows), out_png, columns, 2 * SIDE)
        return
    root, count = Path(path), columns * rows
    if probe_kind(root).endswith("test"):
        pictures = open_test_set(root).pictures(count, tokenizer)
    else:
        shards = open_dataset(root, view=view).shards
        pictures = [p for shard, share in _shares(shards, count) for p in shard.pictures(share, tokenizer)]
    _sheet(pictures, out_png, columns, SIDE)


def _shares(shards: Sequence[Any], count: int) -> list[tuple[Any, int]]:
    """Shards, evenly, and how many of `count` pictures each gives."""
    numbers, shares = np.unique(np.linspace(0, len(shards), count, endpoint=False).astype(int), return_counts=True)
    return [(shards[number], share) for number, share in zip(numbers.tolist(), shares.tolist())]


def _drawn_into(dataset: Dataset, over: Callable[..., Any], count: int) -> list[np.ndarray]:
    if dataset.kind != "video":
        raise ValueError(f"{dataset.root}: holds {dataset.kind}, bones are drawn into video: give what it was made of")
    draw, pictures = over(dataset.robot), []
    for shard, share in _shares(dataset.shards, count):
        for frame in evenly(share, shard.num_frames).tolist():
            pictures.append(draw(shard.read(frame, 1)[0], shard.read_states(np.array([frame]))[0]))
    return pictures


def _sheet(pictures: Sequence[np.ndarray], out_png: str | Path, columns: int, side: int) -> None:
    """Pictures of any size row by row in squares."""
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side))
    for i, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        way = Image.Resampling.NEAREST if height < side else Image.Resampling.BOX
        across, down = (max(1, round(side * length / max(height, width))) for length in (width, height))
        place = (i % columns * side + (side - across) // 2, i // columns * side + (side - down) // 2)
        sheet.paste(Image.fromarray(picture).resize((across, down), way), place)
    with atomic_path(out_png) as temporary:
        sheet.save(temporary, format="PNG")


@dataclass
class Report:
    """Everything found in one folder, not only the first fault."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)


def check(path: str | Path, view: View = WHOLE) -> Report:
    """Check layout, exact sizes, value ranges, frame counts by decoding, and checksums of a dataset or test set."""
    root, report = Path(path), Report()
    try:
        for finding in _findings(root, view):
            report.findings.append(finding)
    except ValueError as error:
        report.findings.append(Finding.of(error))
    return report


def _findings(root: Path, view: View) -> Iterator[Finding]:
    if probe_kind(root).endswith("test"):
        yield from open_test_set(root).check()
    else:
        faults: list[ValueError] = []
        dataset = open_dataset(root, faults=faults, view=view)
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
