"""Exported Wan models: whole, proven when read back, and complete."""

import json
import shutil
import tomllib
from dataclasses import replace

import pytest
import torch
from refusing import refused
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from hwm.cli import main
from hwm.config import DataConfig, RunConfig, TrainConfig, to_toml
from hwm.model_config import WanConfig
from hwm.models.build import build_model
from hwm.models.wan.export import load_world_model, save_world_model
from hwm.models.wan.text import write_text_embedding
from hwm.models.wan.transformer import StateConditionedWan
from hwm.training import checkpoint
from hwm.training.identity import record

SCRATCH = WanConfig(
    base="", channels=4, grid=(4, 4), num_layers=2, num_heads=2, head_width=16, mlp_width=32, time_width=32, text_width=8,
    text_rows=3, lora_rank=0, steps=2, state_changes=True, place_context=True, place_channels=3, target="change", output="data"
)
PLAIN = replace(SCRATCH, place_context=False, place_channels=0, target="latents", output="velocity")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pretrained transformer and a text embedding, as they lie on disk."""
    folder = tmp_path_factory.mktemp("pretrained")
    build_model(RunConfig(model=PLAIN)).transformer.save_pretrained(folder / "base" / "transformer")
    write_text_embedding(folder / "text.safetensors", torch.randn(8), source="a test")
    return folder


@pytest.fixture(params=["adapter", "whole", "scratch"])
def trained(request, place):
    """A model that has learnt something, and its run's configuration."""
    base, text = str(place / "base"), str(place / "text.safetensors")
    config = {
        "adapter": replace(PLAIN, base=base, text=text, lora_rank=2, dtype="bfloat16"),
        "whole": replace(PLAIN, base=base, text=text), "scratch": SCRATCH
    }[request.param]
    return learnt(RunConfig(recipe=f"test-{request.param}", seed=3, model=config, data=DataConfig(clip="sampling")))


def learnt(config):
    model = build_model(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.set_state_statistics(torch.stack([torch.randn(25), 1 + torch.rand(25)]))
    model.set_latent_statistics(torch.randn(4), 1 + torch.rand(4), 0.5 + torch.rand(4))
    return model.eval(), config


def predicted(model):
    g = torch.Generator().manual_seed(0)
    context, states = torch.randn(2, 2, 4, 4, 4, generator=g), torch.randn(2, 77, 25, generator=g)
    return model.predict(context, states, generator=g).latents_BKTCHW


def test_what_is_read_back_predicts_the_same(trained, tmp_path):
    model, config = trained
    folder = save_world_model(model, config, tmp_path / "out")
    again, read = load_world_model(folder)
    assert torch.equal(predicted(model), predicted(again))
    found, wanted = again.state_dict(), model.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], value) for name, value in wanted.items())
    same = {"base": config.model.base, "text": config.model.text}
    assert replace(read, model=replace(read.model, **same)) == config
    assert (folder / "config.toml").read_text() == to_toml(config)
    assert (folder / "adapter").is_dir() == bool(config.model.lora_rank) != (folder / "transformer").is_dir()
    assert config.recipe in (folder / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_does_not_need_the_files_it_was_trained_from(trained, tmp_path, place):
    model, config = trained
    folder = save_world_model(model, config, tmp_path / "out")
    text = folder / "config.toml"
    text.write_text(text.read_text().replace(str(place), "/elsewhere"))
    reseal(folder, "config.toml")
    if config.model.lora_rank:
        refused("/elsewhere", load_world_model, folder)
        again, _ = load_world_model(folder, base=str(place / "base"))
    else:
        again, _ = load_world_model(folder)
        refused("needs no base", load_world_model, folder, base=str(place / "base"))
    assert torch.equal(predicted(model), predicted(again))


def reseal(folder, name):
    """Make the manifest agree with a changed file, as someone who tampers would."""
    from hwm.models.wan.export import _seal

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = _seal(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_every_file_is_guarded(trained, tmp_path):
    folder = save_world_model(*trained, tmp_path / "out")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *files, "manifest.json", "README.md"
    }
    for name in files:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused(name.split("/")[-1], load_world_model, folder)
        (folder / name).write_bytes(whole)
    (folder / "README.md").write_text("edited")
    (folder / "state_encoder" / "other.safetensors").write_bytes(b"")
    refused("not in the manifest", load_world_model, folder)


def test_weights_of_other_names_or_shapes_are_refused(trained, tmp_path):
    folder = save_world_model(*trained, tmp_path / "out")
    for name in ("state_encoder/model.safetensors", "world_model.safetensors"):
        state = load_file(folder / name)
        first = next(iter(state))
        for changed in (
            {k: v for k, v in state.items() if k != first}, {**state, first: state[first].half()},
            {**state, "extra": torch.zeros(1)}
        ):
            save_file(changed, folder / name)
            reseal(folder, name)
            refused(r"do not fit config\.toml", load_world_model, folder)
        save_file(state, folder / name)
        reseal(folder, name)
    load_world_model(folder)


@pytest.mark.parametrize("trained", ["adapter"], indirect=True)
def test_another_base_is_refused(trained, tmp_path, place):
    folder = save_world_model(*trained, tmp_path / "out")
    other = StateConditionedWan.from_pretrained(place / "base" / "transformer")
    with torch.no_grad():
        other.blocks[0].attn1.to_q.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    refused("another base", load_world_model, folder, base=str(tmp_path / "other"))


def test_all_or_nothing(trained, tmp_path, monkeypatch):
    model, config = trained
    with pytest.raises(ValueError, match="another configuration"):
        save_world_model(model, replace(config, model=replace(config.model, steps=9)), tmp_path / "out")
    monkeypatch.setattr("hwm.models.wan.export.to_toml", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_world_model(model, config, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    refused("already exists", save_world_model, model, config, tmp_path / "out")


def test_the_verb_exports_a_run(trained, tmp_path, capsys):
    model, config = trained
    config = replace(config, train=TrainConfig(steps=1))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(to_toml(config))
    state = {"step": 1, "validated": 0, "best_step": 0, "best": None, **record(config, {})}
    checkpoint.save(tmp_path / "run" / "checkpoints", state, {"model": model.state_dict()}, keep=1)
    base = ["--base", config.model.base] if config.model.base else []  # lies outside of the run
    if base:
        shutil.copy(config.model.text, tmp_path / "run" / "text.safetensors")  # as training does
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), *base]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert torch.equal(predicted(load_world_model(tmp_path / "out")[0]), predicted(model))
    with (tmp_path / "out" / "config.toml").open("rb") as file:
        assert tomllib.load(file)["recipe"] == config.recipe


def test_what_is_no_export_is_refused(tmp_path):
    refused("hwm export", load_world_model, tmp_path)
