"""The one loop that scores every family by every protocol: look at some clips, draw, make the rows, measure, go on.

What is measured of a batch of clips is kept as plain arrays (`work.parts`), so that a scoring goes on where it was stopped
and is shared with other processes; the table of means, intervals and differences is made from all of them (`measures`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Sampling
from hwm.evaluate.controls import controls
from hwm.evaluate.cost import COST_REPEATS, Timed, measure_cost
from hwm.evaluate.doubting import Doubting
from hwm.evaluate.measures import Measures
from hwm.evaluate.metrics import METRICS, Metric
from hwm.evaluate.perceptual import Lpips, PerceptualScorer, VideoFeatures
from hwm.evaluate.protocols import COPY_FRAME, COPY_GRID, Protocol, Scoring
from hwm.evaluate.scenes import Scene, Scenes, from_another_segment, siblings, spread
from hwm.evaluate.scores import ALL, ALL_GRIDS, LAST, TOKENS, Cost, Scores, no_intervals
from hwm.evaluate.token_scores import TokenScorer
from hwm.evaluate.tuning import Tuner, set_apart
from hwm.evaluate.ways import Predictor, Ways, ensembles, readings, unseen
from hwm.tokenizers.open import Undecoded
from hwm.work.parts import Arrays, Times, Work, fingerprint, inside, names_of, progress_of, seconds, sizes_of, under
from hwm.work.ranges import BadSetting

CLIPS_AT_ONCE = 4
"""Clips whose ensembles are in memory together; those of 512x512 pictures are large."""


def evaluate(
    model: Any, tokenizer: Any, clips: Any, protocol: Protocol, scoring: Scoring = Scoring(),  # noqa: B008
    *, video: Callable[[np.ndarray], Tensor] | None = None, masks: Callable[[np.ndarray], Tensor] | None = None,
    readers: Sequence[Metric] = (), tuning_clips: Any = None,
    segments: Sequence[int] | np.ndarray | None = None, starts: np.ndarray | None = None,
    state_groups: Mapping[str, Sequence[int]] = MappingProxyType({}),
    unigram_counts: Tensor | None = None, kept_logits: int | None = None,
    features: Sequence[VideoFeatures] = (), lpips: Lpips | None = None,
    cost_repeats: int = COST_REPEATS, num_examples: int | None = None,
    device: torch.device | str = "cpu", progress: Callable[[int, int], None] | None = None,
    alive: Callable[[], None] = lambda: None, say: Callable[[str], None] = lambda line: None, work: Work | None = None,
) -> Scores:  # fmt: skip
    """Score a model's predictions with true, neutral and permuted states, beside what needs no model.

    tokenizer: an `Undecoded` where there is none: then the tokens alone are scored, and nothing that is seen.
    clips: tokens or latents made by `tokenizer`, as the model predicts them, or recorded video, with their states: an object
    with a length and `batch(indices)`.  scoring: its files, tokenizer and device are the caller's to open.
    video: gives the recorded frames of clips of grids, uint8 (B, F, H, W, C) of the size the tokenizer decodes to.
    masks: gives of these frames which pixels show the robot's arms, bool (B, F, h, w).
    readers: further metrics, which hold something that is read off the frames against what is known of the clips (`reading`).
    tuning_clips: other clips to choose blur and blend of ensembles on, and to learn intervals of doubt; None: the first of
    `clips`, whose segments are not scored.
    segments: the segment of every clip; intervals then resample segments, and permuted states are of another segment.
    starts: a number for how every clip of video begins; those with the same one count as of one segment, and their futures are
    held against each other's.
    state_groups: dimensions of the robot's state by the names that scoring.controls may use.
    unigram_counts: see `token_scores.unigram_counts`, from training tokens.
    kept_logits: of models of tokens; None: the protocol's number.
    features, lpips: networks that look at the frames.  cost_repeats: timed predictions for the cost; 0 leaves it out.
    num_examples: clips kept to look at, from each of that many equal parts the one whose future moves most, whatever the model
    made of it; None: the protocol's number.  progress: called with clips done and clips in all, of this process.
    alive: called often while it works.  say: told what follows when all clips are scored.
    work: how it goes on where it was stopped, and is shared with other processes; None: in memory, alone.
    Everything but `seconds` and `cost` repeats with the same seed.
    Raises ValueError for clips or a tokenizer that do not fit the model, or too few clips; Elsewhere where another process
    has the result; Stopped where `work` was told to stop.
    """
    started = time.perf_counter()
    work, seed, of_ensembles = work or Work(), scoring.seed, protocol.ensembles
    stop = work.stop

    def poll() -> None:
        stop.check()
        alive()

    num_examples = protocol.examples if num_examples is None else num_examples
    if model.predicts != tokenizer.kind:
        raise ValueError(f"the model predicts {model.predicts}, which the tokenizer {tokenizer.name} does not decode")
    alike = None if starts is None else siblings(starts)
    if starts is not None:
        own = np.arange(len(starts)) if segments is None else np.asarray(segments)
        segments = own[np.unique(starts, return_index=True)[1]][np.unique(starts, return_inverse=True)[1]]
    chosen, groups, to_tune = _chosen(clips, tuning_clips, segments, protocol, scoring)
    others = chosen[from_another_segment(len(chosen), groups, seed)]
    at_once = CLIPS_AT_ONCE if of_ensembles else scoring.batch_size
    sampling, is_own = _sampling(model, protocol, scoring)
    others_of = controls(scoring.controls, state_groups)
    if isinstance(tokenizer, Undecoded):
        ways = unseen(protocol, controls=others_of)
    elif of_ensembles:
        ways = ensembles(scoring.members, controls=others_of)
    else:
        ways = readings(model, sampling.temperature, decode=scoring.decode, controls=others_of)
    tokens, kept_logits = None, protocol.kept if kept_logits is None else kept_logits
    if model.predicts == "tokens" and not of_ensembles:
        size, kept_logits = tokenizer.vocab_size, min(kept_logits, tokenizer.vocab_size)
        counted: dict[str, Any] = {"unigram_counts": unigram_counts, "controls": ways.controls, "forced": protocol.forced}
        tokens = TokenScorer(vocab_size=size, top_k=kept_logits, **counted)
    shown: dict[str, Any] = {"video": video, "masks": masks, "controls": others_of, "alike": alike}
    shown |= {"score_size": scoring.score_size, "device": device}
    scenes = Scenes(model, tokenizer, clips, protocol, **shown)
    predictor = Predictor(
        model, tokenizer, scenes, sampling=None if is_own else sampling, seed=seed, members_at_once=scoring.batch_size,
        top_k=kept_logits, device=device, poll=poll,
    )  # fmt: skip

    first = scenes.look(chosen[:at_once], others=others[:at_once])
    settings = _settings(protocol, first, ways, predictor, tokens) | {
        "num_clips": len(chosen),
        "num_segments": None if groups is None else len(np.unique(groups)),
        **({} if alike is None else {"branches": alike.shape[1] + 1}),
        "seed": seed,
        "sampling": asdict(sampling),
        "own_sampling": is_own,
        "decode": scoring.decode,
        "doubt": scoring.doubt,
        "metrics": [metric.name for metric in (*METRICS, *readers)],
        "readers": [metric.name for metric in readers],
        "perceptual": [feature.name for feature in features] + (["LPIPS"] if lpips is not None else []),
        "confidence": 0.95,
    }
    settings["fingerprint"] = key = fingerprint(
        model, settings=settings,
        scoring=asdict(scoring) | {"inception": None, "lpips": (), "readout": "", "device": torch.device(device).type},
        clips=[chosen, others, groups, alike, first.context, first.future, *first.states.values()],
        masks=first.view.masks if first.views else None,
        truth=first.view.truth if first.future is None else None, tuning=[tuning_clips is not None, to_tune],
        counts=unigram_counts, examples=num_examples, sources=list(work.sources),
    )  # fmt: skip
    settings |= {"hz": getattr(clips, "hz", None), "no_intervals": no_intervals(settings)}
    parts, sizes, tuning_sizes = work.open(key), sizes_of(len(chosen), at_once), sizes_of(len(to_tune), at_once)
    done, before = progress_of(progress, [*tuning_sizes, *work.share.of(sizes)]), time.perf_counter() - started

    times, tuner, tuning = Times(), Tuner(), None

    doubting = Doubting(predictor, num_samples=scoring.doubt) if scoring.doubt else None

    def tune(part: int) -> Arrays:
        begun = time.perf_counter()
        scene = scenes.look(to_tune[part * at_once : (part + 1) * at_once], clips=tuning_clips)
        if doubting is not None:
            found = under("doubt", doubting.learn(scene))
        else:
            found = tuner.measure(predictor.samples(scene, ways.members[-1])[:, :, -1], *scene.last())
        return found | seconds(total=time.perf_counter() - begun)

    if for_tuning := names_of("tuning", len(tuning_sizes)):
        work.fill(parts, for_tuning, tune, done=done, all_of_them=True)
        for arrays in work.read(parts, for_tuning):
            times.add(arrays)
            if doubting is not None:
                doubting.add_learned(inside("doubt", arrays))
            else:
                tuner.add(arrays)
        if doubting is not None:
            doubting.settle()
        else:
            tuning = tuner.choose("the first clips, whose segments are not scored" if tuning_clips is None else "other clips")

    measures = Measures(
        predictor, ways, tokens=tokens, each=not protocol.in_a_row,
        perceptual=PerceptualScorer(
            features, lpips, segments=groups, num_clips=len(chosen), ahead=settings.get("ahead", ()),
            followed=(ways.headline, COPY_FRAME),
        ),
        tuning=tuning, doubting=doubting, readers=readers, num_clips=len(chosen), num_examples=num_examples, seed=seed, poll=poll,
    )  # fmt: skip

    def measure(part: int) -> Arrays:
        these = slice(part * at_once, (part + 1) * at_once)
        return measures.measure(scenes.look(chosen[these], first=these.start, others=others[these]))

    scored = names_of("part", len(sizes))
    work.fill(parts, scored, measure, done=done)
    started = time.perf_counter()
    for arrays in work.read(parts, scored):
        measures.add(arrays)
    table = measures.summary(groups, reference=settings["reference"], span=LAST if settings["scored_frames"] == 1 else ALL)
    spent, cost = measures.times.spent, None
    if cost_repeats:
        say("all clips are scored; what a prediction costs is measured next")
        cost = _cost(predictor, scenes.look(chosen[: 1 if ways.members else at_once]), ways, cost_repeats)
    spent["total"] += times.spent.get("total", 0.0) + before + time.perf_counter() - started
    return Scores(protocol.name, ways.headline, settings, **table, seconds=spent, cost=cost, examples=measures.gallery.examples())


def _chosen(
    clips: Any, tuning_clips: Any, segments: Any, protocol: Protocol, scoring: Scoring
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Numbers of the clips that are scored, their segments, and numbers of those that blur and blend are chosen on."""
    groups, pool, tuning = None if segments is None else np.asarray(segments), np.arange(len(clips)), np.arange(0)
    if scoring.doubt == 1:
        raise BadSetting("doubt", "must be 0 or at least 2, got 1: one prediction agrees with itself")
    if protocol.ensembles or scoring.doubt:
        if scoring.tuning_clips < 2:
            raise ValueError(f"tuning takes clips of its own: at least 2, got {scoring.tuning_clips}")
        if tuning_clips is None:
            tuning, pool = set_apart(len(clips), groups, num_tuning=scoring.tuning_clips)
        else:
            tuning = spread(len(tuning_clips), scoring.tuning_clips)
    chosen = pool[spread(len(pool), scoring.clips)]
    return chosen, None if groups is None else groups[chosen], tuning


def _sampling(model: Any, protocol: Protocol, scoring: Scoring) -> tuple[Sampling, bool]:
    """How samples are drawn, and whether it is the model's own way."""
    own = float(model.temperature)
    temperature = (own or float(protocol.ensembles)) if scoring.temperature is None else scoring.temperature
    sampling = Sampling(temperature, scoring.top_k, scoring.top_p)
    if filtered := [name for name in ("top_k", "top_p") if getattr(scoring, name) != getattr(Scoring, name)]:
        if model.predicts != "tokens":
            raise BadSetting(filtered[0], f"chooses among tokens; the model predicts {model.predicts}: leave it out")
        if not temperature:
            raise BadSetting(filtered[0], "needs a temperature above 0: at 0 the most likely token is taken; give it too")
    return sampling, sampling == Sampling(own)


def _settings(protocol: Protocol, scene: Scene, ways: Ways, predictor: Predictor, tokens: TokenScorer | None) -> dict[str, Any]:
    """What the protocol, the model, its tokenizer and the first clips say."""
    model, tokenizer = predictor.model, predictor.tokenizer
    found: dict[str, Any] = {"protocol": protocol.name, "references": list(scene.views) or [TOKENS]}
    if scene.views:
        past, truth = scene.view.past, scene.view.truth
        found |= {
            "span": protocol.span,
            "context_frames": past.shape[1],
            "future_frames": truth.shape[1] if scene.future is not None else protocol.scored[-1] + 1 - protocol.num_seen,
            "scored_frames": truth.shape[1],
            **({} if protocol.in_a_row else {"ahead": [frame + 1 - protocol.num_seen for frame in protocol.scored]}),
            "recorded_size": list(scene.context.shape[2:4]) if scene.future is None else list(truth.shape[2:4]),
            "score_size": list(truth.shape[2:4]),
            "image_size": list(predictor.image_size(scene)),
            "copy": COPY_FRAME,
        }
    else:
        frames = {"context_frames": protocol.num_seen, "future_frames": len(protocol.scored), "scored_frames": 0}
        found |= {"span": ALL_GRIDS, "copy": COPY_GRID, **frames}
    found |= {
        "reference": found["references"][0],
        "control": ways.control,
        "controls": {name: row.name for name, row in ways.controls.items()},
        "members": list(ways.members),
        "ensembles": list(ways.sizes),
        "predicts": model.predicts,
        "frame_step": model.frame_step,
        "context_grids": model.context_grids,
        "future_grids": model.future_grids,
        "zeroed_states": [round(float(v), 6) for v in model.neutral_state_A],
        "tokenizer": tokenizer.name,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
    }
    if tokens is not None:
        size = tokens.vocab_size
        found |= {"top_k": tokens.top_k, "vocab_size": size, "uniform_cross_entropy": math.log(size)}
    return found


def _cost(predictor: Predictor, scene: Scene, ways: Ways, repeats: int) -> Cost:
    """Of the headline's prediction with nothing else beside it."""
    spent, batch, largest = predictor.seconds, len(scene.numbers), max(ways.members, default=1)
    if ways.members:
        timed = [Timed("seconds, 1 sample", lambda: predictor.samples(scene, 1), repeats=repeats)]
        if largest > 1:
            timed.append(Timed(f"seconds, {largest} samples", lambda: predictor.samples(scene, largest), repeats=1))
        how = f"one clip, {predictor.members_at_once} samples at a time, encoding and decoding included"
    else:
        decoded = lambda: predictor.bare(scene, decode=True, **ways.reading)  # noqa: E731
        timed = [Timed("samples/s decoded", decoded, repeats, batch, warm=True)] if scene.views else []
        timed.append(Timed("samples/s", lambda: predictor.bare(scene, decode=False, **ways.reading), repeats, batch, warm=True))
        how = f"median of {repeats} predictions of {batch} clips"
    cost = measure_cost(predictor.model, timed, device=predictor.device, how=how)
    predictor.seconds = spent
    return cost
