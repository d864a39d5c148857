"""Mean and spread of streamed samples, merged piece by piece in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and sum of squared deviations from it (D,) of samples, float64."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def none(cls, width: int) -> Moments:
        """The moments of no sample."""
        return cls(0, np.zeros(width), np.zeros(width))

    @classmethod
    def of(cls, samples_ND: np.ndarray) -> Moments:
        """The moments of at least one sample."""
        samples = samples_ND.astype(np.float64)
        mean = samples.mean(axis=0)
        return cls(len(samples), mean, ((samples - mean) ** 2).sum(axis=0))

    def merged(self, other: Moments) -> Moments:
        """The moments of both samples together (Chan et al. 1979): no cancellation, unlike sums of squares."""
        total = self.count + other.count
        if not total:
            return self
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + shift**2 * (self.count * other.count / total)
        return Moments(total, self.mean + shift * (other.count / total), scatter)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation (D,) of the samples themselves."""
        return np.sqrt(self.scatter / self.count)

    def as_json(self) -> dict[str, Any]:
        """Plain values that give exactly these moments back."""
        return {"count": self.count, "mean": self.mean.tolist(), "scatter": self.scatter.tolist()}

    @classmethod
    def from_json(cls, value: Any, *, width: int) -> Moments:
        """Moments from `as_json`.  Raises ValueError for anything else."""
        if not isinstance(value, dict) or {*value} != {"count", "mean", "scatter"} or type(value["count"]) is not int:
            raise ValueError("expected count, mean and scatter")
        return cls(value["count"], vector(value["mean"], width=width), vector(value["scatter"], width=width))


def vector(value: Any, *, width: int) -> np.ndarray:
    """`width` finite numbers from JSON as float64 (D,).  Raises ValueError for anything else."""
    if not isinstance(value, list) or len(value) != width or any(type(x) not in (int, float) for x in value):
        raise ValueError(f"expected a list of {width} numbers")
    array = np.array(value, np.float64)
    if not np.isfinite(array).all():
        raise ValueError("expected finite numbers")
    return array
