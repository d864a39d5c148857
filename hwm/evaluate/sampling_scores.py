"""Scores of frame 76, gathered clip by clip for every row, and their means and paired differences."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate.features import VideoFeatures
from hwm.evaluate.metrics import mean_squared_error, psnr_of_mse, ssim
from hwm.evaluate.perceptual import Lpips, PerceptualScorer
from hwm.evaluate.results import ORIGINAL, Difference
from hwm.evaluate.sampling_results import SCORED, EnsembleSize, FrameScores
from hwm.evaluate.sharpness import gmsd, sharpness
from hwm.evaluate.summary import Means

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mean_squared_error,
    "ssim": ssim,
    "gmsd": gmsd,
    "sharpness": sharpness,
}
"""Scores of pictures (B, H, W, 3) against the truth, one a picture."""


class FrameScorer:
    """Keeps every score of every row and clip.

    segments: (N,) the segment of every clip to come, or None.  features, lpips: networks of the user's weights.
    """

    def __init__(
        self, features: Sequence[VideoFeatures], lpips: Lpips | None, *, segments: np.ndarray | None, num_clips: int
    ) -> None:
        self._scores: dict[tuple[str, str], list[Tensor]] = {}
        self._sizes: dict[tuple[int, str], list[Tensor]] = {}
        self._perceptual = PerceptualScorer(features, lpips, segments=segments, num_clips=num_clips)
        self._segments, self._scored, self._seconds = segments, 0, 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by part."""
        return {"pixel scores": self._seconds, "perceptual scores": self._perceptual.seconds}

    def add(self, rows: dict[str, Tensor], truth_BHWC: Tensor) -> None:
        """Score the next clips: uint8 pictures (B, H, W, 3) by row, the same rows every time."""
        started = time.perf_counter()
        for name, frames_BHWC in rows.items():
            for metric, score in METRICS.items():
                self._scores.setdefault((name, metric), []).append(score(frames_BHWC, truth_BHWC).double())
        self._seconds += time.perf_counter() - started
        videos = {name: frames_BHWC[:, None] for name, frames_BHWC in rows.items()}
        self._perceptual.add(videos, truth_BHWC[:, None], blocks=lambda frames: frames, first_clip=self._scored)
        self._scored += len(truth_BHWC)

    def add_sizes(self, means: dict[int, Tensor], truth_BHWC: Tensor) -> None:
        """Score the means of growing ensembles of the same clips, by their number of members."""
        started = time.perf_counter()
        for num_members, frames_BHWC in means.items():
            for metric in ("mse", "sharpness", "gmsd"):
                found = METRICS[metric](frames_BHWC, truth_BHWC).double()
                self._sizes.setdefault((num_members, metric), []).append(found)
        self._seconds += time.perf_counter() - started

    def psnr(self, name: str) -> Tensor:
        """PSNR in dB of every clip so far, (N,)."""
        return psnr_of_mse(self._of(name, "mse"))

    def rows(self, headline: str, *, seed: int) -> tuple[list[FrameScores], list[Difference]]:
        """Means with intervals of every row, and the headline's paired differences to every other in what networks see."""
        means = Means(self._segments, seed)
        perceptual, differences = self._perceptual.summary(headline, seed=seed)
        rows = []
        for name in dict.fromkeys(name for name, _ in self._scores):
            seen = {score.metric: score.all_frames for score in perceptual if score.name == name}
            own = {metric: means.one(self._of(name, metric)) for metric in ("ssim", "gmsd", "sharpness")}
            pooled = float(psnr_of_mse(self._of(name, "mse").mean()))
            rows.append(FrameScores(name, psnr=means.one(self.psnr(name)), pooled_psnr=pooled, perceptual=seen, **own))
        return rows, [replace(found, reference=ORIGINAL, span=SCORED) for found in differences]

    def difference(self, first: str, second: str, *, metric: str = "psnr", seed: int) -> Difference:
        """Paired difference over clips of two rows."""
        a, b = (self.psnr(name) if metric == "psnr" else self._of(name, metric) for name in (first, second))
        what = {"metric": metric, "reference": ORIGINAL, "span": SCORED}
        return Means(self._segments, seed).difference(first, second, a, b, **what)

    def sizes(self, *, seed: int) -> list[EnsembleSize]:
        """Scores of the mean of growing ensembles."""
        means, found = Means(self._segments, seed), []
        for num_members in sorted({n for n, _ in self._sizes}):
            mse, sharp, deviation = (
                torch.cat(self._sizes[num_members, metric]) for metric in ("mse", "sharpness", "gmsd")
            )
            found.append(
                EnsembleSize(
                    num_members,
                    psnr=means.one(psnr_of_mse(mse)),
                    mse=float(mse.mean()),
                    pooled_psnr=float(psnr_of_mse(mse.mean())),
                    sharpness=means.one(sharp),
                    gmsd=means.one(deviation),
                )
            )
        return found

    def _of(self, name: str, metric: str) -> Tensor:
        return torch.cat(self._scores[name, metric])
