"""Frozen configurations of a run and their way to and from TOML.  Nothing here imports torch.

Every value of a run is one field here.  Unknown keys and wrong types are errors that name the nearest right key.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class STConfig:
    """ST-Transformer of the compression track (SYSTEMS.md section 1).  Defaults are the published model."""

    family: Literal["st"] = "st"
    vocab_size: int = 64000
    factors: tuple[int, ...] = ()
    """Mixed radix of a factorised vocabulary, lowest digit first; empty: one table over all ids (the paper)."""
    grid: tuple[int, int] = (32, 32)
    context_grids: int = 3
    future_grids: int = 3
    num_layers: int = 24
    num_heads: int = 8
    width: int = 512
    mlp_ratio: int = 4
    dropout: float = 0.1
    qk_norm: bool = True
    qkv_bias: bool = True
    state_dim: int = 25
    num_states: int = 64
    """State rows read, from the first context frame; the 34 frames of two blocks and look-ahead."""
    state_hidden: int = 2048
    state_offset: int = 0
    """Frames by which the state rows run ahead of the frames."""
    state_pooling: Literal["frames", "adaptive"] = "frames"
    state_alignment: Literal["target", "current"] = "target"
    state_injection: Literal["add", "modulate"] = "add"
    """add: the step's state vector is added to all its tokens (the paper).  modulate: it also scales and shifts every
    normalisation, from zero (ours; small models learn to use states sooner)."""
    init_std: float = 0.02
    """Standard deviation of the initial weights; a narrow model wants more than the published 0.02."""
    loss_on: Literal["future", "all"] = "future"
    code_loss: float = 0.0
    """Weight of the squared error of the expected digits of a factorised vocabulary, as codes in [-1, 1] (ours)."""
    scheduled_sampling: float = 0.0
    """Probability that an input token of the future is the model's own prediction instead of the truth."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"model.width {self.width} is not divisible by model.num_heads {self.num_heads}")
        product = 1
        for factor in self.factors:
            product *= factor
        if self.factors and product != self.vocab_size:
            raise ValueError(f"model.factors {self.factors} multiply to {product}, not vocab_size {self.vocab_size}")
        if self.code_loss and not self.factors:
            raise ValueError("model.code_loss needs model.factors: only the digits of a quantiser have an order")
        if self.init_std <= 0 or self.code_loss < 0:
            raise ValueError("model.init_std must be positive and model.code_loss not negative")
        if min(self.context_grids, self.future_grids, self.num_layers, self.vocab_size, self.num_states) < 1:
            raise ValueError("model grids, layers, vocabulary and num_states must be at least 1")
        if not 0 <= self.scheduled_sampling <= 1 or not 0 <= self.dropout < 1:
            raise ValueError("model.scheduled_sampling must lie in [0, 1] and model.dropout in [0, 1)")


@dataclass(frozen=True)
class MaskedConfig:
    """Masked-HWM (SYSTEMS.md section 2).  Defaults are the published base variant."""

    family: Literal["masked"] = "masked"
    vocab_size: int = 64000
    factors: tuple[int, ...] = ()
    """Mixed radix of a factorised vocabulary, lowest digit first; empty: one table over all ids (the paper)."""
    grid: tuple[int, int] = (32, 32)
    context_grids: int = 2
    future_grids: int = 1
    num_layers: int = 24
    num_heads: int = 8
    width: int = 512
    mlp_ratio: int = 4
    attention: Literal["joint", "split"] = "joint"
    sharing: Literal["stream", "modality", "full"] = "stream"
    """Which streams share feed-forward weights after the first `unshared_blocks`."""
    unshared_blocks: int = 4
    visibility: Literal["causal", "full", "released"] = "causal"
    """Which temporal slots see which (nn/streams.py slot_visibility); with "causal" the past is computed once."""
    qk_norm: bool = False
    learned_positions: bool = True
    """Learned positions added to the tokens beside the rotary ones, as in the release."""
    place_context: bool = False
    """Future tokens also carry the context tokens of their place (ours); a narrow model takes long to find them itself."""
    dropout: float = 0.4
    """Dropout of the feed-forward layers, as in the release."""
    state_dim: int = 25
    num_states: int = 17
    state_changes: bool = False
    """States enter beside their change from the last past frame, on which most of what moves depends (ours)."""
    state_modulation: bool = False
    """The pooled state of a grid also scales and shifts the norms of its video tokens, from zero (ours)."""
    init_std: float = 0.02
    max_corruption: float = 0.2
    """Largest rate of random token replacement in training."""
    code_loss: float = 0.0
    """Weight of the squared error of the expected digits of a factorised vocabulary, as codes in [-1, 1] (ours)."""
    steps: int = 2
    """Refinement steps of a grid in prediction."""
    temperature: float = 0.0
    """Temperature of prediction; 0 takes the most likely token."""
    remask: Literal["random", "confidence"] = "random"
    """Which tokens are predicted again in the next step: a random choice, or the least certain ones."""

    def __post_init__(self) -> None:
        _check_streams(self)
        if self.factors and math.prod(self.factors) != self.vocab_size:
            raise ValueError(f"model.factors {self.factors} do not multiply to vocab_size {self.vocab_size}")
        if self.code_loss and not self.factors:
            raise ValueError("model.code_loss needs model.factors: only the digits of a quantiser have an order")
        if not 0 <= self.max_corruption <= 1 or self.init_std <= 0 or self.code_loss < 0:
            raise ValueError("model.max_corruption must lie in [0, 1], init_std be positive and code_loss not negative")


@dataclass(frozen=True)
class FlowConfig:
    """Flow-HWM (SYSTEMS.md section 3).  Defaults are the published base variant."""

    family: Literal["flow"] = "flow"
    channels: int = 16
    """Channels of the latents."""
    grid: tuple[int, int] = (16, 16)
    """Height and width of the latents."""
    patch: int = 2
    """Side of the square of latent cells that make one token."""
    context_grids: int = 2
    future_grids: int = 1
    num_layers: int = 15
    num_heads: int = 16
    width: int = 1152
    """15 layers of 1152 give the paper's four sizes exactly; its printed 17 x 1172 has no rotary heads (SYSTEMS.md)."""
    mlp_ratio: int = 4
    attention: Literal["joint", "split"] = "joint"
    sharing: Literal["stream", "modality", "full"] = "stream"
    """Which streams share modulation, projections and feed-forward weights after the first `unshared_blocks`."""
    unshared_blocks: int = 4
    context_sees: Literal["all", "context"] = "all"
    """all: joint attention in all directions (the paper).  context: past and actions see only each other and stand at
    time 1, so they are computed once for all sampling steps (ours)."""
    qk_norm: bool = True
    dropout: float = 0.0
    state_dim: int = 25
    num_states: int = 17
    state_changes: bool = False
    """States enter beside their change from the last past frame, on which most of what moves depends (ours)."""
    state_modulation: bool = False
    """The pooled states of the future grids join the timestep in the modulation (ours)."""
    place_context: bool = False
    """Future tokens also carry the past latents of their place (ours); a narrow model takes long to find them itself."""
    learned_positions: bool = False
    """Learned positions added to all tokens beside the rotary ones (ours for this family)."""
    target: Literal["latents", "change"] = "latents"
    """What the flow ends in: the future latents (the paper) or their change from the last past one (ours)."""
    output: Literal["velocity", "data"] = "velocity"
    """What the network gives: the velocity (the paper), or what the flow ends in, from which the velocity follows (ours)."""
    relative_loss: bool = False
    """Weigh each clip's error by the inverse of the size of what is predicted, as PSNR does (ours)."""
    sigma_min: float = 1e-4
    """Noise left at time 1; the paper keeps it and prints no value."""
    time_sampling: Literal["uniform", "logit_normal"] = "logit_normal"
    """Distribution of training times; the release draws sigmoid(N(0, 1))."""
    time_mean: float = 0.0
    """Mean of that normal distribution; negative trains more where there is most noise (ours)."""
    time_per_grid: bool = False
    """Each future grid gets a noise level of its own in training."""
    condition_dropout: float = 0.15
    """Probability that a training clip loses context and actions together, for guidance."""
    shortcut: float = 0.0
    """Share of a training batch that learns to take two steps in one (ours; Frans et al. 2024); 0: plain flow."""
    steps: int = 50
    """Solver steps of prediction; a power of two up to 128 for a shortcut model's own step sizes."""
    solver: Literal["euler", "heun"] = "euler"
    guidance: float = 3.0
    """Scale of classifier-free guidance; 1 switches it off."""
    temperature: float = 1.0
    """Scale of the initial noise in prediction; 0 gives the mean of all futures, in one step."""

    def __post_init__(self) -> None:
        _check_streams(self)
        if self.grid[0] % self.patch or self.grid[1] % self.patch:
            raise ValueError(f"model.grid {self.grid} is not divisible by model.patch {self.patch}")
        if not 0 <= self.sigma_min < 1 or not 0 <= self.condition_dropout < 1 or not 0 <= self.shortcut < 1:
            raise ValueError("model.sigma_min, condition_dropout and shortcut must lie in [0, 1)")
        if self.guidance != 1 and not self.condition_dropout:
            raise ValueError("model.guidance other than 1 needs model.condition_dropout: it compares with no condition")
        if self.shortcut and self.solver == "heun":
            raise ValueError('model.shortcut needs model.solver "euler": its velocities are already means over a step')


def _check_streams(config: MaskedConfig | FlowConfig) -> None:
    """Raise ValueError for what neither Humanoid World Model can be."""
    if config.width % config.num_heads:
        raise ValueError(f"model.width {config.width} is not divisible by model.num_heads {config.num_heads}")
    sizes = (config.context_grids, config.future_grids, config.num_layers, config.num_states, config.steps, *config.grid)
    if min(sizes) < 1 or config.unshared_blocks < 0:
        raise ValueError("model grids, layers, num_states and steps must be at least 1, unshared_blocks at least 0")
    if not 0 <= config.dropout < 1 or config.temperature < 0:
        raise ValueError("model.dropout must lie in [0, 1) and model.temperature not be negative")


@dataclass(frozen=True)
class FSQConfig:
    """Causal video tokenizer with finite scalar quantisation (tokenizers/fsq.py)."""

    family: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    """Levels per channel; the default is Cosmos' 64 000-code quantiser (reference A.4)."""
    spatial_stride: int = 8
    channels: int = 64
    """Width at the fine stage of the network; the coarse stage is three times as wide."""
    depth: int = 2
    """Residual blocks per stage."""
    continuous: bool = False
    """Latents instead of codes: the bottleneck is bounded, not quantised; levels then only counts the channels."""
    latent_noise: float = 0.0
    """Standard deviation of noise added to continuous latents in training: close latents then decode to close frames."""
    steady_weight: float = 0.0
    """Weight of the mean change of the latents from grid to grid: less flicker in tokens of what does not move."""
    edge_weight: float = 0.5
    """Weight of the error of spatial differences, which keeps edges, relative to the pixel error."""

    def __post_init__(self) -> None:
        if self.spatial_stride not in (4, 8, 16):
            raise ValueError(f"model.spatial_stride must be 4, 8 or 16, got {self.spatial_stride}")
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"model.levels must be at least 2 each, got {self.levels}")
        if self.latent_noise < 0 or (self.latent_noise and not self.continuous):
            raise ValueError("model.latent_noise must not be negative and needs model.continuous")


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and what a clip is."""

    train: str = ""
    val: str = ""
    clip: Literal["block_pairs", "blocks"] = "block_pairs"
    """block_pairs: two consecutive 17-frame blocks (compression).  blocks: one block (tokenizers, HWM)."""
    overlap: bool = True
    """Let training clips share blocks; validation clips never do."""
    image_size: int = 0
    """Side of raw video frames in pixels after area resizing; 0 keeps the stored size."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation.  Defaults are those of the compression track (SYSTEMS.md section 1)."""

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    """Micro-batches of batch_size per step."""
    lr: float = 8e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    warmup_steps: int = 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 leaves gradients alone."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights, used for validation and prediction; 0: none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    validate_every: int = 0
    validate_clips: int = 64
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    sample_every: int = 0
    log_every: int = 10
    threads: int = 0
    """CPU threads; 0: as many as there are free cores."""
    device: str = "auto"
    """auto: the first CUDA device where there is one, else the CPU."""
    tensorboard: bool = False
    """Write the metrics also as TensorBoard events (extra `tensorboard`)."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.accumulate, self.log_every, self.keep_checkpoints) < 1:
            raise ValueError("train.steps, batch_size, accumulate, log_every and keep_checkpoints must be at least 1")
        if self.lr <= 0 or not 0 <= self.ema < 1:
            raise ValueError("train.lr must be positive and train.ema in [0, 1)")


ModelConfig = STConfig | MaskedConfig | FlowConfig | FSQConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a training run."""

    recipe: str = "custom"
    seed: int = 0
    tokenizer: str = ""
    """Tokenizer that made the tokens: a shipped name or a folder; used for pictures and pixel scores."""
    model: ModelConfig = field(default_factory=STConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


MAX_CONFIG_BYTES = 1_000_000


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of a config, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], table: dict[str, Any], where: str = "config") -> T:
    """Build a config dataclass from a nested dict.

    Raises ValueError naming the key, the nearest right one and the place for an unknown key or a wrong type.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(names)}"
            raise ValueError(f"{where}: unknown key {key!r}{hint}")
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in table.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _choose_family(get_args(kind), value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected a table, got {value!r}")
        return from_dict(typing.cast(type, kind), value, where)
    if origin is Literal:
        if value not in get_args(kind):
            near = difflib.get_close_matches(str(value), [str(a) for a in get_args(kind)], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}: must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}{hint}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        item = get_args(kind)
        if len(item) == 2 and item[1] is Ellipsis:
            return tuple(_convert(item[0], v, where) for v in value)
        if len(item) != len(value):
            raise ValueError(f"{where}: expected {len(item)} values, got {len(value)}")
        return tuple(_convert(k, v, where) for k, v in zip(item, value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _choose_family(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """A union of configs is told apart by their `family` field."""
    families = {get_args(get_type_hints(c)["family"])[0]: c for c in choices}
    if not isinstance(value, dict) or value.get("family") not in families:
        got = value.get("family") if isinstance(value, dict) else value
        raise ValueError(f"{where}.family: must be one of {', '.join(map(repr, families))}, got {got!r}")
    return from_dict(families[value["family"]], value, where)


def override(config: T, assignments: list[str]) -> T:
    """Apply dotted assignments such as "train.steps=500"; values are TOML, bare words are strings."""
    table = to_dict(config)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise ValueError(f"override {assignment!r}: write it as key=value, for example train.steps=500")
        place = key.strip().split(".")
        node: Any = table
        for part in place[:-1]:
            if not isinstance(node.get(part), dict):
                near = difflib.get_close_matches(part, list(node), 1)
                raise ValueError(f"override {assignment!r}: no table {part!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            node = node[part]
        node[place[-1]] = _parse_value(text.strip())
    return from_dict(type(config), table, "override")


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def to_toml(config: Any) -> str:
    """TOML text of a config; `from_toml` gives the same config back."""
    lines: list[str] = []

    def write(table: dict[str, Any], prefix: str) -> None:
        scalars = {k: v for k, v in table.items() if not isinstance(v, dict)}
        if prefix and scalars:
            lines.append(f"\n[{prefix}]")
        lines.extend(f"{k} = {json.dumps(v)}" for k, v in scalars.items())
        for key, value in table.items():
            if isinstance(value, dict):
                write(value, f"{prefix}.{key}" if prefix else key)

    write(to_dict(config), "")
    return "\n".join(lines) + "\n"


def from_toml(cls: type[T], path: str | Path) -> T:
    """Read a config file; every error names the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such config file")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, not a config")
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    return from_dict(cls, table, str(path))
