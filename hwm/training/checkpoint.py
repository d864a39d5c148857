"""Checkpoints that are whole, verified byte by byte before use, or absent.

    checkpoints/step-500/   model.safetensors  optimizer.safetensors  ema.safetensors  state.json  manifest.json
                            (or shards/ where processes each held a share of the model: training/stored.py)
    checkpoints/LATEST      name of the newest      checkpoints/BEST   name of the one with the best validation score

The two names are for people and scripts; what they say is also in `state.json`, which is guarded.

A checkpoint is written into a hidden folder, forced to the disk, described by a manifest (sizes, SHA-256, written
last) and then renamed.  Neither PyTorch nor safetensors notices a flipped bit; the manifest does.  A checkpoint holds
no time and no machine, so that equal training gives equal bytes.
"""

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError

from hwm.safe_load.text import expect_fields, parse_json, read_bytes
from hwm.training.processes import ALONE, Processes
from hwm.training.stored import SHARDS, Groups, Stored, is_sharded, write_shards, write_whole
from hwm.work.files import cannot_write, fsync, sealed, sha256, write_text

SCHEMA = 1
_STEP = re.compile(r"step-(\d{1,15})")
_NAME = re.compile(rf"({SHARDS}/)?[\w-]+\.(json|safetensors)")
_MAX_JSON_BYTES = 1_000_000


def save(checkpoints: Path, state: dict[str, Any], tensors: Groups, *, keep: int, processes: Processes = ALONE) -> Path:
    """Publish the checkpoint of `state["step"]`, then drop old ones; called by all processes.

    state: plain values, among them "step" and "best_step", the step that stays whatever its age (0: none yet).
    tensors: groups ("model", "optimizer", "ema"); a file each, or shards where processes hold shares of them.
    keep: how many of the newest stay.
    Raises ValueError naming file and free space if the disk is full; nothing half-written stays, nothing old is lost.
    """
    final = checkpoints / f"step-{state['step']}"
    building = checkpoints / f".tmp-{final.name}"
    try:
        processes.on_first(lambda: _begin(building, final))
        hashed: list[dict[str, Any]] = []
        if is_sharded(tensors):
            hashed = processes.gather(_write_share(building, final, tensors, processes))
            errors = [share["error"] for share in hashed if "error" in share]
            if errors:
                raise ValueError(errors[0])
        files = {name: entry for share in hashed for name, entry in share["files"].items()}
        processes.on_first(lambda: _finish(building, final, state, {} if files else tensors, files))
    except ValueError:
        if processes.first:
            shutil.rmtree(building, ignore_errors=True)
        raise
    processes.on_first(lambda: _publish(checkpoints, building, final, state, keep))
    return final


def _begin(building: Path, final: Path) -> None:
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(final, error) from None


def _write_share(building: Path, final: Path, tensors: Groups, processes: Processes) -> dict[str, Any]:
    """Write this process's shards, force them to the disk; their sizes and hashes, or the error as a value."""
    folder = building / SHARDS
    try:
        write_shards(folder, tensors, process_group=processes.patient)
        own = sorted(folder.glob(f"shard-{processes.rank + 1:05d}-*.safetensors"))
        return {"files": {f"{SHARDS}/{file.name}": _entry(file) for file in own}}
    except (OSError, SafetensorError) as error:
        return {"error": str(cannot_write(final / SHARDS, error))}


def _finish(building: Path, final: Path, state: dict[str, Any], tensors: Groups, files: dict[str, Any]) -> None:
    """Write whole groups, the state and, last, the manifest of everything."""
    writing, entries = building, {}
    try:
        # Hashing takes longer than writing where the processor has no instructions for it, and lets other threads run.
        with ThreadPoolExecutor() as threads:
            for group, named in tensors.items():
                writing = building / f"{group}.safetensors"
                write_whole(writing, named)
                entries[writing.name] = threads.submit(_entry, writing)
            writing = building / "state.json"
            writing.write_text(json.dumps(state, indent=1) + "\n")
            entries[writing.name] = threads.submit(_entry, writing)
            files = files | {name: entries[name].result() for name in sorted(entries)}
        writing = building / "manifest.json"
        writing.write_text(sealed({"schema": SCHEMA, "step": state["step"], "torch": torch.__version__, "files": files}))
        fsync(writing)
        fsync(building)
    except (OSError, SafetensorError) as error:
        raise cannot_write(final / writing.name, error) from None


def _publish(checkpoints: Path, building: Path, final: Path, state: dict[str, Any], keep: int) -> None:
    replaced = checkpoints / f".old-{final.name}"
    if final.exists():
        final.rename(replaced)
    building.rename(final)
    fsync(checkpoints)
    shutil.rmtree(replaced, ignore_errors=True)
    point(checkpoints, state)
    _prune(checkpoints, state, keep=keep)


def _entry(file: Path) -> dict[str, Any]:
    """Force a file to the disk; what the manifest says of it."""
    fsync(file)
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def point(checkpoints: Path, state: dict[str, Any]) -> None:
    """Set the pointers LATEST and BEST to what the state says."""
    write_text(checkpoints / "LATEST", f"step-{state['step']}\n")
    if state["best_step"]:
        write_text(checkpoints / "BEST", f"step-{state['best_step']}\n")
    else:
        (checkpoints / "BEST").unlink(missing_ok=True)


def _prune(checkpoints: Path, state: dict[str, Any], *, keep: int) -> None:
    # Folders of later steps are damaged ones, to be replaced when training comes by; they must not count as kept.
    for step in [step for step in _steps(checkpoints) if step <= state["step"]][keep:]:
        if step != state["best_step"]:
            # Renamed first: a kill in the middle of a deletion must not leave what looks like a damaged checkpoint.
            dropped = (checkpoints / f"step-{step}").rename(checkpoints / f".old-step-{step}.dropped")
            shutil.rmtree(dropped, ignore_errors=True)


def clean(checkpoints: Path) -> None:
    """Remove what a killed process left; only for the process that holds the run folder."""
    for old in checkpoints.glob(".old-step-*"):
        if old.suffix != ".dropped" and not (final := checkpoints / old.name.removeprefix(".old-")).exists():
            old.rename(final)  # Killed between the two renames of a replacement.
    for leftover in [*checkpoints.glob(".tmp-*"), *checkpoints.glob(".old-*")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def verify(folder: Path) -> None:
    """Raise ValueError naming the file if anything in a checkpoint is not exactly as it was written."""
    for name, expected in _manifest(folder)["files"].items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{folder / 'manifest.json'}: damaged (names the file {name[:80]!r})")
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file}: missing")
        if file.stat().st_size != expected["bytes"]:
            raise ValueError(f"{file}: has {file.stat().st_size} bytes, not the {expected['bytes']} written")
        if sha256(file) != expected["sha256"]:
            raise ValueError(f"{file}: damaged (its SHA-256 differs from the manifest)")


def newest(checkpoints: Path, *, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies, or None if there is no checkpoint at all.

    Every newer one that does not verify is reported.  Raises ValueError if there are checkpoints and none verifies:
    starting again from nothing is for the user to decide.  Times of files play no part.
    """
    steps = _steps(checkpoints)
    latest = checkpoints / "LATEST"
    match = _STEP.fullmatch(_read_small(latest).strip()) if latest.is_file() else None
    pointed = int(match[1]) if match else None
    if pointed is not None and pointed not in steps:
        say(f"WARNING: {checkpoints / f'step-{pointed}'}: missing, though LATEST names it")
    for step in steps:
        folder = checkpoints / f"step-{step}"
        try:
            verify(folder)
            return folder
        except ValueError as error:
            say(f"WARNING: {error}; looking for an older checkpoint")
    if steps or pointed is not None:
        raise ValueError(f"{checkpoints}: no checkpoint in it is whole; delete the folder to train from the start")
    return None


def newest_state(checkpoints: Path) -> dict[str, Any] | None:
    """The plain values of the newest checkpoint whose `state.json` is whole, tensors unseen; None where there is none."""
    for step in _steps(checkpoints):
        folder = checkpoints / f"step-{step}"
        try:
            whole = _manifest(folder)["files"]["state.json"]["sha256"] == sha256(folder / "state.json")
        except (ValueError, OSError, KeyError):
            continue  # told when the checkpoint is opened
        if whole:
            return load_state(folder)
    return None


def find(run: str | Path, *, which: str = "best", say: Callable[[str], None] = print) -> Path:
    """Folder of a verified checkpoint of a run.

    which: "best" (by validation; of a run that never validated, the last), "last", or "step-N".
    Raises ValueError if it is absent or damaged; only for "last" a whole older one may stand in, which is reported.
    """
    checkpoints = Path(run) / "checkpoints"
    if which in ("best", "last"):
        folder = newest(checkpoints, say=say)
        if folder is None:
            raise ValueError(f"{run}: no checkpoint in it; train first, or give the folder of a run")
        best = load_state(folder)["best_step"]
        if which == "last" or not best or folder.name == f"step-{best}":
            return folder
        which = f"step-{best}"
    if not _STEP.fullmatch(which) or not (checkpoints / which).is_dir():
        known = ", ".join(["best", "last", *(f"step-{s}" for s in _steps(checkpoints))])
        raise ValueError(f"{checkpoints}: no checkpoint {which!r}; there are {known}")
    verify(checkpoints / which)
    return checkpoints / which


def load_state(folder: Path) -> dict[str, Any]:
    """The plain values of a checkpoint that was verified."""
    path = folder / "state.json"
    state = parse_json(_read_small(path), where=path)
    expect_fields(state, path, step=int, validated=int, best_step=int, best=(int, float, NoneType))
    expect_fields(state, path, settings=dict, identity=dict, remedy="written by a version that kept neither: train anew")
    return state


def step_of(folder: Path) -> int:
    """Updates behind a checkpoint that was verified."""
    return load_state(folder)["step"]


def stored(folder: Path) -> Stored:
    """The tensors of a checkpoint that was verified."""
    return Stored(folder / name for name in _manifest(folder)["files"] if name.endswith(".safetensors"))


def _steps(checkpoints: Path) -> list[int]:
    """Steps with a folder, newest first."""
    names = (_STEP.fullmatch(p.name) for p in checkpoints.glob("step-*") if p.is_dir())
    return sorted((int(m[1]) for m in names if m), reverse=True)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    text = _read_small(path)
    try:
        body = json.loads(text)  # noqa: TID251, held against a checksum
        del body["sha256"]
        whole = sealed(body) == text
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: damaged")
    expect_fields(body, path, schema=int)
    if body["schema"] != SCHEMA:
        raise ValueError(f"{path}: written in format {body['schema']}, this version reads {SCHEMA}; update the package")
    expect_fields(body, path, step=int, files=dict)
    for entry in body["files"].values():
        expect_fields(entry, path, bytes=int, sha256=str)
    if _STEP.fullmatch(folder.name) and folder.name != f"step-{body['step']}":
        raise ValueError(f"{path}: belongs to step {body['step']}; give the folder its name back")
    return body


def _read_small(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: missing")
    content = read_bytes(path, max_bytes=_MAX_JSON_BYTES, kind="part of a checkpoint", remedy="it is damaged")
    return content.decode(errors="replace")
