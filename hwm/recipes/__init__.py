"""Named runs.  Each comes from a function that returns a RunConfig; its docstring says what it is, needs and gives.

`hwm recipes` lists them, `hwm train NAME` runs one, `--set section.key=value` changes a value.  One module a system.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from hwm.config import RunConfig, nearest


@dataclass(frozen=True)
class Recipe:
    """A named run: `build` makes its config, `summary` is one line for the list."""

    name: str
    build: Callable[[], RunConfig]
    summary: str

    @property
    def place(self) -> str:
        """What it is trained on, or that it is no world model: a heading of the list."""
        if (role := self.build().model.role) != "world model":
            return f"{role}s"
        known = {"CPU": "two CPU cores", "one GPU": "one GPU"}
        return next((place for word, place in known.items() if word in self.summary), "several GPUs, as published")


def _of(function: Callable[[], RunConfig]) -> Recipe:
    return Recipe(function().recipe, function, (function.__doc__ or "").strip().splitlines()[0])


# A module says in RECIPES what it offers, so that a new one is one file.
_MODULES = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]  # noqa: TID251, our own
RECIPES: tuple[Recipe, ...] = tuple(_of(function) for module in _MODULES for function in getattr(module, "RECIPES", ()))


def names() -> list[str]:
    """Names of all recipes."""
    return [entry.name for entry in RECIPES]


def recipe(name: str) -> RunConfig:
    """The configuration called `name`.  Raises ValueError naming the nearest one."""
    for entry in RECIPES:
        if entry.name == name:
            return entry.build()
    raise ValueError(f"no recipe {name!r}; {nearest(name, names()) or 'known: ' + ', '.join(names())}")
