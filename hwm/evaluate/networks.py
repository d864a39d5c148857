"""The networks that look at frames, by the user's weights: Inception of the FID, and AlexNet of LPIPS.

Inception-v3 up to its pool3 features (Szegedy et al. 2015; Heusel et al. 2017).
The FID is defined by one set of weights, the TensorFlow Inception of 5 December 2015, which differs from the
network as usually given: average pooling inside the blocks does not count the padding, and the last block pools
by maximum.  Names of layers are those of torchvision's inception_v3, which the PyTorch port of the weights uses.

LPIPS v0.1 with AlexNet, a learned perceptual distance between two pictures (Zhang et al. 2018, section 3):

    d(a, b) = sum over layers l of the mean over places of  sum over channels c of  w_lc (a_lc - b_lc)^2

where a_l, b_l are the activations after the l-th ReLU of AlexNet, scaled to unit length over channels at every
place, and w_l are weights fitted to human judgements.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.safe_load.weights import load_state_dict, select

SIDE = 299
CLASSES = 1008
"""Of the classifier that came with these weights; other Inception networks of the same layers have 1000."""
REMEDY = "fetch pt_inception-2015-12-05-6726825d.pth of the pytorch-fid project"


class BasicConv2d(nn.Module):
    """Convolution without bias, padded to keep the size where it strides by 1, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], *, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (height // 2, width // 2) if padded and stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_NCHW)))


def average_pool(x_NCHW: Tensor) -> Tensor:
    """3x3 mean over what lies inside the picture."""
    return F.avg_pool2d(x_NCHW, 3, stride=1, padding=1, count_include_pad=False)


max_pool, keep_max = partial(F.max_pool2d, kernel_size=3, stride=2), partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


Branches = Mapping[str, Sequence[Any]]
"""By name chains of convolutions: outputs, kernel and, where it is not 1, the stride.  A dictionary at the end of a chain:
several convolutions of the same input, by the end of their names."""


class Inception(nn.Module):
    """Branches side by side: chains of convolutions under the names of torchvision, and a pooling of the input.

    pool: of the input, of which a convolution then makes `projected` outputs, where that is not 0.
    """

    def __init__(self, inputs: int, branches: Branches, pool: Callable[[Tensor], Tensor], projected: int = 0) -> None:
        super().__init__()
        self.pool, self.chains = pool, list[list[list[str]]]()
        for name, chain in branches.items():
            width, names = inputs, list[list[str]]()
            for place, step in enumerate(chain, 1):
                ends = step if isinstance(step, Mapping) else {"": step}
                names.append([name if len(chain) == 1 else f"{name}_{place}{end}" for end in ends])
                for label, (outputs, kernel, *strides) in zip(names[-1], ends.values()):
                    self.add_module(label, BasicConv2d(width, outputs, kernel, stride=strides[0] if strides else 1))
                width = outputs
            self.chains.append(names)
        if projected:
            self.branch_pool = BasicConv2d(inputs, projected, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for *steps, ends in self.chains:
            y = x
            for (name,) in steps:
                y = self.get_submodule(name)(y)
            found += [self.get_submodule(name)(y) for name in ends]
        pooled = self.pool(x)
        return torch.cat([*found, self.branch_pool(pooled) if hasattr(self, "branch_pool") else pooled], 1)


ROW, COLUMN = (1, 7), (7, 1)
ENDS = {"a": (384, (1, 3)), "b": (384, (3, 1))}


def inception_a(inputs: int, *, pool: int) -> Inception:
    """35x35: branches of 1x1, 5x5, two 3x3 and pooling."""
    double = [(64, 1), (96, 3), (96, 3)]
    branches: Branches = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)], "branch3x3dbl": double}
    return Inception(inputs, branches, average_pool, pool)


def inception_b(inputs: int) -> Inception:
    """35x35 to 17x17."""
    return Inception(inputs, {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)]}, max_pool)


def inception_c(inputs: int, *, width: int) -> Inception:
    """17x17: branches of 1x1, 7x7 in two strips, twice 7x7 in four strips, and pooling."""
    double = [(width, 1), (width, COLUMN), (width, ROW), (width, COLUMN), (192, ROW)]
    branches: Branches = {"branch1x1": [(192, 1)], "branch7x7": [(width, 1), (width, ROW), (192, COLUMN)], "branch7x7dbl": double}
    return Inception(inputs, branches, average_pool, 192)


def inception_d(inputs: int) -> Inception:
    """17x17 to 8x8."""
    seven = [(192, 1), (192, ROW), (192, COLUMN), (192, 3, 2)]
    return Inception(inputs, {"branch3x3": [(192, 1), (320, 3, 2)], "branch7x7x3": seven}, max_pool)


def inception_e(inputs: int, pool: Callable[[Tensor], Tensor]) -> Inception:
    """8x8: branches of 1x1, 3x3 and two 3x3 that end in a row and a column, and pooling."""
    branches: Branches = {"branch1x1": [(320, 1)], "branch3x3": [(384, 1), ENDS], "branch3x3dbl": [(448, 1), (384, 3), ENDS]}
    return Inception(inputs, branches, pool, 192)


class FIDInception(nn.Module):
    """Inception-v3 as the FID uses it, its last block with a maximum: uint8 pictures of any size to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3, padded=False)
        self.Mixed_5b = inception_a(192, pool=32)
        self.Mixed_5c = inception_a(256, pool=64)
        self.Mixed_5d = inception_a(288, pool=64)
        self.Mixed_6a = inception_b(288)
        self.Mixed_6b = inception_c(768, width=128)
        self.Mixed_6c = inception_c(768, width=160)
        self.Mixed_6d = inception_c(768, width=160)
        self.Mixed_6e = inception_c(768, width=192)
        self.Mixed_7a = inception_d(768)
        self.Mixed_7b = inception_e(1280, average_pool)
        self.Mixed_7c = inception_e(2048, keep_max)

    def forward(self, pictures_NCHW: Tensor) -> Tensor:
        """uint8 RGB pictures (N, 3, H, W) to float32 (N, 2048).

        Resized to 299x299 bilinearly, without antialiasing and with pixel centres at halves, then scaled to [-1, 1].
        """
        x = 2 * F.interpolate(pictures_NCHW.float().div(255), (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        for name, layer in self.named_children():
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, stride=2)
        return x.mean((2, 3))


def load_inception(weights: str | Path, *, device: torch.device | str = "cpu") -> FIDInception:
    """The FID network with the user's weight file, ready to give features.

    The file's classifier (fc) and auxiliary head (AuxLogits) are left out: features come before them.
    Raises ValueError for a file without exactly the tensors of this network, or whose classifier tells that it is
    another training of the same layers.
    """
    with torch.device("meta"):
        inception = FIDInception()
    # The counter of training steps is kept by some versions of the file and has no effect on features.
    shapes = {k: tuple(v.shape) for k, v in inception.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in load_state_dict(weights).items() if not k.endswith("num_batches_tracked")}
    if "fc.bias" in given and given["fc.bias"].numel() != CLASSES:
        found = given["fc.bias"].numel()
        raise ValueError(f"{weights}: an Inception of {found} classes, the FID's has {CLASSES}; {REMEDY}")
    state = select(given, shapes, path=weights, remedy=REMEDY, ignored=("fc.", "AuxLogits."))
    counters = {k: torch.tensor(0) for k in inception.state_dict() if k not in shapes}
    inception.load_state_dict(state | counters, assign=True)
    return inception.to(device).eval().requires_grad_(False)


SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What AlexNet's input was normalised by, on the scale [-1, 1] (the package lpips, ScalingLayer)."""
EPSILON = 1e-10
SMALLEST = 31
"""Pixels a side below which AlexNet's second pooling has nothing left."""
PICTURES_AT_ONCE = 32


def alexnet() -> nn.Sequential:
    """The convolutions of AlexNet, numbered as torchvision numbers its `features`; without weights."""
    with torch.device("meta"):
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )


BACKBONE_SHAPES = {f"features.{name}": tuple(value.shape) for name, value in alexnet().state_dict().items()}
HEAD_SHAPES = {f"lin{i}.model.1.weight": (1, channels, 1, 1) for i, channels in enumerate((64, 192, 384, 256, 256))}
BACKBONE_REMEDY = "fetch alexnet-owt-7be5be79.pth, the AlexNet of torchvision"
HEADS_REMEDY = "fetch alex.pth of the package lpips, version 0.1"


class Lpips:
    """LPIPS distance of pictures of at least 31x31 pixels; 0 for equal ones, symmetric."""

    def __init__(self, backbone: str | Path, heads: str | Path | None = None, device: torch.device | str = "cpu") -> None:
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
        self._trunk = alexnet()
        self._trunk.load_state_dict({key.removeprefix("features."): value for key, value in weights.items()}, assign=True)
        self._trunk.to(self.device).requires_grad_(False)
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
        x, found = (x - shift) / scale, []
        for layer in self._trunk:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON))
        return found
