"""Kill a training again and again while it saves, and look at what lies there after every kill.

    python tests/faults/kill_save.py FOLDER [kills=20] [width=512]

The offsets from the beginning of a save are spread over 0 to 300 ms; one process, so that all of them are hit.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_training import checkpoint_bytes, run

from hwm.training import checkpoint


def start(out: Path, *changes: str) -> int:
    """Train in a forked process (torch is imported, but has computed nothing yet: forking is safe)."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run(out, *changes)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(child: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "training failed"


def kill_in_save(child: int, checkpoints: Path, offset: float) -> bool:
    """Kill `offset` seconds after a save begins; whether the hidden folder was still there then."""
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob(".tmp-*")):
        assert time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0), "training ended without a save"
        time.sleep(0.0005)
    time.sleep(offset)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return any(checkpoints.glob(".tmp-*"))


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


def main(folder: Path, kills: int, width: int) -> None:
    shape = [f"model.width={width}", "model.num_layers=2", f"train.steps={2 * kills + 2}", "train.accumulate=1"]
    shape += ["train.validate_every=0"]
    finish(start(folder / "alone", *shape, "train.checkpoint_every=0"))
    killed, inside = folder / "killed" / "checkpoints", 0
    for number in range(kills):
        child = start(folder / "killed", *shape, "train.checkpoint_every=1")
        inside += kill_in_save(child, killed, 0.3 * number / max(1, kills - 1))
        look(killed)
    finish(start(folder / "killed", *shape, "train.checkpoint_every=0"))
    last = f"step-{2 * kills + 2}/"
    alone, other = checkpoint_bytes(folder / "alone"), checkpoint_bytes(folder / "killed")
    for name in ("model", "optimizer", "ema"):
        assert alone[f"{last}{name}.safetensors"] == other[f"{last}{name}.safetensors"], f"{name} differs"
    assert not list(killed.glob(".*")), "leftovers"
    megabytes = sum(len(data) for name, data in alone.items() if name.startswith(last)) / 1e6
    print(f"{kills} kills, {inside} of them inside a save of {megabytes:.0f} MB, all visible steps whole, equal bytes at the end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(a) for a in [*sys.argv[2:], *["20", "512"][len(sys.argv) - 2 :]]))
