"""The library's tokenizer: its video autoencoder with finite scalar quantisation between encoder and decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from hwm.config import FSQConfig
from hwm.tokenizers import quantiser
from hwm.tokenizers.autoencoder import VideoAutoencoder, to_pixels


class FSQTokenizer(VideoAutoencoder):
    """Video to the ids of a finite scalar quantiser and back; satisfies contracts.Tokenizer and can be trained."""

    def __init__(self, config: FSQConfig, *, name: str = "fsq") -> None:
        if config.continuous:
            raise ValueError(f"{name}: model.continuous asks for latents, this tokenizer gives tokens")
        super().__init__(config, name=name)
        self.vocab_size = quantiser.vocabulary(config.levels)

    @property
    def codes_VC(self) -> Tensor:
        """Code vector of every id, float32 (V, C)."""
        return quantiser.code_table(self.levels).to(self.patch_in.weight.device)

    @torch.no_grad()
    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video (B, F, H, W, 3) of whole blocks to int64 tokens (B, T, h, w)."""
        codes = self.encode_latents(video_BFHWC).movedim(2, -1)
        return quantiser.digits_to_ids(quantiser.codes_to_digits(codes, self.levels), self.levels)

    @torch.no_grad()
    def decode(self, tokens_BTHW: Tensor) -> Tensor:
        """int64 tokens (B, T, h, w) of whole blocks to uint8 video (B, F, H, W, 3)."""
        if tokens_BTHW.numel() and not 0 <= int(tokens_BTHW.min()) <= int(tokens_BTHW.max()) < self.vocab_size:
            raise ValueError(f"tokens outside 0..{self.vocab_size - 1}: not made by this tokenizer ({self.name})")
        digits = quantiser.ids_to_digits(tokens_BTHW, self.levels)
        return self.decode_codes(quantiser.digits_to_codes(digits, self.levels))

    @torch.no_grad()
    def decode_codes(self, codes_BTHWC: Tensor) -> Tensor:
        """Code vectors (B, T, h, w, C), also between the code points, to uint8 video (B, F, H, W, 3)."""
        return to_pixels(self.decode_latents(codes_BTHWC.movedim(-1, 2)))
