"""The verb that trains: on this machine, on several processes of it, or as one process of a torchrun job."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwm.config import RunConfig


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
    nproc: int = 0,
    set: tuple[str, ...] = (),
) -> int:
    """Train a recipe in a run folder; run it again to resume, on as many processes as you like.

    Under torchrun (also through Slurm) the same command is one of its processes: docs/scaling.md.

    Args:
        recipe: Name of a recipe (`hwm recipes`); may be left out with --config.
        out: Run folder.
        data: Training data.
        val: Held-out data, for validation while training.
        config: A config.toml to start from instead of a recipe.
        tokenizer: The tokenizer that made the tokens, for pictures.
        seed: Seed of initialisation, data order and dropout.
        nproc: Processes on this machine, one a GPU; they share every step's clips.  0: one, in this process.
        set: Changes, such as train.steps=500 model.width=256 train.parallel=fsdp.
    """
    from hwm.config import RunConfig, from_toml, override
    from hwm.recipes import recipe as find_recipe

    if bool(recipe) == bool(config):
        raise ValueError("give either a recipe or --config FILE")
    chosen = from_toml(RunConfig, config) if config else find_recipe(recipe)
    changes = [f"data.train={json.dumps(data)}"] * bool(data) + [f"data.val={json.dumps(val)}"] * bool(val)
    changes += [f"tokenizer={json.dumps(tokenizer)}"] * bool(tokenizer) + [f"seed={seed}"] * (seed is not None)
    chosen = override(chosen, [*changes, *set])
    if nproc < 0:
        raise ValueError(f"--nproc must be 1 or more, got {nproc}")

    from hwm.training.processes import under_launcher

    if under_launcher():
        if nproc:
            raise ValueError("torchrun says how many processes there are; leave --nproc away")
        return _as_one_of_many(chosen, out)
    if nproc > 1:
        from hwm.launch import launch
        from hwm.runs import check

        # Checked here, where a mistake costs a second, and not in every process.
        result = check(chosen, out, world=nproc) or launch(chosen, out, nproc=nproc)
    else:
        from hwm.runs import train as run

        result = run(chosen, out)
    if result.stopped:
        print(f"stopped at step {result.step}, saved; the same command goes on from there")
        return 128 + (result.signal or signal.SIGTERM)
    print(f"{out}: {result.step} steps")
    return 0


def _as_one_of_many(config: RunConfig, out: Path) -> int:
    """One process of a launcher's.  Ends the interpreter itself: threads that still talk may abort its orderly end."""
    import dataclasses

    from hwm.launch import tell_outcome
    from hwm.runs import train as run
    from hwm.signals import stop_with_parent
    from hwm.training.processes import STALE_STORE, joined

    stop_with_parent()
    code, rank = 1, int(os.environ["RANK"])
    try:
        if rank == 0 and os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get(STALE_STORE) != "1":
            print(f"WARNING: start torchrun with {STALE_STORE}=1, or its restarts may hang", file=sys.stderr)
        with joined(device=config.train.device, timeout=config.train.timeout) as processes:
            result = run(config, out, processes=processes)
        if rank == 0 and not tell_outcome(dataclasses.asdict(result)):
            print(f"{out}: {'stopped at step ' if result.stopped else ''}{result.step}{'' if result.stopped else ' steps'}")
        code = 128 + (result.signal or signal.SIGTERM) if result.stopped else 0
    except (ValueError, OSError) as error:
        code = 2
        message = " ".join(str(error).split())
        print(f"hwm train: error in process {rank}: {message}", file=sys.stderr)
        tell_outcome({"error": message})
    except Exception:
        import traceback

        # The rule when another process died: the peers' connections break.  The launcher then starts all again.
        print(f"hwm train: process {rank} stops: {traceback.format_exc(limit=-2)}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
