"""Scoring a model while it trains: averaged weights, float32, the same random numbers every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from hwm.contracts import Batch
from hwm.signals import StopFlag
from hwm.training.device import seed_of
from hwm.training.ema import Ema


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
    model: Any, batches: Iterable[Batch], *, device: torch.device, seed: int, stop: StopFlag
) -> dict[str, float] | None:
    """Mean of every score of `model.validate` over all clips, or None if a stop was asked for on the way.

    The arithmetic is float32 and the randomness the same each time, so that scores of different steps compare.
    Raises ValueError if there is no clip.
    """
    torch.manual_seed(seed_of(seed, "validation"))
    generator = torch.Generator(device).manual_seed(seed_of(seed, "validation samples"))
    sums: dict[str, float] = {}
    clips = 0
    for batch in batches:
        if stop:
            return None
        for name, score_B in model.validate(batch.to(device), generator=generator).items():
            assert score_B.shape == (len(batch),), f"score {name!r}: expected one value per clip"
            sums[name] = sums.get(name, 0.0) + score_B.float().sum().item()
        clips += len(batch)
    if not clips:
        raise ValueError("validation has no clips: set data.val to more data, or train.validate_every to 0")
    return {name: total / clips for name, total in sums.items()}
