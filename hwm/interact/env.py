"""A world model as a Gymnasium environment: the robot is told what to do, the model dreams what its camera then sees.

`hwm/Dream-v0` and, with the same spaces and starts, `hwm/Sim-v0` (`simulated.py`), where the built-in simulator answers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hwm.data.onex import open_dataset
from hwm.data.windows import ClipIndex
from hwm.interact.control import DreamOptions, Moment, Moved, Options, Way, control_of, moved, twin_of
from hwm.interact.world import World
from hwm.models.twin import Motion
from hwm.predict.doubt import DISAGREEMENT, DOUBTS, SAMPLES, Evidence, Scale
from hwm.predict.last_frame import generator_of, shrink
from hwm.predict.rollout import Dream
from hwm.publish.trained import located
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
    clip n, else the seed chooses.  info: clip, and states_are, how the states come about (`states_are`); after a step frames, all
    of the step's, doubt, disagreement and spread of a twin (`Moved`), and why_ended: "" or ends, horizon, doubt.
    Raises ValueError for data that are no video or of another robot or rate than the run's, and for options outside their range.
    """

    states_are = "commanded"
    """"commanded": the robot is where it was asked to be; "foreseen" by a twin; "measured" in a simulator."""
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
        self.action_space = spaces.Box(*self.control.box(self.frames), dtype=np.float32)
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
        commands = shard.commands if self.states_are != "commanded" else None
        commands_FA = None if commands is None else np.array(commands[first : first + num - 1], np.float32)
        self.commanded_A = (states_FA if commands_FA is None or not len(commands_FA) else commands_FA)[-1].copy()
        frame, states_A = self.begin(shard, first, states_FA, commands_FA, own)
        self.seen = {"frame": frame, "states": states_A}
        return self.seen, {"clip": clip, "states_are": self.states_are}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Do what the action asks for `frames` frames."""
        self.expect_begun()
        commands_FA = self.path(action)
        frames_FHWC, way, doubt = self.follow(commands_FA)
        self.commanded_A, self.steps = commands_FA[-1].copy(), self.steps + 1
        self.seen = {"frame": frames_FHWC[-1], "states": way.states[-1]}
        moment = Moment(frames_FHWC[-1], way.states[-1], np.asarray(action), self.steps, doubt)
        ended = bool(self.ends(moment)) if self.ends else False
        why = "ends" if ended else self.why_truncated(doubt)
        told = {"doubt": doubt, "disagreement": way.disagreement, "spread": way.spread}
        info = {"frames": frames_FHWC, **told, "why_ended": why}
        return self.seen, float(self.reward(moment)) if self.reward else 0.0, ended, bool(why) and not ended, info

    def expect_begun(self) -> None:
        """Raise ResetNeeded before the first reset."""
        if not self.seen:
            raise gymnasium.error.ResetNeeded("call reset before the first step")

    def path(self, action: Any) -> np.ndarray:
        """The commands of the step's frames, float32 (frames, A)."""
        return self.control.path(self.commanded_A, action, self.frames)

    def why_truncated(self, doubt: float) -> str:
        """Why an episode is broken off now, "" where it is not."""
        return "horizon" if self.horizon and self.steps >= self.horizon else ""

    def render(self) -> Any:
        """The last frame, uint8 (H, W, 3)."""
        return self.seen["frame"] if self.render_mode == "rgb_array" and self.seen else None

    def begin(
        self, shard: Any, first: int, states_FA: np.ndarray, commands_FA: np.ndarray | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start from the clip whose context begins at frame `first`; its last frame and the states there.

        commands_FA: those of all frames of the context but the last; None: the recording has none, or they play no part.
        """
        raise NotImplementedError

    def follow(self, commands_FA: np.ndarray) -> tuple[np.ndarray, Moved, float]:
        """Frames uint8 (F, H, W, 3) of the robot under these commands, how it went, and the doubt of it."""
        raise NotImplementedError

    def recorded(self, shard: Any, first: int, num: int) -> np.ndarray:
        """Frames of a recording in the world's size, uint8 (num, H, W, 3)."""
        height, width = self.world.size
        return shrink(torch.from_numpy(np.array(shard.read(first, num))), height=height, width=width).numpy()


class DreamEnv(WorldEnv):
    """A trained world model to act in.

    twin: run of a twin of the same robot (`hwm train twin`), which foresees where commands lead; "": states go at once where they
    are commanded.
    doubt: a way of doubting (`hwm.predict.doubt.DOUBTS`) that needs only frames: "predicted change" or "ensemble spread", the
    latter over `samples` futures, of which the first is what is seen, the mean over a step's pixels; or "disagreement" of the
    twin.  most_doubt: above it an episode is truncated; None: where doubt was not seen when it was calibrated, in the last bin
    that `hwm evaluate RUN --doubt K`, or of a twin `hwm evaluate TWIN`, left in the run's folder.
    temperature: of the samples; None is the model's own, or 1 for several where that is 0.
    Everything random of an episode comes from its seed alone, also in a vector environment.
    """

    def __init__(
        self, run: str | Path | World, data: str | Path, *, twin: str | Path = "", doubt: str = "",
        most_doubt: float | None = None, samples: int = 1, temperature: float | None = None, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(run, data, **options)
        self.samples, self.sampling = samples, self.world.sampling(samples, temperature)
        fit = ("predicted change", "ensemble spread", DISAGREEMENT)
        if doubt and doubt not in fit:
            raise ValueError(f"doubt must be one of {', '.join(fit)}, got {doubt!r}")
        if samples < 1 or (doubt == "ensemble spread" and samples < 2):
            raise ValueError(f"samples must be at least 1, and 2 for a spread, got {samples}")
        if most_doubt is not None and not (doubt and most_doubt > 0):
            raise ValueError(f"most_doubt must be above 0 and goes with doubt, got {most_doubt}")
        if doubt == DISAGREEMENT and not twin:
            raise ValueError(f"doubt: {DISAGREEMENT} is a twin's; give twin")
        self.twin = twin_of(twin, self.dataset, device=self.world.device) if twin else None
        self.states_are = "foreseen" if twin else "commanded"
        self.doubt, self.most_doubt = doubt, math.inf
        if doubt:
            folder = located(twin) if doubt == DISAGREEMENT else self.world.run.folder
            self.most_doubt = calibrated_most(folder, doubt) if most_doubt is None else most_doubt
        self.dream: Dream
        self.motion: Motion | None = None
        self.foreseen: tuple[np.ndarray, Moved] | None = None

    def begin(
        self, shard: Any, first: int, states_FA: np.ndarray, commands_FA: np.ndarray | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        world, device = self.world, torch.device(self.world.device)
        frames_FHWC, states_1FA = self.recorded(shard, first, len(states_FA)), torch.from_numpy(states_FA)[None].to(device)
        self.dream = Dream(
            world.model, world.tokenizer, generator=[generator_of(seed, k, device) for k in range(self.samples)],
            num_samples=self.samples, sampling=self.sampling, step_frames=self.frames if world.model.reach else 0,
        )  # fmt: skip
        self.dream.reset(torch.from_numpy(frames_FHWC)[None].to(device), states_1FA)
        self.foreseen = None
        if self.twin is not None:
            self.motion = Motion(self.twin)
            self.motion.reset(states_1FA, None if commands_FA is None else torch.from_numpy(commands_FA)[None].to(device))
        return frames_FHWC[-1], states_FA[-1]

    def follow(self, commands_FA: np.ndarray) -> tuple[np.ndarray, Moved, float]:
        if self.foreseen is None:
            dream_on([self], [commands_FA])
        assert self.foreseen is not None
        (video_KFHWC, way), self.foreseen = self.foreseen, None
        return video_KFHWC[0], way, way.disagreement if self.doubt == DISAGREEMENT else self._doubt(video_KFHWC)

    def _doubt(self, video_KFHWC: np.ndarray) -> float:
        if not self.doubt:
            return 0.0
        of = next(way.of for way in DOUBTS if way.name == self.doubt)
        videos, last = torch.from_numpy(video_KFHWC)[None], torch.from_numpy(self.seen["frame"])[None]
        found = of(Evidence({SAMPLES: videos}, last, torch.zeros(videos.shape[2], dtype=torch.int64)))
        assert found is not None
        return float(found.double().mean())

    def why_truncated(self, doubt: float) -> str:
        return "doubt" if doubt > self.most_doubt else super().why_truncated(doubt)


class DreamVectorEnv(SyncVectorEnv):
    """Many of them in one model; each is, by its seed, what it is alone.

    Episodes begin again in any of Gymnasium's ways (`autoreset_mode`); the other options are those of `DreamEnv`.
    together: next steps are predicted in one pass, two to four times as fast; else one by one.  None: together where no byte was
    seen to change by it, in models of tokens and of frames.  Those of latents differ in their last bits, which moves a pixel here
    and there by one level.
    """

    def __init__(
        self, num_envs: int, run: str | Path | World, data: str | Path, *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, together: bool | None = None,
        **options: Unpack[DreamOptions],
    ) -> None:  # fmt: skip
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        first = DreamEnv(run, data, **options)
        self.together = first.world.model.predicts != "latents" if together is None else together
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
        dream_on([env for env, _ in awake], [env.path(action) for env, action in awake], together=self.together)
        return super().step(actions)


@torch.no_grad()
def dream_on(envs: Sequence[DreamEnv], commands: Sequence[np.ndarray], *, together: bool = True) -> None:
    """Predict the next step of environments over one model, and leave it with each; together: those of one age in one pass.

    Twins are small: they go one by one, so that a lane's states cannot depend on its company.
    """
    ways = [moved(env.motion, commands_FA) for env, commands_FA in zip(envs, commands)]
    by_age: dict[int, list[int]] = {}
    for i, env in enumerate(envs):
        by_age.setdefault(env.dream.age if together else i, []).append(i)
    for numbers in by_age.values():
        joined = Dream.joined([envs[i].dream for i in numbers])
        states_BFA = torch.from_numpy(np.stack([ways[i].states for i in numbers])).to(envs[0].world.device)
        video = joined.step(states_BFA).video_BFHWC
        assert video is not None
        for i, dream, video_KFHWC in zip(numbers, joined.parted(), video.unflatten(0, (len(numbers), -1)).cpu().numpy()):
            envs[i].dream, envs[i].foreseen = dream, (video_KFHWC, ways[i])


def calibrated_most(folder: Path, name: str) -> float:
    """The doubt at which the last bin of a run's scale begins.  Raises ValueError where no evaluation left one."""
    for results in (folder / "results.json", folder / "results_sampling.json"):
        if is_file(results):
            scales = read_json(results).get("facts", {}).get("doubt", {})
            if name in scales and (edges := Scale.from_json(scales[name]).edges):
                return edges[-1]
    asked = "" if name == DISAGREEMENT else " --doubt 8"
    remedy = f"run `hwm evaluate {folder}{asked} --data HELD_OUT`, or give most_doubt"
    raise ValueError(f"{folder}: no evaluation calibrated the doubt {name!r}; {remedy}")
