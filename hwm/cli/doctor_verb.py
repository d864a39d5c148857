"""The verb that checks a machine, a dataset and a recipe together before hours are spent."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def doctor(
    recipe: str = "",
    /,
    *,
    data: str = "",
    val: str = "",
    config: Path | None = None,
    set: tuple[str, ...] = (),
    out: Path = Path(),
    nproc: int = 1,
    json_output: bool = False,
    quick: bool = False,
) -> int:
    """Check a machine, a dataset and a recipe together, before a training spends hours on them.

    One line a check, from cheap to dear: ok, warn or FAIL, what was found, and what to do about it.  Ends with one
    sentence; the exit code is 0 when ready, with or without warnings, and 1 when not.  Nothing is left behind.

    Args:
        recipe: Name of a recipe (`hwm recipes`); without one and without --config only the machine is checked.
        data: Training data; without it the recipe runs on random clips.
        val: Held-out data.
        config: A config.toml instead of a recipe.
        set: Changes, as for `hwm train`.
        out: Folder of the run to be; a temporary folder beside or in it holds what the checks write.
        nproc: Processes that will train together on this machine.
        json_output: Print one JSON object at the end; the lines go to standard error.
        quick: Leave out the check of every byte of the data and take fewer steps.
    """
    from hwm.config import RunConfig, from_toml, override
    from hwm.recipes import recipe as find_recipe

    if recipe and config:
        raise ValueError("give either a recipe or --config FILE, not both")
    if nproc < 1:
        raise ValueError(f"--nproc must be at least 1, got {nproc}")
    chosen = None
    if recipe or config:
        chosen = from_toml(RunConfig, config) if config else find_recipe(recipe)
        changes = [f"data.train={json.dumps(data)}"] * bool(data) + [f"data.val={json.dumps(val)}"] * bool(val)
        chosen = override(chosen, [*changes, *set])
    elif data or val or set:
        raise ValueError("--data, --val and --set need a recipe; `hwm data check FOLDER` checks data alone")

    from hwm.doctor import examine

    stream = sys.stderr if json_output else sys.stdout
    found = examine(chosen, out=out, nproc=nproc, quick=quick, say=lambda line: print(line, file=stream, flush=True))
    if json_output:
        print(json.dumps(found.as_dict(), indent=1))
    return 1 if found.failed else 0
