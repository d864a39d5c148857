"""How much a model doubts what it predicts, as a map over the pixels, without knowing the truth.

Ways of doubting are values (`DOUBTS`), the same for all families.  `ask` makes a model predict one step many times; a way of
doubting reads a map from that `Evidence`, in a unit of its own.  A `Scale`, fitted where the truth is known, tells what such a
doubt means in pixels: the error to expect, and an interval that holds the truth as often as it says.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Prediction, Sampling
from hwm.nn.dropout import kept_dropout
from hwm.predict import ensemble
from hwm.predict.rollout import Dream, Step

SAMPLES, HOT, PASSES = "samples", "hot samples", "passes with dropout"
"""Ways to ask K times: by the model's own temperature (1 where that is 0), hotter, or at temperature 0 with dropout on."""
HEAT = 1.5
"""How much hotter (ours)."""
LEAST_MOTION = 1e-3
"""Motion of latents below which a doubt is not divided any further (as in MMBench2's release)."""
LEVELS = (0.5, 0.8, 0.95)
"""Shares of the truth that intervals are made to hold."""
DISAGREEMENT = "disagreement"
"""Of a twin's members about the robot's states; of its scale the errors are in standard deviations of the states, as it is."""


@dataclass(frozen=True)
class Evidence:
    """What a model says of one step when it is asked K times.

    videos: uint8 (B, K, F, H, W, 3) by the way to ask; `SAMPLES` is always there.  last_BHWC: the last seen frame, uint8.
    grid_of_F: of each frame its future grid.  What a family does not have is None:
    entropy_BTHW: of the first look at each token, over ln V, mean over the samples.
    latents_BKTCHW: sampled latents or code vectors; past_BCHW: those of the last seen grid.
    there_BTCHW, again_BTCHW: a predicted future, and what it becomes when it is decoded and encoded.
    unrest_BTHW: how far the flow's goal moves from solver step to step.
    """

    videos: Mapping[str, Tensor]
    last_BHWC: Tensor
    grid_of_F: Tensor
    entropy_BTHW: Tensor | None = None
    latents_BKTCHW: Tensor | None = None
    past_BCHW: Tensor | None = None
    there_BTCHW: Tensor | None = None
    again_BTCHW: Tensor | None = None
    unrest_BTHW: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """That of all clips, from parts of them asked alike."""
        first = parts[0]
        made: dict[str, Any] = {}
        for f in fields(cls):
            found = [getattr(part, f.name) for part in parts]
            if f.name == "videos":
                made[f.name] = {name: torch.cat([videos[name] for videos in found]) for name in first.videos}
            else:
                made[f.name] = found[0] if f.name == "grid_of_F" or found[0] is None else torch.cat(found)
        return cls(**made)

    @property
    def mean_BFHWC(self) -> Tensor:
        """The mean of the samples, float32 levels, not rounded: the prediction whose error is doubted."""
        return self.videos[SAMPLES].float().mean(1)

    def pixels(self, x_BTHW: Tensor) -> Tensor:
        """A map over grids as one over the pixels of every frame, (B, F, H, W)."""
        side = self.last_BHWC.shape[1] // x_BTHW.shape[2]
        return x_BTHW[:, self.grid_of_F].repeat_interleave(side, 2).repeat_interleave(side, 3)

    @property
    def motion_B(self) -> Tensor | None:
        """Root mean square of how far the mean sample lies from the last seen grid, at least `LEAST_MOTION`."""
        if self.latents_BKTCHW is None or self.past_BCHW is None:
            return None
        change = self.latents_BKTCHW.mean(1) - self.past_BCHW[:, None]
        return change.square().flatten(1).mean(1).sqrt().clamp(min=LEAST_MOTION)


@dataclass(frozen=True)
class Doubt:
    """A way of doubting.  name: in tables.  about: what it is, in a sentence.

    of: gives its map, float32 (B, F, H, W), not negative, in a unit of its own; None where the family has no such thing.
    """

    name: str
    about: str
    of: Callable[[Evidence], Tensor | None]


def spread_of(asking: str) -> Callable[[Evidence], Tensor | None]:
    """The standard deviation of every pixel over K predictions, of values in [0, 1]."""
    return lambda e: ensemble.spread(e.videos[asking]) / 255 if asking in e.videos else None


def _constant(e: Evidence) -> Tensor:
    return torch.zeros(e.mean_BFHWC.shape[:-1])


def _change(e: Evidence) -> Tensor:
    difference = e.mean_BFHWC - e.last_BHWC[:, None].float()
    return difference.square().mean(-1).sqrt() / 255


def _entropy(e: Evidence) -> Tensor | None:
    return None if e.entropy_BTHW is None else e.pixels(e.entropy_BTHW)


def _round_trip(e: Evidence) -> Tensor | None:
    if e.there_BTCHW is None or e.again_BTCHW is None:
        return None
    return e.pixels((e.there_BTCHW - e.again_BTCHW).square().mean(2).sqrt())


def _unrest(e: Evidence) -> Tensor | None:
    return None if e.unrest_BTHW is None else e.pixels(e.unrest_BTHW)


def _seeds(e: Evidence) -> Tensor | None:
    return None if e.latents_BKTCHW is None else e.pixels(e.latents_BKTCHW.var(1).mean(2).sqrt())


def _by_motion(of: Callable[[Evidence], Tensor | None]) -> Callable[[Evidence], Tensor | None]:
    def normalised(e: Evidence) -> Tensor | None:
        found, motion_B = of(e), e.motion_B
        return None if found is None or motion_B is None else found / motion_B[:, None, None, None]

    return normalised


_OURS_OF = "MMBench2 (Hansen and Wang 2026), here over the places of a grid"
DOUBTS = (
    Doubt("none", "the same doubt everywhere: what an interval is without any", _constant),
    Doubt("predicted change", "how far the prediction lies from the last seen frame, which needs no second sample", _change),
    Doubt("ensemble spread", "standard deviation over samples", spread_of(SAMPLES)),
    Doubt("spread of hot samples", f"the same at {HEAT:g} times the temperature", spread_of(HOT)),
    Doubt("MC dropout", "standard deviation over passes at temperature 0 with dropout on (Gal and Ghahramani 2016)",
          spread_of(PASSES)),
    Doubt("token entropy", "entropy of the distribution of every token, over ln V", _entropy),
    Doubt("round trip", f"u_r: how far predicted latents move when decoded and encoded; {_OURS_OF}", _round_trip),
    Doubt("flow unrest", f"u_f: how far the flow's goal moves between solver steps; {_OURS_OF}", _unrest),
    Doubt("seeds", f"u_s: standard deviation of the latents over samples; {_OURS_OF}", _seeds),
    Doubt("round trip / motion", "u_r over the motion of the predicted latents", _by_motion(_round_trip)),
    Doubt("flow unrest / motion", "u_f likewise", _by_motion(_unrest)),
    Doubt("seeds / motion", "u_s likewise", _by_motion(_seeds)),
)  # fmt: skip
"""Every way of doubting: a new one is a function and a line here."""


def glance(model: Any, tokenizer: Any, step: Step, last_BHWC: Tensor) -> Evidence:
    """What one step tells that was asked once anyway, with the options of `glancing`, of one sample: on the CPU.

    last_BHWC: the frame shown before the step, uint8.  Spreads over samples say nothing of it.
    """
    assert step.video_BFHWC is not None
    found, num_frames = step.prediction, step.video_BFHWC.shape[1]
    grids = torch.zeros(num_frames, dtype=torch.int64)
    if model.predicts != "video":
        grids = _grid_of_F(tokenizer.clock, model.context_grids, num_frames)
    entropy, unrest = found.entropy_BTHW, found.unrest_BKTHW
    return Evidence(
        {SAMPLES: step.video_BFHWC[:, None].cpu()}, last_BHWC.cpu(), grids,
        entropy_BTHW=None if entropy is None else entropy.cpu() / math.log(tokenizer.vocab_size),
        unrest_BTHW=None if unrest is None else unrest.cpu().mean(1),
    )  # fmt: skip


LIVE = ("token entropy", "flow unrest", "predicted change")
"""Ways of doubting that need no second sample, the most telling first; the last one every family has."""


def live(model: Any, tokenizer: Any, step: Step, last_BHWC: Tensor) -> tuple[str, Tensor]:
    """Doubt while predicting: the first way of `LIVE` that the family has and its maps, float32 (B, F, H, W) on the CPU.

    step: asked with `glancing`.  last_BHWC: as in `glance`.
    """
    evidence, by_name = glance(model, tokenizer, step, last_BHWC), {doubt.name: doubt.of for doubt in DOUBTS}
    return next((name, maps.float()) for name in LIVE if (maps := by_name[name](evidence)) is not None)


def glancing(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What `Dream.step` must be asked so that `glance` finds all that it can."""
    if model.predicts == "tokens":
        return {"codes_VC": tokenizer.codes_VC}
    return {"unrest": True} if model.predicts == "latents" else {}


@torch.no_grad()
def ask(
    model: Any, tokenizer: Any, context: Tensor, states_BFA: Tensor, *, num_samples: int, generator: torch.Generator,
    step_frames: int = 0, poll: Callable[[], None] = lambda: None,
) -> Evidence:  # fmt: skip
    """Let a model predict one step `num_samples` times by each way to ask that it has; everything comes back on the CPU.

    context: as in `Dream.reset`.  states_BFA: raw rows of its frames and of the step's.  step_frames: of a model with a reach.
    What leaves nothing to chance has equal samples and no other ways to ask.
    Raises ValueError for fewer than 2 samples and for what `Dream` refuses.
    """
    if num_samples < 2:
        raise ValueError(f"doubts compare at least 2 samples, got {num_samples}")
    B, K, kind = len(context), num_samples, model.predicts
    if kind != "video" and context.dtype == torch.uint8:
        context = tokenizer.encode(context[:, :: model.frame_step])
    own = model.temperature or float(kind != "video")
    options: dict[str, Any] = {"num_samples": K, "generator": generator, "step_frames": step_frames, "poll": poll}

    def step(temperature: float, **asked: Any) -> Step:
        dream = Dream(model, tokenizer, sampling=Sampling(temperature=temperature), **options)
        dream.reset(context, states_BFA[:, : dream.context_frames])
        return dream.step(states_BFA[:, dream.context_frames :], **asked)

    def video(step: Step) -> Tensor:
        assert step.video_BFHWC is not None
        return step.video_BFHWC.unflatten(0, (B, K)).cpu()

    codes_VC = tokenizer.codes_VC.to(context.device) if kind == "tokens" else None
    about: dict[str, dict[str, Any]] = {"tokens": {"codes_VC": codes_VC}, "latents": {"unrest": True}}
    first = step(own, **about.get(kind, {}))
    videos = {SAMPLES: video(first)}
    if kind == "video":
        return Evidence(videos, context[:, -1].cpu(), torch.zeros(videos[SAMPLES].shape[2], dtype=torch.int64))
    videos[HOT] = video(step(HEAT * own))
    if model.dropout_rate:
        with kept_dropout(model):
            videos[PASSES] = video(step(0.0))
    return Evidence(videos, **_on_grids(tokenizer, context, first.prediction, K, codes_VC))


def _grid_of_F(clock: Any, context_grids: int, num_frames: int) -> Tensor:
    """Of each frame of a prediction after that many grids, its future grid, int64 (F,)."""
    shared = context_grids % clock.grids
    start = clock.num_frames(shared)
    return torch.tensor([clock.grid_of(start + f) - shared for f in range(num_frames)])


def _on_grids(tokenizer: Any, context: Tensor, found: Prediction, K: int, codes_VC: Tensor | None) -> dict[str, Any]:
    """What is known of the grids of a prediction of B * K rows, and of what the tokenizer makes of them."""
    clock, num_grids = tokenizer.clock, context.shape[1]
    shared = num_grids % clock.grids
    start = clock.num_frames(shared)

    def by_sample(x: Tensor | None) -> Tensor | None:
        """(B * K, 1, ...) or (B * K, ...) as (B, K, ...)."""
        return None if x is None else x.unflatten(0, (-1, K))

    def codes(grids: Tensor) -> Tensor:
        """Code vectors of ids; latents as they are."""
        return grids if codes_VC is None else codes_VC[grids].movedim(-1, -3)

    if codes_VC is not None:
        ids_BKTHW = by_sample(found.tokens_BKTHW)[:, :, 0]  # type: ignore[index]
        future, latents_BKTCHW = ids_BKTHW[:, 0], codes(ids_BKTHW)
    else:
        latents_BKTCHW = by_sample(found.latents_BKTCHW)[:, :, 0]  # type: ignore[index]
        future = latents_BKTCHW.mean(1)
    whole = torch.cat([context[:, num_grids - shared :], future], 1)
    video_BFHWC = tokenizer.decode(whole)
    last_BHWC = video_BFHWC[:, start - 1] if shared else tokenizer.decode(context[:, -clock.grids :])[:, -1]
    again = tokenizer.encode(video_BFHWC)[:, shared:]
    entropy, unrest = by_sample(found.entropy_BTHW), by_sample(found.unrest_BKTHW)
    num_frames = clock.num_frames(whole.shape[1]) - start
    made: dict[str, Any] = {
        "last_BHWC": last_BHWC,
        "grid_of_F": _grid_of_F(clock, num_grids, num_frames),
        "entropy_BTHW": None if entropy is None else entropy.mean(1) / math.log(tokenizer.vocab_size),
        "latents_BKTCHW": latents_BKTCHW,
        "past_BCHW": codes(context[:, -1:])[:, 0],
        "there_BTCHW": codes(future),
        "again_BTCHW": codes(again),
        "unrest_BTHW": None if unrest is None else unrest.mean((1, 2)),
    }
    return {name: None if x is None else x.cpu() for name, x in made.items()}


# --- What a doubt means in pixels ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """What doubts mean, by bins of rising doubt, learned where the truth is known.

    edges: upper edges of all bins but the last, in the doubt's own unit.  rms: root mean square error of a pixel of each bin,
    of values in [0, 1].  widths: for each of `LEVELS` the error below which that share of each bin's pixels lies.
    """

    edges: tuple[float, ...]
    rms: tuple[float, ...]
    widths: tuple[tuple[float, ...], ...]

    def error(self, doubt: Tensor) -> Tensor:
        """The error to expect of every pixel, of values in [0, 1], float32 of the same shape."""
        return torch.tensor(self.rms, dtype=torch.float32)[self._bins(doubt)]

    def half_width(self, doubt: Tensor, level: float) -> Tensor:
        """Half the interval around the prediction that holds the truth with this chance, one of `LEVELS`, likewise."""
        return torch.tensor(self.widths[LEVELS.index(level)], dtype=torch.float32)[self._bins(doubt)]

    def _bins(self, doubt: Tensor) -> Tensor:
        return torch.bucketize(doubt.contiguous(), torch.tensor(self.edges, dtype=doubt.dtype), right=True)

    @classmethod
    def fit(cls, doubts_N: np.ndarray, errors_N: np.ndarray, *, num_bins: int = 20) -> "Scale":
        """Learned from pixels: bins of about equal count, as far as equal doubts allow, which stay together.

        A share of a bin lies at or below an error of its own, so on these very pixels an interval holds at least its share.
        Raises ValueError for no pixels, other numbers of both, or fewer bins than one.
        """
        if not len(doubts_N) or doubts_N.shape != errors_N.shape or num_bins < 1:
            raise ValueError(f"a scale is learned from as many doubts as errors, got {doubts_N.shape} and {errors_N.shape}")
        order = np.argsort(doubts_N, kind="stable")
        doubts, errors = doubts_N[order], errors_N[order]
        wanted = doubts[(np.arange(1, num_bins) * len(doubts)) // num_bins]
        edges = np.unique(wanted[wanted > doubts[0]])
        parts = np.split(errors, np.searchsorted(doubts, edges, side="left"))
        rms = tuple(float(np.sqrt(np.square(part).mean())) for part in parts)
        widths = tuple(tuple(float(np.quantile(part, level, method="higher")) for part in parts) for level in LEVELS)
        return cls(tuple(map(float, edges)), rms, widths)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Scale":
        """The scale that an evaluation kept."""
        return cls(tuple(table["edges"]), tuple(table["rms"]), tuple(map(tuple, table["widths"])))
