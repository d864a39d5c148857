"""What a model makes of the robot's states: true, neutral, another clip's, some frames late, one joint group at a time."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from hwm.config import CountOrNone
from hwm.evaluate.protocols import AUTOREGRESSIVE
from hwm.evaluate.scores import ALL_GRIDS, TOKENS
from hwm.experiments.compare import THIS, Column
from hwm.experiments.experiment import Experiment, Found, Plan, Train
from hwm.experiments.sweep import RECIPES, Sweep, configs_of, scoring_of, trainings
from hwm.work.ranges import Range

ABOUT = (
    "Every row is made from the same random numbers with other states. Late: each frame is given the state of k frames before. "
    "A group: of another segment's clip in these dimensions alone. Lost: what the true states are better by, paired over clips."
)
LOST = Column("lost, dB", row="control", over=THIS)
COLUMNS = (
    Column("PSNR, dB", row=THIS), LOST,
    Column("cross-entropy lost, nats", "cross-entropy", THIS, AUTOREGRESSIVE, reference=TOKENS, span=ALL_GRIDS),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = RECIPES
    """Which recipes to train (`hwm recipes`)."""
    clips: CountOrNone = 96
    """Clips to score on, from rooms never trained on; 0: all."""
    late: Annotated[tuple[int, ...], Range(1, 9999)] = (1, 2, 4, 8, 16)
    """Numbers of frames by which the states are late."""


def declare(plan: Options) -> Experiment:
    """One scoring a run, with all other states beside the true ones."""
    runs, late = trainings(*map(Train, plan.recipes)), {f"{k} late": f"late-{k}" for k in sorted(set(plan.late))}
    groups = {f"permuted: {name.replace('_', ' ')}": f"permuted:{name}" for name in groups_of(plan)}
    these = {"true": "control", "permuted": "permuted", "zeroed": "zeroed", **late, **groups}
    asked = (*late.values(), *groups.values())
    scorings = {run: scoring_of(config, plan, controls=asked) for run, config in configs_of(runs).items()}
    sweep = Sweep("states", "states", {run: dict.fromkeys(these, scoring) for run, scoring in scorings.items()}, these)
    plots: dict[str, Any] = {}
    if late:
        plots["PSNR lost against the frames by which states are late"] = sweep.all(labels=list(late)).curves("frames late", LOST)
    if groups:
        plots["PSNR lost by another clip's states, of all and of one group"] = sweep.all(labels=["permuted", *groups]).dots(LOST)
    how: dict[str, Any] = {"about": ABOUT, "plots": plots, "columns": COLUMNS}
    return sweep.experiment("What the states are worth", runs, plan, sentence=partial(sentence, [*late], [*groups]), **how)


def groups_of(plan: Plan) -> list[str]:
    """The groups of the robot's state by name."""
    from hwm.data.onex import read_robot
    from hwm.robot import EVE

    placed = sorted(plan.data.rglob("robot.toml")) if plan.data else []
    return list((read_robot(placed[0].parent) if placed else EVE).groups)


def sentence(late: list[str], groups: list[str], found: Found, sweep: Sweep, run: str) -> str:
    """What a run loses by what."""
    table = sweep.table(run)
    loss = table.value(found, "permuted", LOST)
    assert loss is not None
    said = f"{run} {'uses' if loss.low is not None and loss.low > 0 else 'is not shown to use'} its states: "
    said += f"with another clip's it loses {table.text(found, 'permuted', LOST)} dB"
    losses = {label: table.value(found, label, LOST) for label in late}
    if noticed := [label for label, value in losses.items() if value and value.low is not None and value.low > 0]:
        said += f", it is shown to lose where they are {noticed[0].split()[0]} or more frames late"
    if groups:
        most = max(groups, key=lambda label: table.number(found, label, LOST))
        said += f", and of the groups most by {most.partition(': ')[2]} ({table.text(found, most, LOST)} dB)"
    return f"{said}."
