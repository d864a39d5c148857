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


def start(data: Path, out: Path, *changes: str, nproc: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-m", "hwm", "train", "st-tiny", f"--nproc={nproc}", f"--data={data}", f"--out={out}", "--set"]
    return subprocess.Popen(
        [*command, *SETTINGS, *changes], env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True
    )


def steps(out: Path) -> int:
    trace = out / "metrics.jsonl"
    return len(trace.read_text().splitlines()) if trace.exists() else 0


@pytest.mark.slow
@pytest.mark.fault("F5", "saved and gone <= 10 s, documented exit code, 0 steps lost")
def test_two_processes_stop_on_sigterm_and_go_on_to_the_end(data, tmp_path, record_property):
    out = tmp_path / "run"
    process = start(data, out, "train.steps=2000", "train.schedule=constant")
    while steps(out) < 3:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    seconds = time.monotonic() - begun
    assert process.returncode == 143, said
    assert seconds < 10 and "Traceback" not in said and f"stopped at step {steps(out)}, saved" in said
    reached = steps(out)
    rest = start(data, out, f"train.steps={reached + 2}", "train.schedule=constant")
    said, _ = rest.communicate(timeout=120)
    assert rest.returncode == 0 and f"continuing from {out}/checkpoints/step-{reached}" in said, said
    assert said.endswith(f"{out}: {reached + 2} steps\n")
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == list(range(1, reached + 3))
    assert (out / "config.toml").read_text().count("batch_size = 2\naccumulate = 2\n") == 1
    record_property("measured", f"hwm train --nproc 2: saved and gone {seconds:.1f} s after SIGTERM, code 143, no step lost")


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_told_once(data, tmp_path):
    out = tmp_path / "run"
    begun = time.monotonic()
    process = start(data, out, "train.steps=500", "train.lr=1000.0", "train.clip_norm=0.0")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("hwm train: error: step ") and "lower train.lr" in said.splitlines()[-1]
    assert time.monotonic() - begun < 60 and not [line for line in said.splitlines() if "restarts" in line]


@pytest.mark.parametrize("change, expected", [
    ("train.batch_size=1", "is too small for 2 processes: start at most 1"), ("model.vocab_size=32", "its vocab_size is 64")
])
def test_mistakes_are_found_before_processes_are_started(data, tmp_path, change, expected, capfd):
    command = ["train", "st-tiny", "--nproc=2", f"--data={data}", f"--out={tmp_path / 'run'}", "--set", *SETTINGS, change]
    assert main(command) == 2 and not (tmp_path / "run").exists()
    told = capfd.readouterr()
    assert expected in told.err and len((told.out + told.err).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.fault("F2", "equal weights and optimiser, at most 1 restart each, no hang, <= 20 s to the first step")
def test_a_rank_that_is_killed_is_replaced_and_the_run_goes_on(data, tmp_path):
    out = tmp_path / "run"
    process = start(data, out, "train.steps=40", "train.checkpoint_every=2")
    while steps(out) < 5:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    others = [p for p in Path("/proc").iterdir() if p.name.isdigit() and variables(p).get("RANK") == "1"]
    ranks = [int(p.name) for p in others if f"--out={out}" in (p / "cmdline").read_text()]
    assert len(ranks) == 1
    os.kill(ranks[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=150)
    assert process.returncode == 0 and said.endswith(f"{out}: 40 steps\n"), said
    assert said.count("continuing from") == 1
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == list(range(1, 41))


def variables(process):
    """The environment of a process, by its folder in /proc; empty where it is gone."""
    try:
        lines = (process / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)
