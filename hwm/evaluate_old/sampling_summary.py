"""From the scores of frame 76 to what the page speaks of: comparisons, the curve's limit, the cost of a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from torch import nn

from hwm.evaluate_old.cost import peak_memory, seconds_of
from hwm.evaluate_old.results import COPY_FRAME, MEAN_OF_CONTEXT, Difference
from hwm.evaluate_old.sampling_clips import Clips, FrameSampler, seen_clips
from hwm.evaluate_old.sampling_results import (
    BLURRED,
    COPY_BLURRED,
    ONE_SAMPLE,
    STILL,
    EnsembleSize,
    SamplingCost,
    blend_of,
    mean_of,
    permuted,
    zeroed,
)
from hwm.evaluate_old.sampling_scores import FrameScorer
from hwm.evaluate_old.tuning import fit_saturation


def differences(
    scorer: FrameScorer, headline: str, control: int, members: Sequence[int], *, seed: int
) -> list[Difference]:
    """The comparisons that the page speaks of: each row once, and only with what it is to be measured by."""
    largest = members[-1]
    pairs = [(headline, other) for other in (COPY_FRAME, COPY_BLURRED, MEAN_OF_CONTEXT, STILL, BLURRED)]
    pairs += [(mean_of(n), COPY_FRAME) for n in members[:-1]]
    pairs += [(mean_of(control), other) for other in (zeroed(control), permuted(control))]
    found = [scorer.difference(first, second, seed=seed) for first, second in pairs]
    if largest > 1:
        found.append(scorer.difference(headline, ONE_SAMPLE, seed=seed))
        for metric in ("psnr", "sharpness", "gmsd"):
            found.append(scorer.difference(blend_of(largest), headline, metric=metric, seed=seed))
    return found


def saturation(curve: list[EnsembleSize]) -> dict[str, Any] | None:
    if len(curve) < 2:
        return None
    fit = fit_saturation([point.num_members for point in curve], [point.mse for point in curve])
    return {"floor": fit.floor, "variance": fit.variance, "psnr_limit": fit.psnr_limit, "clipped": fit.clipped}


def measured_cost(sampler: FrameSampler, clips: Clips, chosen: np.ndarray, largest: int, *, repeats: int) -> SamplingCost | None:
    if not repeats:
        return None
    clip = seen_clips(clips, chosen[:1], sampler, part=0)
    weights = list(cast(nn.Module, sampler.model).parameters())
    spent, several = sampler.seconds, []
    alone = [seconds_of(lambda: sampler.draw(clip, num_samples=1), sampler.device) for _ in range(repeats)]

    def together() -> None:
        several.append(seconds_of(lambda: sampler.draw(clip, num_samples=largest), sampler.device))

    peak, meaning = peak_memory(together, device=sampler.device)
    sampler.seconds = spent
    return SamplingCost(
        parameters=sum(weight.numel() for weight in weights),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        device=sampler.device.type,
        ensemble=largest,
        members_at_once=sampler.members_at_once,
        repeats=repeats,
        seconds_one=statistics.median(alone),
        seconds_ensemble=several[0],
        peak_bytes=peak,
        peak_meaning=meaning,
    )
