"""What an evaluation found: plain dataclasses that become JSON without losing a number."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from hwm.evaluate.intervals import Interval

RECONSTRUCTION = "reconstruction"
"""Reference: the tokenizer's own decoding of the true future; predictions and baselines pass the same tokenizer."""
ORIGINAL = "original"
"""Reference: the video as recorded; baselines start from its frames."""


# Names of rows.
EXPECTED_CODE = "model, expected code"
LIKELY_TOKENS = "model, most likely tokens"
SAMPLED_TOKENS = "model, sampled tokens"
SAMPLED_LATENTS = "model, sampled latents"
STILL_LATENTS = "model, latents at temperature 0"
ZEROED, PERMUTED = "model, states zeroed", "model, states permuted"
TEACHER_FORCED, AUTOREGRESSIVE = "model, teacher-forced", "model, autoregressive"
CEILING = "tokenizer alone"
COPY_FRAME, COPY_GRID, MEAN_OF_CONTEXT = "copy last frame", "copy last grid", "mean of context"

SCORED_FRAME, ALL_FRAMES = "scored frame", "all frames"
"""Spans of a score: the last future frame, or the mean over all of them."""


@dataclass(frozen=True)
class TokenScores:
    """How well a row knows the future tokens: nats and share right, over all future grids and for each."""

    name: str
    cross_entropy: Interval | None
    accuracy: Interval | None
    cross_entropy_per_grid: list[Interval] | None
    accuracy_per_grid: list[Interval] | None


@dataclass(frozen=True)
class TopKScores:
    """Cross-entropy in nats from the k largest logits under one rule for what lies outside (reference B.3).

    None where the rule cannot be applied, with the reason in `note`.
    """

    policy: str
    cross_entropy: Interval | None
    note: str = ""


@dataclass(frozen=True)
class PixelScores:
    """PSNR in dB and SSIM of a row against one reference.

    *_per_frame: future frames 1, 2, ...   *_scored: the last one.   *_mean: mean over all future frames.
    pooled_psnr_*: PSNR of the squared error pooled over clips (and frames) instead of the mean of PSNRs.
    """

    name: str
    reference: str
    psnr_scored: Interval
    psnr_mean: Interval
    ssim_scored: Interval
    ssim_mean: Interval
    pooled_psnr_scored: float
    pooled_psnr_mean: float
    psnr_per_frame: list[Interval]
    ssim_per_frame: list[Interval]

    def psnr(self, span: str) -> Interval:
        """PSNR over a span, the scored frame or all frames."""
        return self.psnr_scored if span == SCORED_FRAME else self.psnr_mean


PERCEPTUAL_DIGITS = {"TFD": 4, "FID": 2, "LPIPS": 4}
"""Decimals with which perceptual scores are shown."""


@dataclass(frozen=True)
class PerceptualScores:
    """How far a row's future frames are from the reconstruction in what a network sees; lower is better.

    metric: "TFD" (Frechet distance of the tokenizer's features), "FID" (of Inception's) or "LPIPS" (per frame).
    note: why an interval is missing.
    """

    name: str
    metric: str
    all_frames: Interval
    per_frame: list[Interval] | None = None
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """Paired difference first - second over clips.

    metric: "psnr" (dB), "cross entropy" (nats), or the metric of a perceptual score.
    span: "scored frame", "all frames" or "all grids".
    share_higher: share of clips in which first is higher; None for distances between sets of clips.
    """

    first: str
    second: str
    metric: str
    reference: str
    span: str
    difference: Interval
    share_higher: float | None


@dataclass(frozen=True)
class Example:
    """Frames of one clip to look at; uint8 arrays (F, H, W, C).

    context: decoded context.  truth: the reconstruction of the true future.  original: the recorded future or None.
    """

    clip: int
    context: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    psnr: float
    """PSNR in dB of the prediction's scored frame against the truth."""
    psnr_copy: float
    """The same for the last context frame."""
    original: np.ndarray | None = None


@dataclass(frozen=True)
class Cost:
    """What a prediction costs, measured on one batch of clips (HWM paper Tables 1 and 2).

    parameters, weight_bytes: of the model alone.  batch_size, repeats: of the measurement; rates are the median repeat.
    samples_per_second: predicted futures a second as tokens or latents; *_decoded: with their decoding to frames.
    peak_bytes: peak memory of prediction without decoding, in the sense of `peak_meaning`; None where it is unknown.
    """

    parameters: int
    weight_bytes: int
    device: str
    batch_size: int
    repeats: int
    samples_per_second: float
    samples_per_second_decoded: float
    peak_bytes: int | None
    peak_meaning: str


@dataclass
class EvaluationResult:
    """All scores of one model on one set of clips.

    headline: name of the row that the verdict is about, chosen before seeing any score.
    settings: everything that decides the numbers.
    tokens, coverage, top_k: of a model that predicts tokens; empty otherwise.
    perceptual: of the feature networks that were given.
    seconds, cost: wall time by part, cost of a prediction; the only values that vary from run to run.
    examples: frames to look at, not part of the JSON.
    """

    headline: str
    settings: dict[str, Any]
    tokens: list[TokenScores]
    coverage: Interval | None
    top_k: list[TopKScores]
    pixels: list[PixelScores]
    perceptual: list[PerceptualScores]
    differences: list[Difference]
    seconds: dict[str, float]
    cost: Cost | None = None
    examples: list[Example] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; numbers that do not exist are None."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "examples"}

    def pixel_row(self, name: str, reference: str = RECONSTRUCTION) -> PixelScores:
        """The scores of one row.  Raises ValueError, naming the rows there are, for another name."""
        for row in self.pixels:
            if (row.name, row.reference) == (name, reference):
                return row
        known = ", ".join(sorted({repr(row.name) for row in self.pixels}))
        raise ValueError(f"no row {name!r} against the {reference}; the rows are {known}")

    def difference(self, first: str, second: str, *, metric: str, span: str, reference: str) -> Difference:
        """One paired difference.  Raises ValueError where it was not computed."""
        wanted = (first, second, metric, span, reference)
        for row in self.differences:
            if (row.first, row.second, row.metric, row.span, row.reference) == wanted:
                return row
        raise ValueError(f"no paired difference of {wanted}")


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numbers as JSON takes them; a number that is not finite is None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    return value
