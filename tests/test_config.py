"""Configurations: round trip through TOML, overrides, errors that help."""

import dataclasses

import pytest
from refusing import refused

from hwm.config import DataConfig, RunConfig, TrainConfig, changed, from_dict, from_toml, override, to_dict, to_toml
from hwm.model_config import FlowConfig, FSQConfig, MaskedConfig, STConfig, WanConfig


def test_unions_are_told_apart_by_family():
    config = from_dict(RunConfig, {"model": {"family": "fsq", "channels": 8}})
    assert config.model == FSQConfig(channels=8)
    refused(r"^model\.family must be one of 'st'", from_dict, RunConfig, {"model": {"family": "gan"}})


@pytest.mark.parametrize("assignment, message", [
    ("train.stps=5", "did you mean 'steps'"), ("trian.steps=5", "did you mean 'train'"), ("train.steps=many", "expected int"),
    ("train.steps=1.5", "expected int"), ("train.schedule=linaer", "did you mean 'linear'"),
    ("train.betas=[0.9]", "expected 2 values"), ("model.width=100", "not divisible"), ("model.factors=[3, 5]", "multiply to 15"),
    ("train.steps", "key=value"), ("train.batch_size=0", "1 or more")
])
def test_bad_overrides_name_the_remedy(assignment, message):
    refused(message, override, RunConfig(), [assignment])


def test_overrides_apply_in_order_and_convert():
    config = override(RunConfig(), ["train.lr=1", "train.steps=3", "train.steps=4", "recipe = mine", "train.device=cpu"])
    assert (config.train.lr, config.train.steps, config.recipe) == (1.0, 4, "mine")
    assert isinstance(config.train.lr, float)
    assert override(RunConfig(), []) == RunConfig()


@pytest.mark.parametrize("text", ["steps = [", "a = " + "[" * 5000, "\x00"])
def test_broken_files_are_named(tmp_path, text):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    refused(r"broken\.toml", from_toml, TrainConfig, path)
    refused("no such config", from_toml, TrainConfig, tmp_path / "absent.toml")


@pytest.mark.parametrize("path", [
    "𠮷野/😀", "a\"b\\c'd", "tab\t line\n feed\f bell\a nul\0 del\x7f \x85\u2028", "7", "true", " x ", "1\nb = 2", "",
])
def test_any_text_is_read_as_it_was_written(tmp_path, path):
    config = override(RunConfig(), [f"data.train={path}", "train.weight_decay=0.1"])
    assert config.data.train == ((path,) if path else ())
    assert config == changed(RunConfig(), {"data.train": path, "train.weight_decay": 0.1})
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8", newline="")
    assert from_toml(RunConfig, tmp_path / "config.toml") == config


def test_a_path_that_is_no_text_is_refused_by_its_name():
    told = refused(r"data.val: the path .*/dat\\udce4 has bytes", to_toml, changed(RunConfig(), {"data.val": "/x/dat\udce4"}))
    assert "rename that folder" in told


def test_configs_are_frozen_and_plain():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STConfig().width = 3
    assert to_dict(STConfig())["grid"] == [32, 32]


def test_a_setting_that_was_taken_away_is_forgotten_where_it_did_nothing_and_else_named(tmp_path):
    stored = to_toml(RunConfig(model=FlowConfig(), data=DataConfig(clip="blocks")))
    path = tmp_path / "config.toml"
    path.write_text(stored.replace("[model]\n", "[model]\nlearned_positions = false\n"))
    assert from_toml(RunConfig, path).model == FlowConfig()
    for found, told in (("true", "True"), ("1979-05-27", "datetime.date"), ('"no"', "'no'")):
        path.write_text(stored.replace("[model]\n", f"[model]\nlearned_positions = {found}\n"))
        words = rf"config\.toml: model\.learned_positions = {told}.*: taken away, .*train the model anew"
        refused(words, from_toml, RunConfig, path)
    for model, clip, gone in ((WanConfig(), "sampling", 'target = "change"'), (WanConfig(), "sampling", "place_channels = 16"),
                              (MaskedConfig(), "blocks", "place_context = true")):  # fmt: skip
        stored = to_toml(RunConfig(model=model, data=DataConfig(clip=clip)))
        path.write_text(stored.replace("[model]\n", f"[model]\n{gone}\n"))
        refused(rf"model\.{gone.split()[0]} = .*: taken away", from_toml, RunConfig, path)
