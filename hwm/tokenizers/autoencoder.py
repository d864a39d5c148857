"""The library's own video autoencoder: small, causal, trainable anywhere, one weight file for every frame size.

A block of frames becomes grids by the clock: 17 frames by 8 are 3 grids as for Cosmos, 21 by 4 are 6 as for Wan
(stride 4, 8 or 16 in space).  The first frame stands for a still group, so that every grid comes from as many frames
and a motionless clip gives the same grid again and again: what does not move does not change its latents, which is
what makes them easy to predict.

Network: patches of 4 frames x p x p pixels, residual blocks of a spatial convolution and a causal mixing over
time, one step of merging (1 or 2 in time and in space), residual blocks, bounded latents; the decoder mirrors it.
Normalisation is over channels only, so nothing leaks from later frames.
"""

import hashlib
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.clock import COSMOS, Clock
from hwm.contracts import Batch, Kind
from hwm.model_config import FSQConfig
from hwm.tokenizers import quantiser

PATCH_FRAMES = 4


class ChannelNorm(nn.LayerNorm):
    """Normalisation over the channels of (N, C, H, W), each place and time step by itself."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return super().forward(x_NCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Spatial 3x3 convolution, then a mix in which half of the channels come from the previous time step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.space = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Conv2d(channels, channels, 1)

    def forward(self, x_NCHW: Tensor, steps: int) -> Tensor:
        h = F.silu(self.space(self.norm(x_NCHW)))
        return x_NCHW + self.time(shift_half(h, steps))


def shift_half(x_NCHW: Tensor, steps: int) -> Tensor:
    """Replace the second half of the channels by those of one time step earlier.

    N = B * steps, time fastest; before the first step stands the first step itself.
    """
    now, past = x_NCHW.unflatten(0, (-1, steps)).chunk(2, 2)
    return torch.cat([now, torch.cat([past[:, :1], past[:, :-1]], 1)], 2).flatten(0, 1)


def to_patches(video_BFCHW: Tensor, size: int) -> Tensor:
    """(B, F, C, H, W) to (B * F/4, 4*C*size^2, H/size, W/size)."""
    return F.pixel_unshuffle(video_BFCHW.unflatten(1, (-1, PATCH_FRAMES)).flatten(2, 3).flatten(0, 1), size)


def from_patches(x_NCHW: Tensor, size: int, steps: int) -> Tensor:
    """Inverse of `to_patches`: (B * steps, 12*size^2, h, w) to (B, F, 3, H, W)."""
    frames = F.pixel_shuffle(x_NCHW, size).unflatten(1, (PATCH_FRAMES, -1))
    return frames.unflatten(0, (-1, steps)).flatten(1, 2)


def to_pixels(video_BFCHW: Tensor) -> Tensor:
    """Float video (B, F, 3, H, W) of values in about [-1, 1] to uint8 (B, F, H, W, 3)."""
    return ((video_BFCHW.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).movedim(2, -1)


class VideoAutoencoder(nn.Module):
    """Network, training and fingerprint of both tokenizers: quantised between encoder and decoder, or bounded alone."""

    kind: Kind
    validation_key = "mse"

    def __init__(self, config: FSQConfig, *, name: str) -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.clock = Clock(stride=config.temporal_stride, block=config.block)
        self.levels = config.levels
        self.spatial_stride = config.spatial_stride
        self.patch = 8 if config.spatial_stride == 16 else 4
        self.merge = config.spatial_stride // self.patch
        self.merge_time = config.temporal_stride // PATCH_FRAMES
        fine, coarse = config.channels, 3 * config.channels
        patch_values, merged = 3 * PATCH_FRAMES * self.patch**2, self.merge_time * fine * self.merge**2
        self.patch_in = nn.Conv2d(patch_values, fine, 1)
        self.fine_in = nn.ModuleList(ResidualBlock(fine) for _ in range(config.depth))
        self.merge_in = nn.Conv2d(merged, coarse, 1)
        self.coarse_in = nn.ModuleList(ResidualBlock(coarse) for _ in range(config.depth))
        self.norm_in = ChannelNorm(coarse)
        self.to_code = nn.Conv2d(coarse, len(config.levels), 1)
        self.from_code = nn.Conv2d(len(config.levels), coarse, 1)
        self.coarse_out = nn.ModuleList(ResidualBlock(coarse) for _ in range(config.depth))
        self.merge_out = nn.Conv2d(coarse, merged, 1)
        self.fine_out = nn.ModuleList(ResidualBlock(fine) for _ in range(config.depth))
        self.norm_out = ChannelNorm(fine)
        self.patch_out = nn.Conv2d(fine, patch_values, 1)

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual blocks of encoder and decoder."""
        return [*self.fine_in, *self.coarse_in, *self.coarse_out, *self.fine_out]

    def encode_latents(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video (B, F, H, W, 3) of whole blocks, or of one shorter clip, to bounded latents (B, T, C, h, w).

        F is whole blocks, or 1 + n * stride below one block.
        Raises ValueError for other lengths or a side not divisible by the stride.
        """
        B = len(video_BFHWC)
        z = self.to_code(self.features(video_BFHWC).flatten(0, 1)).float().permute(0, 2, 3, 1)
        return quantiser.bound(z, self.levels).permute(0, 3, 1, 2).unflatten(0, (B, -1))

    def features(self, video_BFHWC: Tensor) -> Tensor:
        """The normalised activations (B, T, D, h, w) of the encoder's last layer, from which the code is projected.

        Takes and raises what `encode_latents` does.
        """
        B, frames, height, width, _ = video_BFHWC.shape
        if height % self.spatial_stride or width % self.spatial_stride:
            raise ValueError(f"frames of {height}x{width} do not divide by the tokenizer's stride {self.spatial_stride}")
        self.clock.num_grids(frames)  # checks the length
        block = min(frames, self.clock.block)
        video = self._normalise(video_BFHWC).unflatten(1, (-1, block)).flatten(0, 1)
        still = video[:, :1].expand(-1, self.clock.stride - 1, -1, -1, -1)
        x = to_patches(torch.cat([still, video], 1), self.patch)
        steps = (block + self.clock.stride - 1) // PATCH_FRAMES
        x = self.patch_in(x.contiguous(memory_format=torch.channels_last))
        for layer in self.fine_in:
            x = layer(x, steps)
        x = F.pixel_unshuffle(x, self.merge).unflatten(0, (-1, self.merge_time)).flatten(1, 2)
        x = self.merge_in(x)
        for layer in self.coarse_in:
            x = layer(x, steps // self.merge_time)
        return self.norm_in(x).unflatten(0, (B, -1))

    def decode_latents(self, codes_BTCHW: Tensor) -> Tensor:
        """Codes or latents (B, T, C, h, w) of whole blocks (or one shorter clip) to float video (B, F, 3, H, W).

        Values lie in about [-1, 1].  Raises ValueError for grids that are not whole blocks.
        """
        B, grids = codes_BTCHW.shape[:2]
        steps = min(grids, self.clock.grids)
        if grids > steps and grids % steps:
            raise ValueError(f"{grids} grids are not whole blocks of {self.clock.grids}")
        x = codes_BTCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.from_code(x)
        for layer in self.coarse_out:
            x = layer(x, steps)
        x = F.pixel_shuffle(self.merge_out(x).unflatten(1, (self.merge_time, -1)).flatten(0, 1), self.merge)
        steps *= self.merge_time
        for layer in self.fine_out:
            x = layer(x, steps)
        x = self.patch_out(F.silu(self.norm_out(x)))
        video = from_patches(x, self.patch, steps)[:, self.clock.stride - 1 :]
        return video.unflatten(0, (B, -1)).flatten(1, 2)

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """None: video needs no states."""
        return []

    def idle_parameters(self) -> list[str]:
        """None."""
        return []

    def first_loss(self, batch: Batch) -> float | None:
        """Mean square of the pixels, in -1..1, and of the output of torch's own initial weights on normalised activations."""
        assert batch.video_BFHWC is not None
        output = (0.356 + 1 / self.config.channels) / 3  # 0.356: mean square of SiLU of a normal number
        return self._normalise(batch.video_BFHWC).square().mean().item() + output

    def fingerprint(self) -> str:
        """SHA-256 over configuration and weights: equal fingerprints give equal tokens or latents."""
        # Only what shapes the output: a setting of training that a later version adds must not disown older tokens.
        network: tuple[object, ...] = (self.config.levels, self.config.spatial_stride, self.config.continuous)
        network += (self.clock,) if self.clock != COSMOS else ()
        digest = hashlib.sha256(repr(network).encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Pixel error and error of spatial differences (which keeps edges) of the reconstruction of video_BFHWC.

        With config.steady_weight also the change of the latents from grid to grid.  Continuous latents get
        config.latent_noise on the way to the decoder.
        """
        assert batch.video_BFHWC is not None
        latents, video = self._reconstruct(batch.video_BFHWC, noise_from=generator)
        error = video - self._normalise(batch.video_BFHWC)
        mse, absolute = error.square().mean(), error.abs().mean()
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        change = latents.diff(dim=1).abs().mean()
        loss = mse + 0.1 * (absolute + self.config.edge_weight * edges) + self.config.steady_weight * change
        return {"loss": loss, "mse": mse.detach(), "edges": edges.detach(), "change": change.detach()}

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error in [0, 1] and PSNR in dB of the 8-bit reconstruction, one value per clip."""
        del generator
        assert batch.video_BFHWC is not None
        pixels = to_pixels(self._reconstruct(batch.video_BFHWC)[1]).float()
        mse_BF = (pixels - batch.video_BFHWC.float()).div(255).square().mean((2, 3, 4))
        return {"mse": mse_BF.mean(1), "psnr": (-10 * mse_BF.clamp(min=1e-10).log10()).mean(1)}

    def _reconstruct(self, video_BFHWC: Tensor, *, noise_from: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latents as encoded, and the video decoded from what the decoder is given: rounded, or with noise."""
        latents = self.encode_latents(video_BFHWC)
        codes = latents
        if not self.config.continuous:
            codes = quantiser.quantise(latents.movedim(2, -1), self.levels).movedim(-1, 2)
        elif self.config.latent_noise and noise_from is not None:
            noise = torch.randn(latents.shape, generator=noise_from, device=noise_from.device)
            codes = latents + self.config.latent_noise * noise.to(latents.device)
        return latents, self.decode_latents(codes).float()

    @staticmethod
    def _normalise(video_BFHWC: Tensor) -> Tensor:
        return video_BFHWC.movedim(-1, 2).float().div(127.5).sub(1)


class FSQTokenizer(VideoAutoencoder):
    """Video to the ids of a finite scalar quantiser and back; satisfies contracts.Tokenizer and can be trained."""

    kind: Literal["tokens"] = "tokens"

    def __init__(self, config: FSQConfig, *, name: str = "fsq") -> None:
        if config.continuous:
            raise ValueError(f"{name}: model.continuous asks for latents, this tokenizer gives tokens")
        super().__init__(config, name=name)
        self.vocab_size = math.prod(config.levels)

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


class ContinuousTokenizer(VideoAutoencoder):
    """Video to continuous latents and back; satisfies contracts.LatentTokenizer and can be trained.

    Latents lie in about [-1.2, 1.2] and, like tokens, those of what does not move do not change.
    """

    kind: Literal["latents"] = "latents"

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
