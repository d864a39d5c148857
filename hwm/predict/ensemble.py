"""One picture out of K samples of the future, and how much they differ.

Members are uint8 pictures (B, K, H, W, C) or videos (B, K, F, H, W, C) of any model family, K independent samples of the
same future; the results lose the axis K.

And what is done to pictures, uint8 (..., H, W, C), before they are scored or submitted: blur, colours, size.  Every function
works in float32, rounds once and gives uint8.
"""

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

    Why this weight: members are alike and independent, so one lies off their mean by the variance s^2 (1 - 1 / K), and a part w
    of the way adds w^2 s^2 (1 - 1 / K) to the expected squared error E of the mean.  It is the largest that keeps this within
    tolerance^2 at every place, s^2 averaged over 5x5 pixels, without which single pixels of both pictures alternate.  The PSNR
    falls by 10 log10(1 + tolerance^2 / E) at most, 0.1 dB for 2.2 levels at 25 dB; weights that fall with 1 / s^2 or all at once
    gave up as much or more for the same sharpness.  Where the members themselves are not sharp, it cannot help.

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
    _check_pictures(frames_BHWC)
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
    _check_pictures(frames_BHWC)
    _check_pictures(reference_BHWC)
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
    _check_pictures(frames_BHWC)
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


def _check_pictures(frames_BHWC: Tensor) -> None:
    if frames_BHWC.dtype != torch.uint8 or frames_BHWC.ndim < 3:
        raise ValueError(f"pictures are uint8 (..., H, W, C), got {frames_BHWC.dtype} {tuple(frames_BHWC.shape)}")
