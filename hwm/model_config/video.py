"""What learns from frames: the direct regression, the causal tokenizer, and the readers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from hwm.contracts import Batch, Family, Kind, Role
from hwm.model_config.parts import (
    MOST_STATES,
    Layers,
    Modulated,
    Part,
    Rows,
    Share,
    Side,
    Sides,
    StateNumbers,
    Steps,
    Temperature,
    Weight,
    Width,
)
from hwm.robot import NO_SKELETON, Skeleton
from hwm.work.ranges import Range

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DirectConfig(Modulated):
    """Direct regression of future frames from the last seen ones and the states (ours): a baseline for all others."""

    module: ClassVar[str] = "hwm.models.direct:Direct"
    kind: ClassVar[Kind] = "video"
    prediction_settings: ClassVar[tuple[str, ...]] = ("steps", "temperature", "state_gate", "reach")

    family: Literal["direct"] = "direct"
    grid: Sides = (64, 64)
    """Height and width of the frames."""
    patch: Side = 8
    """Side of the square of pixels that makes one token."""
    context_grids: Rows = 9
    """Frames of the context, of which the first and the last are read."""
    future_grids: Rows = 8
    """Frames by which a rollout goes on at a time."""
    horizon: Rows = 60
    """Frames after the context up to which it learns; those further away count as that far, and the states tell the rest."""
    reach: Rows = 60
    """Frames that a rollout predicts from one context before it goes on from its own last ones."""
    num_layers: Layers = 5
    num_heads: Layers = 6
    width: Width = 192
    mlp_ratio: Annotated[int, Range(1, 256)] = 4
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    num_states: Rows = 17
    """Rows of the frames of context and one step."""
    velocity_rows: StateNumbers = (23, 24)
    """State dimensions that are velocities of the base, which their sum moves: EVE's linear and angular one."""
    lags: Annotated[tuple[int, ...], Range(1, 10_000)] = ()
    """How many frames before the one to come the states are told as well, each as the change since (ours): pictures of a real
    camera come late and blur what moves."""
    map_hidden: Width = 512
    """Width of the decoder from states to a map over the patches."""
    map_channels: Width = 32
    skeleton: Skeleton = NO_SKELETON
    """The robot's own, where it is known (`robot.toml`): where its bones stand in the last picture and in the one to come then
    enters beside the pictures (ours); without bones: where they are is learned alone."""
    mounting: Annotated[int, Range(0, 4096)] = 0
    """Channels of a network that sees from the last picture how the camera is mounted otherwise than the skeleton says, which
    then counts for where the bones will stand (ours), a multiple of 8; 0, or without a skeleton: none."""
    warp: bool = True
    """Move the last frame by a predicted flow before the change is added, rather than add the change alone."""
    refine: Annotated[int, Range(0, 4096)] = 0
    """Channels of convolutions over the whole picture at the end, which join what patches say each for itself; 0: none."""
    pairs: Rows = 2
    """Frames of a clip that are predicted in training, each from a place of its own."""
    edge_loss: Weight = 0.0
    """Weight of the error of gradient magnitudes beside that of the pixels, both over that of copying (ours): for PSNR alone an
    edge that may lie here or there is best left out, but the mean of its magnitudes is not nothing."""
    body_loss: Weight = 0.0
    """How much more a pixel counts in training that shows the robot's arms, where they are or where they were (ours): they are a
    tenth of the picture and all that the robot does.  Above 0 it needs data with masks."""
    silhouette_loss: Weight = 0.0
    """Weight of the error, in nats, with which the skeleton's silhouettes cover the robot's arms (ours): what `mounting` does, it
    then learns sooner than from pictures alone.  Above 0 it needs data with masks."""
    own_context: Share = 0.0
    """Share of training predictions that start from the model's own frames, where the clip is long enough, rather than from
    recorded ones: what a rollout starts from once the reach is used up."""
    noised: Part = 0.0
    """Share of training predictions that are shown the frame itself under noise.  The model then also samples: noise is carried
    to a sharp frame, where without a share every prediction is the mean of all futures."""
    steps: Steps = 8
    """Solver steps of a sample, with `noised`."""
    temperature: Temperature = 0.0
    """Scale of the noise that a sample starts from, with `noised`; 0 gives the mean of all futures, in one pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noised and (self.temperature or self.steps != type(self).steps):
            raise ValueError("model.steps and model.temperature are of samples, which need model.noised above 0 in training")
        if self.num_states != self.context_grids + self.future_grids:
            frames = f"the {self.context_grids} + {self.future_grids} frames of context and step"
            raise ValueError(f"model.num_states must be that of {frames}, got {self.num_states}")
        if self.refine and any(side % 2 for side in self.grid):
            raise ValueError(f"model.refine works at half the size: model.grid {self.grid} must be even")
        if self.mounting % 8 or (self.mounting and any(side % 2 for side in self.grid)):
            sides = f"the sides of model.grid {self.grid} even"
            raise ValueError(f"model.mounting {self.mounting} must be a multiple of 8, and {sides}")
        if self.silhouette_loss and not self.mounting:
            raise ValueError("model.silhouette_loss is for what model.mounting learns: set that above 0 too, such as 40")
        if self.future_grids > self.reach:
            raise ValueError(f"model.future_grids {self.future_grids} is more than model.reach {self.reach}")
        if any(lag > self.context_grids for lag in self.lags):
            raise ValueError(f"model.lags {list(self.lags)} must be at most the {self.context_grids} frames of the context")
        if any(row >= self.state_dim for row in self.velocity_rows):
            raise ValueError(f"model.velocity_rows {list(self.velocity_rows)} must be below state_dim {self.state_dim}")
        if any(row >= self.state_dim for row in self.skeleton.states):
            raise ValueError(f"model.skeleton.states {list(self.skeleton.states)} must be below state_dim {self.state_dim}")

    @classmethod
    def completed(cls, table: dict[str, Any]) -> dict[str, Any]:
        """Before there was a horizon of its own, a model learned as far as it reached."""
        table = super().completed(table)
        return {"horizon": table["reach"], **table} if "reach" in table else table

    @property
    def reads_masks(self) -> bool:
        """Whether the arms count more than the rest, or where they are is told."""
        return self.body_loss > 0 or self.silhouette_loss > 0

    @property
    def solver_steps(self) -> int | None:
        """Those of a sample, where there are any."""
        return self.steps if self.noised else None

    @property
    def places(self) -> int:
        """Patches of a frame."""
        return self.grid[0] // self.patch * (self.grid[1] // self.patch)


@dataclass(frozen=True)
class FSQConfig(Family):
    """Causal video tokenizer with finite scalar quantisation, or without (tokenizers/autoencoder.py)."""

    module: ClassVar[str] = "hwm.tokenizers.open:new_tokenizer"
    kind: ClassVar[Kind] = "video"
    role: ClassVar[Role] = "tokenizer"

    family: Literal["fsq"] = "fsq"
    levels: Annotated[tuple[int, ...], Range(2, 65_536, some=True)] = (8, 8, 8, 5, 5, 5)
    """Levels per channel; the default is Cosmos' 64 000-code quantiser (reference A.4)."""
    spatial_stride: Annotated[int, Range(4, 16)] = 8
    temporal_stride: Annotated[int, Range(4, 8)] = 8
    """Frames of a grid, 4 or 8."""
    block: Annotated[int, Range(1, 10_000)] = 17
    """Frames encoded together: 17 for blocks of consecutive frames, 21 for the strided clips of the sampling track."""
    channels: Width = 64
    """Width at the fine stage of the network; the coarse stage is three times as wide."""
    depth: Layers = 2
    """Residual blocks per stage."""
    continuous: bool = False
    """Latents instead of codes: the bottleneck is bounded, not quantised; levels then only counts the channels."""
    latent_noise: Weight = 0.0
    """Standard deviation of noise added to continuous latents in training: close latents then decode to close frames."""
    steady_weight: Weight = 0.0
    """Weight of the mean change of the latents from grid to grid: less flicker in tokens of what does not move."""
    edge_weight: Weight = 0.5
    """Weight of the error of spatial differences, which keeps edges, relative to the pixel error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spatial_stride not in (4, 8, 16):
            raise ValueError(f"model.spatial_stride must be 4, 8 or 16, got {self.spatial_stride}")
        if self.temporal_stride not in (4, 8) or self.block < 1 or (self.block - 1) % self.temporal_stride:
            shape = f"{self.temporal_stride} and {self.block}"
            raise ValueError(f"model.temporal_stride must be 4 or 8 and block 1 + n times that, got {shape}")
        if not self.continuous and math.prod(self.levels) > 2**24:
            raise ValueError(f"model.levels {list(self.levels)} multiply to more than {2**24} codes")
        if self.latent_noise and not self.continuous:
            raise ValueError("model.latent_noise needs model.continuous")

    def example(self, num_clips: int, *, generator: torch.Generator | None = None, image_size: int = 0) -> Batch:
        """Random video of one block; states are not used."""
        import torch
        side = image_size or 64
        video = torch.randint(256, (num_clips, self.block, side, side, 3), generator=generator, dtype=torch.uint8)
        return Batch(states_BFA=torch.zeros(num_clips, self.block, 1), video_BFHWC=video)


@dataclass(frozen=True)
class ReaderConfig(Family):
    """A small network that reads off a single frame where the robot is, or in which state (ours)."""

    module: ClassVar[str] = "hwm.models.reader:new_reader"
    kind: ClassVar[Kind] = "video"
    role: ClassVar[Role] = "reader"

    family: Literal["reader"] = "reader"
    reads: Literal["mask", "states"] = "mask"
    """mask: which pixels show the robot's arms.  states: its state, but for velocities."""
    grid: Sides = (64, 64)
    """Height and width of the frames it looks at; others are made so by area."""
    widths: Annotated[tuple[int, int, int], Range(8, 4096)] = (24, 40, 56)
    """Channels at a half, a quarter and an eighth of that size, multiples of 8."""
    depth: Layers = 2
    """Convolutions at each size beside the one that leads there."""
    frames: Rows = 2
    """Frames of a clip that a step learns from."""
    blur: Annotated[float, Range(0.0, 64.0)] = 0.0
    """Half of training's frames are blurred, by a Gaussian of up to so many pixels: predicted frames are, where the future is
    open."""
    hidden: Width = 128
    """Of reading states: width before the last layer."""
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    velocity_rows: StateNumbers = (23, 24)
    """State dimensions that are velocities, which a single frame does not show: EVE's of the base."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(side % 8 for side in (*self.grid, *self.widths)):
            raise ValueError(f"model.grid {self.grid} and model.widths {self.widths} must be multiples of 8")
        if self.reads_states and not self.readable:
            rows = list(self.velocity_rows)
            raise ValueError(f"model.velocity_rows {rows} leave nothing of model.state_dim {self.state_dim} to read")

    @property
    def reads_states(self) -> bool:
        """Whether states are what it learns."""
        return self.reads == "states"

    @property
    def reads_masks(self) -> bool:
        """Whether masks are."""
        return self.reads == "mask"

    @property
    def readable(self) -> list[int]:
        """State dimensions that a frame can show."""
        return [row for row in range(self.state_dim) if row not in self.velocity_rows]

    def example(self, num_clips: int, *, generator: torch.Generator | None = None, image_size: int = 0) -> Batch:
        """Random clips of three frames with random masks and states."""
        import torch
        video = torch.randint(256, (num_clips, 3, *self.grid, 3), generator=generator, dtype=torch.uint8)
        masks = torch.rand((num_clips, 3, *self.grid), generator=generator) < 0.5
        states = torch.randn(num_clips, 3, self.state_dim, generator=generator)
        return Batch(states_BFA=states, video_BFHWC=video, masks_BFHW=masks)
