"""`hwm train --nproc`: processes are started, stopped and their errors told by one command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_line import token_data

from hwm.cli import main

SETTINGS = ["model.num_layers=1", "model.width=16", "model.state_hidden=16", "model.num_heads=2", "model.grid=[2,2]",
            "model.vocab_size=64", "model.factors=[]", "train.validate_every=0", "train.sample_every=0", "train.log_every=1",
            "train.batch_size=4", "train.device=cpu", "train.threads=1", 'tokenizer=""']  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return token_data(tmp_path_factory.mktemp("tokens"), shards=1, segments=(340,), vocab_size=64)


def start(data: Path, out: Path, *changes: str) -> subprocess.Popen:
    """Two processes by one command, whose output goes beside the run."""
    command = [sys.executable, "-m", "hwm", "train", "st-tiny", "--nproc=2", f"--data={data}", f"--out={out}", "--set"]
    with out.with_suffix(".log").open("w") as log:
        settings = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, *SETTINGS, *changes], env=settings, stdout=log, stderr=subprocess.STDOUT)


def told(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def steps(out: Path) -> list[int]:
    trace = out / "metrics.jsonl"
    return [json.loads(line)["step"] for line in trace.read_text().splitlines() if line.endswith("}")] if trace.exists() else []


def wait_for(step: int, process: subprocess.Popen, out: Path) -> None:
    while step not in steps(out):
        assert process.poll() is None, told(out)
        time.sleep(0.01)


@pytest.mark.fault("F2", "equal weights and optimiser, at most 1 restart each, no hang, <= 20 s to the first step")
@pytest.mark.fault("F5", "saved and gone <= 10 s, documented exit code, 0 steps lost")
def test_a_killed_rank_is_replaced_and_a_stop_loses_no_step(data, tmp_path, record_property, capsys):
    out = tmp_path / "run"
    process = start(data, out, "train.steps=2000", "train.schedule=constant", "train.checkpoint_every=2")
    wait_for(5, process, out)
    others = [p for p in Path("/proc").iterdir() if p.name.isdigit() and variables(p).get("RANK") == "1"]
    (rank,) = [int(p.name) for p in others if f"--out={out}" in (p / "cmdline").read_text()]
    os.kill(rank, signal.SIGKILL)
    reached = steps(out)[-1]
    wait_for(reached + 5, process, out)
    assert told(out).count("continuing from") == 1

    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, told(out)
    seconds, reached = time.monotonic() - begun, steps(out)[-1]
    said = told(out).partition("continuing from")[2]
    assert seconds < 10 and "Traceback" not in said and f"stopped at step {reached}, saved" in said

    more = [*SETTINGS, "train.schedule=constant", f"train.steps={reached + 2}"]
    assert main(["train", "st-tiny", f"--data={data}", f"--out={out}", "--set", *more]) == 0  # now by one process
    printed = capsys.readouterr().out
    assert f"continuing from {out}/checkpoints/step-{reached}" in printed and printed.endswith(f"{out}: {reached + 2} steps\n")
    assert steps(out) == list(range(1, reached + 3))
    assert (out / "config.toml").read_text().count("batch_size = 2\naccumulate = 2\n") == 1
    how = f"saved and gone {seconds:.1f} s after SIGTERM, code 143, no step lost"
    record_property("measured", f"hwm train --nproc 2: a killed rank replaced; {how}")


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_told_once(data, tmp_path):
    out = tmp_path / "run"
    begun = time.monotonic()
    process = start(data, out, "train.steps=500", "train.lr=1000.0", "train.clip_norm=0.0")
    assert process.wait(120) == 2, told(out)
    said = told(out)
    assert said.splitlines()[-1].startswith("hwm train: error: step ") and "lower train.lr" in said.splitlines()[-1]
    assert time.monotonic() - begun < 60 and not [line for line in said.splitlines() if "restarts" in line]


@pytest.mark.parametrize("change, expected", [
    ("train.batch_size=1", "is too small for 2 processes: start at most 1"), ("model.vocab_size=32", "its vocab_size is 64")
])
def test_mistakes_are_found_before_processes_are_started(data, tmp_path, change, expected, capfd):
    command = ["train", "st-tiny", "--nproc=2", f"--data={data}", f"--out={tmp_path / 'run'}", "--set", *SETTINGS, change]
    assert main(command) == 2 and not (tmp_path / "run").exists()
    printed = capfd.readouterr()
    assert expected in printed.err and len((printed.out + printed.err).splitlines()) == 1


def variables(process):
    """The environment of a process, by its folder in /proc; empty where it is gone."""
    try:
        lines = (process / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)
