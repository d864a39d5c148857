"""What a type checker sees of the public names, as in a user's file: mypy reads this page, and nothing runs it."""

from typing import Any, assert_type

import gymnasium
import numpy as np
import torch

import hwm
from hwm.evaluate.scores import Scores
from hwm.interact.world import Dreaming, Predicted, World
from hwm.sim.simulate import SimulationSummary

world = hwm.load("runs/first", device="cpu")
assert_type(world, World)
future = world.predict(np.zeros((9, 64, 64, 3), np.uint8), torch.zeros(40, 25), num_frames=17, samples=4)
assert_type(future, Predicted)
assert_type(future.mean.shape, tuple[Any, ...])
assert_type(world.dream([[[[0, 0, 0]]]], [[0.0]]), Dreaming)
assert_type(hwm.evaluate(world.run.folder, data="data/held_out", out="scores", clips=8), Scores)
assert_type(hwm.simulate("data/sim", minutes=4, size=64), SimulationSummary)
assert_type(hwm.make_env(world, data="data/raw"), gymnasium.Env[dict[str, np.ndarray], np.ndarray])
assert_type(
    hwm.make_env(world, data="data/raw", world="simulator", num_envs=8, horizon=5),
    gymnasium.vector.VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray],
)
hwm.load(3)  # type: ignore[arg-type]
hwm.simulate("data/sim")  # type: ignore[call-arg]
hwm.make_env(world, data="data/raw", world="moon")  # type: ignore[call-overload]
