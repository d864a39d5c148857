"""What the direct model is built of: its block, how noise enters, the convolutions at the end, patches and pictures."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.model_config import DirectConfig
from hwm.nn import flow_matching as flow
from hwm.nn.attention import SpatialAttention
from hwm.nn.modulation import Modulation
from hwm.nn.skeleton import MOUNTING, Bones

BONE_RADIUS = 0.04
"""Metres that arms are thick about their bones, before training."""
GROUPS = 8
"""Channels of the mounting's network are normalised in so many groups."""
DETAILS = 8
"""Channels that patches hand to the convolutions beside the picture."""


class Block(nn.Module):
    """Pre-LN attention among the patches of a frame and pre-LN MLP, both modulated by the states."""

    def __init__(self, config: DirectConfig) -> None:
        super().__init__()
        D, hidden = config.width, config.mlp_ratio * config.width
        heads: dict[str, Any] = {"num_heads": config.num_heads, "qk_norm": False, "qkv_bias": True, "dropout": 0.0}
        self.attention_norm, self.attention = nn.LayerNorm(D), SpatialAttention(D, **heads)
        self.mlp_norm, self.mlp = nn.LayerNorm(D), nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D))
        self.modulation = Modulation(D, 2, gate=config.state_gate, start=config.state_start)

    def forward(self, x_TBSD: Tensor, states_TBD: Tensor) -> Tensor:
        attention, mlp = self.modulation(states_TBD)
        x_TBSD = x_TBSD + self.attention(attention(self.attention_norm(x_TBSD)))
        return x_TBSD + self.mlp(mlp(self.mlp_norm(x_TBSD)))


class Noised(nn.Module):
    """How a frame under noise and the share of the noise enter, from nothing."""

    def __init__(self, config: DirectConfig) -> None:
        super().__init__()
        D, P = config.width, config.patch
        self.patches, last = nn.Linear(3 * P * P, D), nn.Linear(D, D)
        self.level = nn.Sequential(nn.Linear(D, D), nn.SiLU(), last)
        for parameter in (*self.patches.parameters(), *last.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, noised_TBSP: Tensor, level_TB: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the tokens (T, B, S, D) and to the condition (T, B, D); nothing where only noise is left."""
        partly_TB = (level_TB < 1).to(noised_TBSP.dtype)
        features_TBD = flow.time_features(1 - level_TB, self.patches.out_features).to(noised_TBSP.dtype)
        return partly_TB[..., None, None] * self.patches(noised_TBSP), partly_TB[..., None] * self.level(features_TBD)


class Refine(nn.Module):
    """What three convolutions at half the size add to a picture that was put together from patches, from nothing.

    silhouettes: how many they are shown beside it.
    """

    def __init__(self, channels: int, silhouettes: int = 0) -> None:
        super().__init__()
        inner = nn.Conv2d(channels, channels, 3, padding=1)
        first, self.last = nn.Conv2d(4 * (9 + DETAILS), channels, 3, padding=1), nn.Conv2d(channels, 4 * 3, 3, padding=1)
        self.layers = nn.Sequential(nn.PixelUnshuffle(2), first, nn.SiLU(), inner, nn.SiLU(), self.last, nn.PixelShuffle(2))
        self.silhouettes = nn.Conv2d(silhouettes, channels, 3, padding=1, bias=False) if silhouettes else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, *parts_TBCHW: Tensor, silhouettes_TBCHW: Tensor | None = None) -> Tensor:
        whole_TBCHW = torch.cat(parts_TBCHW, 2)
        x_NCHW = self.layers[:2](whole_TBCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        if self.silhouettes is not None and silhouettes_TBCHW is not None:
            shown = silhouettes_TBCHW.flatten(0, 1).to(whole_TBCHW.dtype)
            x_NCHW = x_NCHW + self.silhouettes(shown.contiguous(memory_format=torch.channels_last))
        refined: Tensor = self.layers[2:](x_NCHW)
        return refined.unflatten(0, whole_TBCHW.shape[:2])


class Mounting(nn.Module):
    """By how much the camera is mounted otherwise than the skeleton says, seen from where arms are in a picture and where their
    bones should be; nothing, before training."""

    def __init__(self, bones: Bones, channels: int) -> None:
        super().__init__()
        self.bones, C = bones, channels
        self.log_radii = nn.Parameter(torch.full((len(bones.skeleton.bones),), math.log(BONE_RADIUS)))
        sizes = [(12 + len(self.log_radii), C, 1), (C, C, 1), (C, C, 2), (C, C, 1), (C, 2 * C, 2), (2 * C, 2 * C, 2)]
        layers = [(nn.Conv2d(a, b, 3, stride=n, padding=1), nn.GroupNorm(GROUPS, b), nn.SiLU()) for a, b, n in sizes]
        sides = [-(-side // 16) for side in bones.size]
        self.layers = nn.Sequential(*(layer for part in layers for layer in part), nn.Flatten())
        self.hidden, self.off = nn.Linear(2 * C * sides[0] * sides[1], 3 * C), nn.Linear(3 * C, MOUNTING)
        nn.init.zeros_(self.off.weight)
        nn.init.zeros_(self.off.bias)

    def forward(self, last_TBCHW: Tensor, joints_2TBJ3: Tensor) -> Tensor:
        """Where joints are now and then (2, T, B, J, 3) before the camera as it is mounted.

        last_TBCHW: the last frame in [0, 1]; T of 1 serves all predicted frames.  joints_2TBJ3: as `Bones.points` finds them.
        """
        T, B = last_TBCHW.shape[:2]
        drawn = self.silhouettes(joints_2TBJ3[0, :T]).flatten(0, 1).to(last_TBCHW.dtype)
        seen = torch.cat([F.pixel_unshuffle(last_TBCHW.flatten(0, 1) - 0.5, 2), drawn], 1)
        hidden = F.silu(self.hidden(self.layers(seen.contiguous(memory_format=torch.channels_last))))
        return self.bones.mounted(joints_2TBJ3, self.off(hidden).view(T, B, -1))

    def silhouettes(self, joints: Tensor) -> Tensor:
        """Soft silhouettes (..., bones, H / 2, W / 2) of joints (..., J, 3), as thick as bones were found to be."""
        return self.bones.drawn(joints, self.log_radii.exp())

    def miss(self, joints: Tensor, masks: Tensor) -> Tensor:
        """Mean binary cross-entropy in nats between the silhouettes, together, of bones (..., J, 3) and the arms' masks
        (..., H, W), both at half the size."""
        drawn = self.silhouettes(joints)
        inside = (1 - (1 - drawn).clamp(min=1e-3).prod(-3)).clamp(1e-4, 1 - 1e-4)
        masks = F.avg_pool2d(masks.to(inside).flatten(0, -3), 2).view_as(inside)
        return -(masks * inside.log() + (1 - masks) * (1 - inside).log()).mean()


def to_patches(video_TBCHW: Tensor, patch: int) -> Tensor:
    """The values of every square of side `patch`, (T, B, S, C * patch * patch)."""
    return F.unfold(video_TBCHW.flatten(0, 1), patch, stride=patch).transpose(1, 2).unflatten(0, video_TBCHW.shape[:2])


def to_pixels(x_TBSD: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Back from squares to a picture, (T, B, C, H, W)."""
    return F.fold(x_TBSD.flatten(0, 1).transpose(1, 2), size, patch, stride=patch).unflatten(0, x_TBSD.shape[:2])


def moved(frames_TBCHW: Tensor, flow_TBCHW: Tensor) -> Tensor:
    """Every pixel taken from where the flow points, between pixels linearly; beyond the border from the border.

    flow_TBCHW: from the pixel itself, to the right and down, in half sides of the picture.
    """
    H, W = frames_TBCHW.shape[-2:]
    down, right = (torch.linspace(-1, 1, n, device=flow_TBCHW.device, dtype=flow_TBCHW.dtype) for n in (H, W))
    here_HW2 = torch.stack(torch.meshgrid(right, down, indexing="xy"), -1)
    places_NHW2 = here_HW2 + flow_TBCHW.flatten(0, 1).movedim(1, -1)
    found = F.grid_sample(frames_TBCHW.flatten(0, 1), places_NHW2, align_corners=True, padding_mode="border")
    return found.unflatten(0, frames_TBCHW.shape[:2])
