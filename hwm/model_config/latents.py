"""The families that carry noise to latents: Flow-HWM and Wan2.2 with states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from hwm.contracts import Family, Kind
from hwm.model_config.parts import (
    MOST_STATES,
    Layers,
    Modulated,
    Part,
    Rows,
    Side,
    Sides,
    StateNumbers,
    Steps,
    Streams,
    Temperature,
    Width,
)
from hwm.work.ranges import Range


@dataclass(frozen=True)
class Latents(Family):
    """What the families that carry noise to latents have in common."""

    kind: ClassVar[Kind] = "latents"
    prediction_settings: ClassVar[tuple[str, ...]] = ("steps", "temperature", "guidance", "solver", "state_gate")
    gone: ClassVar[dict[str, object]] = {"target": "latents", "relative_loss": False}

    channels: Width = 16
    """Channels of the latents."""
    grid: Sides = (16, 16)
    """Height and width of the latents."""
    patch: Side = 2
    """Side of the square of latent cells that make one token."""
    context_grids: Rows = 2
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    output: Literal["velocity", "data"] = "velocity"
    """What the network gives: the velocity (the documents), or what the flow ends in, from which it follows (ours)."""
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
class FlowConfig(Streams, Latents):
    """Flow-HWM (SYSTEMS.md section 3).  Defaults are the published base variant."""

    module: ClassVar[str] = "hwm.models.flow:FlowHWM"
    raw_states: ClassVar[bool] = False
    gone: ClassVar[dict[str, object]] = Latents.gone | {"learned_positions": False}

    family: Literal["flow"] = "flow"
    num_layers: Layers = 15
    num_heads: Layers = 16
    width: Width = 1152
    """15 layers of 1152 give the paper's four sizes exactly; its printed 17 x 1172 has no rotary heads (SYSTEMS.md)."""
    context_sees: Literal["all", "context"] = "all"
    """all: joint attention in all directions (the paper).  context: past and actions see only each other and stand at
    time 1, so they are computed once for all sampling steps (ours)."""
    place_context: bool = False
    """Future tokens also carry the latents of the context at their place (ours)."""
    qk_norm: bool = True
    dropout: Part = 0.0
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
    gone: ClassVar[dict[str, object]] = Latents.gone | {"place_channels": 0}

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
        if self.base and (self.place_context or self.output != "velocity"):
            raise ValueError("model.place_context and output are for models without model.base")
        if self.dtype != "float32" and not self.base:
            raise ValueError("model.dtype is the type in which model.base is loaded; a model from scratch is float32")
        if self.lora_rank and not self.base:
            raise ValueError("model.lora_rank adapts a pretrained model.base; to train from scratch set model.lora_rank=0")

    def precision_rule(self, precision: str) -> None:
        """Float32: autocast would take timesteps and their embedding, which Wan keeps in float32, to bfloat16."""
        if precision != "float32":
            raise ValueError('a Wan model brings its precision along: set model.dtype="bfloat16" and train.precision="float32"')
