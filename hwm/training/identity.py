"""What makes a run the same run: the settings and the data that it learns from, kept in every checkpoint.

Whoever goes on with a run, scores it or predicts with it compares them.  Data are known by their content; the paths in
config.toml only say where they lay.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hwm
from hwm.config import RunConfig, to_dict

FREE = {f"train.{k}" for k in ("log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "tensorboard")} | {
    f"train.{k}" for k in ("threads", "device", "parallel", "recompute", "compile", "timeout")
}
"""Settings that may change when a run is continued: they do not say what is learned."""
PLACES = ("data.train", "data.val", "tokenizer", "model.base", "init")
"""Settings that say where something lies, which is known by its content."""
WHAT = {"train": "training data", "val": "held-out data"}

Identity = Mapping[str, Any]
"""train, val: fingerprints of the data; robot: as `robot_of`; tokenizer: fingerprint of the data's; hwm: version; init: of a
run that started from trained weights, what they were (`hwm.publish.trained.start_of`).

What is not known is None or absent, as in runs of versions that kept none, and is not compared.
"""


def identity_of(train: Any, val: Any = None) -> dict[str, Any]:
    """The identity of a run that learns from the dataset `train` and is validated on `val`."""
    prints = {"train": train.fingerprint, "val": None if val is None else val.fingerprint}
    return prints | meaning_of(train) | {"hwm": hwm.__version__}


def meaning_of(dataset: Any) -> dict[str, Any]:
    """The part of an identity that all data must have that a run is given: robot and tokenizer."""
    return {"robot": robot_of(dataset), "tokenizer": (dataset.tokenizer or {}).get("fingerprint")}


def robot_of(dataset: Any) -> dict[str, Any]:
    """What the states of a dataset mean: names and units in order."""
    robot = dataset.robot
    return {"name": robot.name, "states": [list(pair) for pair in zip(robot.names, robot.units)]}


def expect_data(dataset: Any, identity: Identity) -> None:
    """Raise ValueError for data of another robot or tokenizer than a run's, naming the first state that differs."""
    if there := identity.get("robot"):
        here, fault = robot_of(dataset), ""
        counts, pairs = (len(here["states"]), len(there["states"])), zip(here["states"], there["states"])
        other = next(((i, h, t) for i, (h, t) in enumerate(pairs) if list(h) != list(t)), None)
        if counts[0] != counts[1]:
            fault = f"has {counts[0]} states, not {counts[1]}"
        elif other is not None:
            fault = f"has as state {other[0]} {' in '.join(other[1])}, not {' in '.join(other[2])}"
        if fault:
            whose = f"its robot {here['name']} {fault} as {there['name']}, whose data the run learns from"
            raise ValueError(f"{dataset.root}: {whose}; give data of that robot (names and units: robot.toml)")
    mine, theirs = (getattr(dataset, "tokenizer", None) or {}).get("fingerprint"), identity.get("tokenizer")
    if mine and theirs and mine != theirs:
        fault = f"was encoded by another tokenizer ({dataset.tokenizer.get('name')}) than the data that the run learns from"
        raise ValueError(f"{dataset.root}: {fault}; tokenize it with that one")


def decisive(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what is learned, under dotted keys."""
    flat = _dotted(to_dict(config))
    # Only their product decides: how many clips a step learns from.  How they are dealt out depends on the machine.
    flat["train.batch_size x train.accumulate"] = flat.pop("train.batch_size") * flat.pop("train.accumulate")
    free = FREE | {*PLACES} | ({"train.steps"} if config.train.schedule == "constant" else set())
    return {key: value for key, value in flat.items() if key not in free}


def _dotted(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def record(config: RunConfig, identity: Identity) -> dict[str, Any]:
    """What a checkpoint says of its run."""
    return {"settings": decisive(config), "identity": dict(identity)}


def expect_same(state: Mapping[str, Any], config: RunConfig, identity: Identity, *, run: Path) -> None:
    """Raise ValueError, naming what differs, unless a run of this configuration and data may go on from a checkpoint.

    state: the checkpoint's plain values.  `train.steps` may grow where the schedule does not depend on it (constant).
    """
    if (difference := _difference(state["settings"], config)) is not None:
        key, there, here = difference
        why = "only a complete run, or one of train.schedule = 'constant', can be prolonged"
        why = why if key == "train.steps" else "continue it as it is"
        raise ValueError(f"{run / 'config.toml'}: this run has {key} = {there!r}, not {here!r}: {why}, or choose another folder")
    known = state["identity"]
    for name, what in WHAT.items():
        if None not in (known.get(name), identity.get(name)) and known[name] != identity[name]:
            where = " and ".join(config.data.train) if name == "train" else config.data.val
            raise ValueError(f"{run}: this run learned with other {what} than lie in {where} now: give those with --"
                             f"{'data' if name == 'train' else name}, wherever they lie, or choose another folder")  # fmt: skip
    began, begins = ((about.get("init") or {}).get("weights") for about in (known, identity))
    if identity and began != begins:
        how = "from other weights than lie there now" if began else "from random weights"
        raise ValueError(f"{run}: this run started {how}, not from {config.init}; leave --init away to go on with it, or choose "
                         "another folder")  # fmt: skip


def expect_config(state: Mapping[str, Any], config: RunConfig, *, run: Path) -> None:
    """Raise ValueError unless a run's config.toml is what its checkpoint was trained with."""
    if (difference := _difference(state["settings"], config)) is not None:
        key, there, here = difference
        fault = f"says {key} = {here!r}, its checkpoint was trained with {there!r}"
        raise ValueError(f"{run / 'config.toml'}: {fault}; put the file back as it was")


def _difference(there: dict[str, Any], config: RunConfig) -> tuple[str, Any, Any] | None:
    """The first setting that differs and both its values; what an older version did not have yet, or had in vain, is as usual."""
    gone = {f"model.{name}": nothing for name, nothing in type(config.model).gone.items()}
    there = {key: value for key, value in there.items() if key not in gone or value != gone[key]}
    here, usual = decisive(config), decisive(RunConfig(model=type(config.model)()))
    # Of a checkpoint from before the run was prolonged, the length is another one.
    earlier = config.train.since and there.get("train.steps", config.train.steps) <= config.train.since
    passed = ("train.steps", "train.since") if earlier else ()
    for key in [key for key in [*here, *(k for k in there if k not in here)] if key not in passed]:
        before = there.get(key, usual.get(key))
        if before != here.get(key):
            return key, before, here.get(key)
    return None
