"""What happens to a run from outside: signals, kills, two processes at once, a full disk, numbers that explode."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, build, checkpoint_bytes, clips, run, stopping_at

from hwm.training import checkpoint
from hwm.training.run_folder import claimed, settle_config

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*arguments: object, **options) -> subprocess.Popen[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT, cwd=HERE, **options
    )


def test_sigterm_saves_every_step_and_a_folder_in_use_is_refused(tmp_path):
    endless = ["train.steps=100000", "train.checkpoint_every=100000", "train.validate_every=0"]
    process = start(HERE / "tiny_training.py", tmp_path, *endless)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    with pytest.raises(ValueError, match=rf"in use by process {process.pid} on .+; wait for it") as caught:
        run(tmp_path, *endless)
    assert "\n" not in str(caught.value)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and time.monotonic() - asked < 10
    reached = int(output.split("stopped after step ")[1].split(",")[0])
    logged = [int(line.split()[1].split("/")[0]) for line in output.splitlines() if line.startswith("step ")]
    assert reached >= max([3, *logged])
    assert checkpoint.step_of(checkpoint.find(tmp_path, which="last")) == reached


HOLD = """
import sys, time
from pathlib import Path
from hwm.training.run_folder import claimed
with claimed(Path(sys.argv[1]), say=print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    process = start("-c", HOLD, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"in use by process {process.pid} "), claimed(tmp_path, say=print):
        raise AssertionError("two processes hold one folder")
    process.kill()
    process.communicate(timeout=60)
    assert (tmp_path / ".lock").read_text().startswith(f"process {process.pid} ")
    with claimed(tmp_path, say=print):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")
    assert (tmp_path / ".lock").read_text() == ""


def kill_run(folder: Path, kills: int) -> str:
    process = start(HERE / "kill_run.py", folder, kills)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    return output


def test_three_kills_end_in_the_same_bytes(tmp_path):
    assert kill_run(tmp_path, 3).startswith("3 kills")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_end_in_the_same_bytes(tmp_path):
    assert kill_run(tmp_path, 20).startswith("20 kills")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A stand-in for a full disk that needs no rights: writing beyond `size` bytes of a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size", "file"),
    [(40_000, "optimizer"), (2_000, "model"), (600, "metrics.jsonl"), (200, "config.toml"), (9, ".lock")],
)
def test_a_full_disk_is_named_and_costs_no_checkpoint(tmp_path, size, file):
    run(tmp_path / "alone", "train.steps=6")
    run(tmp_path / "full", "train.steps=6", train_batch=stopping_at(5))
    before = checkpoint_bytes(tmp_path / "full")
    if file == "config.toml":
        (tmp_path / "full" / "config.toml").write_text((tmp_path / "full" / "config.toml").read_text() + "# mine\n")
    with largest_file(size), pytest.raises(ValueError, match=rf"{file}\S*: cannot write: File too large.*GB free") as caught:
        run(tmp_path / "full", "train.steps=6")
    assert "\n" not in str(caught.value)
    assert checkpoint_bytes(tmp_path / "full") == before
    run(tmp_path / "full", "train.steps=6")
    assert same_weights(tmp_path / "full", tmp_path / "alone", "step-6")


def same_weights(one: Path, other: Path, step: str) -> bool:
    first, second = checkpoint_bytes(one), checkpoint_bytes(other)
    return all(first[f"{step}/{f}.safetensors"] == second[f"{step}/{f}.safetensors"] for f in ("model", "optimizer", "ema"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_weights(tmp_path, value):
    model = build()

    def poisoned(index: int):
        if index == 9:
            with torch.no_grad():
                model.step_positions[0, 0] = value
        return clips(index)

    with pytest.raises(ValueError, match=r"step 5 \(batches 8, 9\): loss is (nan|inf).*checkpoint step-4 is untouched"):
        run(tmp_path, model=model, train_batch=poisoned)
    assert checkpoint.find(tmp_path, which="last").name == "step-4"
    run(tmp_path)
    run(tmp_path / "alone")
    assert same_weights(tmp_path, tmp_path / "alone", "step-12")


def test_a_gradient_that_explodes_under_a_finite_loss_stops(tmp_path):
    model = build()
    model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(ValueError, match=r"step 1 .*: grad_norm is (nan|inf); stopped, no checkpoint was written yet"):
        run(tmp_path, model=model)


def test_a_folder_that_cannot_hold_a_run(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="cannot be used as a run folder"):
        run(tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("trian = 3\n")
    with pytest.raises(ValueError, match=r"config.toml: unknown key 'trian'; did you mean 'train'"):
        run(tmp_path / "run")
    run(tmp_path / "other", "train.steps=1")
    (tmp_path / "other" / "config.toml").unlink()
    with pytest.raises(ValueError, match=r"config.toml: missing beside checkpoints"):
        settle_config(tmp_path / "other", CONFIG)


def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"device 'tpu9' cannot be used here .*use 'auto' or 'cpu'"):
        run(tmp_path, "train.device=tpu9")
