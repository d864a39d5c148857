"""Guidance of flows by their conditions: its scale in prediction, and how often conditions are dropped in training."""

from dataclasses import dataclass
from typing import Annotated

from hwm.config import Count, CountOrNone
from hwm.experiments.experiment import Experiment, Found, Plan, Train
from hwm.experiments.sweep import GAIN, SHARPNESS, STATES, Sweep, changed_by, configs_of, expect, scoring_of, trainings
from hwm.work.ranges import Range

ABOUT = (
    "Samples under guidance: the velocity is carried on beyond the unconditional one, of Flow-HWM without context and actions, "
    "of Wan without states; 1 is none. A model that never lost its conditions has no guidance. All points share clips and "
    "noise, so that they differ by less than their intervals, which are of the clips."
)


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = ("flow-hwm-base-tiny", "wan-tiny")
    """Which recipes of flows to train (`hwm recipes`)."""
    clips: CountOrNone = 64
    """Clips to score on, from rooms never trained on; 0: all."""
    scales: Annotated[tuple[float, ...], Range(-1000, 1000, some=True)] = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    """Scales of guidance; 1 is always among them."""
    dropouts: Annotated[tuple[float, ...], Range(0, 1, below=True)] = (0.0, 0.3)
    """Rates of condition dropout that are trained beside the recipes' own; 0 trains without."""
    solver_steps: Count = 10
    """Solver steps of a prediction."""


def declare(plan: Options) -> Experiment:
    """A run a recipe and rate of dropout, sampled at every scale."""
    expect(plan.recipes, lambda model: "guidance" in model.prediction_settings, "knows no guidance; give recipes of flows")
    dropped = [Train(name, (f"model.condition_dropout={rate:g}",)) for name in plan.recipes for rate in plan.dropouts]
    runs, values = trainings(*map(Train, plan.recipes), *dropped), {}
    for run, config in configs_of(runs).items():
        scales = sorted({1.0, *plan.scales}) if config.model.condition_dropout else [1.0]  # type: ignore[union-attr]
        scoring = scoring_of(config, plan, decode="sample", set=(f"model.steps={plan.solver_steps}",))
        values[run] = {f"{scale:g}": changed_by(scoring, f"model.guidance={scale:g}") for scale in scales}
    sweep = Sweep("guidance", "scale", values)
    curves = sweep.all().curves("scale of guidance", GAIN, STATES, SHARPNESS)
    plots = {"PSNR over copying, what the states are worth, and sharpness, against the scale": curves}
    return sweep.experiment("Guidance", runs, plan, about=ABOUT, plots=plots, sentence=sentence)


def sentence(found: Found, sweep: Sweep, run: str) -> str:
    """Where a run is best, and what the largest scale does to it."""
    (best, gain), most = sweep.best(found, run), list(sweep.values[run])[-1]
    if most == "1":
        return ""
    words = {"PSNR": GAIN, "what the states are worth": STATES, "sharpness": SHARPNESS}
    changes = [f"{name} {change:+.2f}{' dB' if column.over else ''}" for name, column in words.items()
               if (change := sweep.change(found, run, column, most, "1")) is not None]  # fmt: skip
    return f"{run}: best at {best} ({gain} dB over copying); a scale of {most} instead of none changes {', '.join(changes)}."
