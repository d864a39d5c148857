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
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hwm.model_config import ModelConfig, STConfig
from hwm.safe_load.paths import shown
from hwm.safe_load.text import read_toml

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and what a clip is."""

    train: str = ""
    val: str = ""
    clip: Literal["block_pairs", "blocks", "sampling"] = "block_pairs"
    """block_pairs: two consecutive 17-frame blocks (compression).  blocks: one block (tokenizers, HWM).  sampling: 77
    frames, of which every fourth and the last are used (sampling track)."""
    overlap: bool = True
    """Let training clips share frames; validation clips never do."""
    image_size: int = 0
    """Side of raw video frames in pixels after area resizing; 0 keeps the stored size."""

    def __post_init__(self) -> None:
        if not 0 <= self.image_size <= 4096:
            raise ValueError(f"data.image_size must be 0 (as stored) or at most 4096 pixels, got {self.image_size}")


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation.  Defaults are those of the compression track (SYSTEMS.md section 1)."""

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    """Micro-batches of batch_size per step, in all: processes that train together share them."""
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
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes train together.  ddp: each holds the whole model.  fsdp: each holds a share of weights,
    gradients and optimiser state (FSDP2), for models that fit no single device."""
    recompute: bool = False
    """Recompute the activations inside a block in the backward pass instead of keeping them: less memory, a third more work."""
    compile: bool = False
    """Compile every block with torch.compile."""
    timeout: float = 120.0
    """Seconds a process waits for the others before it takes them for dead; ten times as long in the first step."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.accumulate, self.log_every, self.keep_checkpoints) < 1:
            raise ValueError("train.steps, batch_size, accumulate, log_every and keep_checkpoints must be at least 1")
        if min(self.warmup_steps, self.validate_every, self.checkpoint_every, self.sample_every, self.threads) < 0:
            raise ValueError("train.warmup_steps, validate_every, checkpoint_every, sample_every, threads must not be negative")
        if not 0 < self.timeout < math.inf:
            raise ValueError("train.timeout must be positive")
        if not 0 < self.lr < math.inf or not 0 <= self.ema < 1:
            raise ValueError("train.lr must be positive and train.ema in [0, 1)")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas must lie in [0, 1), got {list(self.betas)}")
        if not 0 <= self.weight_decay < math.inf or not 0 <= self.clip_norm < math.inf or self.validate_clips < 1:
            raise ValueError("train.weight_decay and clip_norm must not be negative, validate_clips at least 1")


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

    def __post_init__(self) -> None:
        self.model.precision_rule(self.train.precision)


MAX_CONFIG_BYTES = 1_000_000


def nearest(word: str, known: Iterable[str]) -> str:
    """"did you mean ...?" of the known word that is nearest; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else ""


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of a config, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # noqa: TID251, of json.dumps in the same line


def from_dict(cls: type[T], table: dict[str, Any], where: str = "config") -> T:
    """Build a config dataclass from a nested dict.

    Raises ValueError naming the key, the nearest right one and the place for an unknown key or a wrong type.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            hint = nearest(key, names) or f"known keys: {', '.join(names)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
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
            hint = nearest(str(value), map(str, get_args(kind)))
            found = f"must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}"
            raise ValueError(f"{where}: {found}" + (f"; {hint}" if hint else ""))
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


def override(config: T, assignments: Iterable[str]) -> T:
    """Apply dotted assignments such as "train.steps=500"; values are TOML, bare words are strings.

    What stands where a text belongs may be any text, also one that looks like a number.
    """
    table = to_dict(config)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise ValueError(f"override {assignment!r}: write it as key=value, for example train.steps=500")
        node, name = _place(table, key.strip(), f"override {assignment!r}")
        text = text.strip() if key.endswith(" ") else text  # key = value
        value = _parse_value(text)
        node[name] = text if isinstance(node.get(name), str) and not isinstance(value, str) else value
    return from_dict(type(config), table, "override")


def changed(config: T, values: dict[str, Any]) -> T:
    """The configuration with other values under dotted keys such as "data.train"."""
    table = to_dict(config)
    for key, value in values.items():
        node, name = _place(table, key, "override")
        node[name] = value
    return from_dict(type(config), table, "override")


def _place(table: dict[str, Any], key: str, where: str) -> tuple[dict[str, Any], str]:
    """The inner table that holds a dotted key, and the key's last word."""
    *parts, last = key.split(".")
    for part in parts:
        if not isinstance(table.get(part), dict):
            hint = nearest(part, table)
            raise ValueError(f"{where}: no table {part!r}" + (f"; {hint}" if hint else ""))
        table = table[part]
    return table, last


def _parse_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"v = {text.strip()}")  # noqa: TID251, one value of the command line
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return table["v"] if len(table) == 1 else text


def to_toml(config: Any) -> str:
    """TOML text of a config; `from_toml` gives the same config back.

    Raises ValueError, naming the key, for a path with bytes that are no UTF-8: no TOML file can hold it.
    """
    lines: list[str] = []

    def write(table: dict[str, Any], prefix: str) -> None:
        scalars = {k: v for k, v in table.items() if not isinstance(v, dict)}
        if prefix and scalars:
            lines.append(f"\n[{prefix}]")
        lines.extend(f"{k} = {_toml(v, f'{prefix}.{k}' if prefix else k)}" for k, v in scalars.items())
        for key, value in table.items():
            if isinstance(value, dict):
                write(value, f"{prefix}.{key}" if prefix else key)

    write(to_dict(config), "")
    return "\n".join(lines) + "\n"


def _toml(value: Any, key: str) -> str:
    """A value as TOML."""
    if isinstance(value, list):
        return f"[{', '.join(_toml(item, key) for item in value)}]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        fault = "has bytes that are no UTF-8, which config.toml cannot hold"
        raise ValueError(f"{key}: the path {shown(value)} {fault}; rename that folder, or give it through a link of another name")
    # What JSON escapes TOML does too, and DEL; JSON's own way with what is wider than 16 bits is none of TOML's.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_toml(cls: type[T], path: str | Path) -> T:
    """Read a config file; every error names the file."""
    table = read_toml(path, max_bytes=MAX_CONFIG_BYTES, kind="config file")
    return from_dict(cls, table, str(path))
