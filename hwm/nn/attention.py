"""Self-attention over token grids: over the places of one grid (or of all up to it), and causally over time at one place.

Time comes first in the layout (x_TBSD): grids fold into the batch of spatial attention without a copy, and a new
grid is appended to the temporal keys and values along the leading axis.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.nn.dropout import dropout


class KVCache:
    """Keys and values of all grids seen so far, one pair (T, B, S, N, H) a layer or other place of use."""

    def __init__(self) -> None:
        self.pairs: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: Hashable, k_TBSNH: Tensor, v_TBSNH: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new grids; returns those of all grids."""
        if layer in self.pairs:
            old_k, old_v = self.pairs[layer]
            k_TBSNH, v_TBSNH = torch.cat([old_k, k_TBSNH]), torch.cat([old_v, v_TBSNH])
        self.pairs[layer] = k_TBSNH, v_TBSNH
        return k_TBSNH, v_TBSNH

    def repeat(self, num: int) -> KVCache:
        """The cache of `num` copies of the batch, copy-major: what was computed once serves every sample."""
        copy = KVCache()
        copy.pairs = {i: (k.repeat(1, num, 1, 1, 1), v.repeat(1, num, 1, 1, 1)) for i, (k, v) in self.pairs.items()}
        return copy

    def keep(self, num_grids: int) -> None:
        """Forget all but the first grids."""
        kept = {i: (k[:num_grids], v[:num_grids]) for i, (k, v) in self.pairs.items()}
        self.pairs = kept if num_grids else {}

    @property
    def num_grids(self) -> int:
        return max((len(k) for k, _ in self.pairs.values()), default=0)


class Projections(nn.Module):
    """What both attentions share: fused queries, keys and values, QK-norm (LayerNorm over each head), output."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool, qkv_bias: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(width // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // num_heads) if qk_norm else nn.Identity()

    def heads(self, x_TBSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised queries and keys, and values, (T, B, S, N, H) each."""
        q, k, v = self.qkv(x_TBSD).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        # Autocast runs the norm in float32; attention runs in the type of the values.
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v


class SpatialAttention(Projections):
    """Every place of a grid attends to every place of the same grid; `full`: of all earlier grids too.

    Both have the same weights.  Full attention is causal by whole grids: each one asks the keys up to its own end, so that no
    score is computed that a mask would hide.
    """

    def __init__(self, width: int, num_heads: int, *, full: bool = False, **options: Any) -> None:
        super().__init__(width, num_heads, **options)
        self.full = full

    def forward(self, x_TBSD: Tensor, *, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """The same shape.  cache: of the grids before these, which only full attention asks for."""
        T, B, S, D = x_TBSD.shape
        q, k, v = self.heads(x_TBSD)
        if not self.full:
            y = self._attend(*(y.flatten(0, 1).transpose(1, 2) for y in (q, k, v)))
            return self.out(y.transpose(1, 2).reshape(T, B, S, D))
        if cache is not None:
            k, v = cache.extend(("full", layer), k, v)
        k_BNLH, v_BNLH = (y.permute(1, 3, 0, 2, 4).flatten(2, 3) for y in (k, v))
        ends = [(len(k) - T + t + 1) * S for t in range(T)]
        grids = [self._attend(q[t].transpose(1, 2), k_BNLH[:, :, :end], v_BNLH[:, :, :end]) for t, end in enumerate(ends)]
        return self.out(torch.stack(grids).transpose(2, 3).reshape(T, B, S, D))

    def _attend(self, q_GNSH: Tensor, k_GNLH: Tensor, v_GNLH: Tensor) -> Tensor:
        """Attention of S places to L, nothing hidden, (G, N, S, H)."""
        rate = self.dropout if self.training else 0.0
        learning = v_GNLH.dtype == torch.bfloat16 and torch.is_grad_enabled()
        if (rate or learning) and q_GNSH.device.type == "cpu":
            # There the fused kernel knows no dropout and its stand-in, as its way back in bfloat16, is slower than these lines.
            weights = (q_GNSH * (1 / math.sqrt(q_GNSH.shape[-1])) @ k_GNLH.transpose(2, 3)).softmax(-1)
            return dropout(weights, rate, training=self.training).to(v_GNLH.dtype) @ v_GNLH
        return F.scaled_dot_product_attention(q_GNSH, k_GNLH, v_GNLH, dropout_p=rate)


class TemporalAttention(Projections):
    """Every place attends to the same place in its own and all earlier grids."""

    def forward(self, x_TBSD: Tensor, *, newest: int, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """Attention of the `newest` last steps to all steps, those in the cache included: (newest, B, S, D)."""
        q, k, v = self.heads(x_TBSD)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        q, visible_TU = q[-newest:], None
        if len(q) > 1:
            visible_TU = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
        return self.out(attend(q, k, v, visible_TU=visible_TU, rate=self.dropout if self.training else 0.0))


def attend(q_TBSNH: Tensor, k_UBSNH: Tensor, v_UBSNH: Tensor, *, visible_TU: Tensor | None = None, rate: float = 0.0) -> Tensor:
    """Attention of T slots over U slots, each place by itself, heads joined, (T, B, S, D).

    visible_TU: True sees; None: all see all.  rate: of dropout on the weights.
    Time is a handful of slots, so this is many tiny products: one batched product over (B, S, N) with time as rows, on views
    that leave time in front, costs less than moving time inside the batch for a fused kernel.
    """
    q, k, v = (y.flatten(1, 3).transpose(0, 1) for y in (q_TBSNH, k_UBSNH, v_UBSNH))
    scores = torch.bmm(q * (1 / math.sqrt(q.shape[-1])), k.transpose(1, 2))
    if visible_TU is not None:
        scores = scores.masked_fill(~visible_TU, -torch.inf)
    weights = dropout(scores.softmax(-1), rate, training=True).to(v.dtype)
    return torch.bmm(weights, v).transpose(0, 1).reshape(*q_TBSNH.shape[:3], -1)
