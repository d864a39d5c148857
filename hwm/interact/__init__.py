"""A trained world model to use: from arrays (`world`), and to act in as a Gymnasium environment (`env`).

Importing this room makes hwm/Dream-v0 and hwm/Sim-v0 known to Gymnasium, where that is installed.
"""

from importlib.util import find_spec

if find_spec("gymnasium"):
    from gymnasium.envs.registration import register

    _VECTOR = "hwm.interact.env:DreamVectorEnv"
    register(id="hwm/Dream-v0", entry_point="hwm.interact.env:DreamEnv", vector_entry_point=_VECTOR)
    register(id="hwm/Sim-v0", entry_point="hwm.interact.simulated:SimEnv")
