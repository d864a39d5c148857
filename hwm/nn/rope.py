"""Rotary position embedding along one, two or three axes: pairs of channels turn by angles that grow with position.

The product of a rotated query and a rotated key depends on their positions only through the difference.  Sources:
Su et al. 2021; split of the head over height, width and time as HWM paper section 2.4 with Cosmos (reference D.2).
"""

import torch
from torch import Tensor


def axis_widths(head_width: int, num_axes: int) -> tuple[int, ...]:
    """Channels of a head that turn with each axis, even numbers that sum to `head_width`.

    One axis takes all; two take half each; of three, (time, height, width), the last two take a third each, rounded
    down to an even number, and time the rest.  Raises ValueError for a head too narrow or not divisible.
    """
    each = head_width // (2 * num_axes) * 2
    widths = (head_width - (num_axes - 1) * each,) + (each,) * (num_axes - 1)
    if num_axes not in (1, 2, 3) or head_width % 2 or each < 2 or (num_axes == 2 and widths[0] != widths[1]):
        raise ValueError(f"a head of {head_width} channels cannot be split over {num_axes} rotary axes")
    return widths


def grid_positions(*sizes: int) -> Tensor:
    """Positions of all cells of a grid in row-major order, float32 (cells, axes)."""
    return torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32) for n in sizes)).reshape(-1, len(sizes))


def rope_angles(positions_SX: Tensor, head_width: int, *, theta: float = 10_000.0) -> Tensor:
    """Angles in radians by which each pair of channels turns, float32 (S, head_width / 2).

    positions_SX: position of every token along each of X axes, in steps of that axis.  Pair i of an axis of width w
    turns by position * theta^(-2 i / w).
    """
    parts = []
    for axis, width in enumerate(axis_widths(head_width, positions_SX.shape[1])):
        pair = torch.arange(width // 2, dtype=torch.float64, device=positions_SX.device)
        parts.append(positions_SX[:, axis, None].double() * theta ** (-2 * pair / width))
    return torch.cat(parts, 1).float()


def rotate(x_SH: Tensor, angles_SP: Tensor) -> Tensor:
    """x (..., S, H) with channels (2 i, 2 i + 1) turned by angles (S, H / 2), in the type of x.

    The pairs are complex numbers multiplied by exp(i angle); in float32 or wider, as halves know no complex numbers.
    """
    wide = x_SH if x_SH.dtype == torch.float64 else x_SH.float()
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    angles = angles_SP.to(wide.dtype)
    return torch.view_as_real(pairs * torch.complex(angles.cos(), angles.sin())).flatten(-2).to(x_SH.dtype)
