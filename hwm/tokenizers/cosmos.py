"""NVIDIA Cosmos DV8x8x8 from its official TorchScript pair, behind the library's tokenizer contract.

The pair (encoder.jit, decoder.jit of nvidia/Cosmos-Tokenizer-DV8x8x8) is a program, not data: loading it runs
code.  It is therefore opened only with `trust=True`, for files whose origin the user vouches for.

Pixels go in as [-1, 1]; 17 frames give 3 grids; the quantiser has 64 000 codes, levels 8 8 8 5 5 5
(reference: Cosmos-Tokenizer quantizers.py and video_lib.py; 1X dataset card).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from hwm.clock import COSMOS, Clock
from hwm.tokenizers import quantiser


class CosmosTokenizer:
    """Cosmos DV8x8x8; satisfies contracts.Tokenizer.

    The encoder returns (ids, codes) and the decoder takes ids, as in the official files; both get one block of
    17 frames (3 grids) at a time, since blocks are coded independently.
    """

    name = "cosmos-dv8x8x8"

    def __init__(
        self, folder: str | Path, *, trust: bool = False, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """Open encoder.jit and decoder.jit in `folder`.

        Raises ValueError without `trust`, or when a file is missing.
        """
        self.clock: Clock = COSMOS
        self.levels = quantiser.COSMOS_LEVELS
        self.spatial_stride = 8
        self.vocab_size = quantiser.vocabulary(self.levels)
        self._files = [Path(folder) / "encoder.jit", Path(folder) / "decoder.jit"]
        for file in self._files:
            if not file.is_file():
                raise ValueError(f"{file}: not found; download nvidia/Cosmos-Tokenizer-DV8x8x8 into {folder}")
        if not trust:
            raise ValueError(
                f"{self._files[0]}: a TorchScript file is a program and runs when it is used; "
                "pass trust=True (--trust) if you know where it comes from"
            )
        self._device, self._dtype = torch.device(device), dtype
        self._encoder, self._decoder = (torch.jit.load(str(f), map_location=device).to(dtype).eval() for f in self._files)

    @property
    def codes_VC(self) -> Tensor:
        """Code vector of every id, float32 (64000, 6)."""
        return quantiser.code_table(self.levels).to(self._device)

    @torch.no_grad()
    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video (B, 17 n, H, W, 3) to int64 tokens (B, 3 n, H/8, W/8)."""
        B, frames = video_BFHWC.shape[:2]
        if frames % self.clock.block:
            raise ValueError(f"Cosmos encodes whole blocks of {self.clock.block} frames, got {frames} frames")
        blocks = video_BFHWC.unflatten(1, (-1, self.clock.block)).flatten(0, 1).movedim(-1, 1)
        pixels = blocks.to(self._device, self._dtype).div(127.5).sub(1)
        ids = self._encoder(pixels)[0]
        return ids.long().unflatten(0, (B, -1)).flatten(1, 2)

    @torch.no_grad()
    def decode(self, tokens_BTHW: Tensor) -> Tensor:
        """int64 tokens (B, 3 n, h, w) to uint8 video (B, 17 n, 8h, 8w, 3); every block decoded by itself."""
        if tokens_BTHW.numel() and not 0 <= int(tokens_BTHW.min()) <= int(tokens_BTHW.max()) < self.vocab_size:
            raise ValueError(f"tokens outside 0..{self.vocab_size - 1}: not Cosmos DV8x8x8 tokens")
        B, grids = tokens_BTHW.shape[:2]
        if grids % self.clock.grids:
            raise ValueError(f"Cosmos decodes whole blocks of {self.clock.grids} grids, got {grids}")
        blocks = tokens_BTHW.to(self._device).unflatten(1, (-1, self.clock.grids)).flatten(0, 1)
        video = self._decoder(blocks).float()
        pixels = (((video + 1) / 2).clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
        return pixels.movedim(1, -1).unflatten(0, (B, -1)).flatten(1, 2)

    def decode_codes(self, codes_BTHWC: Tensor) -> Tensor:
        """Code vectors to video through their nearest ids: the official decoder takes nothing between them."""
        digits = quantiser.codes_to_digits(codes_BTHWC, self.levels)
        return self.decode(quantiser.digits_to_ids(digits, self.levels))

    def fingerprint(self) -> str:
        """SHA-256 of the two files."""
        digest = hashlib.sha256()
        for file in self._files:
            with file.open("rb") as stream:
                for chunk in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(chunk)
        return digest.hexdigest()
