"""Colours of homes, and small random variations of them."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
RGB = tuple[float, float, float]

WOODS: tuple[RGB, ...] = (
    (0.72, 0.53, 0.36), (0.55, 0.36, 0.22), (0.82, 0.68, 0.50), (0.40, 0.27, 0.18), (0.66, 0.60, 0.52), (0.86, 0.80, 0.70),
)  # fmt: skip
WALLS: tuple[RGB, ...] = (
    (0.90, 0.88, 0.84), (0.80, 0.84, 0.86), (0.86, 0.80, 0.70), (0.70, 0.76, 0.70), (0.88, 0.86, 0.88), (0.62, 0.66, 0.72),
    (0.85, 0.72, 0.62),
)  # fmt: skip
FABRICS: tuple[RGB, ...] = (
    (0.30, 0.36, 0.46), (0.55, 0.50, 0.45), (0.45, 0.22, 0.20), (0.24, 0.34, 0.28), (0.66, 0.62, 0.55), (0.20, 0.22, 0.26),
)  # fmt: skip
CARPETS: tuple[RGB, ...] = (*FABRICS, (0.60, 0.58, 0.54))
CURTAINS: tuple[RGB, ...] = (*FABRICS, (0.80, 0.76, 0.68))
FRUIT: tuple[RGB, ...] = ((0.75, 0.12, 0.10), (0.85, 0.65, 0.15), (0.45, 0.62, 0.15), (0.92, 0.50, 0.12))
SHELLS: tuple[RGB, ...] = ((0.86, 0.85, 0.82), (0.80, 0.80, 0.80), (0.74, 0.72, 0.68))
ACCENTS: tuple[RGB, ...] = ((0.15, 0.35, 0.60), (0.60, 0.25, 0.12), (0.20, 0.20, 0.20))
METAL: RGB = (0.72, 0.72, 0.74)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of the choices, all equally likely."""
    return choices[int(rng.integers(len(choices)))]


def muted(colour: Sequence[float] | np.ndarray, amount: float = 0.35) -> np.ndarray:
    """The colour drawn towards grey: dyes and prints of real homes are rarely pure."""
    values = np.asarray(colour, float)
    return values + amount * (values.mean(-1, keepdims=True) - values)


def tint(rng: np.random.Generator, colour: Sequence[float] | np.ndarray, amount: float = 0.06) -> RGB:
    """The colour a little brighter or darker and a little shifted in hue."""
    brightness = rng.uniform(1 - amount, 1 + amount)
    shifted = np.asarray(colour) * brightness + rng.uniform(-amount / 2, amount / 2, 3)
    red, green, blue = np.clip(shifted, 0.03, 1).tolist()
    return red, green, blue
