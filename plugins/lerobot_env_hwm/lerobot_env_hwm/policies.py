"""Environments of hwm as policies of LeRobot meet them: its names for what is seen, a command a step, whether it succeeded."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space


class ForPolicies(VectorWrapper):
    """A vector environment that takes one row of commands (lanes, A) in the robot's own units, held for the frames of a step.

    env: of `hwm.make_env` with control="commands".  camera: of the picture, "" for the only one.  steps: of an episode.
    task, instruction: what each lane says when it is asked for its task and for that in words.
    Observed are pixels, uint8 (lanes, H, W, 3), under the camera's name where it has one, and agent_pos, float32 (lanes, A).
    info: is_success, of each lane whether it reached its end, also in final_info.
    """

    env: SyncVectorEnv

    def __init__(self, env: SyncVectorEnv, *, camera: str, steps: int, task: str, instruction: str) -> None:
        super().__init__(env)
        self.camera = camera
        self.told = {"_max_episode_steps": steps, "task": task, "task_description": instruction or task}
        single: Any = env.single_action_space
        self.frames = single.shape[0]
        self.single_action_space = spaces.Box(single.low[0], single.high[0], dtype=np.float32)
        seen: Any = env.single_observation_space
        self.single_observation_space = spaces.Dict(self._named(seen["frame"], seen["states"], spaces.Dict))
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode in every lane."""
        seen, info = self.env.reset(seed=seed, options=options)
        return self._named(seen["frame"], seen["states"]), info

    def step(self, actions: np.ndarray) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        """Hold these commands for one step of the world.  Raises ValueError for another number of them."""
        if np.shape(actions) != self.action_space.shape:
            raise ValueError(f"a step takes commands of shape {self.action_space.shape}, got {np.shape(actions)}")
        held = np.repeat(np.asarray(actions, np.float32)[:, None], self.frames, 1)
        seen, rewards, ended, cut, info = self.env.step(held)
        succeeded = np.array(ended)
        info["is_success"] = succeeded
        if "final_info" in info:
            info["final_info"]["is_success"] = succeeded
        return self._named(seen["frame"], seen["states"]), rewards, ended, cut, info

    def call(self, name: str, *args: Any, **options: Any) -> tuple[Any, ...]:
        """What every lane says or does under that name."""
        if name in self.told:
            return (self.told[name],) * self.num_envs
        found: tuple[Any, ...] = self.env.call(name, *args, **options)
        return found

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The same of what is no function."""
        return self.call(name)

    def _named(self, frame: Any, states: Any, pack: Any = dict) -> dict[str, Any]:
        return {"pixels": pack({self.camera: frame}) if self.camera else frame, "agent_pos": states}
