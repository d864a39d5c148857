"""Kill a tiny training again and again, then compare it, byte by byte, with one that was left alone.

    python tests/training/kill_run.py FOLDER [kills=20] [seed=0]

Half of the kills fall at random times, half into the writing of a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from tiny_training import checkpoint_bytes, clips, run, trace


def start(out: Path, steps: int) -> int:
    """Train in a forked process (torch is imported, but has computed nothing yet: forking is safe)."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:

        def slow_clips(index: int):  # Time for kills to fall between two steps, too.
            time.sleep(0.004)
            return clips(index)

        result = run(out, f"train.steps={steps}", "train.checkpoint_every=4", "train.accumulate=1", train_batch=slow_clips)
        code = 0 if result.step == steps else 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"training failed with {os.waitstatus_to_exitcode(status)}"


def kill(child: int, out: Path, chance: random.Random) -> bool:
    """Kill at a random moment; False if the training had ended before."""
    in_save = chance.random() < 0.5
    deadline = time.monotonic() + (5 if in_save else chance.uniform(0.02, 0.8))
    while time.monotonic() < deadline and not (in_save and any((out / "checkpoints").glob(".tmp-step-*"))):
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.0002)
    time.sleep(chance.uniform(0, 0.004) if in_save else 0)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def digest(out: Path) -> str:
    return hashlib.sha256(repr(sorted(checkpoint_bytes(out).items())).encode()).hexdigest()


def main(folder: Path, kills: int, seed: int) -> None:
    alone, killed, chance = folder / "alone", folder / "killed", random.Random(seed)
    steps = 12 + 4 * kills
    finish(start(alone, steps))
    done = 0
    while done < kills:
        child = start(killed, steps)
        if not kill(child, killed, chance):
            break
        done += 1
    finish(start(killed, steps))
    assert trace(alone) == trace(killed), "the metrics differ"
    assert digest(alone) == digest(killed), "the checkpoints differ"
    assert not list((killed / "checkpoints").glob(".*")), "leftovers"
    print(f"{done} kills, {steps} steps, equal: {digest(killed)}")
    assert done == kills, "the training ended before all kills were made"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(a) for a in [*sys.argv[2:], *["20", "0"][len(sys.argv) - 2 :]]))
