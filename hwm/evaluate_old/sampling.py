"""The sampling protocol: 17 frames seen, 77 states given, frame 76 predicted and scored as a picture.

The same for every family (SYSTEMS.md sections 4 and 5; reference B.4): a model of every fourth frame predicts it in one
go, the others roll out to it.  Scored against the recorded frame, at its size, in 8-bit RGB; baselines start from
recorded frames.  Beside one sample stand the pixel mean of an ensemble (Revontuli report section 2.3), its medoid, the
spread-aware blend (ours), and blur and histogram matching (Duke, reference E.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hwm.clock import SAMPLING_FRAMES
from hwm.contracts import LatentTokenizer, LatentWorldModel, Sampling, Tokenizer, TokenWorldModel
from hwm.evaluate_old.baselines import mean_of_context
from hwm.evaluate_old.calibration import Calibration
from hwm.evaluate_old.clip_choice import from_another_segment, spread
from hwm.evaluate_old.perceptual import Lpips, VideoFeatures
from hwm.evaluate_old.results import COPY_FRAME, MEAN_OF_CONTEXT
from hwm.evaluate_old.rows import STILL as TEMPERATURE_0
from hwm.evaluate_old.rows import own_temperature
from hwm.evaluate_old.sampling_clips import CLIPS_AT_ONCE, Clips, FrameSampler, SeenClips, seen_clips
from hwm.evaluate_old.sampling_pictures import Gallery
from hwm.evaluate_old.sampling_results import (
    BLURRED,
    BLURRED_MATCHED,
    COPY_BLURRED,
    MATCHED,
    ONE_SAMPLE,
    STILL,
    SamplingResult,
    Tuning,
    blend_of,
    mean_of,
    medoid_of,
    permuted,
    zeroed,
)
from hwm.evaluate_old.sampling_scores import FrameScorer
from hwm.evaluate_old.sampling_summary import differences, measured_cost, saturation
from hwm.evaluate_old.tuning import Tuner, set_apart
from hwm.predict import ensemble
from hwm.predict.postprocess import gaussian_blur, match_histograms
from hwm.work.fingerprint import fingerprint
from hwm.work.parts import Arrays, Times, Work, inside, names_of, progress_of, seconds, sizes_of, under

MEMBERS = (1, 5, 20)
"""Sizes of the ensembles of the report's Table 2."""
SIZES = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 50)
"""Sizes on the curve of PSNR against members, as far as there are samples."""
CONTROL_MEMBERS = 5
"""Members of the rows with other states: enough for a stable difference, a quarter of the cost (ours)."""


def evaluate_sampling(
    model: TokenWorldModel | LatentWorldModel,
    tokenizer: Tokenizer | LatentTokenizer,
    clips: Clips,
    *,
    image_size: tuple[int, int],
    score_size: int = 0,
    segments: Sequence[int] | np.ndarray | None = None,
    tuning_clips: Clips | None = None,
    num_tuning: int = 16,
    num_clips: int = 64,
    members: Sequence[int] = MEMBERS,
    sampling: Sampling | None = None,
    members_at_once: int = 16,
    seed: int = 0,
    features: Sequence[VideoFeatures] = (),
    lpips: Lpips | None = None,
    cost_repeats: int = 3,
    num_examples: int = 4,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    work: Work | None = None,
) -> SamplingResult:
    """Score frame 76 of a model's predictions, of their ensembles and of what needs no model.

    clips: at the recorded size.  image_size: height and width that the model works on.
    score_size: side of the square pictures that are scored; 0: as recorded.
    segments: the segment of every clip; intervals then resample segments, and permuted states are of another segment.
    tuning_clips: other clips to choose blur and blend on; None: the first `num_tuning` of `clips`, whose segments are not
    scored.  num_clips: how many are scored, evenly spread; 0: all.
    members: sizes of the ensembles, each the first members of the largest; their predictions with other states have the
    largest of these sizes up to `CONTROL_MEMBERS`.
    sampling: None is the model's own, or temperature 1 where that is greedy.  members_at_once: predictions together.
    seed: of samples, permutation and intervals; everything but `seconds` and `cost` repeats with it.
    features, lpips: networks of the user's weights for FID and LPIPS.  cost_repeats: 0 leaves the cost out.
    num_examples: clips kept to look at: from each of that many equal parts the one whose frame 76 differs most from 16.
    progress: called with clips done and clips in all, tuning included, of this process.
    work: how it goes on where it was stopped, and is shared with other processes; None: in memory, alone.
    Raises ValueError for clips of another kind, or too few of them; Elsewhere where another process has the result; Stopped
    where `work` was told to stop.
    """
    started = time.perf_counter()
    work = work or Work()
    members = _checked_members(members)
    largest, control = members[-1], _control_members(members)
    if num_tuning < 2:
        raise ValueError(f"blur and blend are chosen on clips of their own: at least 2, got {num_tuning}")
    groups = None if segments is None else np.asarray(segments)
    if tuning_clips is None:
        tuning_numbers, pool = set_apart(len(clips), groups, num_tuning=num_tuning)
    else:
        tuning_numbers, pool = spread(len(tuning_clips), num_tuning), np.arange(len(clips))
    chosen = pool[spread(len(pool), num_clips)]
    groups = None if groups is None else groups[chosen]
    source = chosen[from_another_segment(len(chosen), groups, seed)]
    drawn = sampling or Sampling(temperature=own_temperature(cast(nn.Module, model)) or 1.0)
    sampler = FrameSampler(
        model, tokenizer, image_size, score_size, drawn, members_at_once, seed, torch.device(device), work.stop.check
    )
    first = clips.batch(chosen[:1])
    sampler.look_at(first)
    settings: dict[str, Any] = {
        "protocol": "sampling",
        "predicts": model.predicts,
        "frame_step": model.frame_step,
        "num_clips": len(chosen),
        "num_segments": None if groups is None else len(np.unique(groups)),
        "members": list(members),
        "seed": seed,
        "sampling": asdict(drawn),
        "own_sampling": sampling is None and own_temperature(cast(nn.Module, model)) > 0,
        "image_size": list(image_size),
        "recorded_size": list(sampler.recorded_size),
        "score_size": list(sampler.score_size),
        "tokenizer": tokenizer.name,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "perceptual": [feature.name for feature in features] + (["LPIPS"] if lpips is not None else []),
        "confidence": 0.95,
        "zeroed_states": [round(float(v), 6) for v in model.neutral_state_A],
    }
    settings["fingerprint"] = key = fingerprint(
        model,
        settings=settings,
        clips=[chosen, source, groups, first.states_BFA, first.video_BFHWC, model.neutral_state_A],
        tuning=[tuning_clips is not None, tuning_numbers],
        batch=[members_at_once, CLIPS_AT_ONCE, num_examples],
        device=torch.device(device).type,
        sources=list(work.sources),
    )
    parts = work.open(key)
    tuning_sizes, sizes = (sizes_of(len(numbers), CLIPS_AT_ONCE) for numbers in (tuning_numbers, chosen))
    for_tuning, scored = names_of("tuning", len(tuning_sizes)), names_of("part", len(sizes))
    done = progress_of(progress, [*tuning_sizes, *work.share.of(sizes)])

    tuner, times = Tuner(), Times()

    def tune(part: int) -> Arrays:
        begun = time.perf_counter()
        clip = seen_clips(tuning_clips or clips, tuning_numbers, sampler, part=part)
        found = tuner.measure(sampler.draw(clip, num_samples=largest), clip.seen, clip.truth)
        return found | seconds(total=time.perf_counter() - begun)

    before = time.perf_counter() - started
    work.fill(parts, for_tuning, tune, done=done, all_of_them=True)
    for arrays in work.read(parts, for_tuning):
        times.add(arrays)
        tuner.add(arrays)
    tuning = tuner.choose("other clips" if tuning_clips is not None else "the first clips, whose segments are not scored")

    scorer = FrameScorer(features, lpips, segments=groups, num_clips=len(chosen))
    calibration = Calibration(seed=seed) if largest > 1 else None
    ensembles = sorted({n for n in SIZES if n < largest} | set(members))
    gallery = Gallery(num_examples, len(chosen))

    def measure(part: int) -> Arrays:
        begun, spent = time.perf_counter(), sampler.seconds
        first_clip = part * CLIPS_AT_ONCE
        clip = seen_clips(clips, chosen, sampler, part=part)
        drawn_BKHWC = sampler.draw(clip, num_samples=largest)
        means = {n: ensemble.mean(drawn_BKHWC[:, :n]) for n in ensembles}
        rows = _model_rows(drawn_BKHWC, {n: means[n] for n in members}, clip, tuning)
        rows[STILL] = sampler.draw(clip, num_samples=1, sampling=TEMPERATURE_0)[:, 0]
        neutral = model.neutral_state_A.cpu().to(clip.states).expand_as(clip.states)
        other = clips.batch(source[first_clip : first_clip + CLIPS_AT_ONCE]).states_BFA[:, :SAMPLING_FRAMES]
        for name, states in ((zeroed(control), neutral), (permuted(control), other)):
            rows[name] = ensemble.mean(sampler.draw(clip, num_samples=control, states=states))
        rows |= _baselines(clip, tuning)
        found = scorer.measure(rows, means, clip.truth, first_clip=first_clip, poll=work.stop.check)
        if calibration is not None:
            found |= under("calibration", calibration.measure(drawn_BKHWC, clip.truth, first_clip=first_clip))
        found |= under("gallery", gallery.measure(first_clip, clip, drawn_BKHWC, rows))
        return found | seconds(model_and_tokenizer=sampler.seconds - spent, total=time.perf_counter() - begun)

    work.fill(parts, scored, measure, done=done)
    started = time.perf_counter()
    for arrays in work.read(parts, scored):
        times.add(arrays)
        scorer.add(arrays)
        gallery.add(inside("gallery", arrays))
        if calibration is not None:
            calibration.add(inside("calibration", arrays))

    headline = mean_of(largest)
    summed = scorer.seconds
    found, perceptual = scorer.rows(headline, seed=seed)
    times.spent["perceptual scores"] += scorer.seconds - summed
    curve = scorer.sizes(seed=seed)
    result = SamplingResult(
        headline=headline,
        control=control,
        settings=settings,
        rows=found,
        differences=differences(scorer, headline, control, members, seed=seed) + perceptual,
        sizes=curve,
        saturation=saturation(curve),
        calibration=None if calibration is None else calibration.result().to_json(),
        tuning=tuning,
        seconds=times.spent,
        cost=measured_cost(sampler, clips, chosen, largest, repeats=cost_repeats),
        examples=gallery.examples(),
    )
    result.seconds["total"] += before + time.perf_counter() - started
    return result


def _model_rows(
    drawn_BKHWC: Tensor, means: dict[int, Tensor], clip: SeenClips, tuning: Tuning
) -> dict[str, Tensor]:
    """What can be made of the samples with the true states."""
    sample, num_members = drawn_BKHWC[:, 0], drawn_BKHWC.shape[1]
    rows = {ONE_SAMPLE: sample, **{mean_of(n): frames for n, frames in means.items()}}
    if num_members > 1:
        assert tuning.tolerance is not None
        rows[medoid_of(num_members)] = ensemble.medoid(drawn_BKHWC)
        rows[blend_of(num_members)] = ensemble.blend(drawn_BKHWC, tolerance=tuning.tolerance)
    rows[BLURRED] = gaussian_blur(sample, sigma=tuning.sigma_sample)
    rows[MATCHED] = match_histograms(sample, clip.seen)
    rows[BLURRED_MATCHED] = match_histograms(rows[BLURRED], clip.seen)
    return rows


def _baselines(clip: SeenClips, tuning: Tuning) -> dict[str, Tensor]:
    return {
        COPY_FRAME: clip.seen,
        COPY_BLURRED: gaussian_blur(clip.seen, sigma=tuning.sigma_copy),
        MEAN_OF_CONTEXT: mean_of_context(clip.past, num_frames=1)[:, 0],
    }


def _checked_members(members: Sequence[int]) -> tuple[int, ...]:
    if not members or min(members) < 1:
        raise ValueError(f"ensembles have at least one member, got sizes {list(members)}")
    return tuple(sorted(set(members)))


def _control_members(members: Sequence[int]) -> int:
    return max((n for n in members if n <= CONTROL_MEMBERS), default=min(members))
