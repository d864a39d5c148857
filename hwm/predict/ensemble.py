"""One picture out of K samples of the future, and how much they differ.

Members are uint8 pictures (B, K, H, W, C) or videos (B, K, F, H, W, C) of any model family, K independent samples of the
same future; the results lose the axis K.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURHOOD = 5
"""Side in pixels of the square over which `blend` averages the variance (ours)."""


def mean(members_BKHWC: Tensor) -> Tensor:
    """Mean of every pixel over the members, rounded once, uint8 (B, H, W, C) (reference wan 3).

    The estimate with the least expected squared error, and flat where the members disagree.
    """
    return _unrounded_mean(members_BKHWC).round().to(torch.uint8)


def medoid_index(members_BKHWC: Tensor) -> Tensor:
    """Which member has the least mean squared distance to the others, int64 (B,); the first of equals.

    The sum of a member's squared distances to all is K times its squared distance to the mean plus a constant, so one
    pass over the members finds it; in whole numbers, so that equals are equal.
    """
    _check(members_BKHWC)
    num_members = members_BKHWC.shape[1]
    total = members_BKHWC.sum(1, dtype=torch.int64)
    distances = [(num_members * member.to(torch.int64) - total).square_().flatten(1).sum(1) for member in members_BKHWC.unbind(1)]
    return torch.stack(distances, 1).argmin(1)


def medoid(members_BKHWC: Tensor) -> Tensor:
    """The member that is nearest to all others, uint8 (B, H, W, C): as sharp as one sample, less often an outlier."""
    index = medoid_index(members_BKHWC)
    return members_BKHWC[torch.arange(len(index), device=index.device), index]


def spread(members_BKHWC: Tensor) -> Tensor:
    """Standard deviation of every pixel over the members, float32 (B, H, W), in levels of 0..255.

    The unbiased variance (K - 1) averaged over the channels, and the root of that.  The squared error of the mean of
    a calibrated ensemble is expected to be spread^2 (1 + 1 / K).  Raises ValueError for a single member.
    """
    _check(members_BKHWC)
    num_members = members_BKHWC.shape[1]
    if num_members < 2:
        raise ValueError("one sample has no spread; draw at least 2")
    total = members_BKHWC.sum(1, dtype=torch.int64)
    squares = torch.zeros_like(total)
    for member in members_BKHWC.unbind(1):
        squares += member.to(torch.int32).square_()
    deviations = (num_members * squares - total.square_()).sum(-1)
    scale = num_members * (num_members - 1) * members_BKHWC.shape[-1]
    return (deviations.to(torch.float32) / scale).sqrt()


def blend(members_BKHWC: Tensor, *, tolerance: float) -> Tensor:
    """The sharp medoid where the members agree, their mean where they do not, uint8 (B, H, W, C) (ours).

    out = mean + w (medoid - mean) with w = min(1, tolerance / (s sqrt(1 - 1 / K))), s the spread.

    Why this weight: members are alike and independent, so one member lies off their mean by the variance s^2 (1 - 1 / K),
    independently of how far the truth lies off it.  Going a part w of the way thus adds w^2 s^2 (1 - 1 / K) to the
    expected squared error; the weight is the largest that keeps this within tolerance^2 at every place, and s^2 is
    averaged over 5x5 pixels, without which single pixels of both pictures alternate.
    The squared error E of the mean is thus expected to rise by tolerance^2 at most: the PSNR falls by no more than
    10 log10(1 + tolerance^2 / E), 0.1 dB for 2.2 levels at 25 dB, and by less the more places agree.  Weights that fall
    with 1 / s^2 or all at once gave up as much PSNR or more for the same sharpness.  It restores what averaging blurred;
    where the members themselves are not as sharp as the truth, or their detail is noise, it cannot help.

    tolerance: levels of 0..255, not negative; 0 is the mean, infinity the medoid.  One member is returned as it is.
    Raises ValueError for a negative tolerance.
    """
    if not tolerance >= 0:
        raise ValueError(f"the tolerance must be 0 or more, got {tolerance}")
    _check(members_BKHWC)
    num_members = members_BKHWC.shape[1]
    if num_members == 1:
        return members_BKHWC[:, 0].clone()
    deviation = _around(spread(members_BKHWC).square()).sqrt() * math.sqrt(1 - 1 / num_members)
    # The least positive number in place of 0, so that a tolerance of 0 is the mean there too and not 0 / 0.
    weight = (tolerance / deviation.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1)[..., None]
    middle = _unrounded_mean(members_BKHWC)
    return torch.lerp(middle, medoid(members_BKHWC).to(torch.float32), weight).round().to(torch.uint8)


def _around(variance_BHW: Tensor) -> Tensor:
    """Average over the neighbours that exist."""
    flat = variance_BHW.reshape(-1, 1, *variance_BHW.shape[-2:])
    smooth = F.avg_pool2d(flat, NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2, count_include_pad=False)
    return smooth.reshape(variance_BHW.shape)


def _unrounded_mean(members_BKHWC: Tensor) -> Tensor:
    _check(members_BKHWC)
    return members_BKHWC.sum(1, dtype=torch.int32).to(torch.float32) / members_BKHWC.shape[1]


def _check(members_BKHWC: Tensor) -> None:
    if members_BKHWC.dtype != torch.uint8 or members_BKHWC.ndim not in (5, 6) or not members_BKHWC.shape[1]:
        found = f"{members_BKHWC.dtype} {tuple(members_BKHWC.shape)}"
        raise ValueError(f"members of an ensemble are uint8 (B, K, H, W, C) or (B, K, F, H, W, C), got {found}")
