"""A trained model as a folder for others: what was learned and how, nothing that can run.

    config.json         what made it: the whole RunConfig, steps, robot, fingerprints of the data; "format": "hwm"
    model.safetensors   the weights, averaged where the run averages, by the names that they have in the model
    robot.toml          what the states mean, of a world model
    tokenizer/          such a folder of its own, where the tokenizer is not one that comes with the package
    text.safetensors, unigram.json     what using some families takes beside the weights
    README.md           the model card, which people may edit
    checksums.json      SHA-256 of every other file

One layout for every family and for tokenizers.  A folder is read as a run is: bounded, checked, and nothing outside of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hwm
from hwm.config import RunConfig, changed, from_dict, to_dict
from hwm.safe_load.paths import hub_folder, inside, is_dir, is_file, shown
from hwm.safe_load.text import expect_fields, read_json
from hwm.training.stored import Stored, write_whole
from hwm.work.files import new_folder, sha256

FORMAT, SCHEMA = "hwm", 1
CONFIG, WEIGHTS, ROBOT, CARD, SUMS = "config.json", "model.safetensors", "robot.toml", "README.md", "checksums.json"
FREE = (CARD, SUMS, ".gitattributes", ".gitignore")
"""Files that no checksum guards: for people, and for places where folders are kept."""
AGAIN = "export or fetch the folder again"
MAX_FILES = 1000


@dataclass(frozen=True)
class Published:
    """What the config.json of a folder says.  step: updates.  identity: what was learned from, as in a checkpoint."""

    config: RunConfig
    step: int
    identity: dict[str, Any]


def is_published(folder: str | Path) -> bool:
    """Whether the folder has this layout.  Raises ValueError for a config.json that is no sane JSON."""
    path = Path(folder) / CONFIG
    return is_file(path) and read_json(path).get("format") == FORMAT


def read_published(folder: str | Path) -> Published:
    """What made the model of a folder, every file of it compared with its checksum.

    Raises ValueError, naming the file, for one that is missing, changed, unlisted or outside of the folder, and for a
    config.json of another schema or with what no run has.
    """
    folder = Path(folder)
    _expect_whole(folder)
    path = folder / CONFIG
    table = read_json(path)
    expect_fields(table, path, format=str, schema=int)
    if table["schema"] != SCHEMA:
        raise ValueError(f"{path}: written in format {table['schema']}, this version reads {SCHEMA}; update the package")
    expect_fields(table, path, run=dict, step=int, identity=dict)
    if not 0 <= table["step"] < 2**48:
        raise ValueError(f"{path}: {shown(table['step'])} is no number of steps; {AGAIN}")
    return Published(from_dict(RunConfig, table["run"], str(path)), table["step"], table["identity"])


def stored_weights(folder: Path) -> Stored:
    """The weights of a folder; what was narrowed to float16 is float32 again."""
    return Stored([folder / WEIGHTS], widen=True)


def write_published(
    folder: str | Path, published: Published, tensors: Mapping[str, Tensor],
    *, narrow: frozenset[str] = frozenset(), add: Callable[[Path], None] = lambda folder: None,
    card: Callable[[Mapping[str, str]], str] = lambda sums: "",
) -> Path:
    """Write a model as a new folder, all or nothing, and return the folder.

    narrow: names of float32 weights to store as float16.  add: writes further files.  card: text of the model card, given the
    checksum of every file.
    Raises ValueError where there is one of that name, or a weight is too large for float16.
    """
    with new_folder(folder) as building:
        write_whole(building / WEIGHTS, {name: _narrowed(name, t) if name in narrow else t for name, t in tensors.items()})
        about = {"format": FORMAT, "schema": SCHEMA, "hwm": hwm.__version__, "step": published.step}
        about |= {"run": to_dict(without_places(published.config)), "identity": published.identity}
        (building / CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        add(building)
        names = sorted(p.relative_to(building).as_posix() for p in building.rglob("*") if p.is_file())
        sums = {name: sha256(building / name) for name in names}
        (building / CARD).write_text(card(sums), encoding="utf-8")
        (building / SUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
    return Path(folder)


def without_places(config: RunConfig) -> RunConfig:
    """The configuration with the last names of folders alone: where they lay is nobody's business, and a hint at most."""
    text, base = getattr(config.model, "text", ""), getattr(config.model, "base", "")
    values: dict[str, Any] = {"data.train": [Path(place).name for place in config.data.train]}
    values |= {"data.val": Path(config.data.val).name, "tokenizer": _last(config.tokenizer), "init": _last(config.init)}
    values |= {"train.threads": 0, "train.device": "auto"}
    values |= {"model.text": Path(text).name} if text else {}
    values |= {"model.base": _last(base)} if base else {}
    return changed(config, values)


def _last(name: str) -> str:
    """The last name of a folder that is here; a name of the hub or of the package as it is."""
    return Path(name).name if is_dir(Path(name)) or Path(name).is_absolute() else name


def _narrowed(name: str, tensor: Tensor) -> Tensor:
    small = tensor.to(torch.float16)
    if not small.isfinite().all():
        raise ValueError(f"{name} holds {float(tensor.abs().max()):.3g}, too large for float16; export in float32")
    return small


def _expect_whole(folder: Path) -> None:
    sums = read_json(folder / SUMS, kind="list of checksums", remedy=AGAIN)
    for name in (CONFIG, WEIGHTS):
        if name not in sums:
            raise ValueError(f"{folder / SUMS}: lists no {name}; {AGAIN}")
    within = hub_folder(folder)
    present = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if not is_dir(p)]
    if len(present) > MAX_FILES:
        raise ValueError(f"{folder}: holds {len(present)} files, at most {MAX_FILES} are looked at; {AGAIN}")
    for name in present:
        if name not in sums and name not in FREE and Path(name).suffix in (".json", ".toml", ".safetensors"):
            raise ValueError(f"{folder / name}: is not in {SUMS}; remove it, or {AGAIN}")
    for name, digest in sums.items():
        path = inside(folder, name, source=folder / SUMS, links_within=within)
        if not is_file(path):
            raise ValueError(f"{path}: missing; {AGAIN}")
        if sha256(path) != digest:
            raise ValueError(f"{path}: is not as it was written (its SHA-256 differs); {AGAIN}")


def own_base(config: RunConfig, tensors: Mapping[str, Tensor]) -> tuple[RunConfig, dict[str, Tensor]]:
    """A model that trained a pretrained one as a whole is whole by itself: without the name and the digest of that one."""
    model: Any = config.model
    if not getattr(model, "base", "") or model.lora_rank or model.dtype != "float32":
        return config, dict(tensors)
    whole = {name: tensor for name, tensor in tensors.items() if name != "base_digest"}
    return replace(config, model=replace(model, base="")), whole
