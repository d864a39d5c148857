"""What ways of doubting are worth, in rooms never seen and in worlds unlike those of training.

Every way of doubting (`hwm.predict.doubt`) is ranked by how well it tells where a model errs, and its intervals, learned on new
recordings of known rooms, are held against rooms never seen: lit and slippery as those of training, and not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hwm.config import CountOrNone
from hwm.evaluate.protocols import Scoring
from hwm.evaluate.scores import ALL
from hwm.experiments.compare import Across
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Section, Train
from hwm.work.ranges import Range

USUAL, PIXELS, CLIPS = "unseen rooms", "rank correlation, pixels", "rank correlation, clips"
WORLDS = {"dark": {"light": 0.4}, "slippery": {"friction": 0.1}, "raised camera": {"camera_shift": 0.1}}
MAPS = ("ensemble spread", "MC dropout", "token entropy", "round trip", "flow unrest", "predicted change")
OTHERS = ("none", "predicted change", "round trip", "flow unrest", "seeds")
"""Baselines, the three last of which are MMBench2's."""
HELD, WIDTH = [f"held by {level}%" for level in (50, 80, 95)], "width of 95%"
ABOUT = (
    "Doubt and error of the mean sample over all future frames, 95 % intervals over recordings. In the maps the expected error, "
    "learned on other clips, stands beside the true one: black is none, pale yellow 64 levels and more."
)


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = ("st-demo", "flow-hwm-base-tiny")
    """Which recipes to train (`hwm recipes`); none of the sampling track."""
    clips: CountOrNone = 64
    """Clips to score on in each world; 0: all."""
    samples: Annotated[int, Range(2, 10_000)] = 8
    """Predictions by each way to ask."""
    shifted: tuple[str, ...] = ()
    """With --data: other worlds to score in, NAME=FOLDER of data like those; without, the built-in robot has its own."""


def declare(plan: Options) -> Experiment:
    """A run a recipe, scored in every world with the doubts of `samples` predictions."""
    given = {name: Path(folder) for name, equals, folder in (word.partition("=") for word in plan.shifted) if equals}
    if len(given) < len(plan.shifted) or (given and not plan.data):
        raise ValueError("--shifted takes NAME=FOLDER, each name once, and wants --data beside it")
    worlds, scoring = given if plan.data else WORLDS, Scoring(doubt=plan.samples, tuning_clips=max(2, plan.clips // 2 or 64))
    keys = {name: {world or USUAL: f"{name}/doubt {world}".strip().replace(" ", "-") for world in ("", *worlds)}
            for name in plan.recipes}  # fmt: skip
    scorings = {
        key: Score(name, scoring, passes=3 * plan.samples, world="" if world == USUAL else world, tuned=True)
        for name, own in keys.items() for world, key in own.items()
    }  # fmt: skip
    return Experiment(
        "Does it know where it errs?", "uncertainty", plan.given({name: Train(name) for name in plan.recipes}), scorings,
        [section(name, own) for name, own in keys.items()], worlds=worlds,
        lead=f"{plan.source}, seed {plan.seed}: {plan.samples} predictions by each way to ask, in rooms never seen; intervals "
        f"learned on {scoring.tuning_clips} clips of known rooms.",
        verdict=lambda found: [words for name, own in keys.items() for words in sentences(name, own, found)],
    )  # fmt: skip


def across(metric: str, keys: dict[str, str]) -> Across:
    """A score of every way of doubting in every world."""
    return Across(metric, keys, ("doubt",), "way of doubting", ALL)


def section(name: str, keys: dict[str, str]) -> Section:
    """A run's tables by world, plots, and maps of doubt beside the truth."""

    def pictures(found: Found) -> list[dict[str, tuple[bytes, str]]]:
        scores = found[keys[USUAL]]
        maps = {way: f"doubt: {way}" for way in MAPS if way in scores.names("doubt")}
        columns = {"last seen": "seen", "truth": "truth", "prediction": scores.headline, "true error": "true error", **maps}
        return [{title: found.picture(keys[USUAL], number, name) for title, name in columns.items()}
                for number in range(len(found.record(keys[USUAL])["examples"]))]  # fmt: skip

    plots = {"Rank correlation of doubt and error over pixels": across(PIXELS, keys).dots(),
             "Pixels held by intervals of 95 %": across(HELD[-1], keys).dots(0.95)}  # fmt: skip
    tables = [across(metric, keys) for metric in (PIXELS, CLIPS, *HELD, WIDTH)]
    return Section(name, ABOUT, plots, tables, pictures, {f"{name}, {world}": key for world, key in keys.items()})


def sentences(name: str, keys: dict[str, str], found: Found) -> list[str]:
    """What the numbers of a run say: which way ranks best, beside the baselines, and whether its intervals hold elsewhere."""
    rank, held = across(PIXELS, keys), across(HELD[-1], keys)
    best = {}
    for kind in (False, True):
        there = [way for way in rank.rows(found) if (way.removesuffix(" / motion") in OTHERS) == kind]
        best[kind] = max(there, key=lambda way: rank.value(found, USUAL, way).mean)
    by = {way: rank.value(found, USUAL, way).text(2) for way in best.values()}
    shares = ", ".join(f"{held.value(found, world, best[False]).text(3)} in {world}" for world in keys)
    return [f"{name}: {best[False]} ranks pixels by their error with {by[best[False]]}, the best baseline, {best[True]}, with "
            f"{by[best[True]]}; its intervals of 95 % hold {shares}."]  # fmt: skip
