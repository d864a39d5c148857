"""Readers: small networks that tell of a single frame what is true of it, to measure what predictions show (ours).

One reads where the robot's arms are, the other in which state the robot is.  Both learn from true frames alone and are then
asked about predicted ones: what they no longer find there, a model has lost.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.contracts import Batch, Kind
from hwm.model_config import ReaderConfig
from hwm.nn.units import fill, unchanged

FRAMES_AT_ONCE = 256
"""Frames that go through the network together."""
GROUPS = 8
"""Channels are normalised in so many groups, each over the whole frame."""


class Stage(nn.Module):
    """Convolutions at one size: the first changes the width, each further one adds to what it is given."""

    def __init__(self, before: int, channels: int, depth: int, *, stride: int = 1) -> None:
        super().__init__()
        sizes = [(before, stride)] + [(channels, 1)] * depth
        self.convolutions = nn.ModuleList(nn.Conv2d(size, channels, 3, stride=step, padding=1) for size, step in sizes)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels) for _ in sizes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            y_NCHW = F.silu(norm(convolution(x_NCHW)))
            x_NCHW = x_NCHW + y_NCHW if number else y_NCHW
        return x_NCHW


class Reader(nn.Module):
    """What both readers have in common: the way down to an eighth of the frame's size, and how they are trained.

    A reader is no world model: it predicts nothing and is never asked for tokens.
    """

    kind: Kind = "video"

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        self.fine = Stage(12, fine, config.depth)
        self.middle = Stage(fine, middle, config.depth, stride=2)
        self.coarse = Stage(middle, coarse, config.depth, stride=2)

    @property
    def blocks(self) -> list[nn.Module]:
        """The stages."""
        return [module for module in self.modules() if isinstance(module, Stage)]

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """None: it is never told the states."""
        return []

    def idle_parameters(self) -> list[str]:
        """None."""
        return []

    def features(self, frames_NHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 frames to features at a half, a quarter and an eighth of their size, (N, C, h, w) each.

        Raises ValueError for frames of another size than the reader's.
        """
        found, wanted = tuple(frames_NHWC.shape[1:]), (*self.config.grid, 3)
        if found != wanted:
            raise ValueError(f"the reader looks at frames of {wanted} (H, W, C), got {found}")
        pixels = frames_NHWC.movedim(-1, 1).to(next(self.parameters()).dtype).div(127.5).sub(1)
        fine = self.fine(F.pixel_unshuffle(pixels, 2))
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)

    def chosen(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of clips and of `config.frames` frames of each that a step learns from, (N,) both."""
        video_BFHWC = batch.video_BFHWC
        assert video_BFHWC is not None
        B, num_frames = video_BFHWC.shape[:2]
        frames = torch.randint(num_frames, (B * self.config.frames,), generator=generator, device=generator.device)
        return torch.arange(B, device=video_BFHWC.device).repeat_interleave(self.config.frames), frames.to(video_BFHWC.device)

    def shown(self, frames_NHWC: Tensor, generator: torch.Generator) -> Tensor:
        """The frames as training shows them, half of them blurred by up to config.blur pixels: what a model is not sure of it
        blurs, and what is read off it should tell where the robot is, not how sharp."""
        if not self.config.blur:
            return frames_NHWC
        chance_N = torch.rand(len(frames_NHWC), generator=generator, device=generator.device).to(frames_NHWC.device)
        return _blurred(frames_NHWC, self.config.blur * (2 * chance_N - 1).clamp(min=0))

    @torch.no_grad()
    def read(self, video_BFHWC: Tensor) -> Tensor:
        """What it reads off frames of any size that can be made the reader's by area, (B, F, ...)."""
        frames = video_BFHWC.flatten(0, 1)
        if tuple(frames.shape[1:3]) != self.config.grid:
            smaller = F.interpolate(frames.movedim(-1, 1).float(), self.config.grid, mode="area")
            frames = smaller.round().to(torch.uint8).movedim(1, -1)
        found = torch.cat([self.read_frames(part) for part in frames.split(FRAMES_AT_ONCE)])
        return found.unflatten(0, video_BFHWC.shape[:2])

    def read_frames(self, frames_NHWC: Tensor) -> Tensor:
        """What it reads off frames of its size."""
        raise NotImplementedError


class MaskReader(Reader):
    """Reads which pixels show the robot's arms.  Before training every pixel is as likely as not."""

    validation_key = "bce"

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        fine, middle, coarse = config.widths
        self.up_middle = Stage(coarse + middle, middle, 0)
        self.up_fine = Stage(middle + fine, fine, 0)
        self.out = nn.Conv2d(fine, 4, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, frames_NHWC: Tensor) -> Tensor:
        """uint8 frames (N, H, W, 3) to logits of showing the robot, (N, H, W)."""
        fine, middle, coarse = self.features(frames_NHWC)
        x = self.up_middle(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        x = self.up_fine(torch.cat([F.interpolate(x, scale_factor=2.0), fine], 1))
        return F.pixel_shuffle(self.out(x), 2)[:, 0]

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean binary cross-entropy of the pixels of some frames in nats ("bce"), half of them mirrored, and their IoU."""
        clips, frames = self.chosen(batch, generator)
        mirror = torch.rand(len(clips), generator=generator, device=generator.device).to(clips.device) < 0.5
        pictures, masks = (_mirrored(x[clips, frames], mirror) for x in _with_masks(batch))
        logits = self(self.shown(pictures, generator))
        error = F.binary_cross_entropy_with_logits(logits.float(), masks.float())
        return {"loss": error, "bce": error.detach(), "iou": overlap(logits > 0, masks).nanmean().detach()}

    def first_loss(self, batch: Batch) -> float | None:
        """That of a coin."""
        return float(torch.tensor(2.0).log())

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Binary cross-entropy and IoU of four frames of each clip, (B,); a clip without the robot has an IoU of 1."""
        video, masks = _with_masks(batch)
        num_frames = video.shape[1]
        some = torch.linspace(0, num_frames - 1, min(4, num_frames)).round().long()
        logits = self(video[:, some].flatten(0, 1)).unflatten(0, (len(video), -1)).float()
        error = F.binary_cross_entropy_with_logits(logits, masks[:, some].float(), reduction="none").mean((1, 2, 3))
        return {"bce": error, "iou": overlap(logits > 0, masks[:, some]).nanmean(1).nan_to_num(1.0).to(error)}

    def read_frames(self, frames_NHWC: Tensor) -> Tensor:
        """Which pixels show the robot, bool (N, H, W)."""
        return self(frames_NHWC) > 0


class StateReader(Reader):
    """Reads the robot's state, but for velocities, which no single frame shows.  Before training it guesses the mean."""

    validation_key = "state_mse"
    shift_scale: Tensor

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        self.register_buffer("shift_scale", unchanged(config.state_dim))
        height, width = (side // 8 for side in config.grid)
        self.squeeze = nn.Conv2d(config.widths[-1], 16, 1)
        self.hidden = nn.Linear(16 * height * width, config.hidden)
        self.out = nn.Linear(config.hidden, config.state_dim)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def set_state_statistics(self, shift_scale: Tensor) -> None:
        """As of world models: states are read as (state - shift) * scale."""
        fill(self.shift_scale, shift_scale, "state statistics")

    def forward(self, frames_NHWC: Tensor) -> Tensor:
        """uint8 frames (N, H, W, 3) to normalised states (N, A)."""
        coarse = self.features(frames_NHWC)[-1]
        return self.out(F.silu(self.hidden(F.silu(self.squeeze(coarse)).flatten(1))))

    def normalised(self, states: Tensor) -> Tensor:
        """Raw states (..., A) in the units that are read."""
        shift_A, scale_A = self.shift_scale.unbind()
        return (states.to(shift_A) - shift_A) * scale_A

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the normalised states of some frames ("state_mse")."""
        assert batch.video_BFHWC is not None
        clips, frames = self.chosen(batch, generator)
        guess_NA = self(self.shown(batch.video_BFHWC[clips, frames], generator)).float()
        error = (guess_NA - self.normalised(batch.states_BFA[clips, frames]))[:, self.config.readable].square().mean()
        return {"loss": error, "state_mse": error.detach()}

    @torch.no_grad()
    def first_loss(self, batch: Batch) -> float | None:
        """The mean square of the normalised states."""
        assert batch.video_BFHWC is not None
        states = self.normalised(batch.states_BFA[:, : batch.video_BFHWC.shape[1]])
        return states[..., self.config.readable].square().mean().item()

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the normalised states of four frames of each clip, (B,)."""
        video_BFHWC = batch.video_BFHWC
        assert video_BFHWC is not None
        some = torch.linspace(0, video_BFHWC.shape[1] - 1, min(4, video_BFHWC.shape[1])).round().long()
        guess = self(video_BFHWC[:, some].flatten(0, 1)).unflatten(0, (len(video_BFHWC), -1)).float()
        error = guess - self.normalised(batch.states_BFA[:, some])
        return {"state_mse": error[..., self.config.readable].square().mean((1, 2))}

    def read_frames(self, frames_NHWC: Tensor) -> Tensor:
        """Normalised states (N, A)."""
        return self(frames_NHWC)


def new_reader(config: ReaderConfig) -> Reader:
    """A freshly initialised reader of the kind that the configuration asks for."""
    return {"mask": MaskReader, "states": StateReader}[config.reads](config)


def overlap(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of masks, bool (..., H, W): float64 (...); nan where both are empty."""
    both, either = (found & truth).sum((-2, -1)), (found | truth).sum((-2, -1))
    return both.double() / either


def _with_masks(batch: Batch) -> tuple[Any, Any]:
    if batch.video_BFHWC is None or batch.masks_BFHW is None:
        raise ValueError("a reader of masks learns from video with masks: give data of `hwm simulate --masks`")
    return batch.video_BFHWC, batch.masks_BFHW


def _blurred(frames_NHWC: Tensor, sigma_N: Tensor) -> Tensor:
    """uint8 frames, each under a Gaussian of its own standard deviation in pixels; beyond the border is nothing."""
    x_NHWC = frames_NHWC.float()
    for side in (1, 2):
        here_L = torch.arange(x_NHWC.shape[side], device=x_NHWC.device)
        apart_NLL = (here_L[:, None] - here_L) / sigma_N.clamp(min=1e-3)[:, None, None]
        weight_NLL = torch.exp(-0.5 * apart_NLL.square())
        weight_NLL = weight_NLL / weight_NLL.sum(-1, keepdim=True)
        x_NHWC = (weight_NLL @ x_NHWC.movedim(side, 1).flatten(2)).unflatten(-1, (-1, 3)).movedim(1, side)
    return x_NHWC.round().to(torch.uint8)


def _mirrored(pictures: Tensor, which_N: Tensor) -> Tensor:
    """Pictures (N, H, W, ...) with some of them mirrored left to right."""
    return torch.where(which_N.view(-1, *[1] * (pictures.ndim - 1)), pictures.flip(2), pictures)
