"""The continuous tokenizer: its contract, latents of the past untouched by the future, storage, the other kind refused."""

import pytest
import torch
from refusing import refused

from hwm.contracts import Batch, LatentTokenizer, Tokenizer
from hwm.model_config import FSQConfig
from hwm.tokenizers.autoencoder import ContinuousTokenizer, FSQTokenizer
from hwm.tokenizers.open import load_tokenizer, new_tokenizer, open_tokenizer, save_tokenizer


def tiny(**changes) -> ContinuousTokenizer:
    torch.manual_seed(0)
    return ContinuousTokenizer(FSQConfig(**{"channels": 8, "depth": 1, "levels": (5,) * 6, "continuous": True, **changes})).eval()


def video(frames: int = 17, size: int = 32, batch: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, size, size, 3), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_shapes_and_contract(stride):
    tokenizer = tiny(spatial_stride=stride)
    latents = tokenizer.encode(video(34))
    assert isinstance(tokenizer, LatentTokenizer) and not isinstance(tokenizer, Tokenizer)
    assert latents.shape == (2, 6, 6, 32 // stride, 32 // stride) and latents.dtype == torch.float32
    assert tokenizer.channels == 6 and latents.abs().max() <= 1.25 and not latents.requires_grad
    decoded = tokenizer.decode(latents)
    assert decoded.shape == (2, 34, 32, 32, 3) and decoded.dtype == torch.uint8
    alone = tokenizer.decode(latents[:, :3])
    assert (alone.int() - decoded[:, :17].int()).abs().max() <= 1, "every block is decoded by itself"


def test_past_latents_are_encoded_from_past_frames_only():
    tokenizer, clip = tiny(), video()
    changed = clip.clone()
    changed[:, 9:] = 255 - changed[:, 9:]
    latents, other = tokenizer.encode(clip), tokenizer.encode(changed)
    assert torch.equal(latents[:, :2], other[:, :2]) and not torch.equal(latents[:, 2], other[:, 2])
    assert torch.allclose(tokenizer.encode(clip[:, :9]), latents[:, :2], atol=1e-6), "so a clip of the past gives the same"
    assert torch.allclose(tokenizer.encode(clip[:, :1]), latents[:, :1], atol=1e-6)


def test_decoded_past_does_not_change_with_future_latents():
    tokenizer = tiny()
    latents = tokenizer.encode(video())
    other = latents.clone()
    other[:, 2] = -other[:, 2]
    a, b = tokenizer.decode_latents(latents), tokenizer.decode_latents(other)
    assert torch.equal(a[:, :9], b[:, :9]) and not torch.equal(a[:, 9:], b[:, 9:])
    assert torch.allclose(tokenizer.decode_latents(latents[:, :2]), a[:, :9], atol=1e-6)


def test_both_kinds_have_the_same_weights():
    quantised = FSQTokenizer(FSQConfig(channels=8, depth=1, levels=(5,) * 6))
    assert {k: v.shape for k, v in quantised.state_dict().items()} == {k: v.shape for k, v in tiny().state_dict().items()}


def test_training_sees_noise_and_validation_does_not():
    batch = Batch(states_BFA=torch.zeros(2, 17, 25), video_BFHWC=video())

    def losses(seed, **changes):
        found = tiny(**changes).loss(batch, generator=torch.Generator().manual_seed(seed))
        return found["loss"]

    assert losses(0, latent_noise=0.5) == losses(0, latent_noise=0.5) != losses(1, latent_noise=0.5)
    assert losses(0) == losses(1)
    noisy, plain = (tiny(latent_noise=n).validate(batch, generator=torch.Generator())["psnr"] for n in (0.5, 0.0))
    assert torch.equal(noisy, plain)
    tokenizer = tiny()
    expected = tokenizer.decode(tokenizer.encode(video())).float().sub(video().float()).div(255).square().mean((1, 2, 3, 4))
    mse = tokenizer.validate(batch, generator=torch.Generator())["mse"]
    assert torch.allclose(mse, expected, rtol=1e-4), "what validation scores is what is decoded"


def test_learns_one_clip():
    tokenizer = tiny(channels=16, latent_noise=0.05).train()
    grey = torch.full((1, 17, 16, 16, 3), 200, dtype=torch.uint8)
    batch, generator = Batch(states_BFA=torch.zeros(1, 17, 25), video_BFHWC=grey), torch.Generator().manual_seed(0)
    before = tokenizer.validate(batch, generator=generator)["psnr"].item()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        tokenizer.loss(batch, generator=generator)["loss"].backward()
        optimizer.step()
    assert tokenizer.validate(batch, generator=generator)["psnr"].item() > before + 10


def test_store_round_trip_and_kinds(tmp_path):
    config = FSQConfig(channels=8, depth=1, levels=(8, 5, 5))
    continuous = save_tokenizer(tiny(), tmp_path / "continuous")
    quantised = save_tokenizer(new_tokenizer(config, name="q"), tmp_path / "quantised")
    loaded = load_tokenizer(continuous)
    assert isinstance(loaded, ContinuousTokenizer) and loaded.name == "continuous"
    assert torch.allclose(loaded.encode(video()), tiny().encode(video()), atol=1e-2), "float16 weights"
    assert isinstance(open_tokenizer(str(continuous), kind="latents"), LatentTokenizer)
    assert isinstance(open_tokenizer(str(quantised), kind="tokens"), Tokenizer)
    assert isinstance(open_tokenizer(str(quantised)), FSQTokenizer)
    refused("continuous: gives continuous latents, but tokens", open_tokenizer, str(continuous), kind="tokens")
    refused("quantised: gives tokens, but continuous", open_tokenizer, str(quantised), kind="latents")
    refused("6", loaded.decode, torch.zeros(1, 3, 4, 4, 4))
    refused("continuous = true", ContinuousTokenizer, config)
