"""Smooth set-points: quintic moves that can be re-aimed on the way, and the unsteadiness of a human operator."""

from collections.abc import Sequence

import numpy as np

PEAK_OF_MEAN = 1.875
"""Peak speed of a minimum-jerk move relative to its mean speed."""
SHORTEST_MOVE = 0.01
"""Seconds."""


class Track:
    """A vector set-point that moves on quintics: continuous in position, velocity and acceleration, always.

    now: the set-point at the last time asked for.  goal: where it ends.
    """

    def __init__(self, start: Sequence[float] | np.ndarray) -> None:
        self.now = np.array(start, float)
        self.velocity, self.acceleration = np.zeros_like(self.now), np.zeros_like(self.now)
        self.goal = self.now.copy()
        self._coefficients: np.ndarray | None = None
        self._start, self._duration = 0.0, 0.0

    @property
    def moving(self) -> bool:
        return self._coefficients is not None

    def move(self, goal: Sequence[float] | np.ndarray, duration: float, time: float) -> None:
        """Head for `goal`, reached `duration` seconds after `time` with no velocity or acceleration left."""
        duration = max(duration, SHORTEST_MOVE)
        p, v, a = self.now, self.velocity * duration, self.acceleration * duration**2
        way = np.asarray(goal, float) - p
        self._coefficients = np.stack(
            [p, v, a / 2, (20 * way - 12 * v - 3 * a) / 2, (-30 * way + 16 * v + 3 * a) / 2, (12 * way - 6 * v - a) / 2]
        )
        self._start, self._duration, self.goal = time, duration, np.array(goal, float)

    def at(self, time: float) -> np.ndarray:
        """The set-point at `time`, which must not run backwards."""
        if self._coefficients is None:
            return self.now
        s = (time - self._start) / self._duration
        if s >= 1:
            self.now, self._coefficients = self.goal.copy(), None
            self.velocity, self.acceleration = np.zeros_like(self.now), np.zeros_like(self.now)
            return self.now
        powers = np.array([[1, s, s**2, s**3, s**4, s**5], [0, 1, 2 * s, 3 * s**2, 4 * s**3, 5 * s**4]])
        bend = np.array([0, 0, 2, 6 * s, 12 * s**2, 20 * s**3])
        self.now, self.velocity = powers @ self._coefficients
        self.velocity = self.velocity / self._duration
        self.acceleration = bend @ self._coefficients / self._duration**2
        return self.now


def natural_duration(way: float, speed: float, shortest: float) -> float:
    """Seconds for a move of `way` radians (its largest joint) with peak `speed` rad/s."""
    return max(shortest, PEAK_OF_MEAN * way / speed)


class Tremor:
    """Ornstein-Uhlenbeck noise, smoothed once so that its velocity is continuous.

    sigma: standard deviation per joint, radians.  memory: seconds.
    """

    def __init__(self, rng: np.random.Generator, sigma: np.ndarray, *, memory: float = 0.7) -> None:
        self.rng, self._sigma, self._memory = rng, sigma, memory
        self._raw, self.now = np.zeros_like(sigma), np.zeros_like(sigma)

    def step(self, seconds: float) -> np.ndarray:
        """Advance and return the noise."""
        share = seconds / self._memory
        self._raw += self._sigma * np.sqrt(2 * share) * self.rng.standard_normal(len(self._raw)) - self._raw * share
        self.now = self.now + (self._raw - self.now) * min(1, 4 * share)
        return self.now


def wrap(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
