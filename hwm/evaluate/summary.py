"""From scores per clip to the table: means with intervals over clips, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hwm.evaluate.intervals import Interval, interval, intervals, paired_difference
from hwm.evaluate.metrics import METRICS
from hwm.evaluate.protocols import mean_of
from hwm.evaluate.scores import ALL, LAST, Difference, Score, frame_span
from hwm.evaluate.tuning import fit_saturation
from hwm.evaluate.ways import Ways
from hwm.work.parts import Columns


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

    def difference(self, first: str, second: str, a_N: Tensor, b_N: Tensor, **place: str) -> Difference:
        """Paired difference of one value per clip.  place: metric, reference and span."""
        change = paired_difference(a_N.numpy(), b_N.numpy(), groups=self.groups, seed=self.seed)
        return Difference(first, second, value=change, share_higher=float((a_N > b_N).double().mean()), **place)


def of_frames(columns: Columns, ways: Ways, means: Means) -> tuple[list[Score], list[Difference]]:
    """Every metric of every row against every reference, over every span, and the paired differences.

    columns: what was measured of each frame, (N, F), by "metric/reference/row".
    """
    scores, found = [], {}
    for metric in METRICS:
        for key, measured_NF in columns.inside(metric.name).items():
            reference, _, row = key.partition("/")
            values_NF = found[reference, row, metric.name] = metric.score(measured_NF)
            for span, values_N in spans(values_NF):
                scores.append(Score(row, metric.name, reference, span, means.one(values_N)))
            if values_NF.shape[1] > 1:
                each = means.each(values_NF)
                scores += [Score(row, metric.name, reference, frame_span(f + 1), value) for f, value in enumerate(each)]
            if metric.pooled:
                pooled = {LAST: measured_NF[:, -1], ALL: measured_NF}
                for span, _ in spans(values_NF):
                    value = Interval(float(metric.score(pooled[span].mean())), None, None)
                    scores.append(Score(row, metric.pooled, reference, span, value, note="pooled over clips"))
            if metric.name == "psnr" and row in map(mean_of, ways.sizes):
                scores.append(Score(row, "mse", reference, LAST, Interval(float(measured_NF[:, -1].mean()), None, None)))
    differences = []
    for reference in dict.fromkeys(reference for reference, *_ in found):
        for first, second, metrics in ways.pairs:
            for name in metrics if (reference, second, metrics[0]) in found else ():
                own, other = dict(spans(found[reference, first, name])), dict(spans(found[reference, second, name]))
                place = {"metric": name, "reference": reference}
                differences += [means.difference(first, second, own[span], other[span], span=span, **place) for span in own]
    return scores, differences


def spans(values_NF: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The last frame, and where there are several the mean over all: (N,) by span."""
    yield LAST, values_NF[:, -1]
    if values_NF.shape[1] > 1:
        yield ALL, values_NF.mean(1)


def saturation(scores: Sequence[Score], ways: Ways) -> dict[str, Any] | None:
    """MSE = floor + variance / N fitted to the means of growing ensembles, and the PSNR at its floor; None for one size."""
    if len(ways.sizes) < 2:
        return None
    mse = {score.row: score.value.mean for score in scores if score.metric == "mse"}
    fit = fit_saturation(ways.sizes, [mse[mean_of(n)] for n in ways.sizes])
    return {"floor": fit.floor, "variance": fit.variance, "psnr_limit": fit.psnr_limit, "clipped": fit.clipped}
