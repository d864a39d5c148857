"""A model from the configuration of a run, whichever family it is of, and what that family brings along."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hwm.config import RunConfig
from hwm.safe_load.sizes import on_paper
from hwm.safe_load.weights import expect_same
from hwm.work.allowance import free_memory

COPIES = 4
"""Of what is trained: weights, gradients and AdamW's two moments."""


def named(place: str) -> Any:
    """What a configuration names as "module:name"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)  # noqa: TID251, named by a class of this package


def build_model(
    config: RunConfig, *, stored: Mapping[str, Tensor] | None = None, where: object = "model", trained_in: float = 0
) -> Any:
    """A freshly initialised model of the configured family (an nn.Module); the same for the same seed.

    It is reckoned on paper first.  stored: the tensors that will fill it, by name, values or sizes alone; where: their file.
    trained_in: bytes of the memory in which it is to be trained, where that is asked.
    Raises ValueError where the extra that the family needs is not installed, where the sizes are not those of `stored`,
    and where the model, or what training keeps of it, is larger than the memory that is free.
    """
    family = config.model
    try:
        for needed in (*family.needs, family.module.partition(":")[0]):
            importlib.import_module(needed)  # noqa: TID251, named by a class of this package
    except ImportError as error:
        if not family.needs:
            raise
        needs, label = " and ".join(family.needs), type(family).__name__.removesuffix("Config")
        extra = f"pip install 'humanoid-world-models[{family.family}]'"
        raise ValueError(f"a {label} model needs {needs} ({error}): {extra}") from None
    made = named(family.module)

    def make() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return made(family, name=config.recipe) if family.role == "tokenizer" else made(family)

    if torch.get_default_device().type == "meta":
        return on_paper(make, where=where)
    free = free_memory()
    paper = on_paper(make, where=where, nbytes=free)
    if stored is not None:
        expect_same(stored, paper.state_dict(), where=str(where))
    needed = sum(p.nbytes * (COPIES if p.requires_grad else 1) for p in paper.parameters())
    if trained_in and needed > trained_in:
        sizes = f"training keeps {needed / 1e9:.3g} GB of weights, gradients and moments, {trained_in / 1e9:.3g} GB are free"
        raise ValueError(f"{where}: {sizes}; lower model.width or model.num_layers, or choose a smaller recipe (`hwm recipes`)")
    return make()
