"""The Cosmos adapter, on a tiny scripted pair of the official interface."""

import pytest
import torch

from hwm.contracts import Tokenizer
from hwm.tokenizers import quantiser
from hwm.tokenizers.cosmos import CosmosTokenizer


class TinyEncoder(torch.nn.Module):
    """17 frames (B, 3, 17, H, W) to ids (B, 3, H/8, W/8): brightness of frames 0, 8 and 16 in 8x8 cells."""

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = video[:, :, 0::8].mean(1)
        cells = torch.nn.functional.avg_pool2d(frames, 8)
        ids = ((cells + 1) / 2 * 255).round().to(torch.int32)
        return ids, cells


class TinyDecoder(torch.nn.Module):
    """Inverse: ids to 17 grey frames, each group of 8 (and the first frame) constant."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        grey = ids.float() / 255 * 2 - 1
        frames = torch.cat([grey[:, :1], grey[:, 1:].repeat_interleave(8, 1)], 1)
        pixels = frames.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return pixels.unsqueeze(1).expand(-1, 3, -1, -1, -1)


@pytest.fixture
def folder(tmp_path):
    torch.jit.script(TinyEncoder()).save(str(tmp_path / "encoder.jit"))
    torch.jit.script(TinyDecoder()).save(str(tmp_path / "decoder.jit"))
    return tmp_path


def test_needs_trust_and_both_files(folder):
    with pytest.raises(ValueError, match="trust"):
        CosmosTokenizer(folder)
    (folder / "decoder.jit").unlink()
    with pytest.raises(ValueError, match="decoder.jit"):
        CosmosTokenizer(folder, trust=True)


def test_blocks_pixels_and_contract(folder):
    tokenizer = CosmosTokenizer(folder, trust=True)
    assert isinstance(tokenizer, Tokenizer)
    grey = torch.tensor([0, 100, 255, 30], dtype=torch.uint8)
    blocks = grey.view(2, 2, 1, 1, 1, 1).expand(2, 2, 17, 16, 16, 3).flatten(1, 2)
    tokens = tokenizer.encode(blocks)
    assert tokens.shape == (2, 6, 2, 2)
    assert tokens[0, 0, 0, 0] == 0 and tokens[0, 3, 0, 0] == 100 and tokens[1, 0, 0, 0] == 255
    assert torch.equal(tokenizer.decode(tokens), blocks)
    codes = tokenizer.codes_VC[tokens]
    assert torch.equal(tokenizer.decode_codes(codes), blocks)
    assert quantiser.vocabulary(tokenizer.levels) == tokenizer.codes_VC.shape[0] == 64000
    with pytest.raises(ValueError, match="whole blocks"):
        tokenizer.encode(blocks[:, :20])
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode(torch.full((1, 3, 2, 2), 64000))
