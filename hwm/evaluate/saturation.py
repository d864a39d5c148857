"""How far averaging more members can go: mean squared error of the pixel mean against the number of members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hwm.evaluate.metrics import psnr_of_mse


class Saturation(NamedTuple):
    """MSE(N) = floor + variance / N: what no number of members takes away, and what one member adds by chance.

    floor, variance: not negative, on the 0..255 scale squared.
    """

    floor: float
    variance: float

    @property
    def clipped(self) -> bool:
        """Whether least squares wanted a negative floor or variance and the fit lies on that border instead."""
        return self.floor == 0 or self.variance == 0

    def psnr_at(self, num_members: int) -> float:
        """PSNR in dB of the fitted MSE of `num_members` members.  Raises ValueError below 1."""
        if num_members < 1:
            raise ValueError(f"an ensemble has at least 1 member, got {num_members}")
        return _psnr(self.floor + self.variance / num_members)

    @property
    def psnr_limit(self) -> float:
        """PSNR in dB of infinitely many members, at most `metrics.PSNR_CAP`."""
        return _psnr(self.floor)


def fit_saturation(num_members: Sequence[int], mean_mse: Sequence[float]) -> Saturation:
    """Fit floor and variance of MSE(N) = floor + variance / N by least squares, neither negative (reference wan 3).

    The members are independent given the context: the error of their mean is that of the perfect mean plus 1 / N of the
    variance of one.  num_members: sizes of the ensembles, at least two different ones.
    mean_mse: the mean over the clips of the squared error of their pixel mean, on the 0..255 scale squared.
    Where the errors rise with N, variance is 0 and floor their mean; where they fall faster than 1 / N, floor is 0:
    `clipped` tells.  Raises ValueError for fewer points, sizes below 1 and errors that are negative or not finite.
    """
    sizes, errors = np.asarray(num_members, np.float64), np.asarray(mean_mse, np.float64)
    if sizes.ndim != 1 or sizes.shape != errors.shape:
        raise ValueError(f"one error for each ensemble size is needed, got {sizes.size} sizes and {errors.size} errors")
    if len(np.unique(sizes)) < 2 or sizes.min() < 1:
        raise ValueError(f"the fit needs at least two different ensemble sizes of 1 or more, got {list(num_members)}")
    if not np.isfinite(errors).all() or errors.min() < 0:
        raise ValueError(f"mean squared errors must be finite and not negative, got {list(mean_mse)}")
    share = 1 / sizes
    away = share - share.mean()
    variance = float(away @ errors / (away @ away))
    floor = float(errors.mean() - variance * share.mean())
    if variance < 0:
        return Saturation(float(errors.mean()), 0.0)
    if floor < 0:
        return Saturation(0.0, float(share @ errors / (share @ share)))
    return Saturation(floor, variance)


def _psnr(mse: float) -> float:
    return float(psnr_of_mse(torch.tensor(mse, dtype=torch.float64)))
