"""A run's folder belongs to one process and one configuration."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwm.config import RunConfig, from_toml, to_dict, to_toml
from hwm.training.durable import write_all, write_text

try:
    import fcntl
except ImportError:  # Windows has no flock; its runs go unguarded and say so.
    fcntl = None  # type: ignore[assignment]

_FREE = {f"train.{k}" for k in ("log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "tensorboard")} | {
    f"train.{k}" for k in ("threads", "device", "parallel", "recompute", "compile", "timeout")
}
"""Settings that may change when a run is continued: they do not say what is learned."""


@contextmanager
def claimed(out: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the run folder for this process; made if absent.

    The lock is the kernel's, so that of a dead process is free again whatever file it left.
    Raises ValueError naming process and host if another process holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("ab+", buffering=0)
    except OSError as error:
        raise ValueError(f"{out}: cannot be used as a run folder: {error.strerror}") from None
    with file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, "no file locks on this system")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(200).decode(errors="replace").strip() or "another process"
            raise ValueError(f"{out}: in use by {owner}; wait for it, stop it, or choose another folder") from None
        except OSError as error:
            say(f"{out}: this file system cannot lock ({error.strerror}); make sure that no other process trains here")
        file.truncate(0)
        write_all(file, f"process {os.getpid()} on {socket.gethostname()}\n", path=out / ".lock")
        try:
            yield
        finally:
            file.truncate(0)
            if fcntl is not None:  # Explicitly: a forked worker that outlives us shares the lock.
                fcntl.flock(file, fcntl.LOCK_UN)


def settle_config(out: Path, config: RunConfig) -> None:
    """Write config.toml into a new run folder; refuse to continue a run that was started with another configuration.

    `train.steps` may grow where the schedule does not depend on it (constant).
    Raises ValueError naming the first setting that differs.
    """
    path = out / "config.toml"
    if not path.exists() and any((out / "checkpoints").glob("step-*")):
        raise ValueError(f"{path}: missing beside checkpoints; put it back, or choose another folder")
    if path.exists():
        there, here = decisive(from_toml(RunConfig, path)), decisive(config)
        for key in [*here, *(k for k in there if k not in here)]:
            if there.get(key) != here.get(key):
                why = "only train.schedule = 'constant' can be prolonged" if key == "train.steps" else "continue it as it is"
                raise ValueError(
                    f"{path}: this run has {key} = {there.get(key)!r}, not {here.get(key)!r}: {why}, or choose another folder"
                )
    text = to_toml(config)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def decisive(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what is learned, under dotted keys."""
    flat: dict[str, Any] = {}

    def collect(table: dict[str, Any], prefix: str) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    collect(to_dict(config), "")
    free = _FREE | ({"train.steps"} if config.train.schedule == "constant" else set())
    return {key: value for key, value in flat.items() if key not in free}


def config_hash(config: RunConfig) -> str:
    """SHA-256 of the settings that decide what is learned."""
    return hashlib.sha256(json.dumps(decisive(config), sort_keys=True).encode()).hexdigest()
