"""Quality against the number of steps: solver steps of flows, as published and with shortcuts, and passes of Masked-HWM.

Shortcuts are ours, beyond the paper.  PSNR alone would reward few steps: one step from noise gives the mean of all futures,
which is blurred but near each of them.  So distances of appearance stand beside it, and all figures are of samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from hwm.config import CountOrNone
from hwm.experiments.compare import Column
from hwm.experiments.experiment import Experiment, Found, Plan, Train
from hwm.experiments.sweep import GAIN, LOOKS, QUALITY, SHARPNESS, Sweep, changed_by, configs_of, expect, scoring_of, trainings
from hwm.work.ranges import Range

FEW = 4
"""The goal is about these and the most."""
GOAL_DB = 0.2
"""Few steps are to lie this near to the most, in PSNR."""
ABOUT = (
    "Samples, at temperature 1, by runs trained once and asked for more or fewer steps. All points share clips and noise, so "
    "that they differ by less than their intervals, which are of the clips."
)
SPEED = (Column("samples/s", "samples/s", digits=1), Column("s for one", "seconds, 1 sample", digits=2))


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = ("masked-hwm-base-tiny", "flow-hwm-base-tiny", "wan-tiny")
    """Which recipes to train (`hwm recipes`), of families that predict in steps."""
    clips: CountOrNone = 96
    """Clips to score on, from rooms never trained on; 0: all."""
    shortcut: Annotated[float, Range(0, 1, below=True)] = 0.25
    """Share of a batch that learns shortcuts in a second twin of each Flow-HWM; 0: there is none."""
    counts: Annotated[tuple[int, ...], Range(1, 10_000, some=True)] = (1, 2, 4, 8, 16, 50)
    """Numbers of steps."""


def declare(plan: Options) -> Experiment:
    """The twins, sampled with every number of steps; of Flow-HWM also one that learned shortcuts (Frans et al. 2024)."""
    expect(plan.recipes, lambda model: model.solver_steps is not None, "does not predict in steps")
    flows = [name for name, config in configs_of(trainings(*map(Train, plan.recipes))).items() if config.model.family == "flow"]
    short = [Train(name, (f"model.shortcut={plan.shortcut:g}",)) for name in flows if plan.shortcut]
    runs, values = trainings(*map(Train, plan.recipes), *short), {}
    for label, config in configs_of(runs).items():
        scoring = scoring_of(config, plan, decode="sample", temperature=1.0)
        values[label] = {str(n): changed_by(scoring, f"model.steps={n}") for n in sorted(set(plan.counts))}
    sweep = Sweep("steps", "steps", values)
    plot = sweep.all().curves("steps", GAIN, SHARPNESS, *LOOKS[2:4])
    plots = {"PSNR over copying, and the look of a sample, against the number of steps": plot}
    said: Callable[[Found, Sweep, str], str] = lambda found, sweep, run: sentence(run, *changes(found, sweep, run))  # noqa: E731
    how: dict[str, Any] = {"about": ABOUT, "plots": plots, "columns": (*QUALITY, *SPEED), "measured": True}
    return sweep.experiment("Steps of a prediction", runs, plan, sentence=said, **how)


def changes(found: Found, sweep: Sweep, run: str) -> tuple[int, int, float, float]:
    """Few steps and the most, and how far the former lie from the latter in PSNR and sharpness."""
    counts = [int(label) for label in sweep.values[run]]
    few, many = str(max(n for n in counts if n <= max(FEW, counts[0]))), str(counts[-1])
    psnr, sharp = (sweep.change(found, run, column, few, many) for column in (GAIN, SHARPNESS))
    assert psnr is not None and sharp is not None
    return int(few), int(many), psnr, sharp


def sentence(run: str, few: int, many: int, psnr: float, sharpness: float) -> str:
    """How far few steps lie from the most."""
    reached = "reaches" if psnr >= -GOAL_DB else "misses"
    return (
        f"{run}: {few} steps lie {psnr:+.2f} dB in PSNR and {sharpness:+.3f} in sharpness from {many}, which {reached} the goal "
        f"of at most {GOAL_DB} dB below."
    )
