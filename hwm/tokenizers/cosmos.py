"""NVIDIA's Cosmos tokenizers, from their official TorchScript pairs or in diffusers' form, behind the library's contracts.

A pair (encoder.jit, decoder.jit of nvidia/Cosmos-Tokenizer-DV8x8x8, -CV8x16x16 and their like) is a program, not data:
loading it runs code.  It is therefore opened only with `trust=True`, for files whose origin the user vouches for, and
even then runs in a process of its own (`safe_load.program`).

Which kind a folder holds is asked of the encoder itself, on a short black clip: whole numbers are the ids of a DV
model, floats the latents of a CV model, and their shape tells strides and channels.  So no folder needs a certain name.

Pixels go in as [-1, 1]; 17 frames give 3 grids at stride 8; the quantiser of DV has 64 000 codes, levels 8 8 8 5 5 5
(reference A.4, D.2: Cosmos-Tokenizer quantizers.py and video_lib.py; 1X dataset card).

diffusers' form (AutoencoderKLCosmos) of the continuous ones is data only, so no trust is needed: config.json and
diffusion_pytorch_model.safetensors, as `save_pretrained` writes them and as the `vae` folder of a Cosmos pipeline is
published.  Latents are those of the encoder, raw; what latents_mean and latents_std say is not applied, the statistics of
a latent dataset normalise.
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hwm.clock import Clock
from hwm.safe_load.program import open_programs
from hwm.safe_load.sizes import check_model_folder
from hwm.tokenizers import quantiser
from hwm.work.files import read_json

Network = Callable[[Tensor], Tensor | tuple[Tensor, ...]]

BLOCK = 17
CLASS = "AutoencoderKLCosmos"
PROBE_SIDE = 64
"""Side in pixels of the black clip; every Cosmos stride divides it."""


class CosmosPair:
    """An encoder and a decoder and what a trial tells of them: strides in time and space, channels, ids or latents."""

    def __init__(
        self, encoder: Network, decoder: Network, *, files: list[Path], device: str, dtype: torch.dtype, family: str
    ) -> None:
        """Encode one black clip.  files: those that decide the output.  family: begins the name.

        Raises ValueError when what comes out is that of none of Cosmos' video models.
        """
        self._encoder, self._decoder, self._files = encoder, decoder, files
        self.device, self.dtype = torch.device(device), dtype
        grids = self._encode_block(torch.zeros(1, BLOCK, PROBE_SIDE, PROBE_SIDE, 3, dtype=torch.uint8))
        self.discrete = not grids.is_floating_point()
        fits = grids.ndim == (4 if self.discrete else 5)
        steps, height, width = grids.shape[-3:] if fits else (0, 0, 0)
        if steps < 2 or (BLOCK - 1) % (steps - 1) or height != width or not height or PROBE_SIDE % height:
            raise ValueError(f"{files[0]}: gives {tuple(grids.shape)} for {BLOCK} frames: no Cosmos video tokenizer")
        self.clock = Clock(stride=(BLOCK - 1) // (steps - 1), block=BLOCK)
        self.spatial_stride = PROBE_SIDE // height
        self.channels = 0 if self.discrete else grids.shape[1]
        strides = f"{self.clock.stride}x{self.spatial_stride}x{self.spatial_stride}"
        self.name = f"{family}-{'dv' if self.discrete else 'cv'}{strides}"

    @torch.no_grad()
    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video of whole blocks, or of one shorter clip, to ids (B, T, h, w) or latents (B, C, T, h, w)."""
        frames, height, width = video_BFHWC.shape[1:4]
        if height % self.spatial_stride or width % self.spatial_stride:
            raise ValueError(f"frames of {height}x{width} do not divide by the tokenizer's stride {self.spatial_stride}")
        self.clock.num_grids(frames)  # checks the length
        blocks = video_BFHWC.unflatten(1, (-1, min(frames, BLOCK))).flatten(0, 1)
        return self._encode_block(blocks)

    def _encode_block(self, video_BFHWC: Tensor) -> Tensor:
        pixels = video_BFHWC.movedim(-1, 1).to(self.device, self.dtype).div(127.5).sub(1)
        with torch.no_grad():
            return _first(self._encoder(pixels))

    @torch.no_grad()
    def decode(self, blocks: Tensor, *, batch: int) -> Tensor:
        """Ids or latents of blocks, each decoded by itself, to uint8 video (batch, F, H, W, 3)."""
        video = _first(self._decoder(blocks)).float()
        pixels = (((video + 1) / 2).clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
        return pixels.movedim(1, -1).unflatten(0, (batch, -1)).flatten(1, 2)

    def blocks(self, grids: Tensor) -> Tensor:
        """Grids (B, T, ...) of whole blocks, or of one shorter clip, as (N, T of a block, ...) on the pair's device."""
        steps = min(grids.shape[1], self.clock.grids)
        if not steps or grids.shape[1] % steps:
            raise ValueError(f"Cosmos decodes whole blocks of {self.clock.grids} grids, got {grids.shape[1]}")
        return grids.to(self.device).unflatten(1, (-1, steps)).flatten(0, 1)

    def fingerprint(self) -> str:
        """SHA-256 of the files."""
        digest = hashlib.sha256()
        for file in self._files:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def _first(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    return found if isinstance(found, Tensor) else found[0]


class CosmosTokenizer:
    """Cosmos DV8x8x8 and its like: tokens; satisfies contracts.Tokenizer.

    The encoder returns (ids, codes) and the decoder takes ids, as in the official files.
    """

    kind: Literal["tokens"] = "tokens"

    def __init__(self, pair: CosmosPair) -> None:
        assert pair.discrete
        self._pair, self.name, self.clock, self.spatial_stride = pair, pair.name, pair.clock, pair.spatial_stride
        self.fingerprint, self.levels = pair.fingerprint, quantiser.COSMOS_LEVELS
        self.vocab_size = math.prod(self.levels)

    @property
    def codes_VC(self) -> Tensor:
        """Code vector of every id, float32 (64000, 6)."""
        return quantiser.code_table(self.levels).to(self._pair.device)

    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video (B, 17 n, H, W, 3), or one shorter clip, to int64 tokens (B, 3 n, H/8, W/8)."""
        return self._pair.encode(video_BFHWC).long().unflatten(0, (len(video_BFHWC), -1)).flatten(1, 2)

    def decode(self, tokens_BTHW: Tensor) -> Tensor:
        """int64 tokens (B, 3 n, h, w), or those of one shorter clip, to uint8 video (B, 17 n, 8h, 8w, 3)."""
        if tokens_BTHW.numel() and not 0 <= int(tokens_BTHW.min()) <= int(tokens_BTHW.max()) < self.vocab_size:
            raise ValueError(f"tokens outside 0..{self.vocab_size - 1}: not tokens of {self.name}")
        return self._pair.decode(self._pair.blocks(tokens_BTHW), batch=len(tokens_BTHW))

    def decode_codes(self, codes_BTHWC: Tensor) -> Tensor:
        """Code vectors to video through their nearest ids: the official decoder takes nothing between them."""
        digits = quantiser.codes_to_digits(codes_BTHWC, self.levels)
        return self.decode(quantiser.digits_to_ids(digits, self.levels))


class CosmosLatentTokenizer:
    """Cosmos CV8x16x16 and its like: continuous latents, as the encoder gives them; satisfies contracts.LatentTokenizer.

    The encoder returns the latents, alone or first in a tuple, as in the official files.
    """

    kind: Literal["latents"] = "latents"

    def __init__(self, pair: CosmosPair) -> None:
        assert not pair.discrete
        self._pair, self.name, self.clock, self.spatial_stride = pair, pair.name, pair.clock, pair.spatial_stride
        self.fingerprint, self.channels = pair.fingerprint, pair.channels

    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video (B, 17 n, H, W, 3), or one shorter clip, to float32 latents (B, 3 n, 16, H/16, W/16)."""
        latents = self._pair.encode(video_BFHWC).float().movedim(1, 2)
        return latents.unflatten(0, (len(video_BFHWC), -1)).flatten(1, 2)

    def decode(self, latents_BTCHW: Tensor) -> Tensor:
        """Latents (B, 3 n, 16, h, w), or those of one shorter clip, to uint8 video (B, 17 n, 16h, 16w, 3)."""
        if latents_BTCHW.shape[2] != self.channels:
            raise ValueError(f"latents of {latents_BTCHW.shape[2]} channels, but {self.name} has {self.channels}")
        blocks = self._pair.blocks(latents_BTCHW).movedim(2, 1).to(self._pair.dtype)
        return self._pair.decode(blocks, batch=len(latents_BTCHW))


def open_cosmos(
    folder: str | Path, *, trust: bool = False, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> CosmosTokenizer | CosmosLatentTokenizer:
    """Open encoder.jit and decoder.jit in `folder` as the kind of tokenizer that they are.

    Raises ValueError without `trust`, when a file is missing, or when they are none of Cosmos' video models.
    """
    files = [Path(folder) / "encoder.jit", Path(folder) / "decoder.jit"]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: not found; download both files of a Cosmos-Tokenizer into {folder}")
    encoder, decoder = open_programs(files, trust=trust, device=device, dtype=dtype)
    pair = CosmosPair(encoder, decoder, files=files, device=device, dtype=dtype, family="cosmos")
    return CosmosTokenizer(pair) if pair.discrete else CosmosLatentTokenizer(pair)


def open_cosmos_diffusers(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> CosmosLatentTokenizer:
    """The autoencoder in a local folder, through diffusers (extra `wan`).

    Raises ValueError when the folder holds another class, diffusers is missing, or weights do not fit the configuration.
    """
    config, weights = Path(folder) / "config.json", Path(folder) / "diffusion_pytorch_model.safetensors"
    name = read_json(config).get("_class_name")
    if name != CLASS:
        raise ValueError(f"{config}: holds {name!r}, expected {CLASS!r}: give the folder of a Cosmos autoencoder")
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; download the safetensors file of the autoencoder into {folder}")
    try:
        from diffusers import AutoencoderKLCosmos
    except ImportError as error:
        need = "install the extra: pip install 'humanoid-world-models[wan]'"
        raise ValueError(f"{folder}: needs diffusers, which cannot be imported ({error}); {need}") from None
    check_model_folder(folder, model=AutoencoderKLCosmos)
    try:
        network, report = AutoencoderKLCosmos.from_pretrained(
            str(folder), torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # a damaged configuration can raise anything
        raise ValueError(f"{folder}: cannot be opened by diffusers: {' '.join(str(error).split())}") from None
    faults = {kind: keys for kind, keys in report.items() if keys}  # such weights would be random
    if faults:
        raise ValueError(f"{weights}: does not fit {config.name}: {faults}")
    network = network.to(device).eval()

    def encode(pixels: Tensor) -> Tensor:
        return network.encode(pixels, return_dict=False)[0].mode()

    def decode(latents: Tensor) -> tuple[Tensor, ...]:
        return network.decode(latents, return_dict=False)

    files = [config, weights]
    return CosmosLatentTokenizer(CosmosPair(encode, decode, files=files, device=device, dtype=dtype, family="cosmos-diffusers"))
