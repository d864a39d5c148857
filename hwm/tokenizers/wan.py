"""Wan's video autoencoder (diffusers' AutoencoderKLWan) as a tokenizer of continuous latents.

Frame 0 has a latent step of its own and every four frames after it one more; a block is 21 frames, 6 steps (the
strided clip of the sampling track, `clock.WAN`).  Wan2.2's autoencoder has a spatial stride of 16 and 48 channels,
Wan2.1's 8 and 16.  Latents are the mean of the posterior, normalised per channel by the statistics in the config, as
the transformer expects them; all in float32 (reference wan 1, 6).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hwm.clock import WAN
from hwm.safe_load.paths import is_dir, is_file, reason
from hwm.safe_load.sizes import check_model_folder
from hwm.tokenizers.autoencoder import to_pixels
from hwm.work.files import read_json

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

CLASS = "AutoencoderKLWan"
HUB = "wan:"
"""Begins the name of a model on the hub, as in wan:Wan-AI/Wan2.2-TI2V-5B-Diffusers."""
PATCH = 2
"""Side in latent cells of the transformer's tokens: frames must divide into them too."""


class WanTokenizer:
    """Video to Wan's normalised latents and back; satisfies contracts.LatentTokenizer.

    Not for several threads at once: the network keeps features of the last frames in itself.
    """

    kind: Literal["latents"] = "latents"

    def __init__(self, network: AutoencoderKLWan, *, device: str = "cpu") -> None:
        """network: of any configuration; it becomes float32.

        Raises ValueError for a temporal stride other than 4 (diffusers' class encodes by four frames whatever the
        config says) and for statistics that are not one a channel.
        """
        config = network.config
        stride = 2 ** sum(config.temperal_downsample)
        if stride != WAN.stride or network.encoder.conv_in.in_channels != 3 * (config.patch_size or 1) ** 2:
            raise ValueError(f"a Wan autoencoder of RGB video has temporal stride {WAN.stride}, this one {stride} or no RGB")
        mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
        if mean.shape != (config.z_dim,) or std.shape != (config.z_dim,) or not (std > 0).all():
            raise ValueError(f"latents_mean and latents_std need {config.z_dim} values each, of positive deviation")
        self.device = torch.device(device)
        self._network = network.to(self.device, torch.float32).requires_grad_(False).eval()
        self._mean, self._std = (v.float().to(self.device).view(-1, 1, 1, 1) for v in (mean, std))
        self._fingerprint = ""
        self.clock, self.channels = WAN, int(config.z_dim)
        self.spatial_stride = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
        self.name = f"wan-{self.clock.stride}x{self.spatial_stride}x{self.spatial_stride}"

    @torch.no_grad()
    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video (B, F, H, W, 3) of whole blocks, or of one shorter clip 1 + 4 n, to float32 latents (B, T, C, h, w).

        Raises ValueError for other lengths, whose last frames the network would drop, and unless the sides divide by
        spatial_stride * 2, so that the transformer's patches cover the latents.
        """
        frames, height, width = video_BFHWC.shape[1:4]
        side = self.spatial_stride * PATCH
        if height % side or width % side:
            raise ValueError(f"frames of {height}x{width}: {self.name} needs sides that divide by {side}")
        self.clock.num_grids(frames)  # checks the length
        blocks = video_BFHWC.unflatten(1, (-1, min(frames, self.clock.block))).flatten(0, 1)
        # One block after the other: 21 frames of 512x512 take gigabytes of activations.
        latents = torch.stack([self._encode_block(block_FHWC) for block_FHWC in blocks])
        return latents.movedim(1, 2).unflatten(0, (len(video_BFHWC), -1)).flatten(1, 2)

    def _encode_block(self, block_FHWC: Tensor) -> Tensor:
        pixels_CFHW = block_FHWC.to(self.device).movedim(-1, 0).float().div(127.5).sub(1)
        latents_CTHW = self._network.encode(pixels_CFHW[None]).latent_dist.mode()[0]
        return (latents_CTHW - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents_BTCHW: Tensor) -> Tensor:
        """Latents (B, T, C, h, w) of whole blocks, or of one shorter clip, to uint8 video (B, F, H, W, 3)."""
        if latents_BTCHW.shape[2] != self.channels:
            raise ValueError(f"latents of {latents_BTCHW.shape[2]} channels, but {self.name} has {self.channels}")
        steps = min(latents_BTCHW.shape[1], self.clock.grids)
        if not steps or latents_BTCHW.shape[1] % steps:
            raise ValueError(f"{self.name} decodes whole blocks of {self.clock.grids} grids, got {latents_BTCHW.shape[1]}")
        blocks = latents_BTCHW.unflatten(1, (-1, steps)).flatten(0, 1)
        video = torch.stack([self._decode_block(block_TCHW) for block_TCHW in blocks])
        return video.unflatten(0, (len(latents_BTCHW), -1)).flatten(1, 2)

    def _decode_block(self, block_TCHW: Tensor) -> Tensor:
        latents_CTHW = block_TCHW.to(self.device, torch.float32).movedim(1, 0) * self._std + self._mean
        return to_pixels(self._network.decode(latents_CTHW[None]).sample.movedim(1, 2))[0]

    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights, as float32; computed once, from then on the weights must not change."""
        if not self._fingerprint:
            config = {key: value for key, value in self._network.config.items() if not key.startswith("_")}
            digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
            for key, value in sorted(self._network.state_dict().items()):
                digest.update(f"{key} {tuple(value.shape)}".encode())
                digest.update(value.cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def find_wan(name: str) -> tuple[str, str | None] | None:
    """Source and subfolder of the Wan autoencoder that `name` means, or None if it means something else.

    name: a folder with the autoencoder's config.json; a pipeline's folder, which has it in vae/; or "wan:" and the
    hub name or folder of a pipeline.
    """
    if name.startswith(HUB):
        return name.removeprefix(HUB), "vae"
    for subfolder in (None, "vae"):
        config = Path(name, subfolder or "", "config.json")
        if is_file(config) and read_json(config).get("_class_name") == CLASS:
            return name, subfolder
    return None


def open_wan(source: str, *, subfolder: str | None = None, device: str = "cpu") -> WanTokenizer:
    """The autoencoder in a local folder or, by hub name, in diffusers' cache or on the hub (extra `wan`).

    subfolder: as `find_wan` gives it.  Raises ValueError when diffusers is missing or the autoencoder cannot be found,
    is another class, or is not whole.
    """
    try:
        from diffusers import AutoencoderKLWan

        from hwm.models.wan.transformer import expect_loaded
    except ImportError as error:
        need = "install the extra: pip install 'humanoid-world-models[wan]'"
        raise ValueError(f"{source}: needs diffusers, which cannot be imported ({error}); {need}") from None
    check_model_folder(source, subfolder, model=AutoencoderKLWan)
    try:
        network, report = AutoencoderKLWan.from_pretrained(
            source, subfolder=subfolder, dtype=torch.float32, use_safetensors=True, local_files_only=is_dir(Path(source)),
            output_loading_info=True,
        )
    except Exception as error:  # a damaged configuration can raise anything
        raise ValueError(f"{source}: no Wan autoencoder that diffusers can open: {' '.join(str(error).split())[:300]}") from None
    faults = {kind: keys for kind, keys in report.items() if keys}  # such weights would be random
    if faults:
        raise ValueError(f"{source}: the autoencoder's weights do not fit its config.json: {faults}")
    expect_loaded(network, source)
    try:
        return WanTokenizer(network, device=device)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: its config.json is of no Wan autoencoder ({reason(error)}); fetch it again") from None
