"""A robot's own dynamics from its commands: a twin beside what needs no model, two seconds ahead."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from hwm.config import CountOrNone
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Section, Train
from hwm.work.ranges import Range

RUN = "twin"


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    commands: ClassVar[bool] = True

    minutes: Annotated[float, Range(0, 1e6, above=True)] = 6.0
    """Robot time simulated for training."""
    clips: CountOrNone = 0
    """Clips to score on, from recordings never trained on; 0: all."""


def declare(plan: Options) -> Experiment:
    """One run, scored on recordings that it has not seen."""
    return Experiment(
        "The robot's own dynamics", "twin", plan.given({RUN: Train("twin")}), {RUN: Score(RUN)}, sections,
        lead=f"{plan.source}, seed {plan.seed}: states foreseen from commands alone, in recordings never seen.", verdict=verdict,
    )  # fmt: skip


def verdict(found: Found) -> list[str]:
    """What the numbers say."""
    from hwm.evaluate.motion import motion_verdict

    return [motion_verdict(found[RUN])]


def sections(found: Found) -> list[Section]:
    """Errors by how far ahead, and what the spread is worth."""
    from hwm.evaluate.motion import ABOUT, motion_plots, motion_tables

    plots = {name: lambda found, png=png: png for name, png in motion_plots(found[RUN]).items()}
    tables = [lambda found, table=table: table for table in motion_tables(found[RUN])]
    return [Section("Errors and spread", ABOUT, plots, tables, links={RUN: RUN})]
