"""Wan's autoencoder as a tokenizer, on tiny random configurations of the real class in the forms of Wan2.2 and Wan2.1."""

import json
import sys

import pytest
import torch
from refusing import refused
from safetensors.torch import load_file, save_file

from hwm.clock import WAN
from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.tokenizers.open import open_tokenizer
from hwm.tokenizers.wan import WanTokenizer, find_wan

diffusers = pytest.importorskip("diffusers")

CHANNELS = 6
SMALL = {"base_dim": 8, "num_res_blocks": 1, "temperal_downsample": [False, True, True], "z_dim": CHANNELS}
STATISTICS = {"latents_mean": [0.3 - 0.1 * c for c in range(CHANNELS)], "latents_std": [0.4 + 0.3 * c for c in range(CHANNELS)]}
WAN22 = {
    **SMALL, **STATISTICS, "decoder_base_dim": 12, "dim_mult": [1, 2, 2, 2], "is_residual": True, "patch_size": 2,
    "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16
}
WAN21 = {**SMALL, **STATISTICS, "dim_mult": [1, 1, 2, 2]}


def autoencoder(config=WAN22, **changes):
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(**{**config, **changes}).eval()


@pytest.fixture(scope="module")
def wan22():
    return WanTokenizer(autoencoder())


def video(frames=21, height=32, width=32, batch=1):
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, height, width, 3), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("config, stride", [(WAN22, 16), (WAN21, 8)])
def test_latents_are_the_normalised_ones_of_the_class(config, stride):
    network = autoencoder(config)
    tokenizer = WanTokenizer(network)
    assert isinstance(tokenizer, LatentTokenizer) and not isinstance(tokenizer, Tokenizer)
    assert tokenizer.name == f"wan-4x{stride}x{stride}" and tokenizer.clock == WAN
    assert (tokenizer.channels, tokenizer.spatial_stride) == (CHANNELS, stride)
    clip = video(height=64, width=32)
    latents = tokenizer.encode(clip)
    assert latents.shape == (1, 6, CHANNELS, 64 // stride, 32 // stride) and latents.dtype == torch.float32
    with torch.no_grad():
        raw = network.encode(clip.movedim(-1, 1).float() / 127.5 - 1).latent_dist.mode()
        decoded = network.decode(raw).sample
    for c in range(CHANNELS):  # mean and deviation, not its inverse
        expected = (raw[:, c] - config["latents_mean"][c]) / config["latents_std"][c]
        assert torch.allclose(latents[:, :, c], expected, atol=1e-5)
    found = tokenizer.decode(latents)
    assert found.shape == clip.shape and found.dtype == torch.uint8
    assert ((decoded.movedim(1, -1) + 1) * 127.5 - found.float()).abs().max() <= 0.51


def test_the_past_does_not_depend_on_the_future(wan22):
    clip = video()
    latents = wan22.encode(clip)
    assert torch.allclose(wan22.encode(clip[:, :5]), latents[:, :2], atol=1e-5), "the prefix is enough"
    changed = clip.clone()
    changed[:, 5:] = 255 - changed[:, 5:]
    assert torch.allclose(wan22.encode(changed)[:, :2], latents[:, :2], atol=1e-5)
    assert not torch.allclose(wan22.encode(changed)[:, 2], latents[:, 2], atol=1e-2)
    later = latents.clone()
    later[:, 2:] += 1
    difference = (wan22.decode(later).int() - wan22.decode(latents).int()).abs()
    assert difference[:, :5].max() <= 1 < difference[:, 5:].max(), "decoding is causal too"
    assert (wan22.decode(latents[:, :2]).int() - wan22.decode(latents)[:, :5].int()).abs().max() <= 1


def test_blocks_are_independent(wan22):
    clip = video(frames=42, batch=2)
    latents = wan22.encode(clip)
    assert latents.shape[:2] == (2, 12)
    assert torch.equal(latents[1:, 6:], wan22.encode(clip[1:, 21:]))
    assert torch.equal(wan22.decode(latents)[1:, 21:], wan22.decode(latents[1:, 6:]))


@pytest.mark.parametrize("frames", [0, 2, 4, 20, 22, 41])
def test_a_length_whose_tail_would_be_dropped_is_refused(wan22, frames):
    refused("frames", wan22.encode, video(frames))


def test_sizes_that_do_not_fit_are_refused(wan22):
    refused("sides that divide by 32", wan22.encode, video(height=48))
    latents = wan22.encode(video(5))
    refused("latents of 5 channels", wan22.decode, latents[:, :, :5])
    refused("whole blocks of 6 grids, got 7", wan22.decode, torch.cat([latents] * 4, dim=1)[:, :7])
    refused("temporal stride 4, this one 2", WanTokenizer, autoencoder(WAN21, temperal_downsample=[False, False, True]))
    refused("need 6 values", WanTokenizer, autoencoder(WAN21, latents_std=[1.0]))


def test_a_folder_and_a_pipeline_open_alike(tmp_path):
    network = autoencoder()
    network.save_pretrained(tmp_path / "pipeline" / "vae")
    assert find_wan(str(tmp_path)) is None and find_wan("continuous-8x8x8") is None
    opened = [
        open_tokenizer(name, kind="latents")
        for name in (f"{tmp_path}/pipeline/vae", f"{tmp_path}/pipeline", f"wan:{tmp_path}/pipeline")
    ]
    expected = WanTokenizer(network)
    clip = video(5)
    for tokenizer in opened:
        assert isinstance(tokenizer, WanTokenizer) and tokenizer.fingerprint() == expected.fingerprint()
        assert torch.equal(tokenizer.encode(clip), expected.encode(clip))
    assert not hasattr(opened[0], "config"), "tokenize would write it as a dataclass"
    refused("gives continuous latents, but tokens are needed", open_tokenizer, f"{tmp_path}/pipeline", kind="tokens")


def test_the_fingerprint_tells_weights_and_statistics_apart(wan22):
    same = WanTokenizer(autoencoder())
    other = autoencoder()
    with torch.no_grad():
        other.quant_conv.bias[0] += 1e-3
    moved = autoencoder(latents_mean=[0.0] * CHANNELS)
    prints = {wan22.fingerprint(), WanTokenizer(other).fingerprint(), WanTokenizer(moved).fingerprint()}
    assert len(prints) == 3 and same.fingerprint() in prints


def test_weights_of_half_precision_are_used_in_float32(tmp_path):
    autoencoder().half().save_pretrained(tmp_path)
    tokenizer = open_tokenizer(str(tmp_path))
    assert {p.dtype for p in tokenizer._network.parameters()} == {torch.float32}
    assert tokenizer.encode(video(5)).dtype == torch.float32


def test_an_autoencoder_that_is_not_whole_is_refused(tmp_path, monkeypatch):
    autoencoder().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    del state["quant_conv.bias"]
    save_file(state, weights, metadata={"format": "pt"})
    refused(r"quant_conv\.bias", open_tokenizer, str(tmp_path))
    weights.unlink()
    refused("no Wan autoencoder that diffusers can open", open_tokenizer, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/has-this: no Wan autoencoder", open_tokenizer, "wan:nobody/has-this")
    monkeypatch.setitem(sys.modules, "diffusers", None)  # an import of it fails
    refused(r"pip install 'humanoid-world-models\[wan\]'", open_tokenizer, str(tmp_path))


def test_another_class_is_none_of_wan(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    assert find_wan(str(tmp_path)) is None


@pytest.mark.parametrize("changes", [
    {"patch_size": {"x": 2}}, {"latents_mean": "x"}, {"dim_mult": 10**30}, {"z_dim": [3]}, {"num_res_blocks": None}
])  # fmt: skip
def test_a_configuration_of_other_types_is_named(tmp_path, changes):
    autoencoder().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    assert refused(None, open_tokenizer, str(tmp_path)).startswith(str(tmp_path))
