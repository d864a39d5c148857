"""A model from the configuration of a run, whichever family it is of, and what that family brings along."""

import importlib
from typing import Any

import torch

from hwm.config import RunConfig


def named(place: str) -> Any:
    """What a configuration names as "module:name"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)  # noqa: TID251, named by a class of this package


def build_model(config: RunConfig) -> Any:
    """A freshly initialised model of the configured family (an nn.Module); the same for the same seed.

    Raises ValueError where the extra that the family needs is not installed.
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
    make = named(family.module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return make(family, name=config.recipe) if family.role == "tokenizer" else make(family)
