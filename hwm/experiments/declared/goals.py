"""What a model of the robot's camera should reach, goal beside value: following, what if, a minute of rollout, speed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import COPY_FRAME, EARLIER, MASK_IOU, ONE_SAMPLE, SAMPLING, TOLD_APART, Scoring
from hwm.evaluate.scores import Scores, Table, frame_span
from hwm.experiments.experiment import Experiment, Found, Score, Section
from hwm.experiments.following import HZ, Following

NEAR = (9, 17, 60)
LAST_SECONDS = 10
STEP_FRAMES = SAMPLING_FRAMES - SAMPLING_CONTEXT
"""Frames of the prediction whose time is taken."""
Reading = tuple[str, Interval]
"""A row and its number."""
ABOUT = (
    "Reading: that row of a model (a sample, the mean of several, temperature 0) which does best by the number itself. Gains "
    "and losses are paired over clips, intervals over recordings; a goal is reached where the mean reaches it. By chance an own "
    "future is the nearest in one of as many as there are."
)


@dataclass(frozen=True)
class Goal:
    """A number to reach.  reading: the row and the number, None where the data do not tell.

    least: the goal, or, where lower is better, most.  scale: of what is printed.
    """

    what: str
    reading: Reading | None
    least: float = math.nan
    most: float = math.nan
    unit: str = ""
    digits: int = 2
    scale: float = 1

    @property
    def line(self) -> list[str]:
        """What, by which reading, value, goal, and whether it is reached."""
        higher = not math.isnan(self.least)
        goal = self.least if higher else self.most
        aim = f"{'>=' if higher else '<='} {self.scale * goal:.{self.digits}f} {self.unit}".strip()
        if self.reading is None or math.isnan(self.reading[1].mean) or math.isnan(goal):
            return [self.what, "–", "not measured", aim if math.isfinite(goal) else "–", "–"]
        row, value = self.reading
        low, high = (None if end is None else self.scale * end for end in (value.low, value.high))
        told = f"{Interval(self.scale * value.mean, low, high).text(self.digits)} {self.unit}".strip()
        reached = value.mean >= goal if higher else value.mean <= goal
        return [self.what, row, told, aim, "reached" if reached else "missed"]


def declare(plan: Following) -> Experiment:
    """Three scorings a run: near and with several samples, the futures of one start, long."""
    runs = plan.wanted()
    keys = {run: {"near": f"goals/{run}/near", "what if": f"goals/{run}/what-if", "long": f"rollout/{run}"} for run in runs}
    scorings: dict[str, Score] = {}
    for run, own in keys.items():
        near: Any = {"protocol": SAMPLING.name, "ahead": tuple(n for n in NEAR if n <= plan.longest)}
        scoring = Scoring(members=(1, 5), tuning_clips=plan.tuning_clips, **near)
        scorings[own["near"]] = Score(run, scoring, passes=4, world=plan.world)
        if plan.branching:
            scoring = Scoring(members=(1,), tuning_clips=2, **near | {"ahead": NEAR[1:]})
            scorings[own["what if"]] = Score(run, scoring, passes=4, world=plan.world, clips=0, branches=True)
        scorings[own["long"]] = plan.rollout(run)

    def sections(found: Found) -> list[Section]:
        tables = [lambda found, run=run: filled(found, run, keys[run]) for run in runs]
        links = {f"{run}, {what}": key for run, own in keys.items() for what, key in own.items() if key in scorings}
        return [Section("Goals", ABOUT, {}, tables, links=links)]

    def verdict(found: Found) -> list[str]:
        said = []
        for run in runs:
            ends = [line[-1] for line in filled(found, run, keys[run]).rows]
            measured = len(ends) - ends.count("–")
            said.append(f"{run}: {ends.count('reached')} of {measured} goals reached, {ends.count('–')} not measured.")
        return said

    return Experiment(
        "Goals", "goals", runs, scorings, sections, verdict=verdict, worlds=plan.worlds, measured=True,
        lead=f"{', '.join(runs)}: {plan.source}, seed {plan.seed}, unseen rooms.",
    )  # fmt: skip


def filled(found: Found, run: str, keys: dict[str, str]) -> Table:
    """The table of a run."""
    return Table(run, ["goal", "reading", "value", "goal", ""], [goal.line for goal in goals(found, keys)])


def goals(found: Found, keys: dict[str, str]) -> Iterator[Goal]:
    """Those that fit the data, simulated ones or a real robot's, and the size of the frames."""
    near, long = found[keys["near"]], found[keys["long"]]
    simulated = bool(near.select(metric=MASK_IOU))
    for frames, least in ({17: 3.5, 60: 4.0} if simulated else {17: 7.5, 60: 9.0}).items():
        yield Goal(f"over copying, {frames} frames", over_copying(near, frames), least, unit="dB")
    yield Goal("cost of another clip's states, 17 frames", cost_of_permuted(near, 17), 4.0, unit="dB")
    for scores, frames, least in ((near, 9, 0.9), (near, 60, 0.8), (long, 300, 0.7)) if simulated else ():
        yield Goal(f"robot mask IoU, {frames / HZ:g} s", best(scores, MASK_IOU, [frames]), least, digits=3)
    if keys["what if"] in found.experiment.scorings:
        what_if = found[keys["what if"]]
        of = f"own future nearest of {what_if.settings.get('branches', '?')}"
        for frames in NEAR[1:]:
            yield Goal(f"{of}, {frames} frames", best(what_if, TOLD_APART, [frames]), 0.95, unit="%", digits=0, scale=100)
    yield from of_rollout(long, simulated)
    side = near.settings["image_size"][0]
    yield Goal(f"predicted frames a second, {side} px", frames_a_second(near), 15 if side <= 64 else 8, digits=1)


def of_rollout(long: Scores, simulated: bool) -> Iterator[Goal]:
    """Those of the last ten seconds of a minute."""
    ahead = long.settings["ahead"]
    if ahead[-1] < 2 * LAST_SECONDS * HZ:
        return
    end, last = ahead[-1] / HZ, [n for n in ahead if n > ahead[-1] - LAST_SECONDS * HZ]
    words = f"{end - LAST_SECONDS:g} to {end:g} s of rollout"
    if simulated:
        yield Goal(f"robot mask IoU, {words}", best(long, MASK_IOU, last), 0.6, digits=3)
    own, truth = (mean_over(long, row, "TFD of pictures", last) for row in (ONE_SAMPLE, EARLIER))
    what = f"TFD of pictures, {words}; goal: that of the truth and itself 10 s before"
    yield Goal(what, (ONE_SAMPLE, own), most=truth.mean, digits=3)


def place_of(scores: Scores, frames: int) -> str:
    """The span of a frame by how far it lies ahead."""
    return frame_span(scores.settings["ahead"].index(frames) + 1)


def mean_over(scores: Scores, row: str, metric: str, ahead: Sequence[int]) -> Interval:
    """Mean of a row's scores at these frames; its interval where it is of one."""
    spans = [place_of(scores, n) for n in ahead if n in scores.settings["ahead"]]
    values = [s.value for span in spans for s in scores.select(row=row, metric=metric, span=span)]
    return values[0] if len(values) == 1 else Interval(sum(v.mean for v in values) / len(values) if values else math.nan)


def best(scores: Scores, metric: str, ahead: Sequence[int], *, rows: Sequence[str] = ()) -> Reading | None:
    """The reading with most of a score, mean over these frames."""
    found = {row: mean_over(scores, row, metric, ahead) for row in rows or scores.names("model")}
    there = {row: value for row, value in found.items() if not math.isnan(value.mean)}
    return max(there.items(), key=lambda item: item[1].mean) if there else None


def over_copying(scores: Scores, frames: int) -> Reading | None:
    """The best reading's gain over copying."""
    if frames not in scores.settings["ahead"]:
        return None
    place = {"metric": "psnr", "span": place_of(scores, frames)}
    differences = [d for d in scores.differences if d.second == COPY_FRAME and d.metric == place["metric"]]
    found = {d.first: d.value for d in differences if d.span == place["span"]}
    return max(sorted(found.items(), key=lambda item: item[0] != ONE_SAMPLE), key=lambda item: item[1].mean, default=None)


def cost_of_permuted(scores: Scores, frames: int) -> Reading | None:
    """What is lost with another clip's states."""
    if frames not in scores.settings["ahead"]:
        return None
    control = scores.settings["control"]
    return control, scores.difference(control, scores.settings["controls"]["permuted"], span=place_of(scores, frames)).value


def frames_a_second(scores: Scores) -> Reading | None:
    """Of one sample of one clip, the time of encoding and decoding included."""
    seconds = None if scores.cost is None else scores.cost.figures.get("seconds, 1 sample")
    return None if not seconds else (ONE_SAMPLE, Interval(scores.settings["ahead"][-1] / seconds))
