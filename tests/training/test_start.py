"""A run starts from trained weights, each of which finds its place or is named; a complete run takes more steps."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from refusing import refused
from test_identity import configured, robot
from tiny_line import raw_data, token_data
from tiny_training import CONFIG, checkpoint_bytes, run, stopping_at, trace

from hwm.cli import main
from hwm.config import RunConfig
from hwm.models.build import build_model
from hwm.publish.trained import fingerprint, open_trained
from hwm.runs import load_run, train
from hwm.tokenizers.open import load_tokenizer
from hwm.training import checkpoint
from hwm.training.optim import lr_at
from hwm.training.start import start_from

WORLDS = [name for name, config in FAMILIES.items() if config.role not in ("tokenizer", "reader")]


def built(name, seed, **changes):
    return build_model(RunConfig(seed=seed, model=replace(FAMILIES[name], **changes)))


def started(name, *, anew=(), **changes):
    """A model of seed 1 that starts from one of seed 0, that one's weights, its own before, and the report."""
    there, model = built(name, 0).state_dict(), built(name, 1, **changes)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    return model.state_dict(), there, before, start_from(model, there, where="w", anew=anew)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_of_every_family_is_taken_over(name):
    here, there, before, start = started(name)
    assert fingerprint(here) == fingerprint(there) != fingerprint(before)
    assert (start.loaded, start.anew, start.left) == (sorted(there), [], [])
    halves = {k: v.half() for k, v in there.items() if v.is_floating_point()}
    model = built(name, 1)
    start_from(model, there | halves, where="w")
    assert {t.dtype for t in model.state_dict().values()} == {t.dtype for t in there.values()}


@pytest.mark.parametrize("name", WORLDS)
def test_another_robots_states_start_anew_where_that_is_asked_alone(name):
    told = refused("of another shape: .*25.*the model has .*26", started, name, state_dim=26)
    words = re.search(r"--anew (.*)", told).group(1).split()
    assert words[0] == "states" and len(words) == 1
    here, there, before, start = started(name, state_dim=26, anew=words)
    assert any("shift_scale" in n for n in start.anew) and len(start.loaded) > len(start.anew) / 2
    for key, value in here.items():
        assert torch.equal(value, before[key] if key in start.anew else there[key]), key
    assert len(start.lines()) == 3 and all(key in start.lines()[1] for key in start.anew)


def test_what_does_not_fit_is_named_whole():
    model = built("st", 1)
    state = built("st", 0).state_dict()
    more = state | {"extra.bias": torch.zeros(3)}
    refused(r"w: does not fit the model; 1 unexpected: extra.bias; .*--anew extra$", start_from, model, more, where="w")
    assert start_from(model, more, where="w", anew=["extra"]).left == ["extra.bias"]
    name = next(iter(state))
    fewer = {k: v for k, v in state.items() if k != name}
    refused(rf"1 missing: {name}; .*--anew", start_from, model, fewer, where="w")
    refused("not finite", start_from, model, state | {name: state[name] * torch.nan}, where="w")
    refused("of another type", start_from, model, state | {name: state[name].double()}, where="w")
    refused("'blck' is no module.*there are states, ", start_from, model, state, where="w", anew=["blck"])
    modules = sorted({key.partition(".")[0] for key in state})
    refused("nothing of it would be loaded", start_from, model, state, where="w", anew=modules)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    token_data(Path("d"))
    train(configured("d", train__ema=0.9, train__steps=2), "r")
    return tmp_path


def test_a_run_starts_from_a_run_and_goes_on_without_it(place, capsys):
    still = {"train__lr": 1e-9, "seed": 1}
    assert train(configured("d", init="r", **still), "s").step == 1
    told = capsys.readouterr().out
    assert "starting from r (step 2 of custom, averaged weights):" in told and re.search(r"loaded +\d+  .*blocks", told)
    source, copy = open_trained("r").tensors(), open_trained("s").tensors()
    assert source.keys() == copy.keys()
    for key, value in source.items():
        torch.testing.assert_close(copy[key], value, rtol=0, atol=1e-7)
    kept = checkpoint.newest_state(Path("s/checkpoints"))["identity"]["init"]
    assert kept == {"name": "r", "weights": fingerprint(source), "recipe": "custom", "step": 2}
    Path("r").rename("moved")
    assert train(configured("d", train__steps=2, **still), "s").step == 2
    assert train(configured("d", init="moved", train__steps=3, **still), "s").step == 3
    assert load_run("s").config.init == "moved" and load_run("s").identity["init"]["weights"] == kept["weights"]
    train(configured("d"), "plain")
    refused("started from other weights.*leave --init away", train, configured("d", init="plain", train__steps=4, **still), "s")
    refused("plain: this run started from random weights, not from moved", train, configured("d", init="moved"), "plain")


def test_a_start_from_another_robot_or_family_or_from_nothing_is_refused(place, capsys):
    arm = robot(Path("arm"), ('"HIP_YAW"', '"J0"'))
    refused("learned the states of another robot.*--anew states", train, configured(arm, init="r"), "a")
    assert train(configured(arm, init="r", anew=["states"]), "a").step == 1
    assert re.search(r"anew +\d+  .*shift_scale", capsys.readouterr().out)
    assert train(configured(arm, train__steps=2), "a").step == 2 and load_run("a").config.anew == ("states",)
    refused("holds a model of the family 'fsq'.*the run trains 'st'", train, configured("d", init="fsq-8x8x8"), "b")
    refused("gone: no run folder", train, configured("d", init="gone"), "b")
    refused("anew says what of trained weights.*--init", configured, "d", anew=["states"])


def test_the_shipped_tokenizer_is_fine_tuned_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    raw_data(Path("raw"), frames=34)
    small = "train.steps=1 train.batch_size=1 train.lr=1e-9 train.validate_clips=1 train.sample_every=0".split()
    line = "train fsq-8x8x8 --init fsq-8x8x8 --data raw --val raw --out tuned --set".split()
    assert main([*line, *small]) == 0
    assert "starting from fsq-8x8x8 (step 4000 of fsq-8x8x8):" in capsys.readouterr().out
    shipped = load_tokenizer("fsq-8x8x8").state_dict()
    for key, value in load_run("tuned").model.state_dict().items():
        torch.testing.assert_close(value, shipped[key], rtol=0, atol=1e-6)


def test_a_complete_run_takes_more_steps_as_a_second_leg_that_resumes_bit_for_bit(place, capsys):
    values = {"schedule": "linear", "steps": 4, "warmup_steps": 1, "ema": 0.9, "checkpoint_every": 2}
    first = configured("d", **{f"train__{name}": value for name, value in values.items()})
    longer = replace(first, train=replace(first.train, steps=9))
    train(first, "whole")
    refused("only a complete run", train, longer, "whole")  # as of an experiment, whose runs are of one length
    assert train(longer, "whole", prolong=True).step == 9
    assert "prolonged: the run was complete at step 4; until step 9 its learning rate rises" in capsys.readouterr().out
    rates = [line["lr"] for line in trace(Path("whole")) if "lr" in line]
    leg = replace(longer.train, since=4)
    assert rates == [lr_at(n, first.train) for n in range(4)] + [lr_at(n, leg) for n in range(4, 9)]
    assert rates[4] == max(rates[4:]) == CONFIG.train.lr and rates[8] < rates[7] < rates[5]
    refused("train.steps = 9, not 4", train, first, "whole", prolong=True)
    assert train(longer, "whole", prolong=True).step == 9 and load_run("whole", which="last").step == 9


def test_a_second_leg_that_is_stopped_ends_where_an_undisturbed_one_ends(tmp_path):
    legs = ("train.steps=8", "train.since=4", "train.warmup_steps=1")
    for out in (tmp_path / "whole", tmp_path / "cut"):
        run(out, "train.steps=4", "train.warmup_steps=1")
    assert run(tmp_path / "cut", *legs, train_batch=stopping_at(11)).stopped
    for out in (tmp_path / "whole", tmp_path / "cut"):
        assert run(out, *legs).step == 8
    assert checkpoint_bytes(tmp_path / "cut") == checkpoint_bytes(tmp_path / "whole")
    refused("there is no run of so many steps to prolong", run, tmp_path / "new", *legs)
