"""diffusers' Cosmos autoencoder, as tiny random configurations of the real class."""

import json
import sys

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.tokenizers.open import open_tokenizer


def test_what_is_no_cosmos_autoencoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    refused("holds 'AutoencoderKL', expected 'AutoencoderKLCosmos'", open_tokenizer, str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLCosmos"}))
    refused("safetensors: no such file", open_tokenizer, str(tmp_path))


def save(folder, stride, **changes):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    stages = {f"{side}_block_out_channels": (8, 16, 16, 16) for side in ("encoder", "decode")}
    small = {"num_layers": 1, "latent_channels": 16, "resolution": 64, "attention_resolutions": (8,)}
    network = diffusers.AutoencoderKLCosmos(**{**stages, **small, "spatial_compression_ratio": stride, **changes})
    network.save_pretrained(folder)
    return network.eval()


def video(frames=17, size=64, batch=1):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch, frames, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("stride, temporal", [(8, 8), (16, 8), (8, 4)])
def test_latents_are_those_of_the_class_and_causal(tmp_path, stride, temporal):
    network = save(tmp_path / "vae", stride, temporal_compression_ratio=temporal)
    tokenizer = open_tokenizer(str(tmp_path / "vae"), kind="latents")
    assert isinstance(tokenizer, LatentTokenizer) and not isinstance(tokenizer, Tokenizer)
    assert tokenizer.name == f"cosmos-diffusers-cv{temporal}x{stride}x{stride}"
    assert (tokenizer.channels, tokenizer.spatial_stride, tokenizer.clock.stride) == (16, stride, temporal)
    clip = video(34)
    latents = tokenizer.encode(clip)
    grids, side = 1 + 16 // temporal, 64 // stride
    assert latents.shape == (1, 2 * grids, 16, side, side) and latents.dtype == torch.float32
    with torch.no_grad():
        pixels = clip[:, 17:].movedim(-1, 1).float() / 127.5 - 1
        expected = network.encode(pixels).latent_dist.mode()
        decoded = network.decode(expected).sample
    assert torch.allclose(latents[:, grids:].movedim(1, 2), expected, atol=1e-5), "raw, block by block"
    found = tokenizer.decode(latents)[:, 17:].movedim(-1, 1).float()
    assert ((decoded + 1).div(2).clamp(0, 1) * 255 - found).abs().max() <= 0.51
    changed = clip[:, :17].clone()
    changed[:, 9:] = 255 - changed[:, 9:]
    past = 1 + 8 // temporal
    assert torch.equal(tokenizer.encode(changed)[:, :past], tokenizer.encode(clip[:, :17])[:, :past])
    assert torch.allclose(tokenizer.encode(clip[:, :9]), latents[:, :past], atol=1e-5)
    later = latents[:, :grids].clone()
    later[:, past:] += 1
    assert torch.equal(tokenizer.decode(later)[:, :9], tokenizer.decode(latents[:, :grids])[:, :9])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save(tmp_path / "vae", 8)
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    before = open_tokenizer(str(tmp_path / "vae")).fingerprint()
    state["quant_conv.bias"] += 1
    save_file(state, weights, metadata={"format": "pt"})
    assert open_tokenizer(str(tmp_path / "vae")).fingerprint() != before
    del state["quant_conv.bias"]
    save_file(state, weights, metadata={"format": "pt"})
    refused(r"quant_conv\.bias", open_tokenizer, str(tmp_path / "vae"))


def test_without_diffusers_the_remedy_is_said(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLCosmos"}))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "diffusers", None)  # an import of it fails
    refused(r"pip install 'humanoid-world-models\[wan\]'", open_tokenizer, str(tmp_path))


def test_no_torchvision_is_needed(tmp_path):
    save(tmp_path / "vae", 8)
    open_tokenizer(str(tmp_path / "vae"))
    assert "torchvision" not in sys.modules
