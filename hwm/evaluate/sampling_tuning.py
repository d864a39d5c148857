"""What the alternatives to the plain mean need to be told, chosen on clips that are not scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate.metrics import mean_squared_error, psnr_of_mse
from hwm.evaluate.sampling_results import Tuning
from hwm.predict import ensemble
from hwm.predict.postprocess import best_sigma

SIGMAS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""Blurs to choose from, in pixels of the scored size (ours)."""
TOLERANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Tolerances of the blend to choose from, in levels of 0..255 (ours)."""
ALLOWED_LOSS = 0.05
"""PSNR in dB that the blend may cost against the mean on the tuning clips (ours)."""


class Tuner:
    """Gathers tuning clips and then chooses: the blurs of best PSNR, and the largest tolerance of little cost."""

    def __init__(self) -> None:
        self._samples: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._truths: list[Tensor] = []
        self._blends: list[Tensor] = []

    def add(self, members_BKHWC: Tensor, seen_BHWC: Tensor, truth_BHWC: Tensor) -> None:
        """The next clips: samples, the last seen frame and the true frame 76, all uint8 of the scored size."""
        self._samples.append(members_BKHWC[:, 0])
        self._copies.append(seen_BHWC)
        self._truths.append(truth_BHWC)
        if members_BKHWC.shape[1] > 1:
            tried = [mean_squared_error(ensemble.blend(members_BKHWC, tolerance=t), truth_BHWC) for t in TOLERANCES]
            self._blends.append(psnr_of_mse(torch.stack(tried)))

    def choose(self, source: str) -> Tuning:
        """The choice.  source: where the clips come from, in words."""
        truth_BHWC = torch.cat(self._truths)
        return Tuning(
            source=source,
            num_clips=len(truth_BHWC),
            sigma_sample=best_sigma(torch.cat(self._samples), truth_BHWC, sigmas=SIGMAS),
            sigma_copy=best_sigma(torch.cat(self._copies), truth_BHWC, sigmas=SIGMAS),
            tolerance=largest_tolerance(torch.cat(self._blends, 1).mean(1).tolist()) if self._blends else None,
        )


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
