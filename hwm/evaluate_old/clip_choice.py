"""Which clips of a dataset are scored, and from which other clip each takes the states of a control."""

from __future__ import annotations

import numpy as np


def spread(total: int, wanted: int) -> np.ndarray:
    """Indices of `wanted` clips evenly spread over `total`, all of them for 0."""
    if total < 2 or wanted == 1 or wanted < 0:
        raise ValueError(f"an evaluation needs at least 2 clips; the data has {total} and {wanted} were asked for")
    wanted = min(wanted or total, total)
    return np.arange(wanted, dtype=np.int64) * total // wanted


def from_another_segment(num: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """A permutation without fixed points that also leaves every group, as long as none holds over half of the clips.

    Clips sorted by group take from the clip that stands as many places ahead as the largest group is long.
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(np.arange(num) if groups is None else groups, return_inverse=True)
    order = np.lexsort((rng.random(num), rng.permutation(group.max() + 1)[group]))
    largest = int(np.bincount(group).max())
    source = np.empty(num, dtype=np.int64)
    source[order] = np.roll(order, -min(largest, num // 2))
    return source
