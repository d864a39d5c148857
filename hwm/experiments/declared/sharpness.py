"""PSNR without loss of sharpness: what to make of samples, and an objective of ours for one prediction (open question 2).

Averaging samples gains PSNR and loses sharpness.  The goal here: the PSNR of the mean at the sharpness of one sample, where the
samples agree.  Beside medoid and blend of an ensemble stand single predictions learned with `edge_loss`, which counts the error
of gradient magnitudes as well as that of pixels (ours).
"""

from dataclasses import dataclass, replace
from typing import Annotated

from hwm.config import CountOrNone
from hwm.evaluate.protocols import ONE_SAMPLE, STILL, SURE_SHARPNESS, Scoring, mean_of
from hwm.experiments.compare import THIS, Column
from hwm.experiments.experiment import Experiment, Found, Plan, Train
from hwm.experiments.sweep import LOOKS, SHARPNESS, Sweep, configs_of, trainings
from hwm.work.ranges import Range

PSNR, SURE = Column("PSNR, dB", row=THIS), Column("sharpness where sure", SURE_SHARPNESS, row=THIS)
COLUMNS = (PSNR, Column("over copying, dB", row=THIS, over="copy"), SURE, *(replace(column, row=THIS) for column in LOOKS))
ALLOWED_DB, ALLOWED_SHARE = 0.1, 0.95
"""The goal: at most so much less PSNR than the mean, at this share of one sample's sharpness where the samples agree (ours)."""
ABOUT = (
    "The frame that the sampling track scores. Sharpness is gradient energy over the truth's, where sure: over the half of each "
    "picture's pixels in which the samples differ least; blur and tolerance of the blend are chosen on clips that are not scored."
)


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = ("wan-tiny",)
    """Models whose samples are averaged (`hwm recipes`)."""
    direct: str = "direct-tiny"
    """The recipe that is trained with and without the objective."""
    edge_losses: Annotated[tuple[float, ...], Range(0, 1e6, above=True)] = (0.1, 0.5)
    """Weights of the error of gradient magnitudes."""
    clips: CountOrNone = 48
    """Clips to score on, from rooms never trained on; 0: all."""
    samples: Annotated[int, Range(2, 10_000)] = 20
    """Samples of an ensemble."""


def declare(plan: Options) -> Experiment:
    """A scoring a run, of which each way to make a picture is a row."""
    plain, n = Train(plan.direct), plan.samples
    edged = [Train(plan.direct, (f"model.edge_loss={weight:g}",)) for weight in plan.edge_losses]
    runs = trainings(*map(Train, plan.recipes), plain, *edged)
    ways = {"one sample": ONE_SAMPLE, f"mean of {n}": mean_of(n), "medoid": f"medoid of {n}", "blend": f"blend of {n}",
            "temperature 0": STILL}  # fmt: skip
    scoring = Scoring(protocol="sampling", members=(1, n), tuning_clips=plan.tuning_clips)
    values = {run: dict.fromkeys(ways, scoring) if config.model.kind != "video" else {"frame": replace(scoring, members=(1,))}
              for run, config in configs_of(runs).items()}  # fmt: skip
    sweep = Sweep("sharpness", "picture", values, ways | {"frame": ONE_SAMPLE})

    def sentence(found: Found, sweep: Sweep, run: str) -> str:
        table, direct = sweep.table(run), sweep.table(plain.label)
        if "frame" not in table.rows:
            return of_ensemble(run, *(table.number(found, label, column) for column in (PSNR, SURE) for label in list(ways)[:4]))
        if run == plain.label:
            return ""
        sharp, by = replace(SHARPNESS, row=THIS), table.number(found, "frame", PSNR) - direct.number(found, "frame", PSNR)
        gmsd = [t.number(found, "frame", replace(LOOKS[1], row=THIS)) for t in (table, direct)]
        share = [t.number(found, "frame", sharp) for t in (table, direct)]
        return (
            f"{run}: {by:+.2f} dB against {plain.label} at a sharpness of {share[0]:.3f} instead of {share[1]:.3f} and a GMSD of "
            f"{gmsd[0]:.3f} instead of {gmsd[1]:.3f}."
        )

    plots = {"PSNR of every picture against sharpness and GMSD": lambda found: against(found, sweep)}
    return sweep.experiment(
        "PSNR without loss of sharpness", runs, plan, about=ABOUT, plots=plots, columns=COLUMNS, sentence=sentence
    )


def against(found: Found, sweep: Sweep) -> bytes:
    """A point for every picture of every run."""
    from hwm.evaluate.page.plots import Panel, draw

    panels = []
    for column in (replace(column, row=THIS) for column in LOOKS[:2]):
        tables = {run: sweep.table(run) for run in sweep.values}
        points = {f"{run}: {label}": [(table.number(found, label, column), table.value(found, label, PSNR))]
                  for run, table in tables.items() for label in table.rows}  # fmt: skip
        panels.append(Panel("", column.title, PSNR.title, {name: [(x, y) for x, y in own if y] for name, own in points.items()}))
    return draw(panels, height=4.2)


def of_ensemble(run: str, *numbers: float) -> str:
    """Whether the blend reaches the goal.  numbers: PSNR, then sharpness where sure, of one sample, mean, medoid and blend."""
    psnr, sure = numbers[:4], numbers[4:]
    reached = psnr[3] >= psnr[1] - ALLOWED_DB and sure[3] >= ALLOWED_SHARE * sure[0]
    return (
        f"{run}: the blend lies {psnr[3] - psnr[1]:+.2f} dB from the mean (one sample {psnr[0] - psnr[1]:+.2f}, medoid "
        f"{psnr[2] - psnr[1]:+.2f}), at a sharpness of {sure[3]:.3f} where the samples agree (one sample {sure[0]:.3f}, mean "
        f"{sure[1]:.3f}, medoid {sure[2]:.3f}), which {'reaches' if reached else 'misses'} the goal of at most {ALLOWED_DB} dB "
        f"below the mean at {ALLOWED_SHARE:.0%} of one sample's."
    )
