"""What a run's folder holds beside its checkpoints, all of one configuration.

metrics.jsonl: one JSON object a line with a checksum of it, a trace that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from hwm.config import RunConfig, from_toml, to_toml
from hwm.safe_load.paths import is_file, reading
from hwm.safe_load.text import read_json_lines
from hwm.training import checkpoint
from hwm.training.device import choose_device, faster_precision
from hwm.training.identity import Identity, expect_same, record
from hwm.training.processes import Processes
from hwm.work.files import sealed, unsealed, write_all, write_text

DONE = "DONE"


def settle(out: Path, config: RunConfig, identity: Identity) -> None:
    """Write config.toml; refuse to continue a run that was started with other settings or data.

    A folder without a checkpoint holds nothing to continue, and takes any.
    Raises ValueError naming the first setting that differs, or the data.
    """
    path, state = out / "config.toml", checkpoint.newest_state(out / "checkpoints")
    if state is not None:
        expect_same(state, config, identity, run=out)
    elif path.exists():
        from_toml(RunConfig, path)  # what is not of a run that failed to start is not replaced
    text = to_toml(config)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def taken_up(config: RunConfig, out: Path, *, prolong: bool) -> RunConfig:
    """The configuration for the run that a folder holds already: with the start that it had, and of the length that it has.

    prolong: a run that is complete and is given more steps takes them as a second leg, in which the learning rate rises and
    falls again (`optim.lr_at`); with a constant one nothing depends on the length.
    """
    if (state := checkpoint.newest_state(out / "checkpoints")) is None:
        return config
    settings, begun, train = state["settings"], state["identity"].get("init"), config.train
    if begun and not config.init:
        config = replace(config, init=str(begun["name"]), anew=tuple(settings.get("anew", ())))
    length, since = settings.get("train.steps"), settings.get("train.since", 0)
    if length is None or train.since or train.schedule == "constant":
        return config
    if prolong and train.steps > length <= state["step"]:
        return replace(config, train=replace(train, since=length))
    return replace(config, train=replace(train, since=since)) if train.steps == length else config


def dealt_out(config: RunConfig, out: Path, *, world: int) -> RunConfig:
    """The configuration with micro-batches small and many enough for every process to have one.

    The clips of a step, and so what is learned, stay the same.  A run that is continued keeps its micro-batches where they
    are smaller, so that it goes on bit for bit.  Raises ValueError where a step has fewer clips than there are processes.
    """
    train, path = config.train, out / "config.toml"
    clips = train.batch_size * train.accumulate
    if path.exists() and any((out / "checkpoints").glob("step-*")):
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


def in_precision(config: RunConfig, out: Path, *, processes: Processes) -> RunConfig:
    """The configuration with "auto" settled: by the run that goes on, or by what the first process finds to be faster."""
    if config.train.precision != "auto":
        return config
    path = out / "config.toml"
    faster = lambda: faster_precision(choose_device(config.train.device))  # noqa: E731
    precision = processes.on_first(lambda: from_toml(RunConfig, path).train.precision if is_file(path) else faster())
    return replace(config, train=replace(config.train, precision=precision))


def mark_done(out: Path, config: RunConfig, identity: Identity, *, step: int, best: float | None, seconds: float) -> None:
    """Note that the run is complete, so that a restarted process need not load it to find that out."""
    facts = {"step": step, "best": best, "seconds": seconds, "steps": config.train.steps, **record(config, identity)}
    write_text(out / DONE, sealed(facts))


def read_done(out: Path, config: RunConfig, identity: Identity) -> dict[str, Any] | None:
    """What `mark_done` noted of a run of this configuration and data whose last checkpoint is still there; else None."""
    try:
        facts = unsealed(out / DONE)
        expect_same(facts, config, identity, run=out)
        whole = (out / "config.toml").is_file() and (out / "checkpoints" / f"step-{facts['step']}").is_dir()
        return facts if whole and facts["steps"] == config.train.steps else None
    except (ValueError, KeyError):
        return None


class MetricsLog:
    """Appends to a run's metrics.

    Opening cuts what a killed process wrote beyond the checkpoint it is resumed from, and a last line it tore.
    step, validated: steps of the last update and the last validation that the checkpoint holds.
    tensorboard: folder for TensorBoard events, or None.
    """

    def __init__(self, path: Path, *, step: int, validated: int, tensorboard: Path | None = None) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: is no file; remove it, or choose another folder")
        with reading(path):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _belongs(line, step, validated)]
        if kept != lines:
            write_text(path, "".join(kept))
        if damaged := sum(line.endswith("\n") and _whole(line) is None for line in lines):
            print(f"{path}: {damaged} damaged lines are left out", file=sys.stderr, flush=True)
        self.seconds: float = ((_whole(kept[-1]) if kept else None) or {}).get("seconds") or 0.0
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
        write_all(self._file, json.dumps(plain | {"crc32": _crc(plain)}) + "\n", path=self.path)
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


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a run's metrics.jsonl, if there is one; lines that a kill tore or that are damaged are left out."""
    yield from filter(None, map(_checked, read_json_lines(path) if is_file(path) else ()))


def _checked(record: dict[str, Any]) -> dict[str, Any] | None:
    """A record without its checksum, None where that differs; earlier versions wrote none."""
    told = record.pop("crc32", None)
    numbers = isinstance(record.get("step"), int) and all(isinstance(v, int | float | None) for v in record.values())
    return record if numbers and told in (None, _crc(record)) else None


def _crc(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def _whole(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)  # noqa: TID251, our own lines, errors caught
    except (ValueError, RecursionError):
        return None
    return _checked(record) if isinstance(record, dict) else None


def _belongs(line: str, step: int, validated: int) -> bool:
    record = _whole(line)
    if record is None or not line.endswith("\n"):
        return False
    return record["step"] <= (validated if any(key.startswith("val/") for key in record) else step)
