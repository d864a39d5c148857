"""Scores of pictures and of token distributions: PSNR, SSIM, cross-entropy, top-k cross-entropy.

Everything is computed per picture or per token; averaging over clips, with intervals, is `intervals.py`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

PSNR_CAP = 100.0
"""PSNR in dB given to identical pictures, whose true value is infinite and would spoil every mean."""

SSIM_WINDOW = 7

MissingPolicy = Literal["floor", "min", "uniform_rest", "fill_min", "ignore"]
MISSING_POLICIES: tuple[MissingPolicy, ...] = get_args(MissingPolicy)


def mean_squared_error(pred: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of each picture, float64 of shape (...).

    pred, truth: uint8 (..., H, W, C).  Raises ValueError for other dtypes or different shapes.
    """
    _check_pictures(pred, truth)
    difference = pred.to(torch.int32) - truth.to(torch.int32)
    return difference.square_().flatten(-3).sum(-1).to(torch.float64) / math.prod(pred.shape[-3:])


def psnr_of_mse(mse: Tensor) -> Tensor:
    """PSNR in dB of a mean squared error on the 0..255 scale, at most `PSNR_CAP`."""
    return (10 * torch.log10(255.0**2 / mse)).clamp(max=PSNR_CAP)


def psnr(pred: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, float64 of shape (...); identical pictures give `PSNR_CAP`.

    pred, truth: uint8 (..., H, W, C); the maximum is 255 and the error runs over H, W and C (reference B.4).
    """
    return psnr_of_mse(mean_squared_error(pred, truth))


def pooled_psnr(pred: Tensor, truth: Tensor) -> float:
    """PSNR in dB of the squared error pooled over all pictures; never above the mean of their PSNRs.

    pred, truth: uint8 (..., H, W, C).
    """
    return float(psnr_of_mse(mean_squared_error(pred, truth).mean()))


def ssim(pred: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each picture, averaged over channels, float64 of shape (...).

    pred, truth: uint8 (..., H, W, C), H and W at least 7.  A 7x7 uniform window with sample covariance and
    K1 = 0.01, K2 = 0.03: the default of scikit-image's `structural_similarity`, equal to it to 1e-6.
    Raises ValueError for smaller pictures.
    """
    _check_pictures(pred, truth)
    height, width, channels = pred.shape[-3:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least 7x7 pixels, got {height}x{width}")
    # A few pictures at a time stay in the processor's cache; large batches run several times slower.
    chunk = max(1, 2**17 // (height * width * channels))
    x, y = pred.reshape(-1, height, width, channels), truth.reshape(-1, height, width, channels)
    scores = [_ssim(a, b) for a, b in zip(x.split(chunk), y.split(chunk))]
    return torch.cat(scores).reshape(pred.shape[:-3]) if len(x) else torch.zeros(pred.shape[:-3], dtype=torch.float64)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM from exact integer window sums: with n pixels a window, n^2 times every mean and covariance fits int32."""
    n = SSIM_WINDOW**2
    x, y = x.to(torch.int32), y.to(torch.int32)
    sum_x, sum_y, sum_xx, sum_yy, sum_xy = (_window_sums(z) for z in (x, y, x * x, y * y, x * y))
    product, squares = sum_x * sum_y, sum_x * sum_x + sum_y * sum_y
    covariance, variances = n * sum_xy - product, n * (sum_xx + sum_yy) - squares
    c1, c2 = (0.01 * 255 * n) ** 2, (0.03 * 255 * n) ** 2
    sample = n / (n - 1)
    similarity = (2.0 * product + c1) / (squares + c1) * ((2.0 * sample * covariance + c2) / (sample * variances + c2))
    return similarity.flatten(1).mean(1, dtype=torch.float64)


def _window_sums(x: Tensor) -> Tensor:
    """Sums over all 7x7 windows of axes H and W of (N, H, W, C), by doubling: 7 = 1 + 2 + 4."""
    for axis in (1, 2):
        length = x.shape[axis]
        two = x.narrow(axis, 0, length - 1) + x.narrow(axis, 1, length - 1)
        four = two.narrow(axis, 0, length - 3) + two.narrow(axis, 2, length - 3)
        out = length - SSIM_WINDOW + 1
        x = four.narrow(axis, 0, out) + two.narrow(axis, 4, out) + x.narrow(axis, 6, out)
    return x


def topk_nll(
    indices: Tensor,
    values: Tensor,
    target: Tensor,
    *,
    missing: MissingPolicy = "floor",
    epsilon: float = 1e-8,
    vocab_size: int = 64000,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood in nats of each token under a truncated distribution, and where it is covered.

    indices: integers (..., K), the ids kept.  values: floats (..., K), their logits.  target: integers (...).
    missing: what a target outside the K ids is given; the scoring server's rule is unknown (reference B.3):
        "floor"         softmax over the K; a miss has probability `epsilon`.
        "min"           a miss joins the K with the smallest of their logits: softmax over K + 1.
        "uniform_rest"  values are log-probabilities; a miss has an equal part of what they leave.
        "fill_min"      all other ids have the smallest logit: softmax over the vocabulary.
        "ignore"        softmax over the K; a miss has nan and is to be left out.  Optimistic, never for comparison.
    Returns float64 nll (...) and bool covered (...).
    Raises ValueError for wrong shapes, an unknown policy or, with "uniform_rest", values that are not
    log-probabilities.
    """
    if missing not in MISSING_POLICIES:
        raise ValueError(f"missing must be one of {', '.join(MISSING_POLICIES)}, got {missing!r}")
    if indices.shape != values.shape or indices.shape[:-1] != target.shape:
        shapes = (tuple(indices.shape), tuple(values.shape), tuple(target.shape))
        raise ValueError(f"top-k scores need indices (..., K), values (..., K) and target (...), got {shapes}")
    num_kept = indices.shape[-1]
    if not 0 < num_kept <= vocab_size:
        raise ValueError(f"top-k scores need 1 to {vocab_size} values a token, got {num_kept}")
    values = values.to(torch.float64)
    hit = indices == target[..., None]
    covered = hit.any(-1)
    kept = torch.logsumexp(values, -1)
    own = torch.where(hit, values, -torch.inf).amax(-1)
    lowest = values.amin(-1)
    if missing == "fill_min" and num_kept < vocab_size:
        kept = torch.logaddexp(kept, lowest + math.log(vocab_size - num_kept))
    if missing == "uniform_rest":
        return _nll_uniform_rest(kept, own, covered, vocab_size - num_kept), covered
    miss = {
        "floor": torch.full_like(kept, -math.log(epsilon)),
        "min": torch.logaddexp(kept, lowest) - lowest,
        "fill_min": kept - lowest,
        "ignore": torch.full_like(kept, torch.nan),
    }[missing]
    return torch.where(covered, kept - own, miss), covered


def _nll_uniform_rest(kept: Tensor, own: Tensor, covered: Tensor, num_rest: int) -> Tensor:
    if bool((kept > 1e-3).any()):
        raise ValueError('the policy "uniform_rest" needs log-probabilities, but some values sum to more than 1')
    # Probabilities that come from float32 cannot tell a smaller rest from nothing.
    rest = (-torch.expm1(kept)).clamp(min=torch.finfo(torch.float32).eps)
    return torch.where(covered, -own, math.log(max(num_rest, 1)) - torch.log(rest))


def topk_cross_entropy(
    indices: Tensor,
    values: Tensor,
    target: Tensor,
    *,
    missing: MissingPolicy = "floor",
    epsilon: float = 1e-8,
    vocab_size: int = 64000,
) -> tuple[float, float]:
    """Mean top-k cross-entropy in nats and the coverage, the share of targets inside the k (reference B.3).

    Arguments as in `topk_nll`.  With "ignore" and nothing covered, the cross-entropy is nan.
    """
    nll, covered = topk_nll(indices, values, target, missing=missing, epsilon=epsilon, vocab_size=vocab_size)
    return float(nll.nanmean()), float(covered.to(torch.float64).mean())


def _check_pictures(pred: Tensor, truth: Tensor) -> None:
    if pred.dtype != torch.uint8 or truth.dtype != torch.uint8:
        raise ValueError(f"pictures are compared as uint8, got {pred.dtype} and {truth.dtype}")
    if pred.shape != truth.shape or pred.ndim < 3:
        raise ValueError(f"pictures must both be (..., H, W, C), got {tuple(pred.shape)} and {tuple(truth.shape)}")
