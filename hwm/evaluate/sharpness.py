"""How sharp a picture is beside the truth: stand-ins for perceptual metrics that need no weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""
GMSD_CONSTANT = 170.0
"""Keeps the similarity of nearly flat places near 1 (Xue et al. 2014, for 0..255)."""
ROUNDING_ENERGY = 1 / 3
"""Gradient energy that rounding to whole levels adds to a picture: two differences of two errors of variance 1/12."""


def gmsd(pred_BHWC: Tensor, truth_BHWC: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation of each picture, float64 (B,): 0 is identical, lower is better.

    Xue et al. 2014, as in their code: luminance, averaged over 2x2 pixels, Prewitt gradients with zeros beyond the edge,
    sample standard deviation of the similarity.  pred_BHWC, truth_BHWC: uint8 (..., H, W, 3), at least 4x4.
    Raises ValueError for other pictures.
    """
    _check(pred_BHWC, truth_BHWC, least=4)
    first, second = (_prewitt_magnitude(_halved(_luminance(x))) for x in (pred_BHWC, truth_BHWC))
    similarity = (2 * first * second + GMSD_CONSTANT) / (first.square() + second.square() + GMSD_CONSTANT)
    return similarity.flatten(-2).to(torch.float64).std(-1)


def sharpness(pred_BHWC: Tensor, truth_BHWC: Tensor) -> Tensor:
    """Gradient energy of each picture as a ratio to the truth's, float64 (B,): 1 as sharp as the truth, 0 flat.

    (ours) The energy is the mean over pixels of dx^2 + dy^2, the differences of luminance to the next pixel right and
    below (the last row and column have none).  `ROUNDING_ENERGY` is added to both, so that flat pictures of a flat truth
    give 1.  Detail at half its contrast gives 1/4; noise counts as detail: read it beside PSNR or `gmsd`.
    pred_BHWC, truth_BHWC: uint8 (..., H, W, 3), at least 2x2.  Raises ValueError for other pictures.
    """
    _check(pred_BHWC, truth_BHWC, least=2)
    pred, truth = (_gradient_energy(x).flatten(-2).mean(-1) for x in (pred_BHWC, truth_BHWC))
    return (pred + ROUNDING_ENERGY) / (truth + ROUNDING_ENERGY)


def sharpness_where(pred_BHWC: Tensor, truth_BHWC: Tensor, mask_BHW: Tensor) -> Tensor:
    """`sharpness` over the pixels where the mask is True, float64 (B,); nan for a picture in which there are none.

    mask_BHW: bool (..., H, W), for example where the members of an ensemble agree.  The last row and column are not
    looked at.  Raises ValueError for a mask of another shape or dtype.
    """
    _check(pred_BHWC, truth_BHWC, least=2)
    if mask_BHW.dtype != torch.bool or mask_BHW.shape != pred_BHWC.shape[:-1]:
        raise ValueError(
            f"the mask must be bool {tuple(pred_BHWC.shape[:-1])}, got {mask_BHW.dtype} {tuple(mask_BHW.shape)}"
        )
    inside = mask_BHW[..., :-1, :-1]
    pred, truth = ((_gradient_energy(x) * inside).flatten(-2).sum(-1) for x in (pred_BHWC, truth_BHWC))
    count = inside.flatten(-2).sum(-1)
    ratio = (pred + count * ROUNDING_ENERGY) / (truth + count * ROUNDING_ENERGY)
    return torch.where(count > 0, ratio, torch.nan)


def _check(pred: Tensor, truth: Tensor, *, least: int) -> None:
    if pred.dtype != torch.uint8 or truth.dtype != torch.uint8:
        raise ValueError(f"pictures are compared as uint8, got {pred.dtype} and {truth.dtype}")
    if pred.shape != truth.shape or pred.ndim < 3 or pred.shape[-1] != 3 or min(pred.shape[-3:-1]) < least:
        shapes = f"{tuple(pred.shape)} and {tuple(truth.shape)}"
        raise ValueError(f"pictures must both be (..., H, W, 3), at least {least}x{least}, got {shapes}")


def _luminance(x_BHWC: Tensor) -> Tensor:
    red, green, blue = x_BHWC.to(torch.float32).unbind(-1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _gradient_energy(x_BHWC: Tensor) -> Tensor:
    y = _luminance(x_BHWC).to(torch.float64)
    right, below = y[..., :-1, 1:] - y[..., :-1, :-1], y[..., 1:, :-1] - y[..., :-1, :-1]
    return right.square() + below.square()


def _halved(y_BHW: Tensor) -> Tensor:
    """Means of 2x2 pixels; an odd last row or column is averaged with zeros, as their code does."""
    height, width = y_BHW.shape[-2:]
    even = F.pad(y_BHW, (0, width % 2, 0, height % 2))
    return (even[..., ::2, ::2] + even[..., 1::2, ::2] + even[..., ::2, 1::2] + even[..., 1::2, 1::2]) / 4


def _prewitt_magnitude(y_BHW: Tensor) -> Tensor:
    flat = F.pad(y_BHW, (1, 1, 1, 1))
    across, down = flat.unfold(-2, 3, 1).mean(-1), flat.unfold(-1, 3, 1).mean(-1)
    dx, dy = across[..., 2:] - across[..., :-2], down[..., 2:, :] - down[..., :-2, :]
    return (dx.square() + dy.square()).sqrt()
