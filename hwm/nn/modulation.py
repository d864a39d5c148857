"""Conditioning by modulation: a vector scales and shifts what a normalisation gives, from nothing at the start.

Source of the form: AdaLN-Zero of DiT, as both Humanoid World Models and the Revontuli report use it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Modulate:
    """x * (1 + scale) + shift, the same for all places of a step; fewer steps are the newest ones."""

    def __init__(self, scale_TBD: Tensor, shift_TBD: Tensor) -> None:
        self._scale, self._shift = scale_TBD.unsqueeze(2), shift_TBD.unsqueeze(2)

    def __call__(self, x_TBSD: Tensor) -> Tensor:
        newest = len(x_TBSD)
        return x_TBSD * (1 + self._scale[-newest:]) + self._shift[-newest:]


def unchanged(x_TBSD: Tensor) -> Tensor:
    """In the place of a `Modulate` where nothing modulates."""
    return x_TBSD


class AdaLNZero(nn.Module):
    """`count` vectors of width D, shifts, scales and gates, from a condition (..., D); zero-initialised."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)
        self.reset()

    def reset(self) -> None:
        """Start with all vectors zero: normalisations unchanged, gates closed."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(condition)).chunk(self.count, -1)


class Modulation(AdaLNZero):
    """Scale and shift for `count` normalisations of width D from a condition (T, B, D).

    gate: factor of both; 0 leaves the normalisations unchanged.  start: standard deviation of the first weights (ours).
    """

    def __init__(self, width: int, count: int, *, gate: float = 1.0, start: float = 0.0) -> None:
        self.gate, self.start = gate, start
        super().__init__(width, 2 * count)

    def reset(self) -> None:
        """Start from nothing, or from `start`."""
        super().reset()
        if self.start:
            nn.init.normal_(self.linear.weight, std=self.start)

    def forward(self, condition: Tensor) -> list[Modulate]:  # type: ignore[override]
        parts = [part if self.gate == 1 else self.gate * part for part in super().forward(condition)]
        return [Modulate(scale, shift) for scale, shift in zip(parts[::2], parts[1::2])]


def normalise(x_BLD: Tensor, shift_BTD: Tensor, scale_BTD: Tensor) -> Tensor:
    """LayerNorm without weights of its own, times 1 + scale, plus shift.

    The L tokens are T runs of equal length, each with its own vectors; a batch of 1 serves all.
    """
    y_BLD = F.layer_norm(x_BLD, x_BLD.shape[-1:])
    return torch.addcmul(over_tokens(shift_BTD, x_BLD), y_BLD, 1 + over_tokens(scale_BTD, x_BLD))


def over_tokens(vector_BTD: Tensor, x_BLD: Tensor) -> Tensor:
    """Vectors of T runs of tokens, in a shape that meets the L tokens of x."""
    T, L = vector_BTD.shape[1], x_BLD.shape[1]
    return vector_BTD if T == 1 else vector_BTD.repeat_interleave(L // T, 1)
