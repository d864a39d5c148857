"""The two transformer blocks of Masked-HWM: joint attention over all four streams, and split attention.

Video tokens are x_TBSD, time first.  Action tokens are tokens of one place (S = 1), one a grid, that stand at every place of
their grid: they are projected once, and only their keys, values and queries are spread over the places, which equals copying
the tokens to all places and averaging what becomes of the copies, without the cost.  Attention has rotary positions: over the
places of a grid, and over time slots at a place.  Sources: HWM paper section 2.4, figure 2; reference D.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.model_config import MaskedConfig
from hwm.nn.attention import KVCache, Projections, attend
from hwm.nn.dropout import dropout
from hwm.nn.modulation import Modulation, unchanged
from hwm.nn.rope import rotate
from hwm.nn.streams import FUTURE_ACTIONS, FUTURE_VIDEO, PAST_ACTIONS, PAST_VIDEO, PerStream, Sharing


@dataclass(frozen=True)
class Window:
    """Consecutive time slots that one pass computes, and what they see.

    num_past: how many of them are past.  visible_2T2U: bool, whether [video, action] of a slot of the window sees
    [video, action] of a slot from the clip's start to the window's end; the ones before the window are in the cache.
    same_TU: whether the two belong to the same of past and future.
    """

    num_past: int
    place_angles_SP: Tensor
    time_angles_TP: Tensor
    visible_2T2U: Tensor
    same_TU: Tensor
    cache: KVCache | None = None


def modulation(config: MaskedConfig, count: int) -> Modulation | None:
    """Of `count` normalisations by the states, where the configuration asks for it."""
    return Modulation(config.width, count, gate=config.state_gate, start=config.state_start) if config.modulated else None


class FeedForward(nn.Module):
    """Pre-LN MLP with its residual; dropout behind the activation and behind the output, as in the release."""

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        D, hidden = config.width, config.mlp_ratio * config.width
        self.dropout = config.dropout
        self.norm, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, hidden), nn.Linear(hidden, D)

    def forward(self, x: Tensor, modulate: Callable[[Tensor], Tensor] = unchanged) -> Tensor:
        return x + self._drop(self.down(self._drop(F.gelu(self.up(modulate(self.norm(x)))))))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, training=self.training)


class StreamFeedForward(nn.Module):
    """Feed-forward layers of the four streams; with `state_modulation` the states modulate those of the video."""

    def __init__(self, config: MaskedConfig, sharing: Sharing) -> None:
        super().__init__()
        self.layers = PerStream(lambda: FeedForward(config), sharing)
        self.modulation = modulation(config, 1)

    def forward(
        self, video_TBSD: Tensor, actions_TB1D: Tensor | None, state_TBD: Tensor, *, num_past: int
    ) -> tuple[Tensor, Tensor | None]:
        """The first `num_past` slots are past.  Without actions, none come out."""
        sizes = [num_past, len(video_TBSD) - num_past]
        video = []
        for stream, x_TBSD, s_TBD in zip((PAST_VIDEO, FUTURE_VIDEO), video_TBSD.split(sizes), state_TBD.split(sizes)):
            if len(x_TBSD):
                modulate = self.modulation(s_TBD)[0] if self.modulation else unchanged
                video.append(self.layers.of(stream)(x_TBSD, modulate))
        if actions_TB1D is None:
            return torch.cat(video), None
        actions = [
            self.layers.of(stream)(x_TB1D)
            for stream, x_TB1D in zip((PAST_ACTIONS, FUTURE_ACTIONS), actions_TB1D.split(sizes))
            if len(x_TB1D)
        ]
        return torch.cat(video), torch.cat(actions)


def _attention(config: MaskedConfig) -> dict[str, Any]:
    return {"num_heads": config.num_heads, "qk_norm": config.qk_norm, "qkv_bias": False, "dropout": 0.0}


class JointBlock(nn.Module):
    """Spatial attention of the video, temporal attention of video and actions together, an MLP for every stream.

    All streams share the weights of the attention; `sharing` says which share the MLP and its norm.
    """

    def __init__(self, config: MaskedConfig, sharing: Sharing) -> None:
        super().__init__()
        D = config.width
        self.spatial_norm, self.spatial = nn.LayerNorm(D), PlaceAttention(D, **_attention(config))
        self.temporal_norm, self.temporal = nn.LayerNorm(D), SlotAttention(D, **_attention(config))
        self.mlp = StreamFeedForward(config, sharing)
        self.modulation = modulation(config, 2)

    def forward(
        self, video_TBSD: Tensor, actions_TB1D: Tensor, state_TBD: Tensor, window: Window, *, read: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Video and actions of the window; with `read` only its last slots of video, as the last block needs."""
        spatial, temporal = self.modulation(state_TBD) if self.modulation else (unchanged,) * 2
        newest = read or len(video_TBSD)
        rows_QU = window.visible_2T2U[0, -newest:].flatten(1)
        if not read:
            rows_QU = torch.cat([rows_QU, window.visible_2T2U[1].flatten(1)])
        video_TBSD = video_TBSD + self.spatial(spatial(self.spatial_norm(video_TBSD)), angles_SP=window.place_angles_SP)
        x_TBSD, y_TB1D = self.temporal(
            temporal(self.temporal_norm(video_TBSD)), self.temporal_norm(actions_TB1D), angles_TP=window.time_angles_TP,
            visible_QU=rows_QU, newest=newest, finish_shared=not read, cache=window.cache,
        )
        return self.mlp(
            newest_slots(video_TBSD, newest) + x_TBSD, None if y_TB1D is None else actions_TB1D + y_TB1D, state_TBD[-newest:],
            num_past=max(0, window.num_past + newest - len(state_TBD)),
        )


class SplitBlock(nn.Module):
    """Attention within each stream, then of the future video to the three other streams, then the MLP.

    Within a stream: spatial attention of each grid, temporal attention at each place, attention over the actions.
    Across: a place of a future grid sees the same place of the past grids and the actions, as far as visible.
    """

    def __init__(self, config: MaskedConfig, sharing: Sharing) -> None:
        super().__init__()
        D = config.width
        self.context_grids = config.context_grids
        self.spatial_norm, self.spatial = nn.LayerNorm(D), PlaceAttention(D, **_attention(config))
        self.temporal_norm, self.temporal = nn.LayerNorm(D), SlotAttention(D, **_attention(config))
        self.actions_norm, self.actions = nn.LayerNorm(D), SlotAttention(D, **_attention(config))
        self.cross_norm, self.cross = nn.LayerNorm(D), SlotCrossAttention(D, **_attention(config))
        self.mlp = StreamFeedForward(config, sharing)
        self.modulation = modulation(config, 3)

    def forward(
        self, video_TBSD: Tensor, actions_TB1D: Tensor, state_TBD: Tensor, window: Window, *, read: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Video and actions of the window; with `read` only its last slots of video, as the last block needs."""
        spatial, temporal, cross = self.modulation(state_TBD) if self.modulation else (unchanged,) * 3
        steps = len(video_TBSD)
        angles_TP, visible, same_TU = window.time_angles_TP, window.visible_2T2U, window.same_TU
        video_TBSD = video_TBSD + self.spatial(spatial(self.spatial_norm(video_TBSD)), angles_SP=window.place_angles_SP)
        x_TBSD, _ = self.temporal(
            temporal(self.temporal_norm(video_TBSD)), angles_TP=angles_TP, visible_QU=visible[0, :, 0] & same_TU, newest=steps,
            cache=window.cache,
        )
        video_TBSD = video_TBSD + x_TBSD
        y_TB1D, _ = self.actions(
            self.actions_norm(actions_TB1D), angles_TP=angles_TP, visible_QU=visible[1, :, 1] & same_TU, newest=steps,
            cache=window.cache,
        )
        actions_TB1D = actions_TB1D + y_TB1D
        newest = read or steps - window.num_past
        rows_T2U = visible[0, -newest:]
        x_TBSD = self.cross(
            cross(self.cross_norm(video_TBSD)), self.cross_norm(actions_TB1D), num_past=window.num_past, newest=newest,
            angles_TP=angles_TP, visible_QU=torch.cat([rows_T2U[:, 0, : self.context_grids], rows_T2U[:, 1]], 1),
            cache=window.cache,
        )
        past_TBSD, future_TBSD = video_TBSD.split([steps - newest, newest])
        future_TBSD = future_TBSD + x_TBSD
        if read:
            return self.mlp(future_TBSD, None, state_TBD[-read:], num_past=0)
        return self.mlp(torch.cat([past_TBSD, future_TBSD]), actions_TB1D, state_TBD, num_past=window.num_past)


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
