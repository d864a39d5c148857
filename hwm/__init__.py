"""Learned simulators of a humanoid robot's camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from hwm.interact.world import World
    from hwm.sim.simulate import SimulationSummary

__version__ = "0.1.0"
__all__ = ["__version__", "load", "make_env", "simulate"]
# What is heavy, torch first of all, is loaded when it is needed.


def load(run: str | Path, *, which: str = "best", device: str = "auto", tokenizer: str = "") -> World:
    """A trained world model, to use from arrays: `hwm.load("runs/first").predict(frames, states, num_frames=34).mean`.

    run: a run folder, a folder of `hwm export`, a name that is shipped, or user/name@revision of the hub.
    which: "best" or "last" checkpoint.  device: auto (the first GPU where there is one), cpu, cuda or another.
    tokenizer: where the run's own lies elsewhere.  Raises ValueError, naming what is missing, for what is no such run.
    """
    from hwm.interact.world import World

    return World(run, which=which, device=device, tokenizer=tokenizer)


def simulate(out: str | Path, *, minutes: float, **settings: Any) -> SimulationSummary:
    """Write data of the built-in robot at work, as `hwm simulate` does; settings as `hwm.sim.simulate.simulate`."""
    from pathlib import Path

    from hwm.sim.simulate import simulate

    return simulate(Path(out), minutes=minutes, **settings)


def make_env(
    run: str | Path | World, *, data: str | Path, world: Literal["dream", "simulator"] = "dream", num_envs: int = 0,
    **options: Any,
) -> Any:
    """A Gymnasium environment that acts in a world model, or with the same spaces in the built-in simulator.

    run: as `load`, or what it gave.  data: recorded video, in whose clips episodes begin.  num_envs: above 0 a vector
    environment of so many.  options: as `hwm.interact.env.WorldEnv`.
    """
    import gymnasium

    import hwm.interact  # noqa: F401 - which registers them

    name, given = {"dream": "hwm/Dream-v0", "simulator": "hwm/Sim-v0"}.get(world, ""), {"run": run, "data": data, **options}
    if not name:
        raise ValueError(f"world must be dream or simulator, got {world!r}")
    return gymnasium.make_vec(name, num_envs=num_envs, **given) if num_envs else gymnasium.make(name, **given)
