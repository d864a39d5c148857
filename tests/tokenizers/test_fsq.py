"""The tokenizer: causal, still clips give still tokens, shapes, storage, training."""

import pytest
import torch
from refusing import refused

from hwm.contracts import Batch, Tokenizer
from hwm.model_config import FSQConfig
from hwm.tokenizers import quantiser
from hwm.tokenizers.autoencoder import FSQTokenizer
from hwm.tokenizers.open import load_tokenizer, save_tokenizer


def tiny(**changes) -> FSQTokenizer:
    torch.manual_seed(0)
    return FSQTokenizer(FSQConfig(**{"channels": 8, "depth": 1, "levels": (8, 5, 5), **changes})).eval()


def video(frames: int = 17, size: int = 32, batch: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, size, size, 3), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_shapes_and_contract(stride):
    tokenizer = tiny(spatial_stride=stride)
    tokens = tokenizer.encode(video(34))
    assert isinstance(tokenizer, Tokenizer)
    assert tokens.shape == (2, 6, 32 // stride, 32 // stride) and tokens.dtype == torch.int64
    assert 0 <= tokens.min() and tokens.max() < tokenizer.vocab_size == 200
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == (2, 34, 32, 32, 3) and decoded.dtype == torch.uint8
    assert torch.equal(tokenizer.decode_codes(tokenizer.codes_VC[tokens]), decoded)


def test_blocks_are_coded_independently():
    tokenizer, clip = tiny(), video(34)
    tokens = tokenizer.encode(clip)
    assert torch.equal(tokens[:, 3:], tokenizer.encode(clip[:, 17:]))
    assert torch.equal(tokenizer.decode(tokens)[:, :17], tokenizer.decode(tokens[:, :3]))


def test_encoder_and_decoder_are_causal():
    tokenizer, clip = tiny(), video()
    latents = tokenizer.encode_latents(clip)
    for grid in range(3):
        start, stop = tokenizer.clock.span(grid)
        changed = clip.clone()
        changed[:, start:stop] = 255 - changed[:, start:stop]
        moved = (tokenizer.encode_latents(changed) - latents).abs().amax((0, 2, 3, 4))
        assert (moved[:grid] == 0).all() and moved[grid] > 0
        codes = latents.clone()
        codes[:, grid] += 0.3
        difference = (tokenizer.decode_latents(codes) - tokenizer.decode_latents(latents)).abs().amax((0, 2, 3, 4))
        assert (difference[:start] == 0).all() and (difference[start:stop] > 0).all()


def test_a_still_clip_gives_the_same_grid_three_times():
    tokens = tiny().encode(video()[:, :1].expand(-1, 17, -1, -1, -1))
    assert torch.equal(tokens[:, 0], tokens[:, 1]) and torch.equal(tokens[:, 0], tokens[:, 2])


def test_the_decoder_is_trained_on_rounded_codes():
    tokenizer, batch = tiny(), Batch(states_BFA=torch.zeros(2, 17, 25), video_BFHWC=video())
    decoded = tokenizer.decode(tokenizer.encode(video())).float()
    expected = decoded.sub(video().float()).div(255).square().mean((1, 2, 3, 4))
    assert torch.allclose(tokenizer.validate(batch, generator=torch.Generator())["mse"], expected, rtol=1e-4)
    latents = tokenizer.encode_latents(video())
    rounded = quantiser.quantise(latents.movedim(2, -1), (8, 5, 5)).movedim(-1, 2)
    assert latents.abs().max() <= 1.25 and not torch.allclose(latents, rounded)
    tokenizer.loss(batch, generator=torch.Generator())["loss"].backward()
    assert tokenizer.patch_in.weight.grad.abs().max() > 0, "the gradient passes the rounding"


def test_bad_input_is_refused():
    tokenizer = tiny()
    refused("do not divide", tokenizer.encode, video(size=36))
    refused("frames", tokenizer.encode, video(16))
    refused("outside", tokenizer.decode, torch.full((1, 3, 4, 4), 200))
    refused("asks for latents", tiny, continuous=True)


def test_learns_one_clip_and_reports_psnr():
    tokenizer = tiny(channels=16).train()
    batch = Batch(states_BFA=torch.zeros(1, 17, 25), video_BFHWC=torch.full((1, 17, 16, 16, 3), 200, dtype=torch.uint8))
    before = tokenizer.validate(batch, generator=torch.Generator())["psnr"].item()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        tokenizer.loss(batch, generator=torch.Generator())["loss"].backward()
        optimizer.step()
    after = tokenizer.validate(batch, generator=torch.Generator())
    assert after["psnr"].item() > before + 10
    assert after["psnr"].item() == pytest.approx(-10 * after["mse"].log10().item(), abs=1.0)


def test_store_round_trip_and_refusal(tmp_path):
    folder = save_tokenizer(tiny(), tmp_path / "small", card="# card")
    loaded = load_tokenizer(folder)
    again = load_tokenizer(folder)
    assert loaded.fingerprint() == again.fingerprint() != tiny().fingerprint()
    assert torch.equal(loaded.encode(video()), again.encode(video()))
    refused("already exists", save_tokenizer, tiny(), folder)
    refused("no tokenizer", load_tokenizer, tmp_path / "nothing")
    (folder / "config.toml").write_text((folder / "config.toml").read_text().replace("channels = 8", "channels = 12"))
    refused(r"config.toml: its content differs from checksums.json; export or fetch it again", load_tokenizer, folder)
    (folder / "checksums.json").unlink()  # as folders of before had none
    refused("does not fit", load_tokenizer, folder)
