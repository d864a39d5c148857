"""Size of the modulation by the states: the learned gate scaled in prediction, and from what it starts in training."""

from dataclasses import dataclass
from typing import Annotated

from hwm.config import CountOrNone
from hwm.evaluate.protocols import AUTOREGRESSIVE
from hwm.evaluate.scores import ALL_GRIDS, TOKENS
from hwm.experiments.compare import Column
from hwm.experiments.experiment import Experiment, Found, Plan, Train
from hwm.experiments.sweep import GAIN, QUALITY, RECIPES, STATES, Sweep, changed_by, configs_of, expect, scoring_of, trainings
from hwm.work.ranges import Range

ABOUT = (
    "A gate of 1 is what was learned; 0 takes the modulation by the states away, as if it had not been trained (other ways of "
    "the states into a model stay: tokens of actions, vectors that are added). Runs named state_start begin with random "
    "modulations of that size instead of none."
)
CE = Column("cross-entropy, nats", "cross-entropy", AUTOREGRESSIVE, reference=TOKENS, span=ALL_GRIDS)


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = RECIPES
    """Which recipes to train (`hwm recipes`)."""
    clips: CountOrNone = 64
    """Clips to score on, from rooms never trained on; 0: all."""
    gates: Annotated[tuple[float, ...], Range(-1000, 1000, some=True)] = (0.0, 0.5, 1.0, 2.0, 4.0)
    """Factors of the modulation in prediction; 1 is always among them."""
    starts: Annotated[tuple[float, ...], Range(0, 1e6, above=True)] = (0.1,)
    """Standard deviations of the modulation's first weights, each trained beside the recipes' 0."""


def declare(plan: Options) -> Experiment:
    """A run a recipe and start, scored at every gate."""
    expect(plan.recipes, lambda model: getattr(model, "modulated", False), "has no modulation by the states")
    begun = [Train(name, (f"model.state_start={start:g}",)) for name in plan.recipes for start in plan.starts]
    runs, values = trainings(*map(Train, plan.recipes), *begun), {}
    for run, config in configs_of(runs).items():
        scoring = scoring_of(config, plan)
        values[run] = {f"{gate:g}": changed_by(scoring, f"model.state_gate={gate:g}") for gate in sorted({1.0, *plan.gates})}
    sweep = Sweep("gate", "gate", values)
    plots = {"PSNR over copying, and what the states are worth": sweep.all().curves("gate", GAIN, STATES, log=False)}
    columns = (*QUALITY[:4], CE, *QUALITY[4:])
    return sweep.experiment("The gate of the states", runs, plan, about=ABOUT, plots=plots, columns=columns, sentence=sentence)


def sentence(found: Found, sweep: Sweep, run: str) -> str:
    """What the gate does to a run."""
    table, (best, gain) = sweep.table(run), sweep.best(found, run)
    said = f"{run}: with the learned gate {table.text(found, '1', GAIN)} dB over copying and {table.text(found, '1', STATES)} dB "
    said += "over permuted states"
    if "0" in table.rows:
        said += f", without it {table.text(found, '0', GAIN)} and {table.text(found, '0', STATES)}"
    return f"{said}; best at {best} ({gain})."
