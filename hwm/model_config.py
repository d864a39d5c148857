"""Frozen configurations of the models and of the tokenizer, one class a family.  Nothing here imports torch.

A class tells all that others ask of its family: see `hwm.contracts.Family`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from hwm.contracts import Batch, Family, Kind
from hwm.work.ranges import Range

if TYPE_CHECKING:
    import torch

MOST_STATES = 4096
Width = Annotated[int, Range(1, 65_536)]
Layers = Annotated[int, Range(1, 1024)]
Rows = Annotated[int, Range(1, 10_000)]
Side = Annotated[int, Range(1, 4096)]
Sides = Annotated[tuple[int, int], Range(1, 4096)]
StateNumbers = Annotated[tuple[int, ...], Range(0, MOST_STATES - 1)]
Steps = Annotated[int, Range(1, 10_000)]
Share = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, below=True)]
Weight = Annotated[float, Range(0, 1e6)]
Temperature = Annotated[float, Range(0, 1000)]


@dataclass(frozen=True)
class Tokens(Family):
    """What the families over token grids have in common."""

    kind: ClassVar[Kind] = "tokens"

    vocab_size: Annotated[int, Range(2, 2**28)] = 64000
    factors: Annotated[tuple[int, ...], Range(2, 2**28)] = ()
    """Mixed radix of a factorised vocabulary, lowest digit first; empty: one table over all ids (the paper)."""
    grid: Sides = (32, 32)
    num_heads: Layers = 8
    width: Width = 512
    mlp_ratio: Annotated[int, Range(1, 256)] = 4
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    init_std: Annotated[float, Range(0, 100, above=True)] = 0.02
    """Standard deviation of the initial weights; a narrow model wants more than the published 0.02."""
    code_loss: Weight = 0.0
    """Weight of the squared error of the expected digits of a factorised vocabulary, as codes in [-1, 1] (ours)."""
    ordered_states: bool = False
    """The order of the state rows inside a grid counts (ours); in the documents' forms their mean loses it."""
    max_corruption: Share = 0.0
    """Largest rate at which input tokens become random ones in training (HWM paper; of ST-Transformer ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        product = math.prod(self.factors)
        if self.factors and product != self.vocab_size:
            raise ValueError(f"model.factors {self.factors} multiply to {product}, not vocab_size {self.vocab_size}")
        if self.code_loss and not self.factors:
            raise ValueError("model.code_loss needs model.factors: only the digits of a quantiser have an order")


@dataclass(frozen=True)
class Latents(Family):
    """What the families that carry noise to latents have in common."""

    kind: ClassVar[Kind] = "latents"
    prediction_settings: ClassVar[tuple[str, ...]] = ("steps", "temperature", "guidance", "solver", "state_gate")

    channels: Width = 16
    """Channels of the latents."""
    grid: Sides = (16, 16)
    """Height and width of the latents."""
    patch: Side = 2
    """Side of the square of latent cells that make one token."""
    context_grids: Rows = 2
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    target: Literal["latents", "change"] = "latents"
    """What the flow ends in: the future latents (the documents) or their change from the last past one (ours)."""
    output: Literal["velocity", "data"] = "velocity"
    """What the network gives: the velocity (the documents), or what the flow ends in, from which it follows (ours)."""
    relative_loss: bool = False
    """Weigh each clip's error by the inverse of the size of what is predicted, as PSNR does (ours)."""
    condition_dropout: Part = 0.15
    """Probability that a training clip loses its condition, for guidance."""
    steps: Steps = 50
    """Solver steps of prediction."""
    solver: str = "euler"
    """A name in `hwm.nn.flow_matching.SOLVERS`."""
    guidance: Annotated[float, Range(-1000, 1000)] = 1.0
    """Scale of classifier-free guidance; 1 switches it off."""
    temperature: Temperature = 1.0
    """Scale of the initial noise in prediction; 0 gives the mean of all futures, in one step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance != 1 and not self.condition_dropout:
            raise ValueError("model.guidance other than 1 needs model.condition_dropout: it compares with no condition")


@dataclass(frozen=True)
class Modulated(Family):
    """What the families have in common in which the states modulate normalisations (and gates, where there are any)."""

    state_gate: Annotated[float, Range(-1000, 1000)] = 1.0
    """Factor of the modulation by the states: 0 takes it away, and a trained model tells by others what it makes of it (ours)."""
    state_start: Weight = 0.0
    """Standard deviation of that modulation's first weights; 0: it starts from nothing (AdaLN-Zero, the documents)."""

    @property
    def modulated(self) -> bool:
        """Whether the states modulate anything, as configured."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.modulated and (self.state_gate != 1 or self.state_start):
            where = 'model.state_injection="modulate"' if hasattr(self, "state_injection") else "model.state_modulation=true"
            raise ValueError(f"model.state_gate and model.state_start are of the modulation by the states: set {where}")


@dataclass(frozen=True)
class Streams(Modulated):
    """What both Humanoid World Models have in common: streams of past and future, video and actions."""

    context_grids: Rows = 2
    future_grids: Rows = 1
    num_states: Rows = 17
    mlp_ratio: Annotated[int, Range(1, 256)] = 4
    attention: Literal["joint", "split"] = "joint"
    sharing: Literal["stream", "modality", "full"] = "stream"
    """Which streams share weights after the first `unshared_blocks`."""
    unshared_blocks: Annotated[int, Range(0, 1024)] = 4
    place_context: bool = False
    """Future tokens also carry the context of their place (ours); a narrow model takes long to find it itself."""
    state_changes: bool = False
    """States enter beside their change from the last past frame, on which most of what moves depends (ours)."""
    state_modulation: bool = False
    """The pooled state of a future grid also modulates the norms of its tokens, from nothing (ours)."""

    @property
    def modulated(self) -> bool:
        """With state_modulation."""
        return self.state_modulation


@dataclass(frozen=True)
class STConfig(Modulated, Tokens):
    """ST-Transformer of the compression track (SYSTEMS.md section 1).  Defaults are the published model."""

    module: ClassVar[str] = "hwm.models.st_transformer:STTransformer"
    prediction_settings: ClassVar[tuple[str, ...]] = ("state_gate",)

    family: Literal["st"] = "st"
    clock: Literal["blocks", "frames"] = "blocks"
    """Frames of a grid.  blocks: 1, 8 and 8 of a block of 17.  frames: one, as in 1X's v1.1 release."""
    context_grids: Rows = 3
    future_grids: Rows = 3
    num_layers: Layers = 24
    attention: Literal["spatiotemporal", "full"] = "spatiotemporal"
    """full: places see all of the grids up to theirs, not their own alone; all else, weights included, is the same (ours)."""
    dropout: Part = 0.1
    qk_norm: bool = True
    qkv_bias: bool = True
    num_states: Rows = 64
    """State rows read, from the first context frame: the 34 frames of two blocks and look-ahead, of which `state_pooling`
    "frames" uses one row, through the convolution, and "adaptive" all."""
    state_hidden: Width = 2048
    state_offset: Annotated[int, Range(-10_000, 10_000)] = 0
    """Frames by which the state rows run ahead of the frames."""
    state_pooling: Literal["frames", "adaptive"] = "frames"
    state_alignment: Literal["target", "current", "past"] = "target"
    """The states that the step which predicts a grid sees: of that grid; of the one before it, with one row more by the
    convolution; or of none later than that one (v1.1's rule)."""
    state_injection: Literal["add", "modulate"] = "add"
    """add: the step's state vector is added to all its tokens (the paper).  modulate: it also scales and shifts every
    normalisation, from zero (ours; small models learn to use states sooner)."""
    loss_on: Literal["future", "all"] = "future"
    scheduled_sampling: Share = 0.0
    """Probability that an input token of the future is the model's own prediction instead of the truth."""
    own_grids: Annotated[int, Range(0, 10_000)] = 0
    """Above 0: that share of clips is fed that many future grids wholly predicted, one after the other (ours).  0: token by
    token, all predicted in one pass over the true ones."""

    @property
    def modulated(self) -> bool:
        """With state_injection "modulate"."""
        return self.state_injection == "modulate"


@dataclass(frozen=True)
class MaskedConfig(Streams, Tokens):
    """Masked-HWM (SYSTEMS.md section 2).  Defaults are the published base variant."""

    module: ClassVar[str] = "hwm.models.masked:MaskedHWM"
    prediction_settings: ClassVar[tuple[str, ...]] = ("steps", "temperature", "remask", "state_gate")

    family: Literal["masked"] = "masked"
    num_layers: Layers = 24
    visibility: Literal["causal", "full", "released"] = "full"
    """Which temporal slots see which (`masked_blocks.slot_visibility`).  full: all (paper section 2.4).  causal: none a later
    one, so that the past is computed once (ours)."""
    qk_norm: bool = False
    learned_positions: bool = True
    """Learned positions added to the tokens beside the rotary ones, as in the release."""
    dropout: Part = 0.4
    """Dropout of the feed-forward layers, as in the release."""
    max_corruption: Share = 0.2
    steps: Steps = 2
    """Refinement steps of a grid in prediction."""
    temperature: Temperature = 0.0
    """Temperature of prediction; 0 takes the most likely token."""
    remask: Literal["random", "confidence"] = "random"
    """Which tokens are predicted again in the next step: a random choice, or the least certain ones."""


@dataclass(frozen=True)
class FlowConfig(Streams, Latents):
    """Flow-HWM (SYSTEMS.md section 3).  Defaults are the published base variant."""

    module: ClassVar[str] = "hwm.models.flow:FlowHWM"
    raw_states: ClassVar[bool] = False

    family: Literal["flow"] = "flow"
    num_layers: Layers = 15
    num_heads: Layers = 16
    width: Width = 1152
    """15 layers of 1152 give the paper's four sizes exactly; its printed 17 x 1172 has no rotary heads (SYSTEMS.md)."""
    context_sees: Literal["all", "context"] = "all"
    """all: joint attention in all directions (the paper).  context: past and actions see only each other and stand at
    time 1, so they are computed once for all sampling steps (ours)."""
    qk_norm: bool = True
    dropout: Part = 0.0
    learned_positions: bool = False
    """Learned positions added to all tokens beside the rotary ones (ours for this family)."""
    sigma_min: Part = 1e-4
    """Noise left at time 1; the paper keeps it and prints no value."""
    time_sampling: Literal["uniform", "logit_normal"] = "logit_normal"
    """Distribution of training times; the release draws sigmoid(N(0, 1))."""
    time_mean: Annotated[float, Range(-100, 100)] = 0.0
    """Mean of that normal distribution; negative trains more where there is most noise (ours)."""
    time_per_grid: bool = False
    """Each future grid gets a noise level of its own in training."""
    shortcut: Part = 0.0
    """Share of a training batch that learns to take two steps in one (ours; Frans et al. 2024); 0: plain flow."""
    steps: Steps = 50
    """Solver steps of prediction; a power of two up to 128 for a shortcut model's own step sizes."""
    guidance: Annotated[float, Range(-1000, 1000)] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortcut and self.solver != "euler":
            raise ValueError('model.shortcut needs model.solver "euler": its velocities are already means over a step')


@dataclass(frozen=True)
class WanConfig(Modulated, Latents):
    """Wan2.2 TI2V with video and state conditioning (SYSTEMS.md section 4).  Defaults are the published 5 B model."""

    module: ClassVar[str] = "hwm.models.wan.model:WanWorldModel"
    needs: ClassVar[tuple[str, ...]] = ("diffusers", "peft")

    family: Literal["wan"] = "wan"
    base: str = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    """Pretrained model: a folder in diffusers' layout or a hub name.  Empty: from scratch, with the sizes below."""
    text: str = ""
    """File with the embedding of the empty prompt (`hwm text-embedding`), which a pretrained model needs; or "zeros", which
    none knows.  A model from scratch takes zeros where it is empty."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the transformer's weights; state encoder, adapter and what diffusers keeps in float32 stay float32."""
    channels: Width = 48
    grid: Sides = (32, 32)
    """Height and width of the latents: 32 for frames of 512 pixels, 16 for 256."""
    future_grids: Rows = 4
    num_layers: Layers = 30
    num_heads: Layers = 24
    head_width: Width = 128
    mlp_width: Width = 14336
    time_width: Width = 256
    text_width: Width = 4096
    text_rows: Rows = 512
    """Rows of the text embedding: one of the empty prompt, the others zero."""
    lora_rank: Annotated[int, Range(0, 65_536)] = 32
    """Rank of the adapter on all linear layers of attention and feed-forward; 0: the whole transformer is trained."""
    lora_alpha: Annotated[int, Range(0, 65_536)] = 0
    """Scale of the adapter times its rank; 0: the rank, so a scale of 1 (the report prints none)."""
    dropout: Part = 0.0
    """Dropout behind attention and in the feed-forward layers; Wan is trained without (ours, for few clips)."""
    checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    num_states: Rows = 77
    state_hidden: Width = 256
    state_plain: StateNumbers = (21, 22)
    """State dimensions without sines and cosines: EVE's hand closures."""
    state_frequencies: Annotated[int, Range(0, 1024)] = 6
    """Sines and cosines of every joint angle and velocity; the report prints no number."""
    state_sampling: Literal["downsample", "stack"] = "downsample"
    """downsample: the states of the kept frames (the report).  stack: also those of the three frames before each (ours)."""
    state_injection: Literal["post", "pre"] = "post"
    """post: added to the timestep's modulation of the blocks (the report).  pre: to its embedding before, head included."""
    state_changes: bool = False
    """States enter beside their change from the last seen frame, on which most of what moves depends (ours)."""
    place_context: bool = False
    """Every latent cell also carries the context latents of its place, as channels (ours; Wan's I2V 14B does likewise)."""
    place_channels: Annotated[int, Range(0, 1024)] = 0
    """Learned channels of every latent cell: where it is, which a narrow model takes long to find by rotation (ours)."""
    condition_dropout: Part = 0.1
    """Probability that a training clip loses its states, for guidance; the report prints none."""
    time_sampling: Literal["uniform", "logit_normal"] = "uniform"
    """Distribution of training times before the shift."""
    shift: Annotated[float, Range(0, 1000, above=True)] = 5.0
    """Shift of noise levels towards noise, sigma -> shift sigma / (1 + (shift - 1) sigma), in training and prediction."""
    steps: Steps = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_width % 2 or self.head_width < 6:
            raise ValueError(f"model.head_width must be even and at least 6, for rotations in three axes, got {self.head_width}")
        ours = self.place_context or self.place_channels or self.target != "latents" or self.output != "velocity"
        if self.base and ours:
            raise ValueError("model.place_context, place_channels, target and output are for models without model.base")
        if self.dtype != "float32" and not self.base:
            raise ValueError("model.dtype is the type in which model.base is loaded; a model from scratch is float32")
        if self.lora_rank and not self.base:
            raise ValueError("model.lora_rank adapts a pretrained model.base; to train from scratch set model.lora_rank=0")

    def precision_rule(self, precision: str) -> None:
        """Float32: autocast would take timesteps and their embedding, which Wan keeps in float32, to bfloat16."""
        if precision != "float32":
            raise ValueError('a Wan model brings its precision along: set model.dtype="bfloat16" and train.precision="float32"')


@dataclass(frozen=True)
class DirectConfig(Modulated):
    """Direct regression of future frames from the last seen ones and the states (ours): a baseline for all others."""

    module: ClassVar[str] = "hwm.models.direct:Direct"
    kind: ClassVar[Kind] = "video"
    prediction_settings: ClassVar[tuple[str, ...]] = ("state_gate",)

    family: Literal["direct"] = "direct"
    grid: Sides = (64, 64)
    """Height and width of the frames."""
    patch: Side = 8
    """Side of the square of pixels that makes one token."""
    context_grids: Rows = 9
    """Frames of the context, of which the first and the last are read."""
    future_grids: Rows = 8
    """Frames by which a rollout goes on at a time."""
    reach: Rows = 60
    """Frames after the context that it can predict from there."""
    num_layers: Layers = 5
    num_heads: Layers = 6
    width: Width = 192
    mlp_ratio: Annotated[int, Range(1, 256)] = 4
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    num_states: Rows = 17
    """Rows of the frames of context and one step."""
    velocity_rows: StateNumbers = (23, 24)
    """State dimensions that are velocities of the base, which their sum moves: EVE's linear and angular one."""
    map_hidden: Width = 512
    """Width of the decoder from states to a map over the patches."""
    map_channels: Width = 32
    warp: bool = True
    """Move the last frame by a predicted flow before the change is added, rather than add the change alone."""
    pairs: Rows = 2
    """Frames of a clip that are predicted in training, each from a place of its own."""
    edge_loss: Weight = 0.0
    """Weight of the error of gradient magnitudes beside that of the pixels, both over that of copying (ours): for PSNR alone an
    edge that may lie here or there is best left out, but the mean of its magnitudes is not nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_states != self.context_grids + self.future_grids:
            frames = f"the {self.context_grids} + {self.future_grids} frames of context and step"
            raise ValueError(f"model.num_states must be that of {frames}, got {self.num_states}")
        if self.future_grids > self.reach:
            raise ValueError(f"model.future_grids {self.future_grids} is more than model.reach {self.reach}")
        if any(row >= self.state_dim for row in self.velocity_rows):
            raise ValueError(f"model.velocity_rows {list(self.velocity_rows)} must be below state_dim {self.state_dim}")

    @property
    def places(self) -> int:
        """Patches of a frame."""
        return self.grid[0] // self.patch * (self.grid[1] // self.patch)


@dataclass(frozen=True)
class FSQConfig(Family):
    """Causal video tokenizer with finite scalar quantisation, or without (tokenizers/autoencoder.py)."""

    module: ClassVar[str] = "hwm.tokenizers.open:new_tokenizer"
    kind: ClassVar[Kind] = "video"
    role: ClassVar[Literal["world model", "tokenizer"]] = "tokenizer"

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


ModelConfig = STConfig | MaskedConfig | FlowConfig | WanConfig | DirectConfig | FSQConfig
