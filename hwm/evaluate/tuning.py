"""What the alternatives to the plain mean need to be told, chosen on clips that are not scored; how far averaging can go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate.metrics import mean_squared_error, psnr, psnr_of_mse
from hwm.predict import ensemble
from hwm.predict.ensemble import gaussian_blur
from hwm.work.parts import Arrays, Columns

SIGMAS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""Blurs to choose from, in pixels of the scored size (ours)."""
TOLERANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Tolerances of the blend to choose from, in levels of 0..255 (ours)."""
ALLOWED_LOSS = 0.05
"""PSNR in dB that the blend may cost against the mean on the tuning clips (ours)."""


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


class Tuner:
    """Tries everything on tuning clips and then chooses: the blurs of best PSNR, the largest tolerance of little cost."""

    def __init__(self) -> None:
        self._psnrs = Columns()

    def measure(self, members_BKHWC: Tensor, seen_BHWC: Tensor, truth_BHWC: Tensor) -> Arrays:
        """PSNR of each trial on each clip, from samples, the last seen frame and the true frame 76, uint8 of the scored size."""
        found = {"sample": _blurred(members_BKHWC[:, 0], truth_BHWC), "copy": _blurred(seen_BHWC, truth_BHWC)}
        if members_BKHWC.shape[1] > 1:
            tried = [mean_squared_error(ensemble.blend(members_BKHWC, tolerance=t), truth_BHWC) for t in TOLERANCES]
            found["blend"] = psnr_of_mse(torch.stack(tried, 1)).numpy()
        return found

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next clips."""
        self._psnrs.add(arrays)

    def choose(self, source: str) -> Tuning:
        """The choice; of equal blurs the smallest.  source: where the clips come from, in words."""
        sample, copy = (self._psnrs[name].mean(0).numpy() for name in ("sample", "copy"))
        blends = self._psnrs["blend"].mean(0).tolist() if "blend" in self._psnrs else []
        return Tuning(
            source=source, num_clips=len(self._psnrs["sample"]), sigma_sample=SIGMAS[int(sample.argmax())],
            sigma_copy=SIGMAS[int(copy.argmax())], tolerance=largest_tolerance(blends) if blends else None,
        )  # fmt: skip


def _blurred(frames_BHWC: Tensor, truth_BHWC: Tensor) -> np.ndarray:
    """PSNR of every blur of every picture, (B, len(SIGMAS))."""
    return torch.stack([psnr(gaussian_blur(frames_BHWC, sigma=sigma), truth_BHWC) for sigma in SIGMAS], 1).numpy()


def largest_tolerance(psnrs: Sequence[float], tolerances: Sequence[float] = TOLERANCES) -> float:
    """The largest tolerance whose mean PSNR is at most `ALLOWED_LOSS` below that of the first, the plain mean."""
    return max(t for t, psnr in zip(tolerances, psnrs) if psnr >= psnrs[0] - ALLOWED_LOSS)


def set_apart(num_clips: int, segments: np.ndarray | None, *, num_tuning: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the clips to tune on and of those that may be scored, from one dataset.

    Tuning takes the first `num_tuning` clips; no clip of a segment that it touches is scored.
    Raises ValueError where fewer than two clips are left.
    """
    groups = np.arange(num_clips) if segments is None else np.asarray(segments)
    tuning = np.arange(min(num_tuning, num_clips))
    left = np.flatnonzero(~np.isin(groups, groups[tuning]))
    if len(left) < 2:
        raise ValueError(
            f"of {num_clips} clips {num_tuning} are set apart for tuning, and too few of other segments are left to score; "
            "give a dataset of their own with --tuning, or fewer with --tuning-clips"
        )
    return tuning, left


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
