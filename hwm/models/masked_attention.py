"""Attention of Masked-HWM's blocks with rotary positions: over the places of a grid, and over time slots at a place.

Time comes first in the layout (x_TBSD).  Action tokens are tokens of one place (S = 1) that stand at every place of
their grid: they are projected once, and only their keys, values and queries are spread over the places, which equals
copying the tokens to all places and averaging what becomes of the copies (reference D.1), without the cost.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hwm.nn.attention import KVCache, Projections
from hwm.nn.rope import rotate


def causal_visibility(query_times: Tensor, key_times: Tensor) -> Tensor:
    """Whether a query sees a key, bool (Q, K): keys of its own time step and earlier ones."""
    return key_times[None, :] <= query_times[:, None]


def slot_visibility(num_grids: int, rule: Literal["causal", "full", "released"]) -> Tensor:
    """Which of the 2 G temporal slots [video 0..G-1 | actions 0..G-1] see which, bool (2 G, 2 G), True sees.

    causal: a slot of time t sees video and actions of times up to t: every video slot sees the actions that cause it
    and no later one.  full: everything sees everything.  released: causal in the order of the slots, as in the
    authors' release, where no video slot sees any action (reference D.1, defect i); for comparison only.
    """
    times = torch.arange(num_grids).repeat(2)
    if rule == "causal":
        return causal_visibility(times, times)
    if rule == "full":
        return torch.ones(2 * num_grids, 2 * num_grids, dtype=torch.bool)
    return causal_visibility(torch.arange(2 * num_grids), torch.arange(2 * num_grids))


def attend(q_TBSNH: Tensor, k_UBSNH: Tensor, v_UBSNH: Tensor, *, visible_TU: Tensor) -> Tensor:
    """Attention of T slots over U slots, each place by itself, heads joined, (T, B, S, D).  True in `visible` sees.

    Slots are a handful: one batched product over (B, S, N) costs less than moving time inside for a fused kernel.
    """
    q, k, v = (y.flatten(1, 3).transpose(0, 1) for y in (q_TBSNH, k_UBSNH, v_UBSNH))
    scores = torch.bmm(q * (1 / math.sqrt(q.shape[-1])), k.transpose(1, 2))
    weights = scores.masked_fill(~visible_TU, -torch.inf).softmax(-1).to(v.dtype)
    return torch.bmm(weights, v).transpose(0, 1).reshape(*q_TBSNH.shape[:3], -1)


def newest_slots(x_TBSD: Tensor, num: int) -> Tensor:
    """The last `num` slots; all of them without a slice, which costs a copy on the way back."""
    return x_TBSD if num == len(x_TBSD) else x_TBSD[-num:]


class PlaceAttention(Projections):
    """Every place of a grid attends to every place of the same grid."""

    def forward(self, x_TBSD: Tensor, *, angles_SP: Tensor) -> Tensor:
        """angles_SP: rotary angles of the places."""
        q, k, v = (y.flatten(0, 1).transpose(1, 2) for y in self.heads(x_TBSD))
        y = F.scaled_dot_product_attention(rotate(q, angles_SP), rotate(k, angles_SP), v)
        return self.out(y.transpose(1, 2).reshape(x_TBSD.shape))


class SlotAttention(Projections):
    """Every place attends over its own slots and, where given, over slots shared by all places."""

    def forward(
        self, x_TBSD: Tensor, shared_TB1D: Tensor | None = None,
        *, angles_TP: Tensor, visible_QU: Tensor, newest: int, finish_shared: bool = True, cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Results of the `newest` last own slots, and of all shared ones averaged over places if `finish_shared`.

        angles_TP: rotary angles of the times; own and shared slots of a step have the same time.
        visible_QU: rows are the slots that results are made for, columns [own | shared], those in the cache first.
        """
        S = x_TBSD.shape[2]
        q, k, v = self._rotated(x_TBSD, angles_TP, (self, "own"), cache)
        q = newest_slots(q, newest)
        if shared_TB1D is None:
            return self.out(attend(q, k, v, visible_TU=visible_QU)), None
        shared = self._rotated(shared_TB1D, angles_TP, (self, "shared"), cache)
        shared_q, shared_k, shared_v = (y.expand(-1, -1, S, -1, -1) for y in shared)
        k, v = torch.cat([k, shared_k]), torch.cat([v, shared_v])
        if not finish_shared:
            return self.out(attend(q, k, v, visible_TU=visible_QU)), None
        y = attend(torch.cat([q, shared_q]), k, v, visible_TU=visible_QU)
        return self.out(y[:newest]), self.out(y[newest:].mean(2, keepdim=True))

    def _rotated(
        self, x_TBSD: Tensor, angles_TP: Tensor, key: tuple[object, str], cache: KVCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of these slots; keys and values of these and all cached ones."""
        q, k, v = self.heads(x_TBSD)
        angles = angles_TP[:, None, None, None]
        q, k = rotate(q, angles), rotate(k, angles)
        return q, *((k, v) if cache is None else cache.extend(key, k, v))


class SlotCrossAttention(Projections):
    """Every place of the newest slots attends over the past slots of that place and over slots shared by all places."""

    def forward(
        self, x_TBSD: Tensor, shared_TB1D: Tensor,
        *, num_past: int, newest: int, angles_TP: Tensor, visible_QU: Tensor, cache: KVCache | None = None,
    ) -> Tensor:
        """The `newest` last slots ask, the `num_past` first ones and all shared ones answer: (newest, B, S, D).

        visible_QU: columns [past | shared], those in the cache first.  With a cache the past may be empty here.
        """
        S, D = x_TBSD.shape[2:]
        q = self.q_norm(F.linear(x_TBSD[-newest:], self.qkv.weight[:D]).unflatten(-1, (self.num_heads, -1)))
        past_k, past_v = self._keys(x_TBSD[:num_past], angles_TP[:num_past], (self, "past"), cache)
        shared_k, shared_v = self._keys(shared_TB1D, angles_TP, (self, "shared"), cache)
        k = torch.cat([past_k, shared_k.expand(-1, -1, S, -1, -1)])
        v = torch.cat([past_v, shared_v.expand(-1, -1, S, -1, -1)])
        q = rotate(q.to(v.dtype), angles_TP[-newest:, None, None, None])
        return self.out(attend(q, k, v, visible_TU=visible_QU))

    def _keys(self, x_TBSD: Tensor, angles_TP: Tensor, key: tuple[object, str], cache: KVCache | None) -> tuple[Tensor, Tensor]:
        weight = self.qkv.weight[x_TBSD.shape[-1] :]
        k, v = F.linear(x_TBSD, weight).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        k = rotate(self.k_norm(k).to(v.dtype), angles_TP[:, None, None, None])
        return (k, v) if cache is None else cache.extend(key, k, v)
