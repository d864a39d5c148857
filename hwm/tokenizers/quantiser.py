"""Finite scalar quantisation: pure functions between codes, digits and ids.

A code vector has one value per channel; channel c takes levels[c] values.  Digits count levels from 0, an id is
the mixed-radix number of the digits, lowest channel first: basis 1, L0, L0*L1, ...  For the levels
(8, 8, 8, 5, 5, 5) these are Cosmos DV8x8x8's 64 000 ids exactly (reference: Cosmos-Tokenizer quantizers).
"""

import math

import torch
from torch import Tensor

COSMOS_LEVELS = (8, 8, 8, 5, 5, 5)


def basis(levels: tuple[int, ...]) -> Tensor:
    """Place value of every digit, int64 (C,)."""
    return torch.tensor([math.prod(levels[:c]) for c in range(len(levels))], dtype=torch.int64)


def ids_to_digits(ids: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Ids (...) to digits (..., C), int64."""
    size = torch.tensor(levels, device=ids.device)
    return ids.long().unsqueeze(-1) // basis(levels).to(ids.device) % size


def digits_to_ids(digits: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Digits (..., C) to ids (...), int64."""
    return (digits.long() * basis(levels).to(digits.device)).sum(-1)


def digits_to_codes(digits: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Digits (..., C) to codes in [-1, 1], float32: (d - L // 2) / (L // 2); for even L the largest is below 1."""
    half = torch.tensor([level // 2 for level in levels], device=digits.device, dtype=torch.float32)
    return (digits.float() - half) / half


def codes_to_digits(codes: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Nearest digits (..., C), int64, of codes (..., C)."""
    half = torch.tensor([level // 2 for level in levels], device=codes.device, dtype=codes.dtype)
    top = torch.tensor([level - 1 for level in levels], device=codes.device, dtype=codes.dtype)
    return torch.minimum((codes * half + half).round().clamp(min=0), top).long()


def code_table(levels: tuple[int, ...]) -> Tensor:
    """Code vector of every id, float32 (V, C)."""
    return digits_to_codes(ids_to_digits(torch.arange(math.prod(levels)), levels), levels)


def bound(z: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Squash activations (..., C) smoothly into the range of the codes, before rounding.

    z = 0 gives the middle of the range, which for an even number of levels lies half a level below code 0.
    """
    level = torch.tensor(levels, device=z.device, dtype=z.dtype)
    reach = (level - 1) / 2 + 0.45  # a little past the outer codes, so that they are reached by finite activations
    shift = torch.where(level % 2 == 0, -0.5, 0.0).to(z.dtype)
    return (torch.tanh(z) * reach + shift) / (level // 2)


def quantise(codes: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Nearest code vectors; the gradient passes straight through."""
    nearest = digits_to_codes(codes_to_digits(codes.detach(), levels), levels).to(codes.dtype)
    return codes + (nearest - codes).detach()
