"""The sampling track with a trained run of any family: score frame 76, watch a strided model predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.config import RunConfig, from_toml
from hwm.contracts import LatentTokenizer, Sampling, Tokenizer
from hwm.data.clips import Clips
from hwm.data.onex import open_dataset
from hwm.data.windows import segment_end, state_rows
from hwm.evaluate.networks import Lpips
from hwm.evaluate_old.apply import tokenizer_of, write_pair
from hwm.evaluate_old.perceptual import InceptionFeatures, VideoFeatures
from hwm.evaluate_old.sampling import MEMBERS, evaluate_sampling
from hwm.evaluate_old.sampling_report import RESULTS, write_sampling_report
from hwm.evaluate_old.sampling_results import SamplingResult
from hwm.model_config import WanConfig
from hwm.predict.last_frame import shrink
from hwm.predict.rollout import frames_per_step, rollout
from hwm.runs import Run, load_run, world_model
from hwm.work.fingerprint import sources
from hwm.work.parts import Work, listening
from hwm.work.progress import Counter
from hwm.work.share import Share
from hwm.work.signals import StopFlag

SEEN_AND_SCORED = np.append(np.arange(SAMPLING_CONTEXT), SAMPLING_FRAMES - 1)


def sampling_clips(folder: Path, *, kept: np.ndarray | None = SEEN_AND_SCORED) -> Clips:
    """The 77-frame clips of a raw dataset that share no frame, at the recorded size, of which `kept` are given.

    Raises ValueError for data of another kind.
    """
    dataset = open_dataset(folder)
    if dataset.kind != "video":
        raise ValueError(f"{folder}: the sampling track is scored on recorded video; give the raw dataset (videos as .mp4)")
    return Clips(dataset, kind="sampling", overlap=False, kept=kept)


def evaluate_sampling_run(
    folder: Path,
    *,
    data: Path,
    out: Path,
    tuning: Path | None = None,
    clips: int = 64,
    tuning_clips: int = 16,
    members: tuple[int, ...] = MEMBERS,
    members_at_once: int = 16,
    score_size: int = 0,
    seed: int = 0,
    which: str = "best",
    changes: tuple[str, ...] = (),
    temperature: float | None = None,
    inception: Path | None = None,
    lpips: tuple[Path, ...] = (),
    tokenizer: str = "",
    trust: bool = False,
    device: str = "cpu",
    command: str = "",
    share: Share = Share(),  # noqa: B008
    stop: StopFlag | None = None,
) -> SamplingResult:
    """Score a run's frame 76; write results_sampling.json and report_sampling.html into `out`.

    data: held-out raw video.  tuning: other raw video to choose blur and blend on; None: the first clips of `data`.
    changes: overrides of how the model predicts (`runs.load_run`).  temperature: None is the model's own, or 1.
    The rest as in `evaluate_sampling` and `apply.evaluate_run`, from whose kept parts the same call goes on as well.
    Raises ValueError for data that are no raw video or whose robot is not the model's, and as `apply.evaluate_run`.
    """
    with listening(stop) as flag:
        made_of = sources(data=data, tuning=tuning, inception=inception, lpips=lpips)
        work = Work(out / RESULTS, made_of, share, flag)
        run = load_run(folder, which=which, device=device, changes=changes)
        coder = tokenizer_of(run, tokenizer, trust=trust, device=device)
        held_out = sampling_clips(data)
        features: list[VideoFeatures] = [] if inception is None else [InceptionFeatures(inception, device=device)]
        with Counter("evaluating", unit="clips") as counter:
            result = evaluate_sampling(
                world_model(run),
                coder,
                held_out,
                image_size=image_size_of(run, coder),
                score_size=score_size,
                segments=held_out.segments(),
                tuning_clips=None if tuning is None else sampling_clips(tuning),
                num_tuning=tuning_clips,
                num_clips=clips,
                members=members,
                sampling=None if temperature is None else Sampling(temperature=temperature),
                members_at_once=members_at_once,
                seed=seed,
                features=features,
                lpips=Lpips(lpips[0], lpips[1] if len(lpips) > 1 else None, device=device) if lpips else None,
                device=device,
                progress=counter,
                work=work,
            )
        write_sampling_report(out, result, run_folder=run.folder, command=command)
        work.remove(result.settings["fingerprint"])
    return result


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
    model, clips = world_model(run), sampling_clips(data)
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
