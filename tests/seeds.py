"""Random numbers of a test."""

import torch


def gen(seed=0):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)
