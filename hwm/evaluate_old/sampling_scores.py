"""Scores of frame 76, clip by clip for every row, and their means and paired differences."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from hwm.evaluate_old.metrics import gmsd, mean_squared_error, psnr_of_mse, sharpness, ssim
from hwm.evaluate_old.perceptual import Lpips, PerceptualScorer, VideoFeatures
from hwm.evaluate_old.results import ORIGINAL, Difference
from hwm.evaluate_old.sampling_results import SCORED, EnsembleSize, FrameScores
from hwm.evaluate_old.summary import Means
from hwm.work.parts import Arrays, Columns, inside, seconds, under

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mean_squared_error,
    "ssim": ssim,
    "gmsd": gmsd,
    "sharpness": sharpness,
}
"""Scores of pictures (B, H, W, 3) against the truth, one a picture."""


class FrameScorer:
    """Measures batches and joins the scores of every row and clip.

    segments: (N,) the segment of every clip, or None.  features, lpips: networks of the user's weights.
    """

    def __init__(
        self, features: Sequence[VideoFeatures], lpips: Lpips | None, *, segments: np.ndarray | None, num_clips: int
    ) -> None:
        self._columns = Columns()
        self._perceptual = PerceptualScorer(features, lpips, segments=segments, num_clips=num_clips)
        self._segments = segments

    @property
    def seconds(self) -> float:
        """Wall time of the scores by networks, spent by this object."""
        return self._perceptual.seconds

    def measure(
        self,
        rows: dict[str, Tensor],
        means: dict[int, Tensor],
        truth_BHWC: Tensor,
        *,
        first_clip: int,
        poll: Callable[[], None] = lambda: None,
    ) -> Arrays:
        """Scores of one batch of clips, numbered from `first_clip`.

        rows: uint8 pictures (B, H, W, 3) by row, the same rows every time.  means: those of growing ensembles, by their
        number of members.  poll: called now and then; may raise.
        """
        started = time.perf_counter()
        found: Arrays = {}
        for name, frames_BHWC in rows.items():
            poll()
            for metric, score in METRICS.items():
                found[f"rows/{metric}/{name}"] = score(frames_BHWC, truth_BHWC).double().numpy()
        for num_members, frames_BHWC in means.items():
            poll()
            for metric in ("mse", "sharpness", "gmsd"):
                found[f"sizes/{metric}/{num_members}"] = METRICS[metric](frames_BHWC, truth_BHWC).double().numpy()
        found |= seconds(pixel_scores=time.perf_counter() - started)
        videos, before = {name: frames_BHWC[:, None] for name, frames_BHWC in rows.items()}, self._perceptual.seconds
        networks = self._perceptual.measure(
            videos, truth_BHWC[:, None], blocks=lambda frames: frames, first_clip=first_clip, poll=poll
        )
        return found | under("perceptual", networks) | seconds(perceptual_scores=self._perceptual.seconds - before)

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next clips."""
        self._columns.add({key: array for key, array in arrays.items() if key.startswith(("rows/", "sizes/"))})
        self._perceptual.add(inside("perceptual", arrays))

    def psnr(self, name: str) -> Tensor:
        """PSNR in dB of every clip so far, (N,)."""
        return psnr_of_mse(self._of(name, "mse"))

    def rows(self, headline: str, *, seed: int) -> tuple[list[FrameScores], list[Difference]]:
        """Means with intervals of every row, and the headline's paired differences to every other in what networks see."""
        means = Means(self._segments, seed)
        perceptual, differences = self._perceptual.summary(headline, seed=seed)
        rows = []
        for name in self._columns.inside("rows/mse"):
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
        for num_members in sorted(int(n) for n in self._columns.inside("sizes/mse")):
            mse, sharp, deviation = (
                self._columns[f"sizes/{metric}/{num_members}"] for metric in ("mse", "sharpness", "gmsd")
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
        return self._columns[f"rows/{metric}/{name}"]
