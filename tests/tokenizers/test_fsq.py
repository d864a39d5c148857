"""Our tokenizers, with ids and with continuous latents: causal, still clips give still tokens, shapes, storage, training."""

import shutil

import pytest
import torch
from damage import reseal
from refusing import refused

from hwm.contracts import Batch, LatentTokenizer, Tokenizer
from hwm.model_config import FSQConfig
from hwm.tokenizers import quantiser
from hwm.tokenizers.autoencoder import ContinuousTokenizer, FSQTokenizer
from hwm.tokenizers.open import WEIGHTS, load_tokenizer, open_tokenizer, save_tokenizer


def tiny(continuous: bool = False, **changes) -> FSQTokenizer | ContinuousTokenizer:
    torch.manual_seed(0)
    levels = (5,) * 6 if continuous else (8, 5, 5)
    config = FSQConfig(**{"channels": 8, "depth": 1, "levels": levels, "continuous": continuous, **changes})
    return (ContinuousTokenizer if continuous else FSQTokenizer)(config).eval()


def video(frames: int = 17, size: int = 32, batch: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, size, size, 3), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_shapes_and_contract(stride):
    tokenizer, smooth = tiny(spatial_stride=stride), tiny(True, spatial_stride=stride)
    tokens, latents, side = tokenizer.encode(video(34)), smooth.encode(video(34)), 32 // stride
    assert isinstance(tokenizer, Tokenizer) and isinstance(smooth, LatentTokenizer) and not isinstance(smooth, Tokenizer)
    assert tokens.shape == (2, 6, side, side) and tokens.dtype == torch.int64
    assert 0 <= tokens.min() and tokens.max() < tokenizer.vocab_size == 200
    assert latents.shape == (2, 6, 6, side, side) and latents.dtype == torch.float32
    assert smooth.channels == 6 and latents.abs().max() <= 1.25 and not latents.requires_grad
    for coder, grids in ((tokenizer, tokens), (smooth, latents)):
        decoded = coder.decode(grids)
        assert decoded.shape == (2, 34, 32, 32, 3) and decoded.dtype == torch.uint8
        alone = coder.decode(grids[:, :3])
        assert (alone.int() - decoded[:, :17].int()).abs().max() <= 1, "every block is decoded by itself"
    assert torch.equal(tokenizer.decode(tokens)[:, :17], tokenizer.decode(tokens[:, :3]))
    assert torch.equal(tokens[:, 3:], tokenizer.encode(video(34)[:, 17:]))
    assert torch.equal(tokenizer.decode_codes(tokenizer.codes_VC[tokens]), tokenizer.decode(tokens))


@pytest.mark.parametrize("continuous", [False, True])
def test_encoder_and_decoder_are_causal(continuous):
    tokenizer, clip = tiny(continuous), video()
    latents = tokenizer.encode_latents(clip)
    decoded = tokenizer.decode_latents(latents)
    for grid in range(3):
        start, stop = tokenizer.clock.span(grid)
        changed = clip.clone()
        changed[:, start:stop] = 255 - changed[:, start:stop]
        moved = (tokenizer.encode_latents(changed) - latents).abs().amax((0, 2, 3, 4))
        assert (moved[:grid] == 0).all() and moved[grid] > 0
        codes = latents.clone()
        codes[:, grid] += 0.3
        difference = (tokenizer.decode_latents(codes) - decoded).abs().amax((0, 2, 3, 4))
        assert (difference[:start] == 0).all() and (difference[start:stop] > 0).all()
    for grids in (1, 2) if continuous else ():  # so a clip of the past gives the same
        frames = tokenizer.clock.num_frames(grids)
        assert torch.allclose(tokenizer.encode(clip[:, :frames]), tokenizer.encode(clip)[:, :grids], atol=1e-6)
        assert torch.allclose(tokenizer.decode_latents(latents[:, :grids]), decoded[:, :frames], atol=1e-6)


def test_a_still_clip_gives_the_same_grid_three_times():
    tokens = tiny().encode(video()[:, :1].expand(-1, 17, -1, -1, -1))
    assert torch.equal(tokens[:, 0], tokens[:, 1]) and torch.equal(tokens[:, 0], tokens[:, 2])


def test_both_kinds_have_the_same_weights():
    quantised, smooth = (coder.state_dict() for coder in (tiny(levels=(5,) * 6), tiny(True)))
    assert {k: v.shape for k, v in quantised.items()} == {k: v.shape for k, v in smooth.items()}


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


def test_training_sees_noise_and_validation_does_not():
    batch = Batch(states_BFA=torch.zeros(2, 17, 25), video_BFHWC=video())

    def losses(seed, **changes):
        found = tiny(True, **changes).loss(batch, generator=torch.Generator().manual_seed(seed))
        return found["loss"]

    assert losses(0, latent_noise=0.5) == losses(0, latent_noise=0.5) != losses(1, latent_noise=0.5)
    assert losses(0) == losses(1)
    noisy, plain = (tiny(True, latent_noise=n).validate(batch, generator=torch.Generator())["psnr"] for n in (0.5, 0.0))
    assert torch.equal(noisy, plain)
    tokenizer = tiny(True)
    expected = tokenizer.decode(tokenizer.encode(video())).float().sub(video().float()).div(255).square().mean((1, 2, 3, 4))
    mse = tokenizer.validate(batch, generator=torch.Generator())["mse"]
    assert torch.allclose(mse, expected, rtol=1e-4), "what validation scores is what is decoded"


def test_bad_input_is_refused():
    tokenizer = tiny()
    refused("do not divide", tokenizer.encode, video(size=36))
    refused("frames", tokenizer.encode, video(16))
    refused("outside", tokenizer.decode, torch.full((1, 3, 4, 4), 200))
    refused("asks for latents", FSQTokenizer, FSQConfig(continuous=True))
    refused("continuous = true", ContinuousTokenizer, FSQConfig())
    refused("6", tiny(True).decode, torch.zeros(1, 3, 4, 4, 4))


@pytest.mark.parametrize(("continuous", "options"), [(False, {}), (True, {"latent_noise": 0.05})])
def test_learns_one_clip_and_reports_psnr(continuous, options):
    tokenizer, generator = tiny(continuous, channels=16, **options).train(), torch.Generator().manual_seed(0)
    batch = Batch(states_BFA=torch.zeros(1, 17, 25), video_BFHWC=torch.full((1, 17, 16, 16, 3), 200, dtype=torch.uint8))
    before = tokenizer.validate(batch, generator=generator)["psnr"].item()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        tokenizer.loss(batch, generator=generator)["loss"].backward()
        optimizer.step()
    after = tokenizer.validate(batch, generator=generator)
    assert after["psnr"].item() > before + 10
    assert after["psnr"].item() == pytest.approx(-10 * after["mse"].log10().item(), abs=1.0)


def test_store_round_trip_and_refusal(tmp_path):
    folder = save_tokenizer(tiny(), tmp_path / "small")
    loaded = load_tokenizer(folder)
    again = load_tokenizer(folder)
    assert loaded.fingerprint() == again.fingerprint() != tiny().fingerprint()
    assert torch.equal(loaded.encode(video()), again.encode(video()))
    refused("already exists", save_tokenizer, tiny(), folder)
    refused("no tokenizer", load_tokenizer, tmp_path / "nothing")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"channels": 8', '"channels": 12'))
    refused(r"config.json: is not as it was written .*export or fetch the folder again", load_tokenizer, folder)
    reseal(folder)
    refused("does not fit", load_tokenizer, folder)


def test_a_shipped_tokenizer_is_known_by_its_fingerprint_wherever_it_lies(tmp_path):
    shutil.copytree(WEIGHTS / "fsq-8x8x8", tmp_path / "copy")
    known = "1faa24da752da9efc8657f51a12d915dee2de135942333120d166d5e973b2d12"  # tokens name it
    assert load_tokenizer(tmp_path / "copy").fingerprint() == load_tokenizer("fsq-8x8x8").fingerprint() == known


def test_kinds_are_told_apart_when_they_are_opened(tmp_path):
    continuous, quantised = (str(save_tokenizer(tiny(kind), tmp_path / name)) for kind, name in ((True, "c"), (False, "q")))
    loaded = load_tokenizer(continuous)
    assert isinstance(loaded, ContinuousTokenizer) and loaded.name == "c"
    assert torch.allclose(loaded.encode(video()), tiny(True).encode(video()), atol=1e-2), "float16 weights"
    assert isinstance(open_tokenizer(continuous, kind="latents"), LatentTokenizer)
    assert isinstance(open_tokenizer(quantised, kind="tokens"), Tokenizer)
    assert isinstance(open_tokenizer(quantised), FSQTokenizer)
    refused("c: gives continuous latents, but tokens", open_tokenizer, continuous, kind="tokens")
    refused("q: gives tokens, but continuous", open_tokenizer, quantised, kind="latents")
