"""Kill a tiny training again and again, then compare it, byte by byte, with one that was left alone.

    python tests/training/kill_run.py anywhere FOLDER [kills=20] [seed=0]
    python tests/training/kill_run.py saving FOLDER [kills=20] [width=512]

anywhere: half of the kills fall at random times, half into the writing of a checkpoint.
saving: they fall 0 to 300 ms after a save began, evenly spread, and what lies there after each is looked at.
Each training is a fork of this process, in which torch is imported, but has computed nothing yet: forking is safe.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tiny_training import checkpoint_bytes, clips, run, trace

from hwm.training import checkpoint


def start(out: Path, *changes: str, **options: Any) -> int:
    """Train in a process of its own."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run(out, *changes, "train.accumulate=1", **options)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finish(child: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "training failed"


def slow_clips(index: int) -> Any:
    time.sleep(0.004)  # for kills to fall between two steps, too
    return clips(index)


def saving(checkpoints: Path) -> bool:
    return any(checkpoints.glob(".tmp-step-*"))


def kill(child: int, checkpoints: Path, seconds: float, *, of_save: bool) -> None:
    """Kill so many seconds from now, or after a save began."""
    begun = time.monotonic()
    while not saving(checkpoints) if of_save else time.monotonic() < begun + seconds:
        assert os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < begun + 120, "it ended before all kills were made"
        time.sleep(0.0002)
    time.sleep(seconds if of_save else 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def look(checkpoints: Path) -> None:
    """Every step that can be seen is whole, and so is the one that LATEST names."""
    visible = sorted(checkpoints.glob("step-*"))
    for folder in visible:
        checkpoint.verify(folder)
    if (checkpoints / "LATEST").exists():
        assert checkpoints / (checkpoints / "LATEST").read_text().strip() in visible, "LATEST names no whole checkpoint"
    said: list[str] = []
    newest = checkpoint.newest(checkpoints, say=said.append)
    assert said == [] and newest == max(visible, key=lambda p: int(p.name[5:]), default=None)


def kills_anywhere(folder: Path, kills: int = 20, seed: int = 0) -> None:
    alone, killed, chance = folder / "alone", folder / "killed", random.Random(seed)
    changes = (f"train.steps={12 + 4 * kills}", "train.checkpoint_every=4")
    finish(start(alone, *changes))
    for _ in range(kills):
        of_save, child = chance.random() < 0.5, start(killed, *changes, train_batch=slow_clips)
        kill(child, killed / "checkpoints", chance.uniform(*(0, 0.004) if of_save else (0.02, 0.8)), of_save=of_save)
    finish(start(killed, *changes))
    assert trace(alone) == trace(killed), "the metrics differ"
    assert checkpoint_bytes(alone) == checkpoint_bytes(killed), "the checkpoints differ"
    print(f"{kills} kills, {12 + 4 * kills} steps, equal to the last byte")


def kills_while_saving(folder: Path, kills: int = 20, width: int = 512) -> None:
    last, killed, inside = 2 * kills + 2, folder / "killed" / "checkpoints", 0
    shape = [f"model.width={width}", "model.num_layers=2", f"train.steps={last}", "train.validate_every=0"]
    finish(start(folder / "alone", *shape, "train.checkpoint_every=0"))
    for number in range(kills):
        child = start(folder / "killed", *shape, "train.checkpoint_every=1")
        kill(child, killed, 0.3 * number / max(1, kills - 1), of_save=True)
        inside += saving(killed)
        look(killed)
    finish(start(folder / "killed", *shape, "train.checkpoint_every=0"))
    alone, other = checkpoint_bytes(folder / "alone"), checkpoint_bytes(folder / "killed")
    for name in ("model", "optimizer", "ema"):
        assert alone[f"step-{last}/{name}.safetensors"] == other[f"step-{last}/{name}.safetensors"], f"{name} differs"
    assert not list(killed.glob(".*")), "leftovers"
    megabytes = sum(len(data) for name, data in alone.items() if name.startswith(f"step-{last}/")) / 1e6
    print(f"{kills} kills, {inside} of them inside a save of {megabytes:.0f} MB, all visible steps whole, equal bytes at the end")


if __name__ == "__main__":
    how = {"anywhere": kills_anywhere, "saving": kills_while_saving}[sys.argv[1]]
    how(Path(sys.argv[2]), *map(int, sys.argv[3:]))
