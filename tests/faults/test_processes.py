"""What happens to several processes that train together: killed, stopped, parted, resharded, told to leave."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import ranks
from tiny_line import alive
from tiny_training import among_others, checkpoint_bytes, resaved

from hwm.training import checkpoint
from hwm.training.processes import STALE_STORE

TINY = Path(__file__).parents[1] / "training" / "tiny_training.py"
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval=0.2", "--max-restarts=3"]
QUIET = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", STALE_STORE: "1"}


def start(out: Path, *changes: str, launcher=("--standalone", "--nproc-per-node=2"), seconds=0.02) -> subprocess.Popen:
    """A tiny training under torchrun."""
    with (out.parent / f"{out.name}.log").open("a") as log:
        return subprocess.Popen(
            [*LAUNCHER, *launcher, str(TINY), str(out), *changes], env=os.environ | QUIET | {"SECONDS_A_BATCH": str(seconds)},
            stdout=log, stderr=subprocess.STDOUT
        )


def said(out: Path) -> str:
    return (out.parent / f"{out.name}.log").read_text()


def steps(out: Path) -> int:
    """Updates that the log tells of."""
    lines = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def wait_until(condition, process: subprocess.Popen, out: Path, *, limit: float = 60.0) -> float:
    """Wait for something while a process lives; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {said(out)[-3000:]}"
        assert time.monotonic() - began < limit, f"not within {limit} s: {said(out)[-3000:]}"
        time.sleep(0.005)
    return time.monotonic() - began


def workers(launcher: subprocess.Popen) -> dict[int, int]:
    """Process ids by rank of a launcher's workers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid:
                variables = (folder / "environ").read_bytes().split(b"\0")
                rank = next((v[5:] for v in variables if v.startswith(b"RANK=")), None)
                if rank is not None:
                    found[int(rank)] = int(folder.name)
        except (OSError, ValueError, IndexError):
            continue
    return found


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def last(out: Path) -> dict[str, bytes]:
    """Every byte of the last checkpoint."""
    name = (out / "checkpoints" / "LATEST").read_text().strip()
    return {key: value for key, value in checkpoint_bytes(out).items() if key.startswith(name)}


def undisturbed(folder: Path, *changes: str) -> Path:
    process = start(folder / "alone", *changes, seconds=0.0)
    assert process.wait(120) == 0, said(folder / "alone")
    return folder / "alone"


def kill_ranks(tmp_path: Path, *, kills: int, parallel: str, seed: int = 0) -> str:
    """Kill random ranks at random steps, half of them into a save, one job for each kill."""
    changes = ["train.steps=40", "train.checkpoint_every=5", "train.validate_every=0", f"train.parallel={parallel}"]
    alone, chance, seconds = undisturbed(tmp_path, *changes), random.Random(seed), []
    for number in range(kills):
        out = tmp_path / f"killed-{number}"
        process = start(out, *changes)
        at, in_save = chance.randrange(8, 30), number % 2 == 1
        wait_until(lambda out=out, at=at: steps(out) >= at, process, out)
        if in_save:
            wait_until(lambda out=out: any((out / "checkpoints").glob(".tmp-step-*")), process, out)
        rank, begun = chance.randrange(2), time.monotonic()
        os.kill(workers(process)[rank], signal.SIGKILL)
        wait_until(lambda out=out: "continuing from" in said(out), process, out)
        seconds.append(time.monotonic() - begun)
        assert process.wait(120) == 0, said(out)
        assert said(out).count("continuing from") == 1, "more than one restart"
        if parallel == "ddp":
            assert last(out) == last(alone)
        else:  # which process writes what all of them hold is left open: the files may differ, the tensors may not
            expect_same_tensors(out, tensors(alone))
        assert not list((out / "checkpoints").glob(".*"))
    what = "bytes" if parallel == "ddp" else "tensors"
    return f"{kills}/{kills} {parallel} jobs end in equal {what}, 1 restart each, {max(seconds):.1f} s to resume at most"


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.fault("F2", "equal weights and optimiser, at most 1 restart each, no hang, <= 20 s to the first step")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_rank_is_replaced_and_nothing_is_lost(tmp_path, record_property, parallel):
    record_property("measured", kill_ranks(tmp_path, kills=10, parallel=parallel, seed=1))


def tensors(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    stored = checkpoint.stored(checkpoint.find(out, which="last"))
    return {group: stored.read(group) for group in ("model", "optimizer", "ema")}


def expect_same_tensors(out: Path, expected: dict[str, dict[str, torch.Tensor]]) -> None:
    found = tensors(out)
    for group, named in expected.items():
        assert named.keys() == found[group].keys()
        assert all(torch.equal(found[group][name], tensor) for name, tensor in named.items()), f"{group} in {out.name}"


@pytest.mark.slow
@pytest.mark.fault("F11", "weights and optimiser bit-equal after each hop")
@pytest.mark.parametrize("more", [[], pytest.param([(2, "fsdp"), (2, "ddp")], marks=pytest.mark.full)])
def test_from_two_processes_to_one_to_three_nothing_changes(tmp_path, record_property, more):
    ranks(2, among_others, tmp_path / "0", "train.steps=3", "train.parallel=fsdp", log=tmp_path / "logs-0")
    expected, hops = tensors(tmp_path / "0"), [(1, "ddp"), (3, "fsdp"), *more]
    assert len(list((tmp_path / "0" / "checkpoints" / "step-3" / "shards").iterdir())) == 2
    for number, (world, parallel) in enumerate(hops):
        source, target = tmp_path / str(number), tmp_path / str(number + 1)
        ranks(world, resaved, source, target, parallel, log=tmp_path / f"logs-{number + 1}")
        expect_same_tensors(target, expected)
    told = " -> ".join(f"{world} {parallel}" for world, parallel in hops)
    record_property("measured", f"2 shares -> {told}: model, optimiser and average bit-equal")


@pytest.mark.slow
@pytest.mark.fault("F11", "weights and optimiser bit-equal after each hop")
def test_a_run_goes_on_with_any_number_of_processes(tmp_path, record_property):
    """Two shares train three steps, three go on to six, one to nine: the losses are those of one process all along."""
    from tiny_training import run

    run(tmp_path / "one", "train.schedule=constant", "train.steps=9", "train.ema=0.0")
    for world, end, parallel in [(2, 3, "fsdp"), (3, 6, "fsdp"), (1, 9, "ddp")]:
        changes = ["train.schedule=constant", f"train.steps={end}", "train.ema=0.0", f"train.parallel={parallel}"]
        ranks(world, among_others, tmp_path / "many", *changes, log=tmp_path / f"logs-{end}")
    one, many = (losses(tmp_path / name) for name in ("one", "many"))
    assert len(one) == 9 and one == pytest.approx(many, rel=1e-4)
    record_property("measured", f"2 -> 3 -> 1 processes: losses within {max(abs(a - b) for a, b in zip(one, many)):.1e} of one")


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.fault("F10", "noticed within the time-out + 5 s, whole group gone <= 60 s, the restart resumes")
def test_a_stopped_rank_is_noticed_and_replaced(tmp_path, record_property):
    changes = ["train.steps=60", "train.checkpoint_every=5", "train.validate_every=0", "train.timeout=5"]
    alone = undisturbed(tmp_path, *changes)
    out = tmp_path / "stopped"
    process = start(out, *changes)
    wait_until(lambda: steps(out) >= 12, process, out)
    ranks = workers(process)
    os.kill(ranks[1], signal.SIGSTOP)
    noticed = wait_until(lambda: not alive(ranks[0]), process, out, limit=20)
    gone = noticed + wait_until(lambda: not alive(ranks[1]), process, out, limit=60)
    assert process.wait(120) == 0, said(out)
    assert last(out) == last(alone)
    assert noticed < 10 and gone < 60
    record_property("measured", f"time-out 5 s: noticed after {noticed:.1f} s, group gone after {gone:.1f} s, equal bytes")


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.fault("F12", "goes on alone <= 40 s, rejoined at the next restart")
def test_a_killed_node_is_missed_and_welcomed_back(tmp_path, record_property):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = ("--nnodes=1:2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=tiny")
    node += ("--rdzv-conf=last_call_timeout=10",)  # how long a launcher waits for others when there are enough: 30 s by itself
    changes = ["train.steps=900", "train.checkpoint_every=10", "train.validate_every=0", "train.timeout=10"]
    out = tmp_path / "nodes"
    first = start(out, *changes, launcher=node, seconds=0.05)
    wait_until(lambda: reachable(port), first, out)  # it keeps the addresses: the job outlives any other launcher
    second = start(out, *changes, launcher=node, seconds=0.05)
    wait_until(lambda: len(workers(first)) == 1 and len(workers(second)) == 1 and steps(out) >= 30, first, out)
    killed = [*workers(second).values(), second.pid]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    second.wait()
    reached, before = steps(out), said(out).count("continuing from")
    alone = wait_until(lambda: said(out).count("continuing from") > before, first, out)
    wait_until(lambda: steps(out) > reached, first, out)
    assert alone < 40
    again = start(out, *changes, launcher=node, seconds=0.05)
    before = said(out).count("continuing from")
    back = wait_until(lambda: workers(again) and said(out).count("continuing from") > before, first, out)
    for process in (first, again):
        process.send_signal(signal.SIGTERM)
    for process in (first, again):
        process.wait(60)
    folder = checkpoint.find(out, which="last")
    assert checkpoint.step_of(folder) >= reached - 10
    saved = checkpoint.step_of(folder)
    record_property("measured", f"alone after {alone:.1f} s, rejoined after {back:.1f} s, step {saved} saved")


@pytest.mark.slow
@pytest.mark.fault("F5", "saved and gone <= 10 s, documented exit code, 0 steps lost")
def test_processes_whose_launcher_is_killed_save_and_leave(tmp_path, record_property):
    """The workers of a killed launcher would go on for ever, at work on a folder that the next attempt wants."""
    out = tmp_path / "run"
    process = start(out, "train.steps=100000", "train.checkpoint_every=100000", "train.validate_every=0")
    wait_until(lambda: steps(out) >= 3, process, out)
    ranks = workers(process)
    process.kill()
    process.wait()
    begun = time.monotonic()
    while any(alive(pid) for pid in ranks.values()):
        assert time.monotonic() - begun < 20
        time.sleep(0.05)
    seconds = time.monotonic() - begun
    assert checkpoint.step_of(checkpoint.find(out, which="last")) == steps(out)
    record_property("measured", f"launcher killed: 2 processes saved and gone after {seconds:.1f} s")
