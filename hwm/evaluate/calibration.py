"""Whether an ensemble knows where it is guessing: its predicted spread against its real error.

A calibrated ensemble is K draws from the distribution that the truth is drawn from, too.  The squared error of its
mean is then s^2 (1 + 1/K) on average, s the spread of the members: the *predicted* error, which for finite K is a
little more than the spread itself.  And the truth falls with the same chance on each rank among the members.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.predict.ensemble import spread
from hwm.work.parts import Arrays

EDGES = np.concatenate([[0.0], np.geomspace(1 / 16, 512, 720)])
"""Lower edges, in levels of 0..255, of the fine bins in which pixels are counted; each is 1.3 % wider than the last."""
NUM_BINS = 20
"""Points of the reliability curve, as many pixels in each as ties allow."""
FRACTIONS = np.linspace(0, 0.98, 50)
"""Shares of the pixels that are removed for the sparsification curves."""


class Calibration:
    """Measures ensembles against their truth batch by batch and sums up, in memory that does not grow with the pixels.

    All pixels count: they are sorted into a table of fine bins of predicted and of real error, with the exact sums of
    both; only the order inside a bin, at most 1.3 % wide, is lost.  seed: of the draws that break ties of ranks.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._seed, size = seed, len(EDGES)
        self._counts = np.zeros((size, size), np.int64)  # predicted by real
        self._predicted, self._squares, self._squares_by_error = np.zeros((3, size))
        self._ranks: np.ndarray | None = None
        self._clips: list[np.ndarray] = []

    def measure(self, members_BKHWC: Tensor, truth_BHWC: Tensor, *, first_clip: int) -> Arrays:
        """Tables of a batch: members uint8 (B, K, H, W, C) of the same K >= 2 in all batches, truth uint8 (B, H, W, C).

        Videos, (B, K, F, H, W, C) and (B, F, H, W, C), count as clips of F * H * W pixels.
        first_clip: place of the batch's first clip among all, which decides how ties of ranks are broken.
        Raises ValueError for other shapes or one member.
        """
        num_members = members_BKHWC.shape[1]
        if truth_BHWC.dtype != torch.uint8 or members_BKHWC[:, 0].shape != truth_BHWC.shape:
            shapes = f"{tuple(members_BKHWC.shape)} and {truth_BHWC.dtype} {tuple(truth_BHWC.shape)}"
            raise ValueError(f"calibration needs uint8 members (B, K, ...) and truth (B, ...), got {shapes}")
        # Ensembles of one are refused here.
        predicted = spread(members_BKHWC).square().cpu().numpy().astype(np.float64) * (1 + 1 / num_members)
        mean = members_BKHWC.sum(1, dtype=torch.int32).to(torch.float32) / num_members
        squares = (mean - truth_BHWC).square().mean(-1).cpu().numpy().astype(np.float64)
        per_clip = [x.reshape(len(x), -1).mean(1) for x in (predicted, squares)]
        ranks = self._ranks_of(members_BKHWC, truth_BHWC, first_clip)
        return {"clips": np.stack(per_clip, 1), "ranks": ranks, **_counted(predicted.reshape(-1), squares.reshape(-1))}

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next batch.  Raises ValueError for another number of members than before."""
        ranks = arrays["ranks"]
        if self._ranks is not None and len(self._ranks) != len(ranks):
            found = f"{len(self._ranks) - 1} before, now {len(ranks) - 1}"
            raise ValueError(f"all batches need the same number of members: {found}")
        self._ranks = ranks.copy() if self._ranks is None else self._ranks + ranks
        self._clips.extend(arrays["clips"])
        self._counts.reshape(-1)[arrays["cells"]] += arrays["counts"]
        self._predicted += arrays["predicted"]
        self._squares += arrays["squares"]
        self._squares_by_error += arrays["squares_by_error"]

    def _ranks_of(self, members_BKHWC: Tensor, truth_BHWC: Tensor, first_clip: int) -> np.ndarray:
        """How often the truth lies above 0..K members; among equal ones at any place with the same chance."""
        below, equal = torch.zeros((2, *truth_BHWC.shape), dtype=torch.int32, device=truth_BHWC.device)
        for member in members_BKHWC.unbind(1):
            below += member < truth_BHWC
            equal += member == truth_BHWC
        below, equal = below.cpu().flatten(), equal.cpu().flatten()
        draws = torch.cat([self._draws(first_clip + i, len(equal) // len(truth_BHWC)) for i in range(len(truth_BHWC))])
        ranks = below + (draws * (equal + 1)).to(torch.int32)
        return torch.bincount(ranks, minlength=members_BKHWC.shape[1] + 1).numpy()

    def _draws(self, clip: int, num: int) -> Tensor:
        state = np.random.SeedSequence([self._seed, clip]).generate_state(1)[0]
        return torch.rand(num, generator=torch.Generator().manual_seed(int(state)), dtype=torch.float64)

    def result(self) -> dict[str, Any]:
        """How well spread predicts error, over the pixels and clips of an evaluation; errors are in levels of 0..255.

        predicted, rmse: the reliability curve.  Pixels in rising order of their predicted error, in bins of about equal count:
            root mean square of the predicted and of the real error.
        expected_calibration_error: mean over pixels of |rmse - predicted| of their bin.
        error_to_spread: root mean squared error over predicted error; 1 calibrated, 2 overconfident by two, inf where the
            members never differ and yet err.
        pixel_correlation, clip_correlation: Spearman's rank correlation of predicted and real error, over all pixels and
            over the means of the clips; 0 also where nothing varies.
        fractions, sparsification, oracle, random: mean squared error that remains when this share of the pixels is removed,
            the most uncertain first; the most wrong first, the best there is; and any, which changes nothing.
        ause, ause_random: area between sparsification (or random) and oracle over the full error; 0 is the best order.
        ranks: share of the truth's values on each rank among the K members, (K + 1).  Flat is calibrated, high ends mean
            too little spread.  rank_deviation: share that would have to move to make it flat, 0 to below 1.
        Raises ValueError where nothing was added.
        """
        if self._ranks is None or not self._clips:
            raise ValueError("no clips were added: there is no calibration to report")
        per_pixel, per_error = self._counts.sum(1), self._counts.sum(0)
        total = int(per_pixel.sum())
        counts, predicted, squares = self._reliability(per_pixel)
        predicted, rmse = np.sqrt(predicted / counts), np.sqrt(squares / counts)
        error, expected = math.sqrt(self._squares.sum() / total), math.sqrt(self._predicted.sum() / total)
        sparsification, oracle = _remaining(per_pixel, self._squares), _remaining(per_error, self._squares_by_error)
        random = np.full_like(oracle, error**2)
        scale = error**2 or 1.0
        ranks = self._ranks / self._ranks.sum()
        curves = {"predicted": predicted, "rmse": rmse, "fractions": FRACTIONS, "sparsification": sparsification}
        curves |= {"oracle": oracle, "random": random, "ranks": ranks}
        return {name: values.tolist() for name, values in curves.items()} | {
            "expected_calibration_error": float(counts @ np.abs(rmse - predicted) / total),
            "error_to_spread": error / expected if expected else (math.inf if error else 1.0),
            "pixel_correlation": _rank_correlation(self._counts),
            "clip_correlation": spearman(*np.stack(self._clips).T),
            "ause": float(np.trapezoid(sparsification - oracle, FRACTIONS) / scale),
            "ause_random": float(np.trapezoid(random - oracle, FRACTIONS) / scale),
            "rank_deviation": float(np.abs(ranks - 1 / len(ranks)).sum() / 2),
        }

    def _reliability(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fine bins joined into coarse ones of about equal count: pixels, predicted and real squared error."""
        middle = np.cumsum(counts) - counts / 2
        coarse = np.minimum((middle / counts.sum() * NUM_BINS).astype(int), NUM_BINS - 1)
        joined = [np.bincount(coarse, x, minlength=NUM_BINS) for x in (counts, self._predicted, self._squares)]
        filled = joined[0] > 0
        return joined[0][filled], joined[1][filled], joined[2][filled]


def _counted(predicted: np.ndarray, squares: np.ndarray) -> Arrays:
    """Fine bins of pixels: cells of the table that are not empty with their counts, and sums by row or column."""
    rows, columns = (np.searchsorted(EDGES, np.sqrt(x), side="right") - 1 for x in (predicted, squares))
    size = len(EDGES)
    table = np.bincount(rows * size + columns, minlength=size**2)
    cells = np.flatnonzero(table)
    return {
        "cells": cells,
        "counts": table[cells],
        "predicted": np.bincount(rows, predicted, minlength=size),
        "squares": np.bincount(rows, squares, minlength=size),
        "squares_by_error": np.bincount(columns, squares, minlength=size),
    }


def _remaining(counts: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Mean squared error of what is left when FRACTIONS of the pixels are removed from the last bin on."""
    kept = (1 - FRACTIONS) * counts.sum()
    sums = np.interp(kept, np.append(0, np.cumsum(counts)), np.append(0, np.cumsum(squares)))
    return sums / kept


def spearman(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Spearman's rank correlation of N pairs, exactly, ties at their middle rank; 0 where one never varies."""
    return correlation(centred_ranks(first_N), centred_ranks(second_N))


def centred_ranks(values_N: np.ndarray) -> np.ndarray:
    """Rank of every value, float64 (N,), ties at their middle one, the mean taken away."""
    _, place, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    centred: np.ndarray = (np.cumsum(counts) - counts / 2 - len(values_N) / 2)[place]
    return centred


def correlation(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Correlation of two lines of numbers with mean 0; 0 where one is 0 everywhere."""
    variances = first_N @ first_N, second_N @ second_N
    return float(first_N @ second_N / math.sqrt(variances[0] * variances[1])) if min(variances) > 0 else 0.0


def _rank_correlation(counts: np.ndarray) -> float:
    """Spearman's correlation of rows and columns of a table of counts, ties at their middle rank; 0 where one is fixed."""
    total = counts.sum()
    ranks = [np.cumsum(sums) - sums / 2 - total / 2 for sums in (counts.sum(1), counts.sum(0))]
    variances = [sums @ r**2 for sums, r in zip((counts.sum(1), counts.sum(0)), ranks)]
    # Ranks are halves of whole numbers: where all are tied the variance is exactly 0.
    return float(ranks[0] @ counts @ ranks[1] / math.sqrt(variances[0] * variances[1])) if min(variances) > 0 else 0.0
