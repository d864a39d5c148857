"""The ways to make frames of a scene, each a row of the table: readings of a prediction, ensembles, what needs no model.

A protocol that draws one prediction looks at its readings (`readings`); one that draws ensembles at what can be made of
them (`ensembles`).  Rows with other states are made like the row beside which they stand, from the same random numbers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Prediction, Sampling
from hwm.evaluate import protocols
from hwm.evaluate.controls import TRUE, Control
from hwm.evaluate.protocols import (
    COPY_BLURRED,
    COPY_FRAME,
    COPY_GRID,
    EXPECTED_CODE,
    MEAN_OF_CONTEXT,
    ONE_SAMPLE,
    SURE_SHARPNESS,
    Protocol,
)
from hwm.evaluate.scenes import Scene, Scenes
from hwm.evaluate.scores import Row
from hwm.evaluate.tuning import Tuning
from hwm.predict import ensemble
from hwm.predict.ensemble import gaussian_blur, match_histograms
from hwm.predict.last_frame import draw
from hwm.predict.rollout import Dream

STILL = Sampling(temperature=0.0)
SIZES = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 50)
"""Sizes on the curve of PSNR against members, as far as there are samples."""
CONTROL_MEMBERS = 5
"""Members of the rows with other states: enough for a stable difference, a quarter of the cost (ours)."""


class Predictor:
    """Predicts scenes.  sampling: None is the model's own.  seconds: time spent, decoding included.

    seed: of all samples.  members_at_once: predictions that go through the model together where each has a generator of its
    own.  top_k: logits kept of models of tokens.  poll: called now and then; may raise.
    """

    def __init__(
        self, model: Any, tokenizer: Any, scenes: Scenes, *, sampling: Sampling | None, seed: int, members_at_once: int,
        top_k: int, device: torch.device | str, poll: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.scenes, self.sampling = model, tokenizer, scenes, sampling
        self.seed, self.members_at_once, self.top_k, self.device, self.poll = seed, members_at_once, top_k, device, poll
        self.seconds = 0.0

    @torch.no_grad()
    def predict(self, scene: Scene, *, states: str = TRUE, still: bool = False, **options: Any) -> Prediction:
        """The prediction of a scene of grids.  still: at temperature 0.  options: of the model's `predict`."""
        started = time.perf_counter()
        dream = Dream(
            self.model, None, generator=torch.Generator(device=self.device).manual_seed(seed_of(self.seed, scene.first)),
            sampling=STILL if still else self.sampling, clock=self.tokenizer.clock, poll=self.poll,
        )  # fmt: skip
        rows_BFA, seen = scene.states[states].to(self.device), dream.context_frames
        dream.reset(scene.context.to(self.device), rows_BFA[:, :seen])
        found = dream.step(rows_BFA[:, seen:], **options).prediction
        self.seconds += time.perf_counter() - started
        return found

    @torch.no_grad()
    def frames(self, scene: Scene, prediction: Prediction, *, expected: bool = False) -> Tensor:
        """Frames of sample 0 of a prediction, or of the expectation of its code, uint8 (B, F, H, W, 3)."""
        started = time.perf_counter()
        if expected:
            if prediction.codes_BTHWC is None:
                raise ValueError("the model gives no expected codes; evaluate its tokens with decode='sample'")
            video = self.scenes.decoder.expected_future(scene.context, prediction.codes_BTHWC)
        else:
            grids = prediction.latents_BKTCHW if prediction.tokens_BKTHW is None else prediction.tokens_BKTHW
            assert grids is not None
            video = self.scenes.decoder.future(scene.context, grids[:, 0])
        self.seconds += time.perf_counter() - started
        return video

    def image_size(self, scene: Scene) -> tuple[int, int]:
        """Height and width of the frames that the model works on."""
        height, width = self.model.config.grid if scene.future is None else scene.context.shape[-2:]
        return height * self.tokenizer.spatial_stride, width * self.tokenizer.spatial_stride

    def bare(self, scene: Scene, *, decode: bool, still: bool = False, expected: bool = False) -> None:
        """A prediction with nothing else beside it, what its cost is measured on; video is its own decoding."""
        if scene.future is None:
            self.samples(scene, 1, still=still)
            return
        codes = {"codes_VC": self.tokenizer.codes_VC.to(self.device)} if expected and decode else {}
        prediction = self.predict(scene, still=still, **codes)
        if decode:
            self.frames(scene, prediction, expected=expected)

    def samples(
        self, scene: Scene, num_samples: int, *, states: str = TRUE, still: bool = False, entropies: list[Tensor] | None = None
    ) -> Tensor:
        """K samples of the scored frames of recorded video, the same noise whatever the states: uint8 (B, K, F, H, W, 3).

        entropies: as in `draw`.
        """
        started = time.perf_counter()
        height, width = scene.view.truth.shape[2:4]
        video_BKFHWC = draw(
            self.model, self.tokenizer, scene.context, scene.states[states], frames=self.scenes.protocol.scored,
            image_size=self.image_size(scene), out_size=(height, width), num_samples=num_samples,
            seeds=[seed_of(self.seed, int(number)) for number in scene.numbers], members_at_once=self.members_at_once,
            sampling=STILL if still else self.sampling, device=self.device, poll=self.poll, entropies=entropies,
        )  # fmt: skip
        self.seconds += time.perf_counter() - started
        return video_BKFHWC


def seed_of(seed: int, number: int) -> int:
    """Seed of all samples of a clip, or of a batch that begins with it.

    Rows with other states share it, so that they differ by their states and not by luck.
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class Drawn:
    """What is predicted of one scene; every prediction is made once.  tuning: of blur and blend.

    entropies: clip by clip what a model of tokens tells of its first sample (`draw`).
    """

    def __init__(self, predictor: Predictor, scene: Scene, tuning: Tuning | None = None) -> None:
        self.predictor, self.scene, self.tuning = predictor, scene, tuning
        self.entropies: list[Tensor] = []
        self._kept: dict[Any, Any] = {}

    def _once(self, *key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def prediction(self, states: str = TRUE, *, still: bool = False, forced: bool = False) -> Prediction:
        """Of a scene of grids, with all that a model of tokens tells.  forced: each grid given the true one before it."""
        options: dict[str, Any] = {}
        predictor, future = self.predictor, self.scene.future
        if predictor.model.predicts == "tokens":
            assert future is not None
            options = {"targets_BTHW": future.to(predictor.device), "teacher_forced": forced}
            options |= {"top_k_logits": predictor.top_k if states == TRUE and not forced else min(1, predictor.top_k)}
            codes_VC = None if forced else predictor.tokenizer.codes_VC
            options |= {"codes_VC": None if codes_VC is None else codes_VC.to(predictor.device)}
        make = lambda: predictor.predict(self.scene, states=states, still=still, **options)  # noqa: E731
        return self._once("prediction", states, still, forced, make=make)

    def frames(self, states: str = TRUE, *, still: bool = False, expected: bool = False) -> Tensor:
        """One prediction's, uint8 (B, F, H, W, 3)."""
        if self.scene.future is None:
            return self.samples(1, states, still=still)[:, 0]
        return self.predictor.frames(self.scene, self.prediction(states, still=still), expected=expected)

    def samples(self, num_samples: int, states: str = TRUE, *, still: bool = False) -> Tensor:
        """An ensemble's, uint8 (B, K, F, H, W, 3)."""
        told = self.entropies if states == TRUE and not still and not self.entropies else None
        make = lambda: self.predictor.samples(self.scene, num_samples, states=states, still=still, entropies=told)  # noqa: E731
        return self._once("samples", num_samples, states, still, make=make)


@dataclass(frozen=True)
class Way:
    """A row and how it is made, uint8 (B, F, H, W, 3), from what was drawn and the seen frames of a reference.

    make: gives None where the model does not tell enough.  of_past: whether it needs the seen frames, and so differs between
    references.  shown: whether its frames are kept of examples.  looked_at: whether networks look at it.
    """

    row: Row
    make: Callable[[Drawn, Tensor], Tensor | None]
    of_past: bool = False
    shown: bool = False
    looked_at: bool = True


@dataclass(frozen=True)
class Ways:
    """All rows of frames.  headline: what the verdict is about, chosen beforehand.

    control: the row beside which those with other states stand; controls: these rows, by name of the control.
    pairs: rows whose paired differences are taken, and in what.
    members: samples that are drawn; `sizes` of them have their mean as a row.  reading: the headline's, of one prediction.
    """

    all: tuple[Way, ...]
    headline: str
    control: str
    controls: dict[str, Row]
    pairs: tuple[tuple[str, str, tuple[str, ...]], ...]
    members: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    reading: dict[str, bool] = field(default_factory=dict)


def copied(drawn: Drawn, past_BFHWC: Tensor) -> Tensor:
    """The last seen frame in the place of every scored one, uint8 (B, F, H, W, 3)."""
    return past_BFHWC[:, -1:].expand(-1, drawn.scene.view.truth.shape[1], -1, -1, -1).contiguous()


def averaged(drawn: Drawn, past_BFHWC: Tensor) -> Tensor:
    """The mean of the seen frames, rounded, in the place of every scored one."""
    mean = past_BFHWC.to(torch.float32).mean(1, keepdim=True).round().to(torch.uint8)
    return copied(drawn, mean)


ONE = "one of the possible futures"
EXPECTED = "the picture of the mean code: every token weighed by its probability, so that doubt becomes blur, not a guess"
LIKELY = Row(protocols.LIKELY_TOKENS, "model", "the most probable token at every place")
COPY = Way(Row(COPY_FRAME, "baseline", "the last seen frame, again and again"), copied, of_past=True)
MEAN = Way(Row(MEAN_OF_CONTEXT, "baseline", "the mean of the seen frames"), averaged, of_past=True)


def _with_other_states(controls: Sequence[Control], headline: str) -> dict[str, Row]:
    """The rows of one prediction with other states, by name of the control."""
    return {control.name: Row(f"model, {control.words}", "states", f"{headline}, {control.about}") for control in controls}


def unseen(protocol: Protocol, *, controls: Sequence[Control]) -> Ways:
    """No rows of frames: the verdict is about a row of tokens."""
    headline = protocols.TEACHER_FORCED if protocol.forced else protocols.AUTOREGRESSIVE
    return Ways((), headline, headline, _with_other_states(controls, headline), ())


def readings(model: Any, temperature: float, *, decode: str, controls: Sequence[Control]) -> Ways:
    """Ways to read one prediction: of tokens these and the expectation of their code, else samples and temperature 0.

    temperature: of the samples; at 0 latents and frames have one row, named for it.  decode: "mean" makes the expected code
    or temperature 0 the headline, "sample" the sample.
    """
    kind = model.predicts
    if kind == "tokens":
        sampled = Row(protocols.SAMPLED_TOKENS, "model", "tokens drawn by their probabilities") if temperature else LIKELY
        rows = {sampled: {}, Row(EXPECTED_CODE, "model", EXPECTED): {"expected": True}}
        mean = EXPECTED_CODE
    else:
        video = kind == "video"
        still = Row(protocols.STILL_FRAMES if video else protocols.STILL_LATENTS, "model", "the mean of all futures")
        drawn = Row(protocols.SAMPLED_FRAMES if video else protocols.SAMPLED_LATENTS, "model", ONE)
        sampled = drawn if temperature else still
        rows = {still: {"still": True}, sampled: {} if temperature else {"still": True}}
        mean = still.name
    headline = mean if decode == "mean" else sampled.name
    chosen = next(reading for row, reading in rows.items() if row.name == headline)

    def way(row: Row, states: str, reading: dict[str, bool]) -> Way:
        def make(drawn: Drawn, _: Tensor) -> Tensor | None:
            if reading.get("expected") and headline != mean and drawn.prediction(states).codes_BTHWC is None:
                return None
            return drawn.frames(states, **reading)

        return Way(row, make, shown=row.name == headline)

    ways = [way(row, TRUE, reading) for row, reading in rows.items()]
    others = _with_other_states(controls, headline)
    ways += [way(row, name, chosen) for name, row in others.items()]
    if kind != "video":
        ways.append(Way(Row(COPY_GRID, "baseline", "the last grid, again and again"), lambda drawn, _: drawn.scene.copied))
    beside = (COPY_FRAME, COPY_GRID, MEAN_OF_CONTEXT, *(row.name for row in others.values()))
    of_others = [(row.name, COPY_FRAME) for row in rows if row.name != headline]
    pairs = tuple((first, second, ("psnr",)) for first, second in (*((headline, other) for other in beside), *of_others))
    return Ways((*ways, COPY, MEAN), headline, headline, others, pairs, reading=chosen)


def ensembles(members: Sequence[int], *, controls: Sequence[Control]) -> Ways:
    """What can be made of K samples, the largest of `members`; a smaller ensemble is the beginning of a larger one.

    Beside one sample stand the pixel mean (Revontuli report section 2.3), the medoid, the spread-aware blend (ours), and blur
    and histogram matching (Duke, reference E.3).  Raises ValueError for ensembles of none.
    """
    if not members or min(members) < 1:
        raise ValueError(f"ensembles have at least one member, got sizes {list(members)}")
    members = tuple(sorted(set(members)))
    largest, control = members[-1], max((n for n in members if n <= CONTROL_MEMBERS), default=members[0])
    sizes = tuple(sorted({n for n in SIZES if n < largest} | set(members)))
    headline, beside, blended = protocols.mean_of(largest), protocols.mean_of(control), f"blend of {largest}"
    others = {control.name: Row(f"{beside}, {control.words}", "states", control.about) for control in controls}

    def mean(num: int) -> Callable[[Drawn, Tensor], Tensor]:
        return lambda drawn, _: ensemble.mean(drawn.samples(largest)[:, :num])

    def sample(drawn: Drawn) -> Tensor:
        return drawn.samples(largest)[:, 0]

    def blurred(drawn: Drawn) -> Tensor:
        return gaussian_blur(sample(drawn), sigma=_tuned(drawn).sigma_sample)

    def seen(drawn: Drawn) -> Tensor:
        return drawn.scene.view.past[:, -1:].expand_as(drawn.scene.view.truth)

    def other(states: str) -> Callable[[Drawn, Tensor], Tensor]:
        return lambda drawn, _: ensemble.mean(drawn.samples(control, states))

    shown = {ONE_SAMPLE, headline}
    ways = [
        Way(Row(protocols.mean_of(n), "model", ONE if n == 1 else "pixel mean of samples"), mean(n), False,
            protocols.mean_of(n) in shown, n in members)
        for n in sizes
    ]  # fmt: skip
    if largest > 1:
        ways += [
            Way(Row(f"medoid of {largest}", "model", "the sample nearest to all others"),
                lambda drawn, _: ensemble.medoid(drawn.samples(largest))),
            Way(Row(blended, "model", "the medoid where the samples agree, their mean elsewhere"),
                lambda drawn, _: ensemble.blend(drawn.samples(largest), tolerance=_tuned(drawn).tolerance or 0.0), shown=True),
        ]  # fmt: skip
    ways += [
        Way(Row(protocols.BLURRED, "model", "softened as scored best on other clips"), lambda drawn, _: blurred(drawn)),
        Way(Row(protocols.MATCHED, "model", "with the brightness of the last seen frame"),
            lambda drawn, _: match_histograms(sample(drawn), seen(drawn))),
        Way(Row(protocols.BLURRED_MATCHED, "model", "both"), lambda drawn, _: match_histograms(blurred(drawn), seen(drawn))),
        Way(Row(protocols.STILL, "model", "tokens: the most likely future; latents: the mean of all"),
            lambda drawn, _: drawn.samples(1, still=True)[:, 0]),
        *(Way(row, other(name)) for name, row in others.items()),
        COPY,
        Way(Row(COPY_BLURRED, "baseline", "the last seen frame, softened likewise"),
            lambda drawn, past: gaussian_blur(copied(drawn, past), sigma=_tuned(drawn).sigma_copy), of_past=True),
        MEAN,
    ]  # fmt: skip
    pairs = [(headline, other) for other in (COPY_FRAME, COPY_BLURRED, MEAN_OF_CONTEXT, protocols.STILL, protocols.BLURRED)]
    pairs += [(row, COPY_FRAME) for row in (*map(protocols.mean_of, members[:-1]), protocols.STILL)]
    pairs += [(beside, row.name) for row in others.values()]
    pairs += [(protocols.mean_of(n), ONE_SAMPLE) for n in members if n > 1]
    differences: list[tuple[str, str, tuple[str, ...]]] = [(first, second, ("psnr",)) for first, second in pairs]
    if largest > 1:
        differences.append((blended, headline, ("psnr", "sharpness", "gmsd", SURE_SHARPNESS)))
        differences.append((blended, ONE_SAMPLE, ("psnr", SURE_SHARPNESS)))
    return Ways(tuple(ways), headline, beside, others, tuple(differences), members, sizes)


def _tuned(drawn: Drawn) -> Tuning:
    assert drawn.tuning is not None
    return drawn.tuning
