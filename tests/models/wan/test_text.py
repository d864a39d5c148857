"""The embedding of the empty prompt: that of transformers' UMT5, read tensor by tensor; its file."""

import json

import pytest
import torch
from refusing import refused
from safetensors.torch import load_file, save_file

from hwm.cli import main
from hwm.models.wan.text import digest, embed_empty_prompt, pad, read_text_embedding, write_text_embedding

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

WIDTH = 24


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = transformers.UMT5Config(vocab_size=12, d_model=WIDTH, d_kv=5, d_ff=32, num_layers=3, num_heads=4)
    encoder = transformers.UMT5EncoderModel(config).eval()
    for name, parameter in encoder.named_parameters():  # norms start at 1, which would hide a wrong one
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
        elif "relative_attention_bias" in name:
            parameter.data.normal_(0, 3)
    return encoder


@pytest.fixture
def base(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "base" / "text_encoder")
    return tmp_path / "base"


def test_equals_the_encoder_on_one_token_and_on_a_padded_row(encoder, base):
    found = embed_empty_prompt(str(base))
    assert found.shape == (WIDTH,) and found.dtype == torch.float32
    with torch.no_grad():
        single = encoder(torch.tensor([[1]])).last_hidden_state[0, 0]
        ids, mask = torch.tensor([[1] + [0] * 15]), torch.tensor([[1] + [0] * 15])
        padded = encoder(ids, attention_mask=mask).last_hidden_state[0, 0]
    assert single.std() > 0.1
    assert (found - single).abs().max() <= 1e-5 and (found - padded).abs().max() <= 1e-5


def test_files_listed_by_an_index_give_the_same(encoder, base):
    whole = embed_empty_prompt(str(base))
    encoder.save_pretrained(base / "text_encoder", max_shard_size="8KB")
    (base / "text_encoder" / "model.safetensors").unlink(missing_ok=True)
    assert len(list((base / "text_encoder").glob("*.safetensors"))) > 2
    torch.testing.assert_close(embed_empty_prompt(str(base)), whole, rtol=0, atol=1e-5)


def test_bfloat16_files_are_computed_in_float32(encoder, base):
    weights = base / "text_encoder" / "model.safetensors"
    rounded = {key: value.bfloat16() for key, value in load_file(weights).items()}
    save_file(rounded, weights)
    found = embed_empty_prompt(str(base))
    save_file({key: value.float() for key, value in rounded.items()}, weights)
    torch.testing.assert_close(found, embed_empty_prompt(str(base)), rtol=0, atol=1e-5)


def test_padding_is_one_row_and_zeros():
    embedding = torch.arange(1.0, 5.0)
    text = pad(embedding, 7)
    assert text.shape == (1, 7, 4) and torch.equal(text[0, 0], embedding) and not text[0, 1:].any()
    assert pad(embedding, 1).shape == (1, 1, 4)


def test_the_verb_writes_what_is_read_back(base, tmp_path, capsys):
    out = tmp_path / "text.safetensors"
    assert main(["text-embedding", str(base), str(out)]) == 0
    expected = embed_empty_prompt(str(base))
    assert torch.equal(read_text_embedding(out), expected)
    line = capsys.readouterr().out
    (tmp_path / "plain").touch()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it too"
    assert str(out) in line and f"({WIDTH},)" in line and digest(expected) in line


def test_what_is_no_embedding_is_refused(tmp_path):
    path = tmp_path / "text.safetensors"
    refused("no such file; write it with `hwm text-embedding", read_text_embedding, path)
    path.write_bytes(b"\0" * 40)
    refused("not a whole safetensors file", read_text_embedding, path)
    write_text_embedding(path, torch.ones(4), source="test")
    changed, metadata = load_file(path), {"source": "test", "digest": digest(torch.ones(4))}
    save_file({key: value * 2 for key, value in changed.items()}, path, metadata=metadata)
    refused("do not match their digest", read_text_embedding, path)
    save_file({"text_embedding": torch.ones(1, 4)}, path, metadata=metadata)
    refused("expected one float32 vector", read_text_embedding, path)


def test_what_is_no_wan_model_is_refused(base, tmp_path, monkeypatch):
    weights, config = base / "text_encoder" / "model.safetensors", base / "text_encoder" / "config.json"
    state = load_file(weights)
    save_file({key: value for key, value in state.items() if "block.1.layer.1.DenseReluDense.wi_1" not in key}, weights)
    refused(r"no file with encoder\.block\.1\.layer\.1\.DenseReluDense\.wi_1\.weight", embed_empty_prompt, str(base))
    weights.write_bytes(weights.read_bytes()[:-8])
    refused("not a whole safetensors file", embed_empty_prompt, str(base))
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "t5"}))
    refused(r"a text encoder of kind \('t5', 'gated-gelu'\)", embed_empty_prompt, str(base))
    refused("has no folder text_encoder", embed_empty_prompt, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("give a folder or go online", embed_empty_prompt, "nobody/has-this")
