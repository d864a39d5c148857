"""Means over clips with confidence intervals that respect that clips of one segment resemble each other."""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

NUM_RESAMPLES = 2000
LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
FEWEST = 5
"""Groups below which there is no interval: resamples of two or three recordings tell nothing of others (ours)."""


@dataclass(frozen=True)
class Interval:
    """A mean over clips and its confidence interval; low and high are None where there are fewer than `FEWEST` groups."""

    mean: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and math.isnan(value):  # one object, so that equal scores are equal: nan == nan is not
                object.__setattr__(self, name, math.nan)

    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; False without an interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def negative(self) -> "Interval":
        """Of the opposite difference."""
        return Interval(-self.mean, None if self.high is None else -self.high, None if self.low is None else -self.low)

    def within(self, low: float, high: float) -> "Interval":
        """The same with an interval that does not leave the range of what is measured."""
        if self.low is None or self.high is None:
            return self
        return Interval(self.mean, min(max(self.low, low), high), max(min(self.high, high), low))

    def text(self, digits: int, *, sign: bool = False) -> str:
        """The mean with its interval: "1.23 [0.90, 1.60]"; a dash where there is no number.  The one way to print it."""
        form = f"{'+' if sign else ''}.{digits}f"
        if not math.isfinite(self.mean):
            return "–"
        return f"{self.mean:{form}}" + ("" if self.low is None else f" [{self.low:{form}}, {self.high:{form}}]")


def interval(values: Any, *, groups: Any = None, weights: Any = None, seed: int = 0) -> Interval:
    """Mean over clips and its bootstrap interval; see `intervals`.  values: (N,)."""
    return intervals(np.asarray(values)[:, None], groups=groups, weights=weights, seed=seed)[0]


def intervals(values: Any, *, groups: Any = None, weights: Any = None, seed: int = 0) -> list[Interval]:
    """Weighted mean of every column over clips, with percentile bootstrap intervals that resample whole groups.

    values: (N, M) floats.  groups: (N,) integers, for example segment ids; None: every clip is its own group.  Fewer than
    `FEWEST` groups have no interval.
    weights: (N,) or (N, M), not negative; None: 1.  The same seed gives the same interval.
    With G groups the percentiles are widened by sqrt(G / (G - 1)) and the ratio of Student's to the normal
    quantile, without which small samples give intervals that are too narrow (Hesterberg 2015, section 5.3.2).
    """
    values = np.asarray(values, np.float64)
    weights = np.ones_like(values) if weights is None else np.broadcast_to(_column(weights), values.shape)
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    num_groups = int(group.max()) + 1 if len(values) else 0
    sums, totals = np.zeros((2, num_groups, values.shape[1]))
    # A clip of weight 0 may hold nan (a score that does not exist for it).
    np.add.at(sums, group, np.where(weights > 0, values * weights, 0.0))
    np.add.at(totals, group, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums.sum(0) / totals.sum(0)
        if num_groups < FEWEST:
            return [Interval(float(m), None, None) for m in means]
        draws = resamples(num_groups, seed)
        resampled = (draws @ sums) / (draws @ totals)
    low, high = np.nanquantile(resampled, [TAIL, 1 - TAIL], axis=0) if not np.isnan(means).all() else (means, means)
    widen = _small_sample_factor(num_groups)
    return [Interval(float(m), float(m - widen * (m - a)), float(m + widen * (b - m))) for m, a, b in zip(means, low, high)]


def paired_difference(first: Any, second: Any, *, groups: Any = None, seed: int = 0) -> Interval:
    """Mean of first - second over clips with its interval; clip by clip, so what both share cancels.

    first, second: (N,).  groups: (N,).
    """
    return interval(np.asarray(first, np.float64) - np.asarray(second, np.float64), groups=groups, seed=seed)


@lru_cache(maxsize=4)
def resamples(num_groups: int, seed: int) -> np.ndarray:
    """How often each group occurs in each resample, (R, G); the same for all scores of an evaluation."""
    return np.random.default_rng(seed).multinomial(num_groups, [1 / num_groups] * num_groups, NUM_RESAMPLES).astype(float)


def symmetric_interval(value: float, resampled: Any, *, num_groups: int) -> Interval:
    """A quantity that is no mean, and its interval from the standard deviation of its bootstrap resamples.

    For a quantity whose resamples are biased, as a distance between sets is: the percentiles would miss it.
    value: on all clips.  resampled: (R,), empty for no interval.  The width is that of Student's distribution.
    """
    resampled = np.asarray(resampled, np.float64)
    if num_groups < FEWEST or len(resampled) < 2:
        return Interval(value, None, None)
    half = NormalDist().inv_cdf(1 - TAIL) * _small_sample_factor(num_groups) * float(resampled.std(ddof=1))
    return Interval(value, value - half, value + half)


def _column(weights: Any) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    return weights[:, None] if weights.ndim == 1 else weights


def _small_sample_factor(num_groups: int) -> float:
    """sqrt(G / (G - 1)) times Student's quantile over the normal one, by the expansion of Abramowitz & Stegun 26.7.5."""
    z, dof = NormalDist().inv_cdf(1 - TAIL), num_groups - 1
    student = (
        z
        + (z**3 + z) / (4 * dof)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * dof**3)
    )
    return math.sqrt(num_groups / dof) * student / z


def few(num_groups: int) -> str:
    """Why there is no interval, in words; empty where there is one."""
    if num_groups >= FEWEST:
        return ""
    return f"no intervals: {num_groups} recording{'s' * (num_groups != 1)}, and an interval needs at least {FEWEST}"
