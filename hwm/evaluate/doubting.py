"""What ways of doubting are worth: whether they rank pixels and clips by their true error, and whether intervals hold it.

The error of a pixel is the root mean square over its channels of the mean sample against the truth, of values in [0, 1].
Scales of doubt are learned on clips of their own, as blur and blend are; everything that is scored is of other clips.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate.calibration import centred_ranks, correlation, spearman
from hwm.evaluate.intervals import Interval, resamples, symmetric_interval
from hwm.evaluate.page.pictures import heat
from hwm.evaluate.scenes import TRUE, Scene
from hwm.evaluate.scores import Means, Row, Score
from hwm.evaluate.ways import Predictor, seed_of
from hwm.predict.doubt import DOUBTS, LEVELS, Evidence, Scale, ask
from hwm.predict.rollout import frames_per_step
from hwm.work.parts import Arrays, Columns

PIXELS_RANK, CLIPS_RANK = "rank correlation, pixels", "rank correlation, clips"
LEARNED_PIXELS = 8192
"""Pixels of each clip, evenly spread, from which a scale is learned (ours)."""
NUM_RESAMPLES = 200
"""Resamples of a rank correlation of clips: enough for its standard error, to within a twentieth (ours)."""
PICTURE = "doubt: "
"""Begins the names of an example's maps of doubt, in levels of expected error."""
ERROR = "true error"


def covered(level: float) -> str:
    """Name of the score of an interval: the share of the pixels that it holds."""
    return f"held by {level:.0%}"


def width(level: float) -> str:
    """Name of the score of an interval: how wide it is, of values in [0, 1]."""
    return f"width of {level:.0%}"


class Doubting:
    """Measures ways of doubting scene by scene.  num_samples: predictions by each way to ask."""

    def __init__(self, predictor: Predictor, *, num_samples: int) -> None:
        self.predictor, self.num_samples = predictor, num_samples
        self.scales: dict[str, Scale] = {}
        self._learned: dict[str, list[np.ndarray]] = {}
        self._columns = Columns()

    def learn(self, scene: Scene) -> Arrays:
        """Some pixels of a scene with known truth: their error, and their doubt by every way that the family has."""
        maps, error = self._look(scene)
        kept = np.linspace(0, error[0].numel() - 1, min(LEARNED_PIXELS, error[0].numel())).astype(int)
        return {name: x.flatten(1)[:, kept].flatten().numpy() for name, x in {ERROR: error, **maps}.items()}

    def add_learned(self, arrays: Arrays) -> None:
        """Take in what was learned of the next scene."""
        for name, values in arrays.items():
            self._learned.setdefault(name, []).append(values)

    def settle(self) -> None:
        """Fit the scales to all that was learned."""
        errors = np.concatenate(self._learned.pop(ERROR))
        self.scales = {name: Scale.fit(np.concatenate(doubts), errors) for name, doubts in self._learned.items()}

    def measure(self, scene: Scene) -> tuple[Arrays, dict[str, Tensor]]:
        """Scores of every clip and way, and pictures uint8 (B, F, H, W, 3) of the expected and the true error by name."""
        maps, error = self._look(scene)
        found: Arrays = {"error": _per_clip(error)}
        pictures = {ERROR: torch.from_numpy(heat(255 * error.numpy()))}
        own = [centred_ranks(clip) for clip in error.flatten(1).numpy()]
        for name, doubt in maps.items():
            scale = self.scales[name]
            expected = scale.error(doubt)
            found[f"doubt/{name}"] = _per_clip(doubt)
            ranks = [centred_ranks(clip) for clip in doubt.flatten(1).numpy()]
            found[f"rank/{name}"] = np.array([correlation(a, b) for a, b in zip(ranks, own)])
            for level in LEVELS:
                half = scale.half_width(doubt, level)
                found[f"held/{level}/{name}"] = _per_clip((error <= half).float())
                found[f"width/{level}/{name}"] = _per_clip(2 * half)
            pictures[PICTURE + name] = torch.from_numpy(heat(255 * expected.numpy()))
        return found, pictures

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next clips."""
        self._columns.add(arrays)

    def summary(self, means: Means, *, reference: str, span: str) -> tuple[list[Row], list[Score], dict[str, Any]]:
        """Rows and scores of every way of doubting, and their scales as JSON, by name."""
        place, columns = (reference, span), self._columns
        scores, error = [], columns["error"].numpy()
        rows = [Row(doubt.name, "doubt", doubt.about) for doubt in DOUBTS if f"doubt/{doubt.name}" in columns]
        for name in (row.name for row in rows):
            scores.append(Score(name, PIXELS_RANK, *place, means.one(columns[f"rank/{name}"])))
            clips = clip_correlation(columns[f"doubt/{name}"].numpy(), error, means)
            scores.append(Score(name, CLIPS_RANK, *place, clips))
            for level in LEVELS:
                scores.append(Score(name, covered(level), *place, means.one(columns[f"held/{level}/{name}"])))
                scores.append(Score(name, width(level), *place, means.one(columns[f"width/{level}/{name}"])))
        return rows, scores, {name: asdict(scale) for name, scale in self.scales.items()}

    def _look(self, scene: Scene) -> tuple[dict[str, Tensor], Tensor]:
        """Maps of doubt by way, and the true error, float32 (B, F, H, W)."""
        evidence = self._ask(scene)
        truth = scene.view.truth[:, : evidence.mean_BFHWC.shape[1]].float()
        error = (evidence.mean_BFHWC - truth).square().mean(-1).sqrt() / 255
        maps = {doubt.name: doubt.of(evidence) for doubt in DOUBTS}
        return {name: found.float() for name, found in maps.items() if found is not None}, error

    def _ask(self, scene: Scene) -> Evidence:
        """As many clips at a time as make `members_at_once` predictions."""
        predictor, parts = self.predictor, []
        model, tokenizer, device = predictor.model, predictor.tokenizer, predictor.device
        seen, num_frames = frames_per_step(model, tokenizer.clock)[0], scene.view.truth.shape[1]
        skipped = scene.view.past.shape[1] - seen if scene.future is None else 0
        at_once = max(1, predictor.members_at_once // self.num_samples)
        for first in range(0, len(scene.numbers), at_once):
            these = slice(first, first + at_once)
            generator = torch.Generator(device=device).manual_seed(seed_of(predictor.seed, int(scene.numbers[first])))
            context = scene.context[these, skipped:] if scene.future is None else scene.context[these]
            parts.append(ask(
                model, tokenizer, context.to(device), scene.states[TRUE][these, skipped:].to(device),
                num_samples=self.num_samples, generator=generator, step_frames=num_frames if model.reach else 0,
                poll=predictor.poll,
            ))  # fmt: skip
        return Evidence.joined(parts)


def _per_clip(x_BFHW: Tensor) -> np.ndarray:
    return x_BFHW.double().flatten(1).mean(1).numpy()


def clip_correlation(doubts_N: np.ndarray, errors_N: np.ndarray, means: Means) -> Interval:
    """Spearman's correlation over clips; its interval resamples segments."""
    def of(times_N: np.ndarray) -> float:
        return spearman(doubts_N.repeat(times_N), errors_N.repeat(times_N))

    return resampled(of, len(errors_N), means).within(-1, 1)


def resampled(of: Callable[[np.ndarray], float], num_clips: int, means: Means) -> Interval:
    """What is no mean over clips; its interval resamples segments.  of: how often each clip counts (N,) to the number."""
    _, group = np.unique(np.arange(num_clips) if means.groups is None else means.groups, return_inverse=True)
    num_groups = int(group.max()) + 1
    drawn = resamples(num_groups, means.seed)[:NUM_RESAMPLES, group]
    whole = of(np.ones(num_clips, int))
    return symmetric_interval(whole, [of(weights.astype(int)) for weights in drawn], num_groups=num_groups)
