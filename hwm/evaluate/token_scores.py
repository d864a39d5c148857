"""Scores of predicted token distributions, batch by batch: cross-entropy, accuracy, top-k cross-entropy."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Prediction
from hwm.evaluate.intervals import Interval
from hwm.evaluate.metrics import MISSES
from hwm.evaluate.protocols import AUTOREGRESSIVE, COPY_GRID, TEACHER_FORCED, UNIGRAM
from hwm.evaluate.scenes import copy_last_grid
from hwm.evaluate.scores import ALL_GRIDS, TOKENS, Difference, Means, Row, Score, grid_span
from hwm.evaluate.ways import Drawn
from hwm.work.parts import Arrays, Columns

ROWS = (
    Row(TEACHER_FORCED, "model", "each grid given the true one before it"),
    Row(AUTOREGRESSIVE, "model", "each grid given the predicted one before it"),
    Row(COPY_GRID, "baseline", "the last seen grid, again and again"),
    Row(UNIGRAM, "baseline", "the frequency of each token in training"),
)

FLOOR = 1e-8
"""Probability that the rule "floor" gives to a miss."""


class TokenScorer:
    """Measures scenes, one score per clip, row and grid, and joins them.

    top_k: logits that predictions are cut to; without any a token is right by the one that is drawn, not the likeliest.
    controls: rows with other states by name of the control (`Ways.controls`).
    forced: whether their predictions are teacher-forced, as the row beside which they stand.
    """

    def __init__(
        self, *, vocab_size: int, unigram_counts: Tensor | None, top_k: int, controls: Mapping[str, Row], forced: bool = False
    ) -> None:
        self.vocab_size, self.unigram_counts, self.top_k = vocab_size, unigram_counts, top_k
        self._controls, self._forced = controls, forced
        self._columns = Columns()

    def measure(self, drawn: Drawn) -> Arrays:
        """Scores of the predictions of a scene, teacher-forced where grids follow grids, and of what needs no model."""
        context, future = drawn.scene.context, drawn.scene.future
        assert future is not None
        predictions = {AUTOREGRESSIVE: drawn.prediction()}
        for control, row in self._controls.items():
            predictions[row.name] = drawn.prediction(control, forced=self._forced)
        if future.shape[1] > 1:
            predictions[TEACHER_FORCED] = drawn.prediction(forced=True)
        found: Arrays = {}
        for name, prediction in predictions.items():
            if prediction.nll_BTHW is not None:
                found[f"nll/{name}"] = per_grid(prediction.nll_BTHW.cpu()).numpy()
            top_BTHWK = prediction.top_indices_BTHWK
            told = prediction.tokens_BKTHW if top_BTHWK is None else top_BTHWK.movedim(-1, 1)
            if told is not None:
                found[f"right/{name}"] = per_grid(told[:, 0].cpu() == future).numpy()
        copied = copy_last_grid(context, num_grids=future.shape[1])
        found[f"right/{COPY_GRID}"] = per_grid(copied == future).numpy()
        if self.unigram_counts is not None:
            found[f"nll/{UNIGRAM}"] = per_grid(unigram_nll(future, self.unigram_counts)).numpy()
        return found | self._top_k(predictions[AUTOREGRESSIVE], future)

    def _top_k(self, prediction: Prediction, future: Tensor) -> Arrays:
        indices, values = prediction.top_indices_BTHWK, prediction.top_values_BTHWK
        if indices is None or values is None:
            return {}
        indices, values = indices.cpu(), values.cpu()
        sign = _are_log_probabilities(indices, values, future, prediction.nll_BTHW)
        found: Arrays = {"log_probabilities": np.full(len(future), sign, np.int8)}
        for policy in MISSES:
            if policy == "uniform_rest" and sign < 0:
                found[f"top_nll/{policy}"] = np.full(len(future), np.nan)
                continue
            nll, covered = topk_nll(indices, values, future, missing=policy, vocab_size=self.vocab_size)
            found[f"top_nll/{policy}"] = nll.flatten(1).nanmean(1).numpy()
            found["covered"] = covered.to(torch.float64).flatten(1).mean(1).numpy()
        return found

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next clips."""
        self._columns.add(arrays)

    def summary(self, means: Means) -> tuple[list[Score], list[Difference]]:
        """Cross-entropy and accuracy of every row and grid, the truncated cross-entropies, and what the states are worth."""
        nll, found, others = self._columns.inside("nll"), [], [row.name for row in self._controls.values()]
        order = [*(row.name for row in ROWS if row.role == "model"), *others, COPY_GRID, UNIGRAM]
        for metric, by_row in (("cross-entropy", nll), ("accuracy", self._columns.inside("right"))):
            for row in (row for row in order if row in by_row):
                found.append(Score(row, metric, TOKENS, ALL_GRIDS, means.one(by_row[row].mean(1))))
                each = enumerate(means.each(by_row[row]))
                found += [Score(row, metric, TOKENS, grid_span(t + 1), value) for t, value in each]
        own, differences = TEACHER_FORCED if self._forced else AUTOREGRESSIVE, []
        compared = [("cross-entropy", nll, other) for other in (*others, TEACHER_FORCED, UNIGRAM) if other != own]
        for metric, by_row, other in [*compared, ("accuracy", self._columns.inside("right"), COPY_GRID)]:
            if own in by_row and other in by_row:
                place = {"metric": metric, "reference": TOKENS, "span": ALL_GRIDS}
                differences.append(means.difference(own, other, by_row[own].mean(1), by_row[other].mean(1), **place))
        return found + self._truncated(means), differences

    def _truncated(self, means: Means) -> list[Score]:
        """The coverage, and the top-k cross-entropy under every rule for what lies outside (reference B.3)."""
        if "covered" not in self._columns:  # the model gives no logits
            return []
        covered, nll = self._columns["covered"], self._columns.inside("top_nll")
        signs = self._columns["log_probabilities"]
        if not (bool((signs > 0).any()) and bool((signs >= 0).all())):
            del nll["uniform_rest"]
        found = [Score(AUTOREGRESSIVE, "coverage", TOKENS, ALL_GRIDS, means.one(covered))]
        for policy in MISSES:
            value, note = Interval(float("nan"), None, None), "the model gives logits, not log-probabilities"
            if policy in nll:
                value, note = means.one(nll[policy], covered.numpy() if policy == "ignore" else None), ""
            name = f"top-{self.top_k} cross-entropy, {policy}"
            found.append(Score(AUTOREGRESSIVE, name, TOKENS, ALL_GRIDS, value, note))
        return found


def unigram_counts(batches: Iterable[Tensor], *, vocab_size: int) -> Tensor:
    """How often each id occurs in training tokens: int64 (V,).

    batches: token tensors of any shape in [0, vocab_size).  Raises ValueError where there are none.
    """
    counts = [torch.bincount(tokens.flatten(), minlength=vocab_size) for tokens in batches]
    if not counts:
        raise ValueError("token frequencies need at least one batch of training tokens")
    return torch.stack(counts).sum(0)


def unigram_nll(tokens_BTHW: Tensor, counts_V: Tensor) -> Tensor:
    """-log of the add-one smoothed frequency of each token in nats, float64 (B, T, H, W)."""
    smoothed = counts_V.to(torch.float64) + 1
    return (smoothed.sum().log() - smoothed.log())[tokens_BTHW]


def per_grid(values_BTHW: Tensor) -> Tensor:
    """Mean over the places of every grid, float64 (B, T)."""
    return values_BTHW.to(torch.float64).mean((2, 3))


def _are_log_probabilities(indices: Tensor, values: Tensor, future: Tensor, nll_BTHW: Tensor | None) -> int:
    """Whether the top values are log-probabilities rather than unnormalised logits: 1, -1, or 0 where a batch does not tell."""
    if nll_BTHW is None or bool((values.double().logsumexp(-1) > 1e-3).any()):
        return -1
    hit = indices == future[..., None]
    if not hit.any():
        return 0
    return 1 if torch.allclose(values[hit], -nll_BTHW.cpu()[hit.any(-1)].to(values.dtype), atol=1e-3) else -1


def topk_nll(
    indices: Tensor, values: Tensor, target: Tensor, *, missing: str = "floor", vocab_size: int = 64000
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood in nats of each token under a truncated distribution, and where it is covered.

    indices: integers (..., K), the ids kept.  values: floats (..., K), their logits.  target: integers (...).
    missing: a rule of `MISSES`.  The softmax runs over the K, of "min" over one more, of "fill_min" over the vocabulary; of
    "uniform_rest" values are log-probabilities already.  Of "ignore" a miss has nan, to be left out.
    Returns float64 nll (...) and bool covered (...).
    Raises ValueError for wrong shapes, an unknown policy or, with "uniform_rest", values that are not
    log-probabilities.
    """
    if missing not in MISSES:
        raise ValueError(f"missing must be one of {', '.join(MISSES)}, got {missing!r}")
    if indices.shape != values.shape or indices.shape[:-1] != target.shape:
        shapes = (tuple(indices.shape), tuple(values.shape), tuple(target.shape))
        raise ValueError(f"top-k scores need indices (..., K), values (..., K) and target (...), got {shapes}")
    num_kept = indices.shape[-1]
    if not 0 < num_kept <= vocab_size:
        raise ValueError(f"top-k scores need 1 to {vocab_size} values a token, got {num_kept}")
    values = values.to(torch.float64)
    hit = indices == target[..., None]
    covered = hit.any(-1)
    kept = torch.logsumexp(values, -1)
    own = torch.where(hit, values, -torch.inf).amax(-1)
    lowest = values.amin(-1)
    if missing == "fill_min" and num_kept < vocab_size:
        kept = torch.logaddexp(kept, lowest + math.log(vocab_size - num_kept))
    if missing == "uniform_rest":
        return _nll_uniform_rest(kept, own, covered, vocab_size - num_kept), covered
    miss = {
        "floor": torch.full_like(kept, -math.log(FLOOR)),
        "min": torch.logaddexp(kept, lowest) - lowest,
        "fill_min": kept - lowest,
        "ignore": torch.full_like(kept, torch.nan),
    }[missing]
    return torch.where(covered, kept - own, miss), covered


def _nll_uniform_rest(kept: Tensor, own: Tensor, covered: Tensor, num_rest: int) -> Tensor:
    if bool((kept > 1e-3).any()):
        raise ValueError('the policy "uniform_rest" needs log-probabilities, but some values sum to more than 1')
    # Probabilities that come from float32 cannot tell a smaller rest from nothing.
    rest = (-torch.expm1(kept)).clamp(min=torch.finfo(torch.float32).eps)
    return torch.where(covered, -own, math.log(max(num_rest, 1)) - torch.log(rest))
