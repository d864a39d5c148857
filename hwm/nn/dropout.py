"""Dropout at a tenth of the cost on a CPU, where one random number an element would take as long as the products."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """Zero elements with probability `rate` and scale the rest by 1 / (1 - rate), while training.

    Draws from torch's global generator.  On a CPU the rate is rounded to a multiple of 2 ** -16, and the scale fits
    the rounded rate.
    """
    if not training or rate == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    # Four elements share one 64-bit random number.
    cut = round(rate * 2**16)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = bits.view(torch.int16)[: x.numel()].view(x.shape)
    return x * (bits >= cut - 2**15).to(x.dtype).mul_(1 / (1 - cut / 2**16))


@contextlib.contextmanager
def dropout_from(generator: torch.Generator, *, device: torch.device, active: bool) -> Iterator[None]:
    """Let dropout, which only knows torch's global generator, draw from `generator`, and leave no trace.

    device: where the dropout happens.  active: whether there is any; else nothing is drawn.
    """
    if not active:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def kept_dropout(model: Any) -> Iterator[None]:
    """Inside, predictions are made with the dropout of training (`predicting`), each row of a batch with its own."""
    model.keeps_dropout = True
    try:
        yield
    finally:
        model.keeps_dropout = False


@contextlib.contextmanager
def predicting(model: nn.Module, generator: torch.Generator | Sequence[torch.Generator]) -> Iterator[None]:
    """Without dropout inside; under `kept_dropout` with it, drawn from the generator, or the first of several."""
    if not getattr(model, "keeps_dropout", False):
        with without_dropout(model):
            yield
        return
    one, training = generator if isinstance(generator, torch.Generator) else generator[0], model.training
    device = next(model.parameters()).device
    model.train()
    try:
        with dropout_from(one, device=device, active=True):
            yield
    finally:
        model.train(training)


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Without dropout inside, as it was before outside."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
