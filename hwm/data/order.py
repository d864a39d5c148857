"""Which clips make up the batch of a step: a pure function of seed and step, so a resumed run sees the same data."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def sample_indices(
    *, seed: int, step: int, batch_size: int, num_clips: int, rank: int = 0, world: int = 1
) -> np.ndarray:
    """Clips of one rank's batch, int64 (batch_size,).

    An epoch is a fresh permutation of all clips, cut into global batches of batch_size * world; what does not fill
    the last one is left out and comes again in other epochs.  Within an epoch no clip repeats, on any rank, and a
    different world with the same global batch gets the same clips.  Fewer clips than one global batch are repeated
    within it.  step: 0 for the first batch.
    """
    if min(batch_size, num_clips, world) < 1 or not 0 <= rank < world or step < 0:
        raise ValueError(
            f"sampling needs positive sizes, 0 <= rank < world and step >= 0; got batch_size {batch_size}, "
            f"num_clips {num_clips}, rank {rank}, world {world}, step {step}"
        )
    size = batch_size * world
    epoch, batch = divmod(step, max(1, num_clips // size))
    first = batch * size + rank * batch_size
    return _permutation(seed, epoch, num_clips)[np.arange(first, first + batch_size) % num_clips].astype(np.int64)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(np.arange(num_clips, dtype=np.int32))
    order.flags.writeable = False
    return order
