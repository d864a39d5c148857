"""Drive a world model: the robot's states come from a person, or from the recording, and the model shows what its camera sees.

A `Studio` is what all who drive share: the world, the recordings to start from, and how far and how fast each state goes in
them.  A `Drive` is one dream of it; neither knows of the network.  What they do takes as long as the model takes, so that a
server calls them in a thread of its own.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwm.data.windows import evenly, segment_end
from hwm.evaluate import metrics
from hwm.interact.beside import Recording, Simulator
from hwm.interact.control import moved, twin_of
from hwm.interact.film import Shown, keep
from hwm.interact.world import World
from hwm.models.twin import Motion
from hwm.predict import ensemble
from hwm.predict.doubt import glancing, live
from hwm.predict.last_frame import generator_of, shrink
from hwm.predict.rollout import Dream, Step
from hwm.tokenizers.at_hand import expect_made_by
from hwm.watch.film import watched
from hwm.work.ranges import BadSetting

LOOKED_AT = 100_000
"""State rows, evenly spread, from which the range and the pace of every state are taken."""
USUAL_PACE = 0.995
"""Share of the recorded changes from frame to frame that are no faster than the fastest one that a drive may ask for."""
WAYS = ("", "glance", "spread")
"""How maps of doubt are made: not; of the step itself (`hwm.predict.doubt.live`); as the spread of samples of it."""
SAMPLES = 4
"""Of a spread: each takes as long as the step itself, or less where there are cores to spare (ours)."""
MAX_RECORDED_BYTES = 256 * 2**20
"""Of frames that wait in memory until a recording is written."""


class Studio:
    """A trained world and recordings to start from.

    data: raw video, or the tokens or latents that the model predicts.  seed: of the sampling.
    twin: run of a twin of the same robot, which foresees where commands lead; "": states go at once where they are commanded.
    beside: what stands beside a dream: "simulator" where `hwm simulate` wrote the data and is installed, else "recording".
    low, high, pace: of every state its range in the recordings, within the robot's limits, and its usual largest change
    in a frame, float32 (A,).
    Raises ValueError as `hwm predict` does.
    """

    def __init__(self, world: World, data: Path, *, seed: int = 0, twin: str | Path = "") -> None:
        self.world, self.seed, self.clips = world, seed, watched(world.run, data)
        self.dataset: Any = self.clips.dataset
        expect_made_by(self.dataset, world.tokenizer)
        self.robot, self.hz, self.every = self.dataset.robot, self.dataset.hz, world.model.frame_step
        self.twin = twin_of(twin, self.dataset, device=world.device) if twin else None
        self.low, self.high, self.pace = self._reach()
        self.beside = "simulator" if _can_simulate(self.dataset.root) else "recording"

    def _reach(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lows, highs, paces = [], [], []
        share = max(2, LOOKED_AT // len(self.dataset.shards))
        for shard in self.dataset.shards:
            rows = evenly(min(share, shard.num_frames - 1), shard.num_frames - 1)
            states = shard.read_states(np.arange(shard.num_frames))
            change = np.abs(states[rows + 1] - states[rows])[shard.segments[rows + 1] == shard.segments[rows]]
            lows.append(states.min(0))
            highs.append(states.max(0))
            paces.append(np.quantile(change, USUAL_PACE, axis=0) if len(change) else np.zeros(states.shape[1]))
        low, high = np.min(lows, 0), np.max(highs, 0)
        if self.robot.limits:
            ends = np.array(self.robot.limits)
            low, high = np.clip(low, *ends.T), np.clip(high, *ends.T)
        return low.astype(np.float32), high.astype(np.float32), np.max(paces, 0).astype(np.float32)

    def target(self, wanted: Any) -> np.ndarray:
        """A command, as it was said, as float64 (A,).  Raises ValueError for anything but a finite number for each state."""
        dim = self.robot.dim
        if not isinstance(wanted, list) or len(wanted) != dim or not all(type(x) in (int, float) for x in wanted):
            raise ValueError(f"a command is a list of {dim} numbers")
        if not all(abs(x) < 1e300 for x in wanted):  # nor NaN
            raise ValueError("a command must be finite")
        return np.array(wanted, np.float64)

    def about(self) -> dict[str, Any]:
        """What a page needs to show controls, as plain values."""
        robot = self.robot
        rest = [i for i in range(robot.dim) if not any(i in rows for rows in robot.groups.values())]
        groups = {name: list(rows) for name, rows in robot.groups.items()}
        if rest:
            groups["others" if robot.groups else "states"] = rest
        return {
            "run": self.world.run.name, "robot": robot.name, "names": list(robot.names),
            "units": list(robot.units), "kinds": list(robot.kinds), "groups": groups, "clips": len(self.clips), "hz": self.hz,
            "low": self.low.tolist(), "high": self.high.tolist(), "pace": self.pace.tolist(),
            "size": list(self.world.size), "every": self.every, "device": self.world.device, "twin": self.twin is not None,
            "draws": bool(self.world.model.draws),
        }  # fmt: skip


class Drive:
    """One dream, driven.

    target: where the person wants every state to be, float32 (A,); states go there no faster than they do in the recordings.
    follow: the recorded states are taken instead, as far as they go.
    beside: what stands beside it.  why: no simulator does where one should, or nothing.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio, self.follow, self.doubting = studio, True, ""
        self.clip, self.ended, self.doubt_name, self.why = 0, False, "", ""
        self.beside: Recording | Simulator
        self._simulator = Simulator(studio.world, studio.dataset) if studio.beside == "simulator" else None
        self._film: list[Shown] | None = None
        self.start(0)

    def start(self, clip: int) -> None:
        """Begin at a clip's context.  Raises BadSetting for a clip that is not there or whose recording ends with its context."""
        s, world = self.studio, self.studio.world
        if not 0 <= clip < len(s.clips):
            raise BadSetting("clip", f"must be one of 0..{len(s.clips) - 1}, got {clip}")
        shard, first = s.dataset.shards[s.clips.index.shard[clip]], int(s.clips.index.start[clip])
        generator, coder = torch.Generator(world.device).manual_seed(s.seed), world.tokenizer
        dream = Dream(world.model, coder, generator=generator, step_frames=1)
        seen, end, of_video = dream.context_frames, segment_end(shard.segments, first), s.dataset.kind == "video"
        if not of_video:
            end = min(end, coder.clock.num_blocks(shard.num_frames) * coder.clock.block)
        if end - first < seen:
            raise BadSetting("clip", f"{clip} ends before the {seen} frames that the model starts from; choose another")
        states = shard.read_states(np.arange(first, end))
        context: Any = shard.read(first, seen if of_video else coder.clock.num_frames(world.model.context_grids))
        context = torch.from_numpy(np.array(context))[None]
        if of_video:
            context = shrink(context, height=world.size[0], width=world.size[1])
        dream.reset(context.to(world.device), torch.from_numpy(states[:seen])[None].to(world.device))
        self.clip, self.ended, self._dream, self._recorded, self._seen, self._done = clip, False, dream, states, seen, 0
        self._last, self.states = self._stand(shard, first, seen, end), states[seen - 1].copy()
        self._motion: Motion | None = None
        self._anchor = self._last
        self.target, self._commanded, self.follow = self.states.copy(), self.states.copy(), len(states) > seen

    def _stand(self, shard: Any, first: int, seen: int, end: int) -> np.ndarray:
        """Let what stands beside begin too; its frame of that moment."""
        recording, self.why = Recording(self.studio.world, self.studio.dataset), ""
        last = recording.begin(shard, first, seen, end)
        self.beside = recording
        if self._simulator is not None:
            try:
                self._simulator.begin(shard, first, seen, end)
                self.beside = self._simulator
            except ValueError as error:
                self.why = f"the recording stands beside: {error}"
        return last

    def close(self) -> None:
        """Nobody drives any longer."""
        if self._simulator is not None:
            self._simulator.close()

    def first_look(self) -> Shown:
        """The last seen frame, from which the dream starts."""
        return Shown(self._last, self._last, None, self.states, None, 0)

    def doubt(self, way: str) -> None:
        """From now on make maps of doubt, in one of `WAYS`.

        Raises ValueError for another, and for a spread where nothing is drawn.
        """
        if way not in WAYS:
            raise ValueError(f"by must be one of {', '.join(map(repr, WAYS))}")
        if way == "spread" and not self.studio.world.model.draws:
            raise ValueError("this model leaves nothing to chance: its samples are all the same")
        self.doubting = way

    def aim(self, wanted: np.ndarray) -> int:
        """Take over: from now on states go where the person wants; how many of them were asked beyond their range.

        wanted: as `Studio.target` gives it.
        """
        low, high = np.minimum(self.studio.low, self.states), np.maximum(self.studio.high, self.states)
        self.target, self.follow, self.ended = np.clip(wanted, low, high).astype(np.float32), False, False
        return int(((wanted < low - 1e-6) | (wanted > high + 1e-6)).sum())

    def step(self) -> list[Shown]:
        """Predict on: the frames of one step of the model.  At the recording's end following ends; then there may be none."""
        num, at, s = self._dream.step_frames, self._seen + self._done, self.studio
        if self.follow:
            rows = self._recorded[at:]
            self.ended = len(rows) <= num
            if len(rows) < num:  # the rest of the recording is shorter than a step
                self.follow = False
                return []
            commands = rows[:num]
        else:
            commands = self._moving(num)
            rows = self._foreseen(commands)
        model = s.world.model
        spread = self._spread(rows) if self.doubting == "spread" else None
        asked = glancing(model, s.world.tokenizer) if self.doubting == "glance" else {}
        step = self._dream.step(torch.from_numpy(rows)[None].to(s.world.device), **asked)
        assert step.video_BFHWC is not None
        if not model.reach or self._done % model.reach == 0:
            self._anchor = self._last
        video, doubts = step.video_BFHWC[0].cpu().numpy(), self._glance(step) if self.doubting == "glance" else spread
        truths, same = self.beside.go(commands, self.follow)[:: s.every], self.beside.same(self.follow)
        found = []
        for i, dream in enumerate(video):
            row = rows[min(i * s.every, len(rows) - 1)]
            truth = truths[i] if i < len(truths) else None
            psnr = float(metrics.psnr(*map(torch.from_numpy, (dream, truth)))) if same and truth is not None else None
            found.append(Shown(dream, truth, None if doubts is None else doubts[i], row, psnr, self._done + i * s.every + 1))
        self._done, self.states, self._last = self._done + num, rows[num - 1].copy(), video[-1]
        self._commanded = commands[-1].copy()
        if self.follow:
            self.target = self.states.copy()
        if self._film is not None:
            self._film += found
        return found

    def _moving(self, num: int) -> np.ndarray:
        """The next commands on their way to the target, (num, A)."""
        rows, now = np.empty((num, len(self.states)), np.float32), self._commanded
        for i in range(num):
            now = now + np.clip(self.target - now, -self.studio.pace, self.studio.pace)
            rows[i] = now
        return rows

    def _foreseen(self, commands_FA: np.ndarray) -> np.ndarray:
        """The states to which they lead, as the twin foresees them; without one the robot is where it is asked to be."""
        twin = self.studio.twin
        if twin is not None and self._motion is None:  # up to here the robot did what was recorded
            self._motion, at = Motion(twin), self._seen + self._done
            past = torch.from_numpy(self._recorded[max(0, at - twin.context_grids) : at])[None]
            self._motion.reset(past.to(self.studio.world.device))
        return moved(self._motion, commands_FA).states

    def _glance(self, step: Step) -> np.ndarray:
        """Maps of the frames of a step by the first way of doubting that the family has, float32 (F, H, W)."""
        world = self.studio.world
        self.doubt_name, maps = live(world.model, world.tokenizer, step, torch.from_numpy(self._anchor)[None])
        whole: np.ndarray = maps[0].numpy()
        return whole

    def _spread(self, rows_FA: np.ndarray) -> np.ndarray:
        """Standard deviation of every pixel over samples of the step that is to come, of values in [0, 1], float32 (F, H, W).

        They begin where the dream is, each with noise of its own that is the same in every step.
        """
        world, device = self.studio.world, torch.device(self.studio.world.device)
        samples = Dream.joined([self._dream.copy([generator_of(self.studio.seed, k, device)]) for k in range(SAMPLES)])
        samples.sampling = world.sampling(SAMPLES, None)
        video = samples.step(torch.from_numpy(rows_FA)[None].expand(SAMPLES, -1, -1).to(device)).video_BFHWC
        assert video is not None
        self.doubt_name = f"spread of {SAMPLES} samples"
        found: np.ndarray = (ensemble.spread(video[None].cpu()) / 255)[0].numpy()
        return found

    @property
    def recording(self) -> bool:
        return self._film is not None

    def record(self) -> None:
        """Keep from now on what is shown."""
        self._film = []

    @property
    def full(self) -> bool:
        """Whether what is kept has grown so large that it should be written."""
        return self._film is not None and len(self._film) * self._last.nbytes > MAX_RECORDED_BYTES

    def write(self, folder: Path) -> list[Path]:
        """End a recording; what was written, as by `keep`.  Raises ValueError where nothing was shown."""
        film, self._film = self._film or [], None
        hz = max(1, round(self.studio.hz / self.studio.every))
        return keep(film, folder, robot=self.studio.robot, hz=hz, run=self.studio.world.run.name)


def _can_simulate(root: Path) -> bool:
    from hwm.sim.again import simulated
    from hwm.sim.simulate import NEEDED

    return simulated(root) and all(find_spec(name) for name in NEEDED)


def heat(doubt: np.ndarray, scale: float) -> np.ndarray:
    """A map of doubt as grey levels, uint8 (H, W), `scale` and more being white."""
    levels: np.ndarray = (np.clip(doubt / max(scale, 1e-9), 0, 1) * 255).astype(np.uint8)
    return levels
