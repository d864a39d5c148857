"""Published Wan models: an adapter with its base named, or a whole transformer that needs none."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from damage import reseal
from refusing import refused
from safetensors.torch import load_file

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from hwm.cli import main
from hwm.config import DataConfig, RunConfig, TrainConfig, to_toml
from hwm.model_config import WanConfig
from hwm.models.build import build_model
from hwm.models.wan.lora import FILE
from hwm.models.wan.text import write_text_embedding
from hwm.models.wan.transformer import StateConditionedWan
from hwm.publish.export import export
from hwm.runs import load_run
from hwm.training import checkpoint
from hwm.training.identity import record

SCRATCH = WanConfig(
    base="", channels=4, grid=(4, 4), num_layers=2, num_heads=2, head_width=16, mlp_width=32, time_width=32, text_width=8,
    text_rows=3, lora_rank=0, steps=2, state_changes=True, place_context=True, output="data"
)
PLAIN = replace(SCRATCH, place_context=False, output="velocity")


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
    model.set_latent_statistics(torch.randn(4), 1 + torch.rand(4))
    return model.eval(), config


def as_run(model, config, folder):
    """A run folder of it, as training leaves it."""
    config = replace(config, train=TrainConfig(steps=1))
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config))
    if config.model.text:
        shutil.copy(config.model.text, folder / "text.safetensors")
    state = {"step": 1, "validated": 0, "best_step": 0, "best": None, **record(config, {})}
    checkpoint.save(folder / "checkpoints", state, {"model": model.state_dict()}, keep=1)
    return folder


def publish(model, config, folder):
    return export(as_run(model, config, folder.parent / f"{folder.name}-run"), folder)[0]


def predicted(model):
    g = torch.Generator().manual_seed(0)
    context, states = torch.randn(2, 2, 4, 4, 4, generator=g), torch.randn(2, 77, 25, generator=g)
    return model.predict(context, states, generator=g).latents_BKTCHW


def test_what_is_read_back_predicts_the_same_and_only_an_adapter_needs_the_base(trained, tmp_path, place):
    model, config = trained
    folder = publish(model, config, tmp_path / "out")
    base = str(place / "base") if config.model.lora_rank else ""
    again = load_run(folder, base=base)
    assert torch.equal(predicted(model), predicted(again.model)) and again.step == 1
    assert str(place) not in "".join(path.read_text() for path in folder.glob("*.json"))
    if base:
        refused("adapts the pretrained model base, which lies elsewhere; give it with --base", load_run, folder)
    else:
        refused("it needs no base", load_run, folder, base=str(place / "base"))


@pytest.mark.parametrize("trained", ["adapter"], indirect=True)
def test_another_base_is_refused(trained, tmp_path, place):
    folder = publish(*trained, tmp_path / "out")
    other = StateConditionedWan.from_pretrained(place / "base" / "transformer")
    with torch.no_grad():
        other.blocks[0].attn1.to_q.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    refused("another base", load_run, folder, base=str(tmp_path / "other"))


@pytest.mark.parametrize("trained", ["adapter"], indirect=True)
def test_with_its_base_an_adapter_is_also_written_as_diffusers_reads_it(trained, tmp_path, place, capsys):
    model, config = trained
    run, out = as_run(model, config, tmp_path / "run"), tmp_path / "out"
    assert main(["export", str(run), str(out), "--base", config.model.base]) == 0
    assert str(out) in capsys.readouterr().out
    assert "adapter/pytorch_lora_weights.safetensors" in json.loads((out / "checksums.json").read_text())
    found, live = load_file(out / "adapter" / FILE), model.transformer.state_dict()
    assert len(found) == 2 * 20
    for key, value in found.items():
        assert torch.equal(value, live[key.removeprefix("transformer.").replace(".weight", ".default.weight")])


@pytest.mark.parametrize("trained", ["adapter"], indirect=True)
def test_the_text_of_a_published_folder_is_its_own(trained, tmp_path, place):
    folder = publish(*trained, tmp_path / "out")
    (folder / "text.safetensors").unlink()
    reseal(folder)
    refused("text.safetensors: no such file", load_run, folder, base=str(place / "base"))
