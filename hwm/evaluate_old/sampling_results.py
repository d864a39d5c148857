"""What the sampling protocol found: plain dataclasses that become JSON, and the names of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from hwm.evaluate.intervals import Interval
from hwm.evaluate_old.results import COPY_FRAME, Difference, plain

SCORED = "frame 76"
"""What every score is of."""
ONE_SAMPLE = "one sample"
BLURRED, MATCHED = "one sample, blurred", "one sample, histogram matched"
BLURRED_MATCHED = "one sample, blurred and matched"
STILL = "one prediction at temperature 0"
"""Of models of tokens the most likely future, of models of latents the mean of all."""
COPY_BLURRED = f"{COPY_FRAME}, blurred"


def mean_of(num_members: int) -> str:
    """Name of the row of a pixel mean."""
    return ONE_SAMPLE if num_members == 1 else f"mean of {num_members}"


def zeroed(num_members: int) -> str:
    """Name of the row of a pixel mean of predictions with neutral states."""
    return f"{mean_of(num_members)}, states zeroed"


def permuted(num_members: int) -> str:
    """Name of the row of a pixel mean of predictions with another clip's states."""
    return f"{mean_of(num_members)}, states permuted"


def medoid_of(num_members: int) -> str:
    """Name of the row of the member nearest to all."""
    return f"medoid of {num_members}"


def blend_of(num_members: int) -> str:
    """Name of the row of the spread-aware blend."""
    return f"blend of {num_members}"


@dataclass(frozen=True)
class FrameScores:
    """Scores of a row's frame 76 against the recorded one.

    psnr: mean over clips of the PSNR of uint8 pictures in dB (reference B.4).  pooled_psnr: that of the mean squared error
    of all clips.  ssim: higher is better.  gmsd: lower.  sharpness: 1 is as sharp as the truth.
    perceptual: "LPIPS" and "FID" where weights were given, lower is better.
    """

    name: str
    psnr: Interval
    pooled_psnr: float
    ssim: Interval
    gmsd: Interval
    sharpness: Interval
    perceptual: dict[str, Interval]


@dataclass(frozen=True)
class EnsembleSize:
    """The pixel mean of the first `num_members` samples of every clip; mse: of all clips, on the 0..255 scale squared."""

    num_members: int
    psnr: Interval
    mse: float
    pooled_psnr: float
    sharpness: Interval
    gmsd: Interval


@dataclass(frozen=True)
class Tuning:
    """What was chosen on `num_clips` clips that are not scored.

    sigma_sample, sigma_copy: standard deviations in pixels of the scored size, of the blur of a sample and of the copy.
    tolerance: of the blend; None without an ensemble.  source: where the clips come from.
    """

    source: str
    num_clips: int
    sigma_sample: float
    sigma_copy: float
    tolerance: float | None


@dataclass(frozen=True)
class SamplingCost:
    """What a predicted picture costs, measured on one clip: from its seen frames to pictures of the scored size.

    seconds_one, seconds_ensemble: wall time of one sample (median of `repeats`) and of `ensemble` of them (one run).
    peak_bytes: of the ensemble, in the sense of `peak_meaning`; None where it is unknown.
    """

    parameters: int
    weight_bytes: int
    device: str
    ensemble: int
    members_at_once: int
    repeats: int
    seconds_one: float
    seconds_ensemble: float
    peak_bytes: int | None
    peak_meaning: str


@dataclass(frozen=True)
class FrameExample:
    """Pictures of one clip, uint8 (H, W, 3); spread: float (H, W), levels of 0..255.  Without an ensemble the last are None.

    seen: frame 16, which is what copying predicts.  truth: frame 76.  num_members: of the ensemble that mean, blend and
    spread are of.  psnr: dB by the name of the row.
    """

    clip: int
    seen: np.ndarray
    truth: np.ndarray
    sample: np.ndarray
    num_members: int
    psnr: dict[str, float]
    mean: np.ndarray | None = None
    blend: np.ndarray | None = None
    spread: np.ndarray | None = None


@dataclass
class SamplingResult:
    """All scores of one model on one set of sampling clips.

    headline: the row that the verdict is about, chosen beforehand: the mean of the largest ensemble.
    control: number of members of the rows with other states, which are compared with the mean of as many.
    settings: everything that decides the numbers.  sizes: the mean of growing ensembles.
    saturation: MSE = floor + variance / N fitted to them, and the PSNR at its floor; None for fewer than two sizes.
    calibration: of the largest ensemble, as JSON; None without one.
    seconds, cost: the only values that vary from run to run.  examples: pictures, not part of the JSON.
    """

    headline: str
    control: int
    settings: dict[str, Any]
    rows: list[FrameScores]
    differences: list[Difference]
    sizes: list[EnsembleSize]
    saturation: dict[str, Any] | None
    calibration: dict[str, Any] | None
    tuning: Tuning
    seconds: dict[str, float]
    cost: SamplingCost | None = None
    examples: list[FrameExample] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; numbers that do not exist are None."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "examples"}

    def row(self, name: str) -> FrameScores:
        """The scores of one row.  Raises ValueError, naming the rows there are, for another name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(f"no row {name!r}; the rows are {', '.join(repr(row.name) for row in self.rows)}")

    def difference(self, first: str, second: str, *, metric: str = "psnr") -> Difference:
        """One paired difference first - second.  Raises ValueError where it was not computed."""
        for found in self.differences:
            if (found.first, found.second, found.metric) == (first, second, metric):
                return found
        raise ValueError(f"no paired difference of {first!r} and {second!r} in {metric}")
