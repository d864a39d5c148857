"""Runs of any families, each scored at several values of one thing that acts when it predicts: a table a run, curves of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwm.config import RunConfig
from hwm.evaluate.protocols import OF_ONE_PREDICTION, ONE_SAMPLE, Scoring, own_protocol
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Section, Train, config_of, slug
from hwm.recipes import recipe

RECIPES = ("st-demo", "masked-hwm-base-tiny", "flow-hwm-base-tiny", "wan-tiny")
"""A twin of each family for two CPU cores, which experiments in one folder share."""
GAIN = Column("over copying, dB", over="copy")
STATES = Column("over permuted states, dB", row="control", over="permuted")
SHARPNESS = Column("sharpness", "sharpness", interval=False)
LOOKS = (
    SHARPNESS, Column("GMSD", "gmsd", interval=False), Column("TFD", "TFD"), Column("TFD of pictures", "TFD of pictures"),
    Column("FID", "FID"), Column("LPIPS", "LPIPS"),
)  # fmt: skip
"""How a picture looks beside the truth; those that were not computed are left out of a table."""
QUALITY = (Column("PSNR, dB"), Column("PSNR of one, dB", row=ONE_SAMPLE), GAIN, STATES, *LOOKS)


def trainings(*runs: Train) -> dict[str, Train]:
    """Runs by labels that tell them wholly."""
    return {run.label: run for run in runs}


def expect(recipes: Sequence[str], fits: Callable[[Any], bool], fault: str) -> None:
    """Raise ValueError for recipes whose models do not fit; fault: what is told of them."""
    if wrong := [name for name in recipes if not fits(recipe(name).model)]:
        raise ValueError(f"--recipes: {', '.join(wrong)} {fault}")


def scoring_of(config: RunConfig, plan: Plan, *, members: tuple[int, ...] = (1, 5), **settings: Any) -> Scoring:
    """A scoring by the run's own protocol, with the settings that act there.  members: where that draws ensembles."""
    if own_protocol(config.data.clip).ensembles:
        rest = {name: value for name, value in settings.items() if name not in OF_ONE_PREDICTION}
        return Scoring(members=members, tuning_clips=plan.tuning_clips, **rest)
    return Scoring(**settings)


@dataclass(frozen=True)
class Sweep:
    """What is scored, and what is shown of it.

    name: begins the names of the scorings.  head: what is varied, above the labels and below curves.
    values: by run the scorings by label; equal ones are made once.  these: see `Compare`.
    """

    name: str
    head: str
    values: Mapping[str, Mapping[str, Scoring]]
    these: Mapping[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, dict[str, str]]:
        """By run and label the name of the scoring."""
        found: dict[str, dict[str, str]] = {}
        for run, values in self.values.items():
            first = {scoring: label for label, scoring in reversed(list(values.items()))}
            found[run] = {label: f"{self.name}/{run}/{slug(first[scoring])}" for label, scoring in values.items()}
        return found

    @property
    def scorings(self) -> dict[str, Score]:
        """What is to be scored, by name."""
        keys, all_of_them = self.keys, ((run, label, s) for run, of_run in self.values.items() for label, s in of_run.items())
        return {keys[run][label]: Score(run, scoring, passes=_steps(scoring)) for run, label, scoring in all_of_them}

    def table(self, run: str, columns: Sequence[Column] = QUALITY, title: str = "") -> Compare:
        """That of one run."""
        rows = {label: [key] for label, key in self.keys[run].items()}
        return Compare(title or run, rows, columns, head=self.head, these=self.these)

    def all(self, columns: Sequence[Column] = (), *, labels: Sequence[str] = ()) -> Compare:
        """All runs beside each other, for plots.  labels: those that are shown; default: all."""
        keys = self.keys
        labels = labels or list(dict.fromkeys(label for of_run in keys.values() for label in of_run))
        labels = sorted(labels, key=lambda label: float(label.split()[0])) if all(map(_number, labels)) else labels
        rows = {label: [of_run.get(label, "") for of_run in keys.values()] for label in labels}
        return Compare(self.head, rows, columns, groups=tuple(keys), head=self.head, these=self.these)

    def experiment(
        self, title: str, runs: Mapping[str, Train | Path], plan: Plan, *, about: str,
        plots: Mapping[str, Callable[[Found], bytes]], sentence: Callable[[Found, Sweep, str], str],
        columns: Sequence[Column] = QUALITY, measured: bool = False,
    ) -> Experiment:  # fmt: skip
        """Plots of all runs, then a table a run, which says what its verdict's row is, and the reports.

        sentence: the verdict on a run; empty for none.
        """

        def sections(found: Found) -> list[Section]:
            read = {run: found[next(iter(of_run.values()))].headline for run, of_run in self.keys.items()}
            said = {run: run if self.these else f"{run}: {headline}" for run, headline in read.items()}
            tables = [self.table(run, columns, title) for run, title in said.items()]
            once = {key: f"{run}: {label}" for run, of_run in self.keys.items() for label, key in reversed(of_run.items())}
            links = {words: key for key, words in reversed(once.items())}
            return [Section(title, about, plots, tables, links=links)]

        clips = f"{plan.clips} clips" if plan.clips else "all clips"
        return Experiment(
            title, self.name, runs, self.scorings, sections,
            lead=f"{', '.join(runs)}: {plan.source}, seed {plan.seed}, {clips} of unseen rooms, each run by its own protocol.",
            verdict=lambda found: list(filter(None, (sentence(found, self, run) for run in self.values))), measured=measured,
        )  # fmt: skip

    def best(self, found: Found, run: str, column: Column = GAIN) -> tuple[str, str]:
        """The label where a run has most of a column, and how much as text."""
        table = self.table(run)
        there = {label: value.mean for label in table.rows if (value := table.value(found, label, column)) is not None}
        label = max(there, key=lambda label: there[label])
        return label, table.text(found, label, column)

    def change(self, found: Found, run: str, column: Column, first: str, second: str) -> float | None:
        """By how much a column is more at the first label than at the second; None where it is not computed."""
        table = self.table(run)
        one, other = (table.value(found, label, column) for label in (first, second))
        return None if one is None or other is None else one.mean - other.mean


def configs_of(runs: Mapping[str, Train]) -> dict[str, RunConfig]:
    """What the runs are."""
    return {label: config_of(run) for label, run in runs.items()}


def changed_by(scoring: Scoring, *changes: str) -> Scoring:
    """The scoring with further changes to how the model predicts."""
    return replace(scoring, set=(*scoring.set, *changes))


def _steps(scoring: Scoring) -> int:
    steps = [change.partition("=")[2] for change in scoring.set if change.startswith("model.steps=")]
    return int(steps[0]) if steps else 1


def _number(label: str) -> bool:
    return label.split()[0].replace(".", "", 1).isdigit()
