"""A world model as a Gymnasium environment: the robot is told what to do, the model dreams what its camera then sees.

`hwm/Dream-v0` and, with the same spaces and starts, `hwm/Sim-v0` (`simulated.py`), where the built-in simulator answers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hwm.data.onex import open_dataset
from hwm.data.windows import ClipIndex
from hwm.interact.control import Moment, Way, control_of
from hwm.interact.world import World
from hwm.predict.doubt import DOUBTS, SAMPLES, Evidence, Scale
from hwm.predict.last_frame import generator_of, shrink
from hwm.predict.rollout import Dream
from hwm.runs import expect_robot
from hwm.safe_load.paths import is_file
from hwm.work.files import read_json


class WorldEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """What dream and simulator have in common: spaces, starts, rewards and ends.

    run: as `hwm.load`, or the `World` that it gave.
    data: recorded video (raw 1X, LeRobot or logs), in whose clips episodes begin.
    frames: of one step; 0: as many as the model predicts at once, or 1 where it predicts any number.
    control, groups, speed: what an action means (`Control`); groups: parts of the robot, none: all of it.
    reward, ends: functions of the `Moment` after a step; without them the reward is 0 and nothing ends.
    horizon: steps after which an episode is truncated, 0: never.

    Observed are the last frame, uint8 (H, W, 3), and the states beside it, float32 (A,).  `reset(options={"clip": n})` begins in
    clip n, else the seed chooses.  info: clip; after a step frames, all of the step's, and why_ended: "" or ends, horizon, doubt.
    Raises ValueError for data that are no video or of another robot or rate than the run's, and for options outside their range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self, run: str | Path | World, data: str | Path, *, frames: int = 0, control: Way = "states", groups: Sequence[str] = (),
        speed: float = 0.5, reward: Callable[[Moment], float] | None = None, ends: Callable[[Moment], bool] | None = None,
        horizon: int = 0, render_mode: str | None = None, device: str = "auto",
    ) -> None:  # fmt: skip
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be rgb_array or None, got {render_mode!r}")
        if frames < 0 or horizon < 0:
            raise ValueError(f"frames and horizon must be 0 or more, got {frames} and {horizon}")
        self.world = run if isinstance(run, World) else World(run, device=device)
        world, self.dataset = self.world, open_dataset(data)
        if self.dataset.kind != "video":
            raise ValueError(f"{data}: episodes begin in recorded video; give the raw dataset (videos as .mp4)")
        expect_robot(self.dataset, world.run.config.model, world.run.identity)
        self.frames = frames or (1 if world.model.reach else world.step_frames)
        if self.frames != world.step_frames and not self.frames <= world.model.reach:
            reach = f"up to {world.model.reach}" if world.model.reach else f"{world.step_frames}"
            raise ValueError(f"frames: the model predicts {reach} at once, got {frames}")
        self.control = control_of(self.dataset, way=control, groups=groups, speed=speed)
        self.index = ClipIndex.build(self.dataset, kind="frames", overlap=False, length=world.context_frames)
        self.reward, self.ends, self.horizon, self.render_mode = reward, ends, horizon, render_mode
        self.metadata = {**type(self).metadata, "render_fps": self.dataset.hz / self.frames}
        self.action_space = spaces.Box(-1, 1, (len(self.control.rows),), np.float32)
        observed: Any = spaces.Dict({
            "frame": spaces.Box(0, 255, (*world.size, 3), np.uint8),
            "states": spaces.Box(-np.inf, np.inf, (self.dataset.robot.dim,), np.float32),
        })  # fmt: skip
        self.observation_space = observed
        self.seen: dict[str, np.ndarray] = {}
        self.commanded_A = np.zeros(self.dataset.robot.dim, np.float32)
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode after the context of a clip of the data."""
        super().reset(seed=seed)
        chosen, own = int(self.np_random.integers(len(self.index))), int(self.np_random.integers(2**62))
        clip = int((options or {}).get("clip", chosen))
        if not 0 <= clip < len(self.index):
            raise ValueError(f"clip must be one of {self.dataset.root}, which has clips 0..{len(self.index) - 1}, not {clip}")
        self.steps, num = 0, self.world.context_frames
        shard, first = self.dataset.shards[int(self.index.shard[clip])], int(self.index.start[clip])
        states_FA = shard.read_states(np.arange(first, first + num))
        self.commanded_A = states_FA[-1].copy()
        frame, states_A = self.begin(shard, first, states_FA, own)
        self.seen = {"frame": frame, "states": states_A}
        return self.seen, {"clip": clip}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Do what the action asks for `frames` frames."""
        self.expect_begun()
        rows_FA = self.path(action)
        frames_FHWC, states_A, doubt = self.follow(rows_FA)
        self.commanded_A, self.steps = rows_FA[-1].copy(), self.steps + 1
        self.seen = {"frame": frames_FHWC[-1], "states": states_A}
        moment = Moment(frames_FHWC[-1], states_A, np.asarray(action), self.steps, doubt)
        ended = bool(self.ends(moment)) if self.ends else False
        why = "ends" if ended else self.why_truncated(doubt)
        info = {"frames": frames_FHWC, "doubt": doubt, "why_ended": why}
        return self.seen, float(self.reward(moment)) if self.reward else 0.0, ended, bool(why) and not ended, info

    def expect_begun(self) -> None:
        """Raise ResetNeeded before the first reset."""
        if not self.seen:
            raise gymnasium.error.ResetNeeded("call reset before the first step")

    def path(self, action: Any) -> np.ndarray:
        """The commanded states of the step's frames, float32 (frames, A)."""
        return self.control.path(self.commanded_A, action, self.frames)

    def why_truncated(self, doubt: float) -> str:
        """Why an episode is broken off now, "" where it is not."""
        return "horizon" if self.horizon and self.steps >= self.horizon else ""

    def render(self) -> Any:
        """The last frame, uint8 (H, W, 3)."""
        return self.seen["frame"] if self.render_mode == "rgb_array" and self.seen else None

    def begin(self, shard: Any, first: int, states_FA: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Start from the clip whose context begins at frame `first`; its last frame and the states there."""
        raise NotImplementedError

    def follow(self, rows_FA: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Frames uint8 (F, H, W, 3) of the robot on its way along these states, its states at the end, and the doubt of it."""
        raise NotImplementedError

    def recorded(self, shard: Any, first: int, num: int) -> np.ndarray:
        """Frames of a recording in the world's size, uint8 (num, H, W, 3)."""
        height, width = self.world.size
        return shrink(torch.from_numpy(np.array(shard.read(first, num))), height=height, width=width).numpy()


class DreamEnv(WorldEnv):
    """A trained world model to act in; the states go where they are commanded.

    doubt: a way of doubting (`hwm.predict.doubt.DOUBTS`) that needs only frames: "predicted change" or "ensemble spread", the
    latter over `samples` futures, of which the first is what is seen.  most_doubt: its mean over a step's pixels above which an
    episode is truncated; None: where doubt was not seen when it was calibrated, in the last bin that `hwm evaluate RUN --doubt K`
    left in the run's folder.  temperature: of the samples; None is the model's own, or 1 for several where that is 0.
    Everything random of an episode comes from its seed alone, also in a vector environment.
    """

    def __init__(
        self, run: str | Path | World, data: str | Path, *, doubt: str = "", most_doubt: float | None = None, samples: int = 1,
        temperature: float | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(run, data, **options)
        self.samples, self.sampling = samples, self.world.sampling(samples, temperature)
        fit = ("predicted change", "ensemble spread")
        self.doubt = next((way for way in DOUBTS if way.name == doubt and doubt in fit), None)
        if doubt and self.doubt is None:
            raise ValueError(f"doubt must be one of {', '.join(fit)}, got {doubt!r}")
        if samples < 1 or (doubt == "ensemble spread" and samples < 2):
            raise ValueError(f"samples must be at least 1, and 2 for a spread, got {samples}")
        if most_doubt is not None and not (doubt and most_doubt > 0):
            raise ValueError(f"most_doubt must be above 0 and goes with doubt, got {most_doubt}")
        self.most_doubt = math.inf
        if self.doubt:
            self.most_doubt = calibrated_most(self.world.run.folder, self.doubt.name) if most_doubt is None else most_doubt
        self.dream: Dream
        self.foreseen: np.ndarray | None = None

    def begin(self, shard: Any, first: int, states_FA: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        world, device = self.world, torch.device(self.world.device)
        frames_FHWC = self.recorded(shard, first, len(states_FA))
        self.dream = Dream(
            world.model, world.tokenizer, generator=[generator_of(seed, k, device) for k in range(self.samples)],
            num_samples=self.samples, sampling=self.sampling, step_frames=self.frames if world.model.reach else 0,
        )  # fmt: skip
        self.dream.reset(torch.from_numpy(frames_FHWC)[None].to(device), torch.from_numpy(states_FA)[None].to(device))
        self.foreseen = None
        return frames_FHWC[-1], states_FA[-1]

    def follow(self, rows_FA: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        if self.foreseen is None:
            dream_on([self], [rows_FA])
        video_KFHWC, self.foreseen = self.foreseen, None
        assert video_KFHWC is not None
        return video_KFHWC[0], rows_FA[-1], self._doubt(video_KFHWC)

    def _doubt(self, video_KFHWC: np.ndarray) -> float:
        if self.doubt is None:
            return 0.0
        videos, last = torch.from_numpy(video_KFHWC)[None], torch.from_numpy(self.seen["frame"])[None]
        found = self.doubt.of(Evidence({SAMPLES: videos}, last, torch.zeros(videos.shape[2], dtype=torch.int64)))
        assert found is not None
        return float(found.double().mean())

    def why_truncated(self, doubt: float) -> str:
        return "doubt" if doubt > self.most_doubt else super().why_truncated(doubt)


class DreamVectorEnv(SyncVectorEnv):
    """Many of them in one model, whose next steps are predicted together; each is, by its seed, what it is alone.

    Episodes begin again in any of Gymnasium's ways (`autoreset_mode`); the other options are those of `DreamEnv`.
    """

    def __init__(
        self, num_envs: int, run: str | Path | World, data: str | Path, *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, device: str = "auto", **options: Any,
    ) -> None:  # fmt: skip
        world = run if isinstance(run, World) else World(run, device=device)
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        first = DreamEnv(world, data, **options)
        super().__init__([lambda: copy.copy(first)] * num_envs, autoreset_mode=autoreset_mode)

    def step(self, actions: Any) -> Any:
        """One step of every environment."""
        if np.shape(actions) != self.action_space.shape:
            wanted = f"actions of {self.num_envs} environments have shape {self.action_space.shape}"
            raise ValueError(f"{wanted}, got {np.shape(actions)}")
        envs: Any = self.envs
        resting = self._autoreset_envs if self.autoreset_mode == AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, bool)
        if self.autoreset_mode == AutoresetMode.DISABLED and self._autoreset_envs.any():
            raise ValueError('an episode is over; begin it again with reset(options={"reset_mask": mask})')
        awake = [(env, action) for env, action, rests in zip(envs, actions, resting) if not rests]
        for env, _ in awake:
            env.expect_begun()
        dream_on([env for env, _ in awake], [env.path(action) for env, action in awake])
        return super().step(actions)


@torch.no_grad()
def dream_on(envs: Sequence[DreamEnv], rows: Sequence[np.ndarray]) -> None:
    """Predict the next step of environments over one model, those of the same age in one pass, and leave it with each."""
    by_age: dict[int, list[int]] = {}
    for i, env in enumerate(envs):
        by_age.setdefault(env.dream.age, []).append(i)
    for numbers in by_age.values():
        together = Dream.joined([envs[i].dream for i in numbers])
        states_BFA = torch.from_numpy(np.stack([rows[i] for i in numbers])).to(envs[0].world.device)
        video = together.step(states_BFA).video_BFHWC
        assert video is not None
        for i, dream, video_KFHWC in zip(numbers, together.parted(), video.unflatten(0, (len(numbers), -1)).cpu().numpy()):
            envs[i].dream, envs[i].foreseen = dream, video_KFHWC


def calibrated_most(folder: Path, name: str) -> float:
    """The doubt at which the last bin of the run's scale begins.  Raises ValueError where no evaluation left one."""
    for results in (folder / "results.json", folder / "results_sampling.json"):
        if is_file(results):
            scales = read_json(results).get("facts", {}).get("doubt", {})
            if name in scales and (edges := Scale.from_json(scales[name]).edges):
                return edges[-1]
    remedy = f"run `hwm evaluate {folder} --doubt 8 --data HELD_OUT`, or give most_doubt"
    raise ValueError(f"{folder}: no evaluation calibrated the doubt {name!r}; {remedy}")
