"""Scores of predicted token distributions, gathered batch by batch: cross-entropy, accuracy, top-k cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from hwm.contracts import Prediction
from hwm.evaluate.baselines import copy_last_grid, unigram_nll
from hwm.evaluate.metrics import MISSING_POLICIES, topk_nll
from hwm.evaluate.results import AUTOREGRESSIVE, COPY_GRID


class TokenScorer:
    """Keeps one score per clip, row and grid.

    nll, right: by row, parts (B, T).  top_nll: by policy, parts (B,).  covered: parts (B,).
    """

    def __init__(self, *, vocab_size: int, unigram_counts: Tensor | None) -> None:
        self.vocab_size, self.unigram_counts = vocab_size, unigram_counts
        self.nll: dict[str, list[Tensor]] = {}
        self.right: dict[str, list[Tensor]] = {}
        self.top_nll: dict[str, list[Tensor]] = {}
        self.covered: list[Tensor] = []

    def add(self, predictions: dict[str, Prediction], context: Tensor, future: Tensor) -> None:
        """Score the predictions of one batch, and the baselines that need no model."""
        for name, prediction in predictions.items():
            if prediction.nll_BTHW is not None:
                self.nll.setdefault(name, []).append(per_grid(prediction.nll_BTHW.cpu()))
            if prediction.top_indices_BTHWK is not None:
                likeliest = prediction.top_indices_BTHWK[..., 0].cpu()
                self.right.setdefault(name, []).append(per_grid(likeliest == future))
        copied = copy_last_grid(context, num_grids=future.shape[1])
        self.right.setdefault(COPY_GRID, []).append(per_grid(copied == future))
        if self.unigram_counts is not None:
            self.nll.setdefault("unigram", []).append(per_grid(unigram_nll(future, self.unigram_counts)))
        self._add_top_k(predictions[AUTOREGRESSIVE], future)

    def _add_top_k(self, prediction: Prediction, future: Tensor) -> None:
        indices, values = prediction.top_indices_BTHWK, prediction.top_values_BTHWK
        if indices is None or values is None:
            return
        indices, values = indices.cpu(), values.cpu()
        for policy in MISSING_POLICIES:
            if policy == "uniform_rest" and not _are_log_probabilities(indices, values, future, prediction.nll_BTHW):
                continue
            nll, covered = topk_nll(indices, values, future, missing=policy, vocab_size=self.vocab_size)
            self.top_nll.setdefault(policy, []).append(nll.flatten(1).nanmean(1))
        self.covered.append(covered.to(torch.float64).flatten(1).mean(1))


def per_grid(values_BTHW: Tensor) -> Tensor:
    """Mean over the places of every grid, float64 (B, T)."""
    return values_BTHW.to(torch.float64).mean((2, 3))


def _are_log_probabilities(indices: Tensor, values: Tensor, future: Tensor, nll_BTHW: Tensor | None) -> bool:
    """Whether the top values of the targets are their log-probabilities rather than unnormalised logits."""
    hit = indices == future[..., None]
    if nll_BTHW is None or not hit.any():
        return False
    return torch.allclose(values[hit], -nll_BTHW.cpu()[hit.any(-1)].to(values.dtype), atol=1e-3)
