"""The verb that trains: on this machine, on several processes of it, or as one process of a torchrun job."""

from __future__ import annotations

import json
import signal
from pathlib import Path


def train(
    recipe: str = "",
    /,
    *,
    out: Path,
    data: str = "",
    val: str = "",
    config: Path | None = None,
    tokenizer: str = "",
    seed: int | None = None,
    set: tuple[str, ...] = (),
) -> int:
    """Train a recipe in a run folder; run it again to resume.

    Args:
        recipe: Name of a recipe (`hwm recipes`); may be left out with --config.
        out: Run folder.
        data: Training data.
        val: Held-out data, for validation while training.
        config: A config.toml to start from instead of a recipe.
        tokenizer: The tokenizer that made the tokens, for pictures.
        seed: Seed of initialisation, data order and dropout.
        set: Changes, such as train.steps=500 model.width=256.
    """
    from hwm.config import RunConfig, from_toml, override
    from hwm.recipes import recipe as find_recipe

    if bool(recipe) == bool(config):
        raise ValueError("give either a recipe or --config FILE")
    chosen = from_toml(RunConfig, config) if config else find_recipe(recipe)
    changes = [f"data.train={json.dumps(data)}"] * bool(data) + [f"data.val={json.dumps(val)}"] * bool(val)
    changes += [f"tokenizer={json.dumps(tokenizer)}"] * bool(tokenizer) + [f"seed={seed}"] * (seed is not None)
    chosen = override(chosen, [*changes, *set])

    from hwm.runs import train as run

    result = run(chosen, out)
    if result.stopped:
        print(f"stopped at step {result.step}, saved; the same command goes on from there")
        return 128 + (result.signal or signal.SIGTERM)
    print(f"{out}: {result.step} steps")
    return 0
