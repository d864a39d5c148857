"""The library's continuous tokenizer: its video autoencoder, bounded between encoder and decoder but not rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from hwm.config import FSQConfig
from hwm.tokenizers.autoencoder import VideoAutoencoder, to_pixels


class ContinuousTokenizer(VideoAutoencoder):
    """Video to continuous latents and back; satisfies contracts.LatentTokenizer and can be trained.

    Latents lie in about [-1.2, 1.2] and, like tokens, those of what does not move do not change.
    """

    def __init__(self, config: FSQConfig, *, name: str = "continuous") -> None:
        if not config.continuous:
            raise ValueError(f"{name}: a continuous tokenizer needs model.continuous = true")
        super().__init__(config, name=name)
        self.channels = len(config.levels)

    @torch.no_grad()
    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video (B, F, H, W, 3) of whole blocks, or of one shorter clip 1 + 8 n, to float32 latents (B, T, C, h, w)."""
        return self.encode_latents(video_BFHWC)

    @torch.no_grad()
    def decode(self, latents_BTCHW: Tensor) -> Tensor:
        """Latents (B, T, C, h, w) of whole blocks, or of one shorter clip, to uint8 video (B, F, H, W, 3)."""
        if latents_BTCHW.shape[2] != self.channels:
            raise ValueError(f"latents of {latents_BTCHW.shape[2]} channels, but {self.name} has {self.channels}")
        return to_pixels(self.decode_latents(latents_BTCHW.float()))
