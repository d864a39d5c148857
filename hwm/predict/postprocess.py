"""What is done to predicted pictures before they are scored or submitted: blur, colours, size.

Pictures are uint8 (..., H, W, C); every function works in float32, rounds once and gives uint8.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256


def gaussian_blur(frames_BHWC: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of every picture, uint8 of the same shape.

    sigma: standard deviation in pixels, 0 is the identity.  The kernel ends at 4 sigma; beyond an edge the picture is
    reflected with its border pixel repeated (c b a | a b c): the defaults of SciPy's `gaussian_filter`.
    Duke's alternative to averaging samples (Revontuli report section 2.3, reference E.3).
    Raises ValueError for a negative sigma.
    """
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be 0 or more pixels, got {sigma}")
    _check(frames_BHWC)
    if sigma == 0:
        return frames_BHWC.clone()
    height, width = frames_BHWC.shape[-3:-1]
    down, across = (_blur_matrix(n, sigma).to(frames_BHWC.device) for n in (height, width))
    x_BCHW = frames_BHWC.movedim(-1, -3).to(torch.float32)
    return _to_uint8((down @ x_BCHW @ across.T).movedim(-3, -1))


def _blur_matrix(length: int, sigma: float) -> Tensor:
    """What every pixel of a line gives to every other, float32 (length, length)."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.to(torch.float64) / sigma).square())
    # A line and its reflection repeat every 2 * length pixels.
    source = (torch.arange(length)[:, None] + offsets) % (2 * length)
    source = torch.minimum(source, 2 * length - 1 - source)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(length, -1))
    return matrix.to(torch.float32)


def match_histograms(frames_BHWC: Tensor, reference_BHWC: Tensor) -> Tensor:
    """Give every channel of every picture the distribution of levels of a reference picture, uint8.

    reference_BHWC: uint8, one for each picture, of any height and width: the last frame seen (Duke, reference E.3).
    A level moves to the reference level of the same quantile, linearly between the levels that occur there, as
    scikit-image's `match_histograms` does; the result is rounded where that cuts off.
    Raises ValueError for other shapes.
    """
    _check(frames_BHWC)
    _check(reference_BHWC)
    if frames_BHWC.shape[:-3] != reference_BHWC.shape[:-3] or frames_BHWC.shape[-1] != reference_BHWC.shape[-1]:
        shapes = f"{tuple(frames_BHWC.shape)} and {tuple(reference_BHWC.shape)}"
        raise ValueError(f"every picture needs one reference with its channels, got {shapes}")
    source, target = _quantiles(frames_BHWC), _quantiles(reference_BHWC)
    # The first level whose quantile reaches the wanted one occurs in the reference; so does the one before it.
    above = torch.searchsorted(target, source).clamp(max=LEVELS - 1)
    before = target.gather(-1, (above - 1).clamp(min=0)) * (above > 0)
    below = torch.searchsorted(target, before)
    step = target.gather(-1, above) - before
    part = torch.where(before > 0, (source - before) / step.clamp(min=1e-12), 1.0)
    table = below + part * (above - below)
    moved = table.to(torch.float32).gather(-1, _lines(frames_BHWC))
    shape = frames_BHWC.movedim(-1, -3).shape
    return _to_uint8(moved.reshape(shape).movedim(-3, -1))


def _quantiles(frames_BHWC: Tensor) -> Tensor:
    """Share of the pixels at or below every level, float64 (B * C, 256)."""
    lines = _lines(frames_BHWC)
    counts = torch.zeros(len(lines), LEVELS, dtype=torch.int64, device=lines.device)
    counts.scatter_add_(1, lines, torch.ones_like(lines))
    return counts.cumsum(1).to(torch.float64) / lines.shape[1]


def _lines(frames_BHWC: Tensor) -> Tensor:
    """Every channel of every picture as a line of levels, int64 (B * C, H * W)."""
    height, width = frames_BHWC.shape[-3:-1]
    return frames_BHWC.movedim(-1, -3).reshape(-1, height * width).to(torch.int64)


def resize(frames_BHWC: Tensor, *, height: int, width: int) -> Tensor:
    """Bicubic resize of every picture, uint8 (..., height, width, C); the identity for its own size.

    Shrinking averages over what falls into a pixel (antialiasing); Pillow's bicubic filter, rounded and clipped once.
    (ours; Humanoid World Models enlarged their predictions bicubically to 512x512, reference B.4.)
    Raises ValueError for sizes below 1.
    """
    _check(frames_BHWC)
    if height < 1 or width < 1:
        raise ValueError(f"a picture has at least 1x1 pixels, got {height}x{width}")
    if frames_BHWC.shape[-3:-1] == (height, width):
        return frames_BHWC.clone()
    leading, channels = frames_BHWC.shape[:-3], frames_BHWC.shape[-1]
    x = frames_BHWC.reshape(-1, *frames_BHWC.shape[-3:]).movedim(-1, 1).to(torch.float32)
    y = F.interpolate(x, (height, width), mode="bicubic", antialias=True)
    return _to_uint8(y.movedim(1, -1)).reshape(*leading, height, width, channels)


def _to_uint8(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8).contiguous()


def _check(frames_BHWC: Tensor) -> None:
    if frames_BHWC.dtype != torch.uint8 or frames_BHWC.ndim < 3:
        raise ValueError(f"pictures are uint8 (..., H, W, C), got {frames_BHWC.dtype} {tuple(frames_BHWC.shape)}")
