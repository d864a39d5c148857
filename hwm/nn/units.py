"""Between raw units and what a latent model computes in: latents and states of mean 0 and size 1."""

from typing import Literal

import torch
from torch import Tensor, nn

FLOOR = 0.1
"""Least standard deviation of a channel, as a share of the median channel's."""


class Units(nn.Module):
    """Statistics of states and latents, saved with the model; until they are set, nothing changes.

    target: what the model predicts, the future latents or their change from the last past one.
    """

    shift_scale: Tensor
    mean_C: Tensor
    std_C: Tensor
    change_std_C: Tensor

    def __init__(self, *, channels: int, state_dim: int, target: Literal["latents", "change"]) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("shift_scale", torch.stack([torch.zeros(state_dim), torch.ones(state_dim)]))
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("std_C", torch.ones(channels))
        self.register_buffer("change_std_C", torch.ones(channels))

    def set_latents(self, mean_C: Tensor, std_C: Tensor, change_std_C: Tensor | None) -> None:
        """Normalise latents by mean and standard deviation of each channel, changes by their root mean square."""
        if self.target == "change" and change_std_C is None:
            raise ValueError('model.target "change" needs change_std_C, the scale of the change of each channel')
        fill(self.mean_C, mean_C, "the mean of the latents")
        fill(self.std_C, std_C, "the standard deviation of the latents", positive=True)
        _raise_to_floor(self.std_C)
        if change_std_C is not None:
            fill(self.change_std_C, change_std_C, "the scale of the change", positive=True)
            _raise_to_floor(self.change_std_C)

    def states(self, states_BFA: Tensor) -> Tensor:
        """Raw states, normalised."""
        shift_A, scale_A = self.shift_scale.unbind()
        return (states_BFA - shift_A) * scale_A

    def latents(self, latents: Tensor) -> Tensor:
        """Raw latents (..., C, H, W), normalised, in float32 or wider."""
        latents = latents.to(torch.promote_types(torch.float32, self.mean_C.dtype))
        return (latents - self.mean_C[:, None, None]) / self.std_C[:, None, None]

    def data(self, future: Tensor, *, last_past: Tensor) -> Tensor:
        """What the model predicts, from normalised future latents and the normalised latent before them."""
        return future if self.target == "latents" else (future - last_past) * self._change_scale()

    def future(self, data: Tensor, *, last_past: Tensor) -> Tensor:
        """Normalised future latents from what the model predicts."""
        return data if self.target == "latents" else last_past + data / self._change_scale()

    def raw(self, latents: Tensor) -> Tensor:
        """Normalised latents (..., C, H, W) in the tokenizer's units."""
        return latents * self.std_C[:, None, None] + self.mean_C[:, None, None]

    def _change_scale(self) -> Tensor:
        return (self.std_C / self.change_std_C)[:, None, None]


def _raise_to_floor(std_C: Tensor) -> None:
    """A channel that hardly varies, such as one saturated at its bound, is not blown up to the size of the others."""
    std_C.clamp_(min=FLOOR * float(std_C.median()))


def fill(buffer: Tensor, values: Tensor, what: str, *, positive: bool = False) -> None:
    """Copy finite values into a buffer.  what: begins the message of the ValueError for others, or for another shape."""
    values = torch.as_tensor(values)
    if values.shape != buffer.shape:
        raise ValueError(f"{what} must have shape {tuple(buffer.shape)}, got {tuple(values.shape)}")
    if not values.isfinite().all() or (positive and not ((values >= 0).all() and values.median() > 0)):
        raise ValueError(f"{what} must be finite{' and, of most channels, positive' if positive else ''}")
    buffer.copy_(values)
