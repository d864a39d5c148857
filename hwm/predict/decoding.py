"""Frames of what a model saw and of what it predicted: always decoded from whole blocks of the tokenizer.

Where the context ends inside a block, the future is decoded together with the context grids of that block and the
future frames are taken from the result; whole blocks of context are decoded once, for the baselines and the pictures.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from hwm.contracts import LatentTokenizer, Tokenizer


class FrameDecoder:
    """Turns token grids (B, T, H, W), code vectors (B, T, H, W, C) or latents (B, T, C, H, W) into uint8 frames on the CPU.

    Raises ValueError where context and future together are not whole blocks.
    """

    def __init__(
        self, tokenizer: Tokenizer | LatentTokenizer, *, context_grids: int, future_grids: int, device: torch.device | str = "cpu"
    ) -> None:  # fmt: skip
        clock = tokenizer.clock
        if (context_grids + future_grids) % clock.grids:
            raise ValueError(
                f"frames are decoded in whole blocks of {clock.grids} grids; the model has {context_grids} "
                f"context and {future_grids} future grids"
            )
        self.tokenizer, self.device = tokenizer, device
        self._num_past, self._shared = clock.num_frames(context_grids), context_grids % clock.grids
        self._num_shared = clock.num_frames(self._shared)  # past frames in the block where the future begins

    def future(self, context: Tensor, future: Tensor) -> Tensor:
        """Frames of a future after its context, both token grids or both latents: uint8 (B, F, H, W, 3)."""
        shared = context[:, context.shape[1] - self._shared :]
        whole = torch.cat([shared.to(future), future], 1).to(self.device)
        return self.tokenizer.decode(whole)[:, self._num_shared :].cpu()

    def expected_future(self, context_BTHW: Tensor, codes_BTHWC: Tensor) -> Tensor:
        """Frames of a future of code vectors after its context tokens: uint8 (B, F, H, W, 3)."""
        tokenizer = cast(Tokenizer, self.tokenizer)
        codes_VC = tokenizer.codes_VC.to(codes_BTHWC)
        shared_BTHW = context_BTHW[:, context_BTHW.shape[1] - self._shared :].to(codes_VC.device)
        whole_BTHWC = torch.cat([codes_VC[shared_BTHW], codes_BTHWC], 1).to(self.device)
        return tokenizer.decode_codes(whole_BTHWC)[:, self._num_shared :].cpu()

    def past_and_repeated(self, context: Tensor, repeated: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of the context, and of a future that repeats its last grid; the true future is not looked at."""
        frames = self.tokenizer.decode(torch.cat([context, repeated], 1).to(self.device)).cpu()
        return frames[:, : self._num_past], frames[:, self._num_past :]
