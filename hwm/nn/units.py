"""Between raw units and what a latent model computes in: latents and states of mean 0 and size 1."""

import torch
from torch import Tensor, nn

FLOOR = 0.1
"""Least standard deviation of a channel, as a share of the median channel's."""


class Units(nn.Module):
    """Statistics of states and latents, saved with the model; until they are set, nothing changes."""

    shift_scale: Tensor
    mean_C: Tensor
    std_C: Tensor

    def __init__(self, *, channels: int, state_dim: int) -> None:
        super().__init__()
        self.register_buffer("shift_scale", unchanged(state_dim))
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("std_C", torch.ones(channels))

    def set_latents(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Normalise latents by mean and standard deviation of each channel.

        A channel that hardly varies, such as one saturated at its bound, is not blown up to the size of the others.
        """
        fill(self.mean_C, mean_C, "the mean of the latents")
        fill(self.std_C, std_C, "the standard deviation of the latents", positive=True)
        self.std_C.clamp_(min=FLOOR * float(self.std_C.median()))

    def states(self, states_BFA: Tensor) -> Tensor:
        """Raw states, normalised."""
        shift_A, scale_A = self.shift_scale.unbind()
        return (states_BFA - shift_A) * scale_A

    def latents(self, latents: Tensor) -> Tensor:
        """Raw latents (..., C, H, W), normalised, in float32 or wider."""
        latents = latents.to(torch.promote_types(torch.float32, self.mean_C.dtype))
        return (latents - self.mean_C[:, None, None]) / self.std_C[:, None, None]

    def raw(self, latents: Tensor) -> Tensor:
        """Normalised latents (..., C, H, W) in the tokenizer's units."""
        return latents * self.std_C[:, None, None] + self.mean_C[:, None, None]


def unchanged(state_dim: int) -> Tensor:
    """Shift 0 and scale 1 of every state, (2, A): their statistics until they are set."""
    return torch.stack([torch.zeros(state_dim), torch.ones(state_dim)])


def fill(buffer: Tensor, values: Tensor, what: str, *, positive: bool = False) -> None:
    """Copy finite values into a buffer.  what: begins the message of the ValueError for others, or for another shape."""
    values = torch.as_tensor(values)
    if values.shape != buffer.shape:
        raise ValueError(f"{what} must have shape {tuple(buffer.shape)}, got {tuple(values.shape)}")
    if not values.isfinite().all() or (positive and not ((values >= 0).all() and values.median() > 0)):
        raise ValueError(f"{what} must be finite{' and, of most channels, positive' if positive else ''}")
    buffer.copy_(values)
