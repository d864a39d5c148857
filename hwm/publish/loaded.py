"""What was trained, opened for use: a world model in a few lines of Python, as in `hwm.load("runs/first").predict(frames, states,
num_frames=34)`, and the readers by which an evaluation measures what predicted frames show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwm.evaluate.metrics import Metric
from hwm.evaluate.reading import mask_iou, state_errors
from hwm.predict.rollout import frames_per_step, rollout
from hwm.publish.trained import fingerprint, located, shipped
from hwm.runs import Run, expect_robot, load_run, world_model
from hwm.tokenizers.at_hand import image_size_of, tokenizer_of
from hwm.training.device import choose_device

MASK_READER = "robot-mask"
"""Name of the shipped reader that finds the simulated robot's body."""


def reader(name: str, reads: str, *, device: str) -> Run:
    """A trained reader.  Raises ValueError as `load_run`, and for what reads something else or is no reader."""
    run = load_run(located(name), device=device)
    model: Any = run.config.model
    if model.role != "reader" or model.reads != reads:
        recipe = {"mask": "robot-mask", "states": "state-readout"}[reads]
        raise ValueError(f"{name}: reads no {reads} off frames; give a run of the recipe {recipe}")
    return run


def readers_of(dataset: Any, *, masks: bool, readout: str, device: str) -> tuple[list[Metric], dict[str, str]]:
    """The metrics that read predicted frames of a dataset's clips, and the fingerprint of every reader by its use.

    masks: whether the data tell where the robot's body is.  readout: run that reads states; empty: none are read.
    Raises ValueError for a run that reads the states of another robot, or learned from this very dataset.
    """
    found: list[Metric] = []
    runs = {"masks": reader(MASK_READER, "mask", device=device)} if masks and MASK_READER in shipped() else {}
    if runs:
        found.append(mask_iou(runs["masks"].model))
    if readout:
        run = runs["readout"] = reader(readout, "states", device=device)
        expect_robot(dataset, run.config.model, {"robot": run.identity.get("robot")})
        if run.identity.get("train") == dataset.fingerprint:
            raise ValueError(f"{readout}: learned to read from {dataset.root} itself; give one that was trained on other video")
        found += state_errors(run.model, dataset.robot.groups)
    return found, {name: fingerprint(run.model.state_dict()) for name, run in runs.items()}


class Loaded:
    """A run with its tokenizer, ready to predict from arrays.

    run, which, device, tokenizer: as `hwm.load`.  context_frames: frames that it must have seen.  size: height and width of
    its frames in pixels.  robot, states: name of the robot that it learned from and of that robot's states in order; empty
    where an old run does not tell.
    """

    def __init__(self, run: str | Path, *, which: str = "best", device: str = "auto", tokenizer: str = "") -> None:
        self.device = str(choose_device(device))
        self.run = load_run(run, which=which, device=self.device)
        self.model, self.tokenizer = world_model(self.run), tokenizer_of(self.run, tokenizer, device=self.device)
        self.context_frames = frames_per_step(self.model, self.tokenizer.clock)[0]
        self.size = image_size_of(self.run, self.tokenizer)
        known = self.run.identity.get("robot") or {}
        self.robot, self.states = str(known.get("name", "")), tuple(name for name, _ in known.get("states", ()))

    def predict(self, frames: Any, states: Any, *, num_frames: int, samples: int = 1, seed: int = 0) -> np.ndarray:
        """The frames to come, uint8 RGB (num_frames, H, W, 3), or (samples, num_frames, H, W, 3) for more than one sample.

        frames: what the camera saw, uint8 RGB (F, H, W, 3) of `size`, at least `context_frames` of them; the last ones count.
        states: rows of the robot's raw states, (F + num_frames, A) or more, the first belonging to the first frame: measured
        beside the frames, and what the robot is going to do after them.  Arrays of numpy or torch.
        seed: equal seeds give equal frames.  A model of every nth frame gives num_frames / n of them.
        Raises ValueError, saying what was expected, for other types, shapes and widths.
        """
        seen, rows = self._frames(np.asarray(frames)), self._states(np.asarray(states))
        if num_frames < 1 or samples < 1:
            raise ValueError(f"num_frames and samples must be at least 1, got {num_frames} and {samples}")
        if len(rows) < len(seen) + num_frames:
            wanted = f"{len(seen)} frames seen and {num_frames} to come need {len(seen) + num_frames} rows of states"
            raise ValueError(f"{wanted}, one a frame, got {len(rows)}; say what the robot is going to do, or repeat its last row")
        first = len(seen) - self.context_frames
        context = torch.from_numpy(np.ascontiguousarray(seen[first:]))[None].to(self.device)
        found = rollout(
            self.model, self.tokenizer, context, torch.from_numpy(rows[first:])[None].to(self.device), num_frames=num_frames,
            generator=torch.Generator(self.device).manual_seed(seed), num_samples=samples,
        )
        assert found.video_BKFHWC is not None
        video: np.ndarray = found.video_BKFHWC[0].cpu().numpy()
        return video if samples > 1 else video[0]

    def _frames(self, frames: np.ndarray) -> np.ndarray:
        height, width = self.size
        wanted = f"frames must be uint8 RGB of shape (F, {height}, {width}, 3)"
        if frames.dtype != np.uint8:
            raise ValueError(f"{wanted}, got {frames.dtype}; turn colours from 0 to 1 into bytes: (255 * frames).astype('uint8')")
        if frames.ndim != 4 or frames.shape[-1] != 3:
            remedy = "leave the axis of clips away: frames[0]" if frames.ndim == 5 else "colours come last, and frames first"
            raise ValueError(f"{wanted}, got {frames.shape}; {remedy}")
        if frames.shape[1:3] != self.size:
            got = "x".join(map(str, frames.shape[1:3]))
            raise ValueError(f"{wanted}, got {got} pixels; crop and resize them as the training data were")
        if len(frames) < self.context_frames:
            raise ValueError(f"the model starts from {self.context_frames} frames, got {len(frames)}")
        return frames

    def _states(self, states: np.ndarray) -> np.ndarray:
        width = self.model.config.state_dim
        names = f", {self.states[0]} to {self.states[-1]}" if self.states else ""
        robot = f" of {self.robot}" if self.robot else ""
        if states.ndim != 2 or states.shape[1] != width or states.dtype.kind not in "fiu":
            wanted = f"states must be numbers of shape (rows, {width}), the states{robot}{names}"
            raise ValueError(f"{wanted}, got {states.dtype} {states.shape}")
        rows = np.ascontiguousarray(states, np.float32)
        if not np.isfinite(rows).all():
            raise ValueError(f"states must be finite, row {np.nonzero(~np.isfinite(rows))[0][0]} is not")
        return rows
