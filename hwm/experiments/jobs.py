"""Several trainings at once, each a process of its own with one thread, shown as one progress with time left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwm.work.progress import Counter
from hwm.work.signals import StopFlag


@dataclass(frozen=True)
class Training:
    """One run to train: `hwm train` with these arguments, in folder `out`, for `steps` steps."""

    out: Path
    arguments: tuple[str, ...]
    steps: int

    def done(self) -> int:
        """Steps logged so far."""
        trace = self.out / "metrics.jsonl"
        if not trace.is_file():
            return 0
        steps = [json.loads(line).get("step", 0) for line in trace.read_text().splitlines()[-3:] if line.endswith("}")]
        return max(steps, default=0)


def train_all(trainings: Sequence[Training], *, parallel: int, every: float = 1.0) -> None:
    """Train all, `parallel` runs at a time; the output of run R goes to R.log beside its folder.

    A stop (Ctrl-C, SIGTERM, SIGHUP) leaves checkpoints, and the same call goes on from them; finished runs only say so.
    Raises ValueError with the last line of its log for a training that failed, Stopped after a stop; the trainings are
    stopped and saved.
    """
    waiting = list(trainings)
    running: dict[Training, subprocess.Popen[bytes]] = {}
    total = sum(training.steps for training in trainings)
    with Counter("training", unit="steps") as counter, StopFlag() as stop:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    training = waiting.pop(0)
                    running[training] = _start(training)
                time.sleep(every)
                stop.check()
                for training, process in list(running.items()):
                    if process.poll() is not None:
                        del running[training]
                        if process.returncode:
                            raise ValueError(f"{training.out}: training failed: {_last_line(_log(training))}")
                counter(sum(min(t.done(), t.steps) for t in trainings), total)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def _start(training: Training) -> subprocess.Popen[bytes]:
    training.out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "hwm", "train", *training.arguments, "--out", str(training.out)]
    with _log(training).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _log(training: Training) -> Path:
    return training.out.with_name(training.out.name + ".log")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"no output in {path}"
