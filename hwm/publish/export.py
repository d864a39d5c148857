"""A run as a folder for others: its weights, what using them takes, and its card."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwm.config import to_toml
from hwm.models.build import build_model
from hwm.publish.card import Said, card, results_in, training_seconds
from hwm.publish.folder import ROBOT, Published, own_base, without_places, write_published
from hwm.publish.trained import Trained, open_trained
from hwm.robot import ROBOTS, Embodiment, read_embodiment
from hwm.runs import COUNTS, TEXT, TOKENIZER, load_run
from hwm.safe_load.paths import is_file
from hwm.safe_load.weights import expect_same
from hwm.tokenizers.open import keep_copy, load_tokenizer, own_names

ADAPTER = "adapter"


def export(
    run: str | Path, folder: str | Path, *, which: str = "best", narrow: bool = False, said: Said = Said(), text: str = "",  # noqa: B008
    base: str = "",
) -> tuple[Path, str]:
    """Publish what was trained as a new folder; returns it and what was rounded, in words.

    run: a run, or what was published before.  narrow: trained weights as float16; statistics stay as they are.
    text: of the model card, in place of the one that is written of the run.
    base: the pretrained model that a Wan adapter was trained on; with it the adapter is also written as diffusers reads it.
    Raises ValueError as `open_trained` and `write_published`.
    """
    trained = open_trained(run, which=which)
    with torch.device("meta"):
        paper = build_model(trained.config)
    expect_same(trained.sizes(), paper.state_dict(), where=trained.where)
    config, tensors = own_base(trained.config, trained.tensors())
    learned = {name for name, _ in paper.named_parameters()}
    wide = (name for name, tensor in tensors.items() if name in learned and tensor.dtype == torch.float32)
    small = frozenset(wide if narrow else ())
    identity = dict(trained.identity)
    if began := identity.get("init"):
        identity["init"] = began | {"name": without_places(replace(config, init=str(began["name"]))).init}
    published = Published(config, trained.step, identity)
    robot = robot_of(trained) if config.model.reads_states else None
    if base:
        adapted = load_run(run, which=which, base=base).model

    def add(building: Path) -> None:
        for name in (TEXT, COUNTS):
            if is_file(trained.folder / name):
                shutil.copyfile(trained.folder / name, building / name)
        if (trained.folder / TOKENIZER).is_dir():
            keep_copy(trained.folder / TOKENIZER, building / TOKENIZER)
        if robot is not None:
            (building / ROBOT).write_text(to_toml(robot), encoding="utf-8")
        if base:
            from hwm.models.wan.lora import save_adapter
            (building / ADAPTER).mkdir()
            save_adapter(adapted.transformer, building / ADAPTER)

    rounded = _rounded(tensors, small)
    facts: dict[str, Any] = {
        "parameters": sum(t.numel() for name, t in tensors.items() if name in learned), "robot": robot, "narrowed": rounded,
        "results": results_in(trained.folder), "seconds": training_seconds(trained.folder), "tokenizer": _tokenizer(trained),
    }  # fmt: skip

    def written(sums: Any) -> str:
        return text or card(published, said, sums=sums, **facts)

    return write_published(folder, published, tensors, narrow=small, add=add, card=written), rounded


def robot_of(trained: Trained) -> Embodiment | None:
    """Whose states a model reads: as its folder keeps it, a known robot of the same states, or their names and units alone."""
    if is_file(trained.folder / ROBOT):
        return read_embodiment(trained.folder / ROBOT)
    about = trained.identity.get("robot")
    if not about:
        return None
    names, units = zip(*about["states"])
    robots = map(read_embodiment, sorted(ROBOTS.glob("*.toml")))
    known = [robot for robot in robots if (robot.names, robot.units) == (names, units)]
    plain = Embodiment(str(about["name"]), names, units, raw=(), mean=(0.0,) * len(names), std=(1.0,) * len(names))
    return known[0] if known else plain


def _tokenizer(trained: Trained) -> str:
    """What made the data of a world model, in words."""
    config, kept = trained.config, trained.folder / TOKENIZER
    if config.model.kind in ("video", "motion"):
        return ""
    if kept.is_dir():
        return f"{load_tokenizer(kept).fingerprint()[:16]}, in tokenizer/"
    name = without_places(config).tokenizer
    return f"{name}, which comes with hwm" if name in own_names() else f"{name or 'not named'}, which lies elsewhere: --tokenizer"


def _rounded(tensors: dict[str, Tensor], small: frozenset[str]) -> str:
    """How far float16 takes weights from what they were."""
    if not small:
        return ""
    def change(tensor: Tensor) -> float:
        return float((tensor - tensor.half().float()).abs().max() / tensor.abs().max().clamp(min=1e-30))

    worst = max(change(tensors[name]) for name in small)
    return f"{len(small)} weights are stored as float16; the largest change is {worst:.1e} of the largest value of its tensor."
