"""What a run's folder holds beside its checkpoints, all of one configuration.

metrics.jsonl: one JSON object a line, a trace that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from hwm.config import RunConfig, from_toml, to_dict, to_toml
from hwm.safe_load.text import read_json
from hwm.work.files import write_all, write_text

DONE = "DONE"
_FREE = {f"train.{k}" for k in ("log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "tensorboard")} | {
    f"train.{k}" for k in ("threads", "device", "parallel", "recompute", "compile", "timeout")
}
"""Settings that may change when a run is continued: they do not say what is learned."""


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
    # Only their product decides: how many clips a step learns from.  How they are dealt out depends on the machine.
    flat["train.batch_size x train.accumulate"] = flat.pop("train.batch_size") * flat.pop("train.accumulate")
    free = _FREE | ({"train.steps"} if config.train.schedule == "constant" else set())
    return {key: value for key, value in flat.items() if key not in free}


def dealt_out(config: RunConfig, out: Path, *, world: int) -> RunConfig:
    """The configuration with micro-batches small and many enough for every process to have one.

    The clips of a step, and so what is learned, stay the same.  A run that is continued keeps its micro-batches where they
    are smaller, so that it goes on bit for bit.  Raises ValueError where a step has fewer clips than there are processes.
    """
    train, path = config.train, out / "config.toml"
    clips = train.batch_size * train.accumulate
    if path.exists():
        before = from_toml(RunConfig, path).train
        if before.batch_size * before.accumulate == clips and before.batch_size < train.batch_size:
            train = before
    sizes = (n for n in range(1, train.batch_size + 1) if train.batch_size % n == 0 and train.accumulate * n >= world)
    factor = next(sizes, 0)
    if not factor:
        raise ValueError(
            f"a step of {clips} clips (train.batch_size x train.accumulate) is too small for {world} processes: start at most "
            f"{clips}, or raise train.batch_size"
        )
    dealt = replace(config.train, batch_size=train.batch_size // factor, accumulate=train.accumulate * factor)
    return replace(config, train=dealt)


def mark_done(out: Path, config: RunConfig, *, step: int, best: float | None, seconds: float) -> None:
    """Note that the run is complete, so that a restarted process need not load it to find that out."""
    facts = {"step": step, "best": best, "seconds": seconds, "steps": config.train.steps, "config": config_hash(config)}
    write_text(out / DONE, json.dumps(facts) + "\n")


def read_done(out: Path, config: RunConfig) -> dict[str, Any] | None:
    """What `mark_done` noted of a run with this configuration whose last checkpoint is still there; else None."""
    try:
        facts = read_json(out / DONE)
        whole = (facts["config"], facts["steps"]) == (config_hash(config), config.train.steps)
        return facts if whole and (out / "checkpoints" / f"step-{facts['step']}").is_dir() else None
    except (ValueError, KeyError, TypeError):
        return None


def config_hash(config: RunConfig) -> str:
    """SHA-256 of the settings that decide what is learned."""
    return hashlib.sha256(json.dumps(decisive(config), sort_keys=True).encode()).hexdigest()


class MetricsLog:
    """Appends to a run's metrics.

    Opening cuts what a killed process wrote beyond the checkpoint it is resumed from, and a last line it tore.
    step, validated: steps of the last update and the last validation that the checkpoint holds.
    tensorboard: folder for TensorBoard events, or None.
    """

    def __init__(self, path: Path, *, step: int, validated: int, tensorboard: Path | None = None) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _belongs(line, step, validated)]
        if kept != lines:
            write_text(path, "".join(kept))
        self.seconds: float = json.loads(kept[-1]).get("seconds", 0.0) if kept else 0.0  # noqa: TID251, our own lines, errors caught
        """Training time up to the last line kept."""
        self.events: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                remedy = "pip install 'humanoid-world-models[tensorboard]'"
                raise ValueError(f"train.tensorboard needs the package tensorboard: {remedy}") from None
            self.events = SummaryWriter(str(tensorboard), purge_step=step + 1)
        # Unbuffered: every line is out when it is written, and a full disk is felt there and not at closing.
        self._file = path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record, which must have "step"; numbers that are not finite become null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        write_all(self._file, json.dumps(plain) + "\n", path=self.path)
        if self.events is not None:
            for key, value in plain.items():
                if key != "step" and value is not None:
                    self.events.add_scalar(key, value, plain["step"])

    def sync(self) -> None:
        """Force the lines to the disk, before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())
        if self.events is not None:
            self.events.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if self.events is not None:
            self.events.close()


def _belongs(line: str, step: int, validated: int) -> bool:
    try:
        record = json.loads(line)  # noqa: TID251, our own lines, errors caught
        is_validation = any(key.startswith("val/") for key in record)
        return line.endswith("\n") and record["step"] <= (validated if is_validation else step)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
