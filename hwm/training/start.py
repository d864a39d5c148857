"""Where a training starts: from weights that were trained before, named one to one, with a report of what became of each.

No weight is passed over in silence: what one side has and the other has not, or has in another shape, is an error until it is
named as what is to start anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hwm.safe_load.weights import EXACT

STATES = "states"
"""As a word of what starts anew: all that reads the robot's states, by the model's own account."""


@dataclass(frozen=True)
class Start:
    """What became of the weights of a start, by name.

    loaded: taken over.  anew: of the model, as it was initialised.  left: of the source, not taken.
    """

    loaded: list[str]
    anew: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report."""
        rows = {"loaded": _by_module(self.loaded), "anew": ", ".join(self.anew), "left there": ", ".join(self.left)}
        counts = (len(self.loaded), len(self.anew), len(self.left))
        return [f"  {name:<10} {count:>5}  {names}".rstrip() for (name, names), count in zip(rows.items(), counts)]


@torch.no_grad()
def start_from(model: Any, tensors: Mapping[str, Tensor], *, where: object, anew: Sequence[str] = ()) -> Start:
    """Load trained weights into a freshly initialised model, and say what became of every one.

    tensors: by their names in the model; float16 and bfloat16 are widened, which is exact, no other type is changed.
    where: their file, for messages.  anew: "states", or names or modules of the model or of `tensors`, which may differ; all
    of them stay as they were initialised.
    Raises ValueError, the model unchanged, naming all that is missing, unexpected or of another shape or type and not `anew`,
    what is not finite, a word of `anew` that names nothing, and where nothing would be loaded.
    """
    here = model.state_dict()
    fresh: set[str] = set()
    for word in anew:
        named = _named(word, model, here, tensors)
        if not named:
            known = ", ".join([STATES, *dict.fromkeys(name.partition(".")[0] for name in here)])
            raise ValueError(f"anew: {word!r} is no module and no weight of the model or of {where}; there are {known}")
        fresh |= named
    taken = sorted((here.keys() & tensors.keys()) - fresh)
    faults = {
        "missing": [name for name in here if name not in tensors and name not in fresh],
        "unexpected": [name for name in tensors if name not in here and name not in fresh],
        "of another shape": [name for name in taken if tensors[name].shape != here[name].shape],
        "of another type": [name for name in taken if not _fits(tensors[name], here[name])],
        "not finite": [name for name in taken if tensors[name].is_floating_point() and not tensors[name].isfinite().all()],
    }
    if told := [f"{len(names)} {fault}: {_listed(names, tensors, here)}" for fault, names in faults.items() if names]:
        words = " ".join(_words([name for names in faults.values() for name in names], model, here))
        remedy = f"choose a recipe of that shape, or let what differs start anew with --anew {words}"
        raise ValueError(f"{where}: does not fit the model; {'; '.join(told)}; {remedy}")
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not learned & set(taken):
        raise ValueError(f"{where}: nothing of it would be loaded; name less with --anew, or leave --init away")
    model.load_state_dict({name: tensors[name].to(here[name].dtype) if name in taken else here[name] for name in here})
    rest = [sorted(name for name in side if name not in taken) for side in (here, tensors)]
    return Start(taken, *rest)


def _named(word: str, model: Any, here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> set[str]:
    """The names on both sides that a word of `anew` means."""
    names = [*here, *there]
    if word != STATES:
        return {name for name in names if name == word or name.startswith(f"{word}.")}
    own = {name for name, _ in model.state_parameters()}
    own |= {name for name in here if name.rpartition(".")[2] == "shift_scale"} if own else set()
    modules = tuple(f"{name.rpartition('.')[0]}." for name in own if "." in name)
    return {name for name in names if name in own or (name not in here and name.startswith(modules))}


def _fits(tensor: Tensor, target: Tensor) -> bool:
    return tensor.dtype == target.dtype or (target.dtype == torch.float32 and tensor.dtype in EXACT)


def _listed(names: list[str], tensors: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> str:
    def sized(name: str) -> str:
        if name in tensors and name in here and tensors[name].shape != here[name].shape:
            return f"{name} {tuple(tensors[name].shape)}, the model has {tuple(here[name].shape)}"
        return name

    return ", ".join(sized(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _words(names: list[str], model: Any, here: Mapping[str, Tensor]) -> list[str]:
    """Few words for `anew` that mean all of these names."""
    states = _named(STATES, model, here, dict.fromkeys(names, torch.empty(0)))
    of_states = [STATES] if any(name in states for name in names) else []
    return [*of_states, *dict.fromkeys(name.rpartition(".")[0] or name for name in names if name not in states)]


def _by_module(names: Iterable[str]) -> str:
    counted = Counter(name.partition(".")[0] for name in names)
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in counted.items())
