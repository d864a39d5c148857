"""Named runs.  Each comes from a function that returns a RunConfig; its docstring says what it is, needs and gives.

`hwm recipes` lists them, `hwm train NAME` runs one, `--set section.key=value` changes a value.  One module a system.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from hwm.config import RunConfig
from hwm.recipes.direct import direct_medium, direct_tiny
from hwm.recipes.humanoid import SIZES, VARIANTS, flow_hwm, masked_hwm
from hwm.recipes.st import st_demo, st_revontuli, st_tiny
from hwm.recipes.tokenizers import continuous_4x8x8, continuous_8x8x8, fsq_8x8x8, fsq_tiny
from hwm.recipes.wan import wan_one_gpu, wan_revontuli, wan_tiny

__all__ = ["RECIPES", "SIZES", "VARIANTS", "Recipe", "names", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """A named run: `build` makes its config, `summary` is one line for the list."""

    name: str
    build: Callable[[], RunConfig]
    summary: str


def _of(function: Callable[[], RunConfig]) -> Recipe:
    return Recipe(function().recipe, function, (function.__doc__ or "").strip().splitlines()[0])


def _family(function: Callable[[str, str], RunConfig]) -> Iterator[Recipe]:
    first = (function.__doc__ or "").strip().splitlines()[0].split(":")[0]
    twin = {"": "", "tiny": ", twin for two CPU cores", "medium": ", twin for one GPU"}
    for size in SIZES:
        for variant in VARIANTS:
            build = partial(function, variant, size)
            yield Recipe(build().recipe, build, f"{first}, {_ABOUT[variant]}{twin[size]}.")


_ABOUT = {
    "base": "weights per stream",
    "modality": "weights per modality after the first blocks",
    "full": "one set of weights after the first blocks",
    "split": "split attention",
}

RECIPES: tuple[Recipe, ...] = (
    *map(_of, (st_revontuli, st_tiny, st_demo)),
    *_family(masked_hwm),
    *_family(flow_hwm),
    *map(_of, (wan_revontuli, wan_one_gpu, wan_tiny)),
    *map(_of, (direct_tiny, direct_medium)),
    *map(_of, (fsq_8x8x8, continuous_8x8x8, continuous_4x8x8, fsq_tiny)),
)


def names() -> list[str]:
    """Names of all recipes."""
    return [entry.name for entry in RECIPES]


def recipe(name: str) -> RunConfig:
    """The configuration called `name`.  Raises ValueError naming the nearest one."""
    for entry in RECIPES:
        if entry.name == name:
            return entry.build()
    near = difflib.get_close_matches(name, names(), 1)
    raise ValueError(f"no recipe {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names())}"))
