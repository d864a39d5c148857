"""LPIPS v0.1 with AlexNet: a learned perceptual distance between two pictures (Zhang et al. 2018, section 3).

    d(a, b) = sum over layers l of the mean over places of  sum over channels c of  w_lc (a_lc - b_lc)^2

where a_l, b_l are the activations after the l-th ReLU of AlexNet, scaled to unit length over channels at every
place, and w_l are weights fitted to human judgements.  Both sets of weights are the user's files.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hwm.safe_load.weights import load_state_dict, select

CHANNELS = (64, 192, 384, 256, 256)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What AlexNet's input was normalised by, on the scale [-1, 1] (the package lpips, ScalingLayer)."""
EPSILON = 1e-10
SMALLEST = 31
"""Pixels a side below which AlexNet's second pooling has nothing left."""
PICTURES_AT_ONCE = 32

LAYERS = ("features.0", "features.3", "features.6", "features.8", "features.10")
BACKBONE_SHAPES = {
    "features.0.weight": (64, 3, 11, 11),
    "features.3.weight": (192, 64, 5, 5),
    "features.6.weight": (384, 192, 3, 3),
    "features.8.weight": (256, 384, 3, 3),
    "features.10.weight": (256, 256, 3, 3),
} | {f"{layer}.bias": (channels,) for layer, channels in zip(LAYERS, CHANNELS)}
HEAD_SHAPES = {f"lin{i}.model.1.weight": (1, channels, 1, 1) for i, channels in enumerate(CHANNELS)}
BACKBONE_REMEDY = "fetch alexnet-owt-7be5be79.pth, the AlexNet of torchvision"
HEADS_REMEDY = "fetch alex.pth of the package lpips, version 0.1"


class Lpips:
    """LPIPS distance of pictures of at least 31x31 pixels; 0 for equal ones, symmetric."""

    def __init__(
        self, backbone: str | Path, heads: str | Path | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Read AlexNet and the linear heads.

        backbone: alexnet-owt-7be5be79.pth of torchvision.  heads: alex.pth of the package lpips; None: the first
        file holds both, under the same names.  Raises ValueError, naming what is missing and the file to fetch.
        """
        self.device = torch.device(device)
        both = load_state_dict(backbone)
        head = both if heads is None else load_state_dict(heads)
        trunk = ("features.", "classifier.")  # a file of both holds these beside the heads, and the other way round
        weights = select(both, BACKBONE_SHAPES, path=backbone, remedy=BACKBONE_REMEDY, ignored=("classifier.", "lin"))
        linear = select(head, HEAD_SHAPES, path=heads or backbone, remedy=HEADS_REMEDY, ignored=trunk)
        self._weights = {key: value.to(self.device) for key, value in weights.items()}
        self._heads = [linear[key].to(self.device) for key in HEAD_SHAPES]

    @torch.no_grad()
    def __call__(self, a_BFHWC: Tensor, b_BFHWC: Tensor) -> Tensor:
        """Distance of each pair of frames, float32 (B, F), of two uint8 RGB videos (B, F, H, W, 3) of one shape.

        Raises ValueError for other types or shapes, or frames below 31x31.
        """
        if a_BFHWC.shape != b_BFHWC.shape or a_BFHWC.ndim != 5 or a_BFHWC.shape[-1] != 3:
            raise ValueError(f"LPIPS compares videos (B, F, H, W, 3), got {tuple(a_BFHWC.shape)} and {tuple(b_BFHWC.shape)}")
        if a_BFHWC.dtype != torch.uint8 or b_BFHWC.dtype != torch.uint8:
            raise ValueError(f"pictures are compared as uint8, got {a_BFHWC.dtype} and {b_BFHWC.dtype}")
        if min(a_BFHWC.shape[2:4]) < SMALLEST:
            raise ValueError(f"LPIPS needs frames of at least {SMALLEST}x{SMALLEST} pixels, got {tuple(a_BFHWC.shape[2:4])}")
        pairs = zip(a_BFHWC.flatten(0, 1).split(PICTURES_AT_ONCE), b_BFHWC.flatten(0, 1).split(PICTURES_AT_ONCE))
        distances = [self._distance(a_NHWC, b_NHWC) for a_NHWC, b_NHWC in pairs]
        return torch.cat(distances).unflatten(0, a_BFHWC.shape[:2])

    def _distance(self, a_NHWC: Tensor, b_NHWC: Tensor) -> Tensor:
        total = torch.zeros(len(a_NHWC), device=self.device)
        for a, b, head in zip(self._activations(a_NHWC), self._activations(b_NHWC), self._heads):
            total += F.conv2d((a - b).square(), head).mean((1, 2, 3))
        return total

    def _activations(self, pictures_NHWC: Tensor) -> list[Tensor]:
        """After each of AlexNet's five ReLUs, of unit length over channels."""
        x = pictures_NHWC.to(self.device).movedim(-1, 1).float().div(127.5).sub(1)
        shift, scale = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        relu_1 = self._layer(0, (x - shift) / scale, stride=4, padding=2)
        relu_2 = self._layer(1, F.max_pool2d(relu_1, 3, stride=2), padding=2)
        relu_3 = self._layer(2, F.max_pool2d(relu_2, 3, stride=2), padding=1)
        relu_4 = self._layer(3, relu_3, padding=1)
        relu_5 = self._layer(4, relu_4, padding=1)
        return [x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON) for x in (relu_1, relu_2, relu_3, relu_4, relu_5)]

    def _layer(self, index: int, x_NCHW: Tensor, *, stride: int = 1, padding: int) -> Tensor:
        weight, bias = (self._weights[f"{LAYERS[index]}.{part}"] for part in ("weight", "bias"))
        return F.relu(F.conv2d(x_NCHW, weight, bias, stride=stride, padding=padding))
