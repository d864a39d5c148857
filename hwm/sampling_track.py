"""Watch a model of every fourth frame predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hwm.apply import recorded_clips, tokenizer_of, write_pair
from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.config import RunConfig, from_toml
from hwm.contracts import LatentTokenizer, Sampling, Tokenizer
from hwm.data.windows import segment_end, state_rows
from hwm.evaluate.protocols import SAMPLING
from hwm.model_config import WanConfig
from hwm.predict.last_frame import shrink
from hwm.predict.rollout import frames_per_step, rollout
from hwm.runs import Run, load_run, world_model


def models_strided_clips(folder: Path) -> bool:
    """Whether a run folder holds a model of every fourth frame; no weights are read."""
    file = folder / "config.toml"
    return file.is_file() and isinstance(from_toml(RunConfig, file).model, WanConfig)


def predict_strided_video(
    folder: Path,
    *,
    data: Path,
    out: Path,
    clip: int = 0,
    frames: int = SAMPLING_FRAMES - SAMPLING_CONTEXT,
    which: str = "best",
    temperature: float | None = None,
    changes: tuple[str, ...] = (),
    seed: int = 0,
    tokenizer: str = "",
    poll: Callable[[], None] = lambda: None,
) -> Path:
    """Write the recorded frames (left) beside a prediction that follows the recorded states (right); return the file.

    data: raw video.  Of a model of every fourth frame both sides show these, each for four of the video's 30 Hz, so that
    it plays in real time.  Both begin with the context; the future starts where the bar below turns blue.
    frames: of the recording, after the 17 seen ones.  Past the recording's end the last state is held and the left side
    stands still.  poll: called between steps; may raise.
    """
    run = load_run(folder, which=which, changes=changes)
    model, clips = world_model(run), recorded_clips(data, SAMPLING)
    if not 0 <= clip < len(clips):
        raise ValueError(f"{data}: has clips 0..{len(clips) - 1}, not {clip}")
    coder = tokenizer_of(run, tokenizer)
    height, width = image_size_of(run, coder)
    num_context, step = frames_per_step(model, coder.clock)[0], model.frame_step
    shard, first = clips.dataset.shards[clips.index.shard[clip]], int(clips.index.start[clip])
    rows = state_rows(shard.segments, first, num_context + frames)
    end = min(segment_end(shard.segments, first), first + num_context + frames)
    recorded = torch.from_numpy(np.array(shard.read(first, end - first)))
    truth = shrink(recorded, height=height, width=width)
    found = rollout(
        model,
        coder,
        truth[None, :num_context],
        torch.from_numpy(shard.read_states(rows))[None],
        num_frames=frames,
        generator=torch.Generator().manual_seed(seed),
        sampling=None if temperature is None else Sampling(temperature=temperature),
        poll=poll,
    )
    assert found.video_BKFHWC is not None
    past, future = truth[:num_context:step], found.video_BKFHWC[0, 0]
    right = torch.cat([past, future])
    places = (torch.arange(len(right)) * step).clamp(max=len(truth) - 1)
    write_pair(out, truth[places].numpy(), right.numpy(), num_past=len(past), repeat=step)
    return out


def image_size_of(run: Run, coder: Tokenizer | LatentTokenizer) -> tuple[int, int]:
    """Height and width of the frames that the model works on."""
    height, width = world_model(run).config.grid
    return height * coder.spatial_stride, width * coder.spatial_stride
