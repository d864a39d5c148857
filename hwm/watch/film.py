"""What a recording shows beside what a run predicts from its states, frame by frame: the one source of all that is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES, Clock
from hwm.contracts import Sampling
from hwm.data.clips import Clips
from hwm.data.legacy import LegacyDataset
from hwm.data.onex import open_dataset
from hwm.data.video import expect_proportions
from hwm.data.windows import segment_end
from hwm.predict import ensemble
from hwm.predict.doubt import glancing, live
from hwm.predict.last_frame import generator_of, shrink
from hwm.predict.rollout import Dream, frames_per_step
from hwm.robot import Embodiment
from hwm.runs import Run, clips_for, expect_robot, load_run, world_model
from hwm.tokenizers.at_hand import expect_made_by, image_size_of, tokenizer_of
from hwm.training.device import choose_device
from hwm.work.ranges import BadSetting

USUAL = 51
"""Frames after the context that are predicted unless somebody says otherwise, of a model that predicts every frame."""


@dataclass(frozen=True)
class Film:
    """A recording beside a prediction that follows its states; both begin with the frames that were seen.

    truth, prediction: uint8 (F, H, W, 3), each `every`-th frame of the recording; the first `num_past` were seen.
    doubt: float32 (F - num_past, H, W), how much the model doubts each pixel of a predicted frame, in a unit of its own; None
    where nobody asked.  doubt_name: of `hwm.predict.doubt.DOUBTS`.
    states: raw rows float32 (N, A), one for every frame of the recording.  commands: likewise, None where it has none.
    first: number of the first frame in its recording.  hz: frames of the recording a second.
    about: what made it, in words.
    """

    truth: np.ndarray
    prediction: np.ndarray
    num_past: int
    every: int
    hz: int
    first: int
    states: np.ndarray
    commands: np.ndarray | None
    robot: Embodiment
    about: dict[str, str]
    doubt: np.ndarray | None = None
    doubt_name: str = ""


@torch.no_grad()
def films(
    folder: Path,
    *, data: Path, clips: Sequence[int] = (0,), frames: int | None = None, samples: int = 1, doubting: bool = False,
    which: str = "best", temperature: float | None = None, changes: tuple[str, ...] = (), seed: int = 0, device: str = "auto",
    tokenizer: str = "", base: str = "", poll: Callable[[], None] = lambda: None,
) -> list[Film]:  # fmt: skip
    """Predict the futures of clips by the states that were recorded, each as if it were alone; all of the same length.

    data: tokens or latents of the run's clips, decoded for the truth, or raw video.
    frames: of the recording, after the context; None: 60 for a model of every nth frame, else 51, or, which is then said, as
    many as every clip's recording has.  samples: futures; the first is the prediction, and the doubt of several is their spread.
    doubting: doubt is asked for, of one sample by the first way of `hwm.predict.doubt.LIVE` that the family has.
    temperature: None is the model's own, or 1 for several samples where that is 0.  poll: called between steps; may raise.
    Raises ValueError, before anything is predicted, for more frames than a recording has, and for several samples of a model
    that leaves nothing to chance.
    """
    device = str(choose_device(device))
    run = load_run(folder, which=which, device=device, changes=changes, base=base)
    model, found = world_model(run), watched(run, data)
    places = [begins(found, clip, data) for clip in clips]
    if isinstance(found.dataset, LegacyDataset):
        raise ValueError(f"{data}: tokens of 1X v1.1 are decoded by 1X's own program: give --tokens FOLDER, which it opens")
    if samples > 1 and not model.draws:
        raise BadSetting("samples", f"would all be equal: {run.config.recipe} leaves nothing to chance; leave it out")
    coder, step, of_video = tokenizer_of(run, tokenizer, device=device), model.frame_step, found.dataset.kind == "video"
    expect_made_by(found.dataset, coder)
    if of_video:
        expect_proportions(data, found.dataset.grid, image_size_of(run, coder))
    num_context = frames_per_step(model, coder.clock)[0]
    in_blocks = None if of_video else coder.clock
    usual = USUAL if step == 1 else SAMPLING_FRAMES - SAMPLING_CONTEXT
    ahead = [frames_ahead(frames, clip, shard, first + num_context, clock=in_blocks, step=step, usual=usual)
             for clip, (shard, first) in zip(clips, places)]  # fmt: skip
    if temperature is None and samples > 1 and not model.temperature:
        temperature = 1.0
    sampling = None if temperature is None else Sampling(temperature=temperature)
    watcher = _Watcher(run, coder, sampling=sampling, samples=samples, doubting=doubting, seed=seed, device=device, poll=poll)
    about = {"model": run.name, "data": Path(data).name, "seed": str(seed)}
    return [watcher.film(found.dataset, *place, min(ahead), about | {"clip": str(clip)}) for clip, place in zip(clips, places)]


@dataclass(frozen=True)
class _Watcher:
    """What all films of a call have in common."""

    run: Run
    coder: Any
    sampling: Sampling | None
    samples: int
    doubting: bool
    seed: int
    device: str
    poll: Callable[[], None]

    def film(self, dataset: Any, shard: Any, first: int, frames: int, about: dict[str, str]) -> Film:
        """That of the clip which begins at a frame of a shard."""
        model, coder, device = world_model(self.run), self.coder, self.device
        num_context, step = frames_per_step(model, coder.clock)[0], model.frame_step
        length = num_context + frames
        truth, context = self._seen(dataset, shard, first, length, num_context)
        states_FA = shard.read_states(np.arange(first, first + length))
        dream = Dream(
            model, coder, generator=[generator_of(self.seed, k, torch.device(device)) for k in range(self.samples)],
            num_samples=self.samples, sampling=self.sampling, step_frames=min(frames, model.reach), poll=self.poll,
        )  # fmt: skip
        states = torch.from_numpy(states_FA)[None].to(device)
        dream.reset(context, states[:, :num_context])
        alone = self.doubting and self.samples == 1
        asked = glancing(model, coder) if alone else {}
        last, parts, doubts, name = truth[num_context - 1 :][:1], [], [], ""
        for done in range(0, frames, dream.step_frames):
            found = dream.step(states[:, num_context + done :], **asked)
            assert found.video_BFHWC is not None
            video_KFHWC = found.video_BFHWC.cpu()
            parts.append(video_KFHWC[0])
            if alone:
                name, maps_BFHW = live(model, coder, found, last)
                doubts.append(maps_BFHW[0])
            elif self.doubting:
                name = "ensemble spread"
                doubts.append(ensemble.spread(video_KFHWC[None])[0] / 255)
            last = video_KFHWC[:1, -1]
        future, past = torch.cat(parts)[: frames // step], truth[:num_context:step]
        commands = getattr(shard, "commands", None)
        return Film(
            truth[::step].numpy(), torch.cat([past, future]).numpy(), num_past=len(past), every=step, hz=dataset.hz, first=first,
            states=states_FA, commands=None if commands is None else np.array(commands[first : first + length]),
            robot=dataset.robot, doubt=torch.cat(doubts)[: frames // step].float().numpy() if doubts else None,
            doubt_name=name, about=about,
        )  # fmt: skip

    def _seen(self, dataset: Any, shard: Any, first: int, length: int, num_context: int) -> tuple[Tensor, Tensor]:
        """The recorded frames of a clip on the CPU, uint8 (F, H, W, 3), and the context as the model starts from it."""
        if dataset.kind == "video":
            height, width = image_size_of(self.run, self.coder)
            truth = shrink(torch.from_numpy(np.array(shard.read(first, length))), height=height, width=width)
            return truth, truth[None, :num_context].to(self.device)
        blocks = -(-length // self.coder.clock.block)
        grids = torch.from_numpy(shard.read(first, blocks * self.coder.clock.block))[None].to(self.device)
        return self.coder.decode(grids)[0, :length].cpu(), grids[:, : world_model(self.run).context_grids]


def begins(clips: Clips, clip: int, data: Path) -> tuple[Any, int]:
    """The shard and the frame in it at which a clip begins.  Raises BadSetting for a clip that is not there."""
    if not 0 <= clip < len(clips):
        raise BadSetting("clip", f"must be one of {data}, which has clips 0..{len(clips) - 1}, not {clip}")
    return clips.dataset.shards[clips.index.shard[clip]], int(clips.index.start[clip])


def frames_ahead(asked: int | None, clip: int, shard: Any, start: int, *, clock: Clock | None, step: int, usual: int) -> int:
    """How many frames of a recording a rollout from the frame `start` of a shard shows.

    clock: of data in blocks, of which only whole ones are there.  usual: taken where nobody asked, if the recording has them.
    Raises BadSetting for more than the recording has.
    """
    end = segment_end(shard.segments, start - 1)
    if clock is not None:
        end = min(end, clock.num_blocks(shard.num_frames) * clock.block)
    most = (end - start) // step * step
    if most < step:
        raise BadSetting("clip", f"{clip} has no frame after its context: its recording ends there; choose another")
    if asked is None:
        if most < usual:
            print(f"the recording of clip {clip} ends {most} frames after the context, and so does the video", flush=True)
        return min(most, usual)
    if asked % step:
        raise BadSetting("frames", f"must be a multiple of {step}, the frames from one prediction to the next, got {asked}")
    if asked > most:
        raise BadSetting("frames", f"must be {most} or less for clip {clip}, whose recording ends there, got {asked}")
    return asked


def watched(run: Run, data: Path) -> Clips:
    """Clips of the run's own kind, or of raw video, from which every model can start."""
    dataset: Any = open_dataset(data)
    if dataset.kind == "video":
        expect_robot(dataset, run.config.model, run.identity)
        return Clips(dataset, kind=run.config.data.clip, overlap=False)
    if world_model(run).frame_step > 1:
        raise ValueError(f"{data}: every nth frame is shown beside the recorded video; give the raw dataset (videos as .mp4)")
    return clips_for(run, data)
