"""World models of hwm for `lerobot-eval --env.type=hwm`: the settings, registered as LeRobot imports the package.

Written for LeRobot 0.6, whose `EnvConfig` an environment's settings are made from.
"""

from dataclasses import dataclass
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_IMAGES, OBS_STATE

import hwm
from lerobot_env_hwm.policies import ForPolicies

_load = lru_cache(maxsize=1)(hwm.load)


@EnvConfig.register_subclass("hwm")
@dataclass
class HwmEnv(EnvConfig):
    """A policy acts in a world model; what it commands, row by row in the robot's own units, is held for a step of the model.

    task: dream, or simulator for the built-in robot in data of `hwm simulate`.
    run, data, twin, groups, frames, doubt, most_doubt, samples: as of `hwm.make_env`; device: as of `hwm.load`.
    episode_length: steps of an episode.  camera: the policy's name for the picture, as "head" of observation.images.head; "":
    observation.image.  instruction: what policies of language are told.
    reward, success: functions of a `hwm.interact.control.Moment`, as module:function; success ends an episode.  Without them the
    reward is 0 and no episode succeeds.
    """

    task: str | None = "dream"
    run: str = ""
    data: str = ""
    twin: str = ""
    groups: tuple[str, ...] = ()
    frames: int = 0
    doubt: str = ""
    most_doubt: float | None = None
    samples: int = 1
    device: str = "auto"
    episode_length: int = 100
    camera: str = ""
    instruction: str = ""
    reward: str = ""
    success: str = ""

    def __post_init__(self) -> None:
        if self.task not in ("dream", "simulator"):
            raise ValueError(f"--env.task must be dream or simulator, got {self.task!r}")
        if not self.run or not self.data:
            raise ValueError("--env.run names a trained world model, and --env.data the recordings in which episodes begin")
        env = hwm.make_env(**self._options()).unwrapped
        self.fps = max(1, round(env.metadata["render_fps"]))
        picture = f"pixels/{self.camera}" if self.camera else "pixels"
        actions: Any = env.action_space
        shapes = {ACTION: (FeatureType.ACTION, actions.shape[1:], ACTION)}
        shapes["agent_pos"] = FeatureType.STATE, env.observation_space["states"].shape, OBS_STATE
        name = f"{OBS_IMAGES}.{self.camera}" if self.camera else OBS_IMAGE
        shapes[picture] = FeatureType.VISUAL, env.observation_space["frame"].shape, name
        self.features = {key: PolicyFeature(type=kind, shape=shape) for key, (kind, shape, _) in shapes.items()}
        self.features_map = {key: name for key, (_, _, name) in shapes.items()}
        env.close()

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return self._options()

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, Any]]:
        """One vector environment, whose lanes a dream predicts together, in this process: asynchronous ones have no place."""
        envs: Any = hwm.make_env(**self._options(), num_envs=n_envs, autoreset_mode="SameStep")
        of = ForPolicies(envs, camera=self.camera, steps=self.episode_length, task=self.task or "", instruction=self.instruction)
        return {self.type: {0: of}}

    def _options(self) -> dict[str, Any]:
        return {
            "run": _load(self.run, device=self.device), "data": self.data, "world": self.task, "control": "commands",
            "groups": self.groups, "frames": self.frames, "twin": self.twin, "doubt": self.doubt, "most_doubt": self.most_doubt,
            "samples": self.samples, "horizon": self.episode_length, "render_mode": "rgb_array",
            "reward": resolve_name(self.reward) if self.reward else None,
            "ends": resolve_name(self.success) if self.success else None,
        }  # fmt: skip
