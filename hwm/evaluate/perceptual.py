"""Scores by what a network sees in the frames: Frechet distances between sets of features, LPIPS clip by clip.

Every row is compared with the verdict's reference, on all scored frames.  The features give a distance its name: only those
of the FID Inception network give an "FID".

Two sets of features are compared as two Gaussians:

    d = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

On the features of the Inception network it is the FID (Heusel et al. 2017, section 4).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hwm.clock import Clock
from hwm.evaluate.intervals import FEWEST, Interval, few, interval, intervals, paired_difference, resamples, symmetric_interval
from hwm.evaluate.networks import load_inception
from hwm.evaluate.protocols import EARLIER
from hwm.evaluate.scenes import View
from hwm.evaluate.scores import Difference, Score, frame_span
from hwm.tokenizers.open import load_tokenizer
from hwm.work.parts import Arrays, Columns, inside, under

LPIPS = "LPIPS"
_TRUTH = ""
MOST_GROUPS = 64
"""Groups of clips whose moments are kept apart; more segments than this share groups (ours)."""
NUM_RESAMPLES = 64
"""Resamples of a Frechet distance: enough for its standard error, to within a tenth (ours)."""
EARLIER_BY = 300
"""Frames from recorded ones to those beside which they show how far real frames wander by themselves (ours)."""
MOST_RESAMPLED_FEATURES = 256
"""Wider features get no interval: their distance takes seconds (ours)."""

Lpips = Callable[[Tensor, Tensor], Tensor]
"""uint8 frames (B, F, H, W, 3) twice to float32 (B, F)."""


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


class PerceptualScorer:
    """Measures batches and sums them up: moments of every feature, row and group of segments, LPIPS of every row and clip.

    segments: (N,) the segment of every clip; None: each clip its own.  seconds: time spent by this object.
    ahead: of scored frames that do not follow one another, how far each lies ahead: distances are then measured over time too, of
    the rows `followed`.
    """

    def __init__(
        self, features: Sequence[VideoFeatures], lpips: Lpips | None, *, segments: np.ndarray | None, num_clips: int,
        ahead: Sequence[int] = (), followed: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.ahead, self.followed = list(ahead), {_TRUTH, *followed} if len(ahead) > 1 else set[str]()
        self._times: dict[tuple[str, str], list[Moments]] = {}
        self.features, self.lpips, self.seconds = features, lpips, 0.0
        self.segments = np.arange(num_clips) if segments is None else segments
        _, rank = np.unique(self.segments, return_inverse=True)
        self.num_groups = min(int(rank.max()) + 1, MOST_GROUPS)
        self._group = rank * self.num_groups // (int(rank.max()) + 1)
        self._moments: dict[tuple[str, str], list[Moments | None]] = {}
        self._columns = Columns()

    def measure(self, rows: dict[str, Tensor], view: View, *, first_clip: int, poll: Callable[[], None] = lambda: None) -> Arrays:
        """What one batch of clips, numbered from `first_clip`, adds to the scores.

        rows: future frames, uint8 (B, F, H, W, 3).  view: the seen frames and the true future.
        poll: called now and then; may raise.
        """
        started, past, truth = time.perf_counter(), view.past, view.truth
        group = self._group[first_clip : first_clip + len(truth)]
        found: Arrays = {}
        for features in self.features:
            for name, frames in {_TRUTH: truth, **rows}.items():
                poll()
                found_BND = features(past, frames).cpu()
                found |= under(f"moments/{features.name}/{name}", _packed(found_BND, group))
                if name in self.followed and found_BND.shape[-1] <= MOST_RESAMPLED_FEATURES:
                    by_frame = found_BND.unflatten(1, (len(self.ahead), -1)).movedim(1, 0)
                    each = [Moments.of(features_BND.flatten(0, 1)) for features_BND in by_frame]
                    found |= under(f"times/{features.name}/{name}", _stacked(each))
        if self.lpips is not None:
            for name, frames in rows.items():
                poll()
                found[f"lpips/{name}"] = self.lpips(frames, truth).double().cpu().numpy()
        self.seconds += time.perf_counter() - started
        return found

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next batch."""
        self._columns.add({key: array for key, array in arrays.items() if key.startswith("lpips/")})
        for key in dict.fromkeys(key.rpartition("/")[0] for key in arrays if key.startswith("moments/")):
            _, metric, name = key.split("/", 2)
            parts = self._moments.setdefault((metric, name), [None] * self.num_groups)
            for g, new in _unpacked(inside(key, arrays)).items():
                parts[g] = new if (old := parts[g]) is None else old + new
        for key in dict.fromkeys(key.rpartition("/")[0] for key in arrays if key.startswith("times/")):
            _, metric, name = key.split("/", 2)
            more = _moments(inside(key, arrays))
            before = self._times.get((metric, name))
            self._times[metric, name] = more if before is None else [a + b for a, b in zip(before, more)]

    def summary(self, headline: str, *, reference: str, span: str, seed: int) -> tuple[list[Score], list[Difference]]:
        """Scores of every row, and the headline's paired differences to every other row.  reference, span: what was measured."""
        started, place = time.perf_counter(), (reference, span)
        scores, differences = [], []
        for features in self.features:
            found = self._distances(features.name, seed=seed)
            for name, distance in found.items():
                scores.append(Score(name, features.name, *place, distance.interval(), distance.note))
                if name != headline:
                    change = found[headline].minus(distance).interval()
                    differences.append(Difference(headline, name, features.name, *place, change, share_higher=None))
            scores += self._over_time(features.name, reference)
        values = {name: value_NF.numpy() for name, value_NF in self._columns.inside("lpips").items()}
        for name, value in values.items():
            scores.append(Score(name, LPIPS, *place, interval(value.mean(1), groups=self.segments, seed=seed)))
            if value.shape[1] > 1:
                each = enumerate(intervals(value, groups=self.segments, seed=seed))
                scores += [Score(name, LPIPS, reference, frame_span(f + 1), found) for f, found in each]
            if name != headline:
                own, other = values[headline].mean(1), value.mean(1)
                change = paired_difference(own, other, groups=self.segments, seed=seed)
                differences.append(Difference(headline, name, LPIPS, *place, change, float((own > other).mean())))
        self.seconds += time.perf_counter() - started
        return scores, differences

    def _over_time(self, metric: str, reference: str) -> Iterator[Score]:
        """Distances of the followed rows to the truth frame by frame, and of the truth to that of `EARLIER_BY` frames before."""
        found = {name: moments for (kind, name), moments in self._times.items() if kind == metric}
        truth = found.pop(_TRUTH, [])
        for place, (ahead, there) in enumerate(zip(self.ahead, truth), 1):
            pairs = {name: moments[place - 1] for name, moments in found.items()}
            if ahead - EARLIER_BY in self.ahead:
                pairs[EARLIER] = truth[self.ahead.index(ahead - EARLIER_BY)]
            for name, here in pairs.items():
                yield Score(name, metric, reference, frame_span(place), Interval(frechet_distance(here, there)), "of one frame")

    def _distances(self, metric: str, *, seed: int) -> dict[str, _Distance]:
        """Distances to the truth by row, resampled alike for all rows and the truth."""
        own = {name: found for (kind, name), found in self._moments.items() if kind == metric}
        parts = {name: [part for part in found if part is not None] for name, found in own.items()}
        truth = parts.pop(_TRUTH)
        groups, width = len(truth), len(truth[0].sum_D)
        note = few(self.num_groups) or ("" if groups > 1 else f"no interval: {width} features are too many to resample")
        num_resamples = NUM_RESAMPLES if groups >= FEWEST else 0
        # The first draw is the clips as they are.
        draws = np.concatenate([np.ones((1, groups)), resamples(groups, seed)[:num_resamples]])
        truths = _weighted(truth, draws)
        return {
            name: _Distance(np.array([frechet_distance(a, b) for a, b in zip(_weighted(part, draws), truths)]), groups, note)
            for name, part in parts.items()
        }


def _packed(features_BND: Tensor, group: np.ndarray) -> Arrays:
    """The moments of the features of clips, by group; of fewer wide features than they are wide these themselves, smaller."""
    width = features_BND.shape[-1]
    if width > MOST_RESAMPLED_FEATURES:
        group = np.zeros_like(group)
        if features_BND.shape[:2].numel() < width:
            check_finite(features_BND)
            return {"features": features_BND.float().flatten(0, 1).numpy()}
    groups = np.unique(group)
    parts = [Moments.of(features_BND[torch.from_numpy(group == g)].flatten(0, 1)) for g in groups]
    return {"groups": groups, **_stacked(parts)}


def _stacked(parts: Sequence[Moments]) -> Arrays:
    """Moments as arrays."""
    return {
        "counts": np.array([part.count for part in parts]),
        "sums": torch.stack([part.sum_D for part in parts]).numpy(),
        "outers": torch.stack([part.outer_DD for part in parts]).numpy(),
    }


def _moments(arrays: Arrays) -> list[Moments]:
    """Moments that `_stacked` made arrays of."""
    sums, outers = (torch.from_numpy(arrays[key]) for key in ("sums", "outers"))
    return [Moments(count, *more) for count, *more in zip(arrays["counts"].tolist(), sums, outers)]


def _unpacked(arrays: Arrays) -> dict[int, Moments]:
    """Moments by group."""
    if "features" in arrays:
        return {0: Moments.of(torch.from_numpy(arrays["features"]))}
    return dict(zip(arrays["groups"].tolist(), _moments(arrays)))


@dataclass(frozen=True)
class _Distance:
    """A distance, or a difference of two, on all clips and on every resample of them: values (1 + R,)."""

    values: np.ndarray
    num_groups: int
    note: str

    def interval(self) -> Interval:
        return symmetric_interval(float(self.values[0]), self.values[1:], num_groups=self.num_groups)

    def minus(self, other: _Distance) -> _Distance:
        return _Distance(self.values - other.values, self.num_groups, self.note)


def _weighted(parts: list[Moments], weights_RG: np.ndarray) -> list[Moments]:
    """Moments of resamples in which part g occurs weights_RG[r, g] times."""
    weights = torch.from_numpy(np.ascontiguousarray(weights_RG, dtype=np.float64))
    counts = weights @ torch.tensor([part.count for part in parts], dtype=torch.float64)
    sums_RD = weights @ torch.stack([part.sum_D for part in parts])
    outers_RDD = torch.tensordot(weights, torch.stack([part.outer_DD for part in parts]), 1)
    return [Moments(round(c), s, o) for c, s, o in zip(counts.tolist(), sums_RD, outers_RDD)]


FRAMES_AT_ONCE = 16
"""Frames that go through Inception together; each costs about 50 MB of activations."""


TFD = Path(__file__).parent / "weights/tfd"
"""Its network: the first tokenizer that was shipped, which stays as it is when better ones are."""


class VideoFeatures(Protocol):
    """Features of the future of videos.  `name`: what the Frechet distance between them is called."""

    name: str

    def __call__(self, past_BFHWC: Tensor, future_BFHWC: Tensor) -> Tensor:
        """uint8 seen and future frames to float32 (B, N, D): N features of the future."""


class TokenizerFeatures:
    """Activations of the encoder of a tokenizer that is kept for this (`TFD`), at every place of the future's grids (ours).

    still: of every future frame by itself instead, as the first one of a video; its distance has another name.  Rows and columns
    that fill no 8x8 pixels are left out there.

    The distance between them is the TFD (tokenizer-feature distance): it compares local appearance and motion, over 8x8 pixels
    and their surroundings and over 8 frames.  It needs no further file and is NOT an FID: the network was trained to reconstruct
    the built-in robot's pictures, not to recognise objects, and sees no whole frame.  Values compare with other TFDs only.
    """

    def __init__(self, device: torch.device | str = "cpu", *, still: bool = False) -> None:
        self.device, self.still, self.name = torch.device(device), still, "TFD of pictures" if still else "TFD"
        self._tokenizer = load_tokenizer(TFD, device=str(device))

    @torch.no_grad()
    def __call__(self, past_BFHWC: Tensor, future_BFHWC: Tensor) -> Tensor:
        """uint8 frames (B, F, H, W, 3), together whole 17-frame blocks unless `still`, to float32 (B, grids * h * w, 192).

        The grids are those that cover a future frame; they do not depend on context before their block.
        Raises ValueError for frames that are not whole blocks, or no future.
        """
        clock: Clock = self._tokenizer.clock
        _check_future(future_BFHWC)
        if self.still:
            stride = self._tokenizer.spatial_stride
            height, width = (side // stride * stride for side in future_BFHWC.shape[2:4])
            frames_N1HWC = future_BFHWC[:, :, :height, :width].flatten(0, 1)[:, None]
            features_NTDHW = self._tokenizer.features(frames_N1HWC.to(self.device))
            return features_NTDHW.float().movedim(2, -1).unflatten(0, future_BFHWC.shape[:2]).flatten(1, 4)
        video_BFHWC, num_past = torch.cat([past_BFHWC, future_BFHWC], 1), past_BFHWC.shape[1]
        if video_BFHWC.shape[1] % clock.block:
            raise ValueError(f"TFD needs videos of whole blocks of {clock.block} frames, got {video_BFHWC.shape[1]} frames")
        # Blocks are encoded independently; those of the context are not needed.
        block, skipped = divmod(clock.grid_of(num_past), clock.grids)
        features_BTDHW = self._tokenizer.features(video_BFHWC[:, block * clock.block :].to(self.device))[:, skipped:]
        return features_BTDHW.float().movedim(2, -1).flatten(1, 3)


class InceptionFeatures:
    """The pool3 features of the FID Inception network, of every future frame by itself.

    weights: the user's file pt_inception-2015-12-05-6726825d.pth, or the same tensors as safetensors.
    Raises ValueError for a file that is not it.
    """

    name = "FID"

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._inception = load_inception(weights, device=device)

    @torch.no_grad()
    def __call__(self, past_BFHWC: Tensor, future_BFHWC: Tensor) -> Tensor:
        """uint8 frames (B, F, H, W, 3) to float32 (B, F, 2048).  Raises ValueError for no future."""
        _check_future(future_BFHWC)
        frames_NCHW = future_BFHWC.flatten(0, 1).movedim(-1, 1)
        features = [self._inception(part.to(self.device)) for part in frames_NCHW.split(FRAMES_AT_ONCE)]
        return torch.cat(features).unflatten(0, (len(future_BFHWC), -1))


def _check_future(future_BFHWC: Tensor) -> None:
    if not future_BFHWC.shape[1]:
        raise ValueError("there are no future frames to look at")
