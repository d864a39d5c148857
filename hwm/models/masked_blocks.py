"""The two transformer blocks of Masked-HWM: joint attention over all four streams, and split attention.

Video tokens are x_TBSD, time first; actions are tokens of one place, one a grid.  Sources: HWM paper section 2.4,
figure 2; reference D.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.model_config import MaskedConfig
from hwm.models.masked_attention import PlaceAttention, SlotAttention, SlotCrossAttention, newest_slots
from hwm.nn.attention import KVCache
from hwm.nn.dropout import dropout
from hwm.nn.modulation import Modulation, unchanged
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
        self.modulation = Modulation(config.width, 1) if config.state_modulation else None

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
        self.modulation = Modulation(D, 2) if config.state_modulation else None

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
            newest_slots(video_TBSD, newest) + x_TBSD,
            None if y_TB1D is None else actions_TB1D + y_TB1D,
            state_TBD[-newest:],
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
        self.modulation = Modulation(D, 3) if config.state_modulation else None

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
