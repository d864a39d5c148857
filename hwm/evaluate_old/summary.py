"""From scores per clip to means with intervals and paired differences."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hwm.evaluate.intervals import Interval, interval, intervals, paired_difference
from hwm.evaluate_old.metrics import MISSING_POLICIES, psnr_of_mse
from hwm.evaluate_old.results import (
    ALL_FRAMES,
    AUTOREGRESSIVE,
    COPY_FRAME,
    COPY_GRID,
    MEAN_OF_CONTEXT,
    PERMUTED,
    SCORED_FRAME,
    TEACHER_FORCED,
    ZEROED,
    Cost,
    Difference,
    EvaluationResult,
    PixelScores,
    TokenScores,
    TopKScores,
)
from hwm.evaluate_old.scoring import ClipScores
from hwm.evaluate_old.token_scores import TokenScorer


class Means:
    """Means with intervals and paired differences over the clips of one evaluation.

    groups: (N,) the segment of every clip, or None.  seed: of the resampling.
    """

    def __init__(self, groups: np.ndarray | None, seed: int) -> None:
        self.groups, self.seed = groups, seed

    def one(self, values_N: Tensor, weights: np.ndarray | None = None) -> Interval:
        """Mean of one value per clip."""
        return interval(values_N.numpy(), groups=self.groups, weights=weights, seed=self.seed)

    def each(self, values_NM: Tensor) -> list[Interval]:
        """Mean of every column."""
        return intervals(values_NM.numpy(), groups=self.groups, seed=self.seed)

    def difference(self, first: str, second: str, a_N: Tensor, b_N: Tensor, **what: str) -> Difference:
        """Paired difference of one value per clip."""
        change = paired_difference(a_N.numpy(), b_N.numpy(), groups=self.groups, seed=self.seed)
        return Difference(first, second, difference=change, share_higher=float((a_N > b_N).double().mean()), **what)


def summarise(
    run: ClipScores, settings: dict[str, Any], *, groups: np.ndarray | None, seed: int, cost: Cost | None
) -> EvaluationResult:
    """Means with intervals over clips, and the paired differences."""
    means, headline = Means(groups, seed), run.rows.headline
    pixels, psnrs = _pixels(run, means)
    differences = []
    for reference in settings["references"]:
        own = psnrs[reference, headline]
        for other in (COPY_FRAME, COPY_GRID, MEAN_OF_CONTEXT, ZEROED, PERMUTED):
            theirs, what = psnrs[reference, other], {"metric": "psnr", "reference": reference}
            differences.append(means.difference(headline, other, own[:, -1], theirs[:, -1], span=SCORED_FRAME, **what))
            differences.append(means.difference(headline, other, own.mean(1), theirs.mean(1), span=ALL_FRAMES, **what))
    tokens: list[TokenScores] = []
    top_k: list[TopKScores] = []
    coverage = None
    if run.tokens is not None:
        tokens, more = _tokens(run.tokens, means)
        coverage, top_k = _top_k(run.tokens, means)
        differences += more
    before = run.perceptual.seconds
    perceptual, more = run.perceptual.summary(headline, seed=seed)
    reduced = run.perceptual.seconds - before
    return EvaluationResult(
        headline=headline,
        settings=settings,
        tokens=tokens,
        coverage=coverage,
        top_k=top_k,
        pixels=pixels,
        perceptual=perceptual,
        differences=differences + more,
        seconds={**run.times.spent, "perceptual scores": run.times.spent["perceptual scores"] + reduced},
        cost=cost,
        examples=run.examples,
    )


def _pixels(run: ClipScores, means: Means) -> tuple[list[PixelScores], dict[tuple[str, str], Tensor]]:
    """Scores of every row against every reference, and the PSNR (N, F) that the differences are taken of."""
    pixels, psnrs, structures = [], {}, run.ssim
    for (reference, name), mse in run.mse.items():
        structure = structures[reference, name]
        psnr = psnrs[reference, name] = psnr_of_mse(mse)
        pixels.append(
            PixelScores(
                name=name,
                reference=reference,
                psnr_scored=means.one(psnr[:, -1]),
                psnr_mean=means.one(psnr.mean(1)),
                ssim_scored=means.one(structure[:, -1]),
                ssim_mean=means.one(structure.mean(1)),
                pooled_psnr_scored=float(psnr_of_mse(mse[:, -1].mean())),
                pooled_psnr_mean=float(psnr_of_mse(mse.mean())),
                psnr_per_frame=means.each(psnr),
                ssim_per_frame=means.each(structure),
            )
        )
    return pixels, psnrs


def _tokens(scores: TokenScorer, means: Means) -> tuple[list[TokenScores], list[Difference]]:
    nll, right = scores.nll, scores.right
    rows = [
        TokenScores(
            name=name,
            cross_entropy=means.one(nll[name].mean(1)) if name in nll else None,
            accuracy=means.one(right[name].mean(1)) if name in right else None,
            cross_entropy_per_grid=means.each(nll[name]) if name in nll else None,
            accuracy_per_grid=means.each(right[name]) if name in right else None,
        )
        for name in (TEACHER_FORCED, AUTOREGRESSIVE, ZEROED, PERMUTED, COPY_GRID, "unigram")
        if name in nll or name in right
    ]
    what = {"metric": "cross entropy", "reference": "tokens", "span": "all grids"}
    differences = [
        means.difference(AUTOREGRESSIVE, other, nll[AUTOREGRESSIVE].mean(1), nll[other].mean(1), **what)
        for other in (ZEROED, PERMUTED)
        if AUTOREGRESSIVE in nll
    ]
    return rows, differences


def _top_k(scores: TokenScorer, means: Means) -> tuple[Interval | None, list[TopKScores]]:
    """The coverage, and the top-k cross-entropy under every rule for what lies outside."""
    covered, rows, nll = scores.covered, [], scores.top_nll
    if covered is None:
        return None, []
    for policy in MISSING_POLICIES:
        if policy not in nll:
            rows.append(TopKScores(policy, None, "the model gives logits, not log-probabilities"))
            continue
        weights = covered.numpy() if policy == "ignore" else None
        rows.append(TopKScores(policy, means.one(nll[policy], weights)))
    return means.one(covered), rows
