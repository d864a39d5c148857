"""Scoring a model while it trains: averaged weights, float32, the same random numbers every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from hwm.contracts import Batch
from hwm.training.device import seed_of
from hwm.training.optim import Ema
from hwm.training.processes import ALONE, Processes
from hwm.work.signals import StopFlag


@contextmanager
def evaluating(model: nn.Module, ema: Ema | None) -> Iterator[None]:
    """The model as it is used: averaged weights if there are any, no dropout, no gradients."""
    model.eval()
    try:
        with ema.applied(model) if ema else nullcontext(), torch.no_grad():
            yield
    finally:
        model.train()


def validate(
    model: Any, batches: Sequence[Batch], *, device: torch.device, seed: int, stop: StopFlag, processes: Processes = ALONE
) -> dict[str, float] | None:
    """Mean of every score of `model.validate` over all clips, or None if a stop was asked for on the way.

    batches: read one at a time; processes share them, and all of them get the result, which is the same for any number.
    The arithmetic is float32 and the randomness of a batch the same each time, so that scores of different steps compare.
    Raises ValueError if there is no clip.
    """
    if not batches:
        raise ValueError("validation has no clips: set data.val to more data, or train.validate_every to 0")
    told: list[tuple[int, int, dict[str, float]]] = []
    for turn in range(-(-len(batches) // processes.world)):
        if processes.any(stop):
            return None
        number = turn * processes.world + processes.rank
        # Where batches do not come out even, some repeat the last, uncounted: shared models are computed by all or none.
        batch = batches[min(number, len(batches) - 1)].to(device)
        torch.manual_seed(seed_of(seed, "validation", number))
        generator = torch.Generator(device).manual_seed(seed_of(seed, "validation samples", number))
        sums: dict[str, float] = {}
        for name, score_B in model.validate(batch, generator=generator).items():
            assert score_B.shape == (len(batch),), f"score {name!r}: expected one value per clip"
            sums[name] = score_B.float().sum().item()
        if number < len(batches):
            told.append((number, len(batch), sums))
    parts = sorted(part for mine in processes.gather(told) for part in mine)
    clips = sum(count for _, count, _ in parts)
    return {name: sum(sums[name] for _, _, sums in parts) / clips for name in parts[0][2]}
