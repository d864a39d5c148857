"""Masked video modelling: how clips are masked in training, how masks shrink in prediction.

Sources: HWM paper section 2.2; MaskGIT (cosine schedule); reference C.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hwm.nn.attention import KVCache


def random_mask(shape: tuple[int, int, int, int], *, generator: torch.Generator) -> Tensor:
    """Mask for grids (B, T, H, W), bool, True is masked: per grid r ~ U(0, 1), then each token with cos(pi/2 r).

    At least one token of the batch is masked: where chance leaves none, the one that came nearest.
    """
    B, T, _, _ = shape
    device = generator.device
    probability_BT11 = torch.cos(math.pi / 2 * torch.rand(B, T, 1, 1, generator=generator, device=device))
    distance = torch.rand(shape, generator=generator, device=device) - probability_BT11
    masked = distance < 0
    masked.view(-1)[distance.argmin()] = True
    return masked


def num_masked(step: int, steps: int, places: int) -> int:
    """Places of a grid still masked after refinement step `step` of 0..steps-1: ceil(cos(pi/2 (step + 1)/steps) places)."""
    if step + 1 == steps:
        return 0
    # Rounding in the cosine must not add a place to a whole number.
    return math.ceil(math.cos(math.pi / 2 * (step + 1) / steps) * places - 1e-9)


def masks_left(steps: int, places: int) -> list[int]:
    """Places still masked after each pass of `steps` refinement steps, strictly falling to 0.

    A step that would leave as many as it found decides nothing and is no pass.
    """
    counts = dict.fromkeys(num_masked(step, steps, places) for step in range(steps))
    return [count for count in counts if count < places]


def remask(masked_NS: Tensor, confidence_NS: Tensor, num: int) -> Tensor:
    """The `num` places of every row that are masked and least confident, bool; they stay masked."""
    lowest = confidence_NS.masked_fill(~masked_NS, torch.inf).topk(num, 1, largest=False).indices
    return torch.zeros_like(masked_NS).scatter_(1, lowest, True)


@dataclass(frozen=True)
class Draft:
    """Clips being filled in: `copies` samples of the batch, one after the other in R, of all G grids.

    tokens_RGS: ids, any where masked.  masked_RGS: bool, True is not decided yet.  state_RGD: action tokens of the grids.
    cache: what the blocks remember of the first slots, those that nothing to come can change.
    """

    tokens_RGS: Tensor
    masked_RGS: Tensor
    state_RGD: Tensor
    cache: KVCache
    copies: int = 1

    @classmethod
    def of(cls, context_BTHW: Tensor, state_BGD: Tensor) -> Draft:
        """The context, and behind it masks up to the last grid that there are states for."""
        context_BTS, num_future = context_BTHW.flatten(2), state_BGD.shape[1] - context_BTHW.shape[1]
        tokens_BGS = torch.cat([context_BTS, context_BTS[:, :1].expand(-1, num_future, -1)], 1)
        masked_BGS = torch.ones_like(tokens_BGS, dtype=torch.bool)
        masked_BGS[:, : context_BTHW.shape[1]] = False
        return cls(tokens_BGS, masked_BGS, state_BGD, KVCache())

    def repeat(self, num: int) -> Draft:
        """The draft for `num` times as many samples."""
        tokens, masked, state = (x.repeat(num, 1, 1) for x in (self.tokens_RGS, self.masked_RGS, self.state_RGD))
        return Draft(tokens, masked, state, self.cache.repeat(num), num * self.copies)

    def write(self, grid: int, tokens_RHW: Tensor) -> None:
        """Decide a whole grid."""
        self.tokens_RGS[:, grid] = tokens_RHW.flatten(1)
        self.masked_RGS[:, grid] = False
