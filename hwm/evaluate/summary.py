"""From scores per clip to means with intervals and paired differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate.baselines import PIXEL_BASELINES
from hwm.evaluate.intervals import interval, intervals, paired_difference
from hwm.evaluate.metrics import MISSING_POLICIES, psnr_of_mse
from hwm.evaluate.results import (
    AUTOREGRESSIVE,
    PERMUTED,
    TEACHER_FORCED,
    ZEROED,
    CompressionResult,
    Difference,
    PixelScores,
    TokenScores,
    TopKScores,
)
from hwm.evaluate.scoring import ClipScores


def summarise(
    run: ClipScores, settings: dict[str, Any], *, groups: np.ndarray | None, seed: int, seconds: float
) -> CompressionResult:
    """Means with intervals over clips, and the paired differences."""

    def mean(values: Tensor) -> Any:
        return interval(values.numpy(), groups=groups, seed=seed)

    def means(values: Tensor) -> Any:
        return intervals(values.numpy(), groups=groups, seed=seed)

    nll = {name: torch.cat(parts) for name, parts in run.nll.items()}
    right = {name: torch.cat(parts) for name, parts in run.right.items()}
    tokens = [
        TokenScores(
            name=name,
            cross_entropy=mean(nll[name].mean(1)) if name in nll else None,
            accuracy=mean(right[name].mean(1)) if name in right else None,
            cross_entropy_per_grid=means(nll[name]) if name in nll else None,
            accuracy_per_grid=means(right[name]) if name in right else None,
        )
        for name in (TEACHER_FORCED, AUTOREGRESSIVE, ZEROED, PERMUTED, "copy last grid", "unigram")
        if name in nll or name in right
    ]
    covered = torch.cat(run.covered) if run.covered else None
    top_k = []
    for policy in MISSING_POLICIES if covered is not None else ():
        if policy not in run.top_nll:
            top_k.append(TopKScores(policy, None, "the model gives logits, not log-probabilities"))
            continue
        values = torch.cat(run.top_nll[policy])
        weights = covered.numpy() if policy == "ignore" and covered is not None else None
        top_k.append(TopKScores(policy, interval(values.numpy(), groups=groups, weights=weights, seed=seed)))

    pixels, psnrs = [], {}
    for key, parts in run.mse.items():
        mse, structure = torch.cat(parts), torch.cat(run.ssim[key])
        psnrs[key] = psnr_of_mse(mse)
        pixels.append(
            PixelScores(
                reference=key[0],
                name=key[1],
                psnr_scored=mean(psnrs[key][:, -1]),
                psnr_mean=mean(psnrs[key].mean(1)),
                ssim_scored=mean(structure[:, -1]),
                ssim_mean=mean(structure.mean(1)),
                pooled_psnr_scored=float(psnr_of_mse(mse[:, -1].mean())),
                pooled_psnr_mean=float(psnr_of_mse(mse.mean())),
                psnr_per_frame=means(psnrs[key]),
                ssim_per_frame=means(structure),
            )
        )

    differences = []

    def compare(first: str, second: str, a: Tensor, b: Tensor, **what: str) -> None:
        change = paired_difference(a.numpy(), b.numpy(), groups=groups, seed=seed)
        differences.append(Difference(first, second, difference=change, share_higher=float((a > b).double().mean()), **what))

    for reference in settings["references"]:
        own = psnrs[reference, run.headline]
        for other in (*PIXEL_BASELINES, ZEROED, PERMUTED):
            theirs, what = psnrs[reference, other], {"metric": "psnr", "reference": reference}
            compare(run.headline, other, own[:, -1], theirs[:, -1], span="scored frame", **what)
            compare(run.headline, other, own.mean(1), theirs.mean(1), span="all frames", **what)
    for other in (ZEROED, PERMUTED):
        if AUTOREGRESSIVE in nll:
            what = {"metric": "cross entropy", "reference": "tokens", "span": "all grids"}
            compare(AUTOREGRESSIVE, other, nll[AUTOREGRESSIVE].mean(1), nll[other].mean(1), **what)
    return CompressionResult(
        headline=run.headline,
        settings=settings,
        tokens=tokens,
        coverage=None if covered is None else mean(covered),
        top_k=top_k,
        pixels=pixels,
        differences=differences,
        seconds={**run.seconds, "total": seconds},
        examples=[run.examples[part][1] for part in sorted(run.examples)],
    )
