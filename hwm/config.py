"""Frozen configurations of a run and their way to and from TOML.  Nothing here imports torch.

Every value of a run is one field here.  Unknown keys and wrong types are errors that name the nearest right key.
"""

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hwm.clock import LEGACY_STRIDE
from hwm.contracts import Family
from hwm.model_config import ModelConfig, STConfig
from hwm.safe_load.paths import shown
from hwm.safe_load.text import read_toml
from hwm.work.ranges import Range, check_ranges

T = TypeVar("T")
Count = Annotated[int, Range(1, 10**9)]
CountOrNone = Annotated[int, Range(0, 10**9)]
Seed = Annotated[int, Range(0, 2**63 - 1)]


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and what a clip is."""

    train: tuple[str, ...] = ()
    """Folders that are learned from; several are of one robot, tokenizer and clock.  A single one may stand as a text."""
    val: str = ""
    clip: Literal["block_pairs", "blocks", "sampling", "frames", "motion"] = "block_pairs"
    """block_pairs: two consecutive 17-frame blocks (compression).  blocks: one block (tokenizers, HWM).  sampling: 77
    frames, of which every fourth and the last are used (sampling track).  frames: as many frames as the model has grids, one
    every `stride` (v1.1).  motion: as many as a twin sees and rolls out, one after the other."""
    stride: Annotated[int, Range(1, 10_000)] = LEGACY_STRIDE
    """Of clips of frames: frames of the recording from one to the next; v1.1 is evaluated at 15, 2 Hz."""
    overlap: bool = True
    """Let training clips share frames; validation clips never do."""
    image_size: Annotated[int, Range(0, 4096)] = 0
    """Side of raw video frames in pixels after area resizing; 0 keeps the stored size."""

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self), prefix="data.")
        if self.stride != LEGACY_STRIDE and self.clip != "frames":
            raise ValueError(f'data.stride is of data.clip "frames", not of {self.clip!r}; leave it away')


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation.  Defaults are those of the compression track (SYSTEMS.md section 1)."""

    steps: Count = 1000
    batch_size: Count = 8
    accumulate: Count = 1
    """Micro-batches of batch_size per step, in all: processes that train together share them."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: matrices of linear layers and convolutions go by an orthogonal momentum, all else by AdamW (ours): more is learned in
    a step, which takes longer where batches are small."""
    lr: Annotated[float, Range(0, 1000, above=True)] = 8e-4
    betas: Annotated[tuple[float, float], Range(0, 1, below=True)] = (0.9, 0.95)
    weight_decay: Annotated[float, Range(0, 1000)] = 0.05
    warmup_steps: CountOrNone = 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    since: CountOrNone = 0
    """Step at which a complete run was prolonged, from which the schedule counts again; `hwm train` sets it."""
    clip_norm: Annotated[float, Range(0, 1e9)] = 1.0
    """Largest global gradient norm; 0 leaves gradients alone."""
    ema: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Decay of the exponential moving average of the weights, used for validation and prediction; 0: none."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """bfloat16: products of matrices alone, where the model can be trained so.  auto: whichever multiplies faster where the
    run begins, measured; the run then keeps it."""
    validate_every: CountOrNone = 0
    validate_clips: Count = 64
    checkpoint_every: CountOrNone = 500
    keep_checkpoints: Count = 2
    sample_every: CountOrNone = 0
    log_every: Count = 10
    threads: Annotated[int, Range(0, 4096)] = 0
    """CPU threads; 0: as many as cores are idle at the first start, and then as many as that run began with."""
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
    timeout: Annotated[float, Range(0, 1e6, above=True)] = 120.0
    """Seconds a process waits for the others before it takes them for dead; ten times as long in the first step."""

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self), prefix="train.")
        if self.optimizer == "muon" and self.parallel == "fsdp":
            raise ValueError('train.optimizer "muon" needs whole matrices: set train.parallel="ddp"')


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a training run."""

    recipe: str = "custom"
    seed: Seed = 0
    tokenizer: str = ""
    """Tokenizer that made the tokens: a shipped name or a folder; used for pictures and pixel scores."""
    init: str = ""
    """Trained weights to start from: a run, a folder of `hwm export` or a shipped name; empty: random ones."""
    anew: tuple[str, ...] = ()
    """Of those weights what starts anew all the same: "states", all that reads the robot's states, or modules by name."""
    model: ModelConfig = field(default_factory=STConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        self.model.precision_rule(self.train.precision)
        if (self.data.clip == "frames") != (getattr(self.model, "clock", "") == "frames"):
            raise ValueError('data.clip "frames" is of models with model.clock "frames", and theirs alone; set both')
        if self.data.clip == "motion" and self.model.kind != "motion":
            raise ValueError('data.clip "motion" is of twins alone; leave it as the recipe has it')
        if self.anew and not self.init:
            raise ValueError("anew says what of trained weights starts anew; give those weights with --init")


MAX_CONFIG_BYTES = 1_000_000


def nearest(word: str, known: Iterable[str]) -> str:
    """"did you mean ...?" of the known word that is nearest; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else ""


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of a config, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # noqa: TID251, of json.dumps in the same line


def from_dict(cls: type[T], table: dict[str, Any], where: str = "") -> T:
    """Build a config dataclass from a nested dict.

    where: begins the message, such as the name of a file.
    Raises ValueError naming the key, the nearest right one and the place for an unknown key, a wrong type, a number out of range.
    """
    try:
        return _build(cls, table, "")
    except ValueError as error:
        if not where:
            raise
        raise ValueError(f"{where}: {error}") from None


def _build(cls: type[T], table: dict[str, Any], path: str) -> T:
    """path: the dotted name of the table with a dot behind it, empty for the whole."""
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    table = cls.completed(table) if issubclass(cls, Family) else table
    for key in table:
        if key not in names:
            hint = nearest(key, names) or f"known keys: {', '.join(names)}"
            raise ValueError(f"unknown key {shown(path + key)!r}; {hint}")
    values = {key: _convert(hints[key], value, path + key) for key, value in table.items()}
    try:
        return cls(**values)
    except ValueError as error:
        outer = path.rstrip(".").rpartition(".")[0]
        if not outer:
            raise
        raise ValueError(f"{outer}.{error}") from None  # what lies deeper knows its own name alone


def _convert(kind: Any, value: Any, name: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _choose_family(get_args(kind), value, name)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{name}: expected a table, got {shown(repr(value))}")
        return _build(typing.cast(type, kind), value, f"{name}.")
    if origin is Literal:
        if value not in get_args(kind):
            hint = nearest(str(value), map(str, get_args(kind)))
            found = f"must be one of {', '.join(map(repr, get_args(kind)))}, got {shown(repr(value))}"
            raise ValueError(f"{name} {found}" + (f"; {hint}" if hint else ""))
        return value
    if origin is tuple:
        if isinstance(value, str) and get_args(kind) == (str, Ellipsis):
            value = [value] if value else []
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name}: expected a list, got {shown(repr(value))}")
        item = get_args(kind)
        if len(item) == 2 and item[1] is Ellipsis:
            return tuple(_convert(item[0], v, name) for v in value)
        if len(item) != len(value):
            raise ValueError(f"{name}: expected {len(item)} values, got {len(value)}")
        return tuple(_convert(k, v, name) for k, v in zip(item, value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        # A whole number that no float can hold is out of every range, and refused as such.
        return float(value) if abs(value) < 2**1000 else value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name}: expected {kind.__name__}, got {shown(repr(value))}")
    return value


def _choose_family(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    """A union of configs is told apart by their `family` field."""
    families = {get_args(get_type_hints(c)["family"])[0]: c for c in choices}
    family = value.get("family") if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(family, str) or family not in families:
        raise ValueError(f"{name}.family must be one of {', '.join(map(repr, families))}, got {shown(repr(family))}")
    return _build(families[family], value, f"{name}.")


def override(config: T, assignments: Iterable[str]) -> T:
    """Apply dotted assignments such as "train.steps=500"; values are TOML, bare words are strings.

    What stands where a text belongs may be any text, also one that looks like a number.
    """
    table = to_dict(config)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise ValueError(f"override {shown(assignment)!r}: write it as key=value, for example train.steps=500")
        node, name = _place(table, key.strip(), f"override {shown(assignment)!r}")
        text = text.strip() if key.endswith(" ") else text  # key = value
        value = _parse_value(text)
        of_texts = isinstance(node.get(name), str) or (isinstance(node.get(name), list) and not isinstance(value, list))
        node[name] = text if of_texts and not isinstance(value, str) else value
    return from_dict(type(config), table)


def changed(config: T, values: dict[str, Any]) -> T:
    """The configuration with other values under dotted keys such as "data.train"."""
    table = to_dict(config)
    for key, value in values.items():
        node, name = _place(table, key, "override")
        node[name] = value
    return from_dict(type(config), table)


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
    except (ValueError, RecursionError):
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
        for key, value in scalars.items():
            name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key, prefix)
            lines.append(f"{name} = {_toml(value, f'{prefix}.{key}' if prefix else key)}")
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
