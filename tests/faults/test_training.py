"""What happens to a training of one process from outside: kills, a full disk, signals, a second run, numbers that explode."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from damage import largest_file
from refusing import refused
from tiny_line import COMMAND, ENVIRONMENT, start, token_data, train_command
from tiny_training import build, checkpoint_bytes, clips, run, stopping_at, trace

from hwm.training import checkpoint
from hwm.work.claim import claimed

KILL_RUN = Path(__file__).parents[1] / "training" / "kill_run.py"


def kill_run(*arguments: object) -> str:
    """The last line of that script."""
    process = start([sys.executable, str(KILL_RUN), *map(str, arguments)])
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    return output.strip().splitlines()[-1]


def same_weights(one: Path, other: Path, step: str) -> bool:
    first, second = checkpoint_bytes(one), checkpoint_bytes(other)
    return all(first[f"{step}/{f}.safetensors"] == second[f"{step}/{f}.safetensors"] for f in ("model", "optimizer", "ema"))


# --- F1, F3: kills ---------------------------------------------------------------------------------------------------

EQUAL = "metrics and checkpoints equal to the last byte, nothing done by hand"


@pytest.mark.fault("F1", EQUAL)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.full)])
def test_kills_end_in_the_same_bytes(tmp_path, kills, record_property):
    told = kill_run("anywhere", tmp_path, kills)
    assert told.startswith(f"{kills} kills")
    record_property("measured", told)


WHOLE = "every visible step whole, leftovers cleaned, equal weights at the end"


@pytest.mark.fault("F3", WHOLE)
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "width", "inside"), [(2, 128, 0), pytest.param(20, 512, 10, marks=pytest.mark.full)])
def test_kills_inside_a_save(tmp_path, kills, width, inside, record_property):
    told = kill_run("saving", tmp_path, kills, width)
    record_property("measured", told)
    assert told.startswith(f"{kills} kills") and int(told.split(", ")[1].split()[0]) >= inside


# --- F4: a full disk -------------------------------------------------------------------------------------------------


@pytest.mark.fault("F4", "file and free space named, exit code not 0, what was there whole, nothing half-written left")
@pytest.mark.parametrize(
    ("size", "file"), [(40_000, "optimizer"), (2_000, "model"), (600, "metrics.jsonl"), (200, "config.toml"), (9, ".lock")]
)
def test_a_full_disk_is_named_and_costs_no_checkpoint(tmp_path, size, file):
    run(tmp_path / "alone", "train.steps=6")
    run(tmp_path / "full", "train.steps=6", train_batch=stopping_at(5))
    before = checkpoint_bytes(tmp_path / "full")
    if file == "config.toml":
        (tmp_path / "full" / "config.toml").write_text((tmp_path / "full" / "config.toml").read_text() + "# mine\n")
    with largest_file(size):
        refused(rf"{file}\S*: cannot write: File too large.*GB free", run, tmp_path / "full", "train.steps=6")
    assert checkpoint_bytes(tmp_path / "full") == before
    run(tmp_path / "full", "train.steps=6")
    assert same_weights(tmp_path / "full", tmp_path / "alone", "step-6")


# --- F5: signals -----------------------------------------------------------------------------------------------------

STOP = "saved and ended in <= 10 s, exit code 128 + signal, 0 steps lost, a second SIGINT ends at once"
ENDLESS = ("train.steps=100000", "train.schedule=constant", "train.checkpoint_every=100000", "train.validate_every=0")
PLACES = {
    "step": ((), r"step 3/"), "validation": (("train.validate_every=2", "train.validate_clips=64"), r"step 2/"),
    "save": (("train.checkpoint_every=1", "model.width=128"), r"step 2/"), "compilation": (("train.compile=true",), None)
}


def stop_in(place: str, number: int, folder: Path) -> float:
    """Train by the command line, signal it in `place`, check what is left, go on.  Returns the seconds it took to end."""
    changes, line = PLACES[place]
    data = token_data(folder / "data", segments=(700,) * 4 if place == "validation" else (70, 50))
    command = train_command(folder, data, *ENDLESS, *changes)
    process = start(command)
    assert process.stdout is not None
    said = []
    if line is None:
        while not ((folder / "run/config.toml").exists() or process.poll() is not None):
            time.sleep(0.01)
        time.sleep(1.0)  # the first step begins with compiling, which takes longer
        assert process.poll() is None and not (folder / "run/checkpoints").exists()
    else:
        for text in process.stdout:
            said.append(text)
            if re.match(line, text):
                break
    if place == "save":
        while not any((folder / "run/checkpoints").glob(".tmp-*")):
            assert process.poll() is None
    asked = time.monotonic()
    process.send_signal(number)
    said += process.communicate(timeout=120)[0].splitlines()
    seconds = time.monotonic() - asked
    assert process.returncode == 128 + number, "".join(said)
    logged = [int(text.split()[1].split("/")[0]) for text in said if re.match(r"step \d+/", text)]
    reached = checkpoint.step_of(checkpoint.find(folder / "run", which="last")) if logged else 0
    assert reached == max([0, *logged]), said
    if place == "validation":  # it was stopped between two steps, not after the validation
        assert reached == 2 and not any("validation" in text for text in said)

    # What was kept is continued by the same command, to the bytes of a run that was left alone.
    again = [*ENDLESS, *changes, f"train.steps={reached + 2}"]
    for out in ("run", "alone"):
        config_only = train_command(folder, data, *again, out=out)
        done = subprocess.run(config_only, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert ("continuing from" in done.stdout) == (out == "run" and reached > 0)
    assert same_weights(folder / "run", folder / "alone", f"step-{reached + 2}")
    return seconds


@pytest.mark.fault("F5", STOP)
def test_sigterm_saves_every_step_and_a_folder_in_use_is_refused(tmp_path):
    command = train_command(tmp_path, token_data(tmp_path / "data"), *ENDLESS)
    process = start(command)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    refused(rf"in use by process {process.pid} on .+; wait for it", run, tmp_path / "run", *ENDLESS)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and time.monotonic() - asked < 10
    reached = int(output.split("stopped after step ")[1].split(",")[0])
    logged = [int(line.split()[1].split("/")[0]) for line in output.splitlines() if line.startswith("step ")]
    assert reached >= max([3, *logged])
    assert checkpoint.step_of(checkpoint.find(tmp_path / "run", which="last")) == reached


@pytest.mark.full
@pytest.mark.fault("F5", STOP)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", PLACES)
def test_signals_lose_nothing_wherever_they_fall(tmp_path, place, record_property):
    taken = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        (folder := tmp_path / str(number)).mkdir()
        taken.append(stop_in(place, number, folder))
    record_property("measured", f"{place}: {', '.join(f'{seconds:.1f}' for seconds in taken)} s")
    assert max(taken) <= 10


@pytest.mark.full
@pytest.mark.fault("F5", STOP)
def test_a_second_interrupt_ends_at_once(tmp_path, record_property):
    data = token_data(tmp_path / "data")
    # A step of thousands of micro-steps would hold the first interrupt back.
    process = start(train_command(tmp_path, data, *ENDLESS, "train.batch_size=20000", "train.accumulate=1"))
    while not (tmp_path / "run/config.toml").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    first_ended = process.poll() is not None
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    seconds = time.monotonic() - asked
    assert process.returncode == 130 and "Traceback" not in output and not first_ended
    record_property("measured", f"second SIGINT: {seconds:.1f} s, 130")
    assert seconds < 5


# --- F13: two runs in one folder --------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from hwm.work.claim import claimed
with claimed(Path(sys.argv[1]), say=print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.fault("F13", "the second is refused with process and host of the first; the lock of a dead one is taken over")
def test_the_lock_of_a_killed_process_is_free(tmp_path, record_property):
    process = start([sys.executable, "-c", HOLD, str(tmp_path)])
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"in use by process {process.pid} on "), claimed(tmp_path, say=print):
        raise AssertionError("two processes hold one folder")
    command = [*COMMAND, "train", "st-tiny", "--out", str(tmp_path), "--data", str(token_data(tmp_path / "data"))]
    shape = ["model.vocab_size=32", "model.factors=[32]", "model.grid=[2,2]", "train.validate_every=0", "train.sample_every=0"]
    shape.append("tokenizer=''")
    second = subprocess.run([*command, "--set", *shape], env=ENVIRONMENT, capture_output=True, text=True)
    assert second.returncode == 2 and f"in use by process {process.pid} on " in second.stderr, second.stderr
    assert second.stderr.count("\n") == 1
    process.kill()
    process.communicate(timeout=60)
    assert (tmp_path / ".lock").read_text().startswith(f"process {process.pid} ")
    with claimed(tmp_path, say=print):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")
    assert (tmp_path / ".lock").read_text() == ""
    record_property("measured", "second: exit code 2 and one line; lock of a killed process taken over")


# --- F15: numbers that explode ----------------------------------------------------------------------------------------

FINITE = "found in the same step, batches named, last checkpoint untouched"


@pytest.mark.fault("F15", FINITE)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_weights(tmp_path, value, record_property):
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
    record_property("measured", f"{value}: same step")


@pytest.mark.fault("F15", FINITE)
def test_a_gradient_that_explodes_under_a_finite_loss_stops(tmp_path, record_property):
    model = build()
    model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(ValueError, match=r"step 1 .*: grad_norm is (nan|inf); stopped, no checkpoint was written yet"):
        run(tmp_path, model=model)
    record_property("measured", "infinite gradient: same step")


@pytest.mark.fault("F15", "a constant loss is seen in the metrics and spoils nothing")
def test_a_constant_loss_leaves_finite_weights_and_shows_in_the_metrics(tmp_path, record_property):
    model = build()
    for parameter in model.parameters():
        parameter.register_hook(torch.zeros_like)
    run(tmp_path, "train.validate_every=0", model=model)
    lines = trace(tmp_path)
    assert len(lines) == 12 and all(line["grad_norm"] == 0 for line in lines)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    record_property("measured", "constant loss: gradient norm 0 in every line, weights finite")


# --- F16: clocks and foreign files ------------------------------------------------------------------------------------


@pytest.mark.fault("F16", "the chosen checkpoint and the final weights are the same")
def test_times_of_files_the_clock_and_foreign_files_decide_nothing(tmp_path, monkeypatch, record_property):
    out, chance = tmp_path / "run", random.Random(0)
    run(tmp_path / "alone")
    stops = 4
    for number in range(stops):
        run(out, train_batch=stopping_at(6 * number + 1))
        kept = checkpoint.find(out, which="last").name
        checkpoints = out / "checkpoints"
        for name in ("step-99.bak", "step-x", "step-99 (copy)", ".DS_Store", "Thumbs.db", "step-98", "step-"):
            (checkpoints / name).write_text("foreign")
        (checkpoints / "step-97.old").mkdir(exist_ok=True)
        (out / "notes.txt").write_text("mine")
        for path in out.rglob("*"):
            os.utime(path, (when := chance.choice([0, 10**9, 4 * 10**9]), when))
        assert checkpoint.find(out, which="last").name == kept == f"step-{3 * number + 1}"
        monkeypatch.setattr(time, "time", lambda now=time.time, back=number: now() - back * 365 * 86400)
    run(out)
    assert same_weights(out, tmp_path / "alone", "step-12") and trace(out) == trace(tmp_path / "alone")
    assert (out / "notes.txt").read_text() == "mine"
    record_property("measured", f"{stops} stops, times shuffled, 8 foreign names: equal bytes")
