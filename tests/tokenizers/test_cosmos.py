"""The Cosmos adapters, on tiny scripted pairs of the official interfaces."""

import math

import pytest
import torch
from refusing import refused

from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.tokenizers.open import open_tokenizer


class TinyEncoder(torch.nn.Module):
    """DV: 17 frames (B, 3, 17, H, W) to ids (B, 3, H/8, W/8): brightness of frames 0, 8 and 16 in 8x8 cells."""

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = video[:, :, 0::8].mean(1)
        cells = torch.nn.functional.avg_pool2d(frames, 8)
        ids = ((cells + 1) / 2 * 255).round().to(torch.int32)
        return ids, cells


class TinyDecoder(torch.nn.Module):
    """DV inverse: ids to 17 grey frames, each group of 8 (and the first frame) constant."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        grey = ids.float() / 255 * 2 - 1
        frames = torch.cat([grey[:, :1], grey[:, 1:].repeat_interleave(8, 1)], 1)
        pixels = frames.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return pixels.unsqueeze(1).expand(-1, 3, -1, -1, -1)


class TinyLatentEncoder(torch.nn.Module):
    """CV: frames (B, 3, 1 + 8 n, H, W) to a tuple of latents (B, 16, 1 + n, H/16, W/16).

    Channels 0-2 are the colours of frames 0, 8, ... in 16x16 cells, the others 0.
    """

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor]:
        cells = torch.nn.functional.avg_pool3d(video[:, :, 0::8], [1, 16, 16])
        return (torch.nn.functional.pad(cells, [0, 0, 0, 0, 0, 0, 0, 13]),)


class PlainLatentEncoder(TinyLatentEncoder):
    """The same, returning the tensor itself."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        cells = torch.nn.functional.avg_pool3d(video[:, :, 0::8], [1, 16, 16])
        return torch.nn.functional.pad(cells, [0, 0, 0, 0, 0, 0, 0, 13])


class TinyLatentDecoder(torch.nn.Module):
    """CV inverse."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        colours = latents[:, :3]
        frames = torch.cat([colours[:, :, :1], colours[:, :, 1:].repeat_interleave(8, 2)], 2)
        return frames.repeat_interleave(16, 3).repeat_interleave(16, 4)


class PerFrame(torch.nn.Module):
    """No Cosmos video tokenizer: a grid for each frame group it does not have."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video[:, :, ::5]


def script(folder, encoder, decoder):
    folder.mkdir(exist_ok=True)
    torch.jit.script(encoder).save(str(folder / "encoder.jit"))
    torch.jit.script(decoder).save(str(folder / "decoder.jit"))
    return folder


@pytest.fixture
def folder(tmp_path):
    return script(tmp_path / "any name", TinyEncoder(), TinyDecoder())


def groups(*values, size=32):
    """One clip: the first value in one frame, the others in eight each, as colours 2 apart in each channel."""
    lengths = [1] + [8] * (len(values) - 1)
    grey = torch.cat([torch.full((n,), v) for n, v in zip(lengths, values)])
    colour = grey.view(1, -1, 1, 1, 1) + torch.tensor([0, 2, 4])
    return colour.expand(1, -1, size, size, 3).to(torch.uint8)


def test_needs_trust_and_both_files(folder):
    refused("trust", open_tokenizer, str(folder))
    (folder / "decoder.jit").unlink()
    refused("decoder.jit", open_tokenizer, str(folder), trust=True)


def test_blocks_pixels_and_contract(folder):
    tokenizer = open_tokenizer(str(folder), kind="tokens", trust=True)
    assert isinstance(tokenizer, Tokenizer) and not isinstance(tokenizer, LatentTokenizer)
    assert tokenizer.name == "cosmos-dv8x8x8" and tokenizer.spatial_stride == 8 and tokenizer.clock.grids == 3
    grey = torch.tensor([0, 100, 255, 30], dtype=torch.uint8)
    blocks = grey.view(2, 2, 1, 1, 1, 1).expand(2, 2, 17, 16, 16, 3).flatten(1, 2)
    tokens = tokenizer.encode(blocks)
    assert tokens.shape == (2, 6, 2, 2) and tokens.dtype == torch.int64
    assert tokens[0, 0, 0, 0] == 0 and tokens[0, 3, 0, 0] == 100 and tokens[1, 0, 0, 0] == 255
    assert torch.equal(tokenizer.decode(tokens), blocks)
    codes = tokenizer.codes_VC[tokens]
    assert torch.equal(tokenizer.decode_codes(codes), blocks)
    assert math.prod(tokenizer.levels) == tokenizer.codes_VC.shape[0] == 64000
    refused("whole blocks", tokenizer.encode, blocks[:, :20])
    refused("outside", tokenizer.decode, torch.full((1, 3, 2, 2), 64000))
    refused("gives tokens", open_tokenizer, str(folder), kind="latents", trust=True)


@pytest.mark.parametrize("encoder", [TinyLatentEncoder, PlainLatentEncoder])
def test_continuous_pair(tmp_path, encoder):
    folder = script(tmp_path / "cv", encoder(), TinyLatentDecoder())
    tokenizer = open_tokenizer(str(folder), kind="latents", trust=True)
    assert isinstance(tokenizer, LatentTokenizer) and not isinstance(tokenizer, Tokenizer)
    assert (tokenizer.name, tokenizer.channels, tokenizer.spatial_stride) == ("cosmos-cv8x16x16", 16, 16)
    clip = torch.cat([groups(0, 100, 250), groups(17, 3, 80)], 1).repeat(2, 1, 1, 1, 1)
    clip[1] = clip[1].flip(0)
    latents = tokenizer.encode(clip)
    assert latents.shape == (2, 6, 16, 2, 2) and latents.dtype == torch.float32
    assert latents[0, 4, :3, 1, 0].add(1).mul(127.5).round().tolist() == [3, 5, 7], "block 1, grid 1: frames 1-8"
    decoded = tokenizer.decode(latents)
    assert torch.equal(decoded[0], clip[0]) and decoded.dtype == torch.uint8
    refused("continuous latents", open_tokenizer, str(folder), kind="tokens", trust=True)
    refused("4 channels", tokenizer.decode, torch.zeros(1, 3, 4, 2, 2))
    refused("do not divide", tokenizer.encode, clip[:, :, :24, :24])
    other = open_tokenizer(str(script(tmp_path / "dv", TinyEncoder(), TinyDecoder())), trust=True)
    again = open_tokenizer(str(folder), trust=True)
    assert other.fingerprint() != tokenizer.fingerprint() == again.fingerprint()


def test_shorter_clips_give_the_first_grids(folder, tmp_path):
    continuous = script(tmp_path / "cv", TinyLatentEncoder(), TinyLatentDecoder())
    for place in (folder, continuous):
        tokenizer, clip = open_tokenizer(str(place), trust=True), groups(10, 60, 110)
        whole = tokenizer.encode(clip)
        short = tokenizer.encode(clip[:, :9])
        assert torch.equal(short, whole[:, :2])
        assert torch.equal(tokenizer.decode(short), tokenizer.decode(whole)[:, :9])
        refused("frames", tokenizer.encode, clip[:, :10])
        refused("whole blocks", tokenizer.decode, torch.cat([whole, short], 1))


def test_what_is_no_video_tokenizer_is_refused(tmp_path):
    refused("no Cosmos video tokenizer", open_tokenizer, str(script(tmp_path / "other", PerFrame(), TinyDecoder())), trust=True)
