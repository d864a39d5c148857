"""The sampling track with a trained run of any family: score frame 76, watch a strided model predict, submit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hwm.apply import segments_of, tokenizer_of, write_pair
from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.config import RunConfig, WanConfig, from_toml
from hwm.contracts import LatentTokenizer, Sampling, Tokenizer
from hwm.data.clips import VideoClips
from hwm.data.onex import RawDataset, open_dataset
from hwm.data.testsets import SamplingTestSet, open_test_set
from hwm.data.windows import segment_end, state_rows
from hwm.evaluate.features import InceptionFeatures, VideoFeatures
from hwm.evaluate.lpips import Lpips
from hwm.evaluate.rows import own_temperature
from hwm.evaluate.sampling import MEMBERS, evaluate_sampling
from hwm.evaluate.sampling_clips import seed_of_clip
from hwm.evaluate.sampling_report import write_sampling_report
from hwm.evaluate.sampling_results import SamplingResult
from hwm.evaluate.sampling_submission import write_sampling_submission
from hwm.predict import ensemble
from hwm.predict.last_frame import predict_pictures, shrink
from hwm.predict.rollout import frames_per_step, rollout
from hwm.progress import Counter
from hwm.runs import Run, load_run, world_model

Combine = Literal["mean", "blend", "medoid"]
SEEN_AND_SCORED = np.append(np.arange(SAMPLING_CONTEXT), SAMPLING_FRAMES - 1)


def sampling_clips(folder: Path, *, kept: np.ndarray | None = SEEN_AND_SCORED) -> VideoClips:
    """The 77-frame clips of a raw dataset that share no frame, at the recorded size, of which `kept` are given.

    Raises ValueError for data of another kind.
    """
    dataset = open_dataset(folder)
    if not isinstance(dataset, RawDataset):
        raise ValueError(f"{folder}: the sampling track is scored on recorded video; give the raw dataset (videos as .mp4)")
    return VideoClips(dataset, kind="frames", length=SAMPLING_FRAMES, overlap=False, kept=kept)


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
) -> SamplingResult:
    """Score a run's frame 76; write results_sampling.json and report_sampling.html into `out`.

    data: held-out raw video.  tuning: other raw video to choose blur and blend on; None: the first clips of `data`.
    changes: overrides of how the model predicts (`runs.load_run`).  temperature: None is the model's own, or 1.
    The rest as in `evaluate_sampling` and `apply.evaluate_run`.
    Raises ValueError for data that are no raw video or whose robot is not the model's.
    """
    run = load_run(folder, which=which, device=device, changes=changes)
    coder = tokenizer_of(run, tokenizer, trust=trust, device=device)
    held_out = sampling_clips(data)
    features: list[VideoFeatures] = [] if inception is None else [InceptionFeatures(inception, device=device)]
    with Counter("evaluating", unit="clips") as counter:
        result = evaluate_sampling(
            world_model(run),
            coder,
            held_out,
            image_size=_image_size(run, coder),
            score_size=score_size,
            segments=segments_of(held_out),
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
        )
    write_sampling_report(out, result, run_folder=run.folder, command=command)
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
) -> Path:
    """Write the recorded frames (left) beside a prediction that follows the recorded states (right); return the file.

    data: raw video.  Of a model of every fourth frame both sides show these, each for four of the video's 30 Hz, so that
    it plays in real time.  Both begin with the context; the future starts where the bar below turns blue.
    frames: of the recording, after the 17 seen ones.  Past the recording's end the last state is held and the left side
    stands still.
    """
    run = load_run(folder, which=which, changes=changes)
    model, clips = world_model(run), sampling_clips(data)
    if not 0 <= clip < len(clips):
        raise ValueError(f"{data}: has clips 0..{len(clips) - 1}, not {clip}")
    coder = tokenizer_of(run, tokenizer)
    height, width = _image_size(run, coder)
    num_context, step = frames_per_step(model, coder.clock)[0], model.frame_step
    shard, first = clips.dataset.shards[clips.index.shard[clip]], int(clips.index.start[clip])
    rows = state_rows(shard.segments, first, num_context + frames)
    end = min(segment_end(shard.segments, first), first + num_context + frames)
    recorded = torch.from_numpy(np.array(shard.frames()[first:end]))
    truth = shrink(recorded, height=height, width=width)
    found = rollout(
        model,
        coder,
        truth[None, :num_context],
        torch.from_numpy(shard.read_states(rows))[None],
        num_frames=frames,
        generator=torch.Generator().manual_seed(seed),
        sampling=None if temperature is None else Sampling(temperature=temperature),
    )
    assert found.video_BKFHWC is not None
    past, future = truth[:num_context:step], found.video_BKFHWC[0, 0]
    right = torch.cat([past, future])
    places = (torch.arange(len(right)) * step).clamp(max=len(truth) - 1)
    write_pair(out, truth[places].numpy(), right.numpy(), num_past=len(past), repeat=step)
    return out


def submit_sampling(
    folder: Path,
    *,
    data: Path,
    out: Path,
    readme: dict[str, str] | None,
    samples: int = 20,
    combine: Combine = "mean",
    tolerance: float | None = None,
    size: int = 512,
    members_at_once: int = 16,
    seed: int = 0,
    which: str = "best",
    changes: tuple[str, ...] = (),
    temperature: float | None = None,
    tokenizer: str = "",
    trust: bool = False,
    device: str = "cpu",
) -> None:
    """Write the sampling track's zip from its test set, picture by picture, and check the finished file.

    readme: the fields of `submission.README_KEYS`, of which an empty method is filled in; None writes none.
    samples: predictions that `combine` makes one picture of; its mean is the first place's way (Revontuli report 2.3).
    tolerance: of the blend, as `hwm evaluate --protocol sampling` tunes it.  size: side of the pictures in pixels.
    The test set has more state rows than 77 (reference A.6); they are not read.
    Raises ValueError for a test set of the other track, or a blend without tolerance.
    """
    if (combine == "blend") != (tolerance is not None):
        raise ValueError(
            "a blend needs a tolerance, and only a blend does: take the one that `hwm evaluate RUN --protocol sampling` "
            "chooses (tuning.tolerance in results_sampling.json)"
        )
    tests = open_test_set(data)
    if not isinstance(tests, SamplingTestSet):
        raise ValueError(f"{data}: is the test set of the compression track (tokens), this track needs videos (video_0.mp4)")
    run = load_run(folder, which=which, device=device, changes=changes)
    coder = tokenizer_of(run, tokenizer, trust=trust, device=device)
    model, image_size = world_model(run), _image_size(run, coder)
    if readme is not None:
        readme = readme | {"method": readme["method"] or f"hwm {run.config.recipe}".strip()}
    sampling = Sampling(temperature=temperature if temperature is not None else own_temperature(model) or float(samples > 1))
    combined = _combiner(combine, tolerance)

    def pictures() -> Iterator[tuple[int, np.ndarray]]:
        for i, number in enumerate(tests.ids):
            members_BKHWC = predict_pictures(
                model,
                coder,
                torch.from_numpy(tests.frames(i))[None],
                torch.from_numpy(tests.states_NFA[i : i + 1, :SAMPLING_FRAMES]),
                image_size=image_size,
                out_size=(size, size),
                num_samples=samples,
                seeds=[seed_of_clip(seed, number)],
                members_at_once=members_at_once,
                sampling=sampling,
                device=device,
            )
            yield number, combined(members_BKHWC)[0].numpy()

    with Counter("predicting", unit="samples") as counter:
        write_sampling_submission(out, pictures(), readme, ids=tests.ids, size=(size, size), progress=counter)
    print(f"{out}: {len(tests.ids)} pictures, written and checked")


def _combiner(combine: Combine, tolerance: float | None) -> Callable[[Tensor], Tensor]:
    if combine == "blend":
        assert tolerance is not None
        return lambda members_BKHWC: ensemble.blend(members_BKHWC, tolerance=tolerance)
    return ensemble.mean if combine == "mean" else ensemble.medoid


def _image_size(run: Run, coder: Tokenizer | LatentTokenizer) -> tuple[int, int]:
    """Height and width of the frames that the model works on."""
    height, width = world_model(run).config.grid
    return height * coder.spatial_stride, width * coder.spatial_stride
