"""Integrity of the shards that we write: SHA-256 of every file in a sidecar, so that a flipped bit is found.

Each shard has a sidecar of its own (`checksums_{i}.json`), so that workers never write to one file; what belongs to
the whole folder stands in `checksums.json`.  Data from elsewhere has no sidecar, which is no fault.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from hwm.data.files import read_json, write_json
from hwm.data.layout import CHECKSUMS


def sha256(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(sidecar: Path, files: list[Path]) -> None:
    """Record the SHA-256 of `files`, named relative to the sidecar's folder."""
    write_json(sidecar, {Path(os.path.relpath(file, sidecar.parent)).as_posix(): sha256(file) for file in files})


def sidecars(root: str | Path) -> list[Path]:
    """Every checksum file of a dataset."""
    root = Path(root)
    whole = [root / "checksums.json"]
    return [path for path in whole if path.is_file()] + [CHECKSUMS.find(root, i) for i in CHECKSUMS.indices(root)]


def verify(root: str | Path) -> list[ValueError]:
    """Compare every file that has a recorded checksum; returns one error, naming the file, per fault."""
    root, faults = Path(root).resolve(), []
    for sidecar in sidecars(root):
        try:
            recorded = read_json(sidecar)
        except ValueError as error:
            faults.append(error)
            continue
        for name, digest in recorded.items():
            file = (sidecar.parent / name).resolve()
            if not file.is_relative_to(root):
                faults.append(ValueError(f"{sidecar}: names {name!r}, outside the dataset; delete this sidecar"))
            elif not file.is_file():
                faults.append(ValueError(f"{file}: recorded in {sidecar.name} but missing; write the shard again"))
            elif sha256(file) != digest:
                faults.append(ValueError(f"{file}: its content differs from {sidecar.name}; write the shard again"))
    return faults
