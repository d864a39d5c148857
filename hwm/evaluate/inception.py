"""The Inception-v3 network of the FID, up to its pool3 features (Szegedy et al. 2015; Heusel et al. 2017).

The FID is defined by one set of weights, the TensorFlow Inception of 5 December 2015, which differs from the
network as usually given: average pooling inside the blocks does not count the padding, and the last block pools
by maximum.  Names of layers are those of torchvision's inception_v3, which the PyTorch port of the weights uses.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.safe_load.weights import load_state_dict, select

SIDE = 299
CLASSES = 1008
"""Of the classifier that came with these weights; other Inception networks of the same layers have 1000."""
REMEDY = "fetch pt_inception-2015-12-05-6726825d.pth of the pytorch-fid project"


class BasicConv2d(nn.Module):
    """Convolution without bias, batch normalisation with stored statistics, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_NCHW)))


def average_pool(x_NCHW: Tensor) -> Tensor:
    """3x3 mean over what lies inside the picture."""
    return F.avg_pool2d(x_NCHW, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(nn.Module):
    """35x35: branches of 1x1, 5x5, two 3x3 and pooling."""

    def __init__(self, inputs: int, *, pool: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 64, 1)
        self.branch5x5_1 = BasicConv2d(inputs, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average_pool(x))], 1)


class InceptionB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionC(nn.Module):
    """17x17: branches of 1x1, 7x7 in two strips, twice 7x7 in four strips, and pooling."""

    def __init__(self, inputs: int, *, width: int) -> None:
        super().__init__()
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = BasicConv2d(inputs, 192, 1)
        self.branch7x7_1 = BasicConv2d(inputs, width, 1)
        self.branch7x7_2 = BasicConv2d(width, width, **row)  # type: ignore[arg-type]
        self.branch7x7_3 = BasicConv2d(width, 192, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_1 = BasicConv2d(inputs, width, 1)
        self.branch7x7dbl_2 = BasicConv2d(width, width, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_3 = BasicConv2d(width, width, **row)  # type: ignore[arg-type]
        self.branch7x7dbl_4 = BasicConv2d(width, width, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_5 = BasicConv2d(width, 192, **row)  # type: ignore[arg-type]
        self.branch_pool = BasicConv2d(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average_pool(x))], 1)


class InceptionD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(inputs, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(inputs, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionE(nn.Module):
    """8x8: branches of 1x1, 3x3 and two 3x3 that end in a row and a column, and pooling.

    max_pool: the last block of the FID network pools by maximum, the one before it by mean.
    """

    def __init__(self, inputs: int, *, max_pool: bool) -> None:
        super().__init__()
        self.max_pool = max_pool
        self.branch1x1 = BasicConv2d(inputs, 320, 1)
        self.branch3x3_1 = BasicConv2d(inputs, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(inputs, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        ends = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        ends += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.max_pool else average_pool(x)
        return torch.cat([self.branch1x1(x), *ends, self.branch_pool(pooled)], 1)


class FIDInception(nn.Module):
    """Inception-v3 as the FID uses it: uint8 pictures of any size to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, pool=32)
        self.Mixed_5c = InceptionA(256, pool=64)
        self.Mixed_5d = InceptionA(288, pool=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, width=128)
        self.Mixed_6c = InceptionC(768, width=160)
        self.Mixed_6d = InceptionC(768, width=160)
        self.Mixed_6e = InceptionC(768, width=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, max_pool=False)
        self.Mixed_7c = InceptionE(2048, max_pool=True)

    def forward(self, pictures_NCHW: Tensor) -> Tensor:
        """uint8 RGB pictures (N, 3, H, W) to float32 (N, 2048).

        Resized to 299x299 bilinearly, without antialiasing and with pixel centres at halves, then scaled to [-1, 1].
        """
        x = F.interpolate(pictures_NCHW.float().div(255), (SIDE, SIDE), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * x - 1)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6a(x)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7a(x)
        x = self.Mixed_7c(self.Mixed_7b(x))
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
