"""The adapter on tiny random transformers of diffusers' own class: what it touches, its file, merging, the base's print."""

import pytest
import torch
from refusing import refused
from safetensors.torch import load_file

from hwm.models.wan.lora import FILE, add_lora, check_no_adapter, fingerprint_of, save_adapter

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")

LAYERS = 2
SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 16,
    "ffn_dim": 32, "num_layers": LAYERS
}


def transformer(seed=0, **changes):
    torch.manual_seed(seed)
    return diffusers.WanTransformer3DModel(**{**SIZES, **changes}).eval()


def adapted(seed=0, *, rank=3, alpha=6.0):
    """A base with an adapter that does something."""
    model = transformer(seed)
    add_lora(model, rank=rank, alpha=alpha)
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def weights_of(model):
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


@torch.no_grad()
def output(model):
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 2, 4, 4, generator=g), torch.randn(1, 3, 8, generator=g)
    return model(x.to(model.dtype), torch.full((1, 8), 300.0), text.to(model.dtype), return_dict=False)[0]


def test_ten_layers_a_block_and_nothing_else():
    model = transformer()
    base = {name: parameter.clone() for name, parameter in model.named_parameters()}
    before = output(model)
    assert add_lora(model, rank=3) == 10 * LAYERS
    assert torch.equal(output(model), before), "B is zero"
    names = {name.rpartition(".lora_")[0] for name in weights_of(model)}
    attention = [f"attn{n}.{layer}" for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")]
    layers = [*attention, "ffn.net.0.proj", "ffn.net.2"]
    assert names == {f"blocks.{b}.{layer}" for b in range(LAYERS) for layer in layers}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(weights_of(model))
    width, hidden, rank = 24, 32, 3
    assert sum(p.numel() for p in weights_of(model).values()) == LAYERS * rank * (8 * 2 * width + 2 * (width + hidden))
    frozen = {n.replace(".base_layer.", "."): p for n, p in model.named_parameters() if ".lora_" not in n}
    assert frozen.keys() == base.keys() and all(torch.equal(frozen[name], base[name]) for name in base)


def test_a_comes_from_the_default_generator():
    drawn = []
    for seed in (3, 3, 4):
        model = transformer()
        torch.manual_seed(seed)
        add_lora(model, rank=2)
        drawn.append(weights_of(model))
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert all(torch.equal(drawn[0][name], drawn[2][name]) == (".lora_B" in name) for name in drawn[0])


def test_alpha_is_the_scale_times_the_rank():
    model, base = adapted(rank=3, alpha=6.0), transformer()
    x = torch.randn(5, 24)
    layer, plain = model.blocks[1].attn2.to_v, base.blocks[1].attn2.to_v
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(layer(x), plain(x) + 2.0 * x @ delta.T, atol=1e-6)
    model = transformer()
    add_lora(model, rank=3)
    assert model.blocks[0].attn1.to_q.scaling["default"] == 1


def test_a_bfloat16_base_keeps_its_types_and_the_adapter_is_float32(tmp_path):
    transformer().save_pretrained(tmp_path)
    model = diffusers.WanTransformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    types = {name: p.dtype for name, p in model.named_parameters()}
    assert set(types.values()) == {torch.bfloat16, torch.float32}
    before = output(model)
    add_lora(model, rank=2)
    assert torch.equal(output(model), before) and before.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        expected = torch.float32 if ".lora_" in name else types[name.replace(".base_layer.", ".")]
        assert parameter.dtype == expected, name


def test_the_file_holds_the_adapter_exactly(tmp_path):
    model = adapted()
    assert save_adapter(model, tmp_path) == tmp_path / FILE
    (tmp_path / "plain").touch()
    assert (tmp_path / FILE).stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it too"
    live, stored = weights_of(model), load_file(tmp_path / FILE)
    names = {f"transformer.{name.replace('.default.', '.')}": name for name in live}
    assert stored.keys() == names.keys() and all(torch.equal(stored[key], live[name]) for key, name in names.items())
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_diffusers_reads_our_file(tmp_path):
    model = adapted()
    save_adapter(model, tmp_path)
    theirs = transformer()
    theirs.load_lora_adapter(str(tmp_path), use_safetensors=True)
    assert torch.allclose(output(theirs), output(model), atol=1e-6)


def test_a_merged_transformer_can_be_saved_and_a_live_one_is_refused(tmp_path):
    model = adapted()
    for call in (lambda: check_no_adapter(model), lambda: add_lora(model, rank=2)):
        refused(r"live adapter; save it with save_adapter, or fold it in \(fuse_lora", call)
    model.fuse_lora()
    model.unload_lora()
    check_no_adapter(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(output(diffusers.WanTransformer3DModel.from_pretrained(tmp_path)), output(model))


def test_the_fingerprint_is_that_of_the_base(tmp_path):
    base = transformer()
    expected = fingerprint_of(base)
    base.save_pretrained(tmp_path)
    assert fingerprint_of(diffusers.WanTransformer3DModel.from_pretrained(tmp_path)) == expected
    assert fingerprint_of(adapted()) == expected == fingerprint_of(adapted(rank=1))
    others = {expected, fingerprint_of(transformer(1)), fingerprint_of(transformer().double())}
    for name in [name for name, p in base.named_parameters() if p.ndim > 1]:
        other = transformer()
        parameter = other.get_parameter(name)
        torch.nn.init.normal_(parameter)
        others.add(fingerprint_of(other))
        if ".to_q" in name:
            add_lora(other, rank=1)
            assert fingerprint_of(other) in others
    assert len(others) == 3 + sum(p.ndim > 1 for p in base.parameters())


def test_what_is_no_wan_transformer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 layers end in .*give diffusers' Wan transformer"):
        add_lora(torch.nn.Sequential(torch.nn.Linear(2, 2)), rank=1)
    odd = transformer()
    odd.extra = torch.nn.ModuleDict({"to_q": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="none outside"):
        add_lora(odd, rank=1)
    with pytest.raises(ValueError, match="rank >= 1"):
        add_lora(transformer(), rank=0)
    with pytest.raises(ValueError, match="expected the one that add_lora attaches"):
        save_adapter(transformer(), tmp_path)
