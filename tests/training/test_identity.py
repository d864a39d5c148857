"""A run goes on with the data that it learned from, wherever they lie, and is used on data of its robot alone."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from refusing import refused
from tiny_line import token_data
from tiny_training import CONFIG, run

from hwm.cli import main
from hwm.config import DataConfig, changed, from_toml, to_toml
from hwm.config import RunConfig as Config
from hwm.model_config import FlowConfig
from hwm.robot import ROBOTS
from hwm.runs import clips_for, load_run, open_clips, train
from hwm.training import checkpoint
from hwm.training.identity import FREE, decisive, expect_config

STEPS = {"train.steps": 1, "train.validate_every": 0, "train.schedule": "constant", "train.accumulate": 1}


def configured(data, **values):
    return changed(CONFIG, STEPS | {"data.train": str(data)} | {k.replace("__", "."): v for k, v in values.items()})


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    token_data(Path("d"))
    train(configured("d"), "r")
    return tmp_path


def other_data(root, seed=7):
    """The same shapes, other numbers."""
    token_data(root)
    states = root / "robot_states" / "states_0.bin"
    states.write_bytes(bytes(len(states.read_bytes())))
    for sidecar in (*root.glob("checksums/*"), root / "checksums.json"):
        sidecar.unlink()
    return root


def test_a_path_is_only_a_hint(place):
    for steps, path in enumerate(("d/", "./d", place / "d"), 2):
        assert train(configured(path, train__steps=steps), "r").step == steps
    Path("d").rename("moved")
    assert train(configured("moved", train__steps=5), "r").step == 5
    assert from_toml(Config, Path("r/config.toml")).data.train == ("moved",)
    other_data(Path("d"))
    for steps in (5, 6):  # complete, and to be continued
        told = refused("other training data than lie in d now", train, configured("d", train__steps=steps), "r")
        assert "--data" in told
    assert train(configured("moved", train__steps=6), "r").step == 6


def test_held_out_data_are_compared_too(place):
    shutil.copytree("d", "v")
    settings = {"train__validate_every": 1, "data__val": "v"}
    train(configured("d", **settings), "s")
    Path("v").rename("w")
    assert train(configured("d", **settings | {"data__val": "w", "train__steps": 2}), "s").step == 2
    other_data(Path("v"))
    refused("other held-out data than lie in v now.*--val", train, configured("d", **settings, train__steps=3), "s")


def test_several_folders_are_learned_from_together(place, capsys):
    """Clips one after the other, known by what all of them hold in their order, wherever they lie."""
    token_data(Path("e"), shards=1, segments=(60,))
    both = {"data__train": ["d", "e"]}
    alone = [open_clips(configured(name), name, training=True) for name in "de"]
    joined = open_clips(configured("d"), ["d", "e"], training=True)
    assert len(joined) == sum(map(len, alone)) and len(set(joined.segments())) == sum(len(set(c.segments())) for c in alone)
    for clips, first in zip(alone, (0, len(alone[0]))):
        expected, found = clips.batch(np.arange(len(clips))), joined.batch(first + np.arange(len(clips)))
        assert torch.equal(expected.tokens_BTHW, found.tokens_BTHW) and torch.equal(expected.states_BFA, found.states_BFA)
    train(configured("d", **both), "s")
    assert from_toml(Config, Path("s/config.toml")).data.train == ("d", "e")
    assert len(json.loads(Path("s/unigram.json").read_text())["counts"]) == 32
    Path("e").rename("f")
    assert train(configured("d", data__train=["d", "f"], train__steps=2), "s").step == 2
    for other in (["f", "d"], ["d"]):
        refused("other training data than lie in", train, configured("d", data__train=other, train__steps=3), "s")
    refused("d and d: one of them is given twice", train, configured("d", data__train=["d", "d"]), "t")
    assert main(["evaluate", "s", "--data", "d", "--training", "d", "f", "--clips", "2", "--out", "scores"]) == 0
    assert main(["evaluate", "s", "--data", "d", "--training", "f", "d", "--clips", "2"]) == 2
    assert "f and d: is not what the run learned from" in capsys.readouterr().err


@pytest.mark.parametrize("what, change", [
    ("tokenizers", ("tokenizer.json", '"fingerprint": "tiny"', '"fingerprint": "else"')),
    ("robots' states", ("robot.toml", '"HIP_YAW"', '"J0"')), ("rates", ("metadata.json", '"hz": 30', '"hz": 10')),
    ("sizes", ("tokenizer.json", '"vocab_size": 32', '"vocab_size": 64')),
])
def test_folders_that_do_not_belong_together_are_named(place, what, change):
    name, old, new = change
    robot(Path("e"))
    text = Path("e", name).read_text()
    assert old in text
    Path("e", name).write_text(text.replace(old, new, 1))
    for given in (["d", "e"], ["e", "d"]):
        told = refused(rf"{' and '.join(given)}: .*for their {what} differ", train, configured("d", data__train=given), "s")
        assert "\n" not in told and not Path("s").exists()


def test_a_start_that_failed_settles_nothing(place):
    def damaged(index):
        raise ValueError("video_0.bin: block 3 is damaged")

    refused("block 3 is damaged", run, Path("new"), "seed=3", "train.batch_size=1", train_batch=damaged)
    assert run(Path("new"), "train.steps=1").step == 1
    assert from_toml(Config, Path("new/config.toml")).seed == 0
    Path("mine").mkdir()
    Path("mine/config.toml").write_text("[tool]\nname = 3\n")
    refused("unknown key 'tool'", train, configured("d"), "mine")
    assert Path("mine/config.toml").read_text() == "[tool]\nname = 3\n"


def robot(root, *changes):
    """A copy of the data of another robot."""
    shutil.copytree("d", root)
    text = (ROBOTS / "eve.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (root / "robot.toml").write_text(text)
    for sidecar in (*root.glob("checksums/*"), root / "checksums.json"):
        sidecar.unlink()
    return root


@pytest.mark.parametrize("change, told", [
    (('"HIP_YAW"', '"J0"'), "has as state 0 J0 in rad, not HIP_YAW in rad"),
    (('"rad"', '"deg"'), "has as state 0 HIP_YAW in deg, not HIP_YAW in rad"),
])
def test_data_of_another_robot_are_refused(place, change, told):
    other = robot(Path("arm"), change)
    assert "robot.toml" in refused(told, clips_for, load_run("r"), other)
    settings = {"train__validate_every": 1, "data__val": str(other)}
    refused(told, train, configured("d", **settings), "s")
    assert not Path("s").exists()
    renamed = robot(Path("eve"), ('"1x-eve"', '"my eve"'))
    assert len(clips_for(load_run("r"), renamed)) == len(clips_for(load_run("r"), Path("d")))


def test_data_of_another_tokenizer_are_refused(place):
    shutil.copytree("d", "other")
    for sidecar in (*Path("other").glob("checksums/*"), Path("other/checksums.json")):
        sidecar.unlink()
    about = Path("other/tokenizer.json")
    about.write_text(about.read_text().replace('"fingerprint": "tiny"', '"fingerprint": "else"'))
    refused("other: was encoded by another tokenizer", clips_for, load_run("r"), Path("other"))


def test_the_configuration_is_that_of_the_checkpoint(place):
    """Every setting that is not only of the machine, changed in config.toml, is noticed before use."""
    config, path = from_toml(Config, Path("r/config.toml")), Path("r/config.toml")
    state = checkpoint.newest_state(Path("r/checkpoints"))
    assert {k.split(".")[0] for k in decisive(config)} >= {"model", "data", "train", "seed", "recipe"}
    for values in ({"seed": 1}, {"model.state_hidden": 8}, {"train.lr": 0.5}, {"data.overlap": False}, {"recipe": "x"}):
        key, value = next(iter(values.items()))
        path.write_text(to_toml(changed(config, values)))
        refused(rf"r/config.toml: says {key} = {value!r}.*put the file back", load_run, "r")
    for key in FREE & {"train.log_every", "train.threads"}:
        expect_config(state, changed(config, {key: 3}), run=Path("r"))
    path.write_text(to_toml(config))
    assert load_run("r").step == 1


def test_a_setting_that_an_older_version_did_not_have_is_as_usual(place):
    state = checkpoint.newest_state(Path("r/checkpoints"))
    config = from_toml(Config, Path("r/config.toml"))
    del state["settings"]["train.weight_decay"]
    expect_config(state, config, run=Path("r"))
    flow = Config(model=FlowConfig(), data=DataConfig(clip="blocks"))
    before = {"settings": decisive(flow) | {f"model.{name}": nothing for name, nothing in FlowConfig.gone.items()}}
    expect_config(before, flow, run=Path("r"))  # what was taken away since, where it did nothing
    refused("train.weight_decay", expect_config, state, changed(config, {"train.weight_decay": 0.5}), run=Path("r"))


def test_a_run_of_a_version_that_kept_no_settings_is_refused(place):
    (folder,) = Path("r/checkpoints").glob("step-*")
    state = {key: value for key, value in checkpoint.load_state(folder).items() if key not in ("settings", "identity")}
    weights = checkpoint.stored(folder).read("model")
    checkpoint.save(Path("r/checkpoints"), state | {"config": "0" * 64}, {"model": weights}, keep=1)
    before = Path("r/config.toml").read_bytes()
    for call in (partial(load_run, "r"), partial(train, configured("d", train__steps=2), "r")):
        refused("state.json: expected dict under 'settings', found nothing; .*train anew", call)
    assert Path("r/config.toml").read_bytes() == before
