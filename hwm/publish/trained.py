"""What was trained, by whatever name: a run folder, a folder that was published, a name of the package or of the hub.

Its weights are found and checked here, and read when somebody asks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwm.config import RunConfig, from_toml
from hwm.publish.folder import WEIGHTS, is_published, read_published, stored_weights
from hwm.publish.hub import fetch, is_hub_name, pinned
from hwm.safe_load.paths import is_dir, is_file, shown
from hwm.tokenizers import open as tokenizers
from hwm.training import checkpoint
from hwm.training.identity import Identity, expect_config
from hwm.training.start import STATES, start_from
from hwm.training.stored import Stored


@dataclass(frozen=True)
class Trained:
    """Trained weights and what is known of them.

    config: the run's; of a published tokenizer all but the model is as usual.  where: the weight file, for messages.
    step: updates behind them, 0 where nobody kept it.  identity: what they learned from, empty where nobody kept it.
    stored: the weights, in the groups "model" and, of a run that averages, "ema".
    """

    folder: Path
    config: RunConfig
    step: int
    identity: Identity
    stored: Stored
    where: Path

    def sizes(self) -> dict[str, Tensor]:
        """Every weight without its values, on the meta device."""
        return self.stored.sizes("model") | self.stored.sizes("ema")

    def tensors(self) -> dict[str, Tensor]:
        """Every weight by its name in the model, averaged where the run averages, in the stored types."""
        return self.stored.read("model") | self.stored.read("ema")

    @property
    def averaged(self) -> bool:
        """Whether the weights are averages over the updates."""
        return bool(self.stored.sizes("ema"))


SHIPPED = Path(__file__).parent / "weights"
"""Its folders are the published world models and readers that come with the package."""


def shipped() -> list[str]:
    """Names of everything trained that comes with the package."""
    places = sorted(p.name for p in SHIPPED.iterdir() if is_published(p)) if SHIPPED.is_dir() else []
    return [*tokenizers.shipped(), *places]


def located(name: str | Path) -> Path:
    """The folder of what was trained, by its path, the name under which it is shipped, or "user/name@revision" of the hub.

    Only the last reaches the network, and only where no such path is here.  Raises ValueError as `hub.fetch`.
    """
    for place in (tokenizers.WEIGHTS, SHIPPED):
        if str(name) and len(Path(name).parts) == 1 and is_dir(place / str(name)):
            return place / str(name)
    if is_hub_name(str(name)) and not Path(name).exists():
        return fetch(str(name))
    return Path(name)


def kept_in(name: str | Path) -> Path:
    """The folder in which nothing else is written: the checkpoints of a run, the whole of what was published."""
    folder = located(name)
    return folder if is_file(folder / WEIGHTS) else folder / "checkpoints"


def open_trained(name: str | Path, *, which: str = "best") -> Trained:
    """The trained weights of a run folder, of a folder of `hwm export`, of a name that is shipped or of the hub.

    which: the checkpoint of a run, as `checkpoint.find`.
    Raises ValueError, naming the file, where there are none, a checksum differs, or configuration and weights are no pair.
    """
    folder = located(name)
    if is_published(folder):
        published = read_published(folder)
        return Trained(folder, published.config, published.step, published.identity, stored_weights(folder), folder / WEIGHTS)
    if not is_file(folder / "config.toml"):
        fault = f"{shown(name)}: no run folder (no config.toml in it), no folder of `hwm export`"
        fault += f" and no name that is shipped ({', '.join(shipped())})"
        raise ValueError(f"{fault}; train with `hwm train RECIPE --out {shown(name)}`")
    config = from_toml(RunConfig, folder / "config.toml")
    place = checkpoint.find(folder, which=which)
    state = checkpoint.load_state(place)
    expect_config(state, config, run=folder)
    return Trained(folder, config, state["step"], state["identity"], checkpoint.stored(place), place / "model.safetensors")


def start_of(name: str) -> dict[str, Any]:
    """What an identity keeps of the weights that a run starts from: by which name they were given, and their fingerprint."""
    trained = open_trained(name)
    about = {"recipe": trained.config.recipe, "step": trained.step}
    return {"name": pinned(trained.folder, name), "weights": fingerprint(trained.tensors()), **about}


def begin(model: Any, config: RunConfig, identity: Identity, *, say: Callable[[str], None]) -> None:
    """Load into a fresh model the weights that its run starts from (`config.init`), and say what became of every one.

    identity: of what the run learns from.
    Raises ValueError as `start_from`, and for weights of another family or, unless states start anew, of another robot.
    """
    trained = open_trained(config.init)
    own, there = config.model, trained.config.model
    if own.family != there.family:
        kind = f"{there.family!r} ({trained.config.recipe}), the run trains {own.family!r} ({config.recipe})"
        raise ValueError(f"{config.init}: holds a model of the family {kind}; start from one of its own family")
    robots = [(about.get("robot") or {}).get("states") for about in (trained.identity, identity)]
    if own.reads_states and None not in robots and robots[0] != robots[1] and STATES not in config.anew:
        counts = " and ".join(str(len(states)) for states in robots if states)
        fault = f"learned the states of another robot than the data's ({counts} states)"
        raise ValueError(f"{config.init}: {fault}; what reads them starts anew with --anew {STATES}")
    start = start_from(model, trained.tensors(), where=trained.where, anew=config.anew)
    of = f"step {trained.step} of {trained.config.recipe}" if trained.step else trained.config.recipe
    say(f"starting from {pinned(trained.folder, config.init)} ({of}{', averaged weights' if trained.averaged else ''}):")
    for line in start.lines():
        say(line)
    differ = [field.name for field in fields(there) if getattr(there, field.name) != getattr(own, field.name, None)]
    for name in differ if type(there) is type(own) else []:
        say(f"  note: model.{name} was {getattr(there, name)!r}, is {getattr(own, name)!r} now")
    coders = [about.get("tokenizer") for about in (trained.identity, identity)]
    if own.role == "world model" and None not in coders and coders[0] != coders[1]:
        say(f"  note: they learned what another tokenizer encoded; what the {own.kind} mean is learned again")


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values: the same for the same weights, whichever file or type of float holds them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain: Any = tensor.detach().cpu().contiguous()
        plain = plain.float() if plain.is_floating_point() else plain
        digest.update(repr((name, tuple(plain.shape))).encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
