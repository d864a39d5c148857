"""What cannot be used as an output folder or a device is refused in one line."""

import json
import shutil
import time
from dataclasses import replace

import pytest
import torch
from refusing import refused
from tiny_training import CONFIG, clips, run

from hwm import runs
from hwm.config import RunConfig, to_toml
from hwm.doctor import machine
from hwm.training import device, loop, run_folder
from hwm.training.processes import ALONE
from hwm.work.progress import rate


def test_a_folder_that_cannot_hold_a_run(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused("cannot be used as an output folder", run, tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("trian = 3\n")
    refused(r"config.toml: unknown key 'trian'; did you mean 'train'", run, tmp_path / "run")
    run(tmp_path / "other", "train.steps=1")
    text = (tmp_path / "other" / "config.toml").read_text()
    (tmp_path / "other" / "config.toml").unlink()
    assert run(tmp_path / "other", "train.steps=1").step == 1  # its checkpoint knows it
    assert (tmp_path / "other" / "config.toml").read_text() == text


def test_a_device_that_is_not_there(tmp_path):
    refused(r"device tpu9 cannot be used .*take auto or cpu", run, tmp_path, "train.device=tpu9")


@pytest.mark.parametrize("back", [False, True])
def test_a_run_folder_that_is_pulled_away_ends_the_training(tmp_path, back):
    steps = []

    def batch(number):
        steps.append(number)
        if number == 6:
            shutil.rmtree(tmp_path / "run")
            if back:
                (tmp_path / "run").mkdir()
        return clips(number)

    refused(r"run: was removed or replaced while it was written into", run, tmp_path / "run", train_batch=batch)
    assert max(steps) <= 8 and (not back or list((tmp_path / "run").iterdir()) == [])


def test_a_clock_that_stands_still_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 5.0)
    assert run(tmp_path / "run", "train.steps=3").step == 3
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {line["clips_per_second"] for line in lines if "loss" in line} == {rate(4, 0.0)}
    assert machine.flop_rate(torch.device("cpu"), torch.float32) > 1e15


def test_a_deep_fall_of_the_pace_is_told_once(monkeypatch):
    monkeypatch.setattr(loop, "usable_cores", lambda: 2)
    monkeypatch.setattr(loop.os, "getloadavg", lambda: (8.1, 1, 1))
    monkeypatch.setattr(loop.torch, "get_num_threads", lambda: 2)
    fall = loop.Fall()
    assert [fall.deep(rate) for rate in (80, 85, 84, 3, 80, 3, 3, 3)] == [False] * 6 + [True, False]
    expected = "WARNING: 3 clips/s, at first 85; the load is 8.1 on 2 cores: end other programs, or stop this and go on with "
    assert fall.text(3.0) == expected + "--set train.threads=1"


def test_a_new_run_leaves_busy_cores_to_others_and_one_that_goes_on_keeps_its_threads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs.torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(runs, "usable_cores", lambda: 4)
    monkeypatch.setattr(runs, "idle_cores", lambda: 3)
    free = replace(CONFIG, train=replace(CONFIG.train, threads=0))
    chosen = runs._among_others(free, tmp_path)
    assert chosen.train.threads == 3 and capsys.readouterr().out == (
        "others keep 1 of 4 cores busy: this trains with 3 threads, and goes on so; --set train.threads=4 takes all\n"
    )
    (tmp_path / "config.toml").write_text(to_toml(chosen))
    monkeypatch.setattr(runs, "idle_cores", lambda: 1)
    assert runs._among_others(free, tmp_path) == chosen and runs._among_others(CONFIG, tmp_path) == CONFIG
    (tmp_path / "config.toml").unlink()
    monkeypatch.setattr(runs, "idle_cores", lambda: 4)
    assert runs._among_others(free, tmp_path) == free and not capsys.readouterr().out


def test_the_faster_precision_is_chosen_once_and_kept(tmp_path, monkeypatch):
    config = replace(RunConfig(), train=replace(RunConfig().train, precision="auto"))
    rates = {torch.float32: 1.0, torch.bfloat16: 1.4}
    monkeypatch.setattr(device, "flop_rate", lambda _, dtype: rates[dtype])

    def chosen(config=config):
        device.faster_precision.cache_clear()
        return run_folder.in_precision(config, tmp_path, processes=ALONE).train.precision

    assert chosen() == "float32"  # what is converted costs more than is won
    rates[torch.bfloat16] = 1.6
    assert chosen() == "bfloat16" and chosen(RunConfig()) == "float32"
    (tmp_path / "config.toml").write_text(to_toml(RunConfig()))
    assert chosen() == "float32"  # of the run that goes on
    device.faster_precision.cache_clear()
