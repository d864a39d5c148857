"""Scores of predicted token distributions, batch by batch: cross-entropy, accuracy, top-k cross-entropy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Prediction
from hwm.evaluate_old.baselines import copy_last_grid, unigram_nll
from hwm.evaluate_old.metrics import MISSING_POLICIES, topk_nll
from hwm.evaluate_old.results import AUTOREGRESSIVE, COPY_GRID
from hwm.work.parts import Arrays, Columns


class TokenScorer:
    """Measures batches, one score per clip, row and grid, and joins them."""

    def __init__(self, *, vocab_size: int, unigram_counts: Tensor | None) -> None:
        self.vocab_size, self.unigram_counts = vocab_size, unigram_counts
        self._columns = Columns()

    def measure(self, predictions: dict[str, Prediction], context: Tensor, future: Tensor) -> Arrays:
        """Scores of the predictions of one batch, and of the baselines that need no model."""
        found: Arrays = {}
        for name, prediction in predictions.items():
            if prediction.nll_BTHW is not None:
                found[f"nll/{name}"] = per_grid(prediction.nll_BTHW.cpu()).numpy()
            if prediction.top_indices_BTHWK is not None:
                likeliest = prediction.top_indices_BTHWK[..., 0].cpu()
                found[f"right/{name}"] = per_grid(likeliest == future).numpy()
        copied = copy_last_grid(context, num_grids=future.shape[1])
        found[f"right/{COPY_GRID}"] = per_grid(copied == future).numpy()
        if self.unigram_counts is not None:
            found["nll/unigram"] = per_grid(unigram_nll(future, self.unigram_counts)).numpy()
        return found | self._top_k(predictions[AUTOREGRESSIVE], future)

    def _top_k(self, prediction: Prediction, future: Tensor) -> Arrays:
        indices, values = prediction.top_indices_BTHWK, prediction.top_values_BTHWK
        if indices is None or values is None:
            return {}
        indices, values = indices.cpu(), values.cpu()
        sign = _are_log_probabilities(indices, values, future, prediction.nll_BTHW)
        found: Arrays = {"log_probabilities": np.full(len(future), sign, np.int8)}
        for policy in MISSING_POLICIES:
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

    @property
    def nll(self) -> dict[str, Tensor]:
        """Cross-entropy by row, (N, T)."""
        return self._columns.inside("nll")

    @property
    def right(self) -> dict[str, Tensor]:
        """Share of right tokens by row, (N, T)."""
        return self._columns.inside("right")

    @property
    def top_nll(self) -> dict[str, Tensor]:
        """Cross-entropy from the top k by policy, (N,); "uniform_rest" only of a model that gives log-probabilities."""
        found = self._columns.inside("top_nll")
        signs = self._columns["log_probabilities"] if found else torch.zeros(0)
        if not (bool((signs > 0).any()) and bool((signs >= 0).all())):
            found.pop("uniform_rest", None)
        return found

    @property
    def covered(self) -> Tensor | None:
        """Share of tokens inside the top k, (N,); None where the model gives no logits."""
        return self._columns["covered"] if "covered" in self._columns else None


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
