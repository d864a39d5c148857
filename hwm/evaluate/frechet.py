"""Frechet distance between two sets of features, each taken as one Gaussian.

    d = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

On the features of the Inception network it is the FID (Heusel et al. 2017, section 4); what it is called here
depends on the features and nothing else (`features.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, sum (D,) and sum of outer products (D, D) of features, float64: what a mean and a covariance need.

    Moments add up: those of a data set are the sum of those of its parts.
    """

    count: int
    sum_D: Tensor
    outer_DD: Tensor

    @classmethod
    def of(cls, features_ND: Tensor) -> Moments:
        """Moments of N features (N, D) of any float type.  Raises ValueError for another shape or values not finite."""
        if features_ND.ndim != 2:
            raise ValueError(f"features must be (N, D), got {tuple(features_ND.shape)}; flatten the other axes into N")
        check_finite(features_ND)
        x_ND = features_ND.detach().double()
        return cls(count=len(x_ND), sum_D=x_ND.sum(0), outer_DD=x_ND.mT @ x_ND)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.sum_D + other.sum_D, self.outer_DD + other.outer_DD)

    @property
    def mean_D(self) -> Tensor:
        """Mean of the features."""
        return self.sum_D / self.count

    @property
    def covariance_DD(self) -> Tensor:
        """Covariance of the features, unbiased.  Raises ValueError for fewer than 2."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.count}; evaluate more clips")
        return (self.outer_DD - torch.outer(self.sum_D, self.mean_D)) / (self.count - 1)

    @cached_property
    def factor_DR(self) -> Tensor:
        """A with A A' the covariance, by its eigenvalues; those within rounding of 0 are left out."""
        values_D, vectors_DD = torch.linalg.eigh(self.covariance_DD)
        kept = values_D > values_D[-1] * len(values_D) * torch.finfo(values_D.dtype).eps
        return vectors_DD[:, kept] * values_D[kept].sqrt()


def check_finite(features: Tensor) -> None:
    """Raise ValueError for features that are not all finite."""
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features hold values that are not finite: the network or its weight file is broken")


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of the two Gaussians with these moments, never negative.

    The distance of finite sets is biased upwards, the more the fewer features: compare at equal counts only.
    Raises ValueError for fewer than 2 features on a side or features of different width.
    """
    if a.sum_D.shape != b.sum_D.shape:
        raise ValueError(f"features of different width, {len(a.sum_D)} and {len(b.sum_D)}: not from the same network")
    # With S_a = A A' and S_b = B B', tr (S_a S_b)^(1/2) is the sum of the singular values of A' B.  Roots of the
    # eigenvalues of a product of covariances are the same numbers, but lose half of the digits of the small ones.
    cross = torch.linalg.svdvals(a.factor_DR.mT @ b.factor_DR).sum()
    between = (a.mean_D - b.mean_D).square().sum()
    return max(0.0, float(between + a.covariance_DD.trace() + b.covariance_DD.trace() - 2 * cross))
