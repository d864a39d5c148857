"""Frames of what a model saw and of what it predicted: always decoded from whole blocks of the tokenizer.

Where the context ends inside a block, the future is decoded together with the context grids of that block and the
future frames are taken from the result; whole blocks of context are decoded once, for the baselines and the pictures.
"""

from __future__ import annotations

import time
from typing import cast

import torch
from torch import Tensor

from hwm.contracts import LatentTokenizer, Tokenizer


class FrameDecoder:
    """Turns token grids (B, T, H, W), code vectors (B, T, H, W, C) or latents (B, T, C, H, W) into uint8 frames.

    num_past, num_future: frames of context and future.  num_shared: past frames in the block where the future begins.
    seconds: time spent.  Raises ValueError where context and future together are not whole blocks.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | LatentTokenizer,
        *,
        context_grids: int,
        future_grids: int,
        device: torch.device | str = "cpu",
    ) -> None:
        clock, total = tokenizer.clock, context_grids + future_grids
        if total % clock.grids:
            raise ValueError(
                f"frames are decoded in whole blocks of {clock.grids} grids; the model has {context_grids} "
                f"context and {future_grids} future grids"
            )
        self.tokenizer, self.device, self.seconds = tokenizer, device, 0.0
        self.num_past = clock.num_frames(context_grids)
        self.num_future = clock.num_frames(total) - self.num_past
        self._shared_grids = context_grids % clock.grids
        self.num_shared = clock.num_frames(self._shared_grids)

    def future(self, context: Tensor, future: Tensor) -> Tensor:
        """Frames of a future after its context, both token grids or both latents: uint8 (B, num_future, H, W, 3)."""
        if self._shared_grids:
            future = torch.cat([context[:, -self._shared_grids :].to(future), future], 1)
        return self._decode(future)[:, self.num_shared :]

    def expected_future(self, context_BTHW: Tensor, codes_BTHWC: Tensor) -> Tensor:
        """Frames of a future of code vectors after its context tokens: uint8 (B, num_future, H, W, 3)."""
        if self._shared_grids:
            codes_VC = cast(Tokenizer, self.tokenizer).codes_VC.to(codes_BTHWC)
            shared_BTHWC = codes_VC[context_BTHW[:, -self._shared_grids :].to(codes_VC.device)]
            codes_BTHWC = torch.cat([shared_BTHWC, codes_BTHWC], 1)
        return self._decode(codes_BTHWC, codes=True)[:, self.num_shared :]

    def past_and_repeated(self, context: Tensor, repeated: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of the context, and of a future that repeats its last grid; the true future is not looked at."""
        frames = self._decode(torch.cat([context, repeated], 1))
        return frames[:, : self.num_past], frames[:, self.num_past :]

    def whole_blocks(self, past_BFHWC: Tensor, future_BFHWC: Tensor) -> Tensor:
        """Future frames with the past frames of their first block before them."""
        return torch.cat([past_BFHWC[:, self.num_past - self.num_shared :], future_BFHWC], 1)

    def _decode(self, grids: Tensor, *, codes: bool = False) -> Tensor:
        started = time.perf_counter()
        grids = grids.to(self.device)
        video = cast(Tokenizer, self.tokenizer).decode_codes(grids) if codes else self.tokenizer.decode(grids)
        video = video.cpu()
        self.seconds += time.perf_counter() - started
        return video
