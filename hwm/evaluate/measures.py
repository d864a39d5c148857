"""What is measured of scenes, kept as plain arrays, and the table that is made of it: means over clips, paired differences."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate.calibration import Calibration
from hwm.evaluate.doubting import Doubting
from hwm.evaluate.intervals import Interval
from hwm.evaluate.metrics import CHANGE, ENTROPY, METRICS, Metric, mean_squared_error, psnr, sharpness, shown
from hwm.evaluate.perceptual import PerceptualScorer
from hwm.evaluate.protocols import CEILING, EARLIER, SURE_SHARPNESS, TRUE_FRAMES, mean_of
from hwm.evaluate.scenes import Scene
from hwm.evaluate.scores import ALL, LAST, RECONSTRUCTION, Difference, Example, Means, Row, Score, frame_span
from hwm.evaluate.token_scores import ROWS, TokenScorer
from hwm.evaluate.tuning import Tuning, fit_saturation
from hwm.evaluate.ways import Drawn, Predictor, Ways
from hwm.predict.ensemble import spread
from hwm.work.parts import Arrays, Columns, Times, inside, seconds, under

OTHER_ROWS = [*ROWS, Row(CEILING, "ceiling", "the true future, through the tokenizer")]
OTHER_ROWS += [Row(TRUE_FRAMES, "ceiling", "what readers read off the true frames themselves")]
OTHER_ROWS += [Row(EARLIER, "ceiling", "the truth as it was 300 frames before: how far real frames wander by themselves")]
"""Rows that are not made of frames that were predicted."""


class Measures:
    """Measures scenes, one by one or shared out, and makes the table of all of them.

    doubting: None where ways of doubting are not scored.  readers: metrics beside `METRICS`, of the true frames as well.
    each: whether rows are compared frame by frame as well.  tokens: None where no distribution of tokens is looked at.
    num_examples: of `num_clips` that are kept to look at.
    seed: breaks ties of ranks.  poll: called now and then; may raise.
    """

    def __init__(
        self, predictor: Predictor, ways: Ways, *, tokens: TokenScorer | None, perceptual: PerceptualScorer,
        tuning: Tuning | None, doubting: Doubting | None, num_clips: int, num_examples: int, seed: int, poll: Callable[[], None],
        readers: Sequence[Metric] = (), each: bool = False,
    ) -> None:  # fmt: skip
        self.predictor, self.ways, self.tokens, self.perceptual = predictor, ways, tokens, perceptual
        self.tuning, self.doubting, self.poll, self.seed, self.times = tuning, doubting, poll, seed, Times()
        self.readers, self.each = readers, each
        self.calibration = Calibration(seed=seed) if ways.members and ways.members[-1] > 1 else None
        self.gallery = Gallery(num_examples, num_clips)
        self._pixels, self._sure, self._changes = Columns(), Columns(), Columns()

    @torch.no_grad()
    def measure(self, scene: Scene) -> Arrays:
        """All that is measured of a scene; nothing of it is kept here."""
        begun, predicting, looking = time.perf_counter(), self.predictor.seconds, self.perceptual.seconds
        drawn, ways = Drawn(self.predictor, scene, self.tuning), self.ways
        found = {} if self.tokens is None else under("tokens", self.tokens.measure(drawn))
        rows = _rows(drawn, ways)
        pixels = -time.perf_counter()
        found |= under("pixels", _pixels(rows, scene, self.readers, poll=self.poll))
        pixels += time.perf_counter()
        if self.each and drawn.entropies:
            found[f"pixels/{ENTROPY}/{next(iter(rows))}/{mean_of(1)}"] = torch.stack(drawn.entropies).numpy()
        if rows:
            found |= self._looked_at(next(iter(rows.values())), drawn)
        return found | seconds(
            predictions=self.predictor.seconds - predicting,
            pixel_scores=pixels,
            perceptual_scores=self.perceptual.seconds - looking,
            total=time.perf_counter() - begun,
        )

    def _looked_at(self, frames: dict[str, Tensor], drawn: Drawn) -> Arrays:
        """What networks, the spread of samples and people make of the frames of a scene, those of the verdict's reference."""
        scene, ways, samples = drawn.scene, self.ways, None
        looked_at = {way.row.name: frames[way.row.name] for way in ways.all if way.looked_at and way.row.name in frames}
        networks = self.perceptual.measure(looked_at, scene.view, first_clip=scene.first, poll=self.poll)
        found = under("perceptual", networks) | under("changes", _changes(frames, ways))
        if self.calibration is not None:
            samples = drawn.samples(ways.members[-1])[:, :, -1]
            ranked = self.calibration.measure(samples, scene.last()[1], first_clip=scene.first)
            found |= under("calibration", ranked) | under("sure", _sure_sharpness(frames, scene, samples))
        more: dict[str, Tensor] = {}
        if self.doubting is not None:
            doubted, more = self.doubting.measure(scene)
            found |= under("doubt", doubted)
        return found | under("gallery", self.gallery.measure(scene, frames, ways, samples, more))

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next scene."""
        self.times.add(arrays)
        self._pixels.add(inside("pixels", arrays))
        self._changes.add(inside("changes", arrays))
        self.perceptual.add(inside("perceptual", arrays))
        self.gallery.add(inside("gallery", arrays))
        if self.tokens is not None:
            self.tokens.add(inside("tokens", arrays))
        if self.calibration is not None:
            self.calibration.add(inside("calibration", arrays))
            self._sure.add(inside("sure", arrays))
        if self.doubting is not None:
            self.doubting.add(inside("doubt", arrays))

    def summary(self, groups: np.ndarray | None, *, reference: str, span: str) -> dict[str, Any]:
        """Rows, scores, differences and facts of all scenes.  reference, span: what networks looked at."""
        means, looked = Means(groups, self.seed), self.perceptual.seconds
        found, differences = of_frames(self._pixels, self.ways, means, self.readers, each=self.each)
        more = [self.perceptual.summary(self.ways.headline, reference=reference, span=span, seed=self.seed)]
        if self.tokens is not None:
            more.append(self.tokens.summary(means))
        more += [self._sure_scores(means, reference), (self._change_scores(means, reference), [])]
        for scores, compared in more:
            found, differences = found + scores, differences + compared
        found = [replace(s, value=s.value.within(*shown(s.metric).limits)) for s in found]
        wide = {d.metric: shown(d.metric).limits[1] - shown(d.metric).limits[0] for d in differences}
        differences = [replace(d, value=d.value.within(-wide[d.metric], wide[d.metric])) for d in differences]
        self.times.spent["perceptual scores"] += self.perceptual.seconds - looked
        facts = {
            "calibration": None if self.calibration is None else self.calibration.result(),
            "saturation": saturation(found, self.ways),
            "tuning": None if self.tuning is None else asdict(self.tuning),
        }
        doubts: list[Row] = []
        if self.doubting is not None:
            doubts, scores, facts["doubt"] = self.doubting.summary(means, reference=reference, span=span)
            found += scores
        made = [*OTHER_ROWS, *self.ways.controls.values(), *(way.row for way in self.ways.all)]
        named = {row.name: row for row in [*doubts, *made]}
        return {
            "rows": [named[name] for name in dict.fromkeys(score.row for score in found)],
            "scores": found,
            "differences": differences,
            "facts": {name: fact for name, fact in facts.items() if fact is not None},
        }


    def _change_scores(self, means: Means, reference: str) -> list[Score]:
        """By how much other states change the prediction, over every span."""
        of_row = self._changes.inside("row").items()
        return [Score(row, CHANGE, reference, span, means.one(x_N)) for row, x_NF in of_row for span, x_N in spans(x_NF)]

    def _sure_scores(self, means: Means, reference: str) -> tuple[list[Score], list[Difference]]:
        """Sharpness of the last frame where the samples agree, and what the headline and the blend have of one sample's."""
        own = self._sure.inside("row")
        place = {"metric": SURE_SHARPNESS, "reference": reference, "span": LAST}
        scores = [Score(row, value=means.one(values), **place) for row, values in own.items()]
        pairs = [(first, second) for first, second, metrics in self.ways.pairs if SURE_SHARPNESS in metrics and second in own]
        return scores, [means.difference(a, b, own[a], own[b], **place) for a, b in pairs]


def _changes(frames: dict[str, Tensor], ways: Ways) -> Arrays:
    """Of the rows with other states the root mean squared difference to the one beside which they stand, levels, (B, F)."""
    others = [row.name for row in ways.controls.values() if row.name in frames]
    return {f"row/{row}": mean_squared_error(frames[row], frames[ways.control]).sqrt().numpy() for row in others}


def _sure_sharpness(frames: dict[str, Tensor], scene: Scene, samples_BKHWC: Tensor) -> Arrays:
    """Of the last frame of every row, over the half of the pixels in which the samples differ least, (B,)."""
    spread_BHW = spread(samples_BKHWC)
    sure_BHW = spread_BHW <= spread_BHW.flatten(1).median(1).values[:, None, None]
    truth = scene.last()[1]
    return {f"row/{row}": sharpness(video[:, -1], truth, sure_BHW).numpy() for row, video in frames.items()}


def _rows(drawn: Drawn, ways: Ways) -> dict[str, dict[str, Tensor]]:
    """Frames of every row by the reference that it is held against; the tokenizer alone is a row where that is another."""
    scene, found = drawn.scene, {}
    own = {way.row.name: way.make(drawn, scene.view.past) for way in ways.all if not way.of_past}
    for reference, view in scene.views.items():
        rows = own | {way.row.name: way.make(drawn, view.past) for way in ways.all if way.of_past}
        if reference != RECONSTRUCTION and RECONSTRUCTION in scene.views:
            rows[CEILING] = scene.views[RECONSTRUCTION].truth
        found[reference] = {name: frames for name, frames in rows.items() if frames is not None}
    return found


def _pixels(
    rows: dict[str, dict[str, Tensor]], scene: Scene, readers: Sequence[Metric], *, poll: Callable[[], None]
) -> Arrays:
    """Every metric of every frame of every row against every reference, (B, F); of the true frames what readers read there."""
    found: Arrays = {}
    for reference, by_name in rows.items():
        for name, frames in (by_name | ({TRUE_FRAMES: scene.views[reference].truth} if readers else {})).items():
            poll()
            for metric in readers if name == TRUE_FRAMES else (*METRICS, *readers):
                if (measured_BF := metric.measure(frames, scene.views[reference])) is not None:
                    found[f"{metric.name}/{reference}/{name}"] = measured_BF.double().numpy()
    return found


class Gallery:
    """Keeps, from each of equal stretches of the clips, the one whose last frame differs most from the last seen one."""

    def __init__(self, num_examples: int, num_clips: int) -> None:
        self._stretch_of = np.arange(num_clips) * num_examples // num_clips
        self._wanted = num_examples
        self._kept: dict[int, tuple[float, Example]] = {}

    def measure(
        self, scene: Scene, rows: dict[str, Tensor], ways: Ways, samples_BKHWC: Tensor | None, more: dict[str, Tensor],
    ) -> Arrays:  # fmt: skip
        """The best clips of a scene, by stretch, with their pictures.

        samples_BKHWC: of an ensemble, of the last frame.  more: further pictures, uint8 (B, F, H, W, 3) by name.
        """
        found: Arrays = {}
        if not self._wanted:
            return found
        seen, truth = scene.last()
        past, future = scene.view.past, scene.view.truth
        motion = mean_squared_error(truth, seen).numpy()
        stretches = self._stretch_of[scene.first : scene.first + len(scene.numbers)]
        shown = {way.row.name: rows[way.row.name] for way in ways.all if way.shown}
        pictures = {"seen": past if future.shape[1] > 1 else past[:, -1:], "truth": future}
        pictures |= {reference: view.truth for reference, view in scene.views.items() if view is not scene.view} | shown | more
        for stretch in np.unique(stretches):
            mine = np.flatnonzero(stretches == stretch)
            i = int(mine[motion[mine].argmax()])  # the first of equals
            facts = {"motion": motion[i : i + 1], "clip": scene.numbers[i : i + 1]}
            if samples_BKHWC is not None:
                facts["spread"] = spread(samples_BKHWC[i : i + 1])[0].numpy()
            psnrs = {name: np.array([float(psnr(frames[i, -1], truth[i]))]) for name, frames in rows.items()}
            frames = {name: video[i].numpy().copy() for name, video in pictures.items()}
            found |= under(str(stretch), facts | under("pictures", frames) | under("psnr", psnrs))
        return found

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next clips."""
        for stretch in sorted({int(key.partition("/")[0]) for key in arrays}):
            own = inside(str(stretch), arrays)
            motion = float(own["motion"][0])
            if stretch not in self._kept or motion > self._kept[stretch][0]:
                psnrs = {name: float(value[0]) for name, value in inside("psnr", own).items()}
                example = Example(int(own["clip"][0]), inside("pictures", own), psnrs, own.get("spread"))
                self._kept[stretch] = motion, example

    def examples(self) -> list[Example]:
        """What was kept, in the order of the clips."""
        return [self._kept[stretch][1] for stretch in sorted(self._kept)]


def of_frames(
    columns: Columns, ways: Ways, means: Means, readers: Sequence[Metric] = (), *, each: bool = False
) -> tuple[list[Score], list[Difference]]:
    """Every metric of every row against every reference, over every span, and the paired differences.

    columns: what was measured of each frame, (N, F), by "metric/reference/row".  each: see `Measures`.
    """
    scores, found = [], {}
    for metric in (*METRICS, *readers):
        for key, measured_NF in columns.inside(metric.name).items():
            reference, _, row = key.partition("/")
            values_NF = found[reference, row, metric.name] = metric.score(measured_NF)
            for span, values_N in spans(values_NF):
                note = without(values_N, metric)
                scores.append(Score(row, metric.name, reference, span, means.one(values_N), note))
            if values_NF.shape[1] > 1:
                numbered = enumerate(means.each(values_NF), 1)
                scores += [Score(row, metric.name, reference, frame_span(f), value) for f, value in numbered]
            if metric.pooled:
                pooled = {LAST: measured_NF[:, -1], ALL: measured_NF}
                for span, _ in spans(values_NF):
                    value = Interval(float(metric.score(pooled[span].nanmean())), None, None)
                    scores.append(Score(row, metric.pooled, reference, span, value, note="pooled over clips"))
            if metric.name == "psnr" and row in map(mean_of, ways.sizes):
                scores.append(Score(row, "mse", reference, LAST, Interval(float(measured_NF[:, -1].mean()), None, None)))
    differences = []
    for reference in dict.fromkeys(reference for reference, *_ in found):
        for first, second, metrics in ways.pairs:
            also = [metric.name for metric in readers if not metric.part]
            for name in [n for n in (*metrics, *also) if {(reference, first, n), (reference, second, n)} <= found.keys()]:
                own, other = (dict(spans(found[reference, row, name], each=each)) for row in (first, second))
                place = {"metric": name, "reference": reference}
                differences += [means.difference(first, second, own[span], other[span], span=span, **place) for span in own]
    return scores, differences


def without(values_N: Tensor, metric: Metric) -> str:
    """How many clips have no number, in words; empty where all have one."""
    missing = int(values_N.isnan().sum())
    return f"{missing} of {len(values_N)} clips {metric.left_out}" if missing else ""


def spans(values_NF: Tensor, *, each: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The last frame, and where there are several the mean over all that have a number, and each by itself: (N,) by span."""
    yield LAST, values_NF[:, -1]
    if values_NF.shape[1] > 1:
        yield ALL, values_NF.nanmean(1)
        yield from ((frame_span(f), values_N) for f, values_N in enumerate(values_NF.unbind(1) if each else (), 1))


def saturation(scores: Sequence[Score], ways: Ways) -> dict[str, Any] | None:
    """MSE = floor + variance / N fitted to the means of growing ensembles, and the PSNR at its floor; None for one size."""
    if len(ways.sizes) < 2:
        return None
    mse = {score.row: score.value.mean for score in scores if score.metric == "mse"}
    fit = fit_saturation(ways.sizes, [mse[mean_of(n)] for n in ways.sizes])
    return {"floor": fit.floor, "variance": fit.variance, "psnr_limit": fit.psnr_limit, "clipped": fit.clipped}
