"""A trained world model in a few lines of Python: `world = hwm.load("runs/first")`, then `world.predict` or `world.dream`.

Clips go in as arrays of numpy or torch, one or a batch of them; pictures of any size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Sampling
from hwm.evaluate.protocols import Scoring
from hwm.evaluate.scores import Scores
from hwm.predict import ensemble
from hwm.predict.last_frame import draw, generator_of, shrink
from hwm.predict.rollout import Dream, frames_per_step
from hwm.publish.trained import located
from hwm.runs import load_run, world_model
from hwm.tokenizers.at_hand import image_size_of, tokenizer_of
from hwm.training.device import choose_device

Array = np.ndarray | Tensor | Sequence[Any]
"""Numbers as numpy, torch or nested lists have them."""


@dataclass(frozen=True)
class Predicted:
    """Samples of a future.

    frames: uint8 RGB (K, F, H, W, 3), K samples of F frames; (B, K, F, H, W, 3) where several clips were given.
    """

    frames: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean of the samples, the estimate with the least squared error: uint8 ([B,] F, H, W, 3)."""
        return self._over_samples(ensemble.mean)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of every pixel over the samples, float32 ([B,] F, H, W), in levels of 0..255.

        0 where nothing is left to chance, as in `direct`.  Raises ValueError for a single sample.
        """
        return self._over_samples(ensemble.spread)

    def _over_samples(self, of: Callable[[Tensor], Tensor]) -> np.ndarray:
        alone = self.frames.ndim == 5
        found: np.ndarray = of(torch.from_numpy(self.frames[None] if alone else self.frames)).numpy()
        return found[0] if alone else found


class World:
    """A trained world model with its tokenizer, ready for arrays.

    run, which, device, tokenizer: as `hwm.load`.  changes, base: as `hwm predict` takes them, `--set` and `--base`.
    context_frames: frames that it must have seen.  step_frames: frames that one step of a dream adds.  size: height and width of
    its frames in pixels.  robot, states: name of the robot that it learned from and of that robot's states in order; empty
    where an old run does not tell.
    """

    def __init__(
        self, run: str | Path, *, which: str = "best", device: str = "auto", tokenizer: str = "", base: str = "",
        changes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.device, self.which = str(choose_device(device)), which
        self.run = load_run(run, which=which, device=self.device, changes=changes, base=base)
        self.model, self.tokenizer = world_model(self.run), tokenizer_of(self.run, tokenizer, device=self.device)
        self.context_frames, self.step_frames = frames_per_step(self.model, self.tokenizer.clock)
        self.size = image_size_of(self.run, self.tokenizer)
        known = self.run.identity.get("robot") or {}
        self.robot, self.states = str(known.get("name", "")), tuple(name for name, _ in known.get("states", ()))

    def predict(
        self, frames: Array, states: Array, *, num_frames: int, samples: int = 1, seed: int = 0, temperature: float | None = None
    ) -> Predicted:
        """Predict the `num_frames` frames to come.

        frames: what the camera saw, RGB (F, H, W, 3) or (B, F, H, W, 3), uint8 or floats from 0 to 1, at least `context_frames`
        of them; the last ones count.  Others than of `size` are resized, and before that cut around their centre to its
        proportions, with a warning.
        states: rows of the robot's raw states, (F + num_frames, A) or more, with the axis of clips where frames have it, the
        first belonging to the first frame: measured beside the frames, and what the robot is going to do after them.
        samples: futures of every clip.  temperature: None is the model's own, or 1 for several samples where that is 0.
        seed: equal seeds give equal frames on one machine; clip b draws from seed + b, whatever stands beside it.
        A model of every nth frame gives num_frames / n of them.
        Raises ValueError, saying what was expected, for other types, shapes and widths, and for numbers that are not finite.
        """
        if num_frames < self.model.frame_step or samples < 1:
            least = f"num_frames must be at least {self.model.frame_step} and samples at least 1"
            raise ValueError(f"{least}, got {num_frames} and {samples}")
        context, rows, num_seen, alone = self._clips(frames, states)
        if rows.shape[1] < num_seen + num_frames:
            wanted = f"{num_seen} frames seen and {num_frames} to come need {num_seen + num_frames} rows of states"
            remedy = "say what the robot is going to do, or repeat its last row"
            raise ValueError(f"{wanted}, one a frame, got {rows.shape[1]}; {remedy}")
        past, step = self.context_frames, self.model.frame_step
        found = draw(
            self.model, self.tokenizer, context, rows[:, num_seen - past :], num_samples=samples, device=self.device,
            frames=range(past + step - 1, past + num_frames, step), seeds=[seed + b for b in range(len(context))],
            sampling=self.sampling(samples, temperature),
        )  # fmt: skip
        return Predicted(found[0].numpy() if alone else found.numpy())

    def dream(
        self, frames: Array, states: Array, *, samples: int = 1, seed: int = 0, step_frames: int = 0,
        temperature: float | None = None,
    ) -> Dreaming:  # fmt: skip
        """Begin a dream that goes on step by step, as states come: `dream.step(states)`.

        frames, states: as in `predict`, a row for every frame seen.  step_frames: frames of a step, of a model that predicts any
        number of them; 0: as it is configured.
        """
        context, rows, num_seen, alone = self._clips(frames, states)
        if rows.shape[1] != num_seen:
            raise ValueError(f"a dream begins with one row of states for each of {num_seen} frames seen, got {rows.shape[1]}")
        if step_frames and not 1 <= step_frames <= self.model.reach:
            fault = f"predicts {self.step_frames} frames a step" if not self.model.reach else f"reaches {self.model.reach} frames"
            raise ValueError(f"step_frames: this model {fault}, got {step_frames}")
        generators = [generator_of(seed + b, k, torch.device(self.device)) for b in range(len(context)) for k in range(samples)]
        dream = Dream(
            self.model, self.tokenizer, generator=generators, num_samples=samples, step_frames=step_frames,
            sampling=self.sampling(samples, temperature),
        )  # fmt: skip
        dream.reset(context.to(self.device), rows[:, num_seen - self.context_frames :].to(self.device))
        return Dreaming(self, dream, alone)

    def evaluate(
        self, data: str | Path, *, out: str | Path, video: str | Path | None = None, tuning: str | Path | None = None,
        **scoring: Any,
    ) -> Scores:
        """Score on held-out data, as `hwm.evaluate` does, with this checkpoint and on this device.

        Arguments and errors are those of `hwm.evaluate`.
        """
        scoring = {"which": self.which, "device": self.device} | scoring
        return evaluate(self.run.folder, data=data, out=out, video=video, tuning=tuning, **scoring)

    def sampling(self, samples: int, temperature: float | None) -> Sampling | None:
        """How that many samples are drawn, None: in the model's own way; several that are all the same say nothing."""
        if temperature is None and (samples == 1 or self.model.temperature or not self.model.draws):
            return None
        return Sampling(temperature=1.0 if temperature is None else temperature)

    def __deepcopy__(self, memo: Any) -> World:
        """Itself: using it changes nothing, and Gymnasium copies what environments are made with."""
        return self

    def _clips(self, frames: Array, states: Array) -> tuple[Tensor, Tensor, int, bool]:
        """The context's frames, uint8 (B, F, H, W, 3), all rows (B, R, A), how many were seen, and whether it is one clip."""
        seen = _tensor(frames, "frames")
        wanted = "frames must be RGB of shape (F, H, W, 3), or (B, F, H, W, 3) for several clips"
        if seen.ndim not in (4, 5) or seen.shape[-1] != 3:
            first = seen.ndim in (4, 5) and seen.shape[-3] == 3
            remedy = "colours come last" if first else f"the last {self.context_frames} pictures of one camera are needed"
            raise ValueError(f"{wanted}, got {tuple(seen.shape)}; {remedy}")
        if not all(seen.shape[-3:]):
            raise ValueError(f"{wanted}, got {tuple(seen.shape)}, which are no pixels")
        alone, num_seen = seen.ndim == 4, seen.shape[-4]
        if num_seen < self.context_frames:
            raise ValueError(f"the model starts from {self.context_frames} frames, got {num_seen}")
        rows = self._rows(states, alone=alone)
        seen = seen[None] if alone else seen
        if len(seen) != len(rows) or not len(seen):
            raise ValueError(f"frames of {len(seen)} clips need states of as many, got {len(rows)}")
        return self._pictures(seen[:, -self.context_frames :]), rows, num_seen, alone

    def _pictures(self, seen: Tensor) -> Tensor:
        """As bytes of the model's size."""
        if seen.is_floating_point():
            if not torch.isfinite(seen).all():
                raise ValueError("frames must be finite, these are not")
            if seen.min() < 0 or seen.max() > 1:
                found = f"from {seen.min():.3g} to {seen.max():.3g}"
                raise ValueError(f"frames of floats are colours from 0 to 1, got {found}; bytes are frames.astype('uint8')")
            seen = (255 * seen.float()).round().to(torch.uint8)
        elif seen.dtype != torch.uint8:
            name = str(seen.dtype).removeprefix("torch.")
            raise ValueError(f"frames must be uint8, or floats from 0 to 1, got {name}; bytes are frames.astype('uint8')")
        given, (height, width) = seen.shape[-3:-1], self.size
        if given == self.size:
            return seen
        kept = min(given[0], round(given[1] * height / width)), min(given[1], round(given[0] * width / height))
        (top, left), cut = ((given[i] - kept[i]) // 2 for i in range(2)), ""
        if abs(given[1] * height / given[0] - width) >= 1:  # as `shrink` counts it
            seen, cut = seen[:, :, top : top + kept[0], left : left + kept[1]], f"cut to their centre, {kept[0]}x{kept[1]}, and "
        warnings.warn(f"frames of {given[0]}x{given[1]} pixels were {cut}resized to {height}x{width}", stacklevel=4)
        smaller = seen.shape[-3] >= height
        return (shrink if smaller else ensemble.resize)(seen, height=height, width=width)

    def _rows(self, states: Array, *, alone: bool) -> Tensor:
        """Rows of states (B, R, A), float32."""
        found, width = _tensor(states, "states"), self.model.config.state_dim
        if found.ndim != (2 if alone else 3) or found.shape[-1] != width or found.dtype == torch.bool:
            names = f", {self.states[0]} to {self.states[-1]}" if self.states else ""
            shape = f"(rows, {width})" if alone else f"(clips, rows, {width})"
            robot = f" of {self.robot}" if self.robot else ""
            wanted = f"states must be numbers of shape {shape}, the states{robot}{names}"
            raise ValueError(f"{wanted}, got {str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}")
        rows = found[None].float() if alone else found.float()
        if not (good_BR := torch.isfinite(rows).all(-1)).all():
            clip, row = (~good_BR).nonzero()[0].tolist()
            raise ValueError(f"states must be finite, row {row}{'' if alone else f' of clip {clip}'} is not")
        return rows


class Dreaming:
    """A dream under way.  step_frames: frames that one step adds."""

    def __init__(self, world: World, dream: Dream, alone: bool) -> None:
        self._world, self._dream, self._alone = world, dream, alone
        self.step_frames = dream.step_frames

    def step(self, states: Array) -> Predicted:
        """The next `step_frames` frames, if the robot does this.

        states: rows ([B,] R, A) of the frames to come; rows beyond the step are look-ahead, missing ones repeat the last.
        """
        rows = self._world._rows(states, alone=self._alone)
        if len(rows) != self._dream.num_clips or not rows.shape[1]:
            raise ValueError(f"a step needs states of {self._dream.num_clips} clips, one row at least, got {tuple(rows.shape)}")
        video = self._dream.step(rows.to(self._world.device)).video_BFHWC
        assert video is not None
        frames = video.unflatten(0, (len(rows), -1)).cpu().numpy()
        return Predicted(frames[0] if self._alone else frames)

    def copy(self) -> Dreaming:
        """The same dream at the same moment, to try something else in: what it draws begins equal."""
        return Dreaming(self._world, self._dream.copy(), self._alone)


def load(run: str | Path, *, which: str = "best", device: str = "auto", tokenizer: str = "") -> World:
    """A trained world model, to use from arrays: `hwm.load("runs/first").predict(frames, states, num_frames=34).mean`.

    run: a run folder, a folder of `hwm export`, a name that is shipped, or user/name@revision of the hub.
    which: "best" or "last" checkpoint.  device: auto (the first GPU where there is one), cpu, cuda or another.
    tokenizer: where the run's own lies elsewhere.  Raises ValueError, naming what is missing, for what is no such run.
    """
    return World(run, which=which, device=device, tokenizer=tokenizer)


def evaluate(
    run: str | Path, *, data: str | Path, out: str | Path, video: str | Path | None = None, tuning: str | Path | None = None,
    **scoring: Any,
) -> Scores:
    """Score a run on held-out data and write results and report into `out`, as `hwm evaluate` does.

    run: as `load`, or a twin's.  data, video, tuning: as there.  scoring: fields of `hwm.evaluate.protocols.Scoring`, such as
    protocol="sampling" or device="cpu".
    Raises ValueError as `hwm.apply.evaluate_run`, and for no such field.
    """
    from hwm.apply import evaluate_run  # which draws plots and writes pages

    known = [f.name for f in fields(Scoring)]
    if unknown := [name for name in scoring if name not in known]:
        raise ValueError(f"{unknown[0]}: no setting of a scoring; there are {', '.join(known)}")
    films, others = (None if place is None else Path(place) for place in (video, tuning))
    return evaluate_run(located(run), Scoring(**scoring), data=Path(data), video=films, tuning=others, out=Path(out))


def _tensor(given: Array, name: str) -> Tensor:
    """An array of numbers, of numpy or torch or nested lists, as a tensor on the CPU."""
    if isinstance(given, Tensor):
        return given.detach().cpu()
    try:
        array = np.asarray(given)
    except ValueError:
        raise ValueError(f"{name} must be an array of numbers, got a list of unequal rows") from None
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be an array of numbers, got {type(given).__name__} of {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
