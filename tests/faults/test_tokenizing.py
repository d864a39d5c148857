"""`hwm tokenize` and `hwm simulate` killed, stopped and shared: the same bytes in the end, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from damage import contents
from moving_square import write_noise
from tiny_line import tokenizer

from hwm.data.onex import open_dataset
from hwm.tokenizers.encode import tokenize
from hwm.work.share import Share, share_from_environment
from hwm.work.signals import Stopped

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tokenizer, raw data, and its tokens from one undisturbed call."""
    root = tmp_path_factory.mktemp("killed")
    tokenizer(root / "coder", channels=4)
    write_noise(root / "raw", [(60, 60)] * SHARDS, side=32)
    tokenize(root / "raw", root / "whole", tokenizer=str(root / "coder"))
    return root


@pytest.fixture(scope="module")
def apart():
    """Starts `tokenize` in processes of its own, quickly: torch is imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hwm.tokenizers.encode"])

    def apart(place, out, **options):
        options = {"tokenizer": str(place / "coder"), **options}
        process = context.Process(target=tokenize, args=(place / "raw", out), kwargs=options)
        process.start()
        return process

    return apart


@pytest.mark.fault("F14", "outputs byte-identical to an uninterrupted run; every clip exactly once")
def test_killed_at_random_and_shared_the_bytes_are_the_same(place, apart, tmp_path, record_property):
    """Two processes as under a launcher, both killed three times somewhere, then let be."""
    out, rng = tmp_path / "out", np.random.default_rng(0)
    process = apart(place, tmp_path / "timed")
    process.join()
    begin = time.monotonic()
    process = apart(place, tmp_path / "timed again")
    process.join()
    lasts, found = time.monotonic() - begin, []
    for _ in range(3):
        pair = [apart(place, out, share=Share(k, 2)) for k in range(2)]
        time.sleep(float(rng.uniform(0.2, 0.7)) * lasts / 2)
        for process in pair:
            process.kill()
            process.join()
        found.append(len(list(out.glob("metadata/*.json"))))
    pair = [apart(place, out, share=Share(k, 2)) for k in range(2)]
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert contents(out) == contents(place / "whole") == contents(tmp_path / "timed")
    record_property("measured", f"3 kills of two processes (shards finished then: {found}), equal bytes")


def call(place, out, *options, workers=2, **environment):
    """The command itself, in a process group of its own."""
    command = [sys.executable, "-m", "hwm", "tokenize", str(place / "raw"), str(out), "--tokenizer", str(place / "coder")]
    command += ["--workers", str(workers), *map(str, options)]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=settings, start_new_session=True, **pipes)


def members(group):
    """Processes of a group that are there and no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[2]) == group:
            found.append(int(stat.parent.name))
    return found


def children(pid):
    """Ids of the processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


@pytest.mark.fault("F14", "outputs byte-identical to an uninterrupted run; every clip exactly once")
@pytest.mark.full
@pytest.mark.timeout(1200)
def test_twenty_kills_of_the_command_with_two_workers(place, tmp_path, record_property):
    out, rng, begin, finished = tmp_path / "out", np.random.default_rng(1), time.monotonic(), []
    for number in range(20):
        process = call(place, out, "--phases", 4)
        if number % 2:  # half of them when work has begun: what was there, and one shard more
            there = len(list(out.glob("metadata/*.json")))
            wait_for(lambda n=there, p=process: len(list(out.glob("metadata/*.json"))) > n or p.poll() is not None, 60)
        else:
            time.sleep(float(rng.uniform(0, 10)))
        process.kill()
        process.communicate()
        wait_for(lambda group=process.pid: not members(group), 10)
        finished.append(len(list(out.glob("metadata/*.json"))))
    process = call(place, out, "--phases", 4)
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and not errors and "clips: " in told
    seconds = time.monotonic() - begin
    tokenize(place / "raw", tmp_path / "whole", tokenizer=str(place / "coder"), phases=4)
    assert contents(out) == contents(tmp_path / "whole")
    record_property("measured", f"20 kills (finished of {4 * SHARDS} shards: {finished[::4]}), equal bytes, {seconds:.0f} s")


TARGET_F5 = "tokenise: whole tree gone in <= 10 s, exit code 128 + signal, nothing half-written, the next call goes on"


@pytest.mark.fault("F5", TARGET_F5)
def test_a_stop_in_this_process_leaves_whole_shards_and_goes_on(place, tmp_path):
    out, seen = tmp_path / "out", []

    def stop(done, total):
        seen.append(done)
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as raised:
        tokenize(place / "raw", out, tokenizer=str(place / "coder"), progress=stop)
    assert raised.value.signal == signal.SIGTERM and seen == [1, 2, 3]
    assert not (out / "metadata.json").exists() and not [p for p in out.rglob(".*") if p.is_file()]
    tokenize(place / "raw", out, tokenizer=str(place / "coder"))
    assert contents(out) == contents(place / "whole")


@pytest.mark.fault("F5", TARGET_F5)
@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("to_all", [False, True])
def test_signals_to_the_command(place, tmp_path, number, to_all, record_property):
    out = tmp_path / "out"
    process = call(place, out, "--phases", 8)
    wait_for(lambda: len(list(out.glob("metadata/*.json"))) >= 2, 60)
    begin = time.monotonic()
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=30)
    seconds = time.monotonic() - begin
    assert process.returncode == 128 + number and seconds <= 10
    assert errors == f"hwm tokenize: stopped by {signal.Signals(number).name}; run the same command again to go on\n"
    wait_for(lambda: not members(process.pid), 10 - seconds)
    assert not [p for p in out.rglob(".*") if p.is_file()] and not (out / "metadata.json").exists()
    record_property("measured", f"tokenise {signal.Signals(number).name}{' to all' * to_all}: {seconds:.2f} s")


@pytest.mark.fault("F9", "a killed worker of tokenise and simulate: one-line error, no hang, nothing half-written")
@pytest.mark.full
def test_a_killed_worker_of_the_command(place, tmp_path, record_property):
    out = tmp_path / "out"
    process = call(place, out, "--phases", 8)
    wait_for(lambda: len(list(out.glob("metadata/*.json"))) >= 2, 60)
    (server,) = [c for c in children(process.pid) if b"forkserver" in Path(f"/proc/{c}/cmdline").read_bytes()]
    workers = children(server)
    assert len(workers) == 2
    begin = time.monotonic()
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    seconds = time.monotonic() - begin
    assert process.returncode == 2 and errors.count("\n") == 1 and "ended by signal 9" in errors
    assert not [p for p in out.rglob(".*") if p.is_file()]
    assert call(place, out, "--phases", 8).wait(120) == 0 and open_dataset(out).num_frames
    record_property("measured", f"tokenise: error after {seconds:.2f} s, the next call went on")


@pytest.mark.fault("F5", "simulate: whole tree gone in <= 10 s, exit code 128 + signal, the next call goes on")
@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 2])
def test_signals_to_the_simulator(tmp_path, workers, record_property):
    pytest.importorskip("mujoco", reason="the simulator's packages are not installed")
    out = tmp_path / "data"
    command = [sys.executable, "-m", "hwm", "simulate", str(out), "--minutes", "0.5", "--workers", str(workers)]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    took = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = subprocess.Popen(command, env=settings, start_new_session=True, **pipes)
        wait_for(lambda p=process: any(out.rglob(".*.tmp.mp4")) or p.poll() is not None, 120)
        time.sleep(1)
        begin = time.monotonic()
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
        took.append(time.monotonic() - begin)
        assert process.returncode == 128 + number and took[-1] <= 10
        assert errors.splitlines()[-1].startswith(f"hwm simulate: stopped by {signal.Signals(number).name}")
        assert "Traceback" not in errors
        wait_for(lambda group=process.pid: not members(group), 10 - took[-1])
        assert not list(out.rglob(".*.tmp*")), "nothing half-written"
    record_property("measured", f"simulate, {workers} workers: {', '.join(f'{s:.1f}' for s in took)} s")


def test_who_is_done_first_says_what_is_left_to_others(place, tmp_path):
    out, lines = tmp_path / "out", []
    tokenize(place / "raw", out, tokenizer=str(place / "coder"), share=Share(1, 3), say=lines.append)
    assert lines == ["5 of 8 shards are left to others; metadata.json comes with the last of them"]
    assert not (out / "metadata.json").exists()
    tokenize(place / "raw", out, tokenizer=str(place / "coder"), share=Share(0, 3))
    tokenize(place / "raw", out, tokenizer=str(place / "coder"), share=Share(2, 3), say=lines.append)
    assert lines[1] == f"clips: {SHARDS * 6} in = {SHARDS * 6} out" and contents(out) == contents(place / "whole")


def test_several_at_once_on_the_same_shards_do_no_harm(place, apart, tmp_path):
    out = tmp_path / "out"
    several = [apart(place, out) for _ in range(4)]
    for process in several:
        process.join()
    assert [process.exitcode for process in several] == [0] * 4
    assert contents(out) == contents(place / "whole")


def test_two_tokenizers_at_once_do_not_share_a_folder(place, apart, tmp_path):
    other = tokenizer(tmp_path / "other", seed=1, channels=4)
    pair = [apart(place, tmp_path / "out"), apart(place, tmp_path / "out", tokenizer=str(other))]
    for process in pair:
        process.join()
    assert sorted(process.exitcode for process in pair) == [0, 1]
    tokenize(place / "raw", tmp_path / "alone", tokenizer=str(other))
    assert contents(tmp_path / "out") in (contents(place / "whole"), contents(tmp_path / "alone"))


@pytest.mark.parametrize("environment", [
    [{"RANK": str(k), "WORLD_SIZE": "3", "LOCAL_RANK": str(k)} for k in range(3)],
    [{"SLURM_ARRAY_TASK_ID": str(k), "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_MAX": "6"} for k in (6, 4, 5)]
], ids=["torchrun", "slurm array"])
def test_a_launcher_says_who_makes_what(place, tmp_path, environment, monkeypatch, capsys):
    from hwm.cli import main

    out, told = tmp_path / "out", []
    for variables in environment:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert share_from_environment().count == 3
        assert main(["tokenize", str(place / "raw"), str(out), "--tokenizer", str(place / "coder")]) == 0
        told.append(capsys.readouterr().out)
    assert "left to others" in told[0] and "left to others" in told[1] and "clips: 48 in = 48 out" in told[2]
    assert contents(out) == contents(place / "whole")
