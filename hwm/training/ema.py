"""An exponential moving average of the weights: a smoother model for validation and prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hwm.training.stored import Stored


class Ema:
    """Float32 average of every trainable parameter: average += (1 - d) * (weight - average) after each update.

    decay: the final d.  Early on d is (1 + n) / (10 + n) after n updates, where that is smaller, so that the random
    initial weights are forgotten in short runs (our choice; with a fixed d they would linger for 1 / (1 - d) steps).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {n: p.detach().float().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, num_updates: int) -> None:
        """Take in the weights after update number `num_updates`, counted from 1."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        for name, parameter in model.named_parameters():
            if name in self.average:
                self.average[name].lerp_(parameter.float(), 1 - decay)

    def load(self, stored: Stored) -> None:
        """Put back a stored average; raises ValueError if it belongs to another model."""
        if {n: t.shape for n, t in stored.sizes("ema").items()} != {n: t.shape for n, t in self.average.items()}:
            raise ValueError("the stored average of the weights belongs to another model")
        stored.read_into("ema", self.average)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Run the block with the averaged weights in the model; the trained ones come back bit for bit."""
        parameters = {n: p for n, p in model.named_parameters() if n in self.average}
        trained = {n: p.detach().clone() for n, p in parameters.items()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(trained[name])
