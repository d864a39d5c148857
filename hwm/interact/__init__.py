"""A trained world model to use: from arrays (`world`), and to act in as a Gymnasium environment (`env`).

Importing this room makes hwm/Dream-v0 and hwm/Sim-v0 known to Gymnasium, where that is installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

if find_spec("gymnasium"):
    from gymnasium.envs.registration import register

    _DREAM, _SIM = "hwm.interact.env:Dream", "hwm.interact.simulated:Sim"
    register(id="hwm/Dream-v0", entry_point=f"{_DREAM}Env", vector_entry_point=f"{_DREAM}VectorEnv")
    register(id="hwm/Sim-v0", entry_point=f"{_SIM}Env", vector_entry_point=f"{_SIM}VectorEnv")

if TYPE_CHECKING:
    import gymnasium
    import numpy as np
    from gymnasium.vector import VectorEnv

    from hwm.interact.control import MakeOptions
    from hwm.interact.world import World

    Seen = dict[str, np.ndarray]

WORLDS = {"dream": "hwm/Dream-v0", "simulator": "hwm/Sim-v0"}


@overload
def make_env(  # type: ignore[overload-overlap]
    run: str | Path | World, *, data: str | Path, world: Literal["dream", "simulator"] = "dream", num_envs: Literal[0] = 0,
    **options: Unpack[MakeOptions],
) -> gymnasium.Env[Seen, np.ndarray]: ...  # fmt: skip


@overload
def make_env(
    run: str | Path | World, *, data: str | Path, world: Literal["dream", "simulator"] = "dream", num_envs: int,
    **options: Unpack[MakeOptions],
) -> VectorEnv[Seen, np.ndarray, np.ndarray]: ...  # fmt: skip


def make_env(
    run: str | Path | World, *, data: str | Path, world: Literal["dream", "simulator"] = "dream", num_envs: int = 0,
    **options: Unpack[MakeOptions],
) -> Any:  # fmt: skip
    """A Gymnasium environment that acts in a world model, or with the same spaces in the built-in simulator.

    run: as `hwm.load`, or what it gave.  data: recorded video, in whose clips episodes begin.  num_envs: above 0 a vector
    environment of so many.  options: as `hwm.interact.env.DreamEnv` and, of a vector environment, `DreamVectorEnv`.
    Raises ValueError as they do, and where Gymnasium is not installed.
    """
    if not find_spec("gymnasium"):
        raise ValueError("an environment needs gymnasium, not installed here: pip install 'humanoid-world-models[env]'")
    import gymnasium

    if world not in WORLDS:
        raise ValueError(f"world must be {' or '.join(WORLDS)}, got {world!r}")
    given: dict[str, Any] = {"run": run, "data": data, **options}
    name = WORLDS[world]
    return gymnasium.make_vec(name, num_envs=num_envs, **given) if num_envs else gymnasium.make(name, **given)
