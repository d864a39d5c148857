"""What a world model has to beat: pictures and tokens that need no learning."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def copy_last_frame(context_BFHWC: Tensor, *, num_frames: int) -> Tensor:
    """The last context frame, `num_frames` times: uint8 (B, num_frames, H, W, C)."""
    return context_BFHWC[:, -1:].expand(-1, num_frames, -1, -1, -1).contiguous()


def mean_of_context(context_BFHWC: Tensor, *, num_frames: int) -> Tensor:
    """The mean of the context frames, rounded, `num_frames` times: uint8 (B, num_frames, H, W, C)."""
    mean = context_BFHWC.to(torch.float32).mean(1, keepdim=True).round().to(torch.uint8)
    return mean.expand(-1, num_frames, -1, -1, -1).contiguous()


def copy_last_grid(context: Tensor, *, num_grids: int) -> Tensor:
    """The last context grid, tokens (B, T, H, W) or latents (B, T, C, H, W), `num_grids` times."""
    return context[:, -1:].repeat_interleave(num_grids, 1)


def unigram_counts(batches: Iterable[Tensor], *, vocab_size: int) -> Tensor:
    """How often each id occurs in training tokens: int64 (V,).

    batches: token tensors of any shape in [0, vocab_size).  Raises ValueError where there are none.
    """
    counts = [torch.bincount(tokens.flatten(), minlength=vocab_size) for tokens in batches]
    if not counts:
        raise ValueError("token frequencies need at least one batch of training tokens")
    return torch.stack(counts).sum(0)


def unigram_nll(tokens_BTHW: Tensor, counts_V: Tensor) -> Tensor:
    """-log of the add-one smoothed frequency of each token in nats, float64 (B, T, H, W)."""
    smoothed = counts_V.to(torch.float64) + 1
    return (smoothed.sum().log() - smoothed.log())[tokens_BTHW]
