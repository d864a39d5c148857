"""Submitting a trained run to the challenge, in both tracks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hwm.apply import image_size_of, tokenizer_of
from hwm.clock import SAMPLING_FRAMES
from hwm.contracts import Sampling
from hwm.data.testsets import CompressionTestSet, SamplingTestSet, open_test_set
from hwm.evaluate.scoring import TOP_LOGITS
from hwm.evaluate.submission import check_readme, predict_samples, write_compression_submission, write_sampling_submission
from hwm.evaluate.ways import seed_of
from hwm.models.st_transformer import STTransformer
from hwm.predict import ensemble
from hwm.predict.last_frame import draw
from hwm.runs import load_run, world_model
from hwm.work.fingerprint import fingerprint, sources
from hwm.work.parts import Arrays, Work, listening, names_of, progress_of
from hwm.work.progress import Counter
from hwm.work.share import Share
from hwm.work.signals import StopFlag

Combine = Literal["mean", "blend", "medoid"]


def submit_compression(
    folder: Path,
    *,
    data: Path,
    out: Path,
    readme: dict[str, str],
    which: str = "best",
    device: str = "cpu",
    poll: Callable[[], None] = lambda: None,
) -> None:
    """Write the compression track's zip from its test set, sample by sample, and check the finished file.

    poll: called between samples; may raise, and then there is no file.
    """
    run = load_run(folder, which=which, device=device)
    model = world_model(run)
    if not isinstance(model, STTransformer):
        raise ValueError(f"{folder}: the compression track is entered with an ST-Transformer, this is {run.config.recipe}")
    tests = open_test_set(data)
    if not isinstance(tests, CompressionTestSet):
        raise ValueError(f"{data}: is the test set of the sampling track (videos), this track needs tokens (video_0.bin)")

    kept = min(TOP_LOGITS, model.config.vocab_size)
    shape = (model.future_grids, *model.config.grid, kept)
    samples = predict_samples(model, tests.ids, tests.tokens_NTHW, tests.states_NFA, top_k=kept, device=device)
    with Counter("predicting", unit="samples") as counter:
        write_compression_submission(
            out,
            samples,
            readme,
            num_samples=len(tests.ids),
            shape=shape,
            vocab_size=model.config.vocab_size,
            progress=counter,
            poll=poll,
        )
    print(f"{out}: {len(tests.ids)} samples, written and checked")


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
    share: Share = Share(),  # noqa: B008
    stop: StopFlag | None = None,
) -> None:
    """Write the sampling track's zip from its test set, picture by picture, and check the finished file.

    Pictures are kept beside `out` until it is written: the same call goes on where it was stopped, even killed.

    readme: the fields of `submission.README_KEYS`, of which an empty method is filled in; None writes none.
    samples: predictions that `combine` makes one picture of; its mean is the first place's way (Revontuli report 2.3).
    tolerance: of the blend, as `hwm evaluate --protocol sampling` tunes it.  size: side of the pictures in pixels.
    share, stop: as in `apply.evaluate_run`, for the pictures and the zip.
    The test set has more state rows than 77 (reference A.6); they are not read.
    Raises ValueError for a test set of the other track, or a blend without tolerance; Elsewhere and Stopped as
    `apply.evaluate_run`.
    """
    if (combine == "blend") != (tolerance is not None):
        raise ValueError(
            "a blend needs a tolerance, and only a blend does: take the one that `hwm evaluate RUN --protocol sampling` "
            "chooses (tuning.tolerance in results_sampling.json)"
        )
    with listening(stop) as flag:
        tests = open_test_set(data)
        if not isinstance(tests, SamplingTestSet):
            raise ValueError(f"{data}: is the test set of the compression track (tokens), this track needs videos (video_0.mp4)")
        run = load_run(folder, which=which, device=device, changes=changes)
        coder = tokenizer_of(run, tokenizer, trust=trust, device=device)
        model, image_size = world_model(run), image_size_of(run, coder)
        if readme is not None:
            readme = readme | {"method": readme["method"] or f"hwm {run.config.recipe}".strip()}
            check_readme(readme, out)
        own = model.temperature or float(samples > 1)
        sampling = Sampling(temperature=own if temperature is None else temperature)
        combined = _combiner(combine, tolerance)

        def picture(i: int) -> Arrays:
            members_BKFHWC = draw(
                model,
                coder,
                torch.from_numpy(tests.frames(i))[None],
                torch.from_numpy(tests.states_NFA[i : i + 1]),
                frames=[SAMPLING_FRAMES - 1],
                image_size=image_size,
                out_size=(size, size),
                num_samples=samples,
                seeds=[seed_of(seed, tests.ids[i])],
                members_at_once=members_at_once,
                sampling=sampling,
                device=device,
                poll=flag.check,
            )
            return {"picture": combined(members_BKFHWC[:, :, 0])[0].numpy()}

        work, names = Work(out, sources(data=data), share, flag), names_of("picture", len(tests.ids))
        ways = {"samples": samples, "combine": combine, "tolerance": tolerance, "sampling": asdict(sampling), "seed": seed}
        sizes = {"size": size, "image_size": image_size, "at_once": members_at_once, "device": torch.device(device).type}
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


def _combiner(combine: Combine, tolerance: float | None) -> Callable[[Tensor], Tensor]:
    if combine == "blend":
        assert tolerance is not None
        return lambda members_BKHWC: ensemble.blend(members_BKHWC, tolerance=tolerance)
    return ensemble.mean if combine == "mean" else ensemble.medoid
