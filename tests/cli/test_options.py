"""Every number and device of a command line and of a configuration: its range, refused in its own name before any work."""

import dataclasses
import math
import typing
from inspect import signature

import pytest
import torch
from refusing import refused

from hwm.cli import VERBS, function_of, main
from hwm.config import DataConfig, RunConfig, TrainConfig, override
from hwm.evaluate.protocols import Scoring
from hwm.experiments.carry_out import declarations
from hwm.model_config import ModelConfig
from hwm.training.device import choose_device
from hwm.work.ranges import Range, ranges_of

FUNCTIONS = [function_of(verb) for verb in VERBS if verb != "experiment"]
CONFIGS = [RunConfig, DataConfig, TrainConfig, Scoring, *typing.get_args(ModelConfig)]
PLANS = [options for *_, options in declarations().values()]
ELSEWHERE = {
    "simulate": {"minutes", "size", "seed", "difficulty", "val_minutes", "rooms", "segment_seconds", "test_clips", "light",
                 "friction", "camera_shift", "starts", "branches"},
    "demo": {"seed"}, "train": {"seed"},
}  # fmt: skip
"""Parameters of a verb that become fields of sim.plan.Settings or RunConfig, whose ranges hold."""


@pytest.mark.parametrize("owner", [*FUNCTIONS, *CONFIGS, *PLANS], ids=lambda owner: owner.__name__)
def test_every_number_has_a_range(owner):
    for name, hint in typing.get_type_hints(owner).items():
        parts = typing.get_args(hint)
        if name in signature(owner).parameters and {hint, *parts, *(a for h in parts for a in typing.get_args(h))} & {int, float}:
            assert name in ranges_of(owner) or name in ELSEWHERE.get(owner.__name__, ()), f"{owner.__module__}: {name}"


@pytest.fixture
def told(capsys, tmp_path, monkeypatch):
    """Calls a command line that is refused in one line, writing nothing; the line."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        assert main(list(arguments)) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"hwm {arguments[0]}: error: ") and line.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
        return line

    return call


TRAIN = "train st-tiny --out o --data x"


@pytest.mark.parametrize("line", [
    "evaluate r --data x --clips -1: --clips must be 0 or more, got -1",
    "evaluate r --data x --batch-size 0: --batch-size must be 1 or more, got 0",
    "evaluate r --data x --temperature nan: --temperature must be a finite number, got nan",
    "evaluate r --data x --members: --members must hold at least one number, got none",
    "evaluate r --data x --members 4 0: --members must be 1 or more, got 0",
    "evaluate r --data x --part 3 2: --part is k of n with 0 <= k < n, got 3 2",
    "predict r --data x --frames 0: --frames must be 1 or more, got 0",
    "predict r --data x --clip -3: --clip must be 0 or more, got -3",
    "predict r --data x --temperature inf: --temperature must be a finite number, got inf",
    f"predict r --data x --seed {10**30}: --seed must be 9223372036854775807 or less, got a number of more than 20 digits",
    "submit r --data x --track sampling --samples 0: --samples must be 1 or more, got 0",
    "submit r --data x --track sampling --tolerance -1: --tolerance must be 0 or more, got -1.0",
    "tokenize a b --phases 0: --phases must be 1 or more, got 0",
    "tokenize a b --workers -2: --workers must be 0 or more, got -2",
    "tokenize a b --size 99999: --size must be 4096 or less, got 99999",
    "simulate o --minutes nan: --minutes must be a finite number, got nan",
    "simulate o --minutes 0: --minutes must be 0.025 or more, got 0.0",
    "simulate o --difficulty 1.5: --difficulty must be 1 or less, got 1.5",
    "simulate o --size 65: --size must be an even number of pixels, got 65",
    "simulate o --test-clips -1: --test-clips must be 0 or more, got -1",
    "simulate o --light -1: --light must be 0 or more, got -1.0",
    "simulate o --friction 0: --friction must be more than 0, got 0.0",
    "simulate o --camera-shift 1: --camera-shift must be 0.3 or less, got 1.0",
    "demo o --minutes -1: --minutes must be 0 or more, got -1.0", "demo o --steps -1: --steps must be 0 or more, got -1",
    f"{TRAIN} --seed -1: --seed must be 0 or more, got -1", f"{TRAIN} --nproc -1: --nproc must be 0 or more, got -1",
    f"{TRAIN} --set train.steps=0: train.steps must be 1 or more, got 0",
    f"{TRAIN} --set train.lr=nan: train.lr must be a finite number, got nan",
    f"{TRAIN} --set model.num_layers=1000000: model.num_layers must be 1024 or less, got 1000000",
    f"{TRAIN} --set train.device=gpu: train.device gpu cannot be used (", "doctor --nproc 0: --nproc must be 1 or more, got 0",
    "experiment steps --out o --clips -1: --clips must be 0 or more, got -1",
    "experiment sampling-table --out o --samples 3: --samples must be 4 or more, got 3",
    "predict r --data x --clip two: Error parsing --clip: Could not find valid parse for arguments: ['two']",
    "predict r --data x --clipp 2: did you mean --clip?",
    "predict r: Missing from hwm predict: --data PATH",
])
def test_a_number_is_refused_in_its_own_name(line, told):
    arguments, message = line.split(": ", 1)
    assert message in told(*arguments.split())


def test_an_empty_word_is_refused(told):
    assert "--data is empty" in told("predict", "r", "--data", "") and "an argument is empty" in told("export", "", "x")


@pytest.mark.parametrize("line", [
    TRAIN, "evaluate r --data x", "predict r --data x", "tokenize a b", "demo o", "experiment steps --out o",
    "submit r --data x --track sampling --no-readme",
])
@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused_first(line, device, told):
    found = told(*line.split(), "--device", device)
    assert f"--device {device} cannot be used (" in found and found.endswith("; take auto or cpu\n")


def test_every_verb_that_computes_takes_a_device_and_auto_is_its_default():
    verbs = [function_of(verb) for verb in ("train", "doctor", "tokenize", "predict", "submit", "demo")]
    assert {signature(verb).parameters["device"].default for verb in verbs} == {"auto"}
    assert {f.default for owner in (Scoring, *PLANS) for f in dataclasses.fields(owner) if f.name == "device"} == {"auto"}


def test_processes_of_one_machine_share_its_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def chosen(device, **environment):
        return str(choose_device(device, environment=environment))

    assert chosen("auto") == chosen("cuda") == "cuda" and chosen("auto", LOCAL_RANK="3") == "cuda:3"
    assert chosen("cuda", LOCAL_RANK="3") == "cuda:3" and chosen("cuda", SLURM_LOCALID="5") == "cuda:1"
    assert chosen("cuda:0", LOCAL_RANK="3") == "cuda:0" and chosen("cpu", LOCAL_RANK="3") == "cpu"
    refused("device cuda:4 cannot be used .there are 4 here, counted from 0.", choose_device, "cuda:4")


@pytest.mark.parametrize("found, number, fault", [
    (Range(1, 10), 1, ""), (Range(1, 10), 10, ""), (Range(1, 10), None, ""), (Range(1, 10), 0, "must be 1 or more, got 0"),
    (Range(1, 10), 11, "must be 10 or less, got 11"), (Range(0, 1, below=True), 1.0, "must be less than 1, got 1.0"),
    (Range(0, 1, above=True), 0.0, "must be more than 0, got 0.0"), (Range(0, 9), (1, 20), "must be 9 or less, got 20"),
    (Range(0, 1), math.nan, "must be a finite number, got nan"), (Range(0, 1), -math.inf, "must be a finite number, got -inf"),
    (Range(0, 9), (), ""), (Range(0, 9, some=True), (), "must hold at least one number, got none"),
])
def test_a_range(found, number, fault):
    if fault:
        refused(f"^x {fault}$", found.check, "x", number)
    else:
        found.check("x", number)


@pytest.mark.parametrize("change, message", [
    (f"train.lr=1{'0' * 400}", "^train.lr must be 1000 or less"), ("train.steps=", "^train.steps: expected int, got ''"),
    (f"train.steps={'9' * 5000}", "^train.steps: expected int, got '99"), ("model.levels=[]", "^unknown key 'model.levels'"),
    ("model.grid=[0, 4]", "^model.grid must be 1 or more, got 0"), ("model.width=8388608", "^model.width must be 65536 or less"),
    ("train.betas=[0.9, 1]", "^train.betas must be less than 1"), ("seed=-1", "^seed must be 0 or more, got -1"),
    ("data.image_size=5000", "^data.image_size must be 4096 or less"),
])  # fmt: skip
def test_a_number_of_a_configuration_is_refused_in_its_own_name(change, message):
    refused(message, override, RunConfig(), [change])
