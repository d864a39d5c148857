"""A trained run in use: score it, submit it to the challenge's two tracks.  `hwm.watch` shows what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hwm.clock import SAMPLING_FRAMES
from hwm.contracts import Sampling
from hwm.data.clips import Clips, recorded
from hwm.data.motion import Motion
from hwm.data.onex import open_dataset
from hwm.data.testsets import CompressionTestSet, SamplingTestSet, open_test_set
from hwm.data.video import expect_proportions
from hwm.evaluate.cost import COST_REPEATS
from hwm.evaluate.motion import measured, motion_page, motion_verdict
from hwm.evaluate.networks import Lpips
from hwm.evaluate.page import plots
from hwm.evaluate.page.report import write_report
from hwm.evaluate.perceptual import InceptionFeatures, TokenizerFeatures, VideoFeatures
from hwm.evaluate.protocols import COMPRESSION, MOTION, PROTOCOLS, Protocol, Scoring, own_protocol
from hwm.evaluate.scores import Scores
from hwm.evaluate.scoring import evaluate
from hwm.evaluate.submission import check_readme, predict_samples, write_compression_submission, write_sampling_submission
from hwm.evaluate.ways import seed_of
from hwm.predict import ensemble
from hwm.predict.last_frame import draw
from hwm.publish.loaded import readers_of
from hwm.publish.trained import kept_in
from hwm.runs import COUNTS, Run, clips_for, expect_robot, load_run, token_counts, world_model
from hwm.safe_load.paths import is_file
from hwm.tokenizers.at_hand import NotAtHand, expect_made_by, image_size_of, tokenizer_of
from hwm.tokenizers.open import Undecoded
from hwm.training.device import choose_device
from hwm.work.claim import expect_apart, expect_suffix
from hwm.work.files import unsealed
from hwm.work.parts import Arrays, Finished, Work, fingerprint, listening, names_of, progress_of, sources
from hwm.work.progress import Counter
from hwm.work.ranges import check_ranges
from hwm.work.share import Share
from hwm.work.signals import StopFlag

Combine = Literal["mean", "blend", "medoid"]


def evaluate_run(
    folder: Path,
    scoring: Scoring = Scoring(),  # noqa: B008
    *,
    data: Path,
    video: Path | None = None,
    tuning: Path | None = None,
    training: Sequence[Path] = (),
    base: str = "",
    out: Path,
    command: str = "",
    timed: bool = True,
    share: Share = Share(),  # noqa: B008
    stop: StopFlag | None = None,
) -> Scores:
    """Score a run of any family by a protocol; write its results and its report into `out`.

    What was scored is kept in `out` until the report is written, so that the same call goes on where it was stopped, even
    killed, and gives the same numbers.  Where the results are there already, they are read, without their examples.

    data: held-out tokens or latents, as the model predicts them; raw video for a protocol of ensembles or a model of video.
    video: the raw dataset that tokens or latents were made from, to score against the recorded frames too.
    tuning: other data of that kind to choose blur and blend of ensembles on, and to learn intervals of doubt; None: the first
    clips of `data`.
    training: the run's training data, for the frequencies of tokens, of a run of a version that kept none.  base: as `load_run`.
    timed: whether time and memory of a prediction are measured too, of a world model.
    share: of the clips that this process scores; others, called alike, score the rest, and who is last writes the report.
    stop: asked between steps; None: one of its own, which SIGTERM and its kin raise.
    Of a model of tokens whose tokenizer is not at hand the tokens are scored alone, which the results say.
    Raises ValueError when the data is not of the run's tokenizer, the video is not theirs or an option would do nothing,
    Elsewhere where another process writes the report, Stopped where it was told to stop.
    """
    expect_apart(out, data, video, tuning, kept_in(folder))
    given = scoring.changed() | {"video": video, "tuning": tuning}
    asked = PROTOCOLS.get(scoring.protocol)
    if asked is not None:
        asked.refuse(given)
    check_ranges(Scoring, vars(scoring))
    device = str(choose_device(scoring.device))
    with listening(stop) as flag:
        run = load_run(folder, which=scoring.which, device=device, changes=scoring.set, base=base)
        if run.config.model.role == "twin":
            asked_for = {"training": training, "base": base, **given}
            return score_twin(run, scoring, data=data, out=out, command=command, given=asked_for)
        model = world_model(run)
        protocol = (asked or own_protocol(run.config.data.clip)).at(scoring.ahead)
        protocol.refuse(given)
        of_video = protocol.ensembles or model.predicts == "video"
        if not of_video:
            learned = run.config.data
            grids = (model.context_grids, model.future_grids)
            protocol.expect_clips(learned.clip, grids=grids, stride=learned.stride, run=folder)
        inception, lpips = scoring.inception, scoring.lpips
        held_out = _recorded_clips(run, data, protocol) if of_video else clips_for(run, data)
        coder: Any
        try:
            coder, unseen = tokenizer_of(run, scoring.tokenizer, trust=scoring.trust, device=device), ""
        except NotAtHand as none:
            if of_video or model.predicts != "tokens":
                raise
            coder, unseen = Undecoded(held_out.dataset.clock, model.config.vocab_size), str(none)
            of_pixels = ("video", "inception", "lpips", "decode", "doubt", "tuning", "readout")
            if idle := [f"--{name}" for name in of_pixels if given.get(name)]:
                raise ValueError(f"{', '.join(idle)}: of pixels, which take a tokenizer.  {none}") from None
        tuned_on = None if tuning is None else _recorded_clips(run, tuning, protocol) if of_video else clips_for(run, tuning)
        for clips in filter(None, (held_out, tuned_on)):
            if of_video:
                expect_proportions(clips.dataset.root, clips.dataset.grid, image_size_of(run, coder))
            elif not unseen:
                expect_made_by(clips.dataset, coder)
        filmed = recorded(held_out, video, size=image_size_of(run, coder)) if video else None
        masks = held_out.masks or bool(filmed and filmed.masks)
        readers, read_by = readers_of(held_out.dataset, masks=masks, readout=scoring.readout, device=device)
        others = {name: open_dataset(folder).fingerprint for name, folder in (("video", video), ("tuning", tuning)) if folder}
        made_of = sources(
            data=held_out.dataset.fingerprint, **others, **read_by, weights=[*lpips, *([inception] if inception else [])]
        )
        work = Work(out / protocol.results, made_of, share, flag)
        features: list[VideoFeatures] = [] if unseen else [TokenizerFeatures(device=device, still=not protocol.in_a_row)]
        if inception is not None:
            features.append(InceptionFeatures(inception, device=device))
        counted, missing = model.predicts == "tokens" and not protocol.ensembles, [plots.missing()]
        counts = _unigram(run, training) if counted else None
        if counted and counts is None:
            missing.append("There is no unigram row: the run keeps no frequencies of training tokens; give --training FOLDER.")
        if unseen:
            missing.append(f"Pixels are not scored, the tokens alone.  {unseen} (--trust lets a TorchScript tokenizer run).")
        for line in (missing := [line for line in missing if line]):
            print(line, flush=True)
        try:
            with Counter("evaluating", unit="clips") as counter:
                scores = evaluate(
                    model, coder, held_out, protocol, scoring,
                    video=filmed, masks=filmed.masks if filmed else None, readers=readers,
                    tuning_clips=tuned_on, segments=held_out.segments(),
                    starts=held_out.beginnings(protocol.num_seen) if of_video else None,
                    state_groups=held_out.dataset.robot.groups, unigram_counts=counts, features=features,
                    lpips=Lpips(lpips[0], lpips[1] if len(lpips) > 1 else None, device=device) if lpips else None,
                    cost_repeats=COST_REPEATS if timed else 0, device=device,
                    progress=counter, alive=counter.alive, say=counter.say, work=work,
                )  # fmt: skip
        except Finished as earlier:
            print(f"{work.results}: holds these very scores already; delete it to score again", flush=True)
            return Scores.from_json(earlier.found, where=str(work.results))
        scores.settings["missing"] = missing
        write_report(out, scores, protocol=protocol, run_folder=run.folder, command=command)
        work.remove(scores.settings["fingerprint"])
    return scores


OF_TWINS = ("clips", "batch_size", "seed", "which", "device")
"""Settings of a scoring that mean something for a twin."""


def score_twin(run: Run, scoring: Scoring, *, data: Path, out: Path, command: str = "", given: Mapping[str, Any]) -> Scores:
    """Score a run that holds a twin on recordings with commands; write results and report into `out`, as `evaluate_run` does.

    given: options by name, of which those that are not `OF_TWINS` must be empty.
    Raises ValueError for an option that would do nothing, and for data of another robot, without commands or too short.
    """
    if idle := [f"--{name.replace('_', '-')}" for name, value in given.items() if value and name not in OF_TWINS]:
        raise ValueError(f"{', '.join(idle)}: of world models; {run.folder} holds a twin, which is scored without")
    dataset = Motion(open_dataset(data))
    expect_robot(dataset, run.config.model, run.identity)
    with Counter("evaluating", unit="clips") as counter:
        scores = measured(run.model, dataset, scoring, progress=counter)
    scores.settings |= {"run": str(run.folder), "step": run.step, "data": str(data)}
    looks: Any = {"words": lambda scores: [motion_verdict(scores)], "lay_out": motion_page}
    write_report(out, scores, protocol=MOTION, run_folder=run.folder, command=command, **looks)
    return scores


def _recorded_clips(run: Run, folder: Path, protocol: Protocol) -> Clips:
    """A protocol's clips of a raw dataset, which share no frame, of which the seen and the scored frames are given.

    As recorded where ensembles are drawn, else of the size that the run learned from.
    Raises ValueError for data of another kind or robot.
    """
    dataset: Any = open_dataset(folder)
    if dataset.kind != "video":
        what = protocol.title.lower() if protocol.ensembles else "model of video"
        raise ValueError(f"{folder}: the {what} is scored on recorded video; give the raw dataset (videos as .mp4)")
    expect_robot(dataset, run.config.model, run.identity)
    if not protocol.ensembles:
        dataset = dataset.resized(run.config.data.image_size)
    kept = np.append(np.arange(protocol.num_seen), protocol.scored)
    masks = all(shard.masks_path is not None for shard in dataset.shards)
    return Clips(dataset, kind=protocol.clip, overlap=False, length=int(kept[-1]) + 1, kept=kept, masks=masks)


def submit_compression(
    folder: Path,
    *, data: Path, out: Path, readme: dict[str, str], which: str = "best", device: str = "auto",
    poll: Callable[[], None] = lambda: None,
) -> None:
    """Write the compression track's zip from its test set, sample by sample, and check the finished file.

    poll: called between samples; may raise, and then there is no file.
    """
    device = str(choose_device(device))
    expect_suffix(out, ".zip")
    expect_apart(out, data, kept_in(folder))
    run = load_run(folder, which=which, device=device)
    model = world_model(run)
    if model.predicts != "tokens" or own_protocol(run.config.data.clip) != COMPRESSION:
        raise ValueError(f"{folder}: the compression track is entered with an ST-Transformer, this is {run.config.recipe}")
    tests = open_test_set(data)
    if not isinstance(tests, CompressionTestSet):
        raise ValueError(f"{data}: is the test set of the sampling track (videos), this track needs tokens (video_0.bin)")
    expect_robot(tests, model.config, run.identity)
    kept = min(COMPRESSION.kept, model.config.vocab_size)
    shape = (model.future_grids, *model.config.grid, kept)
    samples = predict_samples(model, tests.ids, tests.tokens_NTHW, tests.states_NFA, top_k=kept, device=device)
    with Counter("predicting", unit="samples") as counter:
        form: dict[str, Any] = {"num_samples": len(tests.ids), "shape": shape, "vocab_size": model.config.vocab_size}
        write_compression_submission(out, samples, readme, **form, progress=counter, poll=poll)
    print(f"{out}: {len(tests.ids)} samples, written and checked")


def submit_sampling(
    folder: Path,
    *, data: Path, out: Path, readme: dict[str, str] | None, samples: int = 20, combine: Combine = "mean",
    tolerance: float | None = None, size: int = 512, batch_size: int = 16, seed: int = 0, which: str = "best",
    changes: tuple[str, ...] = (), temperature: float | None = None, device: str = "auto", tokenizer: str = "", base: str = "",
    share: Share = Share(), stop: StopFlag | None = None,  # noqa: B008
) -> None:
    """Write the sampling track's zip from its test set, picture by picture, and check the finished file.

    Pictures are kept beside `out` until it is written: the same call goes on where it was stopped, even killed.

    readme: the fields of `submission.README_KEYS`, of which an empty method is filled in; None writes none.
    samples: predictions that `combine` makes one picture of; its mean is the first place's way (Revontuli report 2.3).
    tolerance: of the blend, as `hwm evaluate --protocol sampling` tunes it.  size: side of the pictures in pixels.
    batch_size: predictions at a time.  share, stop: as in `evaluate_run`, for the pictures and the zip.
    The test set has more state rows than 77 (reference A.6); they are not read.
    Raises ValueError for a test set of the other track, or a blend without tolerance; Elsewhere and Stopped as `evaluate_run`.
    """
    if (combine == "blend") != (tolerance is not None):
        raise ValueError(
            "a blend needs a tolerance, and only a blend does: take the one that `hwm evaluate RUN --protocol sampling` "
            "chooses (facts.tuning.tolerance in results_sampling.json)"
        )
    device = str(choose_device(device))
    expect_suffix(out, ".zip")
    expect_apart(out, data, kept_in(folder))
    with listening(stop) as flag:
        tests = open_test_set(data)
        if not isinstance(tests, SamplingTestSet):
            raise ValueError(f"{data}: is the test set of the compression track (tokens), this track needs videos (video_0.mp4)")
        run = load_run(folder, which=which, device=device, changes=changes, base=base)
        expect_robot(tests, run.config.model, run.identity)
        coder = tokenizer_of(run, tokenizer, device=device)
        model, image_size = world_model(run), image_size_of(run, coder)
        expect_proportions(data, tests.facts()["frame_size"], image_size)
        if readme is not None:
            readme = readme | {"method": readme["method"] or f"hwm {run.config.recipe}".strip()}
            check_readme(readme, out)
        own = model.temperature or float(samples > 1)
        sampling = Sampling(temperature=own if temperature is None else temperature)
        combined: Callable[[Tensor], Tensor] = getattr(ensemble, combine)
        if tolerance is not None:
            combined = partial(ensemble.blend, tolerance=tolerance)
        drawing: dict[str, Any] = {"frames": [SAMPLING_FRAMES - 1], "image_size": image_size, "out_size": (size, size)}
        drawing |= {"num_samples": samples, "members_at_once": batch_size, "sampling": sampling}
        drawing |= {"device": device, "poll": flag.check}

        def picture(i: int) -> Arrays:
            members_BKFHWC = draw(
                model, coder, torch.from_numpy(tests.frames(i))[None], torch.from_numpy(tests.states_NFA[i : i + 1]),
                seeds=[seed_of(seed, tests.ids[i])], **drawing,
            )
            return {"picture": combined(members_BKFHWC[:, :, 0])[0].numpy()}

        work, names = Work(out, sources(data=tests.fingerprint), share, flag), names_of("picture", len(tests.ids))
        ways = {"samples": samples, "combine": combine, "tolerance": tolerance, "sampling": asdict(sampling), "seed": seed}
        sizes = {"size": size, "image_size": image_size, "at_once": batch_size, "device": torch.device(device).type}
        key = fingerprint(
            model, ids=tests.ids, states=tests.states_NFA, tokenizer=coder.fingerprint(), sources=work.sources, **ways, **sizes
        )
        parts = work.open(key)
        with Counter("predicting", unit="samples") as counter:
            work.fill(parts, names, picture, done=progress_of(counter, share.of([1] * len(names))))
        pictures = ((number, arrays["picture"]) for number, arrays in zip(tests.ids, work.read(parts, names)))
        write_sampling_submission(out, pictures, readme, ids=tests.ids, size=(size, size), poll=flag.check)
        work.remove(key)
    print(f"{out}: {len(tests.ids)} pictures, written and checked")


def _unigram(run: Run, training: Sequence[Path]) -> Tensor | None:
    """Token frequencies of the training set, as the run keeps them or of the data given; None where there are neither."""
    if training:
        clips = clips_for(run, training)
        if run.identity.get("train") not in (None, clips.dataset.fingerprint):
            fault = "is not what the run learned from; leave it out: newer runs keep the frequencies"
            raise ValueError(f"{' and '.join(map(str, training))}: {fault}")
        return token_counts(clips)
    if not is_file(run.folder / COUNTS):
        return None
    kept = unsealed(run.folder / COUNTS, remedy="delete it, and give --training FOLDER")
    if kept.get("train") != run.identity.get("train"):
        return None  # of an earlier start in this folder
    model: Any = run.config.model
    counts, size = kept.get("counts"), model.vocab_size
    if not isinstance(counts, list) or len(counts) != size or any(type(n) is not int or not 0 <= n < 2**62 for n in counts):
        raise ValueError(f"{run.folder / COUNTS}: expected {size} counts of tokens; delete it, and give --training FOLDER")
    return torch.tensor(counts)
