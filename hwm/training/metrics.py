"""metrics.jsonl: one JSON object a line, a trace that a resumed run continues as if it had never stopped."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from hwm.work.files import write_all, write_text


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
