"""Integrity of the data that we write: SHA-256 of every file in a sidecar, so that a flipped bit is found before use.

Each shard has a sidecar of its own (`checksums_{i}.json`), so that workers never write to one file; what belongs to
the whole folder stands in `checksums.json`.  Data from elsewhere has no sidecar, which is no fault.

`open_dataset` and `open_test_set` compare every file before it is used (`expect_whole`), and a dataset is known again by the
same hashes (`digests`).  They are noted with what the file system says of a file, which is not read again for a week unless
that changes: hashing takes a second a gigabyte.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwm.data.layout import CHECKSUMS, CLIP_STARTS, COMMANDS, LATENTS, MASKS, METADATA, MOMENTS, SEGMENTS, STATES, TOKENS, VIDEO
from hwm.safe_load.paths import reason, shown
from hwm.work.allowance import usable_cores
from hwm.work.cache import cache_folder
from hwm.work.files import read_json, sha256, write_json

AGAIN = "write the shard again"
TRUSTED_SECONDS = 7 * 24 * 3600
"""How long a file that was found whole is not read again: a disk can lose a bit without anything being written."""
KINDS = (CLIP_STARTS, COMMANDS, LATENTS, MASKS, METADATA, MOMENTS, SEGMENTS, STATES, TOKENS, VIDEO)


def write_checksums(sidecar: Path, files: list[Path]) -> None:
    """Record the SHA-256 of `files`, named relative to the sidecar's folder."""
    write_json(sidecar, {Path(os.path.relpath(file, sidecar.parent)).as_posix(): sha256(file) for file in files})


def sidecars(root: Path, only: int | str | None = "all") -> list[Path]:
    """Every checksum file of a dataset; only: as in `verify`, of what belongs to no shard always."""
    whole = [root / "checksums.json"] if (root / "checksums.json").is_file() else []
    return whole + [CHECKSUMS.find(root, i) for i in CHECKSUMS.indices(root) if only in (i, "all")]


def digests(root: str | Path, files: Sequence[Path]) -> list[str]:
    """SHA-256 of files of a dataset, in their order.

    Files noted less than a week ago, whose size, times and place on the disk are the same, are not read.
    """
    with _noted(Path(root).resolve()) as digest, _threads() as pool:
        return list(pool.map(digest, files))


def expect_whole(root: str | Path) -> None:
    """Raise ValueError, naming the first faulty file, unless every recorded checksum of a dataset is met.

    Which files are read: as in `digests`.
    """
    root = Path(root).resolve()
    if not sidecars(root):
        return
    with _noted(root) as found:
        faults = _faults(root, lambda file, digest: found(file) == digest)
    if faults:
        raise faults[0]


def verify(root: str | Path, *, only: int | str | None = "all", remedy: str = AGAIN) -> list[ValueError]:
    """Read every file that has a recorded checksum; returns one error, naming the file and the remedy, per fault.

    only: number of a shard, None for what belongs to no shard, or "all".
    """
    return _faults(Path(root).resolve(), lambda file, digest: sha256(file) == digest, only=only, remedy=remedy)


def _faults(
    root: Path, sound: Callable[[Path, str], bool], *, only: int | str | None = "all", remedy: str = AGAIN
) -> list[ValueError]:
    covered, recorded = set(CHECKSUMS.indices(root)), []
    found = [
        ValueError(f"{CHECKSUMS.place(root, i, flat=False)}: no such file, though other shards have one; write it again")
        for i in METADATA.indices(root)
        if covered and i not in covered and only in (i, "all")
    ]
    for sidecar in sidecars(root, only):
        try:
            names = read_json(sidecar)
            mine = [name for name in names if sidecar.name != "checksums.json" or only in (_shard_of(name), "all")]
            recorded += [(sidecar, name, names[name]) for name in mine]
        except ValueError as error:
            found.append(error)

    def fault(entry: tuple[Path, str, Any]) -> ValueError | None:
        sidecar, name, digest = entry
        try:
            file = Path(os.path.normpath(sidecar.parent / name))  # links are followed: big files may lie elsewhere
            if not file.is_relative_to(root):
                return ValueError(f"{sidecar}: names {name!r}, outside the dataset; fetch the sidecar again")
            if not file.is_file():
                file = _in_another_layout(root, file)
            if not file.is_file():
                return ValueError(f"{file}: recorded in {sidecar.name} but missing; {remedy}")
            if not sound(file, str(digest)):
                return ValueError(f"{file}: its content differs from {sidecar.name}; {remedy}")
        except (OSError, RuntimeError, ValueError) as error:  # a name that no file can have, a link in a circle
            return ValueError(f"{sidecar}: {shown(name)}: {reason(error)}; {remedy}")
        return None

    with _threads() as pool:
        return found + [error for error in pool.map(fault, recorded) if error is not None]


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, usable_cores()))  # hashing lets other threads run


@contextmanager
def _noted(root: Path) -> Iterator[Callable[[Path], str]]:
    """What gives the SHA-256 of a file of this dataset, from the notes where they have it; at the end they have all."""
    known, now = _read_notes(root), time.time()
    fresh = {name: note for name, note in known.items() if _is_fresh(note, now)}

    def digest(file: Path) -> str:
        file = file.resolve()
        name, mark = os.path.relpath(file, root), _mark(file)
        if fresh.get(name, [])[:4] != mark:
            fresh[name] = [*mark, sha256(file), now]
        return str(fresh[name][4])

    yield digest
    if fresh != known:
        _write_notes(root, fresh)


def _is_fresh(note: Any, now: float) -> bool:
    if not isinstance(note, list) or len(note) != 6 or not isinstance(note[5], int | float):
        return False
    return 0 <= now - note[5] < TRUSTED_SECONDS


def _shard_of(name: str) -> int | None:
    match = re.fullmatch(r".*_(\d{1,9})\.\w+", name)
    return int(match[1]) if match else None


def _in_another_layout(root: Path, file: Path) -> Path:
    """Where a shard's file lies in a copy whose folders have the other names, or none; `file` itself if nowhere."""
    places = {root / folder for kind in KINDS for folder in ("", *kind.folders) if file.name.startswith(f"{kind.stem}_")}
    found = [place / file.name for place in sorted(places) if (place / file.name).is_file()]
    return found[0] if found and file.parent in places else file


def _mark(file: Path) -> list[int]:
    """What changes when a file does, even if its times were set back: the time of change cannot be set."""
    facts = file.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _notes(root: Path) -> Path:
    """In the user's cache: reading a dataset writes nothing into it."""
    return cache_folder() / "hwm" / "verified" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"


def _read_notes(root: Path) -> dict[str, Any]:
    path = _notes(root)
    try:
        notes = json.loads(path.read_bytes())  # noqa: TID251, our own notes
    except (OSError, ValueError, RecursionError):
        return {}  # none, or damaged: then everything is read
    return notes if isinstance(notes, dict) else {}


def _write_notes(root: Path, notes: dict[str, Any]) -> None:
    path = _notes(root)
    try:
        write_json(path, notes)
        for other in path.parent.glob("*.json"):
            if time.time() - other.stat().st_mtime > TRUSTED_SECONDS:
                other.unlink(missing_ok=True)  # says nothing any more
    except (OSError, ValueError):
        pass  # a cache that cannot be written only costs time
