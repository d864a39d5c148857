"""Wan's transformer with a modulation a frame, on tiny random weights of the real classes."""

import inspect

import pytest
import torch
from refusing import refused

pytest.importorskip("diffusers")

from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding

from hwm.models.wan.lora import add_lora
from hwm.models.wan.transformer import StateConditionedWan, cast_as_loaded, expect_loaded, load_transformer

SIZES = dict(  # noqa: C408
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=8,
    freq_dim=16,
    ffn_dim=32,
    num_layers=2,
)
FRAMES, WIDTH, TOKENS = 3, 32, 4


@pytest.fixture(scope="module")
def pair():
    """The base model and ours with the same weights."""
    torch.manual_seed(0)
    base = WanTransformer3DModel(**SIZES).eval()
    ours = StateConditionedWan(**SIZES).eval()
    ours.load_state_dict(base.state_dict())
    return base, ours


def inputs(dtype=torch.float32):
    torch.manual_seed(1)
    x = torch.randn(2, 4, FRAMES, 4, 4, dtype=dtype)
    timestep = torch.tensor([[0.0, 311.0, 989.58], [0.0, 7.0, 500.0]]).repeat_interleave(TOKENS, 1)
    return x, timestep, torch.randn(2, 5, 8, dtype=dtype)


@torch.no_grad()
def run(model, modulation=None, dtype=torch.float32, timestep=None):
    x, per_token, text = inputs(dtype)
    extra = {} if modulation is None else {"frame_modulation": modulation}
    return model(x, per_token if timestep is None else timestep, text, return_dict=False, **extra)[0]


def test_without_modulation_it_is_its_base(pair):
    base, ours = pair
    assert torch.equal(run(base), run(ours))
    once = torch.tensor([5.0, 700.0])
    assert torch.equal(run(base, timestep=once), run(ours, timestep=once))


@pytest.mark.parametrize("width", [WIDTH, 6 * WIDTH])
def test_zero_modulation_is_its_base_to_the_bit(pair, width):
    base, ours = pair
    assert torch.equal(run(base), run(ours, torch.zeros(2, FRAMES, width)))


def test_zero_modulation_is_its_base_in_bfloat16_with_float32_islands(tmp_path):
    torch.manual_seed(0)
    WanTransformer3DModel(**SIZES).save_pretrained(tmp_path)
    base = WanTransformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ours = load_transformer(str(tmp_path), dtype=torch.bfloat16).eval()
    assert ours.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert ours.blocks[0].scale_shift_table.dtype == torch.float32
    assert ours.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    zero = torch.zeros(2, FRAMES, 6 * WIDTH)
    assert torch.equal(run(base, dtype=torch.bfloat16), run(ours, zero, dtype=torch.bfloat16))


def test_modulation_acts_first_of_all_on_its_own_frame(pair):
    modulation = torch.zeros(2, FRAMES, 6 * WIDTH)
    modulation[:, 1] = 1.0
    change = (run(pair[1], modulation) - run(pair[1])).abs().mean((0, 1, 3, 4))
    assert change[1] > 3 * max(change[0], change[2]) > 0


def test_checkpointing_changes_no_gradient(pair):
    ours = pair[1].train()
    x, timestep, text = inputs()
    gradients = []
    for switch in (ours.disable_gradient_checkpointing, ours.enable_gradient_checkpointing):
        switch()
        modulation = torch.full((2, FRAMES, 6 * WIDTH), 0.1, requires_grad=True)
        ours(x, timestep, text, frame_modulation=modulation, return_dict=False)[0].square().mean().backward()
        gradients.append(modulation.grad)
    ours.disable_gradient_checkpointing()
    ours.zero_grad()
    ours.eval()
    assert torch.allclose(*gradients, atol=1e-7)


def test_one_timestep_a_clip_cannot_be_modulated_by_frames(pair):
    refused("one timestep a token", run, pair[1], torch.zeros(2, FRAMES, 6 * WIDTH), timestep=torch.tensor([5.0, 7.0]))


def test_image_tokens_are_refused(pair):
    x, timestep, text = inputs()
    refused("image tokens", pair[1], x, timestep, text, encoder_hidden_states_image=torch.zeros(2, 3, 8))
    refused("image_dim", StateConditionedWan, **SIZES, image_dim=16)


def test_config_and_folders_go_both_ways(pair, tmp_path):
    ours = pair[1]
    ours.save_pretrained(tmp_path / "transformer")
    assert torch.equal(run(ours), run(load_transformer(str(tmp_path), dtype=torch.float32).eval()))
    assert torch.equal(run(ours), run(WanTransformer3DModel.from_pretrained(tmp_path / "transformer").eval()))


def test_a_weight_that_was_not_loaded_is_found(tmp_path, pair):
    with torch.device("meta"):
        empty = StateConditionedWan(**SIZES)
    refused("were not loaded", expect_loaded, empty, "model")
    refused("nowhere", load_transformer, str(tmp_path / "nowhere"), dtype=torch.float32)


def test_upstream_signatures_are_those_we_rely_on():
    """An upgrade of diffusers that changes these must fail here, not give wrong predictions."""
    embedding = list(inspect.signature(WanTimeTextImageEmbedding.forward).parameters)
    assert embedding == ["self", "timestep", "encoder_hidden_states", "encoder_hidden_states_image", "timestep_seq_len"]
    model = list(inspect.signature(WanTransformer3DModel.forward).parameters)
    assert model[:5] == ["self", "hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"]
    assert model[5:] == ["return_dict", "attention_kwargs"]


def test_regional_compilation_names_our_blocks(pair):
    """diffusers compiles the classes that a model lists; it must list ours, not the base's."""
    assert {type(block).__name__ for block in pair[1].blocks} == set(pair[1]._repeated_blocks)


def test_on_the_meta_device_weights_have_the_types_they_are_loaded_with(pair, tmp_path):
    pair[0].save_pretrained(tmp_path)
    loaded = load_transformer(str(tmp_path), dtype=torch.bfloat16)
    with torch.device("meta"):
        shapes = StateConditionedWan(**SIZES)
    cast_as_loaded(shapes, torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert types == {name: parameter.dtype for name, parameter in shapes.named_parameters()}
    assert set(types.values()) == {torch.bfloat16, torch.float32}


def test_a_transformer_with_a_live_adapter_is_not_saved_whole(pair, tmp_path):
    pytest.importorskip("peft")
    ours = StateConditionedWan(**SIZES)
    add_lora(ours, rank=2)
    refused("save_adapter", ours.save_pretrained, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    ours.fuse_lora()
    ours.unload_lora()
    ours.save_pretrained(tmp_path / "whole")
    again = load_transformer(str(tmp_path / "whole"), dtype=torch.float32)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in again.state_dict().items())
